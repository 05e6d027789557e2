# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to a real server on loopback, and what is made of its answers."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import socket
import threading
import time
import typing as t
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import (
    Answer,
    Request,
    ask,
    encode_body,
    judge,
)

RELEASED = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Paths of a server with every habit that matters here."""

    def log_message(self, *_args: t.Any) -> None:
        pass

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/login":
            given = base64.b64decode((self.headers["Authorization"] or "Basic ").split()[1]).decode()
            self.reply(200, given.encode())
        elif self.path == "/redirect":
            self.reply(308, b"", Location="/hello")
        elif self.path == "/hang":
            RELEASED.wait(5)
        elif self.path == "/trickle":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while not RELEASED.wait(0.05):
                    self.wfile.write(b"x" * 4096)
        elif self.path == "/drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.reply(200, b"hello", X_Replica="a-1", X_Host=self.headers["Host"])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(503, json.dumps({"got": body.decode(), "type": self.headers["Content-Type"]}).encode())


@pytest.fixture(scope="module")
def server() -> t.Iterator[str]:
    RELEASED.clear()
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    RELEASED.set()
    running.shutdown()
    thread.join()
    running.server_close()


def failed(request: Request, answer: Answer) -> dict[str, str]:
    return {check.name: check.found for check in judge(request, answer) if not check.ok}


def test_status_headers_body_and_times_come_back(server: str) -> None:
    answer = ask(Request("hello", f"{server}/", headers={"Host": "speech.example.com"}))
    assert (answer.status, answer.body, answer.error) == (200, b"hello", "")
    assert answer.headers["x-replica"] == "a-1"
    assert answer.headers["x-host"] == "speech.example.com"
    assert 0 < answer.first_byte_seconds <= answer.total_seconds < 5


def test_a_redirect_is_not_followed(server: str) -> None:
    assert ask(Request("redirect", f"{server}/redirect")).status == 308


def test_a_proxy_of_the_environment_is_not_used(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask(Request("hello", server)).status == 200


def test_credentials_are_sent(server: str) -> None:
    assert (
        ask(Request("login", f"{server}/login", username="admin", password="geheim")).body == b"admin:geheim"
    )


def test_a_body_is_sent_as_json_or_as_it_is(server: str) -> None:
    for given, sent, kind in (({"a": 1}, '{"a": 1}', "application/json"), ("text", "text", None)):
        body, headers = encode_body(given, {})
        answer = ask(Request("post", server, method="POST", body=body, headers=headers))
        assert answer.json() == {"got": sent, "type": kind}


def test_an_own_content_type_wins() -> None:
    assert encode_body([1], {"content-type": "application/x"}) == (b"[1]", {"content-type": "application/x"})


@pytest.mark.parametrize("path", ["/hang", "/trickle"])
def test_a_server_that_hangs_costs_the_timeout_and_no_more(server: str, path: str) -> None:
    started = time.monotonic()
    answer = ask(Request("hang", server + path, timeout_seconds=0.4))
    assert answer.status is None
    assert "0.4 s" in answer.error
    assert time.monotonic() - started < 2


def test_why_nothing_came_is_said_in_a_few_words(server: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        unused = f"http://127.0.0.1:{free.getsockname()[1]}/"
        assert ask(Request("nobody", unused)).error == "connection refused"
    assert ask(Request("drop", f"{server}/drop")).error == "the connection was closed before an answer came"
    assert ask(Request("name", "http://no-such-host.invalid/")).error == "the host name is not known"
    assert "nonsense" in ask(Request("url", "nonsense")).error


ASKED = Request(
    "speak",
    "http://x/v1",
    method="POST",
    response_headers={"X-Replica": r"^a-\d+$", "X-Model": ""},
    min_bytes=5,
)
GIVEN = Answer(200, {"x-replica": "a-1", "x-model": "m"}, b"hello")


def test_an_answer_as_wanted_passes_every_check() -> None:
    checks = judge(ASKED, GIVEN)
    assert [check.name for check in checks] == [
        "speak: status",
        "speak: header X-Replica",
        "speak: header X-Model",
        "speak: size",
    ]
    assert all(check.ok and not check.remedy for check in checks)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"headers": {"x-replica": "b-1", "x-model": "m"}}, {"speak: header X-Replica": "b-1"}),
        ({"headers": {"x-replica": "a-1"}}, {"speak: header X-Model": "none"}),
        ({"body": b"hell"}, {"speak: size": "4 bytes"}),
        ({"status": 503, "body": b"queue\nis full"}, {"speak: status": "503 queue is full"}),
        ({"status": None, "error": "connection refused"}, {"speak: status": "connection refused"}),
    ],
)
def test_each_thing_that_is_not_as_wanted_is_told(change: dict[str, t.Any], found: dict[str, str]) -> None:
    assert failed(ASKED, dataclasses.replace(GIVEN, **change)) == found


def test_with_another_status_the_rest_is_not_looked_at() -> None:
    (only,) = judge(ASKED, dataclasses.replace(GIVEN, status=404))
    assert only.remedy == "Ask it by hand: curl -v -X POST http://x/v1"


def wav(frames: bytes) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", ""))
        file.writeframes(frames)
    return buffer.getvalue()


SOUND = b"\0\x40\0\xc0" * 12000


def test_audio_has_to_be_audio_with_sound_and_long_enough() -> None:
    asked = Request("speak", "http://x", min_audio_seconds=0.9)
    assert failed(asked, Answer(200, {}, wav(SOUND))) == {}
    assert failed(asked, Answer(200, {}, wav(SOUND[:24000]))) == {"speak: audio": "0.5 s at 24000 Hz"}
    assert "all of it silent" in failed(asked, Answer(200, {}, wav(bytes(48000))))["speak: audio"]
    assert "no RIFF/WAVE" in failed(asked, Answer(200, {}, b"<html>"))["speak: audio"]
