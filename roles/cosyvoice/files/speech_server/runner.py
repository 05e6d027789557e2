# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's threads, and the jobs that run on them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue

from .older_python import timeout_at
from .watchdog import Watchdog

_Task = tuple[Callable[[], None], "asyncio.Future[None]"]


class Runner:
    """A fixed number of daemon threads; what runs on them is observed by the watchdog."""

    def __init__(self, threads: int, watchdog: Watchdog):
        self._watchdog = watchdog
        self._tasks: SimpleQueue[_Task] = SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"engine-{number}", daemon=True).start()

    async def run(self, what: str, limit_seconds: float, call: Callable[[], None]) -> None:
        """Run `call` on a thread and wait until it has come back, however long; raises what it raised.

        Must not be cancelled before: the slot is the engine's until it comes back.
        """
        watch = self._watchdog.begin(what, limit_seconds)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks.put((call, done))
        try:
            await done
        finally:
            self._watchdog.end(watch)

    def _work(self) -> None:
        while True:
            call, done = self._tasks.get()
            error: BaseException | None = None
            try:
                call()
            except BaseException as raised:  # a thread that dies would lose its slot for ever
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                done.get_loop().call_soon_threadsafe(_settle, done, error)


def _settle(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        # StopIteration and the like cannot travel through a future as themselves.
        done.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


class WorkFailed(Exception):  # noqa: N818 - it says what happened
    """What the work raised is the cause; kept apart from what waiting for it raises."""


class Job:
    """One answer in the making: `run` on a worker thread, `read` in the event loop.

    The engine never waits for a slow reader: what is made is kept until read (an answer at most). A reader
    who leaves says `abandon`; the generator is then closed at its next part, on its own thread.
    """

    def __init__(self, parts: Callable[[], Generator[bytes]]):
        self._loop = asyncio.get_running_loop()
        self._make = parts
        self._parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._abandoned = False

    def run(self) -> None:
        """Make the parts, on the calling thread."""
        try:
            with contextlib.closing(self._make()) as parts:
                for part in parts:
                    if self._abandoned:
                        break
                    if part:
                        self._put(part)
            self._put(None)
        except Exception as error:
            self._put(error)
            raise

    async def read(self, deadline: float) -> bytes | None:
        """Return the next part, None at the end; raises WorkFailed, or TimeoutError at the deadline."""
        async with timeout_at(deadline):
            part = await self._parts.get()
        if isinstance(part, Exception):
            raise WorkFailed from part
        return part

    def abandon(self) -> None:
        """Nobody reads on."""
        self._abandoned = True

    def _put(self, part: bytes | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._parts.put_nowait, part)
