# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages of NVIDIA's driver, by source, distribution, branch and flavour, and the headers to build it
with.

This module util is private to the collection. Names in, names out; nothing here looks at a host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_choice import Choice, Host

MPS = "nvidia-cuda-mps"
# From here on NVIDIA's packages for Ubuntu bear no branch in their names.
_FIRST_UNSUFFIXED = 590
# Packages that are the driver, or a part of it that has to be of the same version; not the container toolkit.
DRIVER_PATTERN = re.compile(
    r"^(nvidia-(open-)?kernel-dkms|nvidia-kernel-open-dkms|nvidia-dkms(-\d+.*|-open)?|nvidia-headless-.*"
    r"|nvidia-driver(-\d+.*|-cuda|-open)?|nvidia-open|nvidia-tesla-.*-kernel-dkms"
    r"|cuda-drivers.*|kmod-nvidia.*|nvidia-smi|nvidia-utils(-\d+.*)?|libcuda1|libnvidia-ml1"
    r"|libnvidia-compute(-\d+.*)?)$"
)
# Those that bring its modules, built or to be built.
_MODULES = re.compile(
    r"^(nvidia-.*-dkms|nvidia-dkms.*|nvidia-headless-.*|nvidia-driver(-\d+.*|-open)?|nvidia-open"
    r"|cuda-drivers.*|a?kmod-nvidia.*|linux-modules-nvidia-.*|linux-objects-nvidia-.*)$"
)


def with_modules(names: Iterable[str]) -> bool:
    """Whether a package is among them that brings the driver's modules, not only its libraries."""
    return any(_MODULES.match(name) for name in names)


@dataclass(frozen=True)
class Packages:
    """What a host needs.

    ``tools`` first, as DKMS builds what comes after; ``driver`` is of one version throughout; ``aside`` has
    versions of its own. ``if_there``: left out where the host's sources lack it. ``exclude``: what must not
    stay. ``stream``: the module stream of RHEL 9, "" elsewhere.
    """

    tools: tuple[str, ...] = ()
    driver: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    if_there: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    stream: str = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        return (*self.tools, *self.driver, *self.aside, *self.if_there)


def packages(
    choice: Choice, host: Host, kernels: Sequence[str], metas: Iterable[str], nvlink5: bool = False
) -> Packages:
    """What the chosen driver takes on a host.

    ``kernels``: the releases that may boot, such as 6.1.0-56-amd64. ``metas``: the kernel packages that
    follow new releases, without "linux-image-", such as amd64, cloud-amd64 or generic-hwe-24.04.
    """
    suffix = "-open" if choice.flavour == "open" else ""
    branch = choice.branch
    fabric = _fabric_manager(choice, host) if host.nvswitch else ()
    # The manager of these switches' subnet, whose versions are dates.
    subnet = ("nvlsm",) if nvlink5 else ()
    if host.kind == "RedHat":
        return _redhat(choice, host, kernels, fabric, subnet)
    flavours = sorted(metas) or [_default_meta(host)]
    if host.kind == "Ubuntu" and choice.source == "distribution":
        return Packages(
            # Canonical's modules are built and signed: no DKMS, no headers.
            driver=(
                f"nvidia-headless-no-dkms-{branch}-server{suffix}",
                f"nvidia-utils-{branch}-server",
                *fabric,
            ),
            # Of their kernel's version: 6.14.0-37.37~24.04.1, say.
            aside=(
                *(f"linux-modules-nvidia-{branch}-server{suffix}-{flavour}" for flavour in flavours),
                *subnet,
            ),
            exclude=(f"nvidia-headless-no-dkms-{branch}-server{'' if suffix else '-open'}",),
        )
    tools = (
        "dkms",
        "gcc",
        "make",
        # Without it DKMS goes on unsigned, and says so only in passing.
        "openssl",
        *(f"linux-headers-{flavour}" for flavour in flavours),
    )
    headers = tuple(f"linux-headers-{kernel}" for kernel in kernels)
    if host.kind == "Ubuntu" and branch < _FIRST_UNSUFFIXED:
        return Packages(
            tools=tools,
            driver=(
                f"nvidia-dkms-{branch}{suffix}",
                f"libnvidia-compute-{branch}",
                f"nvidia-utils-{branch}",
                *fabric,
            ),
            aside=subnet,
            if_there=(*headers, f"nvidia-compute-utils-{branch}"),
            exclude=(f"nvidia-dkms-{branch}{'' if suffix else '-open'}",),
        )
    if host.kind == "Ubuntu":
        return Packages(
            tools=tools,
            driver=(f"nvidia-dkms{suffix}", "libnvidia-compute", *fabric),
            aside=(f"nvidia-driver-pinning-{branch}", *subnet),
            if_there=(*headers, "nvidia-utils", "nvidia-compute-utils"),
            exclude=(f"nvidia-dkms{'' if suffix else '-open'}",),
        )
    if choice.source == "nvidia":
        return Packages(
            tools=tools,
            driver=(
                "nvidia-kernel-open-dkms" if suffix else "nvidia-kernel-dkms",
                "nvidia-driver-cuda",
                *fabric,
            ),
            aside=(f"nvidia-driver-pinning-{branch}", *subnet),
            if_there=(*headers, "nvidia-persistenced"),
            # nvidia-open-kernel-dkms is Debian's own.
            exclude=(
                "nvidia-kernel-dkms" if suffix else "nvidia-kernel-open-dkms",
                "nvidia-open-kernel-dkms",
            ),
        )
    return Packages(
        tools=tools,
        driver=(
            "nvidia-open-kernel-dkms" if suffix else "nvidia-kernel-dkms",
            "nvidia-smi",
            "libcuda1",
            "libnvidia-ml1",
            "libnvidia-encode1",
        ),
        aside=("nvidia-persistenced",),
        if_there=headers,
        # Both can be installed, and then the modules of one are loaded with the core of the other.
        exclude=("nvidia-kernel-dkms" if suffix else "nvidia-open-kernel-dkms", "nvidia-kernel-open-dkms"),
    )


def kernel_metas(installed: Iterable[str]) -> list[str]:
    """Of installed packages, the kernels that follow new releases, without "linux-image-".

    Ubuntu's virtual is the generic kernel with fewer modules."""
    names = (name[len("linux-image-") :] for name in installed if name.startswith("linux-image-"))
    return sorted(
        {
            re.sub(r"^virtual\b", "generic", name)
            for name in names
            if not name[:1].isdigit() and not name.startswith("unsigned-") and not name.endswith("-dbg")
        }
    )


def is_of(version: str, wanted_branch: int, wanted_version: str) -> bool:
    """Whether a version, such as 3:580.178.04-1.el9, is of that branch and, if given, that build."""
    upstream = upstream_of(version)
    return upstream == wanted_version if wanted_version else upstream.partition(".")[0] == str(wanted_branch)


def upstream_of(version: str) -> str:
    """535.261.03 of 535.261.03-1, 580.178.04 of 3:580.178.04-1.el9 or 580.178.04-0ubuntu1."""
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)+)", version)
    return match.group(1) if match else ""


def outdated(wanted: Packages, installed: Mapping[str, str], branch: int, version: str) -> list[str]:
    """The packages of the driver that are there in another branch or build than asked for."""
    return [
        name for name in wanted.driver if name in installed and not is_of(installed[name], branch, version)
    ]


def newest(offered: Mapping[str, Sequence[str]], branch: int, version: str) -> dict[str, str]:
    """Of the versions that sources offer, the newest first: the one to take of each package."""
    found = {
        name: [each for each in versions if is_of(each, branch, version)]
        for name, versions in offered.items()
    }
    return {name: fitting[0] for name, fitting in found.items() if fitting}


def superseded(
    wanted: Packages, installed: Mapping[str, str], candidates: Mapping[str, str], branch: int
) -> list[str]:
    """The packages of the driver of which the host's sources would give a newer build of the branch."""
    return [
        name
        for name in wanted.driver
        if name in installed
        and is_of(candidates.get(name, ""), branch, "")
        and candidates[name] != installed[name]
        # A mirror may lag behind what is there.
        and _numbers(candidates[name]) >= _numbers(installed[name])
    ]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in upstream_of(version).split(".") if part]


def unavailable(wanted: Packages, candidates: Mapping[str, str], branch: int, version: str) -> list[str]:
    """In words, what the host's package sources do not have as it is needed, by what they would install."""
    problems = []
    for name in (*wanted.tools, *wanted.driver, *wanted.aside):
        found = candidates.get(name, "")
        if not found:
            problems.append(f"{name} (none)")
        elif name in wanted.driver and not is_of(found, branch, version):
            problems.append(f"{name} ({found}, wanted {version or f'{branch}.*'})")
    builds = {upstream_of(candidates[name]) for name in wanted.driver if candidates.get(name)}
    if not problems and len(builds) > 1:
        problems.append(
            f"one build of all, as there are {', '.join(sorted(builds))} (nvidia_driver_version chooses one)"
        )
    return problems


def to_purge(present: Mapping[str, str], wanted: Packages, branch: int) -> list[str]:
    """Of packages that are there, by version: the other flavour, and what is of another branch's driver."""
    return sorted(
        name
        for name, version in present.items()
        if name in wanted.exclude
        or (DRIVER_PATTERN.match(name) and name not in wanted.wanted and not is_of(version, branch, ""))
    )


def _default_meta(host: Host) -> str:
    if host.kind == "Ubuntu":
        return "generic"
    return {"aarch64": "arm64"}.get(host.architecture, "amd64")


def _fabric_manager(choice: Choice, host: Host) -> tuple[str, ...]:
    if host.kind != "RedHat" and choice.branch < _FIRST_UNSUFFIXED:
        return (f"nvidia-fabricmanager-{choice.branch}",)
    return ("nvidia-fabricmanager",)


def with_mps(wanted: Packages, choice: Choice, host: Host, names: Iterable[str]) -> Packages:
    """The same, with Debian's MPS daemon among the driver's packages where it is there (in ``names``).

    It has to be of the driver's version, and its package depends on none.
    """
    if host.kind == "Debian" and choice.source == "distribution" and wanted.driver and MPS in names:
        return replace(wanted, driver=(*wanted.driver, MPS))
    return wanted


def _redhat(
    choice: Choice, host: Host, kernels: Sequence[str], fabric: tuple[str, ...], subnet: tuple[str, ...]
) -> Packages:
    own, other = "kmod-nvidia-open-dkms", "kmod-nvidia-latest-dkms"
    if choice.flavour == "proprietary":
        own, other = other, own
    return Packages(
        tools=("kernel-devel-matched", "kernel-headers", "dkms", "openssl"),
        driver=(own, "nvidia-driver-cuda", *fabric),
        aside=subnet,
        # Those of the newest kernel come with the tools.
        if_there=(*(f"kernel-devel-{kernel}" for kernel in kernels), "nvidia-persistenced"),
        exclude=(other,),
        stream=(
            ""
            if host.release == "10"
            else f"nvidia-driver:{choice.branch}-{'open' if choice.flavour == 'open' else 'dkms'}"
        ),
    )
