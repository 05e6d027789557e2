# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that is hard to replace: slow to start, its answers long, and unforgiving.

One file, the standard library alone, so that it runs in any image with a Python: mounted and started as
C(python3 -I -S server.py); with the argument V(healthcheck) it is the container's HEALTHCHECK.

- C(/stream?seconds=3), GET or POST: that many seconds of body, a chunk every tenth of a second, chunked. The
  answer says beforehand how long it will be (X-Body-Bytes), and its last line is C(end <request id>): a
  caller can tell a whole answer from a cut or a short one. While it loads it answers 503 without
  Retry-After, which is what a caller gets who was sent to a replica that is not ready.
- More than MAX_IN_FLIGHT streams wait in a queue of MAX_QUEUED, the rest is refused: 503 with Retry-After.
- C(/healthz): 200 when loaded, not draining and not stopping. C(/livez), C(/version), C(/metrics).
- SIGTERM: not ready at once, goes on taking requests for LINGER_SECONDS, finishes those in hand, exits 0.

Settings are environment variables, with these defaults: PORT 8000, SERVICE hard, REPLICA hard-1, REVISION 1,
WEIGHTS_DIGEST (of the revision), START_SECONDS 10, FIRST_BYTE_SECONDS 0.05, LINGER_SECONDS 3, MAX_IN_FLIGHT
300, MAX_QUEUED 8, DRAIN_FILE /run/voicefleet/drain, FAULT (none).

It uses no card, and tells the stand-in for one that it does, in VOICEFLEET_STAND_IN_GPU_FILE (none): GPU_MIB
(4000) when loaded, and as long as a stream lasts GPU_MIB_PER_SECOND (100) more for every second of it.

Ask with an empty POST: behind Traefik, a POST with a body on a kept-alive connection whose answer begins to
stream at once is lost now and then (1 in 100 with FIRST_BYTE_SECONDS 0) with nothing being replaced, because
Go's reverse proxy closes the body that it is still reading: https://github.com/golang/go/issues/40747.

Faults: never_healthy; dies_at_start; wrong_version (tells another revision); crashes_after=S (exit 3, S
seconds after it was healthy); hangs_after=S (answers nothing any more); errors (500 on each stream); slow=S
(first byte so late). With @REPLICA behind it, only that replica has it.
"""

from __future__ import annotations

import os
import sys

CHUNK_SECONDS = 0.1
CHUNK = b"." * 319 + b"\n"
LONGEST_SECONDS = 120.0
DRAIN_FILE = os.environ.get("DRAIN_FILE") or "/run/voicefleet/drain"
PORT = int(os.environ.get("PORT") or "8000")


def healthcheck() -> int:
    """Exit code of the HEALTHCHECK. Imports next to nothing: it runs every second on every replica."""
    import socket

    if os.path.exists(DRAIN_FILE):
        print("draining")
        return 1
    try:
        with socket.create_connection(("127.0.0.1", PORT), 2) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := connection.recv(4096):
                answer += part
    except OSError as error:
        print(f"no answer: {error}")
        return 1
    print(answer.partition(b"\r\n\r\n")[2].decode())
    return 0 if answer.split(b" ", 2)[1:2] == [b"200"] else 1


if __name__ == "__main__" and sys.argv[1:] == ["healthcheck"]:
    sys.exit(healthcheck())

import asyncio  # noqa: E402 - the check above starts in a third of the time without it
import collections  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402
import urllib.parse  # noqa: E402
import uuid  # noqa: E402

REASONS = {
    200: "OK",
    404: "Not Found",
    400: "Bad Request",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
FIRST_BYTE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Headers = dict[str, str]


class Settings:
    """What the environment says."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.service = environment.get("SERVICE", "hard")
        self.replica = environment.get("REPLICA", "hard-1")
        self.revision = environment.get("REVISION", "1")
        self.start_seconds = float(environment.get("START_SECONDS", "10"))
        self.first_byte_seconds = float(environment.get("FIRST_BYTE_SECONDS", "0.05"))
        self.linger_seconds = float(environment.get("LINGER_SECONDS", "3"))
        self.max_in_flight = int(environment.get("MAX_IN_FLIGHT", "300"))
        self.max_queued = int(environment.get("MAX_QUEUED", "8"))
        self.gpu_file = environment.get("VOICEFLEET_STAND_IN_GPU_FILE", "")
        self.gpu_mib = int(environment.get("GPU_MIB", "4000"))
        self.gpu_mib_per_second = int(environment.get("GPU_MIB_PER_SECOND", "100"))
        fault, _at, only = environment.get("FAULT", "").partition("@")
        self.fault, _equals, value = (fault if only in ("", environment.get("REPLICA")) else "").partition(
            "="
        )
        self.fault_seconds = float(value or "0")
        if self.fault == "wrong_version":
            self.revision += "-wrong"
        self.weights_digest = (
            environment.get("WEIGHTS_DIGEST") or hashlib.sha256(self.revision.encode()).hexdigest()
        )


class Service:
    """One replica: its readiness, its streams, its figures."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loaded = False
        self.stopping = False
        self.started_at = time.time()
        self.in_flight = 0
        self.held_mib = 0.0
        self.open_connections: set[asyncio.StreamWriter] = set()
        self.busy: set[asyncio.StreamWriter] = set()
        self.waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self.requests: collections.Counter[int] = collections.Counter()
        self.first_bytes: list[int] = [0] * (len(FIRST_BYTE_SECONDS) + 1)
        self.first_byte_sum = 0.0

    # -- its life

    async def serve(self) -> None:
        """Until SIGTERM, and what was in hand then is finished."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        server = await asyncio.start_server(self.connection, "0.0.0.0", PORT, backlog=1024)
        self.say("listening, loading")
        life = asyncio.create_task(self.load())
        await stop.wait()
        self.stopping = True
        self.say(f"SIGTERM: {self.in_flight} in hand, taking more for {self.settings.linger_seconds:g} s")
        await asyncio.sleep(self.settings.linger_seconds)
        server.close()
        for writer in self.open_connections - self.busy:
            writer.close()
        while self.busy:
            await asyncio.sleep(0.05)
        life.cancel()
        self.say("all finished")

    async def load(self) -> None:
        """Take the time that loading takes, and commit the fault if there is one to commit in time."""
        fault, later = self.settings.fault, self.settings.fault_seconds
        if fault == "dies_at_start":
            await asyncio.sleep(min(1.0, self.settings.start_seconds))
            self.say("no memory left for the model")
            os._exit(3)
        await asyncio.sleep(self.settings.start_seconds)
        if fault == "never_healthy":
            return
        self.hold(self.settings.gpu_mib)
        self.loaded = True
        self.say("ready")
        if fault == "crashes_after":
            await asyncio.sleep(later)
            self.say(f"crash, with {self.in_flight} in hand")
            os._exit(3)
        if fault == "hangs_after":
            await asyncio.sleep(later)
            self.say(f"hangs, with {self.in_flight} in hand")
            while True:
                time.sleep(3600)

    def obstacle(self) -> str:
        """Why it should get no requests; empty when it should."""
        if not self.loaded:
            return "loading"
        if self.stopping:
            return "stopping"
        return "draining" if os.path.exists(DRAIN_FILE) else ""

    # -- one connection

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests one after another, until either side has enough."""
        self.open_connections.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.busy.add(writer)
                lines = head.decode("latin-1").split("\r\n")
                method, target, _version = lines[0].split(" ", 2)
                headers = {
                    name.strip().lower(): value.strip()
                    for name, _colon, value in (line.partition(":") for line in lines[1:] if line)
                }
                await reader.readexactly(int(headers.get("content-length", "0")))
                last = headers.get("connection", "").lower() == "close" or self.stopping
                await self.answer(writer, method, target, headers, last)
                self.busy.discard(writer)
                if last or self.stopping:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            return
        finally:
            self.busy.discard(writer)
            self.open_connections.discard(writer)
            writer.close()

    async def answer(
        self, writer: asyncio.StreamWriter, method: str, target: str, headers: Headers, last: bool
    ) -> None:
        url = urllib.parse.urlsplit(target)
        request_id = headers.get("x-request-id") or uuid.uuid4().hex
        page = url.path.rsplit("/", 1)[-1]  # whatever prefix a proxy left in front
        own = {
            "X-Request-Id": request_id,
            "X-Replica": self.settings.replica,
            "X-Model-Version": self.settings.revision,
            "Connection": "close" if last else "keep-alive",
        }
        if page == "stream":
            query = urllib.parse.parse_qs(url.query)
            await self.stream(writer, float(query.get("seconds", ["1"])[0]), request_id, own)
            return
        if page == "healthz":
            obstacle = self.obstacle()
            status, content = (503 if obstacle else 200), {"status": obstacle or "ready"}
        elif page == "livez":
            status, content = 200, {"status": "alive"}
        elif page == "version":
            status, content = 200, {
                "service": self.settings.service,
                "replica": self.settings.replica,
                "revision": self.settings.revision,
                "weights_digest": self.settings.weights_digest,
            }  # fmt: skip
        elif page == "metrics":
            await self.whole(
                writer, 200, self.metrics().encode(), {**own, "Content-Type": "text/plain; version=0.0.4"}
            )
            return
        else:
            status, content = 404, {"error": f"no {url.path} here"}
        await self.whole(
            writer, status, json.dumps(content).encode() + b"\n", {**own, "Content-Type": "application/json"}
        )

    # -- streams

    async def stream(
        self, writer: asyncio.StreamWriter, seconds: float, request_id: str, own: Headers
    ) -> None:
        arrived = time.monotonic()
        if not 0 < seconds <= LONGEST_SECONDS:
            await self.refuse(writer, 400, f"seconds is {seconds:g}, not from 0 to {LONGEST_SECONDS:g}", own)
        elif not self.loaded:
            await self.refuse(writer, 503, "still loading", own)
        elif self.settings.fault == "errors":
            await self.refuse(writer, 500, "as it was told to", own)
        elif not await self.enter():
            await self.refuse(writer, 503, "full", {**own, "Retry-After": "1"})
        else:
            taken = seconds * self.settings.gpu_mib_per_second
            self.hold(taken)
            try:
                await self.speak(writer, seconds, request_id, own, arrived)
            finally:
                self.hold(-taken)
                self.leave()

    async def speak(
        self, writer: asyncio.StreamWriter, seconds: float, request_id: str, own: Headers, arrived: float
    ) -> None:
        slow = self.settings.fault_seconds if self.settings.fault == "slow" else 0.0
        await asyncio.sleep(self.settings.first_byte_seconds + slow)
        chunks = max(1, round(seconds / CHUNK_SECONDS))
        end = f"end {request_id}\n".encode()
        body_bytes = chunks * len(CHUNK) + len(end)
        self.head(
            writer,
            200,
            {
                **own,
                "Content-Type": "application/octet-stream",
                "Transfer-Encoding": "chunked",
                "X-Body-Bytes": str(body_bytes),
            },
        )
        begin = time.monotonic()
        self.first_byte(begin - arrived)
        for number in range(chunks):
            wait = begin + number * CHUNK_SECONDS - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            self.chunk(writer, CHUNK)
            await writer.drain()
        self.chunk(writer, end)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.requests[200] += 1

    def hold(self, mib: float) -> None:
        """So much more of the made-up card."""
        self.held_mib += mib
        if self.settings.gpu_file:
            with open(self.settings.gpu_file, "w", encoding="ascii") as file:
                file.write(f"{self.held_mib:.0f}")

    async def enter(self) -> bool:
        """A place among those in flight, at once or after a wait; False when the queue is full too."""
        if self.in_flight < self.settings.max_in_flight:
            self.in_flight += 1
            return True
        if len(self.waiting) >= self.settings.max_queued:
            return False
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(place)
        await place  # the one that leaves hands its place over, so in_flight stays as it is
        return True

    def leave(self) -> None:
        if self.waiting:
            self.waiting.popleft().set_result(None)
        else:
            self.in_flight -= 1

    # -- bytes

    def head(self, writer: asyncio.StreamWriter, status: int, headers: Headers) -> None:
        lines = [
            f"HTTP/1.1 {status} {REASONS[status]}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    def chunk(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(content), content))

    async def whole(
        self, writer: asyncio.StreamWriter, status: int, content: bytes, headers: Headers
    ) -> None:
        self.head(writer, status, {**headers, "Content-Length": str(len(content))})
        writer.write(content)
        await writer.drain()

    async def refuse(self, writer: asyncio.StreamWriter, status: int, why: str, headers: Headers) -> None:
        self.requests[status] += 1
        await self.whole(writer, status, json.dumps({"error": why}).encode() + b"\n", headers)

    # -- figures

    def first_byte(self, seconds: float) -> None:
        self.first_byte_sum += seconds
        at = next(
            (at for at, limit in enumerate(FIRST_BYTE_SECONDS) if seconds <= limit), len(FIRST_BYTE_SECONDS)
        )
        self.first_bytes[at] += 1

    def metrics(self) -> str:
        """Prometheus' text form; the names are those of the speech server, with hard_ for speech_."""
        gauges = {
            "hard_ready": int(not self.obstacle()),
            "hard_in_flight": self.in_flight,
            "hard_queued": len(self.waiting),
            "hard_capacity": self.settings.max_in_flight,
            "hard_queue_capacity": self.settings.max_queued,
            "process_start_time_seconds": self.started_at,
        }
        lines = [
            line for name, value in gauges.items() for line in (f"# TYPE {name} gauge", f"{name} {value}")
        ]
        lines.append("# TYPE hard_requests_total counter")
        lines += [
            f'hard_requests_total{{status="{status}"}} {count}' for status, count in self.requests.items()
        ]
        lines.append("# TYPE hard_first_byte_seconds histogram")
        total = 0
        for limit, count in zip([*map(str, FIRST_BYTE_SECONDS), "+Inf"], self.first_bytes, strict=True):
            total += count
            lines.append(f'hard_first_byte_seconds_bucket{{le="{limit}"}} {total}')
        lines += [
            f"hard_first_byte_seconds_sum {self.first_byte_sum:.6f}",
            f"hard_first_byte_seconds_count {total}",
        ]
        return "\n".join(lines) + "\n"

    def say(self, text: str) -> None:
        print(f"{self.settings.replica} revision {self.settings.revision}: {text}", flush=True)


if __name__ == "__main__":
    asyncio.run(Service(Settings(dict(os.environ))).serve())
