# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a new replica does as well as the others, by what all of them answered while it soaked.

This module util is private to the collection. The canary is compared with its neighbours in the same minutes
and not with fixed figures: what the callers ask for changes with the hour, and changes for all of them alike.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._metrics import Reading

# This is evaluated, and Python 3.9 knows no other way to write it.
Readings = t.Mapping[str, t.Optional[Reading]]  # noqa: UP045
# 0.2 + 0.1 is a little more than 0.3 in binary fractions, other sums a little less.
ROUNDING = 1e-9
# Some client libraries work the start of their process out anew each time, to within a second.
START_SECONDS = 1.5


@dataclass(frozen=True)
class Limits:
    """How much worse than the others the canary may be.

    C(max_error_ratio) is how much higher its share of failed answers may be than theirs (0 to 1).
    C(max_latency_ratio) is how many times their mean latency its own may be; it counts from C(min_requests)
    measured answers on either side.
    """

    max_error_ratio: float = 0.0
    max_latency_ratio: float = 2.0
    min_requests: int = 10


@dataclass(frozen=True)
class Verdict:
    """Whether the canary may stay, why, and the figures of the soak, None where there are none."""

    ok: bool
    reason: str
    figures: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Served:
    """What was served between two readings."""

    requests: float = 0.0
    errors: float = 0.0
    refused: float = 0.0
    latency_sum: float = 0.0
    latency_count: float = 0.0

    def __add__(self, other: Served) -> Served:
        return Served(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def error_ratio(self) -> float | None:
        return self.errors / self.requests if self.requests else None

    @property
    def latency_seconds(self) -> float | None:
        """The mean."""
        return self.latency_sum / self.latency_count if self.latency_count else None


COUNTERS = tuple(vars(Served()))


def restarted(start: Reading, end: Reading) -> bool:
    """Whether another process answers now: it began at another time, or a counter has gone back."""
    if start.started_at is not None and end.started_at is not None:
        began_anew = abs(end.started_at - start.started_at) > START_SECONDS
    else:
        began_anew = False
    return began_anew or any(getattr(end, name) < getattr(start, name) for name in COUNTERS)


def served(start: Reading, end: Reading) -> Served:
    """What was served between the two readings of one process."""
    return Served(**{name: getattr(end, name) - getattr(start, name) for name in COUNTERS})


def judge_canary(start: Readings, end: Readings, canary: str, limits: Limits | None = None) -> Verdict:
    """Judge the replica C(canary) by the readings of all replicas when its soak began and when it ended.

    Errors count from the first one: few requests are no excuse for them. That little was asked is no reason
    against the canary, but the reason says that nothing was proved. Neighbours that do not tell, or that were
    restarted, are left out of the comparison.
    """
    limits = limits or Limits()
    before, after = start.get(canary), end.get(canary)
    if before is None:
        when = "shows no metrics" if after is None else "showed no metrics when the soak began"
        return Verdict(True, f"{canary} {when}, so its soak proved nothing.", _figures())
    if after is None:
        reason = f"{canary} showed its metrics when the soak began, and no longer does."
        return Verdict(False, reason, _figures())
    if restarted(before, after):
        reason = f"{canary} was restarted during the soak: its counters began anew."
        return Verdict(False, reason, _figures())
    own, others = served(before, after), Served()
    for name in sorted((start.keys() & end.keys()) - {canary}):
        earlier, later = start[name], end[name]
        if earlier and later and not restarted(earlier, later):
            others += served(earlier, later)
    ok, reason = _judge(canary, own, others, limits)
    return Verdict(ok, reason, _figures(own, others))


def _judge(canary: str, own: Served, others: Served, limits: Limits) -> tuple[bool, str]:
    enough = max(limits.min_requests, 1)
    if own.error_ratio is not None:
        allowed = (others.error_ratio or 0.0) + limits.max_error_ratio
        if own.error_ratio > allowed + ROUNDING:
            return False, (
                f"{canary} failed {own.errors:.0f} of {own.requests:.0f} requests ({own.error_ratio:.1%}), "
                f"the others {others.errors:.0f} of {others.requests:.0f}; {allowed:.1%} is allowed."
            )
    if not own.requests and own.refused >= enough and others.requests:
        return False, (
            f"{canary} answered nothing and refused {own.refused:.0f} requests, while the others answered "
            f"{others.requests:.0f}."
        )
    compared = min(own.latency_count, others.latency_count) >= enough
    latency, usual = own.latency_seconds, others.latency_seconds
    if compared and latency is not None and usual and latency > usual * limits.max_latency_ratio:
        return False, (
            f"{canary} took {latency:.3f} s on average over {own.latency_count:.0f} requests, "
            f"{latency / usual:.1f} times the {usual:.3f} s of the others ({others.latency_count:.0f} "
            f"requests); {limits.max_latency_ratio:g} times is allowed."
        )
    did = f"{canary} answered {own.requests:.0f} requests, {own.errors:.0f} of them with an error"
    if own.requests < enough:
        return True, f"{did}; fewer than {enough} prove nothing."
    if not compared or latency is None or not usual:
        return True, f"{did}. There was too little to compare its latency with the others'."
    return True, f"{did}, in {latency:.3f} s on average where the others took {usual:.3f} s."


def _figures(own: Served | None = None, others: Served | None = None) -> dict[str, float | None]:
    return {
        "requests": own.requests if own else None,
        "errors": own.errors if own else None,
        "error_ratio": own.error_ratio if own else None,
        "refused": own.refused if own else None,
        "latency_seconds": own.latency_seconds if own else None,
        "others_requests": others.requests if others else None,
        "others_error_ratio": others.error_ratio if others else None,
        "others_latency_seconds": others.latency_seconds if others else None,
    }
