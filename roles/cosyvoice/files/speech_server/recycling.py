# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a process has served enough: models grow (a tenth of a GB in a hundred requests has been seen)."""

from __future__ import annotations

import random

from .engines.base import Engine


class Recycling:
    """Counts what the engine has done. Used from the event loop only."""

    def __init__(self, max_requests: int, engine: Engine):
        self._engine = engine
        # Drawn, so that replicas that share the load do not start anew all at once.
        self.limit = round(max_requests * random.uniform(0.75, 1)) or min(1, max_requests)  # noqa: S311
        self.served = 0
        self.worn_out = False  # it cannot serve, so nothing is gained by waiting for others

    def reason(self) -> str:
        """Why the process should start anew, after one more request; empty while it should not."""
        self.served += 1
        if reason := self._engine.worn_out():
            self.worn_out = True
            return reason
        if self.limit and self.served >= self.limit:
            return f"{self.served} requests served, as many as one process should"
        return ""
