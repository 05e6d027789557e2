# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callers who leave whenever they like, for as long as one likes: nothing leaks, nothing hangs.

The server as a process of its own, with the engine cosyvoice3 on the stand-in package. It is looked at from
outside only: by what it answers, what /metrics says, and the kernel of its files, threads and memory.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conftest import PATIENCE_SECONDS, Spawned, eventually
from cosyvoice.cli.model import THREAD
from cosyvoice3_support import cosyvoice3_settings, recording
from open_load_sender import Answer, AnswerError, Connection

SECONDS = float(os.environ.get("VOICEFLEET_SOAK_SECONDS", "4"))
CALLERS = 12
AT_LEAST = 30  # served, and gone before their answer was complete; on a slow machine it takes longer
MAX_IN_FLIGHT = 2
MAX_QUEUED = 8
DEADLINE_SECONDS = 30
# What a process may still gain once all its buffers and threads are there.
MIB_MORE = 12
FILES_MORE = 3
# asyncio's pool (of concurrent.futures' default size) has a thread more whenever more ask at once than ever
# before, and keeps it. What an abandoned answer would leave is several for each of dozens of callers.
THREADS_MORE = min(32, (os.cpu_count() or 1) + 4)
SENTENCE = "Slowly the rain has stopped, and the street is quiet again this evening."
LONG = f"{SENTENCE[:-1]}, and so on, and so forth, until nobody listens any more and all have gone home."
TEXTS = (SENTENCE, f"{SENTENCE} {SENTENCE}", LONG, f"{LONG} Yes.", "Yes.", f"Clip-once {SENTENCE}")
MANNERS = ("stay", "stay", "leave", "leave", "leave amid", "leave amid", "half a request")
UPLOAD = recording(260)
BYTES_PER_SECOND = 48_000


@dataclass(frozen=True)
class Usage:
    """What the kernel says of the process."""

    files: int
    threads: int
    models_threads: int  # of them those of the stand-in's language model, one for each text in the making
    resident_mib: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        threads, kib = (
            int(re.findall(rf"^{name}:\s+(\d+)", status, re.M)[0]) for name in ("Threads", "VmRSS")
        )
        names = []
        for path in Path(f"/proc/{pid}/task").glob("*/comm"):
            with suppress(OSError):  # it has just ended
                names.append(path.read_text(encoding="ascii").strip())
        return cls(len(os.listdir(f"/proc/{pid}/fd")), threads, names.count(THREAD), kib / 1024)


def request_of(url: str, chance: random.Random) -> tuple[bytes, float]:
    """One of the ways to ask, as bytes; and the seconds of raw audio to come, 0 where that cannot be seen."""
    text = chance.choice(TEXTS)
    kind = chance.choice(["pcm", "pcm", "mp3", "events", "instructed", "recording"])
    if kind == "recording":
        form = {"tts_text": text, "prompt_text": "What is said."}
        request = httpx.Request("POST", f"{url}/inference_zero_shot", data=form, files={"prompt_wav": UPLOAD})
    else:
        body = {"input": text, "response_format": "mp3" if kind == "mp3" else "pcm"}
        if kind == "events":
            body["stream_format"] = "sse"
        if kind == "instructed":
            body |= {"voice": "bert", "instructions": "Be loud."}
        request = httpx.Request("POST", f"{url}/v1/audio/speech", json=body)
    content = request.read()
    lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    seconds = 0.0 if kind in ("mp3", "events") else len(text) / 15 * 0.8
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + content, seconds


async def call(url: str, chance: random.Random) -> str:
    """One caller, from coming to going; answers what became of him."""
    request, seconds = request_of(url, chance)
    manner = chance.choice(MANNERS)
    patience = chance.uniform(0, 0.4)
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        if manner == "half a request":
            writer.write(request[: chance.randrange(1, len(request))])
            await writer.drain()
            await asyncio.sleep(patience)
            return "left"
        answer = Answer()
        exchange = asyncio.ensure_future(Connection(reader, writer).exchange(request, answer))
        if manner != "stay":
            while manner == "leave amid" and answer.first_byte_at is None and not exchange.done():
                await asyncio.sleep(0.002)
            await asyncio.wait([exchange], timeout=patience)
            if not exchange.done():
                exchange.cancel()
                return "left"
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            await exchange
        if answer.status == 503 and "retry-after" in answer.headers:
            return "refused"
        if answer.status == 200 and len(answer.body) >= max(1, seconds * BYTES_PER_SECOND):
            return "served"
        return f"status {answer.status}, {len(answer.body)} bytes: {bytes(answer.body[:200])!r}"
    except AnswerError as error:
        return str(error)
    finally:
        if chance.random() < 0.5:
            writer.transport.abort()
        writer.close()


async def soak(url: str, pid: int) -> tuple[Counter[str], list[Usage]]:
    """Callers for so many seconds; what became of them, and often, how the process is."""
    end = time.monotonic() + SECONDS
    outcomes: Counter[str] = Counter()
    usages: list[Usage] = []

    def going_on() -> bool:
        late = time.monotonic() - end
        return late < 0 or (late < PATIENCE_SECONDS and min(outcomes["served"], outcomes["left"]) < AT_LEAST)

    async def caller(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - the same callers every time
        while going_on():
            outcomes[outcome := await call(url, chance)] += 1
            if outcome == "refused":
                await asyncio.sleep(0.1)

    async def watch() -> None:
        while going_on():
            usages.append(Usage.of(pid))
            await asyncio.sleep(0.05)

    await asyncio.gather(watch(), *(caller(seed) for seed in range(CALLERS)))
    return outcomes, usages


def metric(process: Spawned, name: str) -> float:
    text = process.client.get("/metrics").text
    return sum(float(value) for value in re.findall(rf"^speech_{name}(?:{{.*}})? (\S+)$", text, re.M))


def in_hand(process: Spawned) -> dict[str, float]:
    return {name: metric(process, name) for name in ("in_flight", "queued", "open_requests")}


@pytest.mark.slow
def test_callers_who_leave_whenever_they_like(
    spawn: Callable[..., Spawned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    settings = cosyvoice3_settings(tmp_path)
    process = spawn(
        engine="cosyvoice3",
        model_dir=settings.model_dir,
        voices_dir=settings.voices_dir,
        max_in_flight=MAX_IN_FLIGHT,
        max_queued=MAX_QUEUED,
        deadline_seconds=DEADLINE_SECONDS,
        linger_seconds=0,
    )
    process.wait_ready()
    pid = process.popen.pid
    outcomes, usages = asyncio.run(soak(process.url, pid))
    said = f"{dict(outcomes)}; first {usages[0]}, last {usages[-1]}"
    print(said)

    assert set(outcomes) == {"served", "left", "refused"}, said
    assert min(outcomes["served"], outcomes["left"]) >= AT_LEAST, said
    eventually(lambda: not any(in_hand(process).values()), f"still in hand: {in_hand(process)}")
    assert metric(process, "callers_left_total") > AT_LEAST / 3, said
    for name in ("engine_errors_total", "deadline_exceeded_total", "streams_cut_total"):
        assert metric(process, name) == 0, name

    # The model works on nothing that nobody waits for any more.
    assert max(each.models_threads for each in usages) <= MAX_IN_FLIGHT, said

    # Everybody who comes later is answered, and whole.
    for _ in range(10):
        answer = process.client.post("/v1/audio/speech", json={"input": SENTENCE, "response_format": "pcm"})
        assert answer.status_code == 200, answer.text
        assert len(answer.content) / BYTES_PER_SECOND == pytest.approx(len(SENTENCE) / 15, abs=0.1)

    # No more than at the beginning, and no trend: the last third against the one before it.
    after = Usage.of(pid)
    thirds = [usages[len(usages) * part // 3 : len(usages) * (part + 1) // 3] for part in range(3)]
    grown = [statistics.median(each.resident_mib for each in third) for third in thirds[1:]]
    assert grown[1] - grown[0] < MIB_MORE, f"resident MiB: {grown}; {said}"
    assert after.files <= usages[0].files + FILES_MORE, f"{after}; {said}"
    before = max(each.threads for each in usages[: len(usages) // 3])
    assert after.threads <= before + THREADS_MORE, f"{after}, {before} threads in the first third; {said}"
    assert after.models_threads == 0, f"{after}; {said}"
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == []

    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "Traceback" not in process.log.read_text()
