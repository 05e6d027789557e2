# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts of a service that is hard to replace, by role gpu_service, behind the demo's Traefik, under load.

Callers ask on a clock (open_load), the containers are watched ten times a second (invariants), and what the
playbook is told to do is to upgrade, to upgrade to something bad, to go back, to scale and to drain. Every
request has to be answered whole, by a version that may answer at that time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from invariants import Container, Watch, list_containers
from open_load import LENGTHS, OpenLoad, Report

ROOT = Path(__file__).parents[2]
PLAYBOOK = ROOT / "tests/support/hard_service/playbook.yml"
URL = "http://127.0.0.1:9080"  # inventories/demo
SERVICE, HOST = "hard", "hard.example.org"
REPLICAS = 2
RATE_PER_SECOND = 14.0
SHORT = {0.5: 3, 1: 4, 2: 2, 4: 1}
AT_LEAST = 3000
RUN_SECONDS = 600
# What is quick, so that the tests are: the one slow rollout says so.
QUICK = {
    "hard_start_seconds": 1,
    "gpu_service_bake_seconds": 3,
    "gpu_service_soak_seconds": 4,
    # A loaded machine is uneven.
    "gpu_service_soak_max_latency_ratio": 5,
    # As on a card that is full.
    "gpu_service_surge": "never",
}
# Upgrades that must not succeed: what makes them bad, and what the failure has to say.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "bad image": ({"hard_image": "voicefleet/nothing:0"}, "image voicefleet/nothing:0 is not on this host"),
    "dies at start": ({"hard_fault": "dies_at_start"}, "no memory left for the model"),
    "never healthy": (
        {"hard_fault": "never_healthy", "gpu_service_start_timeout_seconds": 5},
        "is not ready",
    ),
    "wrong version": ({"hard_fault": "wrong_version"}, "9-wrong"),
    "crashes in the bake time": ({"hard_fault": "crashes_after=1.5"}, "in its bake time"),
    "too slow": ({"hard_fault": "slow=1"}, "times is allowed"),
}
# Found out only by comparing its answers with its neighbour's, so callers get some of them.
GETS_CALLERS = ("too slow",)


class Fleet:
    """The hard service on this machine."""

    def __init__(self, client: docker.DockerClient, image: str) -> None:
        self.client, self.image = client, image
        self.reports: list[Report] = []

    def command(self, part: str, *arguments: str, **variables: Any) -> list[str]:
        given = {"part": part, "hard_image": self.image, **QUICK, **variables}
        ansible = str(Path(sys.executable).with_name("ansible-playbook"))
        return [ansible, "-i", "inventories/demo", str(PLAYBOOK), "-e", json.dumps(given), *arguments]

    def start(self, part: str, *arguments: str, **variables: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(part, *arguments, **variables),
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, part: str, *arguments: str, fails: bool = False, **variables: Any) -> str:
        """The output of the playbook, which has to succeed, or to fail."""
        process = self.start(part, *arguments, **variables)
        out, _none = process.communicate(timeout=RUN_SECONDS)
        assert (process.returncode != 0) == fails, f"{part} ended with {process.returncode}\n{out}"
        return out

    def containers(self) -> tuple[Container, ...]:
        return list_containers(self.client, SERVICE)

    def ids(self) -> dict[str, str]:
        """Every container's id by its name."""
        listed = self.client.api.containers(all=True, filters={"label": f"voicefleet.service={SERVICE}"})
        return {seen["Names"][0].lstrip("/"): seen["Id"] for seen in listed}

    def revisions(self) -> dict[str, str]:
        """Of the containers that are ready; others are called by their state."""
        return {each.name: each.revision if each.ready else "not ready" for each in self.containers()}

    def has(self, revision: str, replicas: int = REPLICAS) -> bool:
        return self.revisions() == {f"{SERVICE}-{number}": revision for number in range(1, replicas + 1)}

    def bring(self, revision: str) -> None:
        """To a fleet of this revision, all ready, whatever the test before has left."""
        if not self.has(revision):
            self.run("main", hard_revision=revision, gpu_service_force=True, gpu_service_soak_seconds=0)
        assert self.has(revision), self.revisions()

    @contextmanager
    def under_load(
        self, *versions: str, lengths: Mapping[float, float] = SHORT
    ) -> Iterator[tuple[OpenLoad, Watch]]:
        """Callers and the watch, from before until after what is done inside; both have to be content."""
        with (
            Watch(SERVICE, floor=REPLICAS - 1, slots=REPLICAS, versions=versions) as watch,
            OpenLoad(URL, RATE_PER_SECOND, host=HOST, lengths=lengths) as load,
        ):
            load.wait_until(20)
            yield load, watch
            load.wait_for_more(20)
        report = load.report()
        self.reports.append(report)
        print(report, watch, *watch.story(), sep="\n")
        watch.assert_held(report.outcomes)
        report.assert_lossless()


@pytest.fixture(scope="module")
def fleet(engine: docker.DockerClient, base_image: str) -> Iterator[Fleet]:
    made = Fleet(engine, base_image)
    if made.containers():
        made.run("absent", gpu_service_keep_data=False)
    made.run("main", hard_start_seconds=0)
    yield made
    made.run("absent", gpu_service_keep_data=False)
    assert made.containers() == ()


@pytest.mark.slow
def test_an_upgrade_of_what_starts_slowly_and_speaks_long(fleet: Fleet) -> None:
    fleet.bring("1")
    before = fleet.ids()
    slow = {"hard_revision": "2", "hard_start_seconds": 10}
    assert f"{SERVICE}-2" in fleet.run("main", "--check", "--diff", **slow)
    assert fleet.ids() == before
    with fleet.under_load("1", lengths=LENGTHS) as (load, watch):
        watch.expect("1", "2")
        upgrade = fleet.start("main", **slow)
        deadline = time.monotonic() + RUN_SECONDS
        while not watch.samples[-1].in_transition and upgrade.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        # Another one, at the same time, has to keep away.
        refused = fleet.run("main", hard_revision="3", fails=True)
        out, _none = upgrade.communicate(timeout=RUN_SECONDS)
        assert upgrade.returncode == 0, out
        watch.expect("2")
        load.wait_for_more(50)
    assert "lock" in refused
    assert fleet.has("2"), fleet.revisions()
    assert set(fleet.ids().values()).isdisjoint(before.values())


@pytest.mark.slow
def test_a_rollback(fleet: Fleet) -> None:
    if not fleet.has("2"):
        fleet.bring("1")
        fleet.bring("2")
    with fleet.under_load("2") as (_load, watch):
        watch.expect("1", "2")
        fleet.run("rollback")
        watch.expect("1")
    assert fleet.has("1"), fleet.revisions()


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[] if what == "never healthy" else pytest.mark.slow) for what in BAD]
)
def test_an_upgrade_to_something_bad_leaves_what_was(fleet: Fleet, what: str) -> None:
    fleet.bring("1")
    before = fleet.ids()
    variables, says = BAD[what]
    with fleet.under_load("1") as (_load, watch):
        if what in GETS_CALLERS:
            watch.expect("1", "9")
        out = fleet.run("main", fails=True, **{"hard_revision": "9", **variables})
        watch.expect("1")
    assert says in " ".join(out.split())
    assert fleet.ids() == before
    assert fleet.has("1"), fleet.revisions()


@pytest.mark.slow
def test_where_the_second_fails_the_first_goes_back_too_if_that_is_asked_for(fleet: Fleet) -> None:
    fleet.bring("1")
    before = fleet.ids()
    bad = {
        "hard_revision": "9",
        "hard_fault": f"dies_at_start@{SERVICE}-2",
        "gpu_service_on_failure": "revert",
    }
    with fleet.under_load("1") as (_load, watch):
        watch.expect("1", "9")
        out = fleet.run("main", fails=True, **bad)
        watch.expect("1")
    assert "no memory left for the model" in out
    assert fleet.has("1"), fleet.revisions()
    # The second was set aside and came back; the first was made anew.
    assert fleet.ids()[f"{SERVICE}-2"] == before[f"{SERVICE}-2"]
    assert fleet.ids()[f"{SERVICE}-1"] != before[f"{SERVICE}-1"]


@pytest.mark.slow
def test_other_options_of_the_load_balancer(fleet: Fleet) -> None:
    """Two containers that give one service of Traefik's different options would be 404 for all."""
    fleet.bring("1")
    before = fleet.ids()
    with fleet.under_load("1"):
        fleet.run("main", gpu_service_strategy="wrr", gpu_service_priority=1000)
        assert set(fleet.ids().values()).isdisjoint(before.values())
        fleet.run("main")
    assert fleet.has("1"), fleet.revisions()


@pytest.mark.slow
def test_scaling_down_and_up_again(fleet: Fleet) -> None:
    fleet.bring("1")
    before = fleet.ids()
    with fleet.under_load("1"):
        fleet.run("scale", hard_replicas=1)
        assert fleet.has("1", replicas=1), fleet.revisions()
        fleet.run("scale", hard_replicas=REPLICAS)
    assert fleet.has("1"), fleet.revisions()
    assert fleet.ids()[f"{SERVICE}-1"] == before[f"{SERVICE}-1"]


@pytest.mark.slow
def test_draining_a_replica_and_letting_it_serve_again(fleet: Fleet) -> None:
    fleet.bring("1")
    before = fleet.ids()
    with fleet.under_load("1"):
        fleet.run("drain", gpu_service_drain_replicas=[2])
        assert [each.name for each in fleet.containers() if each.running] == [f"{SERVICE}-1"]
        fleet.run("undrain")
    assert fleet.has("1"), fleet.revisions()
    assert fleet.ids() == before


@pytest.mark.slow
def test_enough_was_asked_and_nothing_lost(fleet: Fleet) -> None:
    """None lost of n bounds the share that is lost at 3/n, with 95 % confidence."""
    ok = sum(len(report.ok) for report in fleet.reports)
    failed = sum(len(report.failed) for report in fleet.reports)
    print(f"{ok} requests answered whole, {failed} lost")
    if len(fleet.reports) < len(BAD) + 6:
        pytest.skip("only when all tests of this file run")
    assert failed == 0
    assert ok >= AT_LEAST
