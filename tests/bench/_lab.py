# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Traefik of a benchmark's own, and replicas of the hard service (tests/support/hard_service) behind it.

Needs an engine with the images that role container_images built (or VOICEFLEET_TRAEFIK_IMAGE and
VOICEFLEET_BASE_IMAGE), and .collections and tests/support on PYTHONPATH, as scripts/bench has it. All that is
made bears the label vf.bench=<id of this run> and is removed by its id at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import ApiError, TraefikApi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_watch import TraefikWatch

SERVER = Path(__file__).resolve().parents[1] / "support/hard_service/server.py"
LABEL = "vf.bench"
PORT = 8000
SOCKET = "/var/run/docker.sock"
PATIENCE_SECONDS = 180.0
# Longer than any stream that a benchmark asks for.
STOP_TIMEOUT_SECONDS = 60


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait for it; ends the program if it does not come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"Not {what} in {PATIENCE_SECONDS:g} s")
        time.sleep(0.1)


def image(client: docker.DockerClient, name: str) -> str:
    """What the environment names, else what the demo's engine has; ends the program if it has none."""
    if found := os.environ.get(f"VOICEFLEET_{name.upper()}_IMAGE"):
        return found
    for each in client.images.list(filters={"reference": f"voicefleet/{name}:*"}):
        return str(each.tags[0])
    sys.exit(f"There is no image voicefleet/{name}:* on this engine. Build it with: make images")


class Lab:
    """One Traefik, with the settings of role traefik that count here, which sees this run's containers only.

    C(data_dir) is the replicas' directory on the host, as /var/lib/voicefleet is.
    """

    def __init__(self, client: docker.DockerClient, data_dir: str) -> None:
        self.client, self.data_dir = client, data_dir
        self.id = f"vfb{uuid.uuid4().hex[:8]}"
        self.base_image = image(client, "base")
        self.traefik = client.containers.create(
            image(client, "traefik"),
            [
                "--api.insecure=true",
                "--entrypoints.web.address=:80",
                "--providers.docker.exposedbydefault=false",
                f"--providers.docker.constraints=Label(`{LABEL}`,`{self.id}`)",
                "--providers.providersthrottleduration=100ms",
            ],
            name=f"{self.id}-traefik",
            labels={LABEL: self.id, "traefik.enable": "false"},
            volumes={SOCKET: {"bind": SOCKET, "mode": "ro"}},
            ports={"80/tcp": ("127.0.0.1", None), "8080/tcp": ("127.0.0.1", None)},
            detach=True,
        )

    def start(self) -> None:
        """Traefik, and wait until it answers."""
        self.traefik.start()
        self.traefik.reload()
        self.url, api_url = (
            f"http://127.0.0.1:{self.traefik.ports[port][0]['HostPort']}" for port in ("80/tcp", "8080/tcp")
        )
        self.watch = TraefikWatch(TraefikApi(api_url))
        until("an answer of Traefik's API", lambda: self.listing("http://none") is not None)

    def listing(self, url: str) -> dict[str, str] | None:
        """Traefik's services that send callers to C(url); None without an answer of its API."""
        with contextlib.suppress(ApiError):
            return self.watch.listing(url)
        return None

    def config(
        self,
        service: str,
        number: int,
        revision: str,
        environment: Mapping[str, str],
        load_balancer: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Of one replica, as role gpu_service has it made; C(load_balancer) are options of its service."""
        return self.config_of(
            service, number, self.specification(service, revision, environment, load_balancer)
        )

    def specification(
        self,
        service: str,
        revision: str,
        environment: Mapping[str, str],
        load_balancer: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Of a replica of the hard service."""
        router, server = "traefik.http.routers", "traefik.http.services"
        options = {"server.port": str(PORT), "strategy": "p2c", **(load_balancer or {})}
        return {
            "image": self.base_image,
            "revision": revision,
            "command": ["python3", "-I", "-S", "/server.py"],
            "entrypoint": [],
            "environment": {"REPLICA": "{replica}", "REVISION": revision, **environment},
            "mounts": [{"source": str(SERVER), "target": "/server.py", "read_only": True}],
            "outputs_target": "/outputs",
            "port": PORT,
            "network": "bridge",
            "labels": {
                LABEL: self.id,
                "traefik.enable": "true",
                f"{router}.{service}.rule": f"Host(`{service}.example.org`)",
                f"{router}.{service}.service": service,
                **{f"{server}.{service}.loadbalancer.{key}": value for key, value in options.items()},
                f"{router}.{{replica}}.rule": "Host(`{replica}.replica.internal`)",
                f"{router}.{{replica}}.service": "{replica}",
                f"{server}.{{replica}}.loadbalancer.server.port": str(PORT),
            },
            "health": {
                "test": ["CMD", "python3", "-I", "-S", "/server.py", "healthcheck"],
                "interval_seconds": 1,
                "timeout_seconds": 10,
                "retries": 1,
                "start_period_seconds": PATIENCE_SECONDS,
            },
            "user": "10001",
            "capabilities": [],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},
            "shm_size_mib": 64,
            "memory_mib": 0,
            "stop_timeout_seconds": STOP_TIMEOUT_SECONDS,
        }

    def config_of(self, service: str, number: int, specification: dict[str, Any]) -> dict[str, Any]:
        """What the container of one replica is created from; its directories are made."""
        slot = Slot(None, number - 1)
        image_id = _replica.image_id(self.client, specification["image"])
        config = spec.container_config(service, number, slot, specification, image_id, self.data_dir)
        directories = spec.replica_directories(self.data_dir, service, config["name"], slot.key)
        _replica.make_directories(directories, config["user"])
        return config

    def run(self, config: dict[str, Any]) -> str:
        """Create and start, and wait for nothing; answers the id."""
        container_id = _replica.create(self.client, config)
        _replica.start(self.client, container_id)
        return container_id

    def wait_serving(self, service: str, revision: str, replicas: int) -> None:
        """Until so many containers of that revision are healthy and Traefik sends callers to each."""

        def serving() -> bool:
            seen = self.client.api.containers(
                filters={
                    "label": [f"{spec.LABEL_SERVICE}={service}", f"{spec.LABEL_REVISION}={revision}"],
                    "health": "healthy",
                }
            )
            urls = [
                f"http://{each['NetworkSettings']['Networks']['bridge']['IPAddress']}:{PORT}" for each in seen
            ]
            return len(urls) == replicas and all(
                (self.listing(url) or {}).get(f"{service}@docker") == "UP" for url in urls
            )

        until(f"{replicas} replicas of {service} revision {revision} in Traefik", serving)

    def remove(self, service: str = "") -> None:
        """The service's containers, without ado; all of this run if none is named."""
        labels = [f"{LABEL}={self.id}", *([f"{spec.LABEL_SERVICE}={service}"] if service else [])]
        for seen in self.client.api.containers(all=True, filters={"label": labels}):
            _replica.remove(self.client, seen["Id"])


@contextmanager
def lab() -> Iterator[Lab]:
    """A lab while inside; ends the program if no engine answers. SIGTERM tidies up as well."""
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit("Terminated"))
    try:
        client = docker.from_env(timeout=int(PATIENCE_SECONDS))
        client.ping()
    except docker.errors.DockerException as error:
        sys.exit(f"No Docker Engine answers here: {error}")
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        made = Lab(client, scratch)
        try:
            made.start()
            yield made
        finally:
            made.remove()
