# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is of NVIDIA's driver on this host: what is loaded, what is installed, and whether they agree.

This module util is private to the collection. It changes nothing. The roots of sysfs, proc and the whole file
system are arguments, so that made-up trees can be read.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine_info import run, which

# Our own programs and NVIDIA's that hold the card open, and that the role stops itself before it unloads.
SERVICES = (
    "nvidia-persistenced",
    "nvidia-gridd",
    "nvidia-topologyd",
    "nvidia-fabricmanager",
    "nvlsm",
)
# In the order in which NVIDIA's own driver container unloads them.
MODULES = (
    "nvidia_fs",
    "nvidia_vgpu_vfio",
    "gdrdrv",
    "nvidia_drm",
    "nvidia_modeset",
    "nvidia_uvm",
    "nvidia_peermem",
    "nvidia",
)
_SECURE_BOOT = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# Where the public half of DKMS' signing key is: Ubuntu's, everybody else's.
_SIGNING_KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub")
# A driver's own kernel module under each name that distributions give it.
_MODULE_FILE = re.compile(r"(?m)^(\S*/nvidia(?:-current)?(-open)?\.ko(?:\.\w+)?):")
# /proc keeps at most 15 characters of a program's name.
_SERVICE_NAMES = tuple(name[:15] for name in (*SERVICES, "nv-fabricmanager"))


@dataclass(frozen=True)
class Driver:
    """The driver of a host. Versions such as 535.261.03, "" for none.

    ``loaded_flavour``: open, proprietary or "". ``installed_version``: the library's, which every program
    meets. ``kernels``: those that may boot; ``built``: those with a module of the driver. ``clients``:
    programs at the card, apart from NVIDIA's services. ``installer``: whether NVIDIA's .run installer was
    here."""

    loaded_version: str
    loaded_flavour: str
    installed_version: str
    nouveau: bool
    running_kernel: str
    kernels: tuple[str, ...]
    built: tuple[str, ...]
    clients: tuple[str, ...]
    modules: tuple[str, ...]
    installer: bool


def look(sysfs: str = "/sys", proc: str = "/proc", root: str = "/") -> Driver:
    """Look at this host."""
    running = os.uname().release
    kernels = bootable_kernels(root, running)
    return Driver(
        loaded_version=loaded_version(sysfs),
        loaded_flavour=_loaded_flavour(sysfs),
        installed_version=library_version(root),
        nouveau=os.path.isdir(os.path.join(sysfs, "module/nouveau")),
        running_kernel=running,
        kernels=tuple(kernels),
        built=tuple(sorted(built_kernels(root))),
        clients=tuple(clients(proc)),
        modules=tuple(name for name in MODULES if os.path.isdir(os.path.join(sysfs, "module", name))),
        installer=os.path.exists(os.path.join(root, "usr/bin/nvidia-uninstall")),
    )


def loaded_version(sysfs: str = "/sys") -> str:
    return read(os.path.join(sysfs, "module/nvidia/version"))


def _loaded_flavour(sysfs: str) -> str:
    """By the kernel's own mark, P, of a module without a free licence.

    See Documentation/admin-guide/tainted-kernels; each module has the file since Linux 3.3."""
    module = os.path.join(sysfs, "module/nvidia")
    if not os.path.isdir(module):
        return ""
    return "proprietary" if "P" in read(os.path.join(module, "taint")) else "open"


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def library_version(root: str = "/") -> str:
    """Of libnvidia-ml, by the name of its file: the same on every distribution and after a .run installer."""
    found = libraries(root)
    return max(found, key=_numbers) if found else ""


def library_changed(root: str = "/") -> float:
    """When the newest libnvidia-ml came to be on this host, in seconds since the epoch; 0 without one."""
    return max((os.stat(path).st_ctime for path in libraries(root).values()), default=0.0)


def libraries(root: str = "/") -> dict[str, str]:
    """The paths of each libnvidia-ml by version."""
    return {
        match.group(1): path
        for place in ("usr/lib/*/nvidia/current", "usr/lib/*/nvidia/*", "usr/lib/*", "usr/lib64", "usr/lib")
        for path in glob.glob(os.path.join(root, place, "libnvidia-ml.so.*"))
        if (match := re.search(r"\.so\.(\d+(?:\.\d+)+)$", path))
    }


def bootable_kernels(root: str, running: str) -> list[str]:
    """Releases of the kernels that a reboot may bring, and of the running one where it is this host's own.

    In a container the running kernel is another host's: it has no folder of modules here.
    """
    found = {
        os.path.basename(path)[len("vmlinuz-") :]
        for path in glob.glob(os.path.join(root, "boot/vmlinuz-*"))
        if "rescue" not in path
    }
    if os.path.isdir(os.path.join(root, "lib/modules", running)):
        found.add(running)
    return sorted(found)


def built_kernels(root: str) -> set[str]:
    """Releases of the kernels with a module of the driver that modprobe can find."""
    return {
        os.path.basename(os.path.dirname(path))
        for path in glob.glob(os.path.join(root, "lib/modules/*/modules.dep"))
        if _MODULE_FILE.search(read(path))
    }


def unbuilt_kernels(root: str) -> list[str]:
    """Releases with headers to build for and without a module of the driver."""
    with_headers = {
        os.path.basename(os.path.dirname(path))
        for path in glob.glob(os.path.join(root, "lib/modules/*/build"))
        # RHEL's kernels bring a link to headers that may not be there.
        if os.path.exists(path)
    }
    return sorted(with_headers - built_kernels(root))


def clients(proc: str = "/proc") -> list[str]:
    """Programs that have a card open, "python3 (process 4711)"; NVIDIA's services do not count."""
    found = []
    for pid in sorted((name for name in _listed(proc) if name.isdigit()), key=int):
        name = read(os.path.join(proc, pid, "comm"))
        if name.startswith(_SERVICE_NAMES):
            continue
        folder = os.path.join(proc, pid, "fd")
        if any(_target(os.path.join(folder, fd)).startswith("/dev/nvidia") for fd in _listed(folder)):
            found.append(f"{name} (process {pid})")
    return found


def secure_boot(sysfs: str = "/sys") -> bool | None:
    """Whether the firmware lets only signed kernels and modules in; None without EFI."""
    try:
        with open(os.path.join(sysfs, _SECURE_BOOT), "rb") as file:
            return file.read()[-1:] == b"\x01"
    except OSError:
        return None


def signing_key_enrolled() -> bool | None:
    """Whether the firmware knows the key that DKMS signs with; None where nobody can say."""
    if not which("mokutil"):
        return None
    for path in _SIGNING_KEYS:
        if os.path.exists(path):
            return "already enrolled" in run("mokutil", "--test-key", path).stdout
    return False


def mismatch(driver: Driver) -> str:
    """What is wrong between what is loaded and what is installed, in words; "" for nothing."""
    loaded, installed = driver.loaded_version, driver.installed_version
    if loaded and installed and loaded != installed:
        return (
            f"The kernel has module {loaded} loaded and the library on disk is {installed}: whatever asks "
            "for a card "
            'now gets "Driver/library version mismatch". What had its card before goes on.'
        )
    return ""


def reboot_reasons(driver: Driver, flavour: str = "") -> list[str]:
    """Why the card cannot work, or not as chosen, before a reboot or a reload; empty when it can.

    ``flavour``: the chosen one, "" where nothing was chosen. Without an installed driver nothing is due.
    """
    if not driver.installed_version:
        return []
    if driver.nouveau:
        return ["The kernel's own driver, nouveau, holds the card."]
    reasons = []
    if mismatch(driver):
        reasons.append(mismatch(driver))
    elif driver.loaded_version and flavour and driver.loaded_flavour != flavour:
        reasons.append(
            f"The {driver.loaded_flavour} kernel modules are loaded, and the {flavour} ones were chosen."
        )
    if not driver.loaded_version and driver.running_kernel not in driver.built:
        others = f", but for {', '.join(driver.built)}" if driver.built else ""
        reasons.append(f"There is no module for the running kernel {driver.running_kernel}{others}.")
    return reasons


def loadable(driver: Driver) -> bool:
    """Whether modprobe is all that is missing."""
    return (
        not driver.loaded_version
        and not driver.nouveau
        and bool(driver.installed_version)
        and driver.running_kernel in driver.built
    )


def package_states() -> dict[str, tuple[str, str]]:
    """Of every package that dpkg or rpm knows to be there: its state (such as installed) and its version."""
    if which("dpkg-query"):
        shown = run("dpkg-query", "-W", "-f=${Package} ${db:Status-Status} ${Version}\n").stdout
    else:
        shown = (
            run("rpm", "-qa", "--qf", "%{NAME} installed %{VERSION}-%{RELEASE}\n").stdout
            if which("rpm")
            else ""
        )
    parts = (line.split(" ", 2) for line in shown.splitlines())
    found = {
        name: (state, version)
        for name, state, version in parts
        if state not in ("not-installed", "config-files")
    }
    # Of one name there are several, each for its kernel.
    headers = (
        run("rpm", "-q", "kernel-devel").stdout.split() if "kernel-devel" in found and which("rpm") else []
    )
    return {**found, **dict.fromkeys(headers, found.get("kernel-devel", ("", "")))}


def dnf_candidates(names: Sequence[str]) -> dict[str, str]:
    """Of names, with a version in them or without, those that dnf's sources have, and in which version.

    dnf takes seconds to say."""
    if not names or not which("dnf"):
        return {}
    form = "%{name} %{version}-%{release}.%{arch}\n"
    told = run(
        "dnf", "--quiet", "--disableexcludes=all", "repoquery", "--available", "--queryformat", form, *names
    )
    parts = [line.split() for line in told.stdout.splitlines() if line.strip()]
    found = {key: version for name, version in parts for key in (name, f"{name}-{version}")}
    return {name: found[name] for name in names if name in found}


def candidates(names: Sequence[str]) -> dict[str, str]:
    """The versions that apt would install now; without those it knows nothing of."""
    if not names or not which("apt-cache"):
        return {}
    shown = run("apt-cache", "policy", *names).stdout
    found = re.findall(r"(?m)^(\S+):\n  Installed: .*\n  Candidate: (\S+)", shown)
    return {name: version for name, version in found if version != "(none)"}


def offered(names: Sequence[str]) -> dict[str, list[str]]:
    """Every version that apt's sources have, the newest first, whatever the host's pins allow."""
    if not names or not which("apt-cache"):
        return {}
    found: dict[str, list[str]] = {}
    for line in run("apt-cache", "madison", *names).stdout.splitlines():
        name, version, _source = (part.strip() for part in line.split("|", 2))
        found.setdefault(name, []).append(version)
    return found


def active_services(names: Sequence[str] = SERVICES) -> list[str]:
    """Of services, such as NVIDIA's, those that run, in the order in which they are to be stopped."""
    if not os.path.isdir("/run/systemd/system"):
        return []
    return [name for name in names if run("systemctl", "is-active", "--quiet", name).returncode == 0]


def service_unit(name: str) -> str:
    """The text of a service's unit; "" where there is none."""
    for folder in ("/usr/lib/systemd/system", "/lib/systemd/system"):
        text = read(os.path.join(folder, f"{name}.service"))
        if text:
            return text
    return ""


def initramfs_images(root: str) -> list[str]:
    """The images that this host's kernels start from, by path; not those of a rescue or for kdump."""
    patterns = ("boot/initrd.img-*", "boot/initramfs-*.img")
    found = (path for pattern in patterns for path in glob.glob(os.path.join(root, pattern)))
    return [path for path in found if "rescue" not in path and "kdump" not in path and os.path.isfile(path)]


def stale_initramfs(root: str, newer_than: str) -> bool:
    """Whether an image that a kernel starts from is older than that file, and so does not hold it."""
    try:
        written = os.stat(newer_than).st_mtime
    except OSError:
        return False
    return any(os.stat(path).st_mtime < written for path in initramfs_images(root))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
