# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for the sysfs of a host with cards: a made-up tree of PCI devices, for hosts that have none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SECURE_BOOT = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def pci_tree(root: Path, found: Iterable[tuple[int, int, int]]) -> Path:
    """Writes devices, each (vendor, device, class of three bytes), below ``root``; returns ``root``."""
    (root / "bus/pci/devices").mkdir(parents=True)
    for number, values in enumerate(found, 1):
        folder = root / f"bus/pci/devices/0000:{number:02x}:00.0"
        folder.mkdir()
        for name, value, width in zip(("vendor", "device", "class"), values, (4, 4, 6), strict=True):
            (folder / name).write_text(f"0x{value:0{width}x}\n", encoding="ascii")
    return root


def loaded_module(root: Path, version: str, name: str = "nvidia") -> None:
    """Makes a kernel module look loaded."""
    (root / "module" / name).mkdir(parents=True)
    if version:
        (root / "module" / name / "version").write_text(f"{version}\n", encoding="ascii")


def secure_boot(root: Path, on: bool) -> None:
    """Makes the firmware say whether Secure Boot is on: four bytes of attributes, one of value."""
    path = root / SECURE_BOOT
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x06\x00\x00\x00" + bytes([on]))
