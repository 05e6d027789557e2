# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog: an engine that does not come back takes the process with it, and not the callers' patience.

Models hang: a thread dies inside a library and its generator waits for it for ever. Nothing in this process
can end that thread, so the process ends and whoever runs the container starts it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from .process import Process

_LAST_RESORT_SECONDS = 3.0


@dataclass(eq=False)
class Watch:
    """One piece of engine work under observation."""

    what: str
    started: float
    limit_seconds: float
    late: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Watchdog:
    """Observes what runs in worker threads. Used from the event loop only."""

    def __init__(self, grace_seconds: float, on_hung: Callable[[str], None], process: Process):
        self._process = process
        self._grace_seconds = grace_seconds
        self._on_hung = on_hung
        self._watches: set[Watch] = set()

    def begin(self, what: str, limit_seconds: float) -> Watch:
        """Start to observe: late after the limit, given up `grace_seconds` later."""
        loop = asyncio.get_running_loop()
        watch = Watch(what, loop.time(), limit_seconds)
        watch.timers = [
            loop.call_later(limit_seconds, setattr, watch, "late", True),
            loop.call_later(limit_seconds + self._grace_seconds, self._give_up, watch),
        ]
        self._watches.add(watch)
        self._arm()
        return watch

    def end(self, watch: Watch) -> None:
        """The engine has come back."""
        for timer in watch.timers:
            timer.cancel()
        self._watches.discard(watch)
        self._arm()

    @property
    def late(self) -> str | None:
        """Why nothing should be sent here now, while something is overdue."""
        for watch in self._watches:
            if watch.late:
                return f"{watch.what} has not come back within {watch.limit_seconds:g} s"
        return None

    def _give_up(self, watch: Watch) -> None:
        given = watch.limit_seconds + self._grace_seconds
        self._on_hung(f"{watch.what} has not come back within {given:g} s")

    def _arm(self) -> None:
        """Keep the last resort well behind our own timers, and behind the last words after them."""
        if not self._watches:
            self._process.exit_in(None)
            return
        now = asyncio.get_running_loop().time()
        first = min(watch.started + watch.limit_seconds for watch in self._watches)
        self._process.exit_in(first + 2 * self._grace_seconds + _LAST_RESORT_SECONDS - now)
