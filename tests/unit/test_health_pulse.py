# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A health check that nobody makes any more is got going again; one that is only slow is left alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import Look, Pulse


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_replica, "time", made)
    return made


class Engine:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.api = SimpleNamespace(
            pause=lambda which: self.calls.append(f"pause {which}"),
            unpause=lambda which: self.calls.append(f"unpause {which}"),
        )


def seen(checked_at: str, running: bool = True) -> Look:
    return Look("hard-1", running, 0, "healthy", "", {}, checked_at, check_seconds=4)


def feel(pulse: Pulse, clock: Clock, seconds: float, *checks: str, **state: Any) -> None:
    for check in checks:
        clock.now += seconds
        pulse.feel(seen(check, **state), lambda text: None)


def test_a_check_that_is_made_is_left_alone(clock: Clock) -> None:
    engine = Engine()
    feel(Pulse(engine, "c"), clock, 8, "", "10:00", "10:08", "10:16", "10:24")  # type: ignore[arg-type]
    assert engine.calls == []


def test_one_that_is_not_made_any_more_is_got_going_once_in_its_time(clock: Clock) -> None:
    engine = Engine()
    pulse = Pulse(engine, "c")  # type: ignore[arg-type]
    feel(pulse, clock, 3, "10:00", "10:00", "10:00", "10:00")
    assert engine.calls == []
    feel(pulse, clock, 3, "10:00", "10:00")
    assert engine.calls == ["pause c", "unpause c"]


def test_what_does_not_run_is_not_paused(clock: Clock) -> None:
    engine = Engine()
    feel(Pulse(engine, "c"), clock, 30, "10:00", "10:00", running=False)  # type: ignore[arg-type]
    assert engine.calls == []


def test_how_long_a_check_may_take_is_the_containers_own() -> None:
    def look(**config: Any) -> Look:
        state = {"Running": True, "Health": {"Status": "healthy", "Log": [{"Start": "10:00"}]}}
        inspected = {
            "Name": "/hard-1",
            "State": state,
            "RestartCount": 0,
            "Config": {"Labels": None, **config},
            "NetworkSettings": {"Networks": {}},
        }
        engine = SimpleNamespace(api=SimpleNamespace(inspect_container=lambda which: inspected))
        return _replica.look(engine, "c")  # type: ignore[arg-type]

    assert look(Healthcheck={"Interval": 2_000_000_000, "Timeout": 500_000_000}).check_seconds == 2.5
    assert look(Healthcheck={"Interval": 0}).check_seconds == 60
    assert look().checked_at == "10:00"
