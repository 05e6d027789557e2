# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as a process: how it starts, how it ends, and how it is ended."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable

import pytest
from conftest import PATIENCE_SECONDS, Spawned, eventually
from speech_server import logs
from speech_server.__main__ import main

Spawn = Callable[..., Spawned]


def test_sigterm_finishes_what_is_in_hand_and_takes_what_still_comes(spawn: Spawn) -> None:
    process = spawn(linger_seconds=1)
    process.wait_ready()
    text = "This sentence takes a while to say, and there are some of them. " * 6
    answers: list[bytes] = []
    begun = threading.Event()

    def listen() -> None:
        body = {"input": text, "response_format": "pcm"}
        with process.client.stream("POST", "/v1/audio/speech", json=body) as answer:
            for part in answer.iter_raw():
                begun.set()
                answers.append(part)

    listener = threading.Thread(target=listen)
    listener.start()
    assert begun.wait(PATIENCE_SECONDS)
    process.popen.send_signal(signal.SIGTERM)
    eventually(lambda: process.health() == (503, "stopping"))
    late = process.client.post("/v1/audio/speech", json={"input": "Still served.", "response_format": "pcm"})
    assert late.status_code == 200
    assert late.headers["connection"] == "close"
    listener.join()
    assert len(b"".join(answers)) / 48000 > 6 * 2.5  # all six sentences
    assert process.wait() == 0
    assert "Traceback" not in process.log.read_text()


def test_sigterm_when_idle_waits_for_the_linger_time_and_the_log_is_json(spawn: Spawn) -> None:
    process = spawn(stand_in=True, linger_seconds=0.5)
    process.wait_ready()
    process.client.post("/v1/audio/speech", json={"input": "Crash."})
    asked = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert time.monotonic() - asked >= 0.5
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert {"ready", "request", "the engine failed"} <= {line["message"] for line in lines}


def test_sigterm_while_the_model_is_being_loaded(spawn: Spawn) -> None:
    """A thread inside a native library crashes an interpreter that ends in the usual way (exit code 139)."""
    process = spawn(linger_seconds=0)
    eventually(lambda: process.health() == (503, "loading"))
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0, process.log.read_text()


def test_a_second_signal_ends_it_at_once(spawn: Spawn) -> None:
    process = spawn(stand_in=True, linger_seconds=60)
    process.wait_ready()
    process.popen.send_signal(signal.SIGTERM)
    eventually(lambda: process.health() == (503, "stopping"))
    process.popen.send_signal(signal.SIGINT)
    assert process.wait() == 1


@pytest.mark.parametrize(("word", "code"), [("Hang", 70), ("Freeze", 1)])
def test_a_hung_engine_ends_the_process(spawn: Spawn, word: str, code: int) -> None:
    process = spawn(stand_in=True, deadline_seconds=0.3, grace_seconds=0.3)
    process.wait_ready()
    if word == "Hang":
        answer = process.client.post("/v1/audio/speech", json={"input": "Hang."})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    else:  # with the interpreter's lock held nothing can be answered, but the connection does not stay open
        with pytest.raises(Exception, match=r"disconnected|reset"):
            process.client.post("/v1/audio/speech", json={"input": "Freeze."})
    assert process.wait() == code
    assert "synthesize" in process.log.read_text()  # the stacks say where it hung


def test_wrong_settings_are_named_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPEECH_MAX_INFLIGHT", "2")
    monkeypatch.setattr(logs, "configure", lambda: None)
    assert main() == 2
    assert "did you mean SPEECH_MAX_IN_FLIGHT?" in caplog.text
