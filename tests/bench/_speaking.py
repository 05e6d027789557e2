# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas of the speech server with the CPU voice in a lab, each with a fixed share of a core.

All share this machine's cores. Without a fixed share a second replica would have what the first leaves of
them, and a third nothing; with it each is worth the same, as one on a card of its own is, as long as all
shares together, Traefik and the sender fit on the machine. "cores busy", of the whole machine, says whether
they did: close to the number of its cores, the figures are of a machine too small, or busy with others.

The middleware "retry" stands before them as role traefik has it by default: who is refused by one replica is
sent to another by Traefik before he hears of it.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from _lab import PORT, Lab, image
from open_load import OpenLoad, Report

# What callers say. Short, so that a run of seconds has many of them; one of two sentences.
TEXTS = ("Good morning.", "Your ticket, please.", "Mind the step.", "Thank you. Good night.")
SHARE_OF_A_CORE = 0.4
# Short, so that a replica is slow rather than held up for a while and then quick.
CPU_PERIOD_MICROSECONDS = 20_000
CAPACITY_SECONDS = 10.0
PATIENCE_SECONDS = 120.0  # the server's own deadline
RETRY = {"attempts": "3", "initialinterval": "100ms", "status": "503", "retrynonidempotentmethod": "true"}
QUANTILES = (0.5, 0.95, 0.99)


class Fleet:
    """The replicas of one service; C(settings) are the server's, without their SPEECH_."""

    def __init__(self, made: Lab, name: str, share_of_a_core: float, **settings: object) -> None:
        self.lab, self.service, self.share_of_a_core = made, f"{made.id}-{name}", share_of_a_core
        self.host = f"{self.service}.example.org"
        self.settings = {"SPEECH_ENGINE": "piper", "SPEECH_THREADS": "1", "SPEECH_PORT": str(PORT)}
        self.settings |= {f"SPEECH_{key.upper()}": str(value) for key, value in settings.items()}
        self.ids: list[str] = []

    def grow(self) -> None:
        """One replica more; C(wait_serving) waits for it."""
        specification = self.lab.specification(self.service, "1", {})
        specification |= {
            "image": image(self.lab.client, "speech_server"),
            "command": [],
            "mounts": [],
            "environment": {"SPEECH_REPLICA": "{replica}", **self.settings},
        }
        specification["health"] |= {
            "test": ["CMD", "python3", "-I", "-S", "-E", "/opt/speech/speech_server/healthcheck.py"],
            "interval_seconds": 2,
        }
        retry = f"{self.service}-retry"
        specification["labels"] |= {
            f"traefik.http.routers.{self.service}.middlewares": f"{retry}@docker",
            **{f"traefik.http.middlewares.{retry}.retry.{key}": value for key, value in RETRY.items()},
        }
        number = len(self.ids) + 1
        self.ids.append(self.lab.run(self.lab.config_of(self.service, number, specification)))

    def wait_serving(self) -> None:
        """Until Traefik has all of them. Only then each has no more than its share: loading takes less."""
        self.lab.wait_serving(self.service, "1", len(self.ids))
        quota = round(self.share_of_a_core * CPU_PERIOD_MICROSECONDS)
        for container_id in self.ids:
            self.lab.client.api.update_container(
                container_id, cpu_period=CPU_PERIOD_MICROSECONDS, cpu_quota=quota
            )

    def load(self, rate_per_second: float, seconds: float, seed: int, retry_seconds: float = 0) -> OpenLoad:
        """Callers at random moments, whether those before them are answered or not."""
        return OpenLoad(
            self.lab.url,
            rate_per_second,
            kind="speech",
            host=self.host,
            texts=TEXTS,
            at_random=True,
            send_seconds=seconds,
            seed=seed,
            new_connections=1.0,
            patience_seconds=PATIENCE_SECONDS,
            retry_seconds=retry_seconds,
        )


def capacity(fleets: Sequence[Fleet]) -> float:
    """Answers a second of one replica while all are at work: each has one caller served, and one waiting."""
    end = time.monotonic() + CAPACITY_SECONDS
    seats = [fleet for fleet in fleets for _each in fleet.ids for _seat in range(2)]

    def caller(fleet: Fleet, seed: int) -> list[float]:
        chance = random.Random(seed)  # noqa: S311 - the same texts every time
        url = urlsplit(fleet.lab.url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=PATIENCE_SECONDS)
        moments = []
        while time.monotonic() < end:
            body = json.dumps({"input": chance.choice(TEXTS), "response_format": "wav"})
            headers = {"Host": fleet.host, "Content-Type": "application/json"}
            connection.request("POST", "/v1/audio/speech", body, headers)
            answer = connection.getresponse()
            if answer.read() and answer.status != 200:
                sys.exit(f"Status {answer.status} where nobody else asks: is {fleet.service} well?")
            moments.append(time.monotonic())
        connection.close()
        return moments

    with ThreadPoolExecutor(len(seats)) as pool:
        moments = sorted(itertools.chain(*pool.map(caller, seats, range(len(seats)))))
    return (len(moments) - 1) / (moments[-1] - moments[0]) / (len(seats) / 2)


class Cores:
    """How many of the machine's cores were busy, whoever with, since the last look."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[float, float]:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        ticks = [float(field) for field in line.split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    def busy(self) -> float:
        """From the last look to now."""
        before, self._before = self._before, self._read()
        every, idle = (now - then for now, then in zip(self._before, before, strict=True))
        return (os.cpu_count() or 1) * (1 - idle / every) if every else 0.0


def answered_per_second(report: Report) -> float:
    """Over the time from the first request to the end of the last answer."""
    begin = min((each.at for each in report.outcomes), default=0.0)
    end = max((each.ended for each in report.outcomes), default=0.0)
    return len(report.ok) / (end - begin) if end > begin else 0.0


def print_row(widths: Sequence[int], fields: Sequence[object]) -> None:
    """The first to the left, the others to the right; of floating ones two places."""
    texts = [f"{field:.2f}" if isinstance(field, float) else str(field) for field in fields]
    others = (text.rjust(width) for text, width in zip(texts[1:], widths[1:], strict=True))
    print(texts[0].ljust(widths[0]) + "".join(others), flush=True)
