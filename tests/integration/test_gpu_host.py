# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in for a GPU host keeps its word: what containers hold is counted, and no card is over-filled."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gpu_host.host import GpuHost, HostError

pytestmark = pytest.mark.slow

CARD = "GPU-24000000-0000-4000-8000-000000000001"
OTHER = "GPU-12000000-0000-4000-8000-000000000002"
RTX_4090 = {"uuid": CARD, "name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346}
RTX_3060 = {"uuid": OTHER, "name": "NVIDIA GeForce RTX 3060", "total": 12288, "reserved": 230}
SLEEPS = ("python3", "-ISc", "import signal; signal.pause()")


def start(
    host: GpuHost, name: str, *options: str, card: str = CARD, command: tuple[str, ...] = SLEEPS
) -> str:
    gpus = f'"device={card}"'
    image = host.images["base"]
    return host.docker("run", "--detach", "--name", name, "--gpus", gpus, *options, image, *command).strip()


def used(host: GpuHost, card: str = CARD) -> int:
    figures = json.loads(host.run("gpu-samples", "now"))["cards"][card]
    return int(figures[0])


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.1)
    return result


def refusal(host: GpuHost, name: str, *options: str, card: str = CARD) -> str:
    with pytest.raises(HostError) as refused:
        start(host, name, *options, card=card)
    host.docker("rm", "--force", name)
    return str(refused.value)


def test_memory_is_held_from_start_to_end(gpu_host: GpuHost) -> None:
    start(gpu_host, "first")
    start(gpu_host, "second", "--env", "VOICEFLEET_STAND_IN_GPU_MIB=9000")
    asked = gpu_host.run(
        "nvidia-smi", "--query-gpu=uuid,memory.used,memory.free", "--format=csv,noheader,nounits"
    )
    assert asked == f"{CARD}, 17192, 7026\n"

    seen = gpu_host.run("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    pids = {one["Name"].lstrip("/"): one["State"]["Pid"] for one in gpu_host.containers()}
    assert sorted(seen.splitlines()) == sorted([f"{pids['first']}, 8192", f"{pids['second']}, 9000"])

    gpu_host.docker("kill", "second")
    wait_for(lambda: used(gpu_host) == 8192)
    gpu_host.docker("start", "second")
    assert used(gpu_host) == 17192
    assert gpu_host.overfilled() == []
    assert [one["name"] for one in gpu_host.starts()] == ["first", "second", "second"]


def test_of_two_that_start_at_once_for_the_last_of_a_card_one_is_refused(gpu_host: GpuHost) -> None:
    start(gpu_host, "first")

    def try_it(name: str) -> str:
        try:
            return start(gpu_host, name) and ""
        except HostError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        words = list(pool.map(try_it, ["second", "third", "fourth"]))
    assert sorted("CUDA out of memory" in one for one in words) == [False, True, True]
    assert used(gpu_host) == 16384
    assert [one["used_mib"] for one in gpu_host.overfilled()] == [16384, 16384]


def test_memory_that_is_freed_late_is_in_the_way_until_then(gpu_host: GpuHost) -> None:
    gpu_host.cards({"cards": [RTX_4090], "faults": [{"on": "end", "late_free_seconds": 600}]})
    start(gpu_host, "old", "--env", "VOICEFLEET_STAND_IN_GPU_MIB=20000")
    gpu_host.docker("rm", "--force", "old")
    assert "CUDA out of memory" in refusal(gpu_host, "new")
    gpu_host.cards({"cards": [RTX_4090]})
    wait_for(lambda: used(gpu_host) == 0)
    start(gpu_host, "new")


def test_faults(gpu_host: GpuHost) -> None:
    lost = {**RTX_3060, "lost": True}
    gpu_host.cards(
        {
            "cards": [RTX_4090, lost],
            "faults": [{"on": "start", "card": CARD, "out_of_memory": True, "times": 1}],
        }
    )
    assert "CUDA out of memory" in refusal(gpu_host, "first")
    start(gpu_host, "first")
    assert "gpu is lost" in refusal(gpu_host, "second", card=OTHER)
    assert "unknown device" in refusal(gpu_host, "third", card="GPU-9")
    assert gpu_host.overfilled() == []  # refused for another reason

    gpu_host.cards({"cards": [RTX_4090], "faults": [{"on": "any", "named": "version_mismatch"}]})
    assert "driver/library version mismatch" in refusal(gpu_host, "fourth")
    with pytest.raises(HostError, match=r"ended with 18(.|\n)*Driver/library version mismatch"):
        gpu_host.run("nvidia-smi", "-q", "-x")


def test_over_filling_that_is_let_happen_is_seen_in_the_samples(gpu_host: GpuHost) -> None:
    gpu_host.cards({"cards": [RTX_3060], "enforce": False})
    start(gpu_host, "first", card=OTHER)
    start(gpu_host, "second", card=OTHER)
    wait_for(lambda: any("cards" in one for one in gpu_host.overfilled()))
    assert [one["name"] for one in gpu_host.overfilled() if "name" in one] == ["second"]


def test_traefik_is_up_and_finds_containers(gpu_host: GpuHost) -> None:
    labels = [
        "traefik.enable=true",
        "traefik.docker.network=voicefleet",
        "traefik.http.routers.page.rule=Host(`page.example.org`)",
        "traefik.http.routers.page.entrypoints=web",
        "traefik.http.services.page.loadbalancer.server.port=8000",
    ]
    start(
        gpu_host,
        "page",
        "--network=voicefleet",
        *(f"--label={label}" for label in labels),
        command=("python3", "-ISm", "http.server", "8000"),
    )
    request = urllib.request.Request(f"http://{gpu_host.address}/", headers={"Host": "page.example.org"})

    def answer() -> int | None:
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return int(response.status)
        except OSError:  # HTTPError too: 404 until Traefik knows the route
            return None

    assert wait_for(answer) == 200
