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
from made_up_fleet import Fleet, container

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


def test_replicas_that_wait_for_each_others_place_exchange_their_slots() -> None:
    """As three runs leave them that were cut off, each with another wish: three have room on a, one on c."""
    slots = [Slot("GPU-a", 0), Slot("GPU-a", 1), Slot("GPU-a", 2), Slot("GPU-c", 0)]
    observed = [
        container(1, "GPU-c/0", "y@GPU-c/0", "running", "starting"),
        container(1, "GPU-a/0", "y@GPU-a/0", aside=True),
        *(container(number, f"GPU-a/{number - 1}", "y") for number in (2, 3)),
        container(4, "GPU-c/1", "y"),
    ]
    planned = steps(4, slots, observed)
    assert sorted(slot for _action, _name, slot in told(planned) if slot) == sorted(
        slot.key for slot in slots
    )
    fleet = Fleet.of(observed)
    for step in planned:
        for _moment in fleet.carry_out(step, lambda _number, _slot: "new"):
            seats = [each.slot for each in fleet.running]
            assert len(seats) == len(set(seats))
    assert fleet.serving == {1, 2, 3, 4}


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


def test_with_a_free_slot_successors_come_first_and_each_leaves_its_slot_to_the_next() -> None:
    slots = [Slot("GPU-a", index) for index in range(3)]
    observed = [replica(1, slots[0], spec="old"), replica(2, slots[1], spec="old")]
    planned = steps(2, slots, observed)
    assert [(step.name, step.from_slot, step.slot and step.slot.key) for step in planned] == [
        ("tts-1", "GPU-a/0", "GPU-a/2"),
        ("tts-2", "GPU-a/1", "GPU-a/0"),
    ]
    assert [(step.surge, step.takes_out) for step in planned] == [(True, False), (True, False)]
    stay = plan("tts", 2, slots, observed, lambda _number, _slot: "new", surge=False)
    assert [(step.slot, step.surge, step.takes_out) for step in stay] == [
        (slots[0], False, True),
        (slots[1], False, True),
    ]


def test_on_the_cpu_a_slot_is_free_only_where_it_is_said_so() -> None:
    observed = [replica(1, Slot(None, 0), spec="old")]
    assert [step.surge for step in steps(1, None, observed)] == [False]
    planned = plan("tts", 1, None, observed, lambda _number, _slot: "new", cpu_slots=2)
    assert [(step.surge, step.slot) for step in planned] == [(True, Slot(None, 1))]


def test_what_does_not_serve_is_replaced_where_it_is() -> None:
    planned = steps(1, CARD_A, [dataclasses.replace(replica(1, CARD_A[0], spec="old"), health="unhealthy")])
    assert [(step.slot, step.surge, step.takes_out) for step in planned] == [(CARD_A[0], False, False)]


def test_surges_leave_the_cards_as_evenly_filled_as_they_were() -> None:
    slots = [CARD_A[0], CARD_A[1], CARD_B[0]]
    planned = steps(2, slots, [replica(1, CARD_A[0], spec="old"), replica(2, CARD_B[0], spec="old")])
    assert all(step.surge for step in planned)
    assert sorted(step.slot.card for step in planned if step.slot) == ["GPU-a", "GPU-b"]


def test_no_successor_comes_first_on_a_card_that_has_too_many_already() -> None:
    # Card a lost its third slot: a/0 is free, and yet the card is full.
    observed = [replica(1, CARD_A[1]), replica(2, Slot("GPU-a", 2))]
    planned = steps(2, CARD_A, observed)
    assert told(planned) == [("keep", "tts-1", "GPU-a/1"), ("replace", "tts-2", "GPU-a/0")]
    assert [step.surge for step in planned] == [False, False]
    stopped = [replica(1, CARD_A[0], state="exited"), replica(2, CARD_A[1]), replica(3, Slot("GPU-a", 2))]
    assert [step.action for step in steps(2, CARD_A, stopped)] == ["keep", "remove", "start"]


def test_first_what_costs_nothing_then_what_is_too_many_then_those_that_serve() -> None:
    observed = [
        replica(1, CARD_A[0], spec="old"),
        dataclasses.replace(replica(2, CARD_A[1], spec="old"), health="unhealthy"),
        replica(3, CARD_B[0], state="exited"),
        replica(5, CARD_B[1]),
    ]
    planned = steps(4, [*CARD_A, *CARD_B, Slot("GPU-c", 0)], observed)
    assert [(step.action, step.number) for step in planned] == [
        ("replace", 2),
        ("start", 3),
        ("create", 4),
        ("remove", 5),
        ("replace", 1),
    ]
    assert [step.takes_out for step in planned] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state": "restarting", "health": "none"}, "it is restarting"),
        ({"health": "starting"}, "it is still starting"),
        ({"health": "unhealthy"}, "its health is unhealthy"),
    ],
)
def test_a_replica_that_is_not_ready_is_waited_for(change: dict[str, str], reason: str) -> None:
    planned = steps(1, CARD_A, [dataclasses.replace(replica(1, CARD_A[0]), **change)])  # type: ignore[arg-type]
    assert [(step.action, step.reason) for step in planned] == [("start", reason)]


def test_the_first_of_those_that_serve_is_the_canary_if_it_has_neighbours() -> None:
    def canaries(*observed: Observed) -> list[int]:
        planned = plan("tts", len(observed), CARD_A, observed, lambda _number, _slot: "new", canary=True)
        return [step.number for step in planned if step.canary]

    old = [replica(1, CARD_A[0], spec="old"), replica(2, CARD_A[1], spec="old")]
    assert canaries(*old) == [1]
    assert canaries(old[0]) == []
    assert canaries(old[0], replica(2, CARD_A[1])) == [1]
    assert canaries(dataclasses.replace(old[0], state="exited"), old[1]) == [2]


def test_a_surge_that_was_cut_off_is_finished_on_the_slot_of_the_newcomer() -> None:
    aside = dataclasses.replace(replica(1, CARD_A[0], spec="old"), aside=True)
    newcomer = dataclasses.replace(replica(1, CARD_A[1]), health="starting")
    (step,) = steps(1, CARD_A, [aside, newcomer])
    assert (step.action, step.slot, step.surge, step.takes_out) == ("replace", CARD_A[1], True, False)
    assert (step.from_slot, step.container_id) == ("GPU-a/0", "id-1")
    # Nobody wants that newcomer any more: the same slot, and the one set aside serves meanwhile.
    other = dataclasses.replace(newcomer, spec="older")
    (step,) = steps(1, CARD_A, [aside, other])
    assert (step.slot, step.surge, step.takes_out) == (CARD_A[1], True, False)


def test_what_was_set_aside_has_its_slot() -> None:
    aside = dataclasses.replace(replica(1, CARD_A[0], spec="old"), aside=True)
    planned = steps(2, CARD_A, [aside, replica(1, CARD_A[1])])
    assert told(planned) == [("replace", "tts-1", "GPU-a/1"), ("create", "tts-2", "GPU-a/0")]


def test_one_that_was_only_set_aside_serves_on_and_comes_last() -> None:
    aside = dataclasses.replace(replica(1, CARD_A[0], spec="old"), aside=True)
    planned = steps(2, CARD_A, [aside])
    assert [(step.action, step.number, step.takes_out) for step in planned] == [
        ("create", 2, False),
        ("replace", 1, True),
    ]
    # What was not yet replaced at all comes back under its name, and nobody is out.
    planned = steps(1, CARD_A, [dataclasses.replace(aside, spec="new")])
    assert [(step.action, step.takes_out) for step in planned] == [("replace", False)]


def test_containers_that_sit_on_each_others_slots_are_told() -> None:
    asides = [
        dataclasses.replace(replica(1, CARD_A[1]), aside=True),
        dataclasses.replace(replica(2, CARD_A[0]), aside=True),
    ]
    with pytest.raises(PlanError, match="1 on GPU-a/0, 1 on GPU-a/1, 2 on GPU-a/0") as refused:
        steps(2, CARD_A, [*asides, replica(1, CARD_A[0]), replica(2, CARD_A[1])])
    assert "by hand" in str(refused.value)


# --- shares of MPS: a card's limits never add up to more than its slots have ---


def shared(count: int, mib: int) -> list[Slot]:
    mps = {"thread_percentage": 100 // count, "pipe_dir": "/run/nvidia-mps", "uid": "10001"}
    return [Slot("GPU-a", index, mib, mps) for index in range(count)]


def rolled(count: int, slots: list[Slot], held: dict[int, int]) -> list[tuple[str, str, bool]]:
    """The steps, after a look at what the limits add up to while they are taken."""
    observed = [replica(number, Slot("GPU-a", number - 1), spec="old") for number in held]
    planned = plan(
        "tts",
        count,
        slots,
        observed,
        lambda _number, slot: f"{slot.memory_mib}",
        held_mib=lambda container: held[container.number],
    )
    now = dict(held)
    most = max(sum(held.values()), len(slots) * (slots[0].memory_mib or 0))
    for step in planned:
        beside = now.pop(step.number, 0)
        if step.slot:
            during = sum(now.values()) + (slots[0].memory_mib or 0) + (beside if step.surge else 0)
            assert during <= most, (step, now)
            now[step.number] = slots[0].memory_mib or 0
    return [(step.action, step.name, step.surge) for step in planned]


def test_who_comes_waits_until_the_others_have_their_smaller_limits() -> None:
    assert rolled(3, shared(3, 6000), {1: 9000, 2: 9000}) == [
        ("replace", "tts-1", False),
        ("replace", "tts-2", False),
        ("create", "tts-3", False),
    ]


def test_no_successor_comes_first_beside_limits_that_leave_no_room() -> None:
    assert rolled(2, shared(3, 6000), {1: 8192, 2: 8192}) == [
        ("replace", "tts-1", False),
        # 6000 and 8192 leave no 6000 of 18000; and 6000 take the place of 8192.
        ("replace", "tts-2", False),
    ]


def test_fewer_slots_with_larger_limits() -> None:
    assert rolled(2, shared(2, 9000), {1: 6000, 2: 6000, 3: 6000}) == [
        ("remove", "tts-3", False),
        ("replace", "tts-1", False),
        ("replace", "tts-2", False),
    ]


def test_the_same_limit_with_other_shares_is_an_ordinary_replacement() -> None:
    assert rolled(2, shared(3, 6000), {1: 6000, 2: 6000}) == [
        ("replace", "tts-1", True),
        ("replace", "tts-2", True),
    ]


def test_smaller_limits_on_as_many_slots_need_no_room() -> None:
    assert rolled(2, shared(2, 6000), {1: 9000, 2: 9000}) == [
        ("replace", "tts-1", False),
        ("replace", "tts-2", False),
    ]
