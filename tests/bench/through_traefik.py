# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Traefik costs: the same requests to the demo's replicas directly and through Traefik, side by side.

Three ways to the same replicas: directly; through Traefik at its address on the bridge network, which is the
proxy alone; and through Traefik's published port on loopback, as callers on this machine come, which passes
Docker's own port forwarder as well. The ways take turns in small blocks, in changing order, so that whatever
else the machine does hits all three. "first byte, more than direct" is the median, and in brackets the middle
half, of the differences between the blocks' medians, turn by turn: steadier than to subtract two columns.

Every caller keeps its connection. Directly, each caller has a replica of its own, the best that any load
balancer could do.

    python tests/bench/through_traefik.py [--seconds 50] [--url http://127.0.0.1:9080]
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from urllib.parse import urlsplit

from _demo import REPLICA_PORT, WEB_URL, Demo, address, demo, load_average

TEXT = "Your ticket, please."
TIMEOUT_SECONDS = 10.0
Target = tuple[str, int]


@dataclass(frozen=True)
class Load:
    """One kind of request, by so many callers at once, in blocks of so many requests a caller."""

    name: str
    callers: int
    per_block: int
    share: int  # of the time
    audio_format: str = ""

    def send(self, connection: http.client.HTTPConnection) -> None:
        if self.audio_format:
            body = json.dumps({"input": TEXT, "response_format": self.audio_format})
            connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
        else:
            connection.request("GET", "/livez")


LOADS = [
    Load("GET /livez", 1, 20, 1),
    Load("GET /livez", 2, 20, 1),
    *(Load(f"speech, {kind}", callers, callers, 3, kind) for kind in ("pcm", "mp3") for callers in (1, 2)),
]


@dataclass
class Way:
    """One way to the replicas: connections, the first of them in use, and what was measured."""

    name: str
    connections: list[http.client.HTTPConnection]
    first_byte_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    block_medians_ms: list[float] = field(default_factory=list)  # of the first byte; nan where all failed
    failed: int = 0
    seconds: float = 0.0


def ask(connection: http.client.HTTPConnection, load: Load) -> tuple[float, float] | None:
    """First byte of the body and whole request, in ms; None for anything but a complete 200."""
    begin = time.perf_counter()
    try:
        load.send(connection)
        answer = connection.getresponse()
        start = answer.read1(1)
        first = time.perf_counter()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens it again
        return None
    end = time.perf_counter()
    return ((first - begin) * 1000, (end - begin) * 1000) if answer.status == 200 and start else None


def block(way: Way, load: Load, pool: ThreadPoolExecutor) -> None:
    """All callers at once, each its requests one after another."""

    def caller(connection: http.client.HTTPConnection) -> list[tuple[float, float] | None]:
        return [ask(connection, load) for _ in range(load.per_block)]

    begin = time.perf_counter()
    answers = [one for answers in pool.map(caller, way.connections[: load.callers]) for one in answers]
    way.seconds += time.perf_counter() - begin
    served = [one for one in answers if one]
    way.failed += len(answers) - len(served)
    first, whole = [one[0] for one in served], [one[1] for one in served]
    way.first_byte_ms += first
    way.whole_ms += whole
    way.block_medians_ms.append(statistics.median(first) if first else float("nan"))


def measure(load: Load, targets: dict[str, list[Target]], seconds: float) -> list[Way]:
    """Let the ways take turns for so long; no turn is begun that would not end in time, except the first."""
    ways = []
    for name, ends in targets.items():
        hosts = islice(cycle(ends), max(load.callers, len(ends)))
        ways.append(Way(name, [http.client.HTTPConnection(*end, timeout=TIMEOUT_SECONDS) for end in hosts]))
    end = time.perf_counter() + seconds
    last_turn_seconds = 0.0
    with ThreadPoolExecutor(load.callers) as pool:
        for way in ways:  # open the connections; not counted
            for connection in way.connections:
                ask(connection, load)
        turn = 0
        while turn == 0 or time.perf_counter() + last_turn_seconds < end:
            begin = time.perf_counter()
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                block(way, load, pool)
                way.connections.append(way.connections.pop(0))  # so that one caller visits all replicas
            turn += 1
            last_turn_seconds = time.perf_counter() - begin
    for way in ways:
        for connection in way.connections:
            connection.close()
    return ways


def percentiles(values_ms: Sequence[float]) -> str:
    """p50, p95 and p99: the smallest value that so many percent do not exceed."""
    ordered = sorted(values_ms)
    ranks = [-(-len(ordered) * percent // 100) for percent in (50, 95, 99)]
    return "".join(f"{ordered[rank - 1] if ordered else float('nan'):>8.1f}" for rank in ranks)


def more(way_ms: Sequence[float], direct_ms: Sequence[float]) -> str:
    """Median and middle half of the differences, turn by turn."""
    found = [a - b for a, b in zip(way_ms, direct_ms, strict=True) if a == a and b == b]  # no nan
    if len(found) < 2:
        return "too few"
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def rows(load: Load, ways: list[Way]) -> list[str]:
    """The load's part of the table."""
    direct = ways[0]
    lines = [f"{load.name}, {load.callers} caller{'s' if load.callers > 1 else ''}"]
    for way in ways:
        line = f"  {way.name:<16}{len(way.whole_ms):>6}{way.failed:>5} "
        line += percentiles(way.first_byte_ms) + " " + percentiles(way.whole_ms)
        line += f"{len(way.whole_ms) / way.seconds if way.seconds else 0:>8.1f}"
        if way is not direct:
            line += f"  {more(way.block_medians_ms, direct.block_medians_ms):>25}"
        lines.append(line)
    return lines


def targets_of(found: Demo, url: str) -> dict[str, list[Target]]:
    """The ways, the direct one first."""
    web = urlsplit(url)
    if web.hostname != "127.0.0.1" or not web.port:
        sys.exit(f"--url {url}: wants Traefik's web entry point on loopback, like {WEB_URL}")
    inside = [
        int(port.split("/")[0])
        for port, bindings in found.traefik.ports.items()
        if any(int(binding["HostPort"]) == web.port for binding in bindings or [])
    ]
    if not inside:
        sys.exit(f"--url {url}: {found.traefik.name} does not publish port {web.port}")
    return {
        "direct": [(address(replica), REPLICA_PORT) for replica in found.replicas],
        "Traefik": [(address(found.traefik), inside[0])],
        "published port": [(web.hostname, web.port)],
    }


def main() -> None:
    """Measure and print."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=50, help="of the whole run, at most 55")
    parser.add_argument("--url", default=WEB_URL, help="Traefik's published web entry point")
    options = parser.parse_args()
    if not 7 <= options.seconds <= 55:
        parser.error(f"--seconds {options.seconds:g}: wants 7 to 55")
    found = demo()
    targets = targets_of(found, options.url)
    print(f"Requests to {len(found.replicas)} replicas, directly and through Traefik; {load_average()}.")
    print(f"Speech is {TEXT!r}. Times in ms; p99 of fewer than 100 requests is the slowest.\n")
    print(f"{'':<30}{'first byte':>24} {'whole request':>24}{'':>8}  {'first byte, more than':>25}")
    heads = "".join(f"{name:>8}" for name in ("p50", "p95", "p99"))
    print(f"{'':<18}{'served':>6}{'fail':>5} {heads} {heads}{'req/s':>8}  {'direct':>25}")
    shares = sum(load.share for load in LOADS)
    failed = 0
    for load in LOADS:
        ways = measure(load, targets, options.seconds * load.share / shares)
        print("\n".join(rows(load, ways)), flush=True)
        failed += sum(way.failed for way in ways)
    print(f"\nAt the end, after {time.perf_counter() - began:.0f} s: {load_average()}.")
    if failed:
        sys.exit(f"{failed} requests failed: see the column fail; the figures hold for the others only.")


if __name__ == "__main__":
    main()
