# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The matrix of card, branch, flavour, distribution and Secure Boot, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_choice import (
    Card,
    Host,
    Wish,
    branch_of,
    branch_warnings,
    choose,
    generation,
    version_warnings,
)

P100, V100, T4, A100, H100, GH200, RTX4090, B200, RTX5090 = (
    0x15F8, 0x1DB1, 0x1EB8, 0x20B0, 0x2330, 0x2342, 0x2684, 0x2901, 0x2B85,
)  # fmt: skip
K80 = 0x102D
DEBIAN12, DEBIAN13 = Host("Debian", "12", "Debian"), Host("Debian", "13", "Debian")
UBUNTU22, UBUNTU24, UBUNTU26 = (Host("Ubuntu", r, "Debian") for r in ("22.04", "24.04", "26.04"))
RHEL9, ROCKY10 = Host("RedHat", "9", "RedHat"), Host("Rocky", "10", "RedHat")


def cards(*devices: int) -> list[Card]:
    return [Card(f"0000:{number:02x}:00.0", device) for number, device in enumerate(devices, 1)]


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (K80, "Kepler or older"), (0x133F, "Kepler or older"), (0x1340, "Maxwell or Pascal"),
        (P100, "Maxwell or Pascal"), (0x1B06, "Maxwell or Pascal"), (0x1D01, "Maxwell or Pascal"),
        (V100, "Volta"), (0x1DBA, "Volta"), (0x1E02, "Turing"), (0x1F82, "Turing"), (0x2182, "Turing"),
        (A100, "Ampere"), (0x2204, "Ampere"), (0x2503, "Ampere"), (H100, "Hopper"), (GH200, "Grace Hopper"),
        (RTX4090, "Ada"), (0x27B8, "Ada"), (0x28A0, "Ada"), (B200, "Blackwell or newer"),
        (RTX5090, "Blackwell or newer"), (0x31C2, "Blackwell or newer"), (0xFFFF, "Blackwell or newer"),
    ],
)  # fmt: skip
def test_the_device_id_tells_the_generation(device: int, name: str) -> None:
    assert generation(device).name == name


# host, cards, wish -> source, branch, flavour
GOOD = [
    (UBUNTU24, [RTX4090], Wish(), ("distribution", 580, "open")),
    (UBUNTU24, [V100], Wish(), ("distribution", 580, "proprietary")),
    (UBUNTU24, [RTX5090], Wish(), ("distribution", 580, "open")),
    # One old card decides for all.
    (UBUNTU24, [V100, A100], Wish(), ("distribution", 580, "proprietary")),
    (UBUNTU22, [A100], Wish(branch="535"), ("distribution", 535, "proprietary")),
    (UBUNTU22, [A100], Wish(branch="535", flavour="open"), ("distribution", 535, "open")),
    (UBUNTU24, [GH200], Wish(branch="535"), ("distribution", 535, "open")),
    (UBUNTU24, [RTX4090], Wish(source="nvidia"), ("nvidia", 580, "open")),
    (UBUNTU26, [RTX4090], Wish(source="nvidia"), ("nvidia", 595, "open")),
    (UBUNTU24, [RTX4090], Wish(source="nvidia", branch="620"), ("nvidia", 620, "open")),
    (DEBIAN12, [RTX4090], Wish(), ("nvidia", 580, "open")),
    (DEBIAN12, [P100], Wish(), ("nvidia", 580, "proprietary")),
    (DEBIAN12, [RTX4090], Wish(version="595.91.07"), ("nvidia", 595, "open")),
    (DEBIAN12, [RTX4090], Wish(source="distribution"), ("distribution", 535, "proprietary")),
    (DEBIAN12, [RTX4090], Wish(source="distribution", flavour="open"), ("distribution", 535, "open")),
    (DEBIAN13, [RTX4090], Wish(), ("nvidia", 595, "open")),
    (DEBIAN13, [V100], Wish(), ("distribution", 550, "proprietary")),
    (DEBIAN13, [RTX4090], Wish(source="distribution"), ("distribution", 550, "proprietary")),
    (RHEL9, [RTX4090], Wish(), ("nvidia", 580, "open")),
    (RHEL9, [P100], Wish(), ("nvidia", 580, "proprietary")),
    (ROCKY10, [B200], Wish(), ("nvidia", 595, "open")),
    (ROCKY10, [V100], Wish(), ("nvidia", 580, "proprietary")),
]


@pytest.mark.parametrize(("host", "devices", "wish", "wanted"), GOOD)
def test_what_fits_is_chosen(
    host: Host, devices: list[int], wish: Wish, wanted: tuple[str, int, str]
) -> None:
    choice = choose(cards(*devices), wish, host)
    assert choice.problems == ()
    assert (choice.source, choice.branch, choice.flavour) == wanted
    assert choice.precompiled == (host.kind == "Ubuntu" and choice.source == "distribution")


# host, cards, wish, words of the refusal
BAD = [
    (UBUNTU24, [K80], Wish(), "0000:01:00.0 (Kepler or older, 10de:102d): no branch that still gets fixes"),
    (UBUNTU24, [V100, RTX5090], Wish(), "No driver serves both 0000:01:00.0 (Volta"),
    (UBUNTU24, [P100, GH200], Wish(), "Put them into different hosts"),
    (UBUNTU24, [V100], Wish(branch="595"), "branch 580 is the last that drives it, and 595 ignores it"),
    (DEBIAN12, [P100], Wish(version="590.48.01"), "Set nvidia_driver_branch to 580"),
    (UBUNTU24, [RTX5090], Wish(branch="550"), "branch 550 does not know it. It takes 570 or newer"),
    (UBUNTU24, [RTX5090], Wish(flavour="proprietary"), "Set nvidia_driver_flavour to open"),
    (UBUNTU24, [V100], Wish(flavour="open"), "Set nvidia_driver_flavour to proprietary"),
    (UBUNTU24, [A100], Wish(source="nvidia", branch="620", flavour="proprietary"), "only the open kernel"),
    (DEBIAN12, [A100], Wish(source="distribution", branch="580"), "Debian 12 has branch 535"),
    (DEBIAN12, [RTX5090], Wish(source="distribution"), "branch 535 does not know it"),
    (DEBIAN13, [A100], Wish(source="distribution", flavour="open"), "do not build for its kernel"),
    (DEBIAN13, [A100], Wish(source="nvidia", branch="580"), "for Debian 13 has no branch 580"),
    (DEBIAN13, [V100], Wish(source="nvidia", branch="580"), "cards as old as yours"),
    (RHEL9, [A100], Wish(source="distribution"), "set nvidia_driver_source to nvidia"),
    (RHEL9, [A100], Wish(version="580.178.04"), "this role keeps a branch, not a build"),
    (Host("Debian", "11", "Debian"), [A100], Wish(), "This role installs no driver on Debian 11"),
    (Host("Archlinux", "NA", "Archlinux"), [A100], Wish(), "set nvidia_driver_manage to false"),
    (replace(UBUNTU24, architecture="ppc64le"), [A100], Wish(), "NVIDIA has no driver for ppc64le"),
    (UBUNTU24, [A100], Wish(branch="new"), "nvidia_driver_branch is 'new'"),
    (UBUNTU24, [A100], Wish(version="latest"), "nvidia_driver_version is 'latest'"),
    (UBUNTU24, [A100], Wish(branch="580", version="595.91.07"), "is not of nvidia_driver_branch 580"),
    (replace(DEBIAN12, nvswitch=True), [A100], Wish(source="distribution"), "has no Fabric Manager"),
    (replace(DEBIAN12, secure_boot=True), [A100], Wish(), "nobody can say whether the firmware knows"),
    (replace(DEBIAN12, secure_boot=True, key_enrolled=False), [A100], Wish(),
     "mokutil --import /var/lib/dkms/mok.pub"),
    (replace(DEBIAN12, secure_boot=True, key_enrolled=False), [A100], Wish(),
     "first: mkdir -p /var/lib/dkms"),
    (replace(UBUNTU24, secure_boot=True, key_enrolled=False), [A100], Wish(source="nvidia"),
     "first: update-secureboot-policy --new-key"),
    (replace(UBUNTU24, secure_boot=True, key_enrolled=False), [A100], Wish(source="nvidia"), "Canonical"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "devices", "wish", "words"), BAD)
def test_what_does_not_fit_is_refused_in_words(
    host: Host, devices: list[int], wish: Wish, words: str
) -> None:
    assert words in " ".join(choose(cards(*devices), wish, host).problems)


@pytest.mark.parametrize(
    ("host", "wish"),
    [
        (replace(UBUNTU24, secure_boot=True), Wish()),
        (replace(DEBIAN12, secure_boot=True, key_enrolled=True), Wish()),
        (replace(DEBIAN12, secure_boot=False), Wish()),
        (replace(DEBIAN12, nvswitch=True), Wish()),
    ],
)
def test_secure_boot_and_switches_that_are_no_obstacle(host: Host, wish: Wish) -> None:
    assert choose(cards(A100), wish, host).problems == ()


def test_every_problem_is_told_at_once() -> None:
    problems = choose(cards(K80, V100), Wish(branch="595", flavour="open"), UBUNTU24).problems
    assert len(problems) == 3


@pytest.mark.parametrize(
    ("version", "warned"),
    [
        ("535.261.03", True), ("535.309.01", False), ("580.105.08", True), ("580.159.03", False),
        ("580.178.04", False), ("595.58.03", True), ("595.91.07", False), ("610.57.04", False), ("", False),
    ],
)  # fmt: skip
def test_below_the_security_floor_there_is_a_warning(version: str, warned: bool) -> None:
    assert bool(version_warnings(version)) == warned


@pytest.mark.parametrize("branch", [470, 545, 550, 560, 570, 590])
def test_a_branch_without_any_fix_is_warned_of_as_a_branch(branch: int) -> None:
    assert "gets no fixes any more: the vulnerabilities of May 2026" in branch_warnings(branch)[0]


def test_a_branch_that_ended_with_these_fixes_is_warned_of_too() -> None:
    assert "gets no fixes any more. Branch 580" in branch_warnings(535)[0]
    assert choose(cards(A100), Wish(source="distribution"), DEBIAN12).warnings == branch_warnings(535)
    assert choose(cards(V100), Wish(), DEBIAN13).warnings == branch_warnings(550)


@pytest.mark.parametrize("branch", [0, 580, 595, 610, 620])
def test_a_branch_that_gets_fixes_is_not_warned_of(branch: int) -> None:
    assert branch_warnings(branch) == ()


def test_a_version_begins_with_its_branch() -> None:
    assert (branch_of("580.178.04"), branch_of("next"), branch_of("")) == (580, 0, 0)
