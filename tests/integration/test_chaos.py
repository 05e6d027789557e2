# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What else happens on a host while replicas are rolled: each of it once, behind a Traefik of the test's own.

Three replicas of the hard service are replaced one after another, from Python, while callers keep on. What
goes wrong meanwhile has its moment among the steps. What it cannot but cost is told by a window: requests
that were under way from its begin until Traefik knew. All others have to be answered whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import Barriers, Hooks, Limits
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._metrics import MetricNames
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Slot, Step
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_steps import plan
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._progress import Progress
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rollout import Outcome, Rollout
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import ApiError, TraefikApi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_watch import TraefikWatch
from invariants import Watch, list_containers
from open_load import OpenLoad, Report
from patience import until

pytestmark = pytest.mark.slow

SERVER = Path(__file__).parents[1] / "support/hard_service/server.py"
REPLICAS = 3
SHORT = {0.5: 3, 1: 2, 2: 1}
PATIENCE_SECONDS = 180

# Called before each step of the rollout: the replica's number, the step's name.
Chaos = Callable[[int, str], None]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Window:
    """Requests that were under way at any time in it may have been lost."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.begin = time.time()
        yield
        # What Traefik had chosen just before is still on its way.
        self.end = time.time() + 0.5


class Fleet:
    """The hard service, three times, behind a Traefik that keeps its ports when it is restarted."""

    def __init__(self, lab: Any, data_dir: Path) -> None:
        self.lab, self.client, self.data_dir = lab, lab.engine, data_dir
        self.service = f"{lab.id}-hard"
        self.host = f"{self.service}.example.org"
        self.web, self.api = free_port(), free_port()
        ports = {"80/tcp": ("127.0.0.1", self.web), "8080/tcp": ("127.0.0.1", self.api)}
        # Longer than the longest answer, so that one that is in hand when Traefik is told to end is finished.
        self.traefik = lab.traefik("--entrypoints.web.transport.lifecycle.gracetimeout=30s", ports=ports)
        self.watch = TraefikWatch(TraefikApi(self.traefik.api_url))
        self.image_id = _replica.image_id(self.client, lab.base_image)
        self.revision = 1
        self.lines: list[str] = []

    def config(self, revision: str, slot: int, number: int) -> dict[str, Any]:
        router, server = "traefik.http.routers", "traefik.http.services"
        specification: dict[str, Any] = {
            "image": self.lab.base_image,
            "revision": revision,
            "command": ["python3", "-I", "-S", "/server.py"],
            "entrypoint": [],
            "environment": {
                "REPLICA": "{replica}",
                "REVISION": revision,
                "START_SECONDS": "1",
                "LINGER_SECONDS": "0.2",
            },
            "mounts": [{"source": str(SERVER), "target": "/server.py", "read_only": True}],
            "outputs_target": "/outputs",
            "port": 8000,
            "network": "bridge",
            "labels": {
                "vf.test": self.lab.id,
                "traefik.enable": "true",
                f"{router}.{self.service}.rule": f"Host(`{self.host}`)",
                f"{router}.{self.service}.service": self.service,
                f"{server}.{self.service}.loadbalancer.server.port": "8000",
                f"{router}.{{replica}}.rule": "Host(`{replica}.replica.internal`)",
                f"{router}.{{replica}}.service": "{replica}",
                f"{server}.{{replica}}.loadbalancer.server.port": "8000",
            },
            "health": {
                "test": ["CMD", "python3", "-I", "-S", "/server.py", "healthcheck"],
                "interval_seconds": 0.5,
                "timeout_seconds": 30,
                "retries": 1,
                "start_period_seconds": PATIENCE_SECONDS,
            },
            "user": "10001",
            "capabilities": [],
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},
            "shm_size_mib": 64,
            "memory_mib": 0,
            "stop_timeout_seconds": 30,
        }
        place = Slot(None, slot)
        return spec.container_config(
            self.service, number, place, specification, self.image_id, str(self.data_dir)
        )

    def barriers(self) -> Barriers:
        progress = Progress(str(self.data_dir.parent / "progress"))
        names = MetricNames(path="/metrics", in_flight=("hard_in_flight", "hard_queued"))
        return Barriers(
            self.client,
            Limits(PATIENCE_SECONDS, PATIENCE_SECONDS, "abort", 0, PATIENCE_SECONDS, bake_seconds=0.5),
            Hooks("/healthz", "/version", metrics=names),
            self.watch,
            f"http://127.0.0.1:{self.web}",
            progress=progress,
        )

    def plan(self, count: int = REPLICAS) -> list[Step]:
        """What is to be done to have so many replicas of the fleet's revision."""

        def spec_of(number: int, slot: Slot) -> str:
            return spec.spec_hash(self.config(str(self.revision), slot.index, number))

        observed = _replica.observe(self.client, self.service, str(self.data_dir))
        steps = plan(self.service, count, None, observed, spec_of, revision=str(self.revision), surge=False)
        return [step for step in steps if step.action != "keep"]

    def roll(self, chaos: Chaos = lambda number, step: None, count: int = REPLICAS) -> list[Outcome]:
        """Take the steps of the plan, as the role does; the first failure ends it."""
        outcomes = []
        progress = self.data_dir.parent / "progress"
        progress.write_text("")
        try:
            for step in self.plan(count):
                number = step.number
                rollout = Rollout(
                    self.client,
                    self.service,
                    number,
                    str(self.data_dir),
                    self.barriers(),
                    checkpoint=lambda name, number=number: chaos(number, name),  # type: ignore[misc]
                )
                config = self.config(str(self.revision), step.slot.index, number) if step.slot else None
                outcomes.append(rollout.carry_out(config))
        finally:
            self.lines = progress.read_text().splitlines()
            print(*self.lines, sep="\n")
        return outcomes

    @contextlib.contextmanager
    def under_load(
        self, floor: int = REPLICAS - 1, in_transition: int = 1, window: Window | None = None
    ) -> Iterator[None]:
        """Callers and the watch, from before until after what is done inside; both have to be content.

        Requests in C(window) may be lost.
        """
        with (
            Watch(self.service, floor=floor, slots=REPLICAS, in_transition=in_transition) as watch,
            OpenLoad(f"http://127.0.0.1:{self.web}", 5, host=self.host, lengths=SHORT) as load,
        ):
            load.wait_until(5)
            yield
            load.wait_for_more(10)
        report = load.report()
        print(report, watch, *watch.story(), sep="\n")
        watch.assert_held()
        if window:
            spared = [
                each for each in report.outcomes if each.at <= window.end and each.ended >= window.begin
            ]
            outside = [each for each in report.outcomes if each not in spared]
            assert window.end - window.begin < PATIENCE_SECONDS
            report = Report(outside, len(outside))
        report.assert_lossless(at_least=15)

    def state(self) -> dict[str, str]:
        """Revision of each container that is ready; others are called by their state."""
        seen = list_containers(self.client, self.service)
        return {
            each.name.removeprefix(f"{self.service}-"): each.revision if each.ready else "not ready"
            for each in seen
        }

    def assert_all_serve(self, revision: int) -> None:
        assert self.state() == {str(number): str(revision) for number in range(1, REPLICAS + 1)}

    def container(self, number: int) -> str:
        found = _replica.find(self.client, f"{self.service}-{number}")
        assert found
        return found

    def is_listed(self, url: str) -> bool:
        with contextlib.suppress(ApiError):
            return bool(self.watch.listing(url))
        return True

    def lose(self, number: int, how: Callable[[str], None]) -> None:
        """Do this to the replica's container, and wait until Traefik sends nobody there any more."""
        url = _replica.look(self.client, self.container(number)).url
        how(self.container(number))
        until("out of Traefik", lambda: not self.is_listed(url))

    def answers(self) -> bool:
        """Whether callers are served through Traefik."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.web}/livez", headers={"Host": self.host})
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
            return bool(answer.status == 200)
        return False


@pytest.fixture(scope="module")
def fleet(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """With a disk of its own for the data, so small that it can be filled."""
    scratch = tmp_path_factory.mktemp("host")
    for each in (scratch, *scratch.parents[:2]):
        each.chmod(0o755)
    disk = scratch / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=100,mode=755", "tmpfs", disk], check=True
    )
    made = Fleet(lab, disk)
    try:
        made.roll()
        made.assert_all_serve(1)
        yield made
    finally:
        for replica in _replica.observe(made.client, made.service, str(disk)):
            made.client.api.remove_container(replica.container_id, force=True, v=True)
        subprocess.run(["umount", disk], check=True)


def once(number: int, step: str, do: Callable[[], None]) -> Chaos:
    """Do it once, before this replica's step."""
    left = [do]

    def chaos(at: int, name: str) -> None:
        if (at, name) == (number, step) and left:
            left.pop()()

    return chaos


def test_another_container_comes_and_goes_all_the_time(fleet: Fleet) -> None:
    """Each time Traefik loads its configuration anew."""
    over, turns = threading.Event(), 0

    def come_and_go() -> None:
        nonlocal turns
        while not over.is_set():
            name = f"other-{turns}"
            labels = {
                "traefik.enable": "true",
                f"traefik.http.routers.{name}.rule": f"Host(`{name}.example.org`)",
                f"traefik.http.services.{name}.loadbalancer.server.port": "8000",
            }
            fleet.lab.run(name, labels, listen=8000).remove(force=True)
            turns += 1

    fleet.revision += 1
    thread = threading.Thread(target=come_and_go)
    with fleet.under_load():
        thread.start()
        try:
            fleet.roll()
        finally:
            over.set()
            thread.join()
    fleet.assert_all_serve(fleet.revision)
    assert turns >= 5


@pytest.mark.parametrize("step", ["wait until Traefik lets go", "wait for Traefik"])
def test_traefik_restarts(fleet: Fleet, step: str) -> None:
    window, restarted = Window(), threading.Event()

    def restart() -> None:
        with window():
            fleet.traefik.container.restart(timeout=60)
            until("answered again", fleet.answers)
        restarted.set()

    thread = threading.Thread(target=restart)
    fleet.revision += 1
    with fleet.under_load(window=window):
        fleet.roll(once(1, step, thread.start))
        thread.join()
    assert restarted.is_set()
    fleet.assert_all_serve(fleet.revision)


def test_replicas_die_that_are_not_in_transition(fleet: Fleet) -> None:
    """One that is still to be replaced, for good; and one that has been, which the engine starts again."""
    window = Window()

    def kill() -> None:
        with window():
            fleet.lose(3, fleet.client.api.kill)

    fleet.revision += 1
    with fleet.under_load(floor=1, in_transition=2, window=window):
        outcomes = fleet.roll(once(1, "start", kill))
    assert [outcome.action for outcome in outcomes] == ["replace"] * REPLICAS
    fleet.assert_all_serve(fleet.revision)

    def crash(container_id: str) -> None:
        os.kill(fleet.client.api.inspect_container(container_id)["State"]["Pid"], signal.SIGKILL)

    def crash_1() -> None:
        with window():
            fleet.lose(1, crash)

    fleet.revision += 1
    with fleet.under_load(floor=1, in_transition=2, window=window):
        fleet.roll(once(2, "start", crash_1))
        until("all up again", lambda: "not ready" not in fleet.state().values())
    fleet.assert_all_serve(fleet.revision)


def test_a_replica_hangs_that_is_to_be_replaced(fleet: Fleet) -> None:
    window = Window()

    def stop_its_process(container_id: str) -> None:
        for process in fleet.client.api.top(container_id)["Processes"]:
            # Neither the init that started it, nor a health check.
            if process[-1].startswith("python3") and process[-1].endswith("/server.py"):
                os.kill(int(process[1]), signal.SIGSTOP)

    def hang() -> None:
        with window():
            fleet.lose(3, stop_its_process)

    fleet.revision += 1
    with fleet.under_load(floor=1, in_transition=2, window=window):
        outcomes = fleet.roll(once(1, "start", hang))
    assert any("it hangs" in line for line in fleet.lines)
    assert [outcome.in_flight_at_stop for outcome in outcomes] == [0, 0, None]
    fleet.assert_all_serve(fleet.revision)


def test_a_replica_is_paused_that_is_to_be_replaced(fleet: Fleet) -> None:
    """Of that Traefik is told nothing; it sees it when the rollout goes on, and the next container starts."""
    window = Window()

    def pause() -> None:
        with window():
            fleet.lose(3, fleet.client.api.pause)

    thread = threading.Thread(target=pause)
    fleet.revision += 1
    with fleet.under_load(floor=1, in_transition=2, window=window):
        fleet.roll(once(1, "start", thread.start))
        thread.join()
    assert window.end, "Traefik never let go of it"
    fleet.assert_all_serve(fleet.revision)


class Heap:
    """What fills the disk, to the last entry of a directory."""

    def __init__(self, directory: Path) -> None:
        self.files = [directory / f"heap-{number}" for number in range(1000)]

    def pile_up(self) -> None:
        with contextlib.suppress(OSError):
            for path in self.files:
                path.touch()
        assert not self.files[-1].exists()

    def clear(self) -> None:
        for path in self.files:
            path.unlink(missing_ok=True)


@pytest.fixture
def heap(fleet: Fleet) -> Iterator[Heap]:
    made = Heap(fleet.data_dir)
    yield made
    made.clear()


def test_the_disk_is_full(fleet: Fleet, heap: Heap) -> None:
    before = fleet.state()
    with fleet.under_load():
        heap.pile_up()
        with pytest.raises(ReplicaError, match=r"directories cannot be made: .*No space left on device"):
            fleet.roll(count=REPLICAS + 1)
        fleet.revision += 1
        with pytest.raises(ReplicaError, match=r"drain flag cannot be raised: .*No space left on device"):
            fleet.roll()
        assert fleet.state() == before
        heap.clear()
        fleet.roll()
    fleet.assert_all_serve(fleet.revision)


def test_the_disk_fills_up_when_a_replica_is_gone_already(fleet: Fleet, heap: Heap) -> None:
    """Its successor needs nothing that was not there before, and each drain flag has the room of the last."""
    fleet.revision += 1
    with fleet.under_load():
        fleet.roll(once(1, "stop", heap.pile_up))
    assert heap.files[0].exists()
    fleet.assert_all_serve(fleet.revision)
