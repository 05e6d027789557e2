# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to result, over made-up trees of sysfs; this machine has no driver."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _driver_look, _driver_state
from ansible_collections.voicefleet.cosyvoice.plugins.modules import nvidia_driver_info
from pci_tree import loaded_module, pci_tree, secure_boot

RTX4090, V100, NVSWITCH = (0x10DE, 0x2684, 0x030000), (0x10DE, 0x1DB1, 0x030200), (0x10DE, 0x22A3, 0x068000)
B200 = (0x10DE, 0x2901, 0x030200)
DEBIAN12 = {"distribution": "Debian", "release": "12", "codename": "bookworm", "family": "Debian"}
RHEL9 = {"distribution": "RedHat", "release": "9", "codename": "Plow", "family": "RedHat"}
UBUNTU24 = {"distribution": "Ubuntu", "release": "24.04", "codename": "noble", "family": "Debian"}

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the module on a host with these devices and returns what it prints, with its warnings."""
    warned: list[str] = []
    # Ansible shows a warning once in a process, and all tests are one process.
    monkeypatch.setattr(nvidia_driver_info.AnsibleModule, "warn", lambda _module, text: warned.append(text))
    # What this machine's packages are is no matter of these tests.
    monkeypatch.setattr(_driver_state, "package_states", dict)
    monkeypatch.setattr(_driver_state, "candidates", lambda _names: {})
    monkeypatch.setattr(_driver_look, "package_sources", list)

    def call(**options: Any) -> dict[str, Any]:
        arguments = {"sysfs": str(tmp_path), "record_path": str(tmp_path / "record.json"), **options}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            nvidia_driver_info.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert ended.value.code == (1 if result.get("failed") else 0)
        if not result.get("failed"):
            assert result["changed"] is False
            assert (
                result.keys() - {"changed", "invocation", "warnings"}
                == yaml.safe_load(nvidia_driver_info.RETURN).keys()
            )
        return {**result, "warned": warned}

    return call


def test_a_host_without_cards_is_left_alone(run: Run) -> None:
    result = run(**DEBIAN12)
    assert result["cards"] == []
    assert not result["plan"]["managed"]
    assert (result["plan"]["problems"], result["files"], result["warned"]) == ([], [], [])


def test_a_bare_host_with_a_card_gets_a_plan(run: Run, tmp_path: Path) -> None:
    pci_tree(tmp_path, [RTX4090])
    result = run(**DEBIAN12)
    assert result["cards"] == [{"address": "0000:01:00.0", "device": "2684", "generation": "Ada"}]
    assert result["choice"] == {"source": "nvidia", "branch": 580, "flavour": "open", "precompiled": False}
    assert {"dkms", "openssl", "nvidia-kernel-open-dkms"} <= set(result["plan"]["missing"])
    paths = {file["path"]: file["content"] for file in result["files"]}
    assert "debian12/x86_64/" in paths["/etc/apt/sources.list.d/voicefleet-nvidia-driver.sources"]
    assert "Pin: version 580.*" in paths["/etc/apt/preferences.d/voicefleet-nvidia-driver"]
    assert "/etc/modprobe.d/voicefleet-nouveau.conf" in paths


def test_switches_bring_fabric_manager(run: Run, tmp_path: Path) -> None:
    pci_tree(tmp_path, [RTX4090, NVSWITCH])
    result = run(**UBUNTU24)
    assert result["nvswitches"] == 1
    assert "nvidia-fabricmanager-580" in result["plan"]["missing"]


def test_what_red_hats_sources_have_is_asked_for_before_it_is_installed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = ["5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.12.1.el9_6.x86_64"]
    there = [f"kernel-devel-{kernels[1]}", "nvidia-persistenced"]
    monkeypatch.setattr(_driver_state, "bootable_kernels", lambda _root, _running: kernels)
    monkeypatch.setattr(
        _driver_state, "dnf_candidates", lambda names: {name: "1" for name in names if name in there}
    )
    pci_tree(tmp_path, [RTX4090])
    missing = run(**RHEL9)["plan"]["missing"]
    assert "kernel-devel-matched" in missing
    assert not {*there} & {*missing}
    asked = run(**RHEL9, ask_sources=True)["plan"]["missing"]
    assert {*asked} - {*missing} == {*there}


def test_switches_of_nvlink5_bring_it_too(run: Run, tmp_path: Path) -> None:
    """They are no PCI devices of the host: an InfiniBand card that manages them says so."""
    device = pci_tree(tmp_path, [B200]) / "class/infiniband/mlx5_0/device"
    device.mkdir(parents=True)
    (device / "vpd").write_bytes(b"\x82\x10\x00SW_MNG\xff")
    result = run(**UBUNTU24)
    assert (result["nvswitches"], result["nvlink5"]) == (0, True)
    assert {"nvidia-fabricmanager-580", "nvlsm"} <= set(result["plan"]["missing"])
    assert "/etc/modules-load.d/voicefleet-nvlink5.conf" in [file["path"] for file in result["files"]]


def test_problems_are_told_and_nothing_is_planned(run: Run, tmp_path: Path) -> None:
    secure_boot(pci_tree(tmp_path, [V100]), on=True)
    result = run(**DEBIAN12, branch="595")
    assert len(result["plan"]["problems"]) == 2
    assert result["plan"]["missing"] == []


def test_a_second_entry_for_nvidias_repository_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pci_tree(tmp_path, [RTX4090])
    entry = tmp_path / "cuda.list"
    entry.write_text("deb https://x.example.com/compute/cuda/repos/debian12/x86_64/ /\n")
    monkeypatch.setattr(_driver_look, "package_sources", lambda: [str(entry)])
    assert "cuda.list already" in run(**DEBIAN12)["plan"]["problems"][0]
    assert run(**DEBIAN12, manage_repo=False)["plan"]["problems"] == []


def test_a_mismatch_is_warned_of_by_its_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded_module(pci_tree(tmp_path, [RTX4090]), "580.159.03")
    monkeypatch.setattr(_driver_state, "library_version", lambda _root: "580.178.04")
    result = run(**DEBIAN12)
    assert "Driver/library version mismatch" in result["mismatch"]
    assert result["mismatch"] in result["warned"]
    assert result["reboot"]["due"]
    assert not result["plan"]["managed"]


def test_cards_are_pending_while_the_role_has_yet_to_make_them_usable(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not run(**DEBIAN12)["pending"]  # no card
    pci_tree(tmp_path, [RTX4090])
    assert run(**DEBIAN12)["pending"]
    assert not run(**DEBIAN12, manage=False)["pending"]  # nothing will change that
    loaded_module(tmp_path, "580.178.04")
    monkeypatch.setattr(_driver_state, "library_version", lambda _root: "580.178.04")
    assert not run(**DEBIAN12)["pending"]
    monkeypatch.setattr(_driver_state, "library_version", lambda _root: "580.159.03")
    assert run(**DEBIAN12, replace=True)["pending"]


def test_a_record_that_cannot_be_read_stops_the_module(run: Run, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    assert "cannot be read as JSON" in run(**DEBIAN12)["msg"]
