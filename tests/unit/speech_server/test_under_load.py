# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""More callers than slots, callers who leave, and engines that fail: nobody hangs, no slot is lost."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import Live, eventually
from speech_stand_in import RATE_HZ

Start = Callable[..., Live]
PCM = {"input": "Hello.", "response_format": "pcm"}


def idle(live: Live) -> bool:
    return (live.server.admission.in_flight, live.server.admission.queued, live.server.frame.active) == (
        0,
        0,
        0,
    )


def taken(live: Live, count: int) -> bool:
    return live.server.admission.in_flight + live.server.admission.queued == count


@dataclass(frozen=True)
class Held:
    """What the process has in hand."""

    files: int
    threads: int
    tasks: int


def held(live: Live) -> Held:
    files = len(list(Path("/proc/self/fd").iterdir()))
    # The event loop has threads of its own, for as long as it lives.
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return Held(files, len(threads), len(asyncio.all_tasks(live.loop)))


def sockets() -> str:
    """The kernel's list of connections: addresses and ports in hexadecimal, this end and the other."""
    return Path("/proc/net/tcp").read_text(encoding="ascii")


def collect(answer: httpx.Response, into: list[bytes]) -> None:
    for part in answer.iter_raw():
        into.append(part)  # noqa: PERF402 - what came before the connection broke off must be kept


def test_above_the_queue_callers_are_refused_before_any_work(start: Start) -> None:
    live = start(max_in_flight=1, max_queued=2)
    with live.client() as client, ThreadPoolExecutor(3) as pool:
        served = []
        for number in range(3):
            served.append(pool.submit(live.speak, client, f"Step {number}."))
            eventually(partial(taken, live, number + 1))
        assert (live.metric("in_flight"), live.metric("queued")) == (1, 2)
        refused = live.speak(client, "One too many.")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.json()["error"]["type"] == "server_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 8
        live.engine.step.release(3)
        assert [answer.result().status_code for answer in served] == [200] * 3
    assert [wish.text for wish in live.engine.begun] == ["Step 0.", "Step 1.", "Step 2."]
    assert live.metric("refused_total", reason="overloaded") == 1
    eventually(lambda: idle(live))


def test_the_first_sentence_arrives_while_the_second_is_still_being_made(start: Start) -> None:
    live = start()
    with (
        live.client() as client,
        client.stream("POST", "/v1/audio/speech", json=PCM | {"input": "One. Step."}) as answer,
    ):
        parts = answer.iter_raw()
        first = next(parts)
        assert len(first) / 48000 == pytest.approx(0.5, abs=0.02)
        assert live.engine.parts_made == 1
        live.engine.step.release()
        rest = b"".join(parts)
    assert (len(first) + len(rest)) / 48000 == pytest.approx(1, abs=0.01)


def test_two_at_once_when_two_are_allowed(start: Start) -> None:
    live = start(max_in_flight=2, max_queued=0)
    with live.client() as client, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(live.speak, client, "Step.") for _ in range(2)]
        eventually(lambda: len(live.engine.begun) == 2)
        live.engine.step.release(2)
        assert [answer.result().status_code for answer in both] == [200, 200]


def test_a_caller_who_leaves_mid_stream(start: Start) -> None:
    live = start(max_queued=0)
    with live.client() as client:
        with client.stream(
            "POST", "/v1/audio/speech", json=PCM | {"input": "One. Step. Two. Three."}
        ) as answer:
            next(answer.iter_raw())
        eventually(lambda: live.metric("callers_left_total") == 1)
        assert live.server.admission.in_flight == 1  # the engine still has it
        assert live.speak(client, "Hello.").status_code == 503
        live.engine.step.release()
        eventually(lambda: idle(live))
        assert live.engine.left_early.is_set()
        assert not live.engine.ran_to_end.is_set()
        assert live.speak(client, "Hello.").status_code == 200


def test_a_caller_who_leaves_before_the_first_byte(start: Start) -> None:
    live = start()
    with live.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/audio/speech", json=PCM | {"input": "Step. Two."}, timeout=0.2)
        eventually(lambda: live.metric("callers_left_total") == 1)
        live.engine.step.release()
        eventually(lambda: idle(live))
        assert live.metric("requests_total", endpoint="/v1/audio/speech", status="499") == 1


def test_a_caller_who_leaves_the_queue(start: Start) -> None:
    live = start()
    with live.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(live.speak, client, "Step.")
        eventually(lambda: live.server.admission.in_flight == 1)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/audio/speech", json=PCM, timeout=0.2)
        eventually(lambda: live.server.admission.queued == 0)
        live.engine.step.release()
        assert first.result().status_code == 200
        eventually(lambda: idle(live))
        assert len(live.engine.begun) == 1  # nothing was made for who had left


def test_a_crash_before_the_first_byte(start: Start) -> None:
    live = start()
    with live.client() as client:
        answer = live.speak(client, "Crash.")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
        eventually(lambda: idle(live))
        assert live.metric("engine_errors_total") == 1
        assert live.speak(client, "Hello.").status_code == 200


def test_a_crash_after_the_first_byte_truncates_the_stream(start: Start) -> None:
    live = start()
    with live.client() as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            live.speak(client, "One. Crash.")
        assert live.metric("streams_cut_total", reason="engine_error") == 1
        eventually(lambda: idle(live))
        body = PCM | {"input": "One. Crash.", "stream_format": "sse"}
        got: list[bytes] = []
        with (
            client.stream("POST", "/v1/audio/speech", json=body) as answer,
            pytest.raises(httpx.RemoteProtocolError, match="incomplete"),
        ):
            collect(answer, got)
        event = json.loads(b"".join(got).split(b"\n\n")[-2].removeprefix(b"data: "))
        assert (event["type"], event["error"]["code"]) == ("error", "engine_error")


def test_the_deadline_before_the_first_byte(start: Start) -> None:
    live = start(deadline_seconds=0.3, grace_seconds=60)
    with live.client() as client:
        answer = live.speak(client, "Step.")
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        eventually(lambda: client.get("/healthz").json()["status"] == "late")
        assert live.speak(client, "Hello.").json()["error"]["code"] == "not_ready"
        live.engine.step.release()  # it comes back within the grace after all
        eventually(lambda: client.get("/healthz").status_code == 200)
        assert live.speak(client, "Hello.").status_code == 200
        assert live.metric("deadline_exceeded_total") == 1


def test_the_deadline_after_the_first_byte_truncates_the_stream(start: Start) -> None:
    live = start(deadline_seconds=0.3, grace_seconds=60)
    with live.client() as client, pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        live.speak(client, "One. Step.")
    assert live.metric("streams_cut_total", reason="deadline") == 1


@pytest.mark.parametrize(
    ("text", "format_"),
    [("One.", "audio"), ("One.", "sse"), ("One. Two.", "sse")],
    ids=["end", "done", "error"],
)
def test_a_caller_who_stops_reading_is_let_go_at_the_deadline(
    start: Start, monkeypatch: pytest.MonkeyPatch, text: str, format_: str
) -> None:
    """Whatever is to be sent next, and be it the event that tells of the deadline."""
    much = np.zeros(100 * RATE_HZ, np.float32)  # more than all buffers on the way take
    monkeypatch.setattr("speech_stand_in.tone", lambda _seconds: much)
    live = start(deadline_seconds=4, grace_seconds=60)
    url = httpx.URL(live.url)
    before = held(live)
    # A wav of one sentence is one part: nothing is left to send but the end.
    body = json.dumps({"input": text, "response_format": "wav", "stream_format": format_})
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect((url.host, url.port))
        caller.sendall(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        assert caller.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: live.metric("streams_cut_total", reason="deadline") == 1)
        eventually(lambda: idle(live))
        # Nothing is kept for him although he neither reads nor goes; the one file more is his own end.
        expected = replace(before, files=before.files + 1)
        eventually(lambda: held(live) == expected, "all that was his is let go")
        assert f":{url.port:04X} 0100007F:{caller.getsockname()[1]:04X} " not in sockets()


def test_waiting_in_the_queue_counts_towards_the_deadline(start: Start) -> None:
    live = start(deadline_seconds=0.4, grace_seconds=60)
    with live.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(live.speak, client, "Step.")
        eventually(lambda: live.server.admission.in_flight == 1)
        waited = live.speak(client, "Hello.")
        assert (waited.status_code, waited.json()["error"]["code"]) == (503, "overloaded")
        assert first.result().status_code == 504


def test_a_hung_engine_ends_the_process_and_leaves_nobody_waiting(start: Start) -> None:
    live = start(deadline_seconds=0.3, grace_seconds=0.3)
    with live.client() as client, ThreadPoolExecutor(1) as pool:
        assert pool.submit(live.speak, client, "Hang.").result().status_code == 504
        eventually(lambda: client.get("/healthz").json()["status"] == "failed")
        assert "has not come back within 0.6 s" in client.get("/healthz").json()["reason"]
        eventually(lambda: live.exits == [70])


def test_one_json_line_a_request_without_its_text(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "speech_server.request")
    live = start()
    with live.client() as client:
        client.post("/v1/audio/speech", json=PCM | {"input": "My secret."}, headers={"X-Request-Id": "id-1"})
        client.get("/healthz")
        eventually(lambda: idle(live))
    lines = [record.fields for record in caplog.records if record.name == "speech_server.request"]  # type: ignore[attr-defined]
    assert len(lines) == 1
    line = lines[0]
    assert (line["request_id"], line["status"], line["outcome"], line["voice"]) == (
        "id-1",
        200,
        "complete",
        "default",
    )
    assert (line["format"], line["characters"]) == ("pcm", 10)
    assert line["audio_seconds"] == pytest.approx(0.5, abs=0.01)
    assert line["seconds"] >= line["first_byte_seconds"] >= line["queue_seconds"] >= 0
    assert "secret" not in caplog.text + json.dumps(line)


def test_texts_are_logged_only_on_request(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "speech_server.request")
    live = start(log_texts=True)
    with live.client() as client:
        live.speak(client, "Said aloud.")
        eventually(lambda: idle(live))
    assert caplog.records[-1].fields["text"] == "Said aloud."  # type: ignore[attr-defined]
