# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollout costs its callers, in three ways: ours, Debian's docker-compose, and stop and start by hand.

Two replicas of the hard service, which start slowly and speak long, behind a Traefik of this run's own, are
replaced by another revision while callers ask on a clock: the same requests each time, the same containers
(image, settings, labels, health check, stop timeout), one way after another.

- ours: the step machine of module replica, without bake time and soak, called from Python. What a playbook
  adds to each step (processes, modules) is not in it.
- compose: docker-compose up -d --force-recreate. The package is installed if it is missing, and removed
  again at the end with all that came with it; that needs root.
- by hand: docker stop, rm, run, one replica after the other, without a look at anything.

"lost" are requests with no answer, a wrong one or a cut one; "refused" those that a replica sent away with
503 and Retry-After. "roll" is from the first step until it is over and Traefik sends callers to both new
replicas. "least" is what the replicas needed at the very least, one after the other, all seen from outside:
drain (from the drain flag, or SIGTERM, until the last answer of the old one has ended), stop (from then, or
from SIGTERM, until its exit) and start (from its start until it says itself that it is loaded). "ratio" is
roll to least. Below 1 means that replicas were out at the same time. "strict" is the ratio to a least in
which the old one got no caller any more from the first moment on.

    python tests/bench/rollout.py [--times 1] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import docker
from _demo import load_average
from _lab import LABEL, PATIENCE_SECONDS, Lab, lab
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import Barriers, Hooks, Limits
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._metrics import MetricNames
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rollout import Rollout
from open_load import OpenLoad, Report
from open_load_sender import Outcome

REPLICAS = 2
LENGTHS: dict[float, float] = {1: 50, 2: 25, 4: 15, 7: 7, 10: 3}
ENVIRONMENT = {"START_SECONDS": "5", "LINGER_SECONDS": "0.5"}
OLD, NEW = "1", "2"
WARM_UP_SECONDS = 12.0  # longer than the longest stream, so that the old ones are as busy as they get
GOAL_RATIO = 1.15
STEP_SECONDS = 0.3  # shorter ones are not told
PACKAGE = "docker-compose"
NUMBERS = range(1, REPLICAS + 1)


class Fleet:
    """The hard service, to be rolled in one of the three ways."""

    name = ""

    def __init__(self, made: Lab) -> None:
        self.lab, self.client = made, made.client
        self.service = f"{made.id}-{self.name.replace(' ', '')}"
        self.host = f"{self.service}.example.org"
        # When callers were first kept away from a replica, by its number: only ours does before the SIGTERM.
        self.drained_at: dict[int, float] = {}
        # Names and moments of the steps that were taken, if they have names.
        self.steps: list[tuple[str, float]] = []

    def config(self, number: int, revision: str) -> dict[str, Any]:
        return self.lab.config(self.service, number, revision, ENVIRONMENT)

    def bring(self, revision: str) -> None:
        """The first of them, for which nobody waits in vain."""
        for number in NUMBERS:
            self.lab.run(self.config(number, revision))

    def roll(self, revision: str) -> None:
        raise NotImplementedError

    def remove(self) -> None:
        self.lab.remove(self.service)

    def ids(self) -> dict[int, str]:
        """Container of each replica."""
        found = {number: _replica.find(self.client, f"{self.service}-{number}") for number in NUMBERS}
        return {number: container_id for number, container_id in found.items() if container_id}


class Ours(Fleet):
    """The step machine, with every barrier."""

    name = "ours"

    def roll(self, revision: str) -> None:
        limits = Limits(PATIENCE_SECONDS, PATIENCE_SECONDS, "abort", 0, PATIENCE_SECONDS, bake_seconds=0)
        metrics = MetricNames(path="/metrics", in_flight=("hard_in_flight", "hard_queued"))
        hooks = Hooks("/healthz", "/version", metrics=metrics)
        barriers = Barriers(self.client, limits, hooks, self.lab.watch, self.lab.url)
        for number in NUMBERS:

            def noted(step: str, number: int = number) -> None:
                self.steps.append((step, time.time()))
                if step == "raise the drain flag":
                    self.drained_at.setdefault(number, time.time())

            data_dir = self.lab.data_dir
            rollout = Rollout(self.client, self.service, number, data_dir, barriers, checkpoint=noted)
            rollout.carry_out(self.config(number, revision))
            self.steps.append(("", time.time()))


class Compose(Fleet):
    """Debian's docker-compose; each replica a service of one file, so that they can be told apart."""

    name = "compose"

    def up(self, revision: str, *options: str) -> None:
        configs = [self.config(number, revision) for number in NUMBERS]
        file = Path(self.lab.data_dir, "docker-compose.json")  # JSON is YAML
        services = {config["name"]: compose_service(config) for config in configs}
        file.write_text(json.dumps({"version": "2.4", "services": services}), encoding="utf-8")
        command = [PACKAGE, "-p", self.service, "-f", str(file), "--no-ansi", "up", "-d", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-3000:]}")

    def bring(self, revision: str) -> None:
        self.up(revision)

    def roll(self, revision: str) -> None:
        self.up(revision, "--force-recreate")


class ByHand(Fleet):
    """docker stop, rm, run."""

    name = "by hand"

    def roll(self, revision: str) -> None:
        for number, container_id in self.ids().items():
            _replica.stop(self.client, container_id)
            _replica.remove(self.client, container_id)
            self.lab.run(self.config(number, revision))


def compose_service(config: dict[str, Any]) -> dict[str, Any]:
    """The container that create_arguments makes, in the words of a compose file."""
    health = config["health"]
    return {
        "container_name": config["name"],
        "hostname": config["name"],
        "image": config["image_id"],
        "command": config["command"],
        "environment": {"PYTHONUNBUFFERED": "1", **config["environment"]},
        "labels": config["labels"],
        "user": config["user"],
        "network_mode": config["network"],
        "expose": [str(config["port"])],
        "restart": "unless-stopped",
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "tmpfs": [f"{path}:{options}" for path, options in config["tmpfs"].items()],
        "volumes": [
            f"{mount['source']}:{mount['target']}:{'ro' if mount['read_only'] else 'rw'}"
            for mount in config["mounts"]
        ],
        "stop_grace_period": f"{config['stop_timeout_seconds']}s",
        "healthcheck": {
            "test": health["test"],
            "interval": f"{health['interval_seconds']}s",
            "timeout": f"{health['timeout_seconds']}s",
            "retries": health["retries"],
            "start_period": f"{health['start_period_seconds']:g}s",
        },
    }


@dataclasses.dataclass
class Least:
    """What one replica needed at the very least, in seconds."""

    drain: float
    strict_drain: float
    stop: float
    start: float

    def __str__(self) -> str:
        return f"drain {self.drain:.1f} s, stop {self.stop:.1f} s, start {self.start:.1f} s"


@dataclasses.dataclass
class Result:
    """One rollout."""

    way: str
    sent: int
    lost: int
    refused: int
    seconds: float
    least_seconds: float
    strict_least_seconds: float
    replicas: dict[str, str]
    steps: dict[str, float]  # seconds of each, of all replicas together
    first_byte_p99: float
    sender_late_p99: float
    examples: list[str]

    @property
    def over(self) -> float:
        return self.seconds - self.least_seconds

    @property
    def ratio(self) -> float:
        return self.seconds / self.least_seconds

    @property
    def strict_ratio(self) -> float:
        return self.seconds / self.strict_least_seconds

    def plain(self) -> dict[str, Any]:
        figures = {"over_seconds": self.over, "ratio": self.ratio, "strict_ratio": self.strict_ratio}
        return dataclasses.asdict(self) | figures


class Events:
    """When each container was first told to stop (kill), ended (die) and began (start), heard while inside.

    The engine keeps only its last 256 events, which health checks use up in seconds: nothing can be asked
    for afterwards.
    """

    def __init__(self, made: Lab) -> None:
        self.client = docker.from_env(timeout=int(PATIENCE_SECONDS))
        wanted = {"label": f"{LABEL}={made.id}", "event": ["kill", "die", "start"]}
        self.stream = self.client.events(filters=wanted, decode=True)
        self.moments: dict[str, dict[str, float]] = defaultdict(dict)
        self.thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        for event in self.stream:
            self.moments[event["id"]].setdefault(event["Action"], event["timeNano"] / 1e9)

    def __enter__(self) -> Events:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stream.close()
        self.client.close()


def ready_at(client: docker.DockerClient, container_id: str) -> float:
    """When it said itself that it is loaded."""
    log = client.api.logs(container_id, timestamps=True).decode()
    found = re.search(r"^(\S+?)(\.\d+)Z .*: ready$", log, re.MULTILINE)
    if not found:
        raise RuntimeError(f"{container_id} never said that it is ready:\n{log}")
    whole = datetime.datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
    return whole + float(found[2])


def least_of(fleet: Fleet, number: int, old: str, outcomes: Sequence[Outcome], events: Events) -> Least:
    """What the replica needed, of what was seen."""
    new = fleet.ids()[number]
    before, after = events.moments[old], events.moments[new]
    away = fleet.drained_at.get(number, before["kill"])
    name = f"{fleet.service}-{number}"
    answers = [each for each in outcomes if (each.replica, each.version) == (name, OLD)]
    ends = [each.ended for each in answers if each.result == "ok"]
    held = [each.ended for each in answers if each.result == "ok" and each.at < away]
    idle = min(max([away, *ends]), before["die"])
    return Least(
        drain=idle - away,
        strict_drain=min(max([away, *held]), idle) - away,
        stop=before["die"] - max(idle, before["kill"]),
        start=ready_at(fleet.client, new) - after["start"],
    )


def measure(fleet: Fleet, rate: float) -> Result:
    """One rollout, under load from before until after it."""
    try:
        fleet.bring(OLD)
        fleet.lab.wait_serving(fleet.service, OLD, REPLICAS)
        old = fleet.ids()
        with (
            Events(fleet.lab) as events,
            OpenLoad(fleet.lab.url, rate, host=fleet.host, lengths=LENGTHS) as load,
        ):
            load.wait_until(1)
            time.sleep(WARM_UP_SECONDS)
            begin = time.time()
            fleet.roll(NEW)
            fleet.lab.wait_serving(fleet.service, NEW, REPLICAS)
            seconds = time.time() - begin
            load.wait_for_more(int(rate * 2))
        report = load.report()
        leasts = {number: least_of(fleet, number, old[number], report.outcomes, events) for number in NUMBERS}
    finally:
        fleet.remove()
    return result_of(fleet, report, seconds, leasts)


def result_of(fleet: Fleet, report: Report, seconds: float, leasts: dict[int, Least]) -> Result:
    """All of it in one."""
    every = leasts.values()
    steps: dict[str, float] = defaultdict(float)
    for (name, begin), (_next, end) in itertools.pairwise(fleet.steps):
        if name:
            steps[name] += end - begin
    return Result(
        way=fleet.name,
        sent=report.sent,
        lost=report.sent - len(report.ok) - len(report.refused),
        refused=len(report.refused),
        seconds=seconds,
        least_seconds=sum(each.drain + each.stop + each.start for each in every),
        strict_least_seconds=sum(each.strict_drain + each.stop + each.start for each in every),
        replicas={str(number): str(each) for number, each in leasts.items()},
        steps=dict(steps),
        first_byte_p99=report.first_byte(0.99),
        sender_late_p99=report.late(0.99),
        examples=sorted({each.reason for each in report.failed})[:5],
    )


@contextmanager
def installed(say: Callable[[str], None]) -> Iterator[None]:
    """Debian's docker-compose while inside; what was not there before is removed again."""
    if shutil.which(PACKAGE):
        yield
        return
    if os.geteuid() != 0:
        sys.exit(f"{PACKAGE} is not installed, and to install it for this run takes root.")
    apt = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    quiet: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 600}
    quiet["env"] = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    plan = subprocess.run([*apt, "-s", "install", PACKAGE], check=False, **quiet)
    brought = re.findall(r"^Inst (\S+)", plan.stdout, re.MULTILINE)
    changed = re.findall(r"^(?:Inst \S+ \[|Remv )", plan.stdout, re.MULTILINE)
    if plan.returncode or PACKAGE not in brought or changed:
        sys.exit(
            f"{PACKAGE} cannot be installed without changing other packages:\n{plan.stdout}{plan.stderr}"
        )
    say(f"Installing for this run: {' '.join(brought)}")
    try:
        done = subprocess.run([*apt, "install", PACKAGE], check=False, **quiet)
        if done.returncode:
            sys.exit(f"{PACKAGE} cannot be installed:\n{done.stdout}{done.stderr}")
        yield
    finally:
        plan = subprocess.run([*apt, "-s", "purge", *brought], check=False, **quiet)
        others = set(re.findall(r"^(?:Purg|Remv) (\S+)", plan.stdout, re.MULTILINE)) - set(brought)
        if others:
            say(f"Not removed, as others need it by now: {' '.join(sorted(others))}")
        else:
            done = subprocess.run([*apt, "purge", *brought], check=False, **quiet)
            say("Removed again." if done.returncode == 0 else f"Not removed:\n{done.stderr}")


def compose_version() -> str:
    """As it tells it."""
    said = subprocess.run([PACKAGE, "version", "--short"], check=True, capture_output=True, text=True)
    return said.stdout.strip()


def table(results: Sequence[Result]) -> list[str]:
    """One line a rollout."""
    head = f"{'':<10}{'sent':>6}{'lost':>6}{'refused':>9}{'roll s':>9}{'least s':>9}{'over s':>9}"
    lines = [f"{head}{'ratio':>8}{'strict':>8}{'first byte p99':>16}"]
    lines += [
        f"{each.way:<10}{each.sent:>6}{each.lost:>6}{each.refused:>9}{each.seconds:>9.1f}"
        f"{each.least_seconds:>9.1f}{each.over:>9.1f}{each.ratio:>8.2f}{each.strict_ratio:>8.2f}"
        f"{each.first_byte_p99:>14.2f} s"
        for each in results
    ]
    for each in results:
        for number, what in each.replicas.items():
            lines.append(f"  {each.way}, replica {number}: {what}")
        slow = {name: seconds for name, seconds in each.steps.items() if seconds >= STEP_SECONDS}
        if slow:
            told = (f"{name} {seconds:.1f} s" for name, seconds in slow.items())
            lines.append(f"  {each.way}, steps of all replicas together: {'; '.join(told)}")
        lines += [f"  {each.way}, lost for example: {example}" for example in each.examples]
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=1, help="that each way is taken")
    parser.add_argument("--rate", type=float, default=8.0, help="requests a second")
    parser.add_argument("--ways", nargs="+", default=[], metavar="WAY", help="ours, compose, by hand; all")
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON")
    options = parser.parse_args()
    if options.times < 1 or options.rate <= 0:
        parser.error("--times and --rate want to be more than 0")
    ways = [way for way in (Ours, Compose, ByHand) if way.name in options.ways or not options.ways]

    def say(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    say(f"{REPLICAS} replicas replaced at {options.rate:g} requests a second; {load_average()}.")
    results = []
    with lab() as made, installed(say) if Compose in ways else nullcontext():
        if Compose in ways:
            say(f"docker-compose is {compose_version()}.")
        for time_of in range(options.times):
            for way in ways[time_of % len(ways) :] + ways[: time_of % len(ways)]:
                results.append(measure(way(made), options.rate))
                say(f"  {way.name}: done; {load_average()}")
    if options.json:
        print(json.dumps([each.plain() for each in results], indent=2))
        return
    say("\n" + "\n".join(table(results)))
    ours = [each.ratio for each in results if each.way == Ours.name]
    if ours:
        say(f"\nOurs takes {statistics.median(ours):.2f} times the least; the goal is {GOAL_RATIO}.")
    say(f"At the end: {load_average()}.")


if __name__ == "__main__":
    main()
