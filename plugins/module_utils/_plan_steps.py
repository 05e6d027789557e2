# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to happen, replica by replica, so that the wanted replicas run on their slots.

This module util is private to the collection. It knows neither Docker nor Ansible: slots and observed
replicas go in, ordered steps come out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import (
    Action,
    Observed,
    PlanError,
    Replica,
    Slot,
    Step,
    card_of,
    replicas_of,
    spread,
)

# Who comes first: what stays, what takes nobody out, what is too many, and those that serve.
KEPT, FREE_OF_COST, TOO_MANY, SERVING = range(4)


def plan(
    service: str,
    count: int,
    slots: Sequence[Slot] | None,
    observed: Sequence[Observed],
    spec_of: Callable[[int, Slot], str],
    *,
    why: Callable[[Observed, Slot], str] | None = None,
    held_mib: Callable[[Observed], int | None] = lambda container: None,
    revision: str = "",
    surge: bool = True,
    canary: bool = False,
    cpu_slots: int = 0,
) -> list[Step]:
    """Ordered steps from what is observed to C(count) replicas.

    A replica keeps its slot while that slot exists, so a second plan decides as the first; only a surge moves
    it. Never two on one slot, nor more on a card than it has slots: what makes room stands before what needs
    it. First comes what takes nobody out (create, start, replace what does not serve), then what is too many,
    then those that serve, one after the other.

    C(spec_of(number, slot)) is the hash of the specification that the replica is to have there, and
    C(why(container, slot)) says how that container differs from it. C(revision) is the wanted one. C(surge)
    lets a replica that serves be replaced on a slot that nobody has. C(held_mib(container)) is the memory
    that MPS limits a container to, which counts beside the number of slots; without cards (C(slots) is None)
    there is one where C(cpu_slots) is more than C(count).

    :raises PlanError: containers that no run of ours leaves behind stand in each other's way.
    """
    places = [Slot(None, index) for index in range(max(count, cpu_slots))] if slots is None else slots
    replicas = replicas_of(observed)
    seats = _seats(count, spread(places), replicas)
    room = _Room(places, replicas, held_mib)

    def by_hash(container: Observed, slot: Slot) -> str:
        return f"its specification changed ({container.spec or 'none'} -> {spec_of(container.number, slot)})"

    def seated(seats: dict[int, Slot]) -> list[Step]:
        tasks = _Tasks(service, replicas, seats, room, spec_of, why or by_hash, revision)
        return _evenly(room, tasks.all(count), surge)

    try:
        steps = seated(seats)
    except PlanError:
        steps = _exchanged(seated, seats)
        if not steps:
            raise
    serving = [step for step in steps if step.action == "replace" and (step.takes_out or step.surge)]
    serving = [step for step in serving if replicas[step.number].aside is None]
    if canary and serving and len(replicas) > 1:
        steps[steps.index(serving[0])] = replace(serving[0], canary=True)
    return steps


def _seats(count: int, places: list[Slot], replicas: dict[int, Replica]) -> dict[int, Slot]:
    """The slot of every wanted replica: its own while there is one, else one that is free."""
    by_key = {slot.key: slot for slot in places}
    seats: dict[int, Slot] = {}
    wanted = range(1, count + 1)

    def seat(number: int, options: Iterable[Slot]) -> None:
        taken = {slot.key for slot in seats.values()}
        chosen = next((slot for slot in options if slot.key not in taken), None)
        if chosen and number not in seats:
            seats[number] = chosen

    # A newcomer's slot comes before that of the one that was set aside for it.
    for which in ("current", "aside"):
        for number in wanted:
            container = getattr(replicas.get(number), which, None)
            if container and container.slot in by_key:
                seat(number, [by_key[container.slot]])
    # A slot that nobody sits on needs no waiting.
    occupied = {each.slot for replica in replicas.values() for each in replica.containers}
    free = sorted(places, key=lambda slot: slot.key in occupied)
    # Who has to move stays on its card if it can: so no two ever wait for each other's card.
    for number in wanted:
        if number in replicas:
            seat(number, [slot for slot in free if slot.card == replicas[number].here.card])
    for number in sorted(wanted, key=lambda number: number not in replicas):
        seat(number, free)
    return seats


@dataclass(frozen=True)
class _Task:
    """A step whose moment is still to be found."""

    step: Step
    rank: int
    # It is a replacement like any other, for which a free slot will do.
    may_surge: bool = False


class _Tasks:
    """What is to be done with each replica, in no order yet."""

    def __init__(
        self,
        service: str,
        replicas: dict[int, Replica],
        seats: dict[int, Slot],
        room: _Room,
        spec_of: Callable[[int, Slot], str],
        why: Callable[[Observed, Slot], str],
        revision: str,
    ) -> None:
        self.service, self.replicas, self.seats, self.room = service, replicas, seats, room
        self.spec_of, self.why, self.revision = spec_of, why, revision

    def all(self, count: int) -> list[_Task]:
        tasks = []
        for number in sorted({*self.seats, *self.replicas}):
            slot, replica = self.seats.get(number), self.replicas.get(number)
            if slot is None:
                step = self._step("remove", number, f"{count} wanted")
                tasks.append(_Task(replace(step, takes_out=self.replicas[number].serving), TOO_MANY))
            elif replica is None:
                tasks.append(_Task(self._step("create", number, "wanted and not there", slot), FREE_OF_COST))
            elif replica.aside:
                tasks.append(self._resumed(replica, replica.aside, slot))
            else:
                tasks.append(self._settled(replica.here, slot))
        return tasks

    def _settled(self, container: Observed, slot: Slot) -> _Task:
        number = container.number
        if container.slot != slot.key:
            reason = f"its slot {container.slot} is gone or taken"
        elif container.spec != self.spec_of(number, slot):
            reason = self.why(container, slot)
        elif container.idle:
            return _Task(self._step("start", number, container.idle, slot), FREE_OF_COST)
        else:
            return _Task(self._step("keep", number, "as wanted", slot), KEPT)
        return self._replacement(self._step("replace", number, reason, slot), container.serving)

    def _resumed(self, replica: Replica, aside: Observed, slot: Slot) -> _Task:
        """A run was cut off in the middle of this replica: what it takes to get to the end of it."""
        newcomer, number = replica.current, replica.number
        step = self._step("replace", number, "an earlier run was cut off while it was replaced", slot)
        back = aside.slot == slot.key and aside.spec == self.spec_of(number, slot)
        if newcomer is None:
            return self._replacement(step, aside.serving and not back)
        done = newcomer.slot == slot.key and newcomer.spec == self.spec_of(number, slot)
        beside = int(aside.card == slot.card)
        room = (done and newcomer.running) or self.room.fits(number, slot, beside)
        surge = aside.running and aside.slot != slot.key and room
        stays = (done and newcomer.serving) or ((surge or back) and aside.serving)
        out = replica.serving and not stays
        return _Task(replace(step, surge=surge and not out, takes_out=out), SERVING if out else FREE_OF_COST)

    def _replacement(self, step: Step, serving: bool) -> _Task:
        rank = SERVING if serving else FREE_OF_COST
        return _Task(replace(step, takes_out=serving), rank, may_surge=serving)

    def _step(self, action: Action, number: int, reason: str, slot: Slot | None = None) -> Step:
        replica = self.replicas.get(number)
        before = (replica.aside or replica.here) if replica else None
        came_from = before.revision if before else ""
        return Step(
            action,
            number,
            f"{self.service}-{number}",
            reason,
            slot,
            replica.here.container_id if replica else None,
            from_slot=before.slot if before else "",
            from_revision=came_from,
            to_revision=came_from if action == "keep" else "" if action == "remove" else self.revision,
        )


class _Room:
    """Who sits where while the steps are taken one after the other.

    A container that is stopped keeps its slot: it may have to come back.

    Of containers that MPS limits, the limits count too: those of another size, which an earlier capacity gave
    them, must not add up to more than the slots of today do.
    """

    def __init__(
        self,
        places: Sequence[Slot],
        replicas: dict[int, Replica],
        held_mib: Callable[[Observed], int | None] = lambda container: None,
    ) -> None:
        self.places = spread(places)
        self.of_card: dict[str, int] = {}
        for slot in places:
            self.of_card[slot.card] = self.of_card.get(slot.card, 0) + 1
        self.sitting = {
            number: {each.slot for each in replica.containers} for number, replica in replicas.items()
        }
        self.limits = {
            number: {each.slot: held_mib(each) for each in replica.containers}
            for number, replica in replicas.items()
        }

    def copy(self) -> _Room:
        other = _Room(self.places, {})
        other.sitting = {number: set(sits) for number, sits in self.sitting.items()}
        other.limits = dict(self.limits)
        return other

    def now(self, task: _Task, waiting: Sequence[_Task], surge: bool) -> Step | None:
        """The task as the step that it would be at this moment; None while it has no room."""
        step, own = task.step, self.sitting.get(task.step.number, set())
        if step.slot is None or step.action == "keep":
            return step
        if task.may_surge and surge:
            reserved = {other.step.slot.key for other in waiting if other is not task and other.step.slot}
            options = self.places if step.slot.key in own else [step.slot]
            spare = [
                slot
                for slot in options
                if slot.key not in own
                and slot.key not in reserved
                and not self._taken(step.number, slot)
                and self.fits(step.number, slot, beside=sum(card_of(key) == slot.card for key in own))
            ]
            if spare:
                slot = min(spare, key=lambda slot: self._others_on(step.number, slot.card))
                return replace(step, slot=slot, surge=True, takes_out=False)
        free = not self._taken(step.number, step.slot) and self.fits(step.number, step.slot)
        return step if free else None

    def take(self, step: Step) -> None:
        self.sitting.pop(step.number, None)
        limits = self.limits.pop(step.number, {})
        if step.slot:
            self.sitting[step.number] = {step.slot.key}
            was = limits.get(step.slot.key)
            self.limits[step.number] = {
                step.slot.key: was if step.action in ("keep", "start") else _limit_on(step.slot)
            }

    def _taken(self, number: int, slot: Slot) -> bool:
        return any(slot.key in sits for other, sits in self.sitting.items() if other != number)

    def _others_on(self, number: int, card: str) -> int:
        others = [sits for other, sits in self.sitting.items() if other != number]
        return sum(card_of(key) == card for sits in others for key in sits)

    def fits(self, number: int, slot: Slot, beside: int = 0) -> bool:
        """Whether the card has room for this replica, C(beside) further containers of its own included."""
        counted = self._others_on(number, slot.card) + beside < self.of_card[slot.card]
        return counted and self._fits_in_memory(number, slot, beside)

    def _fits_in_memory(self, number: int, slot: Slot, beside: int) -> bool:
        """Whether the limits of MPS leave room for it. What takes no more than it had before always may."""
        new = _limit_on(slot)
        if new is None:
            return True
        own = self._limits_on(slot.card, [number])
        others = self._limits_on(slot.card, [other for other in self.limits if other != number])
        budget = self.of_card[slot.card] * new
        return others + new + (own if beside else 0) <= budget or (not beside and new <= own)

    def _limits_on(self, card: str, numbers: Sequence[int]) -> int:
        limits = [self.limits.get(number, {}) for number in numbers]
        return sum(mib or 0 for each in limits for key, mib in each.items() if card_of(key) == card)


def _limit_on(slot: Slot) -> int | None:
    """What MPS limits a container on this slot to."""
    return slot.memory_mib if slot.mps else None


def _in_order(room: _Room, tasks: Sequence[_Task], surge: bool) -> list[Step]:
    """The first task that has room, again and again: what waits for room comes as soon as there is some."""
    waiting = sorted(tasks, key=lambda task: task.rank)
    steps: list[Step] = []
    while waiting:
        for task in waiting:
            step = room.now(task, waiting, surge)
            if step:
                break
        else:
            raise PlanError(_stuck(room, waiting[0].step))
        waiting.remove(task)
        room.take(step)
        steps.append(step)
    return steps


def _exchanged(seated: Callable[[dict[int, Slot]], list[Step]], seats: dict[int, Slot]) -> list[Step]:
    """The steps where two replicas exchange their slots; none if that does not help either.

    Runs that were cut off can leave two replicas each of which waits for the other's place.
    """
    for one, other in combinations(sorted(seats), 2):
        with contextlib.suppress(PlanError):
            return seated({**seats, one: seats[other], other: seats[one]})
    return []


def _evenly(room: _Room, tasks: Sequence[_Task], surge: bool) -> list[Step]:
    """The steps in an order that leaves the cards evenly filled.

    Of a chain of surges, the last replica leaves the slot that is free in the end; so orders are tried that
    differ in who that is.
    """
    steps = _in_order(room.copy(), tasks, surge)
    if not any(step.surge for step in steps) or len(room.of_card) < 2:
        return steps
    orders = [steps]
    for last in tasks:
        if last.may_surge:
            others = [task for task in tasks if task is not last]
            orders.append(_in_order(room.copy(), [*others, last], surge))
    return min(orders, key=_unevenness)


def _unevenness(steps: Sequence[Step]) -> int:
    cards = [step.slot.card for step in steps if step.slot]
    return sum(cards.count(card) ** 2 for card in set(cards))


def _stuck(room: _Room, step: Step) -> str:
    slot = step.slot.key if step.slot else ""
    there = [f"{number} on {key}" for number, sits in sorted(room.sitting.items()) for key in sorted(sits)]
    return (
        f"{step.name} is to go to {slot}, and no order of steps makes room for it. These replicas have "
        f"containers on these slots: {', '.join(there)}. No run of this collection leaves them so; remove by "
        "hand the ones that should not be there, and run this again."
    )
