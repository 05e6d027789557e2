# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan is about: slots, replicas as they are observed, steps, and how many replicas are wanted.

This module util is private to the collection. It knows neither Docker nor Ansible. The steps are found in
_plan_steps.py, and what forbids a plan is in _plan_rules.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Action = Literal["keep", "start", "create", "replace", "remove"]


class PlanError(Exception):
    """What was asked for cannot be had; the message says so with the figures."""


@dataclass(frozen=True)
class Slot:
    """A place for one replica on one card; on a host without cards C(gpu) is None."""

    gpu: str | None
    index: int
    memory_mib: int | None = None
    # On a card that MPS shares, its thread_percentage, and the daemon's pipe_dir and uid (see _mps).
    mps: Mapping[str, Any] | None = None

    @property
    def card(self) -> str:
        """The card's UUID, or V(cpu)."""
        return self.gpu or "cpu"

    @property
    def key(self) -> str:
        """The slot's name in a container's labels, for example V(GPU-5a0e.../0) or V(cpu/1)."""
        return f"{self.card}/{self.index}"


@dataclass(frozen=True)
class Observed:
    """A replica's container as the engine has it, running or not."""

    number: int
    name: str
    container_id: str
    slot: str
    spec: str
    revision: str
    state: str
    health: str
    # Set aside while its successor starts: left over only where a run was cut off.
    aside: bool = False
    # Its drain flag is up: it serves what it has in hand and gets no more.
    draining: bool = False
    image_id: str = ""
    # When the container was created, in seconds since 1970.
    created: int = 0
    # Where it has mounted what was removed since it started, and put there anew. Its spec is empty then.
    outdated_mounts: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def card(self) -> str:
        """The card that it sits on, as C(Slot.card)."""
        return card_of(self.slot)

    @property
    def running(self) -> bool:
        """Whether it has, or may have again at any moment, memory of its card."""
        return self.state in ("running", "restarting", "paused")

    @property
    def serving(self) -> bool:
        """Whether callers are sent to it."""
        return self.state == "running" and self.health == "healthy" and not self.draining

    @property
    def idle(self) -> str:
        """Why it does not serve; empty when it does."""
        if self.state != "running":
            return f"it is {self.state}"
        if self.draining:
            return "it was left draining"
        if self.health == "starting":
            return "it is still starting"
        return "" if self.serving else f"its health is {self.health}"


@dataclass(frozen=True)
class Step:
    """One thing to do (or to leave as it is) for one replica, and why."""

    action: Action
    number: int
    name: str
    reason: str
    slot: Slot | None = None
    container_id: str | None = None
    # The new container starts, on a slot that nobody has, before the old one is drained.
    surge: bool = False
    # A replica that serves is out while the step lasts, or for good.
    takes_out: bool = False
    # The first replica that serves to be replaced: the others are there to compare it with.
    canary: bool = False
    from_slot: str = ""
    from_revision: str = ""
    to_revision: str = ""

    def __str__(self) -> str:
        where = f" on {self.slot.key}" if self.slot else ""
        return f"{self.action} {self.name}{where}: {self.reason}"


@dataclass(frozen=True)
class Replica:
    """All containers of one number: the one that bears its name, and one that a run cut off has set aside."""

    number: int
    current: Observed | None = None
    aside: Observed | None = None

    @property
    def containers(self) -> tuple[Observed, ...]:
        """The current one first."""
        return tuple(each for each in (self.current, self.aside) if each)

    @property
    def here(self) -> Observed:
        """The one that bears its name, or did until a run was cut off."""
        return self.containers[0]

    @property
    def serving(self) -> bool:
        """Whether any of them is."""
        return any(each.serving for each in self.containers)


def card_of(key: str) -> str:
    """The card of the slot with this key."""
    return key.rpartition("/")[0]


def replicas_of(observed: Sequence[Observed]) -> dict[int, Replica]:
    """The observed containers by the number of their replica, in order."""
    found: dict[int, Replica] = {}
    for each in sorted(observed, key=lambda each: each.number):
        known = found.get(each.number, Replica(each.number))
        found[each.number] = replace(known, aside=each) if each.aside else replace(known, current=each)
    return found


def wanted_count(service: str, asked: int | str, slots: Sequence[Slot] | None, summary: str) -> int:
    """How many replicas to run: C(asked), a number or V(max), held against the slots there are.

    C(slots) is None on a host where replicas take no card: any number may be asked for, and V(max) has no
    meaning. C(summary) is the capacity's own account, shown when more are asked for than fit.
    """
    if asked == "max":
        if slots is None:
            raise PlanError(
                f"{service}: replicas is 'max', which counts cards, and this service runs on the CPU. "
                "Give a number."
            )
        return len(slots)
    try:
        count = int(asked)
    except ValueError:
        raise PlanError(f"{service}: replicas is {asked!r}; give a number or 'max'.") from None
    if count < 0:
        raise PlanError(f"{service}: replicas is {count}; give 0, a positive number or 'max'.")
    if slots is not None and count > len(slots):
        raise PlanError(
            f"{service}: {count} replicas were asked for and {len(slots)} fit. "
            f"Ask for at most {len(slots)}, or for 'max'. {summary}".rstrip()
        )
    return count


def spread(slots: Sequence[Slot]) -> list[Slot]:
    """Slots in the order in which replicas take them: the first of each card, then the second of each."""
    return sorted(slots, key=lambda slot: slot.index)
