# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is mounted where, from /proc/self/mountinfo (proc_pid_mountinfo(5)).

This module util is private to the collection.
"""

from __future__ import annotations

import os
import typing as t


class Mount(t.NamedTuple):
    """A mount: the device, which of its folders is shown, and where."""

    device: str
    root: str
    point: str


def mounts(text: str | None = None) -> list[Mount]:
    """All mounts in the order they were made; of this process, if no `text` is given."""
    if text is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    found = []
    for line in text.splitlines():
        _number, _parent, device, root, point, _rest = line.split(" ", 5)
        found.append(Mount(device, _plain(root), _plain(point)))
    return found


def _plain(name: str) -> str:
    # The kernel writes these four in octal, and the backslash last, lest it be read twice.
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        name = name.replace(code, char)
    return name


def is_mounted_from_elsewhere(path: str, among: list[Mount] | None = None) -> bool:
    """Whether `path` shows another place than it would without its mount.

    dockerd mounts its data directory on itself to make it shared: that is no mount in this sense.
    os.path.ismount sees no mount at all where both places are on one file system.
    """
    found = mounts() if among is None else among
    here = [mount for mount in found if mount.point == path]
    if not here:
        return False
    around = (mount for mount in found if path.startswith(mount.point.rstrip("/") + "/"))
    above = max(around, key=lambda mount: len(mount.point))
    without = os.path.join(above.root, os.path.relpath(path, above.point))
    return (here[-1].device, here[-1].root) != (above.device, without)
