# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU voice through Traefik: what 1 to 4 replicas give, under a load that grows.

What one replica can do is measured first. Each number of replicas then gets callers at random moments
(Poisson; times count from the planned moment) at growing shares of so many times that. Below 100 % throughput
is what is offered; above it the rest is refused, and who is served waits no longer than the short queue is.

_speaking.py says what a replica has of this machine.

    python tests/bench/replicas.py [--replicas 4] [--seconds 20] [--share-of-a-core 0.4]
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from _demo import load_average
from _lab import lab
from _speaking import (
    QUANTILES,
    SHARE_OF_A_CORE,
    TEXTS,
    Cores,
    Fleet,
    answered_per_second,
    capacity,
    print_row,
)

LOADS = (0.5, 0.8, 1.3)
WIDTHS = (8, 7, 11, 6, 8, 9, 8, 10, 11, 7, 7, 7, 10, 12)
HEADS = (
    "replicas", "load", "offered/s", "sent", "served", "refused", "failed", "served/s",
    "first p50", "p95", "p99", "late", "load avg", "cores busy",
)  # fmt: skip


def measure(fleet: Fleet, load: float, rate: float, seconds: float, seed: int) -> int:
    """One line of the table; answers how many were neither served nor refused."""
    cores = Cores()
    with fleet.load(rate, seconds, seed) as sending:
        time.sleep(seconds)
        busy = cores.busy()
    report = sending.report()
    counts = (report.sent, len(report.ok), len(report.refused), len(report.failed))
    first = [report.first_byte(share) for share in QUANTILES]
    machine = (report.late(0.99), f"{os.getloadavg()[0]:.1f}", f"{busy:.1f}")
    print_row(
        WIDTHS,
        [len(fleet.ids), f"{load:.0%}", rate, *counts, answered_per_second(report), *first, *machine],
    )
    for outcome in report.failed[:3]:
        print(f"  {outcome}")
    return len(report.failed)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=int, default=4, help="up to so many")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--share-of-a-core", type=float, default=SHARE_OF_A_CORE, help="of each replica")
    options = parser.parse_args()
    if options.replicas < 1 or options.seconds <= 0 or not 0.05 <= options.share_of_a_core <= 1:
        parser.error("wants one replica or more, seconds above 0, and a share from 0.05 to 1")
    began = time.monotonic()
    failed = 0
    with lab() as made:
        fleet = Fleet(made, "voice", options.share_of_a_core)
        fleet.grow()
        fleet.wait_serving()
        one = capacity([fleet])
        print(
            f"One replica, on {options.share_of_a_core:g} of a core, answers {one:.2f} requests a second, of "
            f"{len(TEXTS)} short texts; {load_average()},\nwhich whatever else runs here shares. Seconds, of "
            "those served; a p99 of fewer than 100 is the slowest. late: the sender's own, p99.\n"
        )
        print_row(WIDTHS, HEADS)
        for replicas in range(1, options.replicas + 1):
            if replicas > 1:
                fleet.grow()
                fleet.wait_serving()
            for number, load in enumerate(LOADS):
                seed = len(LOADS) * replicas + number
                failed += measure(fleet, load, load * replicas * one, options.seconds, seed)
    print(f"\nAt the end, after {time.monotonic() - began:.0f} s: {load_average()}.")
    if failed:
        sys.exit(f"{failed} requests failed: neither served nor refused.")


if __name__ == "__main__":
    main()
