# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this replica should get requests, and if not, why."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .watchdog import Watchdog


class Obstacle(NamedTuple):
    """What keeps a replica from being ready."""

    status: str
    reason: str


@dataclass
class Readiness:
    """The process's state; the drain flag is a file that somebody else makes and removes."""

    drain_file: Path
    watchdog: Watchdog
    loaded: bool = False
    failure: str | None = None
    stopping: bool = False
    stopping_reason: str = "the process was asked to end and finishes what it has"

    def cannot_speak(self) -> Obstacle | None:
        """Why a request could not be served; who still comes while draining or stopping is served."""
        if self.failure:
            return Obstacle("failed", self.failure)
        if not self.loaded:
            return Obstacle("loading", "the model is being loaded and warmed up")
        if late := self.watchdog.late:
            return Obstacle("late", late)
        return None

    def draining_seconds(self) -> float:
        """Since when the drain flag is up; 0 without one."""
        try:
            return max(0.0, time.time() - self.drain_file.stat().st_mtime)
        except OSError:
            return 0.0

    def obstacle(self) -> Obstacle | None:
        """Why no new request should be sent here; None when ready."""
        if found := self.cannot_speak():
            return found
        if self.stopping:
            return Obstacle("stopping", self.stopping_reason)
        if self.drain_file.exists():
            return Obstacle("draining", f"{self.drain_file} exists")
        return None
