# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Admission: so many requests in the engine, so many waiting, and a quick refusal for the rest.

Each request above what the engine can do at once only delays the first sound of all others. So the queue is
short, and a caller who does not fit hears so before any work is done, and when to try again.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque

from .errors import SpeechError
from .older_python import timeout

_FIRST_GUESS_SECONDS = 2.0  # a service time, until the first is known
_WEIGHT = 0.2  # of the newest service time in the moving average


class Admission:
    """Counts slots and keeps the queue, first come first served. Used from the event loop only."""

    def __init__(self, max_in_flight: int, max_queued: int):
        self.max_in_flight = max_in_flight
        self.max_queued = max_queued
        self.in_flight = 0
        self.refused = 0
        self.service_seconds = _FIRST_GUESS_SECONDS
        self._known = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed: SpeechError | None = None

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def retry_after_seconds(self) -> int:
        """When a place in the queue is likely to be free: service time x position.

        Spread, so that not all come back at the same moment; whole seconds, the header knows no others.
        """
        seconds = self.service_seconds * (self.queued + 1) / self.max_in_flight
        return max(1, math.ceil(seconds * random.uniform(0.8, 1.2)))  # noqa: S311 - not a secret

    async def enter(self, timeout_seconds: float) -> None:
        """Take a slot, waiting for it if need be; SpeechError (503) when there is no room, or not in time."""
        if self._closed:
            raise self._closed
        if self.in_flight < self.max_in_flight and not self._waiting:
            self.in_flight += 1
            return
        if self.queued >= self.max_queued:
            raise self._refusal(
                f"{self.in_flight} in flight and {self.queued} waiting is all this replica takes"
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with timeout(timeout_seconds):
                await place
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
            if place.done() and not place.cancelled() and not place.exception():
                self._pass_on()  # the slot came in the very moment the wait ended otherwise
            if isinstance(error, TimeoutError):
                raise self._refusal(f"no slot became free within {timeout_seconds:.1f} s") from None
            raise

    def leave(self, service_seconds: float | None = None) -> None:
        """Give the slot back, once the engine has; with the service time of an ordinary request."""
        if service_seconds is not None:
            weight = _WEIGHT if self._known else 1.0
            self.service_seconds += weight * (service_seconds - self.service_seconds)
            self._known = True
        self._pass_on()

    def close(self, error: SpeechError) -> None:
        """Turn away everyone who waits or comes."""
        self._closed = error
        for place in self._waiting:
            if not place.done():
                place.set_exception(error)

    def _pass_on(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.in_flight -= 1

    def _refusal(self, why: str) -> SpeechError:
        self.refused += 1
        return SpeechError(
            503, "overloaded", f"Overloaded: {why}.", retry_after_seconds=self.retry_after_seconds()
        )
