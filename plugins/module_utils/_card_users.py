# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is on a card: containers that were given it, and processes that have memory there, each by its name.

This module util is private to the collection. A container counts from its start, whether or not it has used
the card yet: what it was given must not change under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _cdi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._container_processes import (
    container_ids_of,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import Card, MigDevice
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._specification import LABEL_ROLE

if TYPE_CHECKING:
    from docker import DockerClient

# The runtime hook gives a container what this says, if --gpus does not.
_VISIBLE = "NVIDIA_VISIBLE_DEVICES="
# The daemon's own process on a card has no work of its own.
MPS_SERVER = "nvidia-cuda-mps-server"


@dataclass(frozen=True)
class Holder:
    """A container that runs, and the devices that it was given, as it names them."""

    container_id: str
    name: str
    devices: frozenset[str]
    sources: frozenset[str]
    replica: bool = False

    def __str__(self) -> str:
        return f"replica {self.name}" if self.replica else f"container {self.name}"


def holders(client: DockerClient) -> list[Holder]:
    """Every container that runs or may at any moment."""
    found = []
    for summary in client.api.containers(filters={"status": ["running", "restarting", "paused"]}):
        seen = client.api.inspect_container(summary["Id"])
        found.append(holder(seen))
    return found


def holder(seen: Mapping[str, Any]) -> Holder:
    """One container, as the engine describes it."""
    devices: set[str] = set()
    for request in seen["HostConfig"].get("DeviceRequests") or []:
        names = [_cdi.card_of(each) for each in request.get("DeviceIDs") or []]
        if names:
            devices.update(names)
        elif request.get("Count"):
            # A number of them: which, only the hook knows.
            devices.add("all")
    for variable in seen["Config"].get("Env") or []:
        if variable.startswith(_VISIBLE) and seen["HostConfig"].get("Runtime") == "nvidia":
            devices.update(variable[len(_VISIBLE) :].split(","))
    labels = seen["Config"].get("Labels") or {}
    return Holder(
        container_id=seen["Id"],
        name=seen["Name"].lstrip("/"),
        devices=frozenset(devices - {"", "none", "void"}),
        sources=frozenset(each.get("Source", "") for each in seen.get("Mounts") or []),
        replica=labels.get(LABEL_ROLE) == "replica",
    )


def users(card: Card, containers: Sequence[Holder], part: MigDevice | None = None) -> list[str]:
    """Who is on the card or on a part of it, each once; with C(part), who is on that one."""
    names = {"all", str(card.index), card.uuid}
    for device in [part] if part else card.mig_devices:
        names |= {device.uuid, f"{card.index}:{device.index}"}
    found = {str(each) for each in containers if each.devices & names}
    by_id = {each.container_id: each for each in containers}
    for process in card.processes:
        if part and process.gpu_instance_id != part.gpu_instance_id:
            continue
        inside = next((by_id[one] for one in container_ids_of(process.pid) if one in by_id), None)
        program = "" if inside else program_of(process.pid)
        if inside:
            found.add(str(inside))
        elif program != MPS_SERVER:
            found.add(f"process {process.pid}" + (f" ({program})" if program else ""))
    return sorted(found)


def clients(containers: Iterable[Holder], pipe_dir: str) -> list[str]:
    """The containers that reach the daemon with its pipes there."""
    return sorted(str(each) for each in containers if pipe_dir in each.sources)


def program_of(pid: int) -> str:
    """The name of its program, empty if it is gone or another namespace's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return words[0].decode(errors="replace").rpartition("/")[2]
