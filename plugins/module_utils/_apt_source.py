# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An entry of apt's package sources, in the format deb822.

This module util is private to the collection.
"""

from __future__ import annotations

from collections.abc import Sequence


def stanza(uri: str, suite: str, components: str, key: str) -> str:
    """One entry; ``suite`` V(/) for a flat repository, without components. ``key``: a path, or the key."""
    lines: Sequence[str] = (
        "Types: deb",
        f"URIs: {uri}",
        f"Suites: {suite}",
        *([f"Components: {components}"] if components else []),
        *([f"Signed-By: {key}"] if key else []),
    )
    return "\n".join(lines) + "\n"
