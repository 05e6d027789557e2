# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: from what is observed to what is wanted, and never two replicas on one slot on the way."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import (
    Observed,
    PlanError,
    Slot,
    Step,
    wanted_count,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_steps import plan
from hypothesis import given
from hypothesis import strategies as st

CARD_A = [Slot("GPU-a", 0, 8192), Slot("GPU-a", 1, 8192)]
CARD_B = [Slot("GPU-b", 0, 8192), Slot("GPU-b", 1, 8192)]


def replica(number: int, slot: Slot, spec: str = "new", state: str = "running") -> Observed:
    return Observed(number, f"tts-{number}", f"id-{number}", slot.key, spec, "r1", state, "healthy")


def steps(count: int, slots: list[Slot] | None, observed: list[Observed], spec: str = "new") -> list[Step]:
    return plan("tts", count, slots, observed, lambda _number, _slot: spec)


def told(planned: list[Step]) -> list[tuple[str, str, str | None]]:
    return [(step.action, step.name, step.slot.key if step.slot else None) for step in planned]


def test_new_replicas_take_the_first_slot_of_every_card_before_any_second() -> None:
    assert told(steps(3, CARD_A + CARD_B, [])) == [
        ("create", "tts-1", "GPU-a/0"),
        ("create", "tts-2", "GPU-b/0"),
        ("create", "tts-3", "GPU-a/1"),
    ]


def test_what_runs_as_wanted_is_kept_on_its_slot() -> None:
    observed = [replica(1, CARD_A[1]), replica(2, CARD_A[0])]
    assert told(steps(2, CARD_A, observed)) == [("keep", "tts-1", "GPU-a/1"), ("keep", "tts-2", "GPU-a/0")]


def test_a_stopped_replica_is_started_and_an_outdated_one_replaced() -> None:
    observed = [replica(1, CARD_A[0], spec="old"), replica(2, CARD_A[1], state="exited")]
    planned = steps(2, CARD_A, observed)
    assert told(planned) == [("start", "tts-2", "GPU-a/1"), ("replace", "tts-1", "GPU-a/0")]
    assert "old -> new" in planned[1].reason


def test_a_replica_left_draining_is_put_to_work_again() -> None:
    planned = steps(1, CARD_A, [dataclasses.replace(replica(1, CARD_A[0]), draining=True)])
    assert [(step.action, step.reason) for step in planned] == [("start", "it was left draining")]


def test_what_a_cut_off_run_set_aside_is_taken_up_again_on_its_slot() -> None:
    aside = dataclasses.replace(replica(1, CARD_A[1], spec="old", state="exited"), aside=True)
    assert told(steps(1, CARD_A, [aside])) == [("replace", "tts-1", "GPU-a/1")]
    planned = steps(1, CARD_A, [aside, replica(1, CARD_A[1])])
    assert told(planned) == [("replace", "tts-1", "GPU-a/1")]
    assert "cut off" in planned[0].reason
    assert told(steps(0, CARD_A, [aside, replica(1, CARD_A[1])])) == [("remove", "tts-1", None)]


def test_a_replica_more_comes_before_the_others_are_replaced() -> None:
    planned = steps(2, CARD_A, [replica(1, CARD_A[0], spec="old")])
    assert [step.action for step in planned] == ["create", "replace"]


def test_a_slot_is_freed_before_it_is_taken() -> None:
    # Replica 2 sits on the only slot that is left for replica 1, and is one too many.
    planned = steps(1, CARD_A[1:], [replica(2, CARD_A[1])])
    assert told(planned) == [("remove", "tts-2", None), ("create", "tts-1", "GPU-a/1")]


def test_a_replica_whose_card_is_gone_moves() -> None:
    planned = steps(2, CARD_B, [replica(1, CARD_A[0]), replica(2, CARD_B[0])])
    assert told(planned) == [("keep", "tts-2", "GPU-b/0"), ("replace", "tts-1", "GPU-b/1")]
    assert "GPU-a/0 is gone" in planned[1].reason


def test_on_the_cpu_as_many_slots_as_asked_for() -> None:
    assert told(steps(2, None, [])) == [("create", "tts-1", "cpu/0"), ("create", "tts-2", "cpu/1")]


@pytest.mark.parametrize(("asked", "count"), [("max", 2), ("2", 2), (1, 1), ("0", 0)])
def test_wanted_count(asked: str | int, count: int) -> None:
    assert wanted_count("tts", asked, CARD_A, "") == count


@pytest.mark.parametrize(
    ("asked", "slots", "said"),
    [
        (3, CARD_A, "3 replicas were asked for and 2 fit. Ask for at most 2, or for 'max'. RTX 4090"),
        ("max", None, "counts cards"),
        ("-1", CARD_A, "-1"),
        ("many", CARD_A, "'many'"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(
    asked: str | int, slots: list[Slot] | None, said: str
) -> None:
    with pytest.raises(PlanError, match="tts: ") as refused:
        wanted_count("tts", asked, slots, "RTX 4090 #0: 24564 MiB -> 2 x 8192 MiB")
    assert said in str(refused.value)


ALL_SLOTS = [Slot(f"GPU-{card}", index) for card in "abcd" for index in range(2)]


@given(
    here=st.sets(st.sampled_from(ALL_SLOTS), max_size=8),
    seats=st.lists(st.sampled_from(ALL_SLOTS), unique=True, max_size=8),
    specs=st.lists(st.sampled_from(["new", "old"]), min_size=8, max_size=8),
    asked=st.integers(0, 8),
)
def test_carrying_out_any_plan_never_puts_two_on_a_slot_and_ends_as_wanted(
    here: set[Slot], seats: list[Slot], specs: list[str], asked: int
) -> None:
    slots = sorted(here, key=lambda slot: slot.key)
    count = min(asked, len(slots))
    observed = [replica(n, slot, specs[n - 1]) for n, slot in enumerate(seats, start=1)]
    sitting = {seen.number: seen.slot for seen in observed}
    for step in steps(count, slots, observed):
        if step.action == "remove":
            del sitting[step.number]
        elif step.action in ("create", "replace"):
            assert step.slot is not None
            others = {key for number, key in sitting.items() if number != step.number}
            assert step.slot.key not in others
            sitting[step.number] = step.slot.key
    assert sorted(sitting) == list(range(1, count + 1))
    assert set(sitting.values()) <= {slot.key for slot in slots}
    settled = [replica(number, next(s for s in slots if s.key == key)) for number, key in sitting.items()]
    assert {step.action for step in steps(count, slots, settled)} <= {"keep"}
