# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which container a process of this host belongs to, from its cgroup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# Docker's full ids, as they stand in every form of path: "/docker/<id>" (cgroup v1 and v2 with cgroupfs),
# "/system.slice/docker-<id>.scope" (systemd), "/../<id>" (seen from another cgroup namespace), and with
# several of them where containers run in containers.
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")
"""A container id as people give it: full, or short as ``docker ps`` prints it."""


def container_ids_of(pid: int, proc: str = "/proc") -> set[str]:
    """Full ids of the containers around process ``pid``; empty if there are none or the process is gone.

    ``proc`` is where procfs is mounted. Threads and children of a container's main process are in the same
    cgroup, so an engine with several processes counts as a whole.
    """
    try:
        cgroup = Path(proc, str(pid), "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return set(_ID.findall(cgroup))


def owners(pids: Iterable[int], own_containers: Iterable[str], proc: str = "/proc") -> dict[int, str]:
    """Of ``pids``, those that run in ``own_containers`` (full or short ids), each with that id."""
    own = tuple(own_containers)
    if not own:
        return {}
    found = {}
    for pid in pids:
        ids = container_ids_of(pid, proc)
        mine = next((container for container in own if any(full.startswith(container) for full in ids)), None)
        if mine is not None:
            found[pid] = mine
    return found
