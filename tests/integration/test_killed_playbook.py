# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook is killed in the middle of a rollout, behind the demo's Traefik, while callers keep on.

Once all of it dies at a stroke, what it has started on the host too, as when a host is lost; once
ansible-playbook alone. Whoever runs the same again has to come to the same end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from invariants import Watch, list_containers
from open_load import OpenLoad
from patience import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PLAYBOOK = ROOT / "tests/support/hard_service/playbook.yml"
DATA_DIR = Path("/var/lib/voicefleet")
URL = "http://127.0.0.1:9080"  # inventories/demo
REPLICAS = 2
RUN_SECONDS = 600
LOCK_EXPIRY_SECONDS = 4
SHORT = {0.5: 3, 1: 2, 2: 1}
# Processes of a run, wherever they went, bear this in their environment.
MARK = "VOICEFLEET_TEST_RUN"
# What a line of a step's progress can begin with, in the order in which they come; a run is killed at the
# first of each. One that does not have to wait for Traefik does not say so.
KINDS = ("drain", "stop", "start", "bake", "route", "soak")
MAY_BE_MISSING = ("route",)
LINE = re.compile(r"-\d+ on cpu/\d+: +[\d.]+ s  (\w+)")


class Run:
    """One ansible-playbook, with everything that it starts."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.mark = uuid.uuid4().hex
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, MARK: self.mark, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def read_to(self, ends: Callable[[str], bool] = lambda line: False) -> bool:
        """Read what it prints up to the line that C(ends) is true for; False if the run ended without."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if ends(line):
                return True
        self.process.wait(timeout=RUN_SECONDS)
        return False

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def pids(self) -> set[int]:
        """All processes of this run that are left, those in sessions of their own too."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in path.read_bytes():
                    found.add(int(path.parent.name))
        return found

    def kill_all(self) -> None:
        """Leave nothing of it: not ansible-playbook, nor its workers, nor what they run in the background."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait(timeout=60)


class Fleet:
    """The hard service under a name of the test's own, on this machine."""

    def __init__(self, client: docker.DockerClient, image: str, scratch: Path) -> None:
        self.client, self.image, self.scratch = client, image, scratch
        self.service = f"hard{uuid.uuid4().hex[:6]}"
        self.host = f"{self.service}.example.org"
        self.directory = DATA_DIR / self.service
        self.revision = 1
        self.runs: list[Run] = []

    def start(self, part: str = "main", verb: str = "site") -> Run:
        variables = {
            "part": part,
            "hard_image": self.image,
            "hard_revision": str(self.revision),
            "hard_replicas": REPLICAS,
            "hard_start_seconds": 1,
            "gpu_service_name": self.service,
            "gpu_service_verb": verb,
            "gpu_service_rule": f"Host(`{self.host}`)",
            "gpu_service_bake_seconds": 2,
            "gpu_service_soak_seconds": 3,
            "gpu_service_soak_max_latency_ratio": 100,  # a loaded machine is uneven
            "gpu_service_surge": "never",
            "gpu_service_route_timeout_seconds": 120,
            "gpu_service_lock_expiry_seconds": LOCK_EXPIRY_SECONDS,
            "gpu_service_keep_data": False,
        }
        environment = {
            "ANSIBLE_NOCOLOR": "1",
            # Where a killed run leaves what it cannot take away any more.
            **{
                f"ANSIBLE_{name}": str(self.scratch / name.lower())
                for name in ("HOME", "LOCAL_TEMP", "REMOTE_TEMP", "ASYNC_DIR")
            },
        }
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        command = [program, "-i", "inventories/demo", str(PLAYBOOK), "-e", json.dumps(variables)]
        self.runs.append(Run(command, environment))
        return self.runs[-1]

    def run(self, part: str = "main", fails: bool = False) -> str:
        """The output of a run that is left alone."""
        run = self.start(part)
        run.read_to()
        assert (run.process.returncode != 0) == fails, run.said
        return run.said

    @contextlib.contextmanager
    def under_load(self) -> Iterator[None]:
        """Callers and the watch, from before until after what is done inside; both have to be content."""
        with (
            Watch(self.service, floor=REPLICAS - 1, slots=REPLICAS) as watch,
            OpenLoad(URL, 4, host=self.host, lengths=SHORT) as load,
        ):
            load.wait_until(5)
            yield
            load.wait_for_more(10)
        report = load.report()
        print(report, watch, *watch.story(), sep="\n")
        watch.assert_held(report.outcomes)
        report.assert_lossless()

    def revisions(self) -> dict[str, str]:
        """Of the containers that are ready; others are called by their state."""
        seen = list_containers(self.client, self.service)
        return {each.name: each.revision if each.ready else "not ready" for each in seen}

    def assert_settled(self) -> None:
        """Every replica of the wanted revision, and nothing else: no container, drain flag or lock."""
        names = [f"{self.service}-{number}" for number in range(1, REPLICAS + 1)]
        assert self.revisions() == dict.fromkeys(names, str(self.revision))
        files = [path.relative_to(self.directory) for path in self.directory.rglob("*") if path.is_file()]
        assert [str(path) for path in files if path.parts[0] != "rollouts"] == []

    def addresses(self) -> list[str]:
        """Of the running replicas, host and port."""
        listed = self.client.api.containers(filters={"label": f"voicefleet.service={self.service}"})
        return [f"{seen['NetworkSettings']['Networks']['voicefleet']['IPAddress']}:8000" for seen in listed]


@pytest.fixture(scope="module")
def fleet(
    engine: docker.DockerClient, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    made = Fleet(engine, base_image, tmp_path_factory.mktemp("ansible"))
    try:
        made.run()
        yield made
    finally:
        for run in made.runs:
            run.kill_all()
        made.run("absent")
    assert made.revisions() == {}
    assert not made.directory.exists()


def test_killed_at_each_kind_of_moment_the_last_run_ends_as_the_first_would_have(fleet: Fleet) -> None:
    """Each run resumes what the ones before it have left, and is killed a little further on."""
    fleet.revision += 1
    with fleet.under_load():
        for kind in KINDS:
            run = fleet.start()

            def is_kind(line: str, kind: str = kind) -> bool:
                found = LINE.search(line)
                return found is not None and found.group(1) == kind

            if not run.read_to(is_kind):
                assert kind in MAY_BE_MISSING, f"no line of the kind {kind}\n{run.said}"
                assert run.process.returncode == 0, run.said
                fleet.revision += 1
            run.kill_all()
            assert (fleet.directory / "lock").exists() == (run.process.returncode == -signal.SIGKILL)
        said = fleet.run()
    fleet.assert_settled()
    # The lock of the dead run is explained.
    assert "last sign of life" in " ".join(said.split())


def test_killed_at_its_very_end_the_next_run_has_nothing_left_to_do_but_to_clear_up(fleet: Fleet) -> None:
    fleet.revision += 1
    with fleet.under_load():
        run = fleet.start()
        assert run.read_to(lambda line: "record | Write down what was done" in line), run.said
        run.kill_all()
        fleet.run()
    fleet.assert_settled()


def test_the_step_of_a_killed_playbook_goes_on_and_keeps_others_away_until_it_ends(fleet: Fleet) -> None:
    fleet.revision += 1
    with fleet.under_load():
        # Streams that nobody but this test ends: so long the step goes on draining.
        streams = [
            urllib.request.urlopen(f"http://{address}/stream?seconds=120", data=b"", timeout=60)
            for address in fleet.addresses()
        ]
        first = fleet.start(verb="the first run")
        assert first.read_to(lambda line: "in hand" in line), first.said
        first.process.kill()
        first.process.wait(timeout=60)
        # Longer than a lock lives whose holder has died: it is the step that renews it now.
        time.sleep(LOCK_EXPIRY_SECONDS)
        owner = json.loads((fleet.directory / "lock").read_text())["owner"]
        refused = " ".join(fleet.run(fails=True).split())
        assert f"is held by {owner} (the first run), since" in refused, refused
        assert "It is alive" in refused, refused
        for stream in streams:
            stream.close()
        until("one of the new revision", lambda: str(fleet.revision) in fleet.revisions().values())
        until("the step over", lambda: first.pids() == set())
        fleet.run()
    fleet.assert_settled()
