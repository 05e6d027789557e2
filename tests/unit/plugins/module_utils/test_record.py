# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of a record."""

from __future__ import annotations

import typing as t
from datetime import timedelta

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _record

START = _record.moment("2026-11-22T10:53:07Z")


def step(action: str, **other: t.Any) -> dict[str, t.Any]:
    return {"name": "tts-1", "action": action, **other}


STOPPED = {"drained_seconds": 3.0, "stopped_seconds": 1.0, "in_flight_at_stop": 0}


def compose(steps: list[dict[str, t.Any]], took: float = 60) -> dict[str, t.Any]:
    ended = START + timedelta(seconds=took)
    return _record.compose("tts", "gpu1", "upgrade", "ada", START, ended, True, "", ["a plan"], steps)


def test_totals_count_every_fate() -> None:
    steps = [
        step("replace", **STOPPED),
        step("replace", **{**STOPPED, "in_flight_at_stop": 2}),
        step("create"),
        step("remove", **STOPPED),
        step("restore", **STOPPED),
        step("none"),
    ]
    assert _record.totals(steps) == {
        "replaced": 2,
        "created": 1,
        "started": 0,
        "drained": 0,
        "removed": 1,
        "restored": 1,
        "in_flight_cut": 2,
        "in_flight_unknown": 0,
    }


def test_a_stop_that_nobody_counted_leaves_the_sum_open() -> None:
    totals = _record.totals([step("replace", **STOPPED), step("replace", stopped_seconds=1.0)])
    assert (totals["in_flight_cut"], totals["in_flight_unknown"]) == (None, 1)


def test_the_minimum_is_drains_and_stops_and_starts_and_no_more() -> None:
    steps = [
        step("replace", **STOPPED, started_seconds=14.25, seconds=27.0),
        step("create", started_seconds=10.0, seconds=16.0),
        step("none", drained_seconds=None),
    ]
    record = compose(steps)
    assert record["physical_minimum_seconds"] == 28.2
    assert (record["seconds"], record["seconds_over_minimum"]) == (60.0, 31.8)


@pytest.mark.parametrize("took", [-5.0, 3.0])
def test_clocks_that_differ_do_not_make_a_rollout_shorter_than_its_steps(took: float) -> None:
    assert compose([step("create", seconds=12.0)], took)["seconds"] == 12.0


def test_times_are_told_in_utc() -> None:
    assert _record.iso(_record.moment("2026-11-22T11:53:07.25+01:00")) == "2026-11-22T10:53:07Z"
    for wrong in ("today", "2026-11-22T10:53:07"):
        with pytest.raises(ValueError, match=wrong):
            _record.moment(wrong)
