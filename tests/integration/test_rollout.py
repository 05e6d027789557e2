# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One replica on a real engine: made, replaced, restored when its successor is bad, resumed when killed."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import docker
import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _barriers, _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import Limits
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Slot, Step
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_steps import plan
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rollout import Rollout
from killed_roll import KilledRolls, prepare

# So many fleets are killed and repaired side by side.
AT_ONCE = 4
# Without site: Python starts in half the time, and the health check is started all the time.
PYTHON = ["python3", "-I", "-S"]
SERVES = [*PYTHON, "-m", "http.server", "8000", "--directory", "/outputs"]
# The revision that is configured to do so.
BAD = "bad"
DIES = [*PYTHON, "-c", "print('no memory left on the card'); raise SystemExit(3)"]
HEALTHY = """
import os, socket
assert not os.path.exists("/run/voicefleet/drain")
socket.create_connection(("127.0.0.1", 8000), 10)
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


class Fleet:
    """One service of the test's own, on the real engine; mostly of one replica."""

    def __init__(self, client: docker.DockerClient, image: str, data_dir: Path) -> None:
        self.client = client
        self.image = image
        self.image_id = _replica.image_id(client, image)
        self.data_dir = str(data_dir)
        self.service = f"vftest-{uuid.uuid4().hex[:8]}"
        self.steps: list[str] = []

    def config(
        self,
        revision: str,
        command: list[str] | None = None,
        slot: int = 0,
        number: int = 1,
        mounts: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        specification: dict[str, Any] = {
            "image": self.image,
            "revision": revision,
            "command": command or (DIES if revision == BAD else SERVES),
            "entrypoint": [],
            "environment": {},
            "mounts": [*mounts],
            "outputs_target": "/outputs",
            "port": 8000,
            "network": "bridge",
            "labels": {},
            "health": {
                "test": ["CMD", *PYTHON, "-c", HEALTHY],
                "interval_seconds": 0.2,
                "timeout_seconds": 30,
                "retries": 1,
                "start_period_seconds": 60,
            },
            "user": "10001",
            "capabilities": [],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},
            "shm_size_mib": 64,
            "memory_mib": 0,
            "stop_timeout_seconds": 2,
        }
        return spec.container_config(
            self.service, number, Slot(None, slot), specification, self.image_id, self.data_dir
        )

    def order(self, config: dict[str, Any] | None, surge: bool = False, number: int = 1) -> dict[str, Any]:
        """All that a rollout of one replica is told."""
        limits = Limits(
            start_timeout_seconds=120,
            drain_timeout_seconds=60,
            drain_seconds=0,
            route_timeout_seconds=60,
            bake_seconds=0.1,
        )
        return {
            "service": self.service,
            "number": number,
            "data_dir": self.data_dir,
            "config": config,
            "surge": surge,
            "health_path": "/",
            "limits": asdict(limits),
        }

    def roll(self, config: dict[str, Any] | None, surge: bool = False, number: int = 1) -> Rollout:
        """Carry out C(config) in this process; C(steps) are those that were taken."""
        self.steps = []
        rollout = prepare(self.client, self.order(config, surge, number), self.steps.append)
        rollout.carry_out(config, surge=surge)
        return rollout

    def plan(self, revision: str, count: int, slots: int, surge: bool) -> list[Step]:
        """As module replica_plan makes it, for a host with so many slots."""

        def spec_of(number: int, slot: Slot) -> str:
            return spec.spec_hash(self.config(revision, slot=slot.index, number=number))

        observed = _replica.observe(self.client, self.service, self.data_dir)
        places = [Slot(None, index) for index in range(slots)]
        return plan(self.service, count, places, observed, spec_of, revision=revision, surge=surge)

    def bring(self, revision: str, count: int, slots: int, surge: bool) -> None:
        """Plan, and take the steps of the plan."""
        for step in self.plan(revision, count, slots, surge):
            if step.action == "keep":
                continue
            slot = step.slot
            config = self.config(revision, slot=slot.index, number=step.number) if slot else None
            self.roll(config, step.surge, step.number)

    def state(self) -> list[tuple[str, str, str, str]]:
        """Everything there is of the service: names, revisions, states, health."""
        return [
            (seen.name.removeprefix(self.service), seen.revision, seen.state, seen.health)
            for seen in _replica.observe(self.client, self.service, self.data_dir)
        ]

    def files(self) -> list[str]:
        """What lies in the directories of the service, drain flags among it."""
        found = Path(self.data_dir, self.service).rglob("*")
        return sorted(str(path.relative_to(self.data_dir)) for path in found if not path.is_dir())

    def faults(self, revision: str, count: int, slots: int, surge: bool) -> list[str]:
        """In what this differs from a fleet of so many replicas of C(revision) that nothing disturbed."""
        wanted = [(f"-{number}", revision, "running", "healthy") for number in range(1, count + 1)]
        observed = _replica.observe(self.client, self.service, self.data_dir)
        left = [step for step in self.plan(revision, count, slots, surge) if step.action != "keep"]
        return [
            *([f"containers: {self.state()}"] if self.state() != wanted else []),
            *(["two on one slot"] if len({each.slot for each in observed}) < len(observed) else []),
            *(f"left over: {path}" for path in self.files()),
            *(f"still to do: {step}" for step in left),
        ]

    def remove(self) -> None:
        """By force, whatever there is."""
        for replica in _replica.observe(self.client, self.service, self.data_dir):
            self.client.api.remove_container(replica.container_id, force=True)


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
        fleet.remove()


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
    fleet.roll(fleet.config("1", [*PYTHON, "-c", WRITES]))
    fleet.roll(None)
    assert Path(fleet.data_dir, fleet.service, f"{fleet.service}-1", "outputs", "note").read_text() == "kept"


def test_a_stopped_replica_is_started_again(fleet: Fleet) -> None:
    fleet.roll(fleet.config("1"))
    fleet.client.api.stop(f"{fleet.service}-1", timeout=1)
    assert fleet.roll(fleet.config("1")).outcome.action == "start"
    assert fleet.state() == SERVING_1


def test_a_replica_whose_directory_was_removed_and_put_there_anew_is_replaced(
    fleet: Fleet, tmp_path: Path
) -> None:
    voices = tmp_path / "voices"
    voices.mkdir()
    (voices / "anna").touch()
    config = fleet.config("1", mounts=[{"source": str(voices), "target": "/voices", "read_only": True}])
    fleet.roll(config)
    (voices / "bert").touch()
    assert fleet.roll(config).outcome.action == "none"
    shutil.rmtree(voices)
    assert fleet.roll(config).outcome.action == "none"  # there is nothing to mount instead
    voices.mkdir()
    (voices / "carl").touch()
    (there,) = _replica.observe(fleet.client, fleet.service, fleet.data_dir)
    assert there.outdated_mounts == ("/voices",)
    assert fleet.roll(config).outcome.action == "replace"
    assert fleet.state() == SERVING_1
    sees = fleet.client.containers.get(f"{fleet.service}-1").exec_run(
        [*PYTHON, "-c", "import os; print(os.listdir('/voices'))"]
    )
    assert sees.output.decode().strip() == "['carl']"
    assert fleet.roll(config).outcome.action == "none"


def test_a_neighbour_that_is_just_starting_serves_before_this_one_goes(fleet: Fleet) -> None:
    slow = [*PYTHON, "-c", f"import os, time; time.sleep(3); os.execvp('python3', {SERVES})"]
    fleet.roll(fleet.config("1", slow, slot=1, number=2), number=2)
    fleet.roll(fleet.config("1"))
    neighbour = fleet.client.containers.get(f"{fleet.service}-2")
    neighbour.restart(timeout=0)
    health: dict[str, str] = {}

    def look(step: str) -> None:
        neighbour.reload()
        health[step] = neighbour.attrs["State"]["Health"]["Status"]

    config = fleet.config("2")
    prepare(fleet.client, fleet.order(config), look).carry_out(config)
    assert health["raise the drain flag"] == "healthy"


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


@dataclass(frozen=True)
class Case:
    """From one replica: what is being done when the run is killed, and what the next run is to do."""

    killed: tuple[str, int]  # towards which revision, and how many replicas
    then: tuple[str, int]
    surge: bool = False
    slots: int = 1
    ends: tuple[str, int] = ("", 0)  # if not as C(then)


# Of the revisions, "old" is the one that serves, "new" another good one.
CASES = {
    "upgraded, and the same again": Case(("new", 1), then=("new", 1)),
    "upgraded, and back to what ran": Case(("new", 1), then=("old", 1)),
    "upgraded, and one more": Case(("new", 1), then=("new", 2), slots=2),
    "upgraded on a free slot, and the same again": Case(("new", 1), then=("new", 1), surge=True, slots=2),
    "upgraded on a free slot, and back to what ran": Case(("new", 1), then=("old", 1), surge=True, slots=2),
    "upgraded on a free slot, and one more": Case(("new", 1), then=("new", 2), surge=True, slots=2),
    "restored, and the same again": Case((BAD, 1), then=(BAD, 1), ends=("old", 1)),
    "restored, and on to another": Case((BAD, 1), then=("new", 1)),
    "restored on a free slot, and back to what ran": Case((BAD, 1), then=("old", 1), surge=True, slots=2),
    "removed, and the same again": Case(("old", 0), then=("old", 0)),
    "removed, and back to what ran": Case(("old", 0), then=("old", 1)),
}
# All others take a minute each.
QUICK = "removed, and back to what ran"


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[] if what == QUICK else pytest.mark.slow) for what in CASES]
)
def test_killed_before_any_step_the_next_run_ends_where_an_undisturbed_one_does(
    make_fleet: Callable[[], Fleet], what: str
) -> None:
    case = CASES[what]
    room = (case.slots, case.surge)

    def order(fleet: Fleet, names: dict[str, str]) -> dict[str, Any]:
        """The one step of the plan, as module replica is told it."""
        revision, count = case.killed
        upgrade_room = (case.slots if case.surge else 1, case.surge)
        (step,) = fleet.plan(names.get(revision, revision), count, *upgrade_room)
        assert step.surge == case.surge
        slot = step.slot
        config = fleet.config(names.get(revision, revision), slot=slot.index) if slot else None
        return fleet.order(config, case.surge)

    def kill_and_repair(before: int) -> tuple[str, list[str]]:
        fleet, killer = fleets.get(), killers.get()
        try:
            (there,) = _replica.observe(fleet.client, fleet.service, fleet.data_dir)
            names = {"old": there.revision, "new": "2" if there.revision == "1" else "1"}
            at = killer.roll(order(fleet, names), before)
            (then, then_count), (end, end_count) = case.then, case.ends if case.ends[0] else case.then
            with pytest.raises(ReplicaError) if then == BAD else nullcontext():
                fleet.bring(names.get(then, then), then_count, *room)
            faults = fleet.faults(names[end], end_count, *room)
            # The next time from here.
            fleet.bring(names[end], 1, *room)
            return at, faults
        except Exception as error:
            fleet = make_fleet()
            fleet.roll(fleet.config("1"))
            return f"step {before}", [repr(error)]
        finally:
            killers.put(killer)
            fleets.put(fleet)

    undisturbed = make_fleet()
    undisturbed.roll(undisturbed.config("1"))
    asked = order(undisturbed, {"old": "1", "new": "2"})
    with pytest.raises(ReplicaError) if case.killed[0] == BAD else nullcontext():
        undisturbed.roll(asked["config"], case.surge)
    steps = undisturbed.steps
    print(len(steps), *steps, sep="\n")
    fleets: Queue[Fleet] = Queue()
    killers: Queue[KilledRolls] = Queue()
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        for _each in range(AT_ONCE):
            killers.put(stack.enter_context(KilledRolls()))
            fleets.put(make_fleet())
        list(pool.map(lambda fleet: fleet.roll(fleet.config("1")), list(fleets.queue)))
        ends = list(pool.map(kill_and_repair, range(len(steps))))
    assert [(at, faults) for at, faults in ends if faults] == []
    assert [at for at, _faults in ends] == steps
