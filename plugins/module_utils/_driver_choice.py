# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which NVIDIA driver a host gets, and why some cannot work there.

This module util is private to the collection. Nothing here looks at a host: cards, wishes and the host go
in, a choice comes out, with what speaks against it in words. State of the figures: November 2026.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

BOTH = frozenset({"open", "proprietary"})
OPEN = frozenset({"open"})
PROPRIETARY = frozenset({"proprietary"})
# The last branch that drives Maxwell, Pascal and Volta.
_LAST_FOR_LEGACY = 580
# NVIDIA installs the open modules by default from here on.
_OPEN_BY_DEFAULT = 560
# The kernel modules page of branch 620 lists only the open ones.
_FIRST_WITHOUT_PROPRIETARY = 620
# NVIDIA's repository for Debian 13 begins here (NVIDIA/cuda-repo-management#38).
_FIRST_ON_DEBIAN_13 = 590
# Oldest builds without the vulnerabilities of NVIDIA's bulletin of May 2026 (CVE-2026-24187 and others).
_FLOORS = {535: "535.309.01", 580: "580.159.03", 595: "595.71.05"}
# The oldest branch that gets fixes, and those after it that get none any more.
_OLDEST_SUPPORTED = 580
_ENDED = frozenset({590})
# Debian has one branch in each release.
_DEBIAN_BRANCHES = {"12": 535, "13": 550}
# Grace Hopper: a Hopper that needs the open modules.
_GRACE_HOPPER = frozenset({0x2342, 0x2345, 0x2348})
# What this role installs on, by family and release.
_RELEASES = {
    "Debian": ("12", "13"),
    "Ubuntu": ("22.04", "24.04", "26.04"),
    "RedHat": ("9", "10"),
}


@dataclass(frozen=True)
class Generation:
    """A generation of cards: what drives it. Without ``newest`` any branch from ``oldest`` on."""

    name: str
    flavours: frozenset[str]
    oldest: int
    newest: int | None = None


KEPLER = Generation("Kepler or older", frozenset(), 0, 470)
MAXWELL = Generation("Maxwell or Pascal", PROPRIETARY, 0, _LAST_FOR_LEGACY)
VOLTA = Generation("Volta", PROPRIETARY, 0, _LAST_FOR_LEGACY)
TURING = Generation("Turing", BOTH, 535)
AMPERE = Generation("Ampere", BOTH, 535)
HOPPER = Generation("Hopper", BOTH, 535)
GRACE_HOPPER = Generation("Grace Hopper", OPEN, 535)
ADA = Generation("Ada", BOTH, 535)
BLACKWELL = Generation("Blackwell or newer", OPEN, 570)

# By the first PCI device id: the list of NVIDIA/open-gpu-kernel-modules begins at 0x1E02, and every older
# card of Debian's nvidia-detect is below 0x1E00.
_BY_DEVICE = (
    (0x0000, KEPLER),
    (0x1340, MAXWELL),
    (0x1D81, VOLTA),
    (0x1E00, TURING),
    (0x2000, AMPERE),
    (0x2100, TURING),
    (0x2200, AMPERE),
    (0x2300, HOPPER),
    (0x2400, AMPERE),
    (0x2600, ADA),
    (0x2900, BLACKWELL),
)


@dataclass(frozen=True)
class Card:
    """A card by its address on the PCI bus and its device id."""

    address: str
    device: int

    @property
    def generation(self) -> Generation:
        return generation(self.device)

    def __str__(self) -> str:
        return f"{self.address} ({self.generation.name}, 10de:{self.device:04x})"


@dataclass(frozen=True)
class Wish:
    """What was asked for; "auto" leaves it to this file. ``version`` may be empty."""

    source: str = "auto"
    branch: str = "auto"
    flavour: str = "auto"
    version: str = ""


@dataclass(frozen=True)
class Host:
    """What of a host decides. ``secure_boot``: None without EFI; ``key_enrolled``: None for unknown."""

    distribution: str
    release: str
    family: str
    architecture: str = "x86_64"
    secure_boot: bool | None = None
    key_enrolled: bool | None = None
    nvswitch: bool = False

    @property
    def name(self) -> str:
        return f"{self.distribution} {self.release}"

    @property
    def kind(self) -> str:
        """Debian, Ubuntu or RedHat, or what it is instead."""
        return "RedHat" if self.family == "RedHat" else self.distribution


@dataclass(frozen=True)
class Choice:
    """The driver for a host. ``precompiled``: its modules come built and signed, by the distribution."""

    source: str
    branch: int
    flavour: str
    precompiled: bool
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def generation(device: int) -> Generation:
    """Of a card by its PCI device id. 0x1F82 and its like are Turing too (GTX 16)."""
    if device in _GRACE_HOPPER:
        return GRACE_HOPPER
    return _BY_DEVICE[bisect.bisect_right([first for first, _generation in _BY_DEVICE], device) - 1][1]


def choose(cards: Sequence[Card], wish: Wish, host: Host) -> Choice:
    """The driver for these cards on this host. Where ``problems`` is not empty, nothing may be touched."""
    source = _source(cards, wish, host)
    problems = _wish_problems(wish, host, source)
    if problems:
        return Choice(source, 0, "", False, problems)
    branch = _branch(cards, wish, host, source)
    flavour = _flavour(cards, wish, host, source, branch)
    precompiled = source == "distribution" and host.kind == "Ubuntu"
    problems = (
        *card_problems(cards, branch, flavour),
        *_place_problems(cards, host, source, branch, flavour),
        *_secure_boot_problems(host, precompiled),
    )
    return Choice(source, branch, flavour, precompiled, problems, branch_warnings(branch))


def branch_of(version: str) -> int:
    """580 of 580.178.04; 0 of what is no version."""
    head = version.partition(".")[0]
    return int(head) if head.isdigit() else 0


def branch_warnings(branch: int) -> tuple[str, ...]:
    """What to know of a branch as such; 0 is none."""
    if not branch or (branch >= _OLDEST_SUPPORTED and branch not in _ENDED):
        return ()
    open_ones = (
        ""
        if branch in _FLOORS
        else ": the vulnerabilities of May 2026 (CVE-2026-24187) stay open in every build of it"
    )
    return (
        f"Branch {branch} of NVIDIA's driver gets no fixes any more{open_ones}. Branch 580 gets fixes until "
        "2028.",
    )


def version_warnings(version: str) -> tuple[str, ...]:
    """What to know of an installed or a wanted build, such as 535.261.03."""
    floor = _FLOORS.get(branch_of(version))
    if floor is None or _numbers(version) >= _numbers(floor):
        return ()
    return (
        f"NVIDIA's driver {version} is below {floor}, the first build of its branch without the "
        "vulnerabilities of May 2026 (CVE-2026-24187).",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _legacy(cards: Sequence[Card]) -> list[Card]:
    return [card for card in cards if card.generation.newest is not None]


def _source(cards: Sequence[Card], wish: Wish, host: Host) -> str:
    if wish.source != "auto":
        return wish.source
    # Canonical builds and signs the modules; Debian's own are of branches that NVIDIA has ended, but the only
    # ones for old cards on Debian 13.
    if host.kind == "Ubuntu" or (host.name == "Debian 13" and _legacy(cards)):
        return "distribution"
    return "nvidia"


def _branch(cards: Sequence[Card], wish: Wish, host: Host, source: str) -> int:
    if wish.branch != "auto":
        return int(wish.branch)
    if wish.version:
        return branch_of(wish.version)
    if source == "distribution" and host.kind == "Debian":
        return _DEBIAN_BRANCHES[host.release]
    if host.name == "Debian 13":
        return 595
    newest_only = host.name == "Ubuntu 26.04" or (host.kind == "RedHat" and host.release == "10")
    return 595 if source == "nvidia" and newest_only and not _legacy(cards) else _LAST_FOR_LEGACY


def _flavour(cards: Sequence[Card], wish: Wish, host: Host, source: str, branch: int) -> str:
    if wish.flavour != "auto":
        return wish.flavour
    possible = BOTH.intersection(*(card.generation.flavours for card in cards))
    if len(possible) == 1:
        return next(iter(possible))
    if source == "distribution" and host.name == "Debian 13":
        return "proprietary"
    return "open" if branch >= _OPEN_BY_DEFAULT else "proprietary"


def _wish_problems(wish: Wish, host: Host, source: str) -> tuple[str, ...]:
    """What makes further questions pointless."""
    problems = []
    if wish.branch != "auto" and not wish.branch.isdigit():
        problems.append(
            f"nvidia_driver_branch is {wish.branch!r} and has to be auto or a number such as 580."
        )
    if wish.version and not branch_of(wish.version):
        problems.append(f"nvidia_driver_version is {wish.version!r} and has to be such as 580.178.04.")
    elif wish.version and wish.branch not in ("auto", str(branch_of(wish.version))):
        problems.append(
            f"nvidia_driver_version {wish.version} is not of nvidia_driver_branch {wish.branch}: drop one "
            "of them."
        )
    if wish.version and host.kind == "RedHat":
        problems.append(
            f"On {host.name} this role keeps a branch, not a build of it: leave nvidia_driver_version empty "
            "and set nvidia_driver_branch."
        )
    releases = _RELEASES.get(host.kind, ())
    if host.release not in releases:
        problems.append(
            f"This role installs no driver on {host.name}. It does on Debian 12 and 13, Ubuntu 22.04, "
            "24.04 and 26.04, and RHEL 9 and 10 and their relatives. Elsewhere install one another way and "
            "set nvidia_driver_manage to false."
        )
    elif host.kind == "RedHat" and source == "distribution":
        problems.append(
            f"{host.name} has no driver of NVIDIA's that this role could take: set nvidia_driver_source "
            "to nvidia."
        )
    if host.architecture not in ("x86_64", "aarch64"):
        problems.append(f"NVIDIA has no driver for {host.architecture}, only for x86_64 and aarch64.")
    return tuple(problems)


def card_problems(cards: Sequence[Card], branch: int, flavour: str) -> tuple[str, ...]:
    """What card, branch and flavour have against each other."""
    problems = []
    dead = [card for card in cards if not card.generation.flavours]
    if dead:
        problems.append(
            f"{_list(dead)}: no branch that still gets fixes drives it (470 was the last). Take it out."
        )
    alive = [card for card in cards if card.generation.flavours]
    only_old = [card for card in alive if card.generation.flavours == PROPRIETARY]
    only_new = [card for card in alive if card.generation.flavours == OPEN]
    if only_old and only_new:
        return (
            *problems,
            f"No driver serves both {_list(only_old)}, which needs the proprietary kernel modules, and "
            f"{_list(only_new)}, which needs the open ones. Put them into different hosts.",
        )
    too_new = [card for card in alive if card.generation.newest and branch > card.generation.newest]
    if too_new:
        problems.append(
            f"{_list(too_new)}: branch {_LAST_FOR_LEGACY} is the last that drives it, and {branch} "
            f"ignores it. Set nvidia_driver_branch to {_LAST_FOR_LEGACY}."
        )
    too_old = [card for card in alive if branch < card.generation.oldest]
    if too_old:
        oldest = max(card.generation.oldest for card in too_old)
        problems.append(
            f"{_list(too_old)}: branch {branch} does not know it. It takes {oldest} or newer; 580 gets fixes "
            "until 2028."
        )
    unfit = [card for card in alive if flavour not in card.generation.flavours]
    if unfit:
        other = "proprietary" if flavour == "open" else "open"
        problems.append(
            f"{_list(unfit)}: the {flavour} kernel modules do not drive it. Set nvidia_driver_flavour to "
            f"{other}."
        )
    if flavour == "proprietary" and branch >= _FIRST_WITHOUT_PROPRIETARY:
        problems.append(
            f"Branch {branch} has only the open kernel modules: set nvidia_driver_flavour to open, or "
            "nvidia_driver_branch to an older one."
        )
    return tuple(problems)


def _place_problems(
    cards: Sequence[Card], host: Host, source: str, branch: int, flavour: str
) -> tuple[str, ...]:
    """What cannot be had from this source on this distribution."""
    problems = []
    if source == "distribution" and host.kind == "Debian":
        own = _DEBIAN_BRANCHES[host.release]
        if branch != own:
            problems.append(
                f"{host.name} has branch {own} of the driver, not {branch}: set nvidia_driver_source to "
                "nvidia, or nvidia_driver_branch to auto."
            )
        if host.release == "13" and flavour == "open":
            problems.append(
                "The open kernel modules 550.163.01 of Debian 13 do not build for its kernel 6.12.107 or "
                "newer (pci_resize_resource has other arguments there). Set nvidia_driver_flavour to "
                "proprietary, or nvidia_driver_source to nvidia."
            )
        if host.nvswitch:
            problems.append(
                f"This host has NVSwitches, and {host.name} has no Fabric Manager, without which no "
                "program gets at the cards. Set nvidia_driver_source to nvidia."
            )
    if source == "nvidia" and host.name == "Debian 13" and branch < _FIRST_ON_DEBIAN_13:
        old = (
            " For cards as old as yours there are nvidia_driver_source: distribution (550, which gets no "
            "fixes), Debian 12 and Ubuntu."
            if _legacy(cards)
            else ""
        )
        problems.append(
            f"NVIDIA's repository for Debian 13 has no branch {branch}, it begins with "
            f"{_FIRST_ON_DEBIAN_13}.{old}"
        )
    return tuple(problems)


def _secure_boot_problems(host: Host, precompiled: bool) -> tuple[str, ...]:
    if not host.secure_boot or precompiled or host.key_enrolled:
        return ()
    known = (
        "and the firmware does not know the key that DKMS signs with"
        if host.key_enrolled is False
        else "and nobody can say whether the firmware knows the key that DKMS signs with (install mokutil)"
    )
    ubuntu = host.kind == "Ubuntu"
    key = "/var/lib/shim-signed/mok/MOK.der" if ubuntu else "/var/lib/dkms/mok.pub"
    # As DKMS itself does with the first module that it builds.
    made_by = (
        "update-secureboot-policy --new-key"
        if ubuntu
        else "mkdir -p /var/lib/dkms; openssl req -new -x509 -nodes -days 36500 -newkey rsa:2048 -subj "
        f"'/CN=DKMS module signing key/' -keyout /var/lib/dkms/mok.key -outform DER -out {key}"
    )
    canonical = " Or set nvidia_driver_source to distribution: Canonical signs those." if ubuntu else ""
    return (
        f"Secure Boot is on, {known}: the kernel would refuse modules that are built here. Enrolling a "
        f"key takes a person at the console: mokutil --import {key} (where there is none yet, first: "
        f"{made_by}), a password, a reboot, and the password again in the firmware's menu. Or switch Secure "
        f"Boot off.{canonical}",
    )


def _list(cards: Sequence[Card]) -> str:
    return ", ".join(str(card) for card in cards)
