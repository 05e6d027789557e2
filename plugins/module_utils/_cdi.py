# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host's CDI specifications say of NVIDIA's cards, and whether that is what there is.

This module util is private to the collection. CDI (Container Device Interface) is how an engine from 25.0 on
gives a card to a container itself, so that the container keeps it when systemd reloads its units; with the
hook of before it loses it then (NVIDIA/nvidia-container-toolkit#48).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
KIND = "nvidia.com/gpu"
# Read by pattern: a host's Python may have no YAML.
_UUID = re.compile(r"\b(?:GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
# A file of the driver that every specification names, on the host or in a driver's container.
_DRIVER = re.compile(r"\blibnvidia-ml\.so\.(\d+(?:\.\d+)+)")


def card_of(device: str) -> str:
    """The UUID of the card or MIG device that a container asked for, by CDI or by the hook."""
    return device.rpartition("=")[2]


@dataclass(frozen=True)
class Specifications:
    """``paths``: files that hold NVIDIA's cards; ``uuids``: those named in them; ``drivers``: the versions of
    the driver whose files they name; ``written``: the oldest, in seconds since the epoch.

    Only of the last directory that has any, as CDI's library prefers a device there to one of the same name
    in an earlier one (container-device-interface, pkg/cdi), such as what somebody once wrote by hand."""

    paths: tuple[str, ...] = ()
    uuids: frozenset[str] = frozenset()
    drivers: frozenset[str] = frozenset()
    written: float = 0.0


def look(directories: Iterable[str] = DIRECTORIES) -> Specifications:
    """Read what is there."""
    found = [_look_into(directory) for directory in directories]
    return next((here for here in reversed(found) if here.paths), Specifications())


def _look_into(directory: str) -> Specifications:
    paths, uuids, drivers, written = [], set(), set(), []
    for path in sorted(glob.glob(os.path.join(directory, "*"))):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
            changed = os.stat(path).st_mtime
        except OSError:
            continue
        if KIND in text:
            paths.append(path)
            uuids |= set(_UUID.findall(text))
            drivers |= set(_DRIVER.findall(text))
            written.append(changed)
    return Specifications(tuple(paths), frozenset(uuids), frozenset(drivers), min(written, default=0.0))


def to_give(modes: str, listing: str) -> frozenset[str]:
    """The UUIDs of what can be given to a container: MIG devices, and cards that are not in MIG mode.

    NVIDIA's toolkit writes no device for a card in MIG mode, though such a card is listed
    (pkg/nvcdi/lib-nvml.go, getDeviceSpecGeneratorsForAllDevices).

    Args:
        modes: what ``nvidia-smi --query-gpu=uuid,mig.mode.current --format=csv,noheader`` printed.
        listing: what ``nvidia-smi -L`` printed.
    """
    whole = "\n".join(line for line in modes.splitlines() if not line.endswith("Enabled"))
    devices = (uuid for uuid in _UUID.findall(listing) if uuid.startswith("MIG-"))
    return frozenset(_UUID.findall(whole)).union(devices)


def stale(found: Specifications, cards: frozenset[str], driver: str, library_changed: float) -> str:
    """Why they have to be written anew, in words; "" where they say what there is.

    ``cards``: the UUIDs that they have to name (to_give). ``driver``: the version that is loaded, "" where
    nobody can say, as they name its files by version. ``library_changed``: when its library came to be, as
    another package of the same version may have other files.
    """
    if not cards:
        return ""
    if not found.paths:
        return "there is none"
    if missing := sorted(cards - found.uuids):
        return f"{', '.join(missing)} is not in {', '.join(found.paths)}"
    if gone := sorted(found.uuids - cards):
        return f"{', '.join(found.paths)} names {', '.join(gone)}, which is not there, or in MIG mode"
    if gone := sorted(found.drivers - {driver}) if driver else []:
        return f"{', '.join(found.paths)} names files of driver {', '.join(gone)}, and {driver} is loaded"
    if found.written < library_changed:
        return f"{', '.join(found.paths)} is older than the driver"
    return ""


def access(info: Mapping[str, Any]) -> str:
    """How this engine gives a card to a container: V(cdi), or V(hook), NVIDIA's hook before the start.

    ``info`` is what the engine says of itself. It names directories of specifications only if it uses them.
    """
    return "cdi" if look(info.get("CDISpecDirs") or ()).paths else "hook"
