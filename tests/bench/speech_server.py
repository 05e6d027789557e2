# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load on one speech server process, spoken to directly: what it does without Traefik and Docker.

Two kinds of load. Closed: 1 to 4 callers, each asking again as soon as it is answered, which shows first
byte, whole request and throughput. Open: callers arrive at random (Poisson) whether earlier ones are answered
or not, as in life, and times count from the planned arrival; only this shows what happens above capacity.

    python tests/bench/speech_server.py [--seconds 20] [--max-in-flight 1] [--url http://host:port]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

FILES = Path(__file__).parents[2] / "roles/cosyvoice/files"
TEXT = (
    "The train to the coast leaves at seven. Please keep your ticket ready. We wish you a pleasant journey."
)
BYTES_PER_SECOND = 48_000  # s16le at 24 kHz


@dataclass
class Call:
    """One request, as its caller saw it. Seconds count from the planned moment of sending."""

    status: int
    first_byte_seconds: float = 0.0
    seconds: float = 0.0
    audio_seconds: float = 0.0


async def call(client: httpx.AsyncClient, planned: float) -> Call:
    """Ask for the text; a broken connection counts as status 0."""
    first = 0.0
    size = 0
    try:
        body = {"input": TEXT, "response_format": "pcm"}
        async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
            async for part in answer.aiter_raw():
                first = first or time.perf_counter() - planned
                size += len(part)
    except httpx.TransportError:
        return Call(0)
    return Call(answer.status_code, first, time.perf_counter() - planned, size / BYTES_PER_SECOND)


async def closed(client: httpx.AsyncClient, callers: int, seconds: float) -> list[Call]:
    """So many callers, each always asking."""
    end = time.perf_counter() + seconds
    calls: list[Call] = []

    async def caller() -> None:
        while (now := time.perf_counter()) < end:
            calls.append(await call(client, now))
            if calls[-1].status != 200:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return calls


async def arriving(client: httpx.AsyncClient, per_second: float, seconds: float) -> list[Call]:
    """Random arrivals at a mean rate, planned beforehand."""
    randomly = random.Random(1)  # noqa: S311 - the same arrivals every time
    start, at = time.perf_counter(), 0.0
    tasks = []
    while (at := at + randomly.expovariate(per_second)) < seconds:
        await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
        tasks.append(asyncio.create_task(call(client, start + at)))
    return list(await asyncio.gather(*tasks))


def percentile(values: list[float], share: float) -> float:
    """The value below which that share lies; 0 for none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def row(name: str, calls: list[Call], seconds: float) -> dict[str, object]:
    """One line of the table."""
    served = [one for one in calls if one.status == 200]
    first = [one.first_byte_seconds for one in served]
    whole = [one.seconds for one in served]
    return {
        "load": name,
        "served": len(served),
        "refused": sum(one.status == 503 for one in calls),
        "failed": sum(one.status not in (200, 503) for one in calls),
        "first byte p50": round(percentile(first, 0.5), 3),
        "p99": round(percentile(first, 0.99), 3),
        "whole p50": round(percentile(whole, 0.5), 3),
        "whole p99": round(percentile(whole, 0.99), 3),
        "req/s": round(len(served) / seconds, 2),
        "audio s/s": round(sum(one.audio_seconds for one in served) / seconds, 1),
    }


async def measure(url: str, seconds: float) -> list[dict[str, object]]:
    """The whole table."""
    rows = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        for callers in (1, 2, 3, 4):
            calls = await closed(client, callers, seconds)
            rows.append(row(f"closed, {callers}", calls, seconds))
        capacity = max(float(str(one["req/s"])) for one in rows)
        for share in (0.5, 0.8, 1.3):
            calls = await arriving(client, share * capacity, seconds)
            rows.append(row(f"open, {share:.0%} of capacity", calls, seconds))
    return rows


@contextmanager
def server(max_in_flight: int, threads: int) -> Iterator[str]:
    """A process of our own on a free port; prints what its start took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(FILES),
        "SPEECH_HOST": "127.0.0.1",
        "SPEECH_PORT": str(port),
        "SPEECH_MAX_IN_FLIGHT": str(max_in_flight),
        "SPEECH_THREADS": str(threads),
        "SPEECH_LINGER_SECONDS": "0",
    }
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "speech_server"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        answered = 0.0
        client = httpx.Client(base_url=url)  # one for all: making a client costs more than the question
        while process.poll() is None:
            try:
                status = client.get("/healthz").status_code
            except httpx.TransportError:
                status = 0
            answered = answered or (time.perf_counter() - begun if status else 0.0)
            if status == 200:
                break
            time.sleep(0.02)
        else:
            sys.exit("the server did not start")
        print(f"start: answers after {answered:.2f} s, ready after {time.perf_counter() - begun:.2f} s")
        print(f"resident after start: {resident_mib(process.pid)} MiB")
        yield url
        print(f"resident after load: {resident_mib(process.pid)} MiB")
    finally:
        process.send_signal(signal.SIGTERM)
        print("exit code:", process.wait(60))


def resident_mib(pid: int) -> int:
    """Resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--max-in-flight", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of the inference library")
    parser.add_argument("--url", help="an already running server")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    if options.url:
        rows = asyncio.run(measure(options.url, options.seconds))
    else:
        with server(options.max_in_flight, options.threads) as url:
            rows = asyncio.run(measure(url, options.seconds))
    widths = {name: max(len(name), *(len(str(one[name])) for one in rows)) for name in rows[0]}
    print("  ".join(name.ljust(width) for name, width in widths.items()))
    for one in rows:
        print("  ".join(str(one[name]).ljust(width) for name, width in widths.items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
