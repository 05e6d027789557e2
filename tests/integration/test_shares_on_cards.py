# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas that share a card by MPS, when their shares change: no card over-filled, no caller lost.

The hard service on the stand-in GPU host, whose MPS daemon is the real one of Debian. The stand-in takes a
client to fill its memory limit, refuses what does not fit, and tells ten times a second what the card holds.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from gpu_host.host import GpuHost, HostError
from invariants import Watch, list_containers
from open_load import OpenLoad

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"
SERVER = "/opt/hard/server.py"  # on the host
CARD = "GPU-48000000-0000-4000-8000-000000000048"
RTX_6000_ADA = {"uuid": CARD, "name": "NVIDIA RTX 6000 Ada Generation", "total": 49140, "reserved": 630}
USABLE = 48510


class Fleet:
    """The hard service on the shared card."""

    def __init__(self, host: GpuHost) -> None:
        self.host = host
        state = docker.from_env().api.inspect_container(host.name)["State"]
        self.client = docker.DockerClient(base_url=f"unix:///proc/{state['Pid']}/root/run/docker.sock")

    def share(self, **variables: Any) -> str:
        return self.host.playbook(SUPPORT / "gpu_host/sharing.yml", **variables)

    def run(self, replicas: int, mib: int, **variables: Any) -> str:
        given = {
            "ansible_become": False,  # it is root, and the host has no sudo
            "hard_image": self.host.images["base"],
            "hard_replicas": replicas,
            "hard_start_seconds": 1,
            "gpu_service_device": "gpu",
            "gpu_service_instance_mib": mib,
            "gpu_service_mounts": [{"source": SERVER, "target": "/server.py"}],
            "gpu_service_bake_seconds": 1,
            "gpu_service_soak_seconds": 0,
            **variables,
        }
        return self.host.playbook(SUPPORT / "hard_service/playbook.yml", **given)

    def shares(self) -> list[tuple[str, str]]:
        """Threads and memory limit of each replica, as its container was made with."""
        found = []
        for one in self.host.containers("label=voicefleet.service=hard"):
            environment = dict(each.partition("=")[::2] for each in one["Config"]["Env"])
            assert one["HostConfig"]["IpcMode"] == "host"
            found.append(
                (
                    environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"],
                    environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"],
                )
            )
        return sorted(found)


@pytest.fixture(scope="module")
def fleet(gpu_host_of_all: GpuHost) -> Iterator[Fleet]:
    gpu_host_of_all.clear()
    gpu_host_of_all.cards({"cards": [RTX_6000_ADA]})
    gpu_host_of_all.copy(SUPPORT / "hard_service/server.py", SERVER)
    made = Fleet(gpu_host_of_all)
    made.share(gpu_sharing_mps=True)
    yield made
    gpu_host_of_all.clear()
    made.share(part="absent")


def test_smaller_shares_are_dealt_out_before_another_replica_comes(fleet: Fleet) -> None:
    fleet.run(2, 23000)
    assert fleet.shares() == [("50", "0=23000M")] * 2
    since = time.time()
    watch = Watch("hard", floor=1, slots=3, in_transition=1, versions=("1",), client=fleet.client)
    url = f"http://{fleet.host.address}"
    with watch, OpenLoad(url, 3.0, host="hard.example.org", lengths={1: 2, 2: 1}) as load:
        load.wait_until(3)
        print(fleet.run(3, 15000))
        load.wait_for_more(5)
    report, samples, starts = load.report(), fleet.host.samples(since), fleet.host.starts(since)
    held = [sample["cards"][CARD][0] for sample in samples]
    print(
        report, *map(json.dumps, starts), *((mib, len(list(them))) for mib, them in itertools.groupby(held))
    )
    assert fleet.shares() == [("33", "0=15000M")] * 3
    assert fleet.host.overfilled(since) == []
    assert [start["refused"] for start in starts] == [""] * 3
    assert [start["name"] for start in starts] == ["hard-1", "hard-2", "hard-3"]
    assert {start["mps"]["wrong"] for start in starts} == {""}
    assert len(samples) > time.time() - since  # of ten a second
    # Two large ones before, each replaced in its place, and the third only then.
    assert [mib for mib, _them in itertools.groupby(held)] == [46000, 23000, 38000, 15000, 30000, 45000]
    watch.assert_held(report.outcomes)
    report.assert_lossless(at_least=15)
    assert len(list_containers(fleet.client, "hard")) == 3


def test_a_replica_is_measured_as_a_client_without_a_limit(fleet: Fleet, tmp_path: Path) -> None:
    fleet.host.cards({"cards": [RTX_6000_ADA], "default_mib": 2000})
    since = time.time()
    asked = {"name": "a second", "path": "/stream?seconds=1"}
    print(
        fleet.run(
            3,
            15000,
            part="calibrate",
            gpu_service_calibration_gpu="0",
            gpu_service_calibration_requests=[asked],
            gpu_service_calibration_dir=str(tmp_path),
        )
    )
    (start,) = fleet.host.starts(since)
    assert (start["name"], start["refused"]) == ("hard-calibration", "")
    assert start["mps"] == {"threads": "100", "memory": None, "uid": 10001, "wrong": ""}
    written = (tmp_path / "host_vars" / fleet.host.name / "calibration.yml").read_text(encoding="utf-8")
    assert "gpu_service_instance_mib: 2304\n" in written
    assert len(list_containers(fleet.client, "hard")) == 3


def test_a_daemon_that_is_gone_is_told_before_a_replica_is_touched(fleet: Fleet) -> None:
    before = [one["Id"] for one in fleet.host.containers("label=voicefleet.service=hard")]
    fleet.host.run("systemctl", "stop", "voicefleet-mps")
    try:
        with pytest.raises(HostError, match="its daemon does not answer"):
            fleet.run(3, 14000)
    finally:
        fleet.host.run("systemctl", "start", "voicefleet-mps")
    assert [one["Id"] for one in fleet.host.containers("label=voicefleet.service=hard")] == before
