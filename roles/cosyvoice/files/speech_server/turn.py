# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is to start anew: one replica of a host at a time, and only while the others serve.

The replicas of a host know nothing of each other, but see the same voices, also while an upgrade brings other
weights. Who does not serve holds a shared lock on their directory, and who wants to start anew has to have it
alone. The kernel takes a lock back when its holder ends, and no right to write is needed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

_LOG = logging.getLogger(__name__)
# The lock is free while one process has ended and its successor has yet to get here: Docker's pause before a
# restart and Python's imports took 10 s on two cores with fifteen programs. Then Docker has to notice that
# the successor serves. Nobody is in a hurry.
QUIET_SECONDS = 30.0


class Turn:
    """Used from the event loop only; never waits. Without a directory, or locks, it is always one's turn."""

    def __init__(self, directory: Path):
        self._file: int | None = None
        self._away = False
        self._free_since: float | None = None
        try:
            self._file = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:  # not there: an engine that needs no voices
            level = logging.INFO if isinstance(error, FileNotFoundError) else logging.WARNING
            _LOG.log(level, "no turns are taken", extra={"fields": {"reason": str(error)}})

    def away(self, is_away: bool) -> None:
        """Tell the others that this one does not serve, or does again."""
        if is_away and not self._away:
            self._away = self._lock(fcntl.LOCK_SH)
        elif not is_away and self._away:
            self._away = not self._lock(fcntl.LOCK_UN)

    def taken(self) -> bool:
        """Whether this one may start anew now, for which it then has the turn until it ends."""
        if self._file is None:
            return True
        if self._away:  # it is about to end as it is, and its lock says so to the others
            return False
        if not self._lock(fcntl.LOCK_EX):
            self._free_since = None
            return False
        now = time.monotonic()
        self._free_since = self._free_since or now
        if now - self._free_since >= QUIET_SECONDS:
            return True
        self._lock(fcntl.LOCK_UN)
        return False

    def _lock(self, kind: int) -> bool:
        if self._file is None:
            return True
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # some file systems of a network have none
            _LOG.warning("no turns are taken", extra={"fields": {"reason": str(error)}})
            self.close()
        return True

    def close(self) -> None:
        """As at the end of the process."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
