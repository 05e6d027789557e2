# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What forbids a plan: too few replicas that serve meanwhile, nobody at all, or a host taken out by hand.

This module util is private to the collection. It knows neither Docker nor Ansible. Whether a card takes what
a plan puts there is no rule here: there is no plan that it would not take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed, Step, replicas_of


@dataclass(frozen=True)
class Outlook:
    """How many replicas serve while the steps are taken, if none of them fails."""

    serving: int
    # At the worst moment; those that serve only because of the plan count too.
    lowest: int
    # So few may serve while one that serves is out.
    floor: int
    # A step leaves nobody who answers.
    downtime: bool = False
    refusals: tuple[str, ...] = ()

    @property
    def out(self) -> int:
        """So many of those that serve now are missed at the worst moment."""
        return max(0, self.serving - self.lowest)


def floor_of(count: int, serving: int, min_ready: int) -> int:
    """So many replicas have to serve while one is taken out.

    Without a number (C(min_ready) is negative) it is one less than are to be, or serve now if those are
    fewer, but at least one. Nobody has to where nobody is wanted.
    """
    if min_ready >= 0:
        return min_ready
    return max(min(count, serving) - 1, 1) if count else 0


def look_ahead(
    service: str,
    count: int,
    steps: Sequence[Step],
    observed: Sequence[Observed],
    min_ready: int = -1,
    accept_downtime: bool = False,
) -> Outlook:
    """Take the steps in mind and say at which one too few would serve.

    Only a step that takes a replica out can be refused: what repairs a fleet never makes it worse, however
    few serve. A single replica that has to go before its successor comes is downtime, which
    C(accept_downtime) allows, unless C(min_ready) is a number that forbids it.
    """
    replicas = replicas_of(observed)
    serving = {number for number, replica in replicas.items() if replica.serving}
    now = lowest = len(serving)
    floor = floor_of(count, now, min_ready)
    refusals: list[str] = []
    downtime = False
    for step in steps:
        if step.takes_out and step.number in serving:
            serving.discard(step.number)
            left = len(serving)
            lowest = min(lowest, left)
            down = left == 0 and count > 0
            downtime = downtime or down
            if down and not accept_downtime:
                refusals.append(_downtime(service, step, now, len(replicas)))
            elif left < floor and not (down and min_ready < 0):
                refusals.append(_below(service, step, now, len(replicas), left, floor))
        if step.action in ("start", "create", "replace"):
            serving.add(step.number)
    # The first says it all: those behind it follow from it.
    return Outlook(now, lowest, floor, downtime, tuple(refusals[:1]))


def _now(now: int, there: int) -> str:
    noun, verb = ("replica" if there == 1 else "replicas"), ("serves" if now == 1 else "serve")
    return f"{now} of {there} {noun} {verb} now"


def _downtime(service: str, step: Step, now: int, there: int) -> str:
    return (
        f"{service}: {_now(now, there)}, and to {step.action} {step.name} there is neither a free slot for "
        "its successor nor another that serves: nobody answers from its stop until its successor has loaded. "
        "Repair the others first if there are any, leave a slot free for it, or accept the downtime "
        "(downtime: accept)."
    )


def _below(service: str, step: Step, now: int, there: int, left: int, floor: int) -> str:
    first = "Repair those that do not serve, leave" if now < there else "Leave"
    return (
        f"{service}: {_now(now, there)}, and to {step.action} {step.name} would leave {left}, where {floor} "
        f"{'has' if floor == 1 else 'have'} to (min_ready). {first} a slot free, where a successor can come "
        "first, lower min_ready, or override it (force: true)."
    )


def drained_by_hand(text: str | None) -> dict[str, Any]:
    """What the marker on the host says of who took it out (C(by), C(at), C(why)); empty without a marker.

    A marker that cannot be read is one all the same.
    """
    if text is None:
        return {}
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    known: Mapping[str, Any] = said if isinstance(said, dict) else {}
    return {key: str(known.get(key, "")) for key in ("by", "at", "why")}


def while_drained(steps: Sequence[Step]) -> list[Step]:
    """The steps that are left on a host that was taken out by hand: none that starts anything."""
    left = []
    for step in steps:
        if step.action in ("keep", "remove"):
            left.append(step)
        elif step.action != "create":
            left.append(
                replace(
                    step,
                    action="keep",
                    reason=f"left alone while the host is drained ({step.reason})",
                    slot=None,
                    surge=False,
                    takes_out=False,
                    canary=False,
                    to_revision=step.from_revision,
                )
            )
    return left
