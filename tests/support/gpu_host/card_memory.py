# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds how much of which made-up card at this moment. A stand-in for what a driver knows; sizes are MiB.

The runtime hook writes a claim for every container that starts with a card. A claim lasts as long as the
container's first process, which is known by its pid and start time; a driver that frees memory late is a
fault of the host's data:

    {"cards": [{"uuid": "GPU-...", "name": "NVIDIA L4", "total": 23034, "reserved": 556,
                "processes": [{"pid": 4000001, "used": 4000}]}],      # of others, always there
     "default_mib": 8192,                                             # of a container that does not say
     "faults": [{"on": "end", "card": "GPU-...", "late_free_seconds": 5},
                {"on": "start", "card": "GPU-...", "out_of_memory": true, "times": 1},
                {"on": "any", "named": "version_mismatch"}]}

Cards are the fields of ``nvidia_smi_xml.Card``; they and their MIG devices must have a ``uuid``. A fault
without a ``card`` is of every card. With ``"sysfs": "/opt/sysfs"`` the driver is what kernel_module loaded
below that folder, beside the library that a package installed, with the faults that follow. A container takes
what its environment says (VOICEFLEET_STAND_IN_GPU_MIB) of the first device it sees, as programs do that use
one card. One that names a file inside the container (VOICEFLEET_STAND_IN_GPU_FILE) takes what stands there at
this moment, as soon as there is such a file.

Plain data in and out, and nothing but the standard library: the hook starts with every container.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TAKES = "VOICEFLEET_STAND_IN_GPU_MIB"
TELLS = "VOICEFLEET_STAND_IN_GPU_FILE"
VISIBLE = "NVIDIA_VISIBLE_DEVICES"
DEFAULT_MIB = 8192
MISMATCH = "Driver/library version mismatch"
# Fault names that both nvidia-smi and the hook know.
NAMED: dict[str, dict[str, Any]] = {
    "version_mismatch": {
        "exit_code": 18,
        "stdout": f"Failed to initialize NVML: {MISMATCH}\nNVML library version: 570.148\n",
        "hook": "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch",
    },
    "not_loaded": {
        "exit_code": 9,
        "stdout": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
        "Make sure that the latest NVIDIA driver is installed and running.\n",
        "hook": "nvidia-container-cli: initialization error: nvml error: driver not loaded",
    },
}


def data_path() -> Path:
    return Path(os.environ.get("NVIDIA_SMI_STAND_IN", "/etc/nvidia-smi-stand-in.json"))


def state_dir() -> Path:
    """What does not outlive a boot."""
    return Path(os.environ.get("GPU_STAND_IN_STATE", "/run/gpu-stand-in"))


def log_dir() -> Path:
    return Path(os.environ.get("GPU_STAND_IN_LOGS", "/var/log/gpu-stand-in"))


def read_data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(data_path().read_text(encoding="utf-8"))
    return data


def with_driver(data: dict[str, Any]) -> dict[str, Any]:
    """The data with the driver that is loaded, and the fault of one that is not, or is not the library's."""
    if "sysfs" not in data:
        return data
    try:
        loaded = Path(data["sysfs"], "module/nvidia/version").read_text(encoding="ascii").strip()
    except OSError:
        return {**data, "faults": [{"on": "any", "named": "not_loaded"}]}
    libraries = Path("/usr/lib/x86_64-linux-gnu").glob("libnvidia-ml.so.*.*")
    if f"libnvidia-ml.so.{loaded}" in (path.name for path in libraries):
        return {**data, "driver": loaded}
    return {**data, "driver": loaded, "faults": [{"on": "any", "named": "version_mismatch"}]}


def write_data(data: dict[str, Any]) -> None:
    """In one step: others read it at any moment."""
    beside = data_path().with_suffix(".new")
    beside.write_text(json.dumps(data, indent=1), encoding="utf-8")
    beside.rename(data_path())


@dataclass
class Claim:
    """What one container holds of one device."""

    container: str  # full id
    name: str  # of the container when it started
    pid: int  # of its first process, as this host counts
    start_ticks: int  # of that process, field 22 of /proc/<pid>/stat
    device: str  # UUID of a card or a MIG device
    mib: int
    ended: float | None = None  # when its process was first seen gone; seconds since the epoch
    file: str = ""  # in the container: what it holds at this moment


@dataclass
class Device:
    """A card, or a MIG device of one; MIG devices of one GPU instance share ``pool``."""

    uuid: str
    card: int  # index
    pool: str
    usable: int | None  # total - reserved; None: unknown
    base: int  # in use whether or not containers run
    lost: bool = False
    cut_up: bool = False  # a card in MIG mode: only its MIG devices can be used
    gpu_instance: int | None = None
    compute_instance: int | None = None


def devices(data: dict[str, Any]) -> dict[str, Device]:
    """Every card and MIG device by its UUID, cards in order."""
    found: dict[str, Device] = {}
    for index, card in enumerate(data["cards"]):
        uuid = card["uuid"]
        parts = card.get("mig")
        listed = card.get("processes", [])
        held = sum(_number(one.get("used"), 0) for one in listed) if isinstance(listed, list) else 0
        found[uuid] = Device(
            uuid,
            index,
            uuid,
            None if card.get("fb_text") else _usable(card),
            max(held, _number(card.get("used"), 0)),
            lost=bool(card.get("lost")),
            cut_up=parts is not None,
        )
        for part in parts or []:
            instance = part["gpu_instance"]
            found[part["uuid"]] = Device(
                part["uuid"],
                index,
                f"{uuid}/{instance}",
                _usable(part),
                _number(part.get("used"), 0),
                lost=bool(card.get("lost")),
                gpu_instance=instance,
                compute_instance=part["compute_instance"],
            )
    return found


def first_seen(data: dict[str, Any], visible: str) -> Device | None:
    """The device that a container with this NVIDIA_VISIBLE_DEVICES uses; KeyError if it is not there."""
    if visible in ("", "none", "void"):
        return None
    known = devices(data)
    order = list(known.values())
    cards = [device for device in order if device.gpu_instance is None]
    name = visible.split(",")[0]
    if name == "all":
        return next((device for device in order if not device.cut_up), None)
    if name.isdigit() and int(name) < len(cards):
        return cards[int(name)]
    return known[name]


# These forget at a boot that they were in MIG mode (NVIDIA MIG User Guide, "MIG Mode Is Not Persistent").
FORGETFUL = re.compile(r"\b(H100|H200|B200|GB200)\b")


def boot() -> None:
    """What a boot leaves of the cards: no instance, the default compute mode, and MIG mode only on some."""
    with locked():
        mark = state_dir() / "booted"
        if mark.exists():
            return
        mark.touch()
        data = read_data()
        for card in data["cards"]:
            card.pop("compute_mode", None)
            card.pop("bare", None)
            pending = card.pop("mig_pending", None)
            if card.get("mig") is not None or pending:
                card["mig"] = None if FORGETFUL.search(card["name"]) or pending is False else []
        write_data(data)
    if "sysfs" in data:
        shutil.rmtree(Path(data["sysfs"], "module"), ignore_errors=True)
        # As udev does; without a driver it fails.
        subprocess.run(["modprobe", "nvidia-uvm"], check=False, stderr=subprocess.DEVNULL)


def through_mps(environment: dict[str, str], mounts: list[dict[str, Any]], uid: int) -> dict[str, Any] | None:
    """How a container reaches an MPS daemon, None if it does not: its share, and what would keep it out."""
    pipes = environment.get("CUDA_MPS_PIPE_DIRECTORY")
    if not pipes:
        return None
    sources = {mount["destination"]: mount["source"] for mount in mounts}
    control = Path(sources.get(pipes, "/nonexistent"), "control")
    try:
        daemon = control.stat().st_uid
    except OSError:
        daemon = None
    wrong = "no pipes" if daemon is None else "" if uid in (daemon, 0) else f"the daemon serves uid {daemon}"
    return {
        "threads": environment.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
        "memory": environment.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"),
        "uid": uid,
        "wrong": wrong,
    }


def takes(environment: dict[str, str], mps: dict[str, Any] | None, data: dict[str, Any]) -> int:
    """MiB of a container: what it says, but no more than MPS lets it have; a client that does not say takes
    that."""
    limit = re.fullmatch("0=([0-9]+)M", str((mps or {}).get("memory")))
    said = environment.get(TAKES) or (limit.group(1) if limit else data.get("default_mib", DEFAULT_MIB))
    return min(int(said), int(limit.group(1))) if limit else int(said)


def in_use(data: dict[str, Any], claims: list[Claim], device: Device) -> int:
    """MiB in use of the memory that this device has, alone or shared."""
    known = devices(data)
    pools = [known[claim.device].pool for claim in claims if claim.device in known]
    mine = [
        claim.mib for claim in claims if claim.device in known and known[claim.device].pool == device.pool
    ]
    return device.base + (sum(mine) if device.pool in pools else 0)


def memory(data: dict[str, Any], claims: list[Claim]) -> dict[str, tuple[int, int] | None]:
    """(in use, usable) of every device that can be used, by UUID; None where the card does not tell."""
    return {
        device.uuid: None
        if device.lost or device.usable is None
        else (in_use(data, claims, device), device.usable)
        for device in devices(data).values()
        if not device.cut_up
    }


def with_claims(data: dict[str, Any], claims: list[Claim]) -> dict[str, Any]:
    """The data with what containers hold counted in: as ``nvidia-smi`` tells it, each with its process."""
    known = devices(data)
    cards = [dict(card) for card in data["cards"]]
    for device in known.values():
        card = cards[device.card]
        mine = [claim for claim in claims if claim.device == device.uuid]
        if device.gpu_instance is None:
            card["used"] = card.get("used", 0) if device.usable is None else in_use(data, claims, device)
        else:
            card["mig"] = [
                {**part, "used": in_use(data, claims, device)} if part["uuid"] == device.uuid else part
                for part in card["mig"]
            ]
        listed = card.get("processes", [])
        if mine and isinstance(listed, list):
            card["processes"] = [*listed, *(_process(claim, device) for claim in mine)]
    return {**data, "cards": cards}


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Alone with the claims: two containers that start at once must not both get the last of a card."""
    state_dir().mkdir(parents=True, exist_ok=True)
    with (state_dir() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def held(data: dict[str, Any]) -> list[Claim]:
    """The claims that count now; those that are over are dropped. Call it ``locked``."""
    kept = []
    for path in sorted((state_dir() / "claims").glob("*.json")):
        claim = Claim(**json.loads(path.read_text(encoding="utf-8")))
        if process_lives(claim.pid, claim.start_ticks):
            claim.mib = told(claim)
            kept.append(claim)
            continue
        if claim.ended is None:
            claim.ended = time.time()
            keep(claim)
        if time.time() < claim.ended + _late_free_seconds(data, claim.device):
            kept.append(claim)
        else:
            path.unlink()
    return kept


def told(claim: Claim) -> int:
    """What the container says that it holds, or what it took as it began."""
    try:
        return int(Path(f"/proc/{claim.pid}/root{claim.file}").read_text(encoding="ascii"))
    except (OSError, ValueError):  # none yet, or half written
        return claim.mib


def keep(claim: Claim) -> None:
    """Write a claim down. Call it ``locked``."""
    folder = state_dir() / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{claim.container}-{claim.pid}.new"
    beside.write_text(json.dumps(asdict(claim)), encoding="utf-8")
    beside.rename(beside.with_suffix(".json"))


def log(name: str, entry: dict[str, Any]) -> None:
    log_dir().mkdir(parents=True, exist_ok=True)
    with (log_dir() / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(time.time(), 3), **entry}) + "\n")


def start_ticks(pid: int) -> int:
    """When a process started, to know it from a later one with its pid; 0 if it is gone or a zombie."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def process_lives(pid: int, ticks: int) -> bool:
    return start_ticks(pid) == ticks != 0


def faults_of(data: dict[str, Any], moment: str, device: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The faults (with their number) of ``start`` or ``end`` for a device."""
    for number, fault in enumerate(data.get("faults", [])):
        if fault["on"] == moment and fault.get("card", device) == device:
            yield number, fault


def _late_free_seconds(data: dict[str, Any], device: str) -> float:
    return max((fault.get("late_free_seconds", 0) for _n, fault in faults_of(data, "end", device)), default=0)


def _process(claim: Claim, device: Device) -> dict[str, Any]:
    try:
        name = Path(f"/proc/{claim.pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        name = "[Not Found]"
    found: dict[str, Any] = {"pid": claim.pid, "used": claim.mib, "name": name}
    if device.gpu_instance is not None:
        found["gpu_instance"] = str(device.gpu_instance)
        found["compute_instance"] = str(device.compute_instance)
    return found


def _usable(entry: dict[str, Any]) -> int | None:
    total, reserved = entry["total"], entry.get("reserved") or 0
    return total - reserved if isinstance(total, int) and isinstance(reserved, int) else None


def _number(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise
