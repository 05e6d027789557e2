# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections end whether or not the caller reads, and not before what he still reads has come."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from conftest import PATIENCE_SECONDS, eventually, under_uvicorn
from speech_server import connections
from starlette.responses import Response

MUCH = 50_000_000  # bytes; more than all buffers on the way take


@dataclass
class Web:
    """A server at work."""

    server: uvicorn.Server
    thread: threading.Thread

    def call(self) -> socket.socket:
        """Ask, and read the first bytes of the answer."""
        caller = socket.create_connection(self.server.servers[0].sockets[0].getsockname(), PATIENCE_SECONDS)
        caller.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert caller.recv(12) == b"HTTP/1.1 200"
        return caller


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """It answers with MUCH, handed over at once and so complete, and wants its connections back at once."""
    monkeypatch.setattr(connections, "_COMPLETE_SECONDS", 1.0)
    with under_uvicorn(Response(bytes(MUCH)), timeout_keep_alive=0) as (server, thread):
        yield Web(server, thread)


def test_an_answer_that_nobody_reads(web: Web) -> None:
    kept = web.server.server_state.connections
    with web.call():
        assert kept
        eventually(lambda: not kept, "the connection is closed")


def test_an_answer_that_is_read_slowly(web: Web) -> None:
    """It takes three times as long as nothing at all may be taken."""
    taken, until = 0, time.monotonic() + 3
    with web.call() as caller:
        while part := caller.recv(1 << 16):
            taken += len(part)
            if time.monotonic() < until:
                time.sleep(0.01)
    assert taken > MUCH


def test_the_end_waits_for_nobody_who_does_not_read(web: Web) -> None:
    with web.call():
        web.server.should_exit = True
        web.thread.join(PATIENCE_SECONDS)
        assert not web.thread.is_alive()
