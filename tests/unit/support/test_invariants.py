# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watch sees each thing that must not be, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from invariants import Container, Phase, Sample, Watch, check_answers, check_samples
from open_load_sender import Outcome


def container(name: str, slot: str = "", state: str = "ready", revision: str = "1") -> Container:
    number = name.removesuffix(".old").rsplit("-", 1)[1]
    return Container(
        name, number, slot or f"cpu/{int(number) - 1}", revision, state != "stopped", state == "ready"
    )


def samples(*moments: list[Container]) -> list[Sample]:
    return [Sample(float(at), tuple(containers)) for at, containers in enumerate(moments)]


def broken(*moments: list[Container], floor: int = 1, slots: int | None = 2) -> list[str]:
    return [violation.invariant for violation in check_samples(samples(*moments), floor, slots)]


BOTH = [container("hard-1"), container("hard-2")]


def test_an_orderly_roll_breaks_nothing() -> None:
    assert not broken(
        BOTH,
        [container("hard-1", state="running"), container("hard-2")],
        [container("hard-1.old", state="stopped"), container("hard-2")],
        [container("hard-1.old", state="stopped"), container("hard-1", state="running"), container("hard-2")],
        [container("hard-1.old", state="stopped"), container("hard-1", revision="2"), container("hard-2")],
        BOTH,
    )


def test_a_successor_on_a_free_slot_before_the_old_one_goes_breaks_nothing() -> None:
    assert not broken(
        [container("hard-1.old"), container("hard-1", slot="cpu/2", state="running"), container("hard-2")],
        [container("hard-1.old"), container("hard-1", slot="cpu/2"), container("hard-2")],
        floor=2,
        slots=3,
    )


def test_two_running_on_one_slot_is_seen_whatever_their_names() -> None:
    assert broken([container("hard-1.old"), container("hard-1"), container("hard-2")], slots=None) == ["I2"]
    assert broken([container("hard-1"), container("hard-2", slot="cpu/0")]) == ["I2"]


def test_more_running_than_slots_is_seen() -> None:
    assert broken([*BOTH, container("hard-3")]) == ["I2"]


def test_fewer_ready_than_the_floor_is_seen() -> None:
    assert broken(BOTH, [container("hard-1", state="running"), container("hard-2")], floor=2) == ["I3"]
    assert broken([]) == ["I3"]


def test_two_in_transition_are_seen() -> None:
    waiting = [container("hard-1", state="running"), container("hard-2", state="stopped")]
    assert broken(waiting, floor=0) == ["I5"]
    renewed = [
        container("hard-1.old", state="stopped"),
        container("hard-1"),
        container("hard-2", state="running"),
    ]
    assert broken(renewed) == ["I5"]


def test_what_lasts_is_one_violation_with_its_times_and_what_comes_again_is_another() -> None:
    found = check_samples(samples(BOTH, [], [], BOTH, []), 1)
    assert [(each.invariant, each.begin, each.end, each.times) for each in found] == [
        ("I3", 1, 2, 2),
        ("I3", 4, 4, 1),
    ]
    assert (
        found[0].told(since=1) == "I3 from 0.0 s to 1.0 s, seen 2 times: 0 ready, 1 have to be: no container"
    )


def outcome(version: str, at: float, whole: float = 1.0, result: str = "ok") -> Outcome:
    return Outcome("id", at, 1, result, "", 200, "hard-1", version, 0, 0.1, 0.1, whole, 100, False)


PHASES = [Phase(0, frozenset({"1"})), Phase(10, frozenset({"1", "2"})), Phase(20, frozenset({"2"}))]


@pytest.mark.parametrize(
    ("version", "at", "fine"),
    [
        ("1", 5, True),
        ("2", 5, False),  # before the rollout began
        ("2", 9.5, True),  # asked before, answered while it ran
        ("1", 15, True),
        ("3", 15, False),
        ("1", 19.9, True),
        ("1", 20, False),  # asked after its success
        ("2", 25, True),
        ("", 25, False),
    ],
)
def test_an_answer_has_to_be_of_a_version_of_its_time(version: str, at: float, fine: bool) -> None:
    found = check_answers([outcome(version, at)], PHASES)
    assert [each.invariant for each in found] == ([] if fine else ["I4"])


def test_versions_are_looked_at_only_when_they_are_told() -> None:
    assert not check_answers([outcome("anything", 5)], [])


def test_a_lost_request_is_a_violation_and_a_refused_one_is_not() -> None:
    found = check_answers([outcome("1", 1, result="failed"), outcome("", 1, result="refused")], PHASES)
    assert [each.invariant for each in found] == ["I1"]


class StandInEngine:
    """Answers the engine's list call with one moment after another, then with the last for ever."""

    def __init__(self, *moments: Any) -> None:
        self.api = self
        self.left: Iterator[Any] = iter(moments)
        self.last: Any = None
        self.asked = 0

    def containers(self, **options: Any) -> list[dict[str, Any]]:
        assert options == {"all": True, "filters": {"label": "voicefleet.service=hard"}}
        self.asked += 1
        self.last = next(self.left, self.last)
        if isinstance(self.last, Exception):
            raise self.last
        return self.last


def listed(name: str, slot: str, status: str, state: str = "running") -> dict[str, Any]:
    labels = {"voicefleet.replica": name[-1], "voicefleet.slot": slot, "voicefleet.revision": "1"}
    return {"Id": name * 9, "Names": [f"/{name}"], "Labels": labels, "State": state, "Status": status}


ONE = listed("hard-1", "cpu/0", "Up 3 seconds (healthy)")
TWO = listed("hard-2", "cpu/1", "Up 3 seconds (healthy)")


def watched(*moments: Any, floor: int = 1) -> Watch:
    engine = StandInEngine(*moments)
    with Watch("hard", floor=floor, slots=2, interval_seconds=0.001, client=engine) as watch:  # type: ignore[arg-type]
        deadline = time.monotonic() + 20
        while engine.asked < len(moments) + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    return watch


def test_a_watch_sees_what_lasted_for_one_look() -> None:
    watch = watched(
        [ONE, TWO], [ONE, listed("hard-2", "cpu/0", "Up 1 second (health: starting)")], [ONE, TWO]
    )
    with pytest.raises(AssertionError, match=r"1 violations.*\n.*I2 from .* 2 containers run on slot cpu/0"):
        watch.assert_held()
    assert len(watch.story()) == 3


def test_health_is_told_from_the_text() -> None:
    unhealthy = listed("hard-2", "cpu/1", "Up 3 seconds (unhealthy)")
    with pytest.raises(AssertionError, match="1 ready, 2 have to be"):
        watched([ONE, TWO], [ONE, unhealthy], floor=2).assert_held()
    with pytest.raises(AssertionError, match="1 ready, 2 have to be"):
        watched([ONE, TWO], [ONE, listed("hard-2", "cpu/1", "Exited (0)", "exited")], floor=2).assert_held()


def test_an_engine_that_does_not_answer_is_told_and_outlived() -> None:
    watch = watched([ONE, TWO], ConnectionError("gone"), [ONE, TWO])
    watch.assert_held()
    assert [error.split(" s: ")[1] for error in watch.errors] == ["gone"]
    with pytest.raises(AssertionError, match="nothing was seen"):
        watched(ConnectionError("gone")).assert_held()


def test_a_watch_holds_answers_against_the_versions_of_their_time() -> None:
    engine = StandInEngine([ONE, TWO])
    with Watch("hard", floor=1, versions={"1"}, client=engine) as watch:  # type: ignore[arg-type]
        watch.expect("1", "2")
        watch.expect("2")
        deadline = time.monotonic() + 20
        while not watch.samples and time.monotonic() < deadline:
            time.sleep(0.01)
    watch.assert_held([outcome("2", time.time())])
    with pytest.raises(AssertionError, match=r"I4 from .* answered by version 1, not 2"):
        watch.assert_held([outcome("1", time.time())])
