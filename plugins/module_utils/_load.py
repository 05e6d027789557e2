# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the other replicas can carry the load that there is now, while one of them is out.

This module util is private to the collection. Counting replicas says nothing about that: two replicas that
are half busy overload the one that is left. So the load is measured before a rollout begins.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._metrics import (
    DEFAULT_TIMEOUT_SECONDS,
    MetricNames,
    Reading,
    read,
)

# By the number of replicas that stay: what share of their capacity may be in use, so that 99 of 100 callers
# hear the first sound within a second. From a simulation of CosyVoice's own figures (one L20): while one of
# 2, 3, 4, 8 replicas is out, that held up to 0.3, 0.5, 0.6, 0.7 of the whole capacity, which is 0.6, 0.75,
# 0.8, 0.8 of the capacity of the 1, 2, 3, 7 that stayed. Between 3 and 7 nothing was simulated; both ends say
# 0.8. Above 7 more might do, but that was not simulated either.
LIMITS = {1: 0.6, 2: 0.75}
LIMIT = 0.8
# 0.6 * 4 / 3 is a little more than 0.8 in binary fractions.
ROUNDING = 1e-9
# Replicas that are asked at the same time.
AT_ONCE = 32

# This is evaluated, and Python 3.9 knows no other way to write it.
Series = t.Sequence[t.Mapping[str, t.Optional[Reading]]]  # noqa: UP045


@dataclasses.dataclass(frozen=True)
class Load:
    """What was measured, and what it means. None is what could not be told.

    C(in_flight) is the mean of requests in flight on a replica, C(capacity) the mean of what a replica works
    on at once. C(on_the_rest) is the share of the capacity of the replicas that stay which their load would
    take, C(limit) how much of it is bearable. C(refusal) and C(unknown) are sentences, empty if there is
    nothing to say; what is unknown refuses nothing.
    """

    ready: int
    out: int
    looks: int
    in_flight: float | None = None
    capacity: float | None = None
    on_the_rest: float | None = None
    limit: float | None = None
    refusal: str = ""
    unknown: str = ""


def limit(rest: int) -> float:
    """The share of its capacity that may be in use where C(rest) replicas carry everything."""
    return LIMITS.get(rest, LIMIT)


def sample(
    urls: t.Mapping[str, str],
    names: MetricNames,
    seconds: float,
    every: float = 0.5,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> list[dict[str, Reading | None]]:
    """Look at all replicas at once, every C(every) seconds for C(seconds), and once at least.

    C(urls) are the replicas' names with their C(http://host:port). A replica that hangs holds a look up for
    C(timeout_seconds), and is None in it.
    """
    if not urls:
        return []
    began = time.monotonic()
    series: list[dict[str, Reading | None]] = []
    with ThreadPoolExecutor(min(len(urls), AT_ONCE)) as pool:
        while True:
            looked = time.monotonic()
            answers = pool.map(lambda url: read(url, names, timeout_seconds), urls.values())
            series.append(dict(zip(urls, answers)))  # noqa: B905  Python 3.9 has no strict
            following = looked + every
            if following - began > seconds:
                return series
            time.sleep(max(following - time.monotonic(), 0.0))


def measure(series: Series, ready: int, out: int = 1) -> Load:
    """The load of C(ready) replicas in C(series), and whether the others bear it with C(out) of them out.

    A replica that does not tell is taken to be as busy as the others. None tells, or none tells its
    capacity: then nothing is refused, and C(unknown) says so. The same if no replica stays, which is a
    question of how many have to be ready and not of load.
    """
    known = _by_replica(series, lambda reading: reading.in_flight)
    capacities = _by_replica(series, lambda reading: reading.capacity)
    in_flight, capacity = _mean(known), _mean(capacities)
    measured = Load(ready, out, len(series), in_flight, capacity)
    rest = ready - out
    if out <= 0 or rest <= 0:
        return measured
    if in_flight is None or capacity is None or capacity <= 0:
        return dataclasses.replace(measured, unknown=_unknown(measured))
    load = in_flight * ready / (rest * capacity)
    measured = dataclasses.replace(measured, on_the_rest=load, limit=limit(rest))
    silent = sorted({name for look in series for name in look} - known.keys())
    if silent:
        measured = dataclasses.replace(
            measured,
            unknown=f"{', '.join(silent)} did not tell how many requests are in flight, and counts as being "
            "as busy as the others.",
        )
    if load > limit(rest) + ROUNDING:
        measured = dataclasses.replace(measured, refusal=_refusal(measured, load))
    return measured


def load_refusal(readings_over_time: Series, ready: int, out: int = 1) -> str:
    """Why C(out) of C(ready) replicas cannot be spared now; empty if they can, or if nobody can tell."""
    return measure(readings_over_time, ready, out).refusal


def _by_replica(series: Series, figure: t.Callable[[Reading], float | None]) -> dict[str, float]:
    """The mean of the figure for each replica that told it at least once."""
    told: dict[str, list[float]] = {}
    for look in series:
        for name, reading in look.items():
            value = figure(reading) if reading else None
            if value is not None and math.isfinite(value):
                told.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in told.items()}


def _mean(figures: t.Mapping[str, float]) -> float | None:
    return statistics.fmean(figures.values()) if figures else None


def _unknown(load: Load) -> str:
    if not load.looks:
        what = "No replica was asked for its load"
    elif load.in_flight is None:
        what = "No replica tells how many requests it has in flight"
    else:
        what = "No replica tells how many requests it works on at once"
    return (
        f"{what}, so it is not known whether {load.ready - load.out} of {load.ready} replicas carry what "
        "there is to do while the rollout lasts. If the service has such metrics, name them in "
        "gpu_service_metrics."
    )


def _refusal(load: Load, needed: float) -> str:
    bearable = limit(load.ready - load.out)
    return (
        f"With {load.out} of {load.ready} replicas out, the load would be {needed:.2f} of the capacity that "
        f"is left; above {bearable:.2f} callers wait longer than a second for the first sound. Measured in "
        f"{load.looks} looks: {load.in_flight:.2f} requests in flight on a replica, which works on "
        f"{load.capacity:g} at once. Wait for a quieter hour, add a replica, or set gpu_service_force: true "
        "to go on regardless."
    )
