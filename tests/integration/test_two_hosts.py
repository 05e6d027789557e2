# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two stand-in GPU hosts, each with its own engine and Traefik, rolled one after the other."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu_host.host import GpuHost, HostError

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"
ONE_BY_ONE = SUPPORT / "hard_service/hosts.yml"
SERVER = "/opt/hard/server.py"  # on the hosts
CARD = {"name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346}


class Pair:
    """The hard service on both, two replicas each."""

    def __init__(self, first: GpuHost, second: GpuHost) -> None:
        self.first, self.second = first, second

    def run(self, revision: str, **variables: Any) -> str:
        """What the playbook printed; HostError if it failed."""
        inventory = json.dumps(self.first.inventory | {"second": self.second.inventory["gpu_hosts"]})
        both = json.loads(inventory)
        both["speech_hosts"]["children"]["second"] = {}
        folder = Path(__file__).parents[2] / ".work" / self.first.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "both.json").write_text(json.dumps(both), encoding="utf-8")
        given = {
            "ansible_become": False,  # it is root, and the hosts have no sudo
            "hard_image": self.first.images["base"],
            "hard_revision": revision,
            "hard_start_seconds": 0,
            "gpu_service_device": "gpu",
            "gpu_service_mounts": [{"source": SERVER, "target": "/server.py"}],
            "gpu_service_bake_seconds": 1,
            "gpu_service_soak_seconds": 0,
            "gpu_service_lock_expiry_seconds": 10,
            **variables,
        }
        return self.first.playbook(ONE_BY_ONE, "-i", str(folder / "both.json"), **given)

    def fails(self, revision: str, **variables: Any) -> str:
        with pytest.raises(HostError) as failed:
            self.run(revision, **variables)
        return str(failed.value)

    def revisions(self) -> list[list[str]]:
        """Of the replicas on each host, those that are there and not set aside or stopped."""
        told = []
        for host in (self.first, self.second):
            labels = '{{.Names}} {{.Label "voicefleet.revision"}} {{.Status}}'
            listed = host.docker(
                "ps", "--all", "--filter", "label=voicefleet.service=hard", "--format", labels
            )
            lines = sorted(line.split(maxsplit=2) for line in listed.splitlines())
            assert [line[0] for line in lines] == ["hard-1", "hard-2"], lines
            assert all("(healthy)" in line[2] for line in lines), lines
            told.append([line[1] for line in lines])
        return told


@pytest.fixture(scope="module")
def pair(gpu_host_of_all: GpuHost) -> Iterator[Pair]:
    gpu_host_of_all.clear()
    second = GpuHost(f"vf-gpuhost-{uuid.uuid4().hex[:8]}")
    try:
        second.up({"cards": [{"uuid": str(uuid.uuid4()), **CARD}]}, images=["base"], traefik=True)
        for number, host in enumerate((gpu_host_of_all, second)):
            host.cards({"cards": [{"uuid": f"GPU-{number}0000000-0000-4000-8000-000000000001", **CARD}]})
            host.copy(SUPPORT / "hard_service/server.py", SERVER)
        made = Pair(gpu_host_of_all, second)
        made.run("1")
        yield made
    finally:
        second.down()
        gpu_host_of_all.clear()


def test_one_after_the_other_and_what_follows_a_failure(pair: Pair) -> None:
    assert pair.revisions() == [["1", "1"], ["1", "1"]]
    out = pair.run("2")
    assert pair.revisions() == [["2", "2"], ["2", "2"]]
    # The first host's last word comes before the second host's first.
    assert out.rindex(f"hard on {pair.first.name}") < out.index(f"[{pair.second.name}] hard-1")

    bad = {"hard_fault": "dies_at_start", "hard_fault_on": pair.second.name}
    said = pair.fails("3", **bad)
    assert "no memory left for the model" in said
    assert pair.revisions() == [["3", "3"], ["2", "2"]]

    pair.run("2")
    said = pair.fails("4", gpu_service_on_failure="revert", **bad)
    assert "no memory left for the model" in said
    assert pair.revisions() == [["2", "2"], ["2", "2"]]


def test_a_failure_on_the_first_spares_the_second(pair: Pair) -> None:
    before = pair.revisions()
    said = pair.fails("5", hard_fault="dies_at_start", hard_fault_on=pair.first.name)
    assert f"[{pair.second.name}] hard-1" not in said
    assert pair.revisions() == before
