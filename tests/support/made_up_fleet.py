# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for an engine with replicas: the steps of a plan taken in memory, moment by moment.

It does with a step what _rollout does with containers, in the same order, and can be left at any moment as a
run that is killed leaves an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed, Slot, Step

SpecOf = Callable[[int, Slot], str]


def container(
    number: int, slot: str, spec: str, state: str = "running", health: str = "healthy", aside: bool = False
) -> Observed:
    """One replica's container of the service C(tts)."""
    name = f"tts-{number}{'.old' if aside else ''}"
    return Observed(number, name, f"id-{name}-{slot}-{spec}", slot, spec, spec, state, health, aside)


@dataclass
class Fleet:
    """Containers by number and whether they are set aside."""

    containers: dict[tuple[int, bool], Observed] = field(default_factory=dict)

    @classmethod
    def of(cls, observed: Sequence[Observed]) -> Fleet:
        return cls({(each.number, each.aside): each for each in observed})

    @property
    def observed(self) -> list[Observed]:
        return [self.containers[key] for key in sorted(self.containers)]

    @property
    def running(self) -> list[Observed]:
        return [each for each in self.observed if each.running]

    @property
    def serving(self) -> set[int]:
        return {each.number for each in self.observed if each.serving}

    def carry_out(self, step: Step, spec_of: SpecOf) -> Iterator[str]:
        """Take the step; between any two changes of a container, say what was done."""
        current, aside = (step.number, False), (step.number, True)
        if step.action == "keep":
            return
        if step.slot is None:
            for key in (current, aside):
                if key in self.containers:
                    yield from self._take_out(key)
                    del self.containers[key]
                    yield f"removed {key}"
            return
        wanted = spec_of(step.number, step.slot)
        here = self.containers.get(current)
        if here and (here.spec, here.slot) == (wanted, step.slot.key):
            if not step.surge and aside in self.containers:
                yield from self._take_out(aside)
            yield from self._finish(current, aside)
            return
        if here and aside in self.containers:
            yield from self._take_out(current)
            del self.containers[current]
            yield "removed the unwanted newcomer"
        elif here:
            if not step.surge:
                yield from self._take_out(current)
            here = self.containers.pop(current)
            self.containers[aside] = replace(here, name=f"{here.name}.old", aside=True)
            yield "set aside"
        old = self.containers.get(aside)
        if old and (old.spec, old.slot) == (wanted, step.slot.key):
            del self.containers[aside]
            self.containers[current] = replace(old, name=step.name, aside=False)
            yield "brought back"
        else:
            if old and not step.surge:
                yield from self._take_out(aside)
            self.containers[current] = container(
                step.number, step.slot.key, wanted, state="created", health="none"
            )
            yield "created"
        yield from self._finish(current, aside)

    def _take_out(self, key: tuple[int, bool]) -> Iterator[str]:
        seen = self.containers[key]
        if seen.state == "running":
            self.containers[key] = replace(seen, draining=True, health="unhealthy")
            yield f"drained {key}"
        if seen.running:
            self.containers[key] = replace(seen, draining=True, state="exited", health="none")
            yield f"stopped {key}"

    def _finish(self, current: tuple[int, bool], aside: tuple[int, bool]) -> Iterator[str]:
        seen = self.containers[current]
        if not seen.serving:
            self.containers[current] = replace(seen, state="running", health="starting", draining=False)
            yield "started"
            self.containers[current] = replace(self.containers[current], health="healthy")
            yield "healthy"
        if aside in self.containers:
            yield from self._take_out(aside)
            del self.containers[aside]
            yield "removed the old one"
