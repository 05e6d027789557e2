# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways in which this process ends before its time."""

from __future__ import annotations

import faulthandler
import os
import sys

EXIT_LOAD_FAILED = 1
EXIT_HUNG = 70  # EX_SOFTWARE


class Process:
    """This process. Threads that hang cannot be waited for, so none of these waits."""

    def exit(self, code: int) -> None:
        """End now."""
        os._exit(code)

    def dump_stacks(self) -> None:
        """Write where every thread is; no values, so no caller's text."""
        faulthandler.dump_traceback(file=sys.__stderr__ or 2)

    def exit_in(self, seconds: float | None) -> None:
        """Write all stacks and end with code 1 in so many seconds, unless called again; None: not at all.

        For an engine that keeps the interpreter's lock: then no timer of ours ever fires, but faulthandler
        waits in a C thread that needs no lock.
        """
        faulthandler.cancel_dump_traceback_later()
        if seconds is not None:
            faulthandler.dump_traceback_later(max(0.1, seconds), exit=True, file=sys.__stderr__ or 2)
