# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The waiting, with a clock that only the verifier moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _traefik_verify
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Answer, Request
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import ApiError, Snapshot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_checks import Expectations
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_verify import Verifier

ROUTER = {"name": "tts@docker", "provider": "docker", "status": "enabled"}
READY = Snapshot("3.7.15", "t1", ["docker"], routers=[ROUTER])
EMPTY = Snapshot("3.7.15", "t1", ["docker"])
REFUSED = ApiError("refused", "connection refused", "start Traefik")
PASSWORD = ApiError("password", "password is wrong", "correct it")


class Scene:
    """An API that says at each moment what the script says, and the clock. Every look takes 0.1 s."""

    url = "http://traefik"

    def __init__(self, script: Callable[[float], Snapshot | ApiError]) -> None:
        self.now, self.script = 0.0, script
        self.pauses: list[float] = []
        self.timeout_seconds = 0.0

    def snapshot(self) -> Snapshot:
        self.now += 0.1
        said = self.script(self.now)
        if isinstance(said, ApiError):
            raise said
        return said

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.pauses.append(seconds)
        self.now += seconds

    def verifier(self, probes: Any = ()) -> Verifier:
        want = Expectations(routers=[{"name": "tts"}])
        api: Any = self
        return Verifier(api, want, probes=probes, clock=lambda: self.now, sleep=self.sleep)


def test_it_stops_at_the_first_look_that_is_right() -> None:
    result = Scene(lambda now: READY).verifier().wait(60, 1)
    assert (result.ok, result.looks) == (True, 1)
    assert result.waited_seconds == pytest.approx(0.1)


def test_pauses_grow_to_the_interval_and_end_at_the_deadline() -> None:
    scene = Scene(lambda now: EMPTY)
    result = scene.verifier().wait(10, 1)
    assert not result.ok
    assert scene.pauses[0] == pytest.approx(0.2)
    assert scene.pauses[1] > scene.pauses[0]
    assert max(scene.pauses) == 1
    assert result.waited_seconds == pytest.approx(10.1, abs=0.05)
    assert "router tts@docker: absent" in result.message()


def test_a_timeout_of_nothing_looks_once() -> None:
    result = Scene(lambda now: EMPTY).verifier().wait(0, 1)
    assert (result.ok, result.looks) == (False, 1)


def test_a_restart_is_survived() -> None:
    """It comes back, and has its routers a moment later."""
    back = Snapshot("3.7.15", "t2", ["docker"])
    ready = Snapshot("3.7.15", "t2", ["docker"], routers=[ROUTER])
    scene = Scene(lambda now: EMPTY if now < 2 else REFUSED if now < 6 else back if now < 8 else ready)
    result = scene.verifier().wait(30, 1)
    assert result.ok
    assert "restarted meanwhile (t2)" in result.checks[0].found


def test_one_that_does_not_come_back_is_named() -> None:
    result = Scene(lambda now: EMPTY if now < 2 else REFUSED).verifier().wait(10, 1)
    assert [check.name for check in result.checks] == ["Traefik's API"]
    assert "it answered until" in result.checks[0].found
    assert result.waited_seconds > 9.9


def test_one_that_never_answered_is_waited_for() -> None:
    assert Scene(lambda now: REFUSED if now < 5 else READY).verifier().wait(10, 1).ok
    result = Scene(lambda now: REFUSED).verifier().wait(10, 1)
    assert result.checks[0].found == "connection refused"


def test_what_does_not_heal_ends_early_and_only_if_it_stays() -> None:
    result = Scene(lambda now: PASSWORD).verifier().wait(60, 1)
    assert not result.ok
    assert 3 <= result.waited_seconds < 5
    assert Scene(lambda now: PASSWORD if now < 2 else READY).verifier().wait(60, 1).ok


def test_probes_are_sent_when_all_else_is_right_or_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[float] = []

    def ask(request: Request) -> Answer:
        sent.append(scene.now)
        return Answer(200 if scene.now > 4 else 503)

    monkeypatch.setattr(_traefik_verify, "ask", ask)
    probes = [Request("speech", "http://x")]
    scene = Scene(lambda now: EMPTY if now < 2 else READY)
    result = scene.verifier(probes).wait(10, 1)
    assert result.ok
    assert sent[0] >= 2
    assert len(sent) > 1
    sent.clear()
    scene = Scene(lambda now: EMPTY)
    result = scene.verifier(probes).wait(10, 1)
    assert len(sent) == 1
    assert [check.name for check in result.checks if not check.ok] == ["router tts@docker"]


def test_what_the_module_returns() -> None:
    result = Scene(lambda now: EMPTY).verifier().wait(0, 1)
    returned = result.as_dict()
    assert returned["summary"] == "2 of 3 checks passed"
    assert returned["ok"] is False
    assert [check["name"] for check in returned["checks"]] == [
        "Traefik's API",
        "provider docker",
        "router tts@docker",
    ]
    dead = Scene(lambda now: REFUSED).verifier().wait(0, 1).as_dict()
    assert set(dead) == set(returned)
    assert dead["routers"] == []


def test_a_long_message_says_how_many_more() -> None:
    want = Expectations(routers=[{"name": f"r{number}"} for number in range(13)])
    scene: Any = Scene(lambda now: EMPTY)
    message = Verifier(scene, want).look().message()
    assert message.startswith("13 of 15 checks failed: router r0@docker: absent")
    assert message.endswith("; and 3 more, see checks")


def test_certificates_that_cannot_be_read_are_a_warning() -> None:
    router = {**ROUTER, "rule": "Host(`a.example`)", "tls": {"certResolver": "le"}}
    old = Snapshot("3.6.1", "t1", ["docker"], routers=[router])
    result = Scene(lambda now: old).verifier().wait(0, 1)
    assert result.ok
    assert "3.6.1 does not list its certificates" in result.warnings[0]
    new = Snapshot("3.7.15", "t1", ["docker"], routers=[router], certificates=[])
    result = Scene(lambda now: new).verifier().wait(0, 1)
    assert [check.name for check in result.checks if not check.ok] == ["certificate for a.example"]
