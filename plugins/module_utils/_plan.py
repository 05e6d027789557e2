# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to happen, replica by replica, so that the wanted replicas run on their slots.

This module util is private to the collection. It knows neither Docker nor Ansible: slots and observed
replicas go in, ordered steps come out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["keep", "start", "create", "replace", "remove"]


class PlanError(Exception):
    """What was asked for cannot be had; the message says so with the figures."""


@dataclass(frozen=True)
class Slot:
    """A place for one replica on one card; on a host without cards C(gpu) is None."""

    gpu: str | None
    index: int
    memory_mib: int | None = None

    @property
    def key(self) -> str:
        """The slot's name in a container's labels, for example V(GPU-5a0e.../0) or V(cpu/1)."""
        return f"{self.gpu or 'cpu'}/{self.index}"


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
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def idle(self) -> str:
        """Why it does not serve although it is as wanted; empty when it does, or will by itself."""
        if self.state not in ("running", "restarting"):
            return f"it is {self.state}"
        return "it was left draining" if self.draining else ""


@dataclass(frozen=True)
class Step:
    """One thing to do (or to leave as it is) for one replica, and why."""

    action: Action
    number: int
    name: str
    reason: str
    slot: Slot | None = None
    container_id: str | None = None

    def __str__(self) -> str:
        where = f" on {self.slot.key}" if self.slot else ""
        return f"{self.action} {self.name}{where}: {self.reason}"


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


def plan(
    service: str,
    count: int,
    slots: Sequence[Slot] | None,
    observed: Sequence[Observed],
    spec_of: Callable[[int, Slot], str],
) -> list[Step]:
    """Ordered steps from what is observed to C(count) replicas.

    A replica keeps its slot while that slot exists, so a second plan decides as the first. Never two on one
    slot: what frees a slot stands before what needs it. What adds capacity without taking a slot from anyone
    comes first, so that a replacement finds its neighbours already at work.

    C(spec_of(number, slot)) is the hash of the specification that the replica is to have there.
    """
    places = spread(slots if slots is not None else [Slot(None, index) for index in range(count)])
    by_key = {slot.key: slot for slot in places}
    by_number: dict[int, Observed] = {}
    for replica in sorted(observed, key=lambda replica: (replica.number, replica.aside)):
        by_number.setdefault(replica.number, replica)
    cut_off = {replica.number for replica in observed if replica.aside}
    occupied = {replica.slot for replica in observed}

    seats: dict[int, Slot] = {}
    for replica in by_number.values():
        slot = by_key.get(replica.slot)
        if replica.number <= count and slot and slot not in seats.values():
            seats[replica.number] = slot
    free = [slot for slot in places if slot not in seats.values()]
    # A slot that nobody sits on needs no waiting; prefer it for the replicas still to be seated.
    free.sort(key=lambda slot: slot.key in occupied)
    for number in range(1, count + 1):
        if number not in seats:
            seats[number] = free.pop(0)

    removes = [
        Step("remove", number, f"{service}-{number}", f"{count} wanted", container_id=replica.container_id)
        for number, replica in by_number.items()
        if number > count
    ]
    keeps: list[Step] = []
    early: list[Step] = []
    replaces: list[Step] = []
    late: list[Step] = []
    for number, slot in sorted(seats.items()):
        name = f"{service}-{number}"
        seated = by_number.get(number)
        if seated is None:
            step = Step("create", number, name, "wanted and not there", slot)
            (late if slot.key in occupied else early).append(step)
            continue
        reason = _difference(seated, slot, spec_of(number, slot))
        if number in cut_off:
            reason = "an earlier run was cut off while it was replaced"
        if reason:
            replaces.append(Step("replace", number, name, reason, slot, seated.container_id))
        elif seated.idle:
            early.append(Step("start", number, name, seated.idle, slot, seated.container_id))
        else:
            keeps.append(Step("keep", number, name, "as wanted", slot, seated.container_id))
    return [*keeps, *early, *removes, *replaces, *late]


def _difference(replica: Observed, slot: Slot, spec: str) -> str:
    if replica.slot != slot.key:
        return f"its slot {replica.slot} is gone or taken"
    if replica.spec != spec:
        return f"its specification changed ({replica.spec or 'none'} -> {spec})"
    return ""
