# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A text that cannot be spoken before the deadline is refused, and no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from conftest import Live, eventually
from speech_server import pace
from speech_server.engines.base import Made, Synthesis
from speech_server.pace import Pace
from speech_server.settings import Settings
from speech_stand_in import RATE_HZ, StandIn
from test_under_load import idle

Start = Callable[..., Live]
LONG = "Word. " * 60  # 16 s


def in_real_time(engine: StandIn) -> None:
    """As if it had measured that."""
    engine.warm_up_made = Made(5, 5)


class Clock:
    """Seconds, set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


FULL = "Ten letter " * 372  # 4092 characters, and 3348 letters: 223 s of speech
DEADLINE_SECONDS = Settings().deadline_seconds


def started(factor: float, clock: Clock | None = None) -> Pace:
    """As after the warm-up on a card of this real-time factor."""
    pace = Pace(clock or Clock())
    pace.note_warm_up(Made(5, 5 * factor))
    return pace


def takes(pace: Pace, text: str = FULL) -> bool:
    return bool(pace.least_seconds(text, 1) <= DEADLINE_SECONDS)


SHORT = (Made(1.5, 1.8), Made(1.5, 1.8))  # whole, and its beginning: nothing comes after it
CHATTY = (Made(6, 4), Made(6, 4))
WITH_A_REST = (Made(6, 4), Made(1, 1.5))  # not streamed: two sentences


@pytest.mark.parametrize("served", [[], [SHORT] * 20, [CHATTY] * 20, [WITH_A_REST] * 20])
@pytest.mark.parametrize(("factor", "fits"), [(0.36, True), (0.51, True), (2, False), (0.93, False)])
def test_a_full_text_is_taken_by_a_card_that_is_quick_enough_whatever_it_has_served(
    served: list[tuple[Made, Made]], factor: float, fits: bool
) -> None:
    """With 0.51 it takes 117 s of 120; after short answers too, whose time is mostly that of beginning."""
    pace = started(factor)
    for whole, beginning in served:
        pace.note(whole, beginning)
    if served == [WITH_A_REST] * 20:  # these do say something: half a second for each of theirs
        assert takes(pace)
    else:
        assert takes(pace) is fits
        assert pace.real_time_factor == pytest.approx(factor)


@pytest.mark.parametrize(
    ("answers", "factor"),
    [
        ([], 0.9),
        ([(20, 4)] * 20, 0.2),
        ([(20, 60)] * 20, 3),
        ([(20, 60)], 2.58),  # with the 5 s of the warm-up
        ([(20, 60)] * 20 + [(20, 4)] * 20, 0.2),  # what is not recent any more
        ([(4, 40)] * 20, 0.9),  # too short to tell
        ([(0, 30)], 0.9),  # nothing was heard of it
    ],
)
def test_the_pace(answers: list[tuple[float, float]], factor: float) -> None:
    pace = started(0.9)
    for audio_seconds, engine_seconds in answers:
        pace.note(Made(audio_seconds, engine_seconds))
    assert pace.real_time_factor == pytest.approx(factor, abs=0.01)


def test_what_was_slow_long_ago_is_forgotten() -> None:
    """Where every text is refused for it, nothing new is measured."""
    clock = Clock()
    pace = started(5, clock)
    assert not takes(pace)
    clock.now += 601
    assert takes(pace)
    pace.note(Made(40, 200), Made(20, 100))  # and it was cut
    assert not takes(pace)


def test_before_anything_is_known_every_text_is_taken() -> None:
    pace = Pace()
    pace.note_warm_up(None)
    pace.note_warm_up(Made(0, 3))
    assert pace.real_time_factor is None
    assert takes(pace, FULL * 10)


@pytest.mark.parametrize(
    ("text", "speed", "seconds"),
    [("a" * 1800, 1, 120), ("天" * 540, 1, 120), ("a" * 1800, 2, 60), ("a. " * 150, 0.5, 20)],
)
def test_the_estimate(text: str, speed: float, seconds: float) -> None:
    real_time = started(1)
    assert real_time.estimate_seconds(text, speed) == pytest.approx(seconds)
    assert real_time.least_seconds(text, speed) == pytest.approx(seconds / 1.25)


def test_the_cost_of_a_beginning_counts_once() -> None:
    pace = Pace()
    for _ in range(3):
        pace.note(Made(60, 43), Made(20, 23))  # 3 s more than its audio explains, half a second for each
    assert pace.real_time_factor == pytest.approx(0.5)
    assert pace.estimate_seconds("a" * 1800, 1) == pytest.approx(60 + 13)


def test_a_sentence_is_never_too_long() -> None:
    assert started(100).least_seconds("This is a sentence like any other, and no longer.", 1) == 0


def test_a_text_too_long_for_the_deadline_is_refused_before_anything_is_made(start: Start) -> None:
    live = start(deadline_seconds=10, prepare=in_real_time)
    with live.client() as client:
        answer = live.speak(client, LONG)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
        assert (error["code"], error["param"]) == ("text_exceeds_deadline", "input")
        for part in ("about 16 s", "has 10 s", "Split the text", "SPEECH_DEADLINE_SECONDS raised"):
            assert part in error["message"]
        form = {"tts_text": LONG}
        answer = client.post("/inference_cross_lingual", data=form, files={"prompt_wav": b"RIFF"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tts_text")
        assert live.speak(client, LONG, speed=2).status_code == 200
    assert len(live.engine.begun) == 1
    assert live.metric("engine_errors_total") == 0


def test_an_engine_begins_with_what_it_measured_itself(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "warm_up", lambda self: self.made(Synthesis("One. Two.")))
    live = start(deadline_seconds=10)
    assert 0 < (live.server.desk.pace.real_time_factor or 0) < 0.5
    with live.client() as client:
        assert live.speak(client, LONG).status_code == 200


def test_an_engine_that_becomes_quicker_takes_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    much = np.zeros(20 * RATE_HZ, np.float32)
    monkeypatch.setattr("speech_stand_in.tone", lambda _seconds: much)
    live = start(deadline_seconds=10, prepare=in_real_time)
    with live.client() as client:
        assert live.speak(client, LONG).status_code == 400
        assert live.speak(client, "One. Two.").status_code == 200
        eventually(lambda: idle(live))
        assert live.speak(client, LONG).status_code == 200


@pytest.mark.parametrize("deadline_seconds", [20, 0.5])
def test_an_engine_that_becomes_slower_takes_it_no_more(
    start: Start, monkeypatch: pytest.MonkeyPatch, deadline_seconds: float
) -> None:
    """Whether it was slow in an answer that was complete, or in one that was cut at the deadline."""
    monkeypatch.setattr(pace, "_LEAST_AUDIO_SECONDS", 0.4)
    live = start(deadline_seconds=deadline_seconds)
    with live.client() as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(live.speak, client, "Half a second. Step.")
        time.sleep(1)  # for the other half second of audio
        live.engine.step.release()
        if deadline_seconds == 20:
            assert slow.result().status_code == 200
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                slow.result()
        eventually(lambda: idle(live))
        assert (live.server.desk.pace.real_time_factor or 0) > 1.8
        refused = live.speak(client, LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "text_exceeds_deadline")
        assert live.speak(client, "A sentence.").status_code == 200


@pytest.mark.parametrize("streams", [False, True])
def test_what_is_streamed_is_a_beginning(
    start: Start, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    """Up to the longest first piece; else it is the first part alone."""
    monkeypatch.setattr(StandIn, "streams_within_sentences", lambda _self, _wish: streams)
    notes: list[tuple[Made, Made]] = []
    monkeypatch.setattr(Pace, "note", lambda _self, whole, beginning: notes.append((whole, beginning)))
    live = start()
    with live.client() as client:
        for sentences in (60, 20):  # of half a second each
            assert live.speak(client, "Word. " * sentences).status_code == 200
            eventually(lambda: idle(live))
    found = [(round(whole.audio_seconds), round(beginning.audio_seconds, 1)) for whole, beginning in notes]
    # 20 s less what the encoder keeps are not enough; and the 10 s are all beginning, so nothing is noted.
    assert found == ([(30, 20.5)] if streams else [(30, 0.5), (10, 0.5)])


def test_who_waited_until_too_little_time_is_left_is_not_begun(start: Start) -> None:
    live = start(deadline_seconds=15, prepare=in_real_time)
    with live.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(live.speak, client, "Step.")
        eventually(lambda: live.server.admission.in_flight == 1)
        late = live.speak(client, LONG)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "overloaded")
        assert "Retry-After" in late.headers
        live.engine.step.release()
        assert first.result().status_code == 200
        assert live.speak(client, LONG).status_code == 200  # alone it is taken
