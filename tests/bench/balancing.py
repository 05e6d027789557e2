# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Round robin against p2c with uneven texts: how long callers wait for the first byte behind each.

Two fleets of three replicas of the hard service, alike but for the strategy of their service in the one
Traefik of this run, at the same time and with the very same requests: the same moments (at random, Poisson,
as callers come) and the same lengths, mostly short and some sixteen times as long. A replica works on two at
once, and the others wait there in their order: a first byte comes when those before it are done. So it counts
where a request is sent, and nothing else differs; fleets of their own, because on a shared one the queues
that one strategy makes would delay the other's callers.

    python tests/bench/balancing.py [--seconds 150] [--load 0.7] [--json]
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from _demo import load_average
from _lab import Lab, lab
from open_load import OpenLoad, Report, quantile

REPLICAS = 3
AT_ONCE = 2
STRATEGIES = {"round robin": "wrr", "p2c": "p2c"}
LENGTHS = {0.1: 40, 0.2: 28, 0.4: 18, 0.8: 10, 1.6: 4}
FIRST_BYTE_SECONDS = 0.05
ENVIRONMENT = {
    "START_SECONDS": "0",
    "FIRST_BYTE_SECONDS": f"{FIRST_BYTE_SECONDS}",
    "LINGER_SECONDS": "0",
    "MAX_IN_FLIGHT": f"{AT_ONCE}",
    # Nobody is refused: who waits is what is measured.
    "MAX_QUEUED": "1000",
}
QUANTILES = (0.5, 0.9, 0.95, 0.99)
AT_LEAST = 600
GOAL_RATIO = 0.7
RESAMPLINGS = 400
BLOCK = 50


def mean_seconds() -> float:
    """That a request occupies one of a replica's places, by its length alone."""
    weights = sum(LENGTHS.values())
    return sum(length * weight for length, weight in LENGTHS.items()) / weights + FIRST_BYTE_SECONDS


def first_bytes(report: Report) -> list[float]:
    """Seconds to the first byte in the order of the requests; endless for one that was not answered."""
    ordered = sorted(report.outcomes, key=lambda each: each.at)
    return [
        each.first_byte if each.result == "ok" and each.first_byte is not None else math.inf
        for each in ordered
    ]


def interval(ours: Sequence[float], theirs: Sequence[float], share: float) -> tuple[float, float]:
    """Within which the ratio of the two quantiles lies with 90 % confidence.

    Blocks of requests that follow one another are drawn anew, the same of both, for requests that wait for
    the same long one are no independent witnesses.
    """
    rng = random.Random(0)  # noqa: S311 - statistics
    size = min(len(ours), len(theirs))
    starts = range(max(1, size - BLOCK + 1))
    ratios = []
    for _again in range(RESAMPLINGS):
        drawn = [start + at for start in rng.choices(starts, k=max(1, size // BLOCK)) for at in range(BLOCK)]
        a, b = ([found[at] for at in drawn if at < size] for found in (ours, theirs))
        ratios.append(quantile(a, share) / quantile(b, share))
    return quantile(ratios, 0.05), quantile(ratios, 0.95)


def measure(made: Lab, rate: float, seconds: float, seed: int) -> dict[str, Report]:
    """Both at the same time."""
    services = {name: f"{made.id}-{strategy}" for name, strategy in STRATEGIES.items()}
    for name, service in services.items():
        for number in range(1, REPLICAS + 1):
            options = {"strategy": STRATEGIES[name]}
            made.run(made.config(service, number, "1", ENVIRONMENT, options))
    for service in services.values():
        made.wait_serving(service, "1", REPLICAS)
    with ExitStack() as stack:
        loads = {
            name: stack.enter_context(
                OpenLoad(
                    made.url,
                    rate,
                    host=f"{service}.example.org",
                    lengths=LENGTHS,
                    at_random=True,
                    send_seconds=seconds,
                    seed=seed,
                )
            )
            for name, service in services.items()
        }
        time.sleep(seconds + 1)
    return {name: load.report() for name, load in loads.items()}


def shares(report: Report) -> str:
    """How many each replica got."""
    counts = collections.Counter(each.replica[-1:] for each in report.ok)
    return " ".join(str(counts[str(number)]) for number in range(1, REPLICAS + 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--load", type=float, default=0.7, help="share of what the replicas can do")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    options = parser.parse_args()
    if options.seconds <= 0 or not 0 < options.load < 1:
        parser.error("--seconds wants to be more than 0, --load between 0 and 1")
    rate = options.load * REPLICAS * AT_ONCE / mean_seconds()

    def say(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    say(
        f"{REPLICAS} replicas behind each strategy, {rate:.1f} requests a second to each for "
        f"{options.seconds:g} s, {options.load:.0%} of capacity; {load_average()}."
    )
    with lab() as made:
        reports = measure(made, rate, options.seconds, options.seed)
    found = {name: first_bytes(report) for name, report in reports.items()}
    heads = "".join(f"{f'p{share * 100:.0f}':>8}" for share in QUANTILES)
    say(f"\n{'first byte, s':<14}{heads}{'sent':>8}{'failed':>8}{'refused':>9}{'late p99':>10}  by replica")
    for name, report in reports.items():
        values = "".join(f"{quantile(found[name], share):>8.3f}" for share in QUANTILES)
        say(
            f"{name:<14}{values}{report.sent:>8}{len(report.failed):>8}{len(report.refused):>9}"
            f"{report.late(0.99):>10.3f}  {shares(report)}"
        )
    robin, p2c = found.values()
    ratios = {share: quantile(p2c, share) / quantile(robin, share) for share in QUANTILES}
    say(f"{'p2c / robin':<14}" + "".join(f"{ratio:>8.2f}" for ratio in ratios.values()))
    low, high = interval(p2c, robin, 0.99)
    say(
        f"\np99 of p2c is {ratios[0.99]:.2f} of round robin's (90 % confidence: {low:.2f} to {high:.2f}); "
        f"the goal is at most {GOAL_RATIO}. At the end: {load_average()}."
    )
    if options.json:
        plain: dict[str, Any] = {
            name: {
                "sent": report.sent,
                "failed": len(report.failed),
                "refused": len(report.refused),
                "first_byte": {f"p{share * 100:g}": quantile(found[name], share) for share in QUANTILES},
            }
            for name, report in reports.items()
        }
        print(json.dumps({**plain, "p99_ratio": ratios[0.99], "interval": [low, high]}, indent=2))
    if lost := sum(len(report.failed) + len(report.refused) for report in reports.values()):
        sys.exit(f"{lost} requests were not answered: they count as endless.")
    if min(map(len, found.values())) < AT_LEAST:
        sys.exit(f"A p99 of fewer than {AT_LEAST} requests a side means little: make --seconds longer.")


if __name__ == "__main__":
    main()
