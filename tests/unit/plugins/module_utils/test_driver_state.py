# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is loaded, what is installed, and whether they agree: over made-up trees."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _driver_state
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_state import Driver
from pci_tree import loaded_module, pci_tree, secure_boot

RUNNING = os.uname().release
GOOD = Driver("580.178.04", "open", "580.178.04", False, "6.1", ("6.1",), ("6.1",), (), ("nvidia",), False)


def host(root: Path, version: str = "", modules: tuple[str, ...] = ()) -> Path:
    """A root file system with a library and kernels with modules of the driver."""
    library = root / "usr/lib/x86_64-linux-gnu/nvidia/current"
    library.mkdir(parents=True)
    if version:
        (library / f"libnvidia-ml.so.{version}").touch()
        (library / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{version}")
    for number, line in enumerate(modules):
        folder = root / f"lib/modules/6.{number}"
        (folder / "build").mkdir(parents=True)
        (folder / "modules.dep").write_text(line)
    return root


def test_a_working_driver_is_seen_as_one(tmp_path: Path) -> None:
    sysfs, proc = pci_tree(tmp_path / "sys", []), tmp_path / "proc"
    loaded_module(sysfs, "580.178.04")
    loaded_module(sysfs, "", "nvidia_uvm")
    (sysfs / "module/nvidia/taint").write_text("OE\n")
    found = _driver_state.look(str(sysfs), str(proc), str(host(tmp_path / "root", "580.178.04")))
    assert (found.loaded_version, found.loaded_flavour, found.installed_version) == (
        "580.178.04", "open", "580.178.04",
    )  # fmt: skip
    assert found.modules == ("nvidia_uvm", "nvidia")
    assert _driver_state.reboot_reasons(found, "open") == []
    (sysfs / "module/nvidia/taint").write_text("POE\n")
    assert _driver_state.look(str(sysfs), str(proc)).loaded_flavour == "proprietary"
    assert not _driver_state.loadable(found)


@pytest.mark.parametrize(
    ("line", "built"),
    [
        ("updates/dkms/nvidia-current-open.ko: kernel/a.ko\n", True),
        ("kernel/a.ko:\nupdates/dkms/nvidia-current.ko.xz:\n", True),
        ("extra/nvidia.ko.zst:\n", True),
        ("updates/dkms/nvidia-uvm.ko: updates/dkms/nvidia.ko\n", False),
        ("kernel/drivers/usb/typec/altmodes/typec_nvidia.ko.xz:\n", False),
    ],
)
def test_a_module_of_the_driver_under_each_of_its_names(tmp_path: Path, line: str, built: bool) -> None:
    root = str(host(tmp_path, modules=(line,)))
    assert _driver_state.built_kernels(root) == ({"6.0"} if built else set())
    assert _driver_state.unbuilt_kernels(root) == ([] if built else ["6.0"])


def test_a_link_to_headers_that_are_not_there_is_none(tmp_path: Path) -> None:
    """RHEL's kernels bring it."""
    root = host(tmp_path, modules=("kernel/a.ko:\n",))
    (root / "lib/modules/6.0/build").rmdir()
    (root / "lib/modules/6.0/build").symlink_to("/usr/src/kernels/nowhere")
    assert _driver_state.unbuilt_kernels(str(root)) == []


OLD, NEW = "5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.12.1.el9_6.x86_64"


def test_headers_of_each_kernel_are_packages_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        ("rpm", "-qa"): f"kernel-devel installed {OLD[:-7]}\nkernel-devel installed {NEW[:-7]}\n",
        ("rpm", "-q"): f"kernel-devel-{OLD}\nkernel-devel-{NEW}\n",
        ("dnf", "--quiet"): f"kernel-devel {NEW}\n\nnvidia-persistenced 580.178.04-1.el9.x86_64\n",
    }
    monkeypatch.setattr(_driver_state, "which", lambda name: name if name in ("rpm", "dnf") else None)
    monkeypatch.setattr(
        _driver_state, "run", lambda *words: SimpleNamespace(stdout=answers[words[0], words[1]])
    )
    states = _driver_state.package_states()
    assert states[f"kernel-devel-{OLD}"][0] == states[f"kernel-devel-{NEW}"][0] == "installed"
    # Of an older kernel the sources may have none any more.
    wanted = [f"kernel-devel-{OLD}", f"kernel-devel-{NEW}", "nvidia-persistenced"]
    assert list(_driver_state.dnf_candidates(wanted)) == wanted[1:]


def test_kernels_that_may_boot_are_this_hosts_own(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for name in ("vmlinuz-6.1.0-56-amd64", "vmlinuz-0-rescue-1234", "initrd.img-6.1.0-56-amd64"):
        (tmp_path / "boot" / name).touch()
    assert _driver_state.bootable_kernels(str(tmp_path), RUNNING) == ["6.1.0-56-amd64"]
    (tmp_path / "lib/modules" / RUNNING).mkdir(parents=True)
    assert RUNNING in _driver_state.bootable_kernels(str(tmp_path), RUNNING)


def test_programs_at_a_card_are_named_and_nvidias_services_are_not(tmp_path: Path) -> None:
    for pid, name, target in (
        ("12", "python3", "/dev/nvidia0"),
        ("13", "nvidia-persiste", "/dev/nvidia0"),
        ("14", "bash", "/dev/null"),
    ):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "comm").write_text(f"{name}\n")
        (tmp_path / pid / "fd/3").symlink_to(target)
    assert _driver_state.clients(str(tmp_path)) == ["python3 (process 12)"]


def test_secure_boot_is_what_the_firmware_says(tmp_path: Path) -> None:
    assert _driver_state.secure_boot(str(tmp_path)) is None
    secure_boot(tmp_path / "on", on=True)
    secure_boot(tmp_path / "off", on=False)
    assert _driver_state.secure_boot(str(tmp_path / "on")) is True
    assert _driver_state.secure_boot(str(tmp_path / "off")) is False


def test_an_initramfs_older_than_the_blacklist_is_stale(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    image, blacklist = tmp_path / "boot/initrd.img-6.1", tmp_path / "nouveau.conf"
    image.touch()
    assert not _driver_state.stale_initramfs(str(tmp_path), str(blacklist))
    blacklist.touch()
    os.utime(image, (1000, 1000))
    assert _driver_state.stale_initramfs(str(tmp_path), str(blacklist))
    # Nothing that writes images anew writes these.
    image.unlink()
    for other in ("initramfs-5.14.0-570.el9.x86_64kdump.img", "initramfs-0-rescue-4711.img"):
        (tmp_path / "boot" / other).touch()
        os.utime(tmp_path / "boot" / other, (1000, 1000))
    assert not _driver_state.stale_initramfs(str(tmp_path), str(blacklist))


@pytest.mark.parametrize(
    ("changes", "flavour", "said"),
    [
        ({}, "open", ""),
        ({}, "", ""),
        ({"loaded_version": "580.159.03"}, "open", "Driver/library version mismatch"),
        ({}, "proprietary", "The open kernel modules are loaded, and the proprietary ones were chosen"),
        ({"loaded_version": "", "nouveau": True}, "open", "nouveau, holds the card"),
        ({"loaded_version": "", "running_kernel": "6.18"}, "open", "running kernel 6.18, but for 6.1"),
        ({"loaded_version": ""}, "open", ""),
        ({"installed_version": "", "nouveau": True}, "open", ""),
    ],
)
def test_why_a_reboot_is_due(changes: dict[str, object], flavour: str, said: str) -> None:
    reasons = _driver_state.reboot_reasons(replace(GOOD, **changes), flavour)  # type: ignore[arg-type]
    assert bool(reasons) == bool(said)
    assert said in " ".join(reasons)


def test_modprobe_is_enough_where_nothing_is_loaded() -> None:
    assert _driver_state.loadable(replace(GOOD, loaded_version=""))
    assert not _driver_state.loadable(replace(GOOD, loaded_version="", nouveau=True))
    assert not _driver_state.loadable(replace(GOOD, loaded_version="", built=()))
