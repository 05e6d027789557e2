# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of one rollout: who changed what on this host, when, how long it took, and whom it cost.

This module util is private to the collection. A step is what module replica returns as its C(step).
"""

from __future__ import annotations

import json
import os
import re
import typing as t
from datetime import datetime, timezone

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _reports

VERB = re.compile(r"^[a-z][a-z0-9_-]*$")
# Other files in the directory are not ours and are never removed.
FILE = re.compile(r"^\d{8}T\d{6}Z-[a-z][a-z0-9_-]*(?:\.\d+)?\.json$")
# What no rollout can do without: each of these is waited for, one replica after another.
UNAVOIDABLE = ("drained_seconds", "stopped_seconds", "started_seconds")
COUNTED = {
    "replace": "replaced",
    "create": "created",
    "start": "started",
    "drain": "drained",
    "remove": "removed",
    "restore": "restored",
}

Step = t.Mapping[str, t.Any]
UTC = timezone.utc  # noqa: UP017  Python 3.9, as on RHEL 9, has no datetime.UTC


def moment(text: str) -> datetime:
    """V(2026-11-22T10:53:07Z), or any other ISO 8601 with a time zone, in UTC. Raises ValueError."""
    read = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
    if read.tzinfo is None:
        raise ValueError(f"'{text}' has no time zone; write it in UTC, as in 2026-11-22T10:53:07Z")
    return read.astimezone(UTC)


def iso(when: datetime) -> str:
    """The form that records have: V(2026-11-22T10:53:07Z)."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def was_stopped(step: Step) -> bool:
    """Whether a container was taken from its callers and stopped, so that some may have been cut off."""
    return any(
        step.get(key) is not None for key in ("drained_seconds", "stopped_seconds", "in_flight_at_stop")
    )


def totals(steps: t.Sequence[Step]) -> dict[str, int | None]:
    """How many replicas of each fate, and how many requests were cut off.

    C(in_flight_cut) is None when a single stop was of a service that cannot tell: then 0 would be a claim.
    """
    stops = [step.get("in_flight_at_stop") for step in steps if was_stopped(step)]
    known = [int(stop) for stop in stops if stop is not None]
    return {
        **{fate: sum(step.get("action") == action for step in steps) for action, fate in COUNTED.items()},
        "in_flight_cut": sum(known) if len(known) == len(stops) else None,
        "in_flight_unknown": len(stops) - len(known),
    }


def physical_minimum(steps: t.Sequence[Step]) -> float:
    """Seconds that these steps take at the very least: drains, stops, and starts until ready, as observed."""
    return round(sum(float(step.get(part) or 0) for step in steps for part in UNAVOIDABLE), 1)


def compose(
    service: str,
    host: str,
    verb: str,
    owner: str,
    started: datetime,
    ended: datetime,
    ok: bool,
    error: str,
    plan: t.Sequence[str],
    steps: t.Sequence[Step],
) -> dict[str, t.Any]:
    """The record, ready for JSON."""
    # The start may have been told by another clock than this host's; steps follow one another.
    at_least = sum(float(step.get("seconds") or 0) for step in steps)
    seconds = round(max((ended - started).total_seconds(), at_least, 0.0), 1)
    minimum = physical_minimum(steps)
    return {
        "service": service,
        "host": host,
        "verb": verb,
        "owner": owner,
        "started_at": iso(started),
        "ended_at": iso(ended),
        "seconds": seconds,
        "ok": ok,
        "error": error,
        "plan": list(plan),
        "steps": [dict(step) for step in steps],
        "totals": totals(steps),
        "physical_minimum_seconds": minimum,
        "seconds_over_minimum": round(seconds - minimum, 1),
    }


def path_for(directory: str, started: datetime, verb: str) -> str:
    """Where the record goes: V(20261122T105307Z-upgrade.json), with a number if that name is taken."""
    stem = os.path.join(directory, f"{started.strftime('%Y%m%dT%H%M%SZ')}-{verb}")
    path, number = f"{stem}.json", 2
    while os.path.lexists(path):
        path, number = f"{stem}.{number}.json", number + 1
    return path


def keep(path: str, record: t.Mapping[str, t.Any], newest: int) -> list[str]:
    """Write the record, and remove the oldest ones beyond C(newest); answers the paths that are gone.

    Plans and errors may quote what a container said, so it is for root and the directory's group alone.
    """
    directory = os.path.dirname(path)
    os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
    os.makedirs(directory, mode=0o750, exist_ok=True)
    _reports.write(path, json.dumps(record, indent=2, sort_keys=False) + "\n", 0o640)
    kept = os.path.basename(path)
    # By the time in the name, then in the order of writing.
    older = sorted(
        (name for name in os.listdir(directory) if FILE.match(name) and name != kept),
        key=lambda name: (name[:16], os.path.getmtime(os.path.join(directory, name))),
    )
    removed = [os.path.join(directory, name) for name in older[: max(len(older) - (newest - 1), 0)]]
    for old in removed:
        os.unlink(old)
    return removed
