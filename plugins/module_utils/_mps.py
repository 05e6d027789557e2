# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a replica on a card that is shared by MPS needs, and what it was given.

This module util is private to the collection. A replica sees one card, so that card has the number 0 for it
whatever the host calls it. What a client asks for here can only lower what the daemon gives it: see
nvidia-cuda-mps-control(1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

PIPE_DIRECTORY = "CUDA_MPS_PIPE_DIRECTORY"
THREADS = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
MEMORY = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
_MEMORY = re.compile(r"0=([0-9]+)M")

# Before Volta one client reads and writes the memory of the others, and none has a limit (NVIDIA's document
# on MPS, "Volta MPS").
TOO_OLD = ("Kepler", "Maxwell", "Pascal")


def share(slots: int) -> int:
    """The percentage of a card's threads for each of so many slots; together they never get more than all."""
    return 100 // slots


def environment(mps: Mapping[str, Any], memory_mib: int | None) -> dict[str, str]:
    """Of a container on such a slot."""
    found = {PIPE_DIRECTORY: str(mps["pipe_dir"]), THREADS: str(mps["thread_percentage"])}
    return {**found, MEMORY: f"0={memory_mib}M"} if memory_mib else found


def mount(mps: Mapping[str, Any]) -> dict[str, Any]:
    """Clients write into the daemon's pipes."""
    return {"source": mps["pipe_dir"], "target": mps["pipe_dir"], "read_only": False}


def fault(service: str, mps: Mapping[str, Any], specification: Mapping[str, Any]) -> str:
    """Why these replicas cannot be the daemon's clients; empty if they can.

    A daemon serves one user at a time. Clients of another hang at their first call of CUDA.
    """
    user = str(specification["user"])
    uid, wanted = user.partition(":")[0], str(mps["uid"])
    if uid != wanted:
        told = f"run as user {user}" if user else "run as the image's own user"
        return (
            f"{service}: its replicas {told}, and MPS on this host serves uid {wanted} alone. Set the "
            f"service's user to '{wanted}', or gpu_sharing_mps_user to that of the service."
        )
    taken = sorted({PIPE_DIRECTORY, THREADS, MEMORY} & set(specification["environment"]))
    if taken:
        names = ", ".join(taken)
        return f"{service}: its environment sets {names}, which the slot does on this host. Take it out."
    return ""


def limit_of(config: str) -> int | None:
    """The limit in MiB of a container's configuration, as its label holds it; None if it has none."""
    try:
        told = _MEMORY.fullmatch(json.loads(config)["environment"].get(MEMORY, ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return int(told.group(1)) if told else None
