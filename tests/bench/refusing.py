# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusing against queueing: more callers than the CPU voice can serve, and four ways to treat them.

Each way has a replica of its own behind the one Traefik, all at the same time and with the very same callers:
the same random moments, the same texts, half as many again as a replica can serve. A caller is content when
he hears the first sound within the deadline, which is the time that six answers take, unless it is given.

- "queue 4, refuse": the server as it comes. Who does not fit hears 503 at once, and gives up.
- "queue 4, come back": the same, but who is refused asks again when Retry-After says, as long as that is
  within the deadline. His time counts from the first time he asked.
- "queue 1, refuse": next to no queue.
- "queue 1000": nobody is refused, everybody waits, and nobody gives up before the server's own deadline.

The long queue serves as many, but soon nobody in time: each waits for all who came before him, and the longer
the overload lasts, the longer. What callers who have given up cost is not even counted.

_speaking.py says what a replica has of this machine.

    python tests/bench/refusing.py [--seconds 60] [--load 1.5] [--deadline S] [--share-of-a-core 0.35]
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from _demo import load_average
from _lab import Lab, lab
from _speaking import QUANTILES, Cores, Fleet, answered_per_second, capacity, print_row
from open_load import Report, quantile

SHARE_OF_A_CORE = 0.35  # four of these at once leave something to Traefik and four senders
ANSWERS = 6  # so many can be made before a caller loses patience
SEED = 1
WIDTHS = (20, 6, 9, 7, 9, 8, 10, 11, 7, 7, 15, 7)
HEADS = (
    "", "sent", "in time", "later", "refused", "failed", "served/s", "first p50", "p95", "p99",
    "refused after", "late",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to treat those who are too many."""

    name: str
    max_queued: int
    comes_back: bool = False


WAYS = (
    Way("queue 4, refuse", 4),
    Way("queue 4, come back", 4, comes_back=True),
    Way("queue 1, refuse", 1),
    Way("queue 1000", 1000),
)


def in_time(report: Report, deadline_seconds: float) -> int:
    """How many heard their first sound within the deadline."""
    return sum(each.first_byte is not None and each.first_byte <= deadline_seconds for each in report.ok)


def print_way(way: Way, report: Report, deadline_seconds: float) -> None:
    """One line of the table."""
    content = in_time(report, deadline_seconds)
    counts = (report.sent, content, len(report.ok) - content, len(report.refused), len(report.failed))
    first = [report.first_byte(share) for share in QUANTILES]
    after = quantile((each.whole for each in report.refused), 0.5) if report.refused else "-"
    print_row(WIDTHS, [way.name, *counts, answered_per_second(report), *first, after, report.late(0.99)])
    for outcome in report.failed[:3]:
        print(f"  {outcome}")


def fleets_of(made: Lab, share_of_a_core: float) -> list[Fleet]:
    """One replica for each way, all serving."""
    fleets = [
        Fleet(made, f"way{number}", share_of_a_core, max_queued=way.max_queued)
        for number, way in enumerate(WAYS)
    ]
    for fleet in fleets:  # one after the other: loading takes all of a core
        fleet.grow()
        fleet.wait_serving()
    return fleets


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--load", type=float, default=1.5, help="share of what a replica can do")
    parser.add_argument("--deadline", type=float, help="seconds to the first sound")
    parser.add_argument("--share-of-a-core", type=float, default=SHARE_OF_A_CORE, help="of each replica")
    options = parser.parse_args()
    if options.seconds <= 0 or (options.deadline or 1) <= 0 or not 1 < options.load <= 2:
        parser.error("wants seconds and a deadline above 0, and a load above 1 and up to 2")
    if not 0.05 <= options.share_of_a_core <= 1:
        parser.error("--share-of-a-core wants 0.05 to 1")
    began = time.monotonic()
    with lab() as made:
        fleets = fleets_of(made, options.share_of_a_core)
        one = capacity(fleets)
        rate, deadline = options.load * one, options.deadline or ANSWERS / one
        if options.seconds * (options.load - 1) < 2 * deadline:
            sys.exit(
                f"A replica answers {one:.2f} requests a second here and now ({load_average()}): in "
                f"{options.seconds:g} s no queue becomes longer than callers are patient. Make --seconds "
                "longer, or try again when the machine is quieter."
            )
        print(
            f"A replica, on {options.share_of_a_core:g} of a core, answers {one:.2f} requests a second; each "
            f"gets {rate:.2f} for {options.seconds:g} s.\nIn time is a first sound within "
            f"{deadline:.1f} s; {load_average()}, which whatever else runs here shares.\n"
            "Seconds, of those served. refused after: median. late: the sender's own, p99.\n",
            flush=True,
        )
        cores = Cores()
        with ExitStack() as stack:
            loads = [
                stack.enter_context(
                    fleet.load(rate, options.seconds, SEED, deadline if way.comes_back else 0)
                )
                for way, fleet in zip(WAYS, fleets, strict=True)
            ]
            time.sleep(options.seconds)
            busy = cores.busy()
        reports = [load.report() for load in loads]
    print_row(WIDTHS, HEADS)
    for way, report in zip(WAYS, reports, strict=True):
        print_way(way, report, deadline)
    content = [in_time(report, deadline) for report in reports]
    print(
        f"\nIn time: {content[0]} with a queue of {WAYS[0].max_queued} and refusals, {content[-1]} with a "
        f"queue of {WAYS[-1].max_queued}. {busy:.1f} cores were busy.\nAt the end, after "
        f"{time.monotonic() - began:.0f} s: {load_average()}."
    )
    if content[0] <= content[-1]:
        sys.exit("Refusing did not beat queueing.")


if __name__ == "__main__":
    main()
