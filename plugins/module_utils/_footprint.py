# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory to count for one replica, from the most that one was seen to take. Every size in MiB.

This module util is private to the collection. Two measurements of the same differ a little, so a figure that
stands and suffices is left alone, as long as it is not much too large.
"""

from __future__ import annotations

MARGIN_PERCENT = 10
LEAST_MARGIN_MIB = 256
STEP_MIB = 64


def with_margin(peak_mib: int) -> int:
    """The least that suffices for a replica that took so much."""
    return peak_mib + max(LEAST_MARGIN_MIB, -(-peak_mib * MARGIN_PERCENT // 100))


def instance_mib(peak_mib: int, standing_mib: int = 0) -> int:
    """The figure to count with: in whole steps, or what stands already if that will do."""
    enough = with_margin(peak_mib)
    rounded = -(-enough // STEP_MIB) * STEP_MIB
    return standing_mib if enough <= standing_mib <= rounded + STEP_MIB else rounded
