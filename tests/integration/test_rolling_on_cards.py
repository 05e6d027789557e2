# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts on a card: no start and no moment may over-fill it, and no caller may notice.

The hard service, two replicas by role gpu_service, on the stand-in GPU host: its own engine, its own Traefik,
a made-up card that refuses what does not fit and tells ten times a second what it holds. A card of 24 GB has
room for two and never for a third; on one of 48 GB the successor comes first.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from gpu_host.host import GpuHost, HostError
from invariants import Container, Watch, list_containers
from open_load import OpenLoad, Report
from open_load_sender import Outcome
from patience import until

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"
PLAYBOOK = SUPPORT / "hard_service/playbook.yml"
SERVER = "/opt/hard/server.py"  # on the host
SERVICE, HOST = "hard", "hard.example.org"
CARD = "GPU-24000000-0000-4000-8000-000000000001"
RTX_4090 = {"uuid": CARD, "name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346}
# The same UUID: what runs there goes on running while its card grows.
RTX_6000_ADA = {"uuid": CARD, "name": "NVIDIA RTX 6000 Ada Generation", "total": 49140, "reserved": 630}
REPLICAS, MIB = 2, 8192
RATE_PER_SECOND = 3.0
LENGTHS = {1: 2, 2: 1, 3: 1}
LATE_SECONDS = 3
WAITS_FOR_MEMORY = f"start: waiting for {MIB} MiB of "


def was_refused(outcome: Outcome, begin: float, end: float) -> bool:
    """The connection itself, at a time when there was no such port."""
    return outcome.reason.startswith("ConnectionRefusedError") and begin <= outcome.ended <= end


class Fleet:
    """The hard service on the host's card."""

    def __init__(self, host: GpuHost) -> None:
        self.host = host
        # The engine's socket, by way of the host's first process: the host offers none to this machine.
        state = docker.from_env().api.inspect_container(host.name)["State"]
        self.client = docker.DockerClient(base_url=f"unix:///proc/{state['Pid']}/root/run/docker.sock")

    def run(self, *options: str, **variables: Any) -> str:
        """What the playbook printed; HostError if it failed."""
        given = {
            "ansible_become": False,  # it is root, and the host has no sudo
            "hard_image": self.host.images["base"],
            "hard_replicas": REPLICAS,
            "hard_start_seconds": 2,
            "gpu_service_device": "gpu",
            "gpu_service_instance_mib": MIB,
            "gpu_service_mounts": [{"source": SERVER, "target": "/server.py"}],
            "gpu_service_bake_seconds": 1,
            "gpu_service_soak_seconds": 0,
            "gpu_service_lock_expiry_seconds": 10,
            **variables,
        }
        return self.host.playbook(PLAYBOOK, *options, **given)

    def containers(self) -> tuple[Container, ...]:
        return list_containers(self.client, SERVICE)

    def slots(self) -> dict[str, str]:
        """Of every container, by its id."""
        listed = self.client.api.containers(all=True, filters={"label": f"voicefleet.service={SERVICE}"})
        return {seen["Id"]: seen["Labels"]["voicefleet.slot"] for seen in listed}

    def has(self, revision: str) -> bool:
        """All replicas, ready, of this revision, and nothing beside them."""
        found = [(each.name, each.revision, each.ready) for each in self.containers()]
        return found == [(f"{SERVICE}-{number}", revision, True) for number in range(1, REPLICAS + 1)]

    def runs(self, revision: str) -> bool:
        """Any replica of it."""
        return any(each.revision == revision and each.running for each in self.containers())

    def bring(self, revision: str) -> None:
        """To a fleet of this revision on the card of 24 GB, whatever the test before has left."""
        if not self.has(revision) or set(self.slots().values()) != {f"{CARD}/0", f"{CARD}/1"}:
            self.run(part="absent", gpu_service_keep_data=False)
            self.run(hard_revision=revision, hard_start_seconds=0)
        assert self.has(revision), self.containers()

    @contextmanager
    def under_load(
        self,
        *versions: str,
        floor: int = REPLICAS - 1,
        most: int = REPLICAS,
        in_transition: int = 1,
        no_port: Sequence[float] = (),
    ) -> Iterator[Watch]:
        """Callers, the watch and the card's samples, from before until after what is done inside.

        No caller is lost, at least C(floor) replicas serve and at most C(most) run at every moment, and what
        was on the card always fitted. Between the two moments C(no_port), nobody may have listened.
        """
        since = time.time()
        watch = Watch(
            SERVICE,
            floor=floor,
            slots=most,
            in_transition=in_transition,
            versions=versions,
            client=self.client,
        )
        url = f"http://{self.host.address}"
        with watch, OpenLoad(url, RATE_PER_SECOND, host=HOST, lengths=LENGTHS) as load:
            load.wait_until(5)
            yield watch
            load.wait_for_more(10)
        report = load.report()
        accepted = [one for one in report.outcomes if not (no_port and was_refused(one, *no_port))]
        samples, starts = self.host.samples(since), self.host.starts(since)
        held = [sample["cards"][CARD][0] for sample in samples]
        print(report, watch, *watch.story(), *map(json.dumps, starts), sep="\n")
        print(
            *(f"{MIB * round(used / MIB)} MiB x {len(list(them))}" for used, them in itertools.groupby(held))
        )
        assert self.host.overfilled(since) == []
        assert [start for start in starts if start["refused"]] == []
        assert len(samples) > time.time() - since  # of ten a second
        assert max(held) <= most * MIB
        watch.assert_held(accepted)
        Report(accepted, report.sent - len(report.outcomes) + len(accepted)).assert_lossless(at_least=15)


@pytest.fixture(scope="module")
def fleet(gpu_host_of_all: GpuHost) -> Iterator[Fleet]:
    gpu_host_of_all.clear()
    gpu_host_of_all.copy(SUPPORT / "hard_service/server.py", SERVER)
    yield Fleet(gpu_host_of_all)
    gpu_host_of_all.clear()


@pytest.fixture(autouse=True)
def card(fleet: Fleet) -> None:
    fleet.host.cards({"cards": [RTX_4090], "default_mib": MIB})


def frees_late(fleet: Fleet) -> None:
    """From now on the driver takes its time to give back what a process had."""
    late = [{"on": "end", "late_free_seconds": LATE_SECONDS}]
    fleet.host.cards({"cards": [RTX_4090], "default_mib": MIB, "faults": late})


def test_an_upgrade_on_a_full_card(fleet: Fleet) -> None:
    fleet.bring("1")
    before = fleet.slots()
    with fleet.under_load("1") as watch:
        watch.expect("1", "2")
        fleet.run(hard_revision="2")
        watch.expect("2")
    assert fleet.has("2"), fleet.containers()
    assert sorted(fleet.slots().values()) == sorted(before.values())
    assert set(fleet.slots()).isdisjoint(before)


def test_an_upgrade_waits_for_memory_that_is_freed_late(fleet: Fleet) -> None:
    fleet.bring("2")
    frees_late(fleet)
    with fleet.under_load("2") as watch:
        watch.expect("2", "3")
        out = fleet.run(hard_revision="3")
        watch.expect("3")
    assert out.count(WAITS_FOR_MEMORY) >= REPLICAS, out
    assert fleet.has("3"), fleet.containers()


def test_a_failed_upgrade_waits_for_the_newcomers_memory_too(fleet: Fleet) -> None:
    """It is not one that dies by itself: that the engine starts again at once, and asks no card before."""
    fleet.bring("3")
    before = fleet.slots()
    frees_late(fleet)
    with fleet.under_load("3"), pytest.raises(HostError) as failed:
        fleet.run(hard_revision="9", hard_fault="wrong_version")
    told = str(failed.value)
    assert "9-wrong" in told
    assert told.index("9-wrong") < told.rindex(WAITS_FOR_MEMORY)
    assert fleet.has("3"), fleet.containers()
    assert fleet.slots() == before


def test_the_engine_restarts_during_an_upgrade(fleet: Fleet) -> None:
    """With live-restore: what was accepted is answered whole, by replicas and a Traefik that live on.

    While it is away and until it has laid down its rules for packets anew, Traefik's published port is
    closed: who begins a connection in that second or two is refused. Debian 12's engine forgets the health
    checks too, and the rollout gets them going again.
    """
    fleet.bring("3")
    away: list[float] = []
    # An engine that does not forget them begins anew and calls all replicas starting: so no floor.
    with (
        fleet.under_load("3", floor=0, in_transition=REPLICAS, no_port=away) as watch,
        ThreadPoolExecutor(1) as pool,
    ):
        watch.expect("3", "4")
        rollout = pool.submit(fleet.run, hard_revision="4")
        until("begun", lambda: rollout.done() or fleet.runs("4"))
        away.append(time.time())
        fleet.host.run("systemctl", "restart", "docker")
        away.append(time.time() + 1)
        assert not rollout.done()
        print(rollout.result())
        watch.expect("4")
    assert fleet.has("4"), fleet.containers()


def test_with_a_free_slot_the_successor_comes_first(fleet: Fleet) -> None:
    fleet.bring("4")
    fleet.host.cards({"cards": [RTX_6000_ADA], "default_mib": MIB})
    with fleet.under_load("4", floor=REPLICAS, most=REPLICAS + 1) as watch:
        watch.expect("4", "5")
        fleet.run(hard_revision="5")
        watch.expect("5")
    assert fleet.has("5"), fleet.containers()
    assert any(len(sample.containers) == REPLICAS + 1 for sample in watch.samples)
