# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The load sees what went wrong: each way of losing an answer, and its own lateness."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import math
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from open_load import Report, quantile
from open_load_sender import Config, Outcome, Sender

Handler = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = "HTTP/1.1 200 OK\r\nX-Request-Id: {id}\r\nX-Replica: hard-2\r\nX-Model-Version: 7\r\n"
END = "\nend {id}\n"


def chunked(*pieces: str, announced: int | None = None, ended: bool = True, head: str = OK) -> str:
    """An answer in chunks; C({id}) stands for 32 characters."""
    sizes = [len(piece.replace("{id}", "i" * 32)) for piece in pieces]
    body = "".join(f"{size:x}\r\n{piece}\r\n" for size, piece in zip(sizes, pieces, strict=True))
    total = sum(sizes) if announced is None else announced
    return (
        f"{head}X-Body-Bytes: {total}\r\nTransfer-Encoding: chunked\r\n\r\n{body}{'0' if ended else ''}"
        + ("\r\n\r\n" if ended else "")
    )


def counted(status: str, body: str, *headers: str) -> str:
    lines = [f"HTTP/1.1 {status}", "X-Request-Id: {id}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines) + "\r\n\r\n" + body


async def load(handler: Handler, **options: object) -> Report:
    """All outcomes of a load on a server that treats each request as C(handler) does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
                await handler(head.split("x-request-id: ")[1].split("\r\n")[0], reader, writer)
                if writer.is_closing():
                    return

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    out = io.StringIO()
    try:
        await Sender(Config(f"http://127.0.0.1:{port}", **options), out).run()  # type: ignore[arg-type]
    finally:
        server.close()
    *outcomes, last = [json.loads(line) for line in out.getvalue().splitlines()]
    return Report([Outcome(**outcome) for outcome in outcomes], last["sent"])


def answer_to_one(answer: str, patience_seconds: float = 20) -> Outcome:
    """What becomes of a single request that is answered so, and the connection then closed."""

    async def handler(request_id: str, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(answer.replace("{id}", request_id).encode())
        await writer.drain()
        writer.close()

    report = asyncio.run(load(handler, send_seconds=0, patience_seconds=patience_seconds, lengths={"1": 1}))
    assert report.sent == len(report.outcomes) == 1
    return report.outcomes[0]


def test_a_whole_answer_is_ok_and_tells_whose_it_is() -> None:
    outcome = answer_to_one(chunked("....", "....", END))
    assert (outcome.result, outcome.replica, outcome.version) == ("ok", "hard-2", "7")
    assert outcome.first_byte is not None


def test_a_refusal_with_retry_after_is_no_failure_and_no_success() -> None:
    assert answer_to_one(counted("503 Service Unavailable", "full", "Retry-After: 1")).result == "refused"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (chunked("....", "....", ended=False, announced=60), "cut after 8 bytes"),
        (chunked("....", END, ended=False)[:-3], "cut after 4 bytes"),
        (chunked("....", END, ended=False), "cut after 42 bytes"),
        (chunked("....", END, announced=400), "short: 400 bytes were announced and 42 came"),
        (chunked("....", "...."), "without its last line"),
        (chunked("....", "\nend " + "f" * 32 + "\n"), "without its last line"),
        (chunked("....", END, head=OK.replace("{id}", "another")), "of another request"),
        (counted("404 Not Found", "404 page not found"), "status 404: b'404 page not found'"),
        (counted("502 Bad Gateway", "Bad Gateway"), "status 502"),
        (counted("503 Service Unavailable", "still loading"), "status 503"),
        (counted("200 OK", "half")[:-2], "cut after 2 bytes"),
        ("HTTP/1.1 200 OK\r\nX-Request", "cut in its header"),
        ("", "closed before any answer"),
        ("SSH-2.0\r\n\r\n", "no HTTP: 'SSH-2.0'"),
    ],
)
def test_anything_else_is_a_failure_with_its_reason(answer: str, reason: str) -> None:
    outcome = answer_to_one(answer)
    assert outcome.result == "failed"
    assert reason in outcome.reason


def test_random_moments_are_uneven_and_the_same_again() -> None:
    async def handler(request_id: str, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked("....", END).replace("{id}", request_id).encode())

    def gaps() -> list[float]:
        found = asyncio.run(load(handler, rate_per_second=100, at_random=True, send_seconds=0.3)).outcomes
        at = sorted(outcome.at for outcome in found)
        return [after - before for before, after in itertools.pairwise(at)]

    once, again = gaps(), gaps()
    assert len(once) > 5
    assert max(once) > 2 * min(once)
    assert once == pytest.approx(again, abs=1e-3)


def test_nobody_there_is_a_failure() -> None:
    async def nobody() -> list[Outcome]:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        out = io.StringIO()
        await Sender(Config(f"http://127.0.0.1:{port}", send_seconds=0), out).run()
        return [Outcome(**json.loads(line)) for line in out.getvalue().splitlines()[:-1]]

    (outcome,) = asyncio.run(nobody())
    assert outcome.result == "failed"
    assert "ConnectionRefusedError" in outcome.reason


def test_an_answer_that_never_ends_is_a_failure() -> None:
    async def handler(request_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked("....", ended=False).replace("{id}", request_id).encode())
        await reader.read()  # until the caller gives up

    report = asyncio.run(load(handler, send_seconds=0, patience_seconds=0.1, lengths={"0.1": 1}))
    assert [outcome.reason for outcome in report.failed] == ["not finished 0.1 s after its length"]


def test_requests_go_on_leaving_while_nobody_is_answered() -> None:
    together = 20
    arrived: list[str] = []
    enough = asyncio.Event()

    async def handler(request_id: str, _reader: object, writer: asyncio.StreamWriter) -> None:
        arrived.append(request_id)
        if len(arrived) == together:
            enough.set()
        await enough.wait()
        writer.write(chunked("....", END).replace("{id}", request_id).encode())

    # Callers who wait for their answers would wait for ever.
    report = asyncio.run(load(handler, rate_per_second=100, send_seconds=(together - 1) / 100))
    report.assert_lossless(at_least=together)
    assert len(set(arrived)) == report.sent == together


def test_new_and_kept_alive_connections_are_mixed() -> None:
    async def handler(request_id: str, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked("....", END).replace("{id}", request_id).encode())

    report = asyncio.run(load(handler, rate_per_second=100, send_seconds=1))
    report.assert_lossless(at_least=100)
    assert 10 < sum(outcome.kept_alive for outcome in report.outcomes) < 90


def test_the_senders_own_lateness_is_told_and_counts_in_what_callers_waited() -> None:
    blocked = 0.5
    seen = 0

    async def handler(request_id: str, _reader: object, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            time.sleep(blocked)
        writer.write(chunked("....", END).replace("{id}", request_id).encode())

    report = asyncio.run(load(handler, rate_per_second=20, send_seconds=1))
    report.assert_lossless(at_least=20)
    assert report.late(1) > blocked / 2
    late = max(report.outcomes, key=lambda outcome: outcome.late)
    assert late.first_byte is not None
    assert late.first_byte >= late.late
    assert f"late by {report.late(0.99):.3f} s" in str(report)


@pytest.mark.parametrize(("patience_seconds", "result", "attempts"), [(5, "ok", 2), (0.5, "refused", 1)])
def test_who_is_refused_asks_again_while_there_is_time(
    patience_seconds: float, result: str, attempts: int
) -> None:
    seen: list[str] = []

    async def handler(request_id: str, _reader: object, writer: asyncio.StreamWriter) -> None:
        seen.append(request_id)
        full = counted("503 Service Unavailable", "full", "Retry-After: 1")
        writer.write((full if len(seen) == 1 else chunked("....", END)).replace("{id}", request_id).encode())

    (outcome,) = asyncio.run(load(handler, send_seconds=0, retry_seconds=patience_seconds)).outcomes
    assert (outcome.result, outcome.attempts, len(seen)) == (result, attempts, attempts)
    assert outcome.whole >= attempts - 1  # all of it counts


def test_a_report_refuses_what_is_missing_lost_or_refused() -> None:
    whole = answer_to_one(chunked("....", END))
    lost = answer_to_one("")
    refused = answer_to_one(counted("503 Service Unavailable", "full", "Retry-After: 1"))
    with pytest.raises(AssertionError, match="closed before any answer"):
        Report([whole, lost], 2).assert_lossless()
    with pytest.raises(AssertionError, match="1 without an outcome"):
        Report([whole], 2).assert_lossless()
    with pytest.raises(AssertionError, match="1 refused"):
        Report([whole, refused], 2).assert_lossless()
    Report([whole, refused], 2).assert_lossless(refused_at_most=1)
    with pytest.raises(AssertionError, match="1 ok"):
        Report([whole], 1).assert_lossless(at_least=2)
    assert Report([whole, lost], 2).count_by("replica", "version") == {("hard-2", "7"): 1}


def wav(seconds: float, cut_bytes: int = 0) -> bytes:
    data = b"\x01\x02" * int(8000 * seconds)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000,
                       2, 16, b"data", len(data))  # fmt: skip
    return (head + data)[: len(head) + len(data) - cut_bytes]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (wav(30), ""),
        (wav(30, cut_bytes=100), "cut off"),
        (wav(0.1), "short: 0.10 s"),
        (b"RIFX", "no whole WAV"),
    ],
)
def test_speech_has_to_be_a_whole_wav_as_long_as_its_text(content: bytes, reason: str) -> None:
    async def handler(request_id: str, _reader: object, writer: asyncio.StreamWriter) -> None:
        head = OK.replace("{id}", request_id) + f"Content-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)

    (outcome,) = asyncio.run(load(handler, kind="speech", send_seconds=0)).outcomes
    assert outcome.result == ("failed" if reason else "ok")
    assert reason in outcome.reason


def test_quantiles_are_values_that_were_seen() -> None:
    assert [quantile([3, 1, 2], share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 2, 3, 3]
    assert math.isnan(quantile([], 0.5))
