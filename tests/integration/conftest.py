# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real engine and a real Traefik, which sees this test's containers and no others.

Images: VOICEFLEET_TRAEFIK_IMAGE and VOICEFLEET_BASE_IMAGE, else those that the role container_images built.
Every container and network bears the label vf.test=<id of this run> and is removed by its id at the end.
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import (
    ApiError,
    Snapshot,
    TraefikApi,
)
from gpu_host.host import GpuHost

SOCKET = "/var/run/docker.sock"
# Answers every request on a port; small and quick to start.
SERVER = (
    "import http.server as h\n"
    "class A(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        body = b'<!doctype html><p>a page</p>'\n"
    "        self.send_response(200); self.send_header('Content-Type', 'text/html')\n"
    "        self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)\n"
    "    def log_message(self, *args): pass\n"
    "h.ThreadingHTTPServer(('', %d), A).serve_forever()\n"
)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def _image(engine: docker.DockerClient, name: str) -> str:
    variable = f"VOICEFLEET_{name.upper()}_IMAGE"
    if os.environ.get(variable):
        return os.environ[variable]
    tags = [
        tag
        for image in engine.images.list(filters={"reference": f"voicefleet/{name}:*"})
        for tag in image.tags
    ]
    if not tags:
        pytest.fail(
            f"no image voicefleet/{name}:* on this engine: build it by `make images`, or set {variable}"
        )
    return str(tags[0])


@pytest.fixture(scope="session")
def traefik_image(engine: docker.DockerClient) -> str:
    return _image(engine, "traefik")


@pytest.fixture(scope="session")
def base_image(engine: docker.DockerClient) -> str:
    return _image(engine, "base")


class Traefik:
    """One Traefik container; C(api_url) is its insecure API on a port of the loopback."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.name = container.name
        self.refresh()

    def refresh(self) -> None:
        """Published ports, which a restart changes."""
        self.container.reload()
        self.ports = {
            key.split("/")[0]: f"127.0.0.1:{bound[0]['HostPort']}"
            for key, bound in self.container.attrs["NetworkSettings"]["Ports"].items()
            if bound
        }
        self.api_url = f"http://{self.ports.get('8080', '')}"

    def wait_for(self, condition: Callable[[Snapshot], bool], seconds: float = 30) -> Snapshot:
        """The first snapshot for which the condition holds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                have = TraefikApi(self.api_url).snapshot()
                if condition(have):
                    return have
            except ApiError:
                have = None
            if time.monotonic() > deadline:
                pytest.fail(f"Traefik did not come so far in {seconds} s: {have}")
            time.sleep(0.1)


class Lab:
    """Containers and networks of one test; what is made here is removed at its end, by id."""

    def __init__(self, engine: docker.DockerClient, traefik_image: str, base_image: str) -> None:
        self.engine, self.traefik_image, self.base_image = engine, traefik_image, base_image
        self.id = f"vft{uuid.uuid4().hex[:8]}"
        self.made: list[Any] = []
        self.networks: list[Any] = []

    def network(self, name: str) -> Any:
        network = self.engine.networks.create(f"{self.id}-{name}", labels={"vf.test": self.id})
        self.networks.append(network)
        return network

    def run(self, name: str, labels: dict[str, str], listen: int | None = None, **options: Any) -> Any:
        """A container that listens on a TCP port, or only sleeps."""
        program = "import signal; signal.pause()" if listen is None else SERVER % listen
        container = self.engine.containers.create(
            self.base_image,
            ["python3", "-I", "-S", "-c", program],  # without site: it starts in half the time
            name=f"{self.id}-{name}",
            labels={"vf.test": self.id, **labels},
            detach=True,
            **options,
        )
        self.made.append(container)
        container.start()
        return container

    def run_all(self, jobs: list[Callable[[], Any]]) -> None:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(job) for job in jobs]:
                done.result()

    def traefik(self, *arguments: str, dynamic: Path | None = None, **options: Any) -> Traefik:
        """A Traefik that sees the containers of this test only."""
        volumes = {SOCKET: {"bind": SOCKET, "mode": "ro"}}
        command = [
            "--api.insecure=true",
            "--log.format=json",
            "--entrypoints.web.address=:80",
            "--providers.docker.exposedbydefault=false",
            f"--providers.docker.constraints=Label(`vf.test`,`{self.id}`)",
            "--providers.providersthrottleduration=0.2s",
            *arguments,
        ]
        if dynamic:
            volumes[str(dynamic)] = {"bind": "/dynamic", "mode": "ro"}
            command.append("--providers.file.directory=/dynamic")
        container = self.engine.containers.create(
            self.traefik_image,
            command,
            name=f"{self.id}-traefik-{len(self.made)}",
            labels={"vf.test": self.id, "traefik.enable": "false"},
            volumes={**volumes, **options.pop("volumes", {})},
            ports=options.pop("ports", {"8080/tcp": ("127.0.0.1", None), "80/tcp": ("127.0.0.1", None)}),
            detach=True,
            **options,
        )
        self.made.append(container)
        container.start()
        return Traefik(container)

    def close(self) -> None:
        left: list[str] = []

        def remove(container: Any) -> None:
            try:
                container.remove(force=True, v=True)
            except docker.errors.NotFound:
                pass
            except docker.errors.APIError as error:
                left.append(str(error))

        self.run_all([functools.partial(remove, container) for container in self.made])
        for network in self.networks:
            try:
                network.remove()
            except docker.errors.APIError as error:
                left.append(str(error))
        assert not left, left


@pytest.fixture(scope="module")
def lab(engine: docker.DockerClient, traefik_image: str, base_image: str) -> Iterator[Lab]:
    made = Lab(engine, traefik_image, base_image)
    try:
        yield made
    finally:
        made.close()


# One card of the 24 GB class: two replicas.
RTX_4090 = {
    "uuid": "GPU-24000000-0000-4000-8000-000000000001",
    "name": "NVIDIA GeForce RTX 4090",
    "total": 24564,
    "reserved": 346,
}


@pytest.fixture(scope="session")
def gpu_host_of_all() -> Iterator[GpuHost]:
    made = GpuHost(f"vf-gpuhost-{uuid.uuid4().hex[:8]}")
    try:
        yield made.up({"cards": [RTX_4090]}, images=["base"], traefik=True)
    finally:
        made.down()


@pytest.fixture
def gpu_host(gpu_host_of_all: GpuHost) -> GpuHost:
    """A host with an engine, a card of 24 GB, image base and Traefik, and nothing else on it.

    Other cards by C(gpu_host.cards), other images by C(gpu_host.load).
    """
    gpu_host_of_all.clear()
    gpu_host_of_all.cards({"cards": [RTX_4090]})
    return gpu_host_of_all
