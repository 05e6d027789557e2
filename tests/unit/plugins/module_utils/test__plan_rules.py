# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What forbids a plan, and that repairing never is."""

from __future__ import annotations

import json

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed, Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_rules import (
    Outlook,
    drained_by_hand,
    floor_of,
    look_ahead,
    while_drained,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_steps import plan
from made_up_fleet import container

SLOTS = [Slot("GPU-a", 0), Slot("GPU-a", 1), Slot("GPU-b", 0)]


def old(number: int, health: str = "healthy", state: str = "running") -> Observed:
    return container(number, SLOTS[number - 1].key, "old", state, health)


def ahead(
    count: int, observed: list[Observed], slots: int = 0, min_ready: int = -1, accept: bool = False
) -> Outlook:
    """The outlook of a roll to another specification, on as many slots as there are replicas, or more."""
    places = SLOTS[: slots or max(count, len(observed))]
    steps = plan("tts", count, places, observed, lambda _number, _slot: "new")
    return look_ahead("tts", count, steps, observed, min_ready, accept)


def test_one_of_several_may_be_out() -> None:
    assert ahead(3, [old(1), old(2), old(3)]) == Outlook(serving=3, lowest=2, floor=2)
    assert ahead(2, [old(1), old(2)]).out == 1


def test_a_floor_that_a_full_card_cannot_hold_is_refused_with_the_figures() -> None:
    (refusal,) = ahead(2, [old(1), old(2)], min_ready=2).refusals
    assert refusal.startswith(
        "tts: 2 of 2 replicas serve now, and to replace tts-1 would leave 1, where 2 have to (min_ready). "
        "Leave a slot free"
    )
    assert "force" in refusal
    assert ahead(2, [old(1), old(2)], slots=3, min_ready=2).refusals == ()


def test_a_removal_counts_too() -> None:
    (refusal,) = ahead(1, [old(1), old(2)], min_ready=2).refusals
    assert "to remove tts-2 would leave 1" in refusal
    assert ahead(0, [old(1), old(2)]) == Outlook(serving=2, lowest=0, floor=0)


def test_the_only_replica_without_a_free_slot_is_downtime() -> None:
    outlook = ahead(1, [old(1)])
    assert outlook.downtime
    (refusal,) = outlook.refusals
    assert refusal.startswith(
        "tts: 1 of 1 replica serves now, and to replace tts-1 there is neither a free slot"
    )
    assert "nobody answers from its stop until its successor has loaded" in refusal
    assert ahead(1, [old(1)], accept=True) == Outlook(serving=1, lowest=0, floor=1, downtime=True)
    assert ahead(1, [old(1)], slots=2) == Outlook(serving=1, lowest=1, floor=1)
    (refusal,) = ahead(1, [old(1)], min_ready=1, accept=True).refusals
    assert "would leave 0, where 1 has to (min_ready)" in refusal


@pytest.mark.parametrize("min_ready", [-1, 0, 3])
def test_nothing_that_repairs_is_refused(min_ready: int) -> None:
    assert ahead(3, [], min_ready=min_ready).refusals == ()
    crashed = [old(1, "none", "exited"), old(2, "unhealthy"), old(3, "starting")]
    assert ahead(3, crashed, min_ready=min_ready).refusals == ()
    assert ahead(3, crashed, min_ready=min_ready).out == 0


def test_those_that_are_repaired_first_stand_in_for_the_others() -> None:
    outlook = ahead(2, [old(1), old(2, "unhealthy")])
    assert outlook == Outlook(serving=1, lowest=1, floor=1)
    (refusal,) = ahead(3, [old(1), old(2, "unhealthy"), old(3)], min_ready=3).refusals
    assert "Repair those that do not serve" in refusal


@pytest.mark.parametrize(
    ("count", "serving", "min_ready", "floor"),
    [(4, 4, -1, 3), (4, 2, -1, 1), (2, 4, -1, 1), (1, 1, -1, 1), (1, 0, -1, 1), (0, 3, -1, 0), (4, 4, 0, 0)],
)
def test_the_floor(count: int, serving: int, min_ready: int, floor: int) -> None:
    assert floor_of(count, serving, min_ready) == floor


def test_on_a_drained_host_nothing_is_started() -> None:
    observed = [old(1), old(2, "none", "exited")]
    steps = while_drained(plan("tts", 3, SLOTS, observed, lambda _number, _slot: "new"))
    assert [(step.action, step.number, step.slot) for step in steps] == [("keep", 2, None), ("keep", 1, None)]
    assert "while the host is drained (its specification changed" in steps[0].reason
    assert not any(step.surge or step.takes_out or step.canary for step in steps)
    steps = while_drained(plan("tts", 1, SLOTS, observed, lambda _number, _slot: "old"))
    assert [(step.action, step.number) for step in steps] == [("keep", 1), ("remove", 2)]


def test_the_marker_of_a_drained_host() -> None:
    said = {"by": "anna", "at": "2026-03-01T10:00:00Z", "why": "driver"}
    assert drained_by_hand(None) == {}
    assert drained_by_hand(json.dumps(said)) == said
    for damaged in ("", "{", "[]", '"text"'):
        assert drained_by_hand(damaged) == {"by": "", "at": "", "why": ""}
