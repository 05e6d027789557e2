# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One thing that was looked at: what was found, what was wanted, and what to do when they differ.

This module util is private to the collection.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Check:
    """The outcome of one check; C(remedy) says what to do when C(ok) is false, and is empty otherwise."""

    name: str
    ok: bool
    found: str
    wanted: str
    remedy: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        return asdict(self)


def check(name: str, ok: bool, found: object, wanted: object, remedy: str) -> Check:
    """A C(Check) whose remedy is kept only where one is needed."""
    return Check(name, ok, str(found), str(wanted), "" if ok else remedy)


def summary(checks: t.Sequence[Check]) -> str:
    """V(41 of 43 checks passed)."""
    return f"{sum(1 for each in checks if each.ok)} of {len(checks)} checks passed"
