# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that keep NVIDIA's driver as it was chosen: repository, pins, nouveau, unattended upgrades.

This module util is private to the collection. Texts only; the role writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._apt_source import stanza
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_choice import Choice, Host

SOURCES = "/etc/apt/sources.list.d/voicefleet-nvidia-driver.sources"
KEY = "/etc/apt/keyrings/voicefleet-nvidia-driver.asc"
PINS = "/etc/apt/preferences.d/voicefleet-nvidia-driver"
UNATTENDED = "/etc/apt/apt.conf.d/52voicefleet-nvidia-driver"
NOUVEAU = "/etc/modprobe.d/voicefleet-nouveau.conf"
REPOSITORY_RPM = "/etc/yum.repos.d/voicefleet-nvidia-driver.repo"
KEY_RPM = "/etc/pki/rpm-gpg/voicefleet-nvidia-driver"
NVLINK5 = "/etc/modules-load.d/voicefleet-nvlink5.conf"
PERSISTENCE = "/etc/systemd/system/nvidia-persistenced.service.d/voicefleet.conf"
# Each of them, should it be there, is the role's own.
ALL = (SOURCES, KEY, PINS, UNATTENDED, NOUVEAU, REPOSITORY_RPM, KEY_RPM, NVLINK5, PERSISTENCE)

_HEAD = "# Written by the role nvidia_driver of voicefleet.cosyvoice.\n"
# What Debian keeps the driver in, apart from main.
_COMPONENTS = ("contrib", "non-free", "non-free-firmware")
# NVIDIA's keys: the file in the repository, and the fingerprint of what it has to hold. Debian 13 refuses the
# older one of apt, for SHA-1, so its repository has another (NVIDIA/cuda-repo-management#39).
_APT_KEY = ("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC")
_DEBIAN_13_KEY = ("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200")
_RPM_KEY = ("D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685")


@dataclass(frozen=True)
class Archive:
    """A folder that apt gets packages from, and the key that its entry names."""

    uri: str
    suite: str
    component: str
    signed_by: str = ""


@dataclass(frozen=True)
class Repository:
    """NVIDIA's repository for a distribution."""

    url: str
    key_url: str
    key_fingerprint: str


def repository(base: str, host: Host) -> Repository:
    """NVIDIA's repository below ``base``; all relatives of RHEL share one."""
    distribution = {"RedHat": "rhel"}.get(host.kind, host.kind.lower()) + host.release.replace(".", "")
    architecture = {"aarch64": "sbsa"}.get(host.architecture, host.architecture)
    url = f"{base.rstrip('/')}/{distribution}/{architecture}/"
    key = _RPM_KEY if host.kind == "RedHat" else _DEBIAN_13_KEY if host.name == "Debian 13" else _APT_KEY
    name, fingerprint = key
    return Repository(url, url + name, fingerprint)


def sources(archives: Iterable[Archive], components: bool, nvidia_url: str) -> str:
    """apt's sources: what the host's own mirrors have beside main, and NVIDIA's repository; "" for neither.

    Every entry names the key that the host's own entry for that mirror does: apt refuses to work with two
    entries of one folder that differ in it.
    """
    found = list(archives)
    stanzas = []
    for archive in found:
        there = {
            other.component for other in found if (other.uri, other.suite) == (archive.uri, archive.suite)
        }
        missing = [component for component in _COMPONENTS if component not in there]
        if components and archive.component == "main" and missing:
            stanzas.append(stanza(archive.uri, archive.suite, " ".join(missing), archive.signed_by))
    if nvidia_url:
        stanzas.append(stanza(nvidia_url, "/", "", KEY))
    return _HEAD + "\n".join(stanzas) if stanzas else ""


def signed_by(entry: str) -> dict[str, str]:
    """What each address in a file of apt's sources is signed with, in the format of either kind of file."""
    found = {}
    for line in entry.splitlines():
        match = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)", line)
        if match:
            option = re.search(r"signed-by=(\S+)", match.group("options") or "", re.IGNORECASE)
            found[match.group("uri").rstrip("/")] = option.group(1) if option else ""
    for paragraph in re.split(r"\n\s*\n", entry):
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        text = "\n".join(lines)
        uris = re.search(r"(?im)^URIs:\s*(.+)$", text)
        # A key may stand in the file itself, on lines that begin with a space.
        key = re.search(r"(?im)^Signed-By:[ \t]*((?:.*)(?:\n[ \t].*)*)", text)
        for uri in uris.group(1).split() if uris else []:
            found[uri.rstrip("/")] = key.group(1).rstrip() if key else ""
    return found


def yum_repository(nvidia: Repository) -> str:
    """dnf's entry for NVIDIA's repository.

    Whatever upgrades the host (dnf-automatic, say) leaves the driver alone: a new library beside an old
    module is no use. The role asks past that. The container toolkit, which is here too, has a repository of
    its own.
    """
    return (
        f"{_HEAD}[voicefleet-nvidia-driver]\nname=NVIDIA's "
        f"driver\nbaseurl={nvidia.url}\nenabled=1\ngpgcheck=1\ngpgkey=file://{KEY_RPM}\n"
        "excludepkgs=*nvidia* cuda-drivers*\n"
    )


def pins(choice: Choice, version: str) -> str:
    """apt's preferences: this branch, or this build, and no other.

    Better than a hold: it counts while apt resolves dependencies, so that no package pulls a newer branch
    in, and moving it takes no unhold.
    """
    wanted = f"{version}*" if version else f"{choice.branch}.*"
    names = (
        "nvidia-* libnvidia-* libcuda1 libcudadebugger1 libnvcuvid1 firmware-nvidia-* cuda-drivers* "
        "xserver-xorg-video-nvidia*"
    )
    return f"{_HEAD}Package: {names}\nPin: version {wanted}\nPin-Priority: 1001\n"


def unattended(choice: Choice) -> str:
    """unattended-upgrades' list of what it leaves alone: a new library beside an old module is no use."""
    names = (
        "nvidia-",
        "libnvidia-",
        "libcuda1",
        "linux-modules-nvidia-",
        "cuda-drivers",
        "xserver-xorg-video-nvidia",
        # DKMS builds for a new kernel. Modules that come built are packages, and those for a new kernel may
        # want a newer library, which is kept away: the kernel would come alone, and boot without a driver. So
        # it waits for somebody who upgrades all of them together.
        *(("linux-image-",) if choice.precompiled else ()),
    )
    listed = "".join(f'    "{name}";\n' for name in names)
    return f"{_HEAD.replace('#', '//')}Unattended-Upgrade::Package-Blacklist {{\n{listed}}};\n"


def nouveau() -> str:
    """modprobe's word against the kernel's own driver, which NVIDIA's packages do not always bring."""
    return f"{_HEAD}blacklist nouveau\noptions nouveau modeset=0\n"


def nvlink5() -> str:
    """The module that Fabric Manager speaks to switches of NVLink 5 through, which nothing else loads
    (spectrocloud/CanvOS#700)."""
    return f"{_HEAD}ib_umad\n"


def persistence(unit: str) -> str:
    """A drop-in for a unit of nvidia-persistenced that keeps the mode off (Ubuntu's); else ""."""
    command = re.search(r"(?m)^ExecStart=(.*--no-persistence-mode.*)$", unit)
    if not command:
        return ""
    with_it = command.group(1).replace("--no-persistence-mode", "--persistence-mode")
    return f"{_HEAD}[Service]\nExecStart=\nExecStart={with_it}\n"


def foreign_sources(texts: dict[str, str]) -> list[str]:
    """Files of package sources, by path, that name NVIDIA's repository already and are not ours."""
    return sorted(
        path
        for path, text in texts.items()
        if os.path.basename(path) not in (os.path.basename(SOURCES), os.path.basename(REPOSITORY_RPM))
        and any("/compute/cuda/repos/" in line and not line.startswith("#") for line in text.splitlines())
    )
