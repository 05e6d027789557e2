# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge of a canary."""

from __future__ import annotations

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._canary import (
    Limits,
    Readings,
    Verdict,
    judge_canary,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._metrics import Reading

BEGAN = 1_795_425_290.0


def at(
    requests: float = 0, errors: float = 0, latency: float = 0.2, refused: float = 0, began: float = BEGAN
) -> Reading:
    """So much since the process began, at this mean latency (in seconds)."""
    return Reading(0, 4, requests, errors, requests * latency, requests, refused, began)


def judge(canary: Reading | None, *others: Reading, limits: Limits | None = None) -> Verdict:
    """All began the soak with an hour's work behind them; what comes on top is given."""
    before = at(1000, 30, 0.3, 8)
    end: dict[str, Reading | None] = {
        f"tts-{number}": plus(before, each) for number, each in enumerate(others, 2)
    }
    end["tts-1"] = canary and plus(before, canary)
    return judge_canary(dict.fromkeys(end, before), end, "tts-1", limits)


def plus(one: Reading, other: Reading) -> Reading:
    added = {
        name: getattr(one, name) + getattr(other, name)
        for name in ("requests", "errors", "latency_sum", "latency_count", "refused")
    }
    return Reading(0, 4, **added, started_at=other.started_at)


def test_one_that_does_as_the_others_stays() -> None:
    verdict = judge(at(50), at(60, latency=0.25), at(40, latency=0.15))
    assert verdict.ok
    assert verdict.reason == (
        "tts-1 answered 50 requests, 0 of them with an error, in 0.200 s on average where the others took "
        "0.210 s."
    )
    assert verdict.figures == {
        "requests": 50,
        "errors": 0,
        "error_ratio": 0,
        "refused": 0,
        "latency_seconds": pytest.approx(0.2),
        "others_requests": 100,
        "others_error_ratio": 0,
        "others_latency_seconds": pytest.approx(0.21),
    }


def test_a_share_of_errors_above_the_others_is_too_much() -> None:
    verdict = judge(at(50, errors=2), at(100, errors=1))
    assert not verdict.ok
    assert verdict.reason == ("tts-1 failed 2 of 50 requests (4.0%), the others 1 of 100; 1.0% is allowed.")
    assert (verdict.figures["error_ratio"], verdict.figures["others_error_ratio"]) == (0.04, 0.01)


def test_errors_that_all_make_are_not_the_canarys() -> None:
    assert judge(at(50, errors=5), at(100, errors=10)).ok


@pytest.mark.parametrize(("errors", "ok"), [(3, True), (4, False)])
def test_the_limit_of_errors_comes_on_top_of_the_others(errors: float, ok: bool) -> None:
    limits = Limits(max_error_ratio=0.1)
    assert judge(at(10, errors), at(10, 2), limits=limits).ok is ok


def test_an_error_counts_although_little_was_asked() -> None:
    verdict = judge(at(1, errors=1), at(100))
    assert not verdict.ok
    assert "failed 1 of 1 requests (100.0%)" in verdict.reason
    assert not judge(at(3, errors=1)).ok


@pytest.mark.parametrize(("latency", "ok"), [(0.39, True), (0.41, False)])
def test_a_slow_canary_goes(latency: float, ok: bool) -> None:
    verdict = judge(at(50, latency=latency), at(50))
    assert verdict.ok is ok
    assert ok or verdict.reason == (
        "tts-1 took 0.410 s on average over 50 requests, 2.0 times the 0.200 s of the others (50 requests); "
        "2 times is allowed."
    )


@pytest.mark.parametrize(("own", "others"), [(9, 100), (100, 9)])
def test_latency_needs_enough_requests_on_both_sides(own: float, others: float) -> None:
    assert judge(at(own, latency=9), at(others)).ok
    assert not judge(at(own, latency=9), at(others), limits=Limits(min_requests=9)).ok


def test_latency_without_others_is_not_compared() -> None:
    verdict = judge(at(50, latency=9))
    assert verdict.ok
    assert "too little to compare its latency with the others'" in verdict.reason
    assert verdict.figures["others_latency_seconds"] is None


@pytest.mark.parametrize("requests", [0, 9])
def test_too_few_requests_prove_nothing_and_it_is_said(requests: float) -> None:
    verdict = judge(at(requests), at(100))
    assert verdict.ok
    assert verdict.reason == (
        f"tts-1 answered {requests} requests, 0 of them with an error; fewer than 10 prove nothing."
    )


def test_one_that_only_refuses_while_the_others_answer_goes() -> None:
    verdict = judge(at(0, refused=10), at(100))
    assert not verdict.ok
    assert verdict.reason == "tts-1 answered nothing and refused 10 requests, while the others answered 100."
    assert judge(at(0, refused=9), at(100)).ok
    assert judge(at(1, refused=90), at(100)).ok
    assert judge(at(0, refused=90), at(0, refused=90)).ok
    assert judge(at(0), at(100), limits=Limits(min_requests=0)).ok


# --- restarts and silence -----------------------------------------------------------------------------------


def test_a_canary_whose_counters_went_back_was_restarted() -> None:
    start: Readings = {"tts-1": Reading(requests=5), "tts-2": at(5)}
    verdict = judge_canary(start, {"tts-1": Reading(requests=4), "tts-2": at(100)}, "tts-1")
    assert not verdict.ok
    assert verdict.reason == "tts-1 was restarted during the soak: its counters began anew."
    assert set(verdict.figures.values()) == {None}


def test_a_restart_is_seen_although_the_counters_have_caught_up() -> None:
    assert not judge(at(50, began=BEGAN + 20), at(50)).ok


def test_a_start_that_is_worked_out_anew_each_time_is_no_restart() -> None:
    assert judge(at(50, began=BEGAN + 1), at(50)).ok


def test_others_that_were_restarted_or_fell_silent_are_left_out() -> None:
    start: Readings = {"tts-1": at(5), "tts-2": at(5), "tts-3": at(5), "tts-4": None, "tts-5": at(5)}
    end: Readings = {
        "tts-1": at(55),
        "tts-2": at(105),
        "tts-3": at(3, errors=3),
        "tts-4": at(9, errors=9),
        "tts-5": None,
        "tts-6": at(9, errors=9),
    }
    verdict = judge_canary(start, end, "tts-1")
    assert verdict.ok
    assert (verdict.figures["others_requests"], verdict.figures["others_error_ratio"]) == (100, 0)


@pytest.mark.parametrize(
    ("start", "end", "ok", "reason"),
    [
        (None, None, True, "tts-1 shows no metrics, so its soak proved nothing."),
        (None, at(5), True, "tts-1 showed no metrics when the soak began, so its soak proved nothing."),
        (at(5), None, False, "tts-1 showed its metrics when the soak began, and no longer does."),
    ],
)
def test_a_canary_that_does_not_tell(
    start: Reading | None, end: Reading | None, ok: bool, reason: str
) -> None:
    assert judge_canary({"tts-1": start}, {"tts-1": end}, "tts-1") == Verdict(
        ok, reason, dict.fromkeys(judge(at(1)).figures)
    )
