# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to hold at every moment of a rollout, looked at ten times a second.

The containers of one service are listed from the engine, by their labels. What is held against them, and
against the answers that callers got meanwhile (open_load.Outcome):

- I1: no accepted request is lost.
- I2: at most one running container a slot, and no more in all than there are slots.
- I3: never fewer replicas ready (running and healthy) than the floor.
- I4: every answer is of a version that may answer then; after a rollout only of the one that it left.
- I5: at most one replica in transition: neither away, nor exactly one container, ready.

    with Watch("hard", floor=1, slots=2, versions={"1"}) as watch, OpenLoad(...) as load:
        watch.expect("1", "2")
        ...  # the rollout
        watch.expect("2")
    watch.assert_held(load.report().outcomes)
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import docker
from docker import DockerClient
from open_load_sender import Outcome

INTERVAL_SECONDS = 0.1
LABEL_SERVICE = "voicefleet.service"
LABEL_NUMBER = "voicefleet.replica"
LABEL_SLOT = "voicefleet.slot"
LABEL_REVISION = "voicefleet.revision"


@dataclasses.dataclass(frozen=True)
class Container:
    """One container of the service, as the engine's list has it."""

    name: str
    number: str
    slot: str
    revision: str
    running: bool
    ready: bool

    def __str__(self) -> str:
        state = "ready" if self.ready else "running" if self.running else "not running"
        return f"{self.name} ({self.revision or 'no revision'}) on {self.slot} {state}"


@dataclasses.dataclass(frozen=True)
class Sample:
    """All containers of the service at one moment, in seconds since 1970."""

    at: float
    containers: tuple[Container, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.containers)) or "no container"

    @property
    def ready(self) -> set[str]:
        """Numbers of the replicas that are ready."""
        return {each.number for each in self.containers if each.ready}

    @property
    def in_transition(self) -> set[str]:
        """Numbers of the replicas that are on their way to somewhere."""
        counts = Counter(each.number for each in self.containers)
        return {number for number, count in counts.items() if count > 1} | (set(counts) - self.ready)


@dataclasses.dataclass(frozen=True)
class Violation:
    """What did not hold, from when to when (seconds since 1970)."""

    invariant: str
    text: str
    begin: float
    end: float
    times: int = 1

    def told(self, since: float) -> str:
        """With the seconds since the watch began."""
        return (
            f"{self.invariant} from {self.begin - since:.1f} s to {self.end - since:.1f} s, seen "
            f"{self.times} times: {self.text}"
        )


@dataclasses.dataclass(frozen=True)
class Phase:
    """From this moment on, these versions may answer."""

    begin: float
    versions: frozenset[str]


def list_containers(client: DockerClient, service: str) -> tuple[Container, ...]:
    """One call of the engine, 2 to 5 ms. Health stands in the list's text alone: V(Up 3 s (healthy))."""
    found = []
    for seen in client.api.containers(all=True, filters={"label": f"{LABEL_SERVICE}={service}"}):
        labels: dict[str, str] = seen["Labels"]
        running = seen["State"] == "running"
        found.append(
            Container(
                name=seen["Names"][0].lstrip("/") if seen["Names"] else seen["Id"][:12],
                number=labels.get(LABEL_NUMBER, ""),
                slot=labels.get(LABEL_SLOT, ""),
                revision=labels.get(LABEL_REVISION, ""),
                running=running,
                ready=running and "(healthy)" in seen["Status"],
            )
        )
    return tuple(sorted(found, key=lambda each: each.name))


def check_samples(
    samples: Iterable[Sample], floor: int, slots: int | None = None, in_transition: int = 1
) -> list[Violation]:
    """I2, I3 and I5 at every sample; what was seen in one sample after another is one violation."""
    found: list[Violation] = []
    open_ones: dict[tuple[str, str], Violation] = {}
    for sample in samples:
        still: dict[tuple[str, str], Violation] = {}
        for invariant, text in _broken(sample, floor, slots, in_transition):
            before = open_ones.pop((invariant, text), None)
            still[(invariant, text)] = Violation(
                invariant,
                text,
                before.begin if before else sample.at,
                sample.at,
                before.times + 1 if before else 1,
            )
        found += open_ones.values()
        open_ones = still
    return sorted([*found, *open_ones.values()], key=lambda each: each.begin)


def _broken(sample: Sample, floor: int, slots: int | None, in_transition: int) -> Iterable[tuple[str, str]]:
    running: Mapping[str, list[Container]] = defaultdict(list)
    for container in sample.containers:
        if container.running:
            running[container.slot].append(container)
    for slot, there in running.items():
        if len(there) > 1:
            yield "I2", f"{len(there)} containers run on slot {slot}: {'; '.join(map(str, there))}"
    total = sum(map(len, running.values()))
    if slots is not None and total > slots:
        yield "I2", f"{total} containers run on {slots} slots: {sample}"
    if len(sample.ready) < floor:
        yield "I3", f"{len(sample.ready)} ready, {floor} have to be: {sample}"
    if len(sample.in_transition) > in_transition:
        yield "I5", f"{len(sample.in_transition)} replicas in transition, {in_transition} may be: {sample}"


def check_answers(outcomes: Iterable[Outcome], phases: Sequence[Phase]) -> list[Violation]:
    """I1 and I4. An answer may be of any version that was allowed at some time between asking and its end."""
    found = []
    for outcome in outcomes:
        if outcome.result == "failed":
            found.append(Violation("I1", str(outcome), outcome.at, outcome.ended))
        if outcome.result != "ok" or not phases:
            continue
        allowed: set[str] = set()
        for phase, following in zip(phases, [*phases[1:], None], strict=True):
            if phase.begin <= outcome.ended and (following is None or outcome.at < following.begin):
                allowed |= phase.versions
        if outcome.version not in allowed:
            text = f"answered by version {outcome.version or 'unknown'}, not {' or '.join(sorted(allowed))}"
            found.append(Violation("I4", f"{text}: {outcome}", outcome.at, outcome.ended))
    return sorted(found, key=lambda each: each.begin)


class Watch:
    """Looks at one service's containers while inside."""

    def __init__(
        self,
        service: str,
        *,
        floor: int,
        slots: int | None = None,
        in_transition: int = 1,
        versions: Collection[str] = (),
        interval_seconds: float = INTERVAL_SECONDS,
        client: DockerClient | None = None,
    ) -> None:
        """C(floor): replicas that have to be ready; C(slots): places for one, None where any number fits.

        C(versions): what X-Model-Version may be from the start on; empty: not looked at. Without C(client) it
        asks the engine on its own, from the environment.
        """
        self.client, self.service = client or docker.from_env(), service
        self.floor, self.slots, self.in_transition = floor, slots, in_transition
        self.interval_seconds = interval_seconds
        self.samples: list[Sample] = []
        self.begin = time.time()
        self.phases = [Phase(self.begin, frozenset(versions))] if versions else []
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def expect(self, *versions: str) -> None:
        """From now on these versions may answer, and no other."""
        self.phases.append(Phase(time.time(), frozenset(versions)))

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.interval_seconds, time.monotonic())
            try:
                containers = list_containers(self.client, self.service)
            except Exception as error:  # whatever it is, it is told; the engine may be restarting
                self.errors.append(f"{time.time() - self.begin:.1f} s: {error}")
                continue
            self.samples.append(Sample(time.time(), containers))

    def violations(self, outcomes: Iterable[Outcome] = ()) -> list[Violation]:
        """All that did not hold, in the order of time."""
        found = check_samples(list(self.samples), self.floor, self.slots, self.in_transition)
        return sorted([*found, *check_answers(outcomes, self.phases)], key=lambda each: each.begin)

    def __str__(self) -> str:
        moments = [self.begin, *(sample.at for sample in self.samples)]
        gap = max((later - earlier for earlier, later in itertools.pairwise(moments)), default=0)
        return (
            f"{len(self.samples)} samples in {moments[-1] - self.begin:.0f} s, the longest time between two "
            f"{gap:.2f} s, {len(self.errors)} without an answer of the engine"
        )

    def assert_held(self, outcomes: Iterable[Outcome] = ()) -> None:
        """Fails with every violation, each with its times."""
        assert self.samples, f"nothing was seen: {self.errors}"
        found = self.violations(outcomes)
        assert not found, "\n".join(
            [f"{len(found)} violations; {self}", *(each.told(self.begin) for each in found[:40])]
        )

    def story(self) -> list[str]:
        """Every change that was seen, with the seconds since the beginning: for a failing test's output."""
        lines, before = [], None
        for sample in self.samples:
            if sample.containers != before:
                lines.append(f"{sample.at - self.begin:6.1f} s  {sample}")
            before = sample.containers
        return lines
