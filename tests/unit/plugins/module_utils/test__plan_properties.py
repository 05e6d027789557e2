# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random fleets, brought to random ends, and left at random moments: what holds at every one of them.

The engine is a stand-in (tests/support/made_up_fleet.py).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed, Slot, card_of
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_rules import look_ahead
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_steps import plan
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_fleet import Fleet, container

CARDS = [[Slot(f"GPU-{card}", index) for index in range(3)] for card in "abc"]
STATES = [
    ("running", "healthy"),
    ("running", "healthy"),
    ("running", "healthy"),
    ("running", "unhealthy"),
    ("running", "starting"),
    ("restarting", "none"),
    ("exited", "none"),
]


@dataclass(frozen=True)
class Wanted:
    """What a run is asked for. Without slots the replicas take no card."""

    slots: list[Slot] | None
    count: int
    spec: str
    surge: bool = True
    cpu_slots: int = 0

    @property
    def places(self) -> list[Slot]:
        if self.slots is not None:
            return self.slots
        return [Slot(None, index) for index in range(max(self.count, self.cpu_slots))]

    def spec_of(self, _number: int, slot: Slot) -> str:
        return f"{self.spec}@{slot.key}"


def run(fleet: Fleet, wanted: Wanted, min_ready: int = -1) -> Iterator[str]:
    """Carry a plan out, and look after every single change whether what it promised holds."""
    steps = plan(
        "tts",
        wanted.count,
        wanted.slots,
        fleet.observed,
        wanted.spec_of,
        surge=wanted.surge,
        cpu_slots=wanted.cpu_slots,
    )
    outlook = look_ahead("tts", wanted.count, steps, fleet.observed, min_ready)
    assert outlook.serving == len(fleet.serving)
    room = Counter(slot.card for slot in wanted.places)
    lowest = served = len(fleet.serving)
    of_card = Counter(card_of(each.slot) for each in fleet.running)
    for step in steps:
        before = fleet.serving
        for moment in fleet.carry_out(step, wanted.spec_of):
            slots = Counter(each.slot for each in fleet.running)
            assert not slots or max(slots.values()) == 1, f"two on a slot: {step}, {moment}, {slots}"
            now = Counter(card_of(each.slot) for each in fleet.running)
            for card, number in now.items():
                assert number <= max(room[card], of_card[card]), f"{card} is over-full: {step}, {moment}"
            of_card = now
            assert len(fleet.serving) >= len(before) - 1, f"two out at once: {step}, {moment}"
            if step.surge or not step.takes_out:
                assert before <= fleet.serving, f"out unannounced: {step}, {moment}"
            if len(fleet.serving) < served and not outlook.refusals:
                assert len(fleet.serving) >= min(outlook.floor, before and len(before)), f"{step}, {moment}"
            served = len(fleet.serving)
            lowest = min(lowest, served)
            yield moment
        assert step.slot is None or step.number in fleet.serving
    assert lowest == outlook.lowest
    assert sorted(fleet.serving) == list(range(1, wanted.count + 1))
    assert len(fleet.containers) == wanted.count
    for each in fleet.observed:
        assert each.slot in {slot.key for slot in wanted.places}
        assert each.spec == f"{wanted.spec}@{each.slot}"
    again = plan(
        "tts",
        wanted.count,
        wanted.slots,
        fleet.observed,
        wanted.spec_of,
        surge=wanted.surge,
        cpu_slots=wanted.cpu_slots,
    )
    assert {step.action for step in again} <= {"keep"}


@st.composite
def wants(draw: st.DrawFn, cpu: bool) -> Wanted:
    if cpu:
        count = draw(st.integers(0, 4))
        return Wanted(None, count, draw(st.sampled_from("xy")), draw(st.booleans()), draw(st.integers(0, 5)))
    slots = [slot for card in CARDS for slot in card[: draw(st.integers(0, 3))]]
    return Wanted(slots, draw(st.integers(0, len(slots))), draw(st.sampled_from("xy")), draw(st.booleans()))


@st.composite
def fleets(draw: st.DrawFn, cpu: bool) -> list[Observed]:
    keys = [f"cpu/{index}" for index in range(6)] if cpu else [slot.key for card in CARDS for slot in card]
    seats = draw(st.lists(st.sampled_from(keys), unique=True, max_size=6))
    numbers = draw(st.lists(st.integers(1, 7), unique=True, min_size=len(seats), max_size=len(seats)))
    found = []
    for number, key in zip(numbers, seats, strict=True):
        state, health = draw(st.sampled_from(STATES))
        found.append(container(number, key, f"{draw(st.sampled_from('xyz'))}@{key}", state, health))
    return found


@settings(max_examples=150, deadline=None)
@given(data=st.data(), cpu=st.booleans())
def test_a_plan_keeps_its_promises_at_every_moment(data: st.DataObject, cpu: bool) -> None:
    fleet = Fleet.of(data.draw(fleets(cpu)))
    for _moment in run(fleet, data.draw(wants(cpu)), data.draw(st.integers(-1, 4))):
        pass


@settings(max_examples=150, deadline=None)
@given(data=st.data(), cpu=st.booleans())
def test_a_run_that_is_killed_anywhere_is_finished_by_any_other(data: st.DataObject, cpu: bool) -> None:
    fleet = Fleet.of(data.draw(fleets(cpu)))
    for _kill in range(data.draw(st.integers(1, 3))):
        moments = list(run(copy.deepcopy(fleet), wanted := data.draw(wants(cpu))))
        if moments:
            rest = run(fleet, wanted)
            for _moment in range(data.draw(st.integers(1, len(moments)))):
                next(rest)
    for _moment in run(fleet, data.draw(wants(cpu))):
        pass
