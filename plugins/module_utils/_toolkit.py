# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's container toolkit on a host: its packages and files, what is missing, what forbids it.

This module util is private to the collection. It decides; it neither looks nor changes. State of the figures:
November 2026.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._apt_source import stanza

# All four of one version: from 1.18.0 on they ask for exactly each other's
# (NVIDIA/nvidia-container-toolkit#1091).
PACKAGES = (
    "libnvidia-container1",
    "libnvidia-container-tools",
    "nvidia-container-toolkit-base",
    "nvidia-container-toolkit",
)
# The first without CVE-2026-24260, by which a container gets at the host (NVIDIA's bulletin of May 2026).
MINIMUM = "1.19.1"

SOURCES = "/etc/apt/sources.list.d/voicefleet-nvidia-container-toolkit.sources"
KEY = "/etc/apt/keyrings/voicefleet-nvidia-container-toolkit.asc"
PINS = "/etc/apt/preferences.d/voicefleet-nvidia-container-toolkit"
REPOSITORY_RPM = "/etc/yum.repos.d/voicefleet-nvidia-container-toolkit.repo"
KEY_RPM = "/etc/pki/rpm-gpg/voicefleet-nvidia-container-toolkit"
REFRESH = "nvidia-cdi-refresh.service"
REFRESH_DROP_IN = f"/etc/systemd/system/{REFRESH}.d/voicefleet.conf"
ENGINE_DROP_IN = "/etc/systemd/system/docker.service.d/voicefleet-cdi.conf"
# Each of them, should it be there, is the role's own.
ALL = (SOURCES, KEY, PINS, REPOSITORY_RPM, KEY_RPM, REFRESH_DROP_IN, ENGINE_DROP_IN)

_HEAD = "# Written by the role nvidia_container_toolkit of voicefleet.cosyvoice.\n"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_VERSION = re.compile(r"\d+\.\d+\.\d+(-\d+)?")
_REPOSITORY = re.compile(r"/libnvidia-container\b|nvidia\.github\.io/nvidia-(?:docker|container-runtime)")
# What dockerd takes to run containers with --runtime nvidia, and to give cards by CDI from 25.0 on (by itself
# from 28.2 on; older ones pass over a feature that they do not know).
_RUNTIME = {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}


@dataclass(frozen=True)
class Wish:
    """What was asked for. ``version`` such as 1.20.0-1 or 1.20.0."""

    version: str
    manage: bool = True
    manage_repo: bool = True
    repo_url: str = ""
    cdi: bool = True


@dataclass(frozen=True)
class Host:
    """What of a host decides. ``cards``: how many; ``packages``: versions of what is installed, by name."""

    family: str
    architecture: str
    cards: int
    packages: Mapping[str, str]
    sources: Mapping[str, str]
    ours: bool


@dataclass(frozen=True)
class Plan:
    """``managed``: whether the toolkit is ours to change, and the ``reason``. ``install``: for apt or dnf."""

    managed: bool
    reason: str
    missing: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    install: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def plan(wish: Wish, host: Host) -> Plan:
    """See the classes."""
    if not host.cards:
        return Plan(False, "this host has no NVIDIA card")
    there = {name: host.packages[name] for name in PACKAGES if name in host.packages}
    # What a toolkit that somebody removed has left behind is none.
    used = "nvidia-container-toolkit" in there or "nvidia-container-toolkit-base" in there
    if not wish.manage:
        return Plan(False, "nvidia_container_toolkit_manage is false", problems=_only_checked(there))
    if used and not host.ours:
        return Plan(False, "it was there before this role", problems=_only_checked(there))
    problems = _wish_problems(wish, host)
    missing = tuple(name for name in PACKAGES if name not in there)
    outdated = tuple(name for name, version in there.items() if not _is(version, wish.version))
    exact = host.family == "Debian"
    separator = "=" if exact else "-"
    # Of a version without its build, such as 1.20.0, apt takes what the pins leave; dnf knows it by that too.
    part = f"{separator}{wish.version}" if "-" in wish.version or not exact else ""
    named = (f"{name}{part}" for name in PACKAGES)
    install = tuple(named) if missing or outdated else ()
    return Plan(True, "this role installs it", missing, outdated, install, problems)


def daemon_additions(wish: Wish, host: Host) -> dict[str, Any]:
    """What dockerd's daemon.json has to say for it; nothing on a host without cards."""
    if not host.cards:
        return {}
    return {**_RUNTIME, "features": {"cdi": wish.cdi}}


def repository(base: str, host: Host) -> str:
    """The folder of NVIDIA's repository for a host: one for all distributions of a kind."""
    if host.family == "RedHat":
        return f"{base.rstrip('/')}/stable/rpm/{host.architecture}"
    return f"{base.rstrip('/')}/stable/deb/{_ARCHITECTURES.get(host.architecture, host.architecture)}"


def files(wish: Wish, host: Host, managed: bool = True) -> list[tuple[str, str, str]]:
    """(path, content, part) of each file that keeps it as it was chosen.

    ``part``: before (packages are chosen by it), or after: what brings containers back after a boot, beside a
    toolkit that was there before too.
    """
    url = repository(wish.repo_url, host)
    found = []
    if managed and host.family == "RedHat":
        if wish.manage_repo:
            found.append((REPOSITORY_RPM, _yum(url), "before"))
    elif managed:
        if wish.manage_repo:
            found.append((SOURCES, _HEAD + stanza(url, "/", "", KEY), "before"))
        found.append((PINS, pins(wish.version), "before"))
    if wish.cdi and wish.manage and host.cards:
        found.append((REFRESH_DROP_IN, refresh_drop_in(), "after"))
        found.append((ENGINE_DROP_IN, engine_drop_in(), "after"))
    return found


def pins(version: str) -> str:
    """apt's preferences: this version of all four, and no other.

    Better than a hold: it counts while apt resolves dependencies, and moving it takes no unhold.
    """
    wanted = version if "-" in version else f"{version}-*"
    return f"{_HEAD}Package: {' '.join(PACKAGES)}\nPin: version {wanted}\nPin-Priority: 1001\n"


def refresh_drop_in() -> str:
    """A drop-in for the unit that writes CDI specifications.

    They are gone after a boot, and dockerd starts no container again whose card no specification has: it has
    to wait, though not for ever. NVIDIA has the same in work (NVIDIA/nvidia-container-toolkit#2019).

    NVIDIA's own condition knows the modules nvidia.ko and nvidia-current.ko. Debian's open ones are called
    nvidia-current-open.ko, and there it would skip its work in silence.
    """
    return (
        f"{_HEAD}[Unit]\nBefore=docker.service\n\n[Service]\nTimeoutStartSec=90\nExecCondition=\n"
        "ExecCondition=/bin/sh -c 'test -d /sys/module/nvidia || "
        'grep -qE "/nvidia(-current)?(-open)?[.]ko" /lib/modules/%v/modules.dep\'\n'
    )


def engine_drop_in() -> str:
    """A drop-in for dockerd's unit, which starts what dockerd could not start before it knew CDI.

    Before 28.2 it starts containers first and registers CDI then, so that none that has a card by CDI comes
    back after a boot (moby/moby#49989; seen with 26.1.5). Others that are not to run have no such error.
    """
    inspect = 'docker inspect --format "{{.Id}} {{.State.Error}}"'
    return (
        f"{_HEAD}[Service]\nExecStartPost=-/bin/sh -c 'docker ps --all --quiet --filter status=exited | "
        f'xargs --no-run-if-empty {inspect} | grep "could not select device driver .cdi." | '
        'cut --delimiter " " --fields 1 | xargs --no-run-if-empty docker start\'\n'
    )


def foreign_sources(texts: Mapping[str, str]) -> list[str]:
    """Files of package sources, by path, that name NVIDIA's repository already and are not ours."""
    return sorted(
        path
        for path, text in texts.items()
        if os.path.basename(path) not in (os.path.basename(SOURCES), os.path.basename(REPOSITORY_RPM))
        and any(_REPOSITORY.search(line) and not line.startswith("#") for line in text.splitlines())
    )


def numbers(version: str) -> tuple[int, ...]:
    """(1, 20, 0) of 1.20.0-1."""
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())


def _is(version: str, wanted: str) -> bool:
    return version == wanted or version.partition("-")[0] == wanted


def _wish_problems(wish: Wish, host: Host) -> tuple[str, ...]:
    found = []
    if not _VERSION.fullmatch(wish.version):
        found.append(
            f"nvidia_container_toolkit_version is {wish.version!r} and has to be such as 1.20.0-1 or 1.20.0."
        )
    elif numbers(wish.version) < numbers(MINIMUM):
        found.append(
            f"nvidia_container_toolkit_version is {wish.version}, and in versions before {MINIMUM} a "
            f"container can get at its host (CVE-2026-24260). Ask for {MINIMUM} or newer."
        )
    if host.family not in ("Debian", "RedHat"):
        found.append(
            f"This role installs no container toolkit on hosts of the family {host.family or 'unknown'}, "
            "only on those of Debian and RedHat. Install it another way and set "
            "nvidia_container_toolkit_manage to false."
        )
    if host.architecture not in _ARCHITECTURES:
        found.append(f"NVIDIA has no container toolkit for {host.architecture}, only for x86_64 and aarch64.")
    there = foreign_sources(host.sources) if wish.manage_repo else []
    if there:
        found.append(
            f"NVIDIA's repository of the container toolkit is named in {', '.join(there)} already, and apt "
            "refuses two entries with different keys: remove it there, or set "
            "nvidia_container_toolkit_manage_repo to false."
        )
    return tuple(found)


def _only_checked(there: Mapping[str, str]) -> tuple[str, ...]:
    version = there.get("nvidia-container-toolkit-base") or there.get("nvidia-container-toolkit")
    if not version:
        return (
            "There is no container toolkit on this host, without which no container gets a card, and this "
            "role installs none: nvidia_container_toolkit_manage is false.",
        )
    if numbers(version) < numbers(MINIMUM):
        return (
            f"The container toolkit {version} is on this host, and in versions before {MINIMUM} a container "
            "can get at its host (CVE-2026-24260). Upgrade it, or remove it and let this role install one.",
        )
    if len({one.partition("-")[0] for one in there.values()}) > 1:
        listed = ", ".join(f"{name} {one}" for name, one in there.items())
        return (f"The packages of the container toolkit are of different versions: {listed}. Make them one.",)
    return ()


def _yum(url: str) -> str:
    # NVIDIA signs its index, not its rpm packages. What upgrades a host (dnf-automatic, say) leaves the four
    # alone, as with apt's pins; the role asks past that.
    return (
        f"{_HEAD}[voicefleet-nvidia-container-toolkit]\nname=NVIDIA's container toolkit\nbaseurl={url}\n"
        f"enabled=1\nrepo_gpgcheck=1\ngpgcheck=0\ngpgkey=file://{KEY_RPM}\n"
        f"excludepkgs={' '.join(PACKAGES)}\n"
    )
