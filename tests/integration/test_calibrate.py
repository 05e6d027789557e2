# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One replica measured on a made-up card, and the figure in the host's variables.

The hard service on the stand-in GPU host holds more of the card the longer and the more streams it has in hand, and
lets go of it when they end: only who looks meanwhile sees the most there was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from gpu_host.host import ROOT, GpuHost, HostError

SUPPORT = Path(__file__).parents[1] / "support"
PLAYBOOK = SUPPORT / "hard_service/playbook.yml"
SERVER = "/opt/hard/server.py"  # on the host
CARD = "GPU-24000000-0000-4000-8000-000000000001"
SMALL = "GPU-12000000-0000-4000-8000-000000000002"
RTX_4090 = {"uuid": CARD, "name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346}
RTX_3060 = {"uuid": SMALL, "name": "NVIDIA GeForce RTX 3060", "total": 12288, "reserved": 230}
# Held when loaded, and for each second of a stream: the most is 4000 + 2 x 3 x 100.
LOADED_MIB, PEAK_MIB, INSTANCE_MIB = 4000, 4600, 5120
REQUESTS = [
    {"name": "a short one", "path": "/stream?seconds=1", "method": "POST"},
    {"name": "a long one", "path": "/stream?seconds=3", "method": "POST"},
]


class Fleet:
    """The hard service on the host, and the host's variables beside its inventory."""

    def __init__(self, host: GpuHost) -> None:
        self.host = host
        self.folder = ROOT / ".work" / host.name / "host_vars"
        self.own = self.folder / host.name
        self.file = self.own / "calibration.yml"

    def run(self, part: str = "calibrate", *options: str, **variables: Any) -> str:
        given = {
            "part": part,
            "ansible_become": False,  # it is root, and the host has no sudo
            "hard_image": self.host.images["base"],
            "hard_start_seconds": 1,
            "gpu_service_device": "gpu",
            "gpu_service_mounts": [{"source": SERVER, "target": "/server.py"}],
            "hard_gpu_file": "/tmp/gpu-mib",
            "gpu_service_calibration_requests": REQUESTS,
            "gpu_service_calibration_at_once": [1, 2],
            **variables,
        }
        return self.host.playbook(PLAYBOOK, *options, **given)

    def left(self) -> list[str]:
        return [one["Name"] for one in self.host.containers("label=voicefleet.service=hard")]


@pytest.fixture
def fleet(gpu_host: GpuHost) -> Iterator[Fleet]:
    gpu_host.copy(SUPPORT / "hard_service/server.py", SERVER)
    made = Fleet(gpu_host)
    yield made
    for path in sorted(made.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_it_measures_writes_and_leaves_nothing(fleet: Fleet) -> None:
    since = time.time()
    print(said := fleet.run())
    assert yaml.safe_load(fleet.file.read_text()) == {"gpu_service_instance_mib": INSTANCE_MIB}
