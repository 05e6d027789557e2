# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One replica on a real engine: made, replaced, restored when its successor is bad, resumed when cut off."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _barriers, _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import Barriers, Hooks, Limits
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rollout import Rollout

SERVES = ["python3", "-m", "http.server", "8000", "--directory", "/outputs"]
DIES = ["python3", "-c", "print('no memory left on the card'); raise SystemExit(3)"]
HEALTHY = """
import os, urllib.request
assert not os.path.exists("/run/voicefleet/drain")
urllib.request.urlopen("http://127.0.0.1:8000/")
"""
WRITES = """
import pathlib, http.server
pathlib.Path("/outputs/note").write_text("kept")
http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)
"""


@pytest.fixture(autouse=True)
def no_traefik(monkeypatch: pytest.MonkeyPatch) -> None:
    """These fleets have no Traefik, so there is none to give a moment to."""
    monkeypatch.setattr(_barriers, "UNWATCHED_SECONDS", 0)


class CutOffError(Exception):
    """The run ends here, as if it had been killed."""


class Fleet:
    """One service with one replica, of the test's own, on the real engine."""

    def __init__(self, client: docker.DockerClient, image: str, data_dir: Path) -> None:
        self.client = client
        self.image = image
        self.data_dir = str(data_dir)
        self.service = f"vftest-{uuid.uuid4().hex[:8]}"
        self.steps: list[str] = []
        self.hooks = Hooks(health_path="/")

    def config(self, revision: str, command: list[str] | None = None, slot: int = 0) -> dict[str, Any]:
        specification: dict[str, Any] = {
            "image": self.image,
            "revision": revision,
            "command": command or SERVES,
            "entrypoint": [],
            "environment": {},
            "mounts": [],
            "outputs_target": "/outputs",
            "port": 8000,
            "network": "bridge",
            "labels": {},
            "health": {
                "test": ["CMD", "python3", "-c", HEALTHY],
                "interval_seconds": 0.2,
                "timeout_seconds": 3,
                "retries": 1,
                "start_period_seconds": 20,
            },
            "user": "10001",
            "capabilities": [],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},
            "shm_size_mib": 64,
            "memory_mib": 0,
            "stop_timeout_seconds": 2,
        }
        image_id = _replica.image_id(self.client, self.image)
        return spec.container_config(
            self.service, 1, Slot(None, slot), specification, image_id, self.data_dir
        )

    def roll(
        self, config: dict[str, Any] | None, cut_off_before: int | None = None, surge: bool = False
    ) -> Rollout:
        """Carry out C(config); with C(cut_off_before) only the steps before that one, counted from 0."""
        self.steps = []

        def checkpoint(step: str) -> None:
            if len(self.steps) == cut_off_before:
                raise CutOffError(step)
            self.steps.append(step)

        barriers = Barriers(
            self.client,
            Limits(30, 10, drain_seconds=0, route_timeout_seconds=10, bake_seconds=0.3),
            self.hooks,
        )
        rollout = Rollout(self.client, self.service, 1, self.data_dir, barriers, checkpoint=checkpoint)
        rollout.carry_out(config, surge=surge)
        return rollout

    def state(self) -> list[tuple[str, str, str, str]]:
        """Everything there is of the service: names, revisions, states, health."""
        return [
            (seen.name.removeprefix(self.service), seen.revision, seen.state, seen.health)
            for seen in _replica.observe(self.client, self.service, self.data_dir)
        ]


@pytest.fixture
def make_fleet(base_image: str, tmp_path: Path) -> Iterator[Callable[[], Fleet]]:
    client = docker.from_env()
    tmp_path.chmod(0o755)
    made: list[Fleet] = []

    def make() -> Fleet:
        made.append(Fleet(client, base_image, tmp_path))
        return made[-1]

    yield make
    for fleet in made:
        for replica in _replica.observe(client, fleet.service, fleet.data_dir):
            client.api.remove_container(replica.container_id, force=True)


@pytest.fixture
def fleet(make_fleet: Callable[[], Fleet]) -> Fleet:
    return make_fleet()


SERVING_1 = [("-1", "1", "running", "healthy")]
SERVING_2 = [("-1", "2", "running", "healthy")]


def test_made_then_left_alone_then_replaced_then_removed(fleet: Fleet) -> None:
    assert fleet.roll(fleet.config("1")).outcome.action == "create"
    assert fleet.state() == SERVING_1
    assert fleet.roll(fleet.config("1")).outcome.action == "none"
    assert fleet.steps == []
    replaced = fleet.roll(fleet.config("2")).outcome
    assert (replaced.action, replaced.in_flight_at_stop) == ("replace", None)
    assert replaced.drained_seconds is not None
    assert replaced.started_seconds is not None
    assert fleet.state() == SERVING_2
    assert fleet.roll(None).outcome.action == "remove"
    assert fleet.state() == []


def test_outputs_outlive_the_replica(fleet: Fleet) -> None:
    fleet.roll(fleet.config("1", ["python3", "-c", WRITES]))
    fleet.roll(None)
    assert Path(fleet.data_dir, fleet.service, f"{fleet.service}-1", "outputs", "note").read_text() == "kept"


def test_a_stopped_replica_is_started_again(fleet: Fleet) -> None:
    fleet.roll(fleet.config("1"))
    fleet.client.api.stop(f"{fleet.service}-1", timeout=1)
    assert fleet.roll(fleet.config("1")).outcome.action == "start"
    assert fleet.state() == SERVING_1


def test_a_bad_successor_is_told_of_and_the_old_one_serves_again(fleet: Fleet) -> None:
    fleet.roll(fleet.config("1"))
    with pytest.raises(ReplicaError) as failed:
        fleet.roll(fleet.config("2", DIES))
    assert "exit code 3" in str(failed.value)
    assert "no memory left on the card" in str(failed.value)
    assert "predecessor is back" in str(failed.value)
    assert fleet.state() == SERVING_1


def test_a_first_replica_that_dies_is_told_of(fleet: Fleet) -> None:
    with pytest.raises(ReplicaError, match="exit code 3"):
        fleet.roll(fleet.config("1", DIES))


@pytest.mark.parametrize("surge", [False, True], ids=["its slot is the only one", "another slot is free"])
@pytest.mark.parametrize("then", ["the same again", "back to what ran", "on to another"])
def test_cut_off_before_any_step_the_next_run_ends_where_an_undisturbed_one_does(
    make_fleet: Callable[[], Fleet], then: str, surge: bool
) -> None:
    wanted = {"the same again": "2", "back to what ran": "1", "on to another": "3"}[then]

    def make(fleet: Fleet, revision: str) -> dict[str, Any]:
        """Where there is room, what replaces revision 1 goes to the other slot, and back again."""
        return fleet.config(revision, slot=1 if surge and revision == "2" else 0)

    def cut_off(before: int) -> tuple[str, list[tuple[str, str, str, str]]]:
        fleet = make_fleet()
        fleet.roll(make(fleet, "1"))
        with pytest.raises(CutOffError) as at:
            fleet.roll(make(fleet, "2"), cut_off_before=before, surge=surge)
        fleet.roll(make(fleet, wanted), surge=surge)
        return str(at.value), fleet.state()

    undisturbed = make_fleet()
    undisturbed.roll(make(undisturbed, "1"))
    undisturbed.roll(make(undisturbed, "2"), surge=surge)
    assert len(undisturbed.steps) >= 12
    with ThreadPoolExecutor(4) as pool:
        ends = dict(pool.map(cut_off, range(len(undisturbed.steps))))
    assert list(ends) == undisturbed.steps
    assert {step: end for step, end in ends.items() if end != [("-1", wanted, "running", "healthy")]} == {}
