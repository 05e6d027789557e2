# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports in a directory: one JSON file and one page for each time, the newest also under a fixed name.

This module util is private to the collection.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
import time
import typing as t

# Other files in the directory are not ours and are never removed.
REPORT = re.compile(r"^(\d{4}-\d{2}-\d{2}T\d{6}Z)\.(?:json|html)$")


def stem(generated_at: str) -> str:
    """V(2026-11-22T10:53:07Z) as the file name V(2026-11-22T105307Z). Raises ValueError."""
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.strptime(generated_at, "%Y-%m-%dT%H:%M:%SZ"))


def with_audio(page: str, files: t.Sequence[str], max_bytes: int) -> str:
    """The page with the files in their places, as data URLs: it stays one file that can be mailed."""
    for place, path in enumerate(files):
        source = "hidden"
        try:
            if os.path.getsize(path) <= max_bytes:
                with open(path, "rb") as file:
                    source = f'src="data:audio/wav;base64,{base64.b64encode(file.read()).decode()}"'
        except OSError:
            pass
        page = page.replace(f'src="audio:{place}"', source)
    return page


def write(path: str, content: str, mode: int = 0o644) -> None:
    """Write beside the target and rename: a reader sees the old file or the new one, never half of it."""
    handle, written = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".report-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(written, mode)
        os.replace(written, path)
    except BaseException:
        os.unlink(written)
        raise


def point(link: str, path: str) -> None:
    """Let the symbolic link C(link) point to C(path), its neighbour; there is no moment without it."""
    fresh = f"{link}.new"
    if os.path.lexists(fresh):
        os.unlink(fresh)
    os.symlink(os.path.basename(path), fresh)
    os.replace(fresh, link)


def prune(directory: str, keep: int) -> list[str]:
    """Remove the oldest reports beyond C(keep); answers the paths that are gone."""
    found = {name: match.group(1) for name in os.listdir(directory) if (match := REPORT.match(name))}
    kept = sorted(set(found.values()))[-keep:]
    removed = sorted(os.path.join(directory, name) for name, moment in found.items() if moment not in kept)
    for path in removed:
        os.unlink(path)
    return removed
