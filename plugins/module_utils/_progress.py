# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a step that takes minutes says while it runs.

This module util is private to the collection. The lines go to a file that the controller reads meanwhile. The
file is gone with the step, and so are lines that nobody had read yet: they go along with the result.
"""

from __future__ import annotations

import contextlib
import time


class Progress:
    """Lines with the seconds since the start. Without a path they go nowhere."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.started = time.monotonic()
        self._last = ""
        self._lines: list[str] = []

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def tell(self, text: str) -> None:
        """Append a line; the same text twice in a row is said once."""
        if not self.path or text == self._last:
            return
        self._last = text
        self._lines.append(f"{self.seconds:5.1f} s  {text}")
        # A full disk is no reason to leave a replica half replaced.
        with contextlib.suppress(OSError), open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{self._lines[-1]}\n")

    def told(self) -> dict[str, list[str]]:
        """All of it, as a part of the module's result that its action takes out again."""
        return {"progress": self._lines} if self.path else {}
