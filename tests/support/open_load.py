# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that leave on a clock, whatever becomes of those before them: an open model.

A load of callers who each wait for their answer stops sending just when the service stalls, and so never
sees what it should have seen. Here every request has its moment, all times count from that moment, and each
has exactly one outcome:

- V(ok): 200 and the whole of it.
- V(refused): 503 with Retry-After, before anything else came. Counted apart; a test says how many it allows.
- V(failed): anything else. Another status, no connection, cut, short, without its last line, another's id.

The sender is a process of its own, so that neither the test nor what it watches slows it down; how late it
sent all the same is in the report, so that an overloaded machine is not taken for a slow service.

    with OpenLoad("http://127.0.0.1:9080", 10, host="hard.example.org") as load:
        ...
    load.report().assert_lossless(at_least=100)
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_load_sender
from open_load_sender import LENGTHS, Config, Outcome


def quantile(values: Iterable[float], share: float) -> float:
    """The value that C(share) of all do not exceed; nan of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Report:
    """All requests of one load, each with its outcome."""

    def __init__(self, outcomes: Sequence[Outcome], sent: int) -> None:
        self.outcomes, self.sent = list(outcomes), sent
        self.ok = [outcome for outcome in outcomes if outcome.result == "ok"]
        self.refused = [outcome for outcome in outcomes if outcome.result == "refused"]
        self.failed = [outcome for outcome in outcomes if outcome.result == "failed"]

    def count_by(self, *names: str) -> dict[tuple[str, ...], int]:
        """How many were answered well by each C(version), C(replica) or whatever else is named."""
        return dict(collections.Counter(tuple(getattr(each, name) for name in names) for each in self.ok))

    def first_byte(self, share: float) -> float:
        """The quantile of the seconds to the first byte, from the moment the request was to leave."""
        return quantile((each.first_byte for each in self.ok if each.first_byte is not None), share)

    def late(self, share: float) -> float:
        """The quantile of how late the sender itself was, in seconds: large means an overloaded machine."""
        return quantile((each.late for each in self.outcomes), share)

    def __str__(self) -> str:
        moments = [each.at for each in self.outcomes] or [0.0]
        kept_alive = sum(each.kept_alive for each in self.outcomes)
        longest_gap = max((each.longest_gap for each in self.ok), default=math.nan)
        answered = sorted(self.count_by("replica", "version").items())
        lines = [
            f"{self.sent} requests in {max(moments) - min(moments):.0f} s, {kept_alive} of them on kept-alive"
            f" connections: {len(self.ok)} ok, {len(self.refused)} refused, {len(self.failed)} failed",
            f"first byte: median {self.first_byte(0.5):.3f} s, p99 {self.first_byte(0.99):.3f} s; longest gap"
            f" in an answer {longest_gap:.2f} s",
            f"the sender was late by {self.late(0.99):.3f} s (p99), {self.late(1):.3f} s at most",
            *(f"{replica}, version {version}: {count} ok" for (replica, version), count in answered),
            *(f"  {outcome}" for outcome in self.failed[:20]),
        ]
        if len(self.failed) > 20:
            lines.append(f"  and {len(self.failed) - 20} more")
        return "\n".join(lines)

    def assert_lossless(self, at_least: int = 1, refused_at_most: int = 0) -> None:
        """Fails, with the whole story: a request was lost, too many refused, or too few sent."""
        assert len(self.outcomes) == self.sent, f"{self.sent - len(self.outcomes)} without an outcome\n{self}"
        assert not self.failed, str(self)
        assert len(self.refused) <= refused_at_most, str(self)
        assert len(self.ok) >= at_least, str(self)


class OpenLoad:
    """The sender, running while inside; what it found is there during and after."""

    def __init__(
        self,
        url: str,
        rate_per_second: float = 10.0,
        *,
        lengths: Mapping[float, float] | None = None,
        history: Path | None = None,
        **options: Any,
    ) -> None:
        """C(lengths): seconds of a stream: weight. C(history): keep the outcomes there, one JSON a line.

        C(options): the other fields of Config.
        """
        weights = {str(seconds): weight for seconds, weight in (lengths or {}).items()}
        self.config = Config(url, rate_per_second, lengths=weights, **options)
        self._scratch = tempfile.TemporaryDirectory() if history is None else None
        self.history = history or Path(self._scratch.name if self._scratch else "", "history.jsonl")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OpenLoad:
        with self.history.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, open_load_sender.__file__, json.dumps(dataclasses.asdict(self.config))],
                stdin=subprocess.PIPE,
                stdout=out,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is None:
            self.stop()
        else:
            self._kill()

    def stop(self) -> None:
        """Send no more, and wait for the answers that are still to come."""
        assert self._process
        longest = max([float(seconds) for seconds in self.config.lengths] or [max(LENGTHS)])
        try:
            self._process.communicate(timeout=longest + self.config.patience_seconds + 30)
        except subprocess.TimeoutExpired:
            self._kill()
            raise
        assert self._process.returncode == 0, f"the sender ended with {self._process.returncode}"

    def _kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def _lines(self) -> list[dict[str, Any]]:
        text = self.history.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def outcomes(self) -> list[Outcome]:
        """Of those that are over, in the order in which they ended."""
        return [Outcome(**line) for line in self._lines() if "id" in line]

    def wait_until(self, ended: int, seconds: float = 60) -> None:
        """Wait until so many requests are over, of all that were sent."""
        deadline = time.monotonic() + seconds
        while (have := len(self.outcomes())) < ended:
            assert time.monotonic() < deadline, f"{have} of {ended} requests over in {seconds} s"
            time.sleep(0.1)

    def wait_for_more(self, ended: int, seconds: float = 60) -> None:
        """Wait until so many requests more than now are over."""
        self.wait_until(len(self.outcomes()) + ended, seconds)

    def report(self) -> Report:
        """After the end: all of them."""
        lines = self._lines()
        assert lines, "the sender has sent nothing"
        assert "sent" in lines[-1], "the sender did not come to its end"
        return Report([Outcome(**line) for line in lines[:-1]], lines[-1]["sent"])
