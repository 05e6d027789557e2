# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading made-up trees of sysfs."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _pci
from pci_tree import pci_tree

RTX4090, RTX4090_SOUND = (0x10DE, 0x2684, 0x030000), (0x10DE, 0x22BA, 0x040300)
V100 = (0x10DE, 0x1DB1, 0x030200)
NVSWITCH = (0x10DE, 0x22A3, 0x068000)
INTEL = (0x8086, 0x9BC5, 0x030000)


def test_cards_and_switches_are_told_by_vendor_and_class(tmp_path: Path) -> None:
    found = _pci.devices(str(pci_tree(tmp_path, [INTEL, RTX4090, RTX4090_SOUND, V100, NVSWITCH])))
    assert [(card.address, card.device) for card in _pci.cards(found)] == [
        ("0000:02:00.0", 0x2684),
        ("0000:04:00.0", 0x1DB1),
    ]
    assert [switch.address for switch in _pci.nvswitches(found)] == ["0000:05:00.0"]


def test_a_host_without_pci_has_no_cards(tmp_path: Path) -> None:
    assert _pci.devices(str(tmp_path)) == []


def test_a_device_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    root = pci_tree(tmp_path, [RTX4090, V100])
    (root / "bus/pci/devices/0000:01:00.0/class").write_text("nonsense\n")
    (root / "bus/pci/devices/0000:02:00.0/vendor").unlink()
    assert _pci.devices(str(root)) == []


def test_nvlink5_is_told_by_the_data_of_an_infiniband_card(tmp_path: Path) -> None:
    device = tmp_path / "class/infiniband/mlx5_0/device"
    device.mkdir(parents=True)
    assert not _pci.has_nvlink5(str(tmp_path))
    (device / "vpd").write_bytes(b"\x82\x10\x00SW_MNG\xff")
    assert _pci.has_nvlink5(str(tmp_path))
