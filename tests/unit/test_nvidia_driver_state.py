# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of role nvidia_driver that a host asks itself with: it must say what the module says."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _driver_state
from pci_tree import loaded_module, pci_tree

PROGRAM = Path(__file__).parents[2] / "roles/nvidia_driver/files/nvidia-driver-state"
RUNNING = os.uname().release


def say(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "SYSFS": str(root / "sys"), "ROOT": str(root)}
    return subprocess.run(
        [PROGRAM, *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pci_tree(tmp_path / "sys", [])
    return tmp_path


@pytest.mark.parametrize("installed", ["", "580.178.04"])
@pytest.mark.parametrize("loaded", ["", "580.159.03", "580.178.04"])
@pytest.mark.parametrize("nouveau", [False, True])
@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    "place", ["usr/lib/x86_64-linux-gnu/nvidia/current", "usr/lib/aarch64-linux-gnu", "usr/lib64"]
)
def test_it_agrees_with_the_module(
    root: Path, installed: str, loaded: str, nouveau: bool, built: bool, place: str
) -> None:
    if installed:
        (root / place).mkdir(parents=True)
        for version in (installed, "535.261.03"):
            (root / place / f"libnvidia-ml.so.{version}").touch()
        (root / place / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{installed}")
    if loaded:
        loaded_module(root / "sys", loaded)
    if nouveau:
        loaded_module(root / "sys", "", "nouveau")
    modules = root / "lib/modules" / RUNNING
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text(
        "updates/dkms/nvidia-current-open.ko.xz:\n" if built else "kernel/a.ko:\n"
    )

    said = json.loads(say(root))

    seen = _driver_state.look(str(root / "sys"), str(root / "proc"), str(root))
    assert (said["loaded"], said["installed"]) == (seen.loaded_version, seen.installed_version)
    assert said["reboot_required"] == bool(_driver_state.reboot_reasons(seen))
    assert bool(said["reason"]) == said["reboot_required"]


def test_the_metric_is_written_once_and_only_where_its_folder_is(root: Path) -> None:
    folder = root / "metrics"
    assert say(root, "--metrics", str(folder)) == ""
    folder.mkdir()
    assert say(root, "--metrics", str(folder)) == "changed\n"
    assert say(root, "--metrics", str(folder)) == ""
    assert [path.name for path in folder.iterdir()] == ["nvidia_driver.prom"]
    text = (folder / "nvidia_driver.prom").read_text()
    assert "\nnvidia_driver_reboot_required 0\n" in text
    assert text.endswith('nvidia_driver_info{loaded="",installed="",reason=""} 1\n')
