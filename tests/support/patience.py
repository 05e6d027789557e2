# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for what comes in its own time, on machines that may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 180.0
PAUSE_SECONDS = 0.05


def until(what: str, condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return as soon as ``condition`` holds; AssertionError that says ``what`` did not come otherwise."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not {what} in {seconds:g} s"
        time.sleep(PAUSE_SECONDS)
