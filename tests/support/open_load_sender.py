# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process behind open_load: sends requests on a clock, and writes what became of each, one JSON a line.

By hand: python open_load_sender.py '{"url": "http://127.0.0.1:9080", "host": "hard.example.org"}'
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import random
import re
import signal
import sys
import time
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from typing import TextIO

# How long, in seconds, the streams are that callers ask for, and how often: mostly short, some very long.
LENGTHS = {1: 50, 2: 25, 4: 14, 8: 7, 15: 3, 30: 1}
# A connection that was idle for longer is not used again: a proxy may be about to close it.
IDLE_SECONDS = 20.0
# How much longer than its length an answer may take before it counts as failed.
PATIENCE_SECONDS = 30.0
# The shortest speech that a text can make: 25 characters a second is twice as fast as people speak.
SPEECH_SECONDS_PER_CHARACTER = 0.04
SENTENCES = (
    "Your ticket, please.",
    "The train on platform four leaves in two minutes, please stand clear of the doors.",
    "Good morning and welcome. All our lines are busy at the moment, so please hold on; the next free "
    "person will take your call, and we thank you for your patience.",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one request. Times in seconds; C(at) since 1970, the others since C(at)."""

    id: str
    at: float  # when it was to leave
    seconds: float  # the length that was asked for
    result: str  # ok, refused, failed
    reason: str
    status: int
    replica: str
    version: str
    late: float  # how long after its moment it really left: the sender's own fault
    first_byte: float | None  # of the body
    longest_gap: float  # between two pieces of the body
    whole: float
    body_bytes: int
    kept_alive: bool  # on a connection that had been used before
    attempts: int = 1

    @property
    def ended(self) -> float:
        """When it was over, in seconds since 1970."""
        return self.at + self.whole

    def __str__(self) -> str:
        moment = f"{time.strftime('%H:%M:%S', time.gmtime(self.at))}.{int(self.at % 1 * 10)}"
        return (
            f"{moment} {self.id}: {self.result} after {self.whole:.2f} s, {self.reason or 'whole'} "
            f"(status {self.status}, {self.body_bytes} bytes, asked for {self.seconds:g} s, "
            f"{self.replica or 'no replica'}, version {self.version or 'unknown'}, "
            f"{'kept-alive' if self.kept_alive else 'new'} connection)"
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """What to send where; the sender gets it as JSON."""

    url: str
    rate_per_second: float = 10.0
    kind: str = "stream"  # stream: the hard service; speech: POST /v1/audio/speech, WAV
    host: str = ""  # the Host header, if not the URL's own
    lengths: Mapping[str, float] = dataclasses.field(default_factory=dict)  # seconds (stream): weight
    new_connections: float = 0.5  # the share of requests on a connection of their own
    patience_seconds: float = PATIENCE_SECONDS
    send_seconds: float = math.inf  # by itself it ends then
    seed: int = 0
    at_random: bool = False  # the moments: Poisson, as callers come in life, and not evenly spaced
    texts: Sequence[str] = SENTENCES  # speech: drawn from these
    # Who is refused asks again when Retry-After says, but no later than so many seconds after his moment.
    retry_seconds: float = 0.0


class AnswerError(Exception):
    """The answer is not what was asked for; the text says in what way."""


@dataclasses.dataclass
class Answer:
    """What came so far."""

    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytearray = dataclasses.field(default_factory=bytearray)
    first_byte_at: float | None = None
    last_byte_at: float = 0.0
    longest_gap: float = 0.0

    def take(self, piece: bytes, now: float) -> None:
        """The next piece of the body."""
        if self.first_byte_at is None:
            self.first_byte_at = now
        else:
            self.longest_gap = max(self.longest_gap, now - self.last_byte_at)
        self.last_byte_at = now
        self.body += piece


class Connection:
    """One HTTP/1.1 connection, by hand: what is cut, and where, has to be seen exactly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.used = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether it was open, with nothing unasked for in it, when last looked at."""
        return not (self.reader.at_eof() or self.writer.is_closing() or self.idle_for > IDLE_SECONDS)

    @property
    def idle_for(self) -> float:
        return time.monotonic() - self.idle_since if self.used else 0.0

    async def exchange(self, request: bytes, answer: Answer) -> bool:
        """Send, and fill C(answer) as it comes; True when another request may follow on this connection."""
        self.used = True
        self.writer.write(request)
        await self.writer.drain()
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise AnswerError(
                "closed before any answer" if not error.partial else "cut in its header"
            ) from None
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        if not re.match(r"HTTP/1\.[01] \d{3}( |$)", first):
            raise AnswerError(f"no HTTP: {first[:80]!r}")
        answer.status = int(first.split(" ", 2)[1])
        answer.headers = {
            name.strip().lower(): value.strip()
            for name, _colon, value in (line.partition(":") for line in lines)
        }
        try:
            if answer.headers.get("transfer-encoding", "").lower() == "chunked":
                await self._chunked(answer)
            elif "content-length" in answer.headers:
                await self._counted(answer, int(answer.headers["content-length"]))
            else:
                while piece := await self.reader.read(65536):
                    answer.take(piece, time.monotonic())
                return False
        except asyncio.IncompleteReadError:
            raise AnswerError(f"cut after {len(answer.body)} bytes of its body") from None
        self.idle_since = time.monotonic()
        return answer.headers.get("connection", "").lower() != "close"

    async def _chunked(self, answer: Answer) -> None:
        while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            piece = await self.reader.readexactly(size + 2)
            answer.take(piece[:-2], time.monotonic())
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers

    async def _counted(self, answer: Answer, size: int) -> None:
        while len(answer.body) < size:
            piece = await self.reader.read(min(65536, size - len(answer.body)))
            if not piece:
                raise asyncio.IncompleteReadError(b"", None)
            answer.take(piece, time.monotonic())


class StreamKind:
    """Streams of the hard service, see hard_service/server.py."""

    def __init__(self, config: Config, rng: random.Random) -> None:
        lengths = config.lengths or {str(seconds): weight for seconds, weight in LENGTHS.items()}
        self.lengths = [float(seconds) for seconds in lengths]
        self.weights = list(lengths.values())
        self.path = urllib.parse.urlsplit(config.url).path.rstrip("/")
        self.rng = rng

    def ask(self) -> tuple[float, str, bytes, str]:
        """Length in seconds, path, body, and the body's type.

        A POST, as speech is: no proxy sends it twice. Without a body: see hard_service/server.py.
        """
        seconds = self.rng.choices(self.lengths, self.weights)[0]
        return seconds, f"{self.path}/stream?seconds={seconds:g}", b"", "text/plain"

    def judge(self, _asked: float, request_id: str, answer: Answer) -> None:
        """Raises AnswerError when it is not the whole answer to this request."""
        announced = answer.headers.get("x-body-bytes", "")
        if announced != str(len(answer.body)):
            raise AnswerError(f"short: {announced or 'no'} bytes were announced and {len(answer.body)} came")
        if not answer.body.endswith(f"\nend {request_id}\n".encode()):
            raise AnswerError(f"without its last line; it ends with {bytes(answer.body[-40:])!r}")


class SpeechKind:
    """Speech as OpenAI's clients ask for it; the WAV has to be whole and as long as its text.

    These POSTs have a body. On an overloaded machine use new_connections=1: see hard_service/server.py.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        # Only here: the hard service's load needs nothing of the collection.
        from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _wave

        self.wave = _wave
        self.path = urllib.parse.urlsplit(config.url).path.rstrip("/") + "/v1/audio/speech"
        self.texts = config.texts
        self.rng = rng

    def ask(self) -> tuple[float, str, bytes, str]:
        text = self.rng.choice(self.texts)
        body = json.dumps({"input": text, "response_format": "wav"}).encode()
        return len(text) * SPEECH_SECONDS_PER_CHARACTER, self.path, body, "application/json"

    def judge(self, asked: float, _request_id: str, answer: Answer) -> None:
        try:
            sound = self.wave.read_wave(bytes(answer.body))
        except self.wave.WaveError as error:
            raise AnswerError(f"no whole WAV: {error}") from None
        if sound.seconds < asked:
            raise AnswerError(f"short: {sound.seconds:.2f} s of speech for a text of at least {asked:.2f} s")


KINDS: dict[str, type[StreamKind] | type[SpeechKind]] = {"stream": StreamKind, "speech": SpeechKind}


class Sender:
    """Sends on the clock until it is stopped; writes an outcome a line."""

    def __init__(self, config: Config, out: TextIO) -> None:
        self.config, self.out = config, out
        self.rng = random.Random(config.seed)  # noqa: S311 - it shuffles lengths
        self.kind = KINDS[config.kind](config, self.rng)
        url = urllib.parse.urlsplit(config.url)
        self.address = (url.hostname or "127.0.0.1", url.port or 80)
        self.host = config.host or url.netloc
        self.idle: list[Connection] = []
        self.sent = 0
        self.stop = asyncio.Event()
        # One clock for all: monotonic, told in seconds since 1970.
        self.epoch = time.time() - time.monotonic()

    async def run(self) -> None:
        """Until stopped, and then until the last answer is there."""
        running: set[asyncio.Task[None]] = set()
        moments = random.Random(f"moments {self.config.seed}")  # noqa: S311 - of their own: same lengths
        begin, offset = time.monotonic(), 0.0
        while not self.stop.is_set():
            if self.config.at_random:
                offset += moments.expovariate(self.config.rate_per_second)
            else:
                offset = self.sent / self.config.rate_per_second
            if offset > self.config.send_seconds:
                break
            intended = begin + offset
            if (wait := intended - time.monotonic()) > 0:
                try:
                    await asyncio.wait_for(self.stop.wait(), wait)
                    break
                except TimeoutError:
                    pass
            self.sent += 1
            task = asyncio.create_task(self.one(intended))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)
        self.out.write(json.dumps({"sent": self.sent}) + "\n")
        self.out.flush()

    async def one(self, intended: float) -> None:
        """One request, from its moment to its outcome."""
        request_id = uuid.uuid4().hex
        asked, path, body, kind = self.kind.ask()
        alone = self.rng.random() < self.config.new_connections
        answer = Answer()
        result, reason, kept_alive = "failed", "", False
        late = time.monotonic() - intended
        connection: Connection | None = None
        keep = False
        attempts = 1
        try:
            request = (
                f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nX-Request-Id: {request_id}\r\n"
                f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                f"{'Connection: close' if alone else 'Connection: keep-alive'}\r\n\r\n"
            ).encode() + body
            async with asyncio.timeout(asked + self.config.patience_seconds):
                connection = await self._connection(alone)
                kept_alive = connection.used
                keep = await connection.exchange(request, answer)
                while (pause := self._pause(answer, intended)) is not None:
                    connection.writer.close()
                    await asyncio.sleep(pause)
                    attempts, answer = attempts + 1, Answer()
                    connection = await self._connection(alone)
                    keep = await connection.exchange(request, answer)
            result = self._judge(asked, request_id, answer)
        except AnswerError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"not finished {self.config.patience_seconds:g} s after its length"
        except (OSError, ValueError, asyncio.LimitOverrunError) as error:
            reason = f"{type(error).__name__}: {error}"
        now = time.monotonic()
        if connection and (keep and not alone and result != "failed"):
            self.idle.append(connection)
        elif connection:
            connection.writer.close()
        self._write(
            Outcome(
                id=request_id,
                at=self.epoch + intended,
                seconds=asked,
                result=result,
                reason=reason,
                status=answer.status,
                replica=answer.headers.get("x-replica", ""),
                version=answer.headers.get("x-model-version", ""),
                late=late,
                first_byte=answer.first_byte_at - intended if answer.first_byte_at is not None else None,
                longest_gap=answer.longest_gap,
                whole=now - intended,
                body_bytes=len(answer.body),
                kept_alive=kept_alive,
                attempts=attempts,
            )
        )

    def _pause(self, answer: Answer, intended: float) -> float | None:
        """How long to wait before asking again; None when there is no reason to, or no time."""
        if not self.config.retry_seconds or answer.status != 503 or "retry-after" not in answer.headers:
            return None
        pause = float(answer.headers["retry-after"])
        again = time.monotonic() + pause - intended
        return pause if again <= self.config.retry_seconds else None

    async def _connection(self, alone: bool) -> Connection:
        while self.idle and not alone:
            connection = self.idle.pop()
            if connection.usable:
                return connection
            connection.writer.close()
        return Connection(*await asyncio.open_connection(*self.address))

    def _judge(self, asked: float, request_id: str, answer: Answer) -> str:
        if answer.status == 503 and "retry-after" in answer.headers:
            return "refused"
        if answer.status != 200:
            raise AnswerError(f"status {answer.status}: {bytes(answer.body[:80])!r}")
        if answer.headers.get("x-request-id") != request_id:
            raise AnswerError(f"of another request: X-Request-Id is {answer.headers.get('x-request-id')!r}")
        self.kind.judge(asked, request_id, answer)
        return "ok"

    def _write(self, outcome: Outcome) -> None:
        self.out.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        self.out.flush()


async def _main(config: Config) -> None:
    sender = Sender(config, sys.stdout)
    loop = asyncio.get_running_loop()

    def heard() -> None:
        # Whoever started it closes standard input when it is to stop, by intent or by dying.
        if not os.read(0, 1024):
            loop.remove_reader(0)
            sender.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sender.stop.set)
    with contextlib.suppress(PermissionError):  # a file or /dev/null: nobody is there to say anything
        loop.add_reader(0, heard)
    await sender.run()


if __name__ == "__main__":
    asyncio.run(_main(Config(**json.loads(sys.argv[1]))))
