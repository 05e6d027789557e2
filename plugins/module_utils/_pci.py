# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PCI devices of this host, as sysfs lists them.

This module util is private to the collection. No lspci: a bare host has none. The root of sysfs is an
argument, so that a made-up tree can be read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

NVIDIA = 0x10DE
# The upper two of the three bytes of a device's class.
_VGA, _3D, _BRIDGE = 0x0300, 0x0302, 0x0680


@dataclass(frozen=True)
class PciDevice:
    """One device; ``address`` such as 0000:01:00.0, ``kind`` the upper two bytes of its class."""

    address: str
    vendor: int
    device: int
    kind: int


def devices(sysfs: str = "/sys") -> list[PciDevice]:
    """All devices by address; none where the host has no PCI (WSL 2, many containers)."""
    folder = os.path.join(sysfs, "bus/pci/devices")
    try:
        addresses = sorted(os.listdir(folder))
    except OSError:
        return []
    found = []
    for address in addresses:
        vendor, device, kind = (
            _number(os.path.join(folder, address, name)) for name in ("vendor", "device", "class")
        )
        if vendor is not None and device is not None and kind is not None:
            found.append(PciDevice(address, vendor, device, kind >> 8))
    return found


def cards(found: list[PciDevice]) -> list[PciDevice]:
    """NVIDIA's GPUs: with an output for a display (VGA) or without (3D), not their sound or USB."""
    return [device for device in found if device.vendor == NVIDIA and device.kind in (_VGA, _3D)]


def nvswitches(found: list[PciDevice]) -> list[PciDevice]:
    """NVIDIA's NVSwitches, which nothing can use before Fabric Manager has set them up."""
    return [device for device in found if device.vendor == NVIDIA and device.kind == _BRIDGE]


def has_nvlink5(sysfs: str = "/sys") -> bool:
    """Whether switches of the fifth NVLink are managed through an InfiniBand card here.

    NVIDIA's own driver container tells it by SW_MNG in the vital product data of such a card.
    """
    folder = os.path.join(sysfs, "class/infiniband")
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(b"SW_MNG" in _content(os.path.join(folder, name, "device/vpd")) for name in names)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _number(path: str) -> int | None:
    try:
        return int(_content(path), 16)
    except ValueError:
        return None
