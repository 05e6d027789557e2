# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the output of ``nvidia-smi -q -x``. Every memory figure is in MiB.

The memory fields are the stable part of that output: they are the same from schema v7 (driver 352) to v13
(driver 595), except that ``reserved`` came with driver 510. Nothing else is relied on to be there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# The standard parser is enough: only the part from the root element on is parsed, so no DTD is ever read
# and no entity can be defined.
from xml.etree import ElementTree

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_problems import (
    Problem,
    explain,
)


@dataclass(frozen=True)
class Memory:
    """``fb_memory_usage`` of a card or MIG device; ``reserved_mib`` is 0 where there is no such field."""

    total_mib: int
    reserved_mib: int
    used_mib: int
    free_mib: int


@dataclass(frozen=True)
class Process:
    """A process on a card. ``used_mib`` is None where the driver does not tell (WDDM, no permission)."""

    pid: int
    used_mib: int | None
    gpu_instance_id: str = ""


@dataclass(frozen=True)
class MigDevice:
    """One compute instance of one GPU instance; several of them can share one GPU instance's memory."""

    index: int
    gpu_instance_id: str
    compute_instance_id: str
    uuid: str
    name: str
    memory: Memory | None
    unknown: str = ""


@dataclass(frozen=True)
class Card:
    """One card. ``memory`` is None when it could not be read; ``unknown`` then says what stood there."""

    index: int
    uuid: str
    name: str
    memory: Memory | None
    unknown: str = ""
    display: str = ""  # "WDDM" or "display" where a desktop may come and go on the card
    compute_mode: str = ""
    mig_enabled: bool = False
    mig_mode: str = ""  # "Enabled", "Disabled", "N/A" or nothing where a card knows no MIG
    mig_pending: str = ""  # the mode after the next reset of the card
    mig_devices: tuple[MigDevice, ...] = ()
    bus_id: str = ""  # such as 00000000:01:00.0
    architecture: str = ""  # such as Ampere; drivers before 450 do not tell
    processes: tuple[Process, ...] = ()
    processes_unknown: str = ""  # what stood in place of the list of processes


@dataclass
class Report:
    """All that could be read, with what was wrong on the way."""

    driver: str = ""
    cards: list[Card] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    missing: int = 0  # cards that the output counts and does not describe


class SmiError(Exception):
    """No complete answer. ``report`` holds what was read all the same."""

    def __init__(self, problem: Problem, report: Report | None = None) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.report = report or Report()


_MIB = re.compile(r"([0-9]+) MiB")
_ROOT_END = "</nvidia_smi_log>"
# Command lines of processes are not ours to read, and drivers do not always escape them.
_PROCESS_NAME = re.compile(r"<process_name>.*?</process_name>", re.DOTALL)
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_ONE_GPU = re.compile(r"<gpu id=\"[^\"]*\">.*?</gpu>", re.DOTALL)
_NOTHING = frozenset(("", "N/A", "[N/A]", "None"))


def decode(data: bytes) -> str:
    """Output as text. A file written by PowerShell's ``>`` is UTF-16 with a byte order mark."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def parse(text: str) -> Report:
    """Reads the output of ``nvidia-smi -q -x``.

    Words around the XML (a warning of the infoROM comes after it) become problems. Raises SmiError if the
    output is not XML, is cut off or has no card; the cards that are complete are then in the error's report.
    """
    start = text.find("<nvidia_smi_log")
    if start < 0:
        raise SmiError(explain(text))
    end = text.rfind(_ROOT_END)
    body = text[start : end + len(_ROOT_END)] if end > start else text[start:]
    body = _NOT_XML.sub("", _PROCESS_NAME.sub("", body))
    report = Report()
    around = text[:start].partition("<?xml")[0] + "\n" + (text[end + len(_ROOT_END) :] if end > start else "")
    if around.strip():
        report.problems.append(explain(around))
    try:
        # No DTD in reach, see the import.
        root = ElementTree.fromstring(body)  # noqa: S314
    except ElementTree.ParseError as error:
        _salvage(body, report)
        cut = "is cut off" if end < start else "is not valid XML"
        raise SmiError(
            Problem(
                f"The output of nvidia-smi {cut} ({error}) after {len(report.cards)} complete card(s)",
                "Run 'nvidia-smi -q -x' again and save all of it; if it stays, read 'dmesg | grep -i nvrm'",
            ),
            report,
        ) from error
    report.driver = _text(root, "driver_version")
    report.cards = [_card(index, gpu) for index, gpu in enumerate(root.findall("gpu"))]
    attached = _text(root, "attached_gpus")
    if not report.cards:
        raise SmiError(explain("No devices were found"), report)
    if attached.isdigit() and int(attached) > len(report.cards):
        report.missing = int(attached) - len(report.cards)
        report.problems.append(
            Problem(
                f"nvidia-smi counts {attached} cards but describes only {len(report.cards)}",
                "Read 'nvidia-smi -L' and 'dmesg | grep -i -e nvrm -e xid' for the card that is missing",
            )
        )
    return report


def _salvage(body: str, report: Report) -> None:
    """The complete cards of broken output."""
    driver = re.search(r"<driver_version>([^<]*)</driver_version>", body)
    report.driver = driver.group(1).strip() if driver else ""
    for index, found in enumerate(_ONE_GPU.findall(body)):
        try:
            report.cards.append(_card(index, ElementTree.fromstring(found)))  # noqa: S314 - as above
        except ElementTree.ParseError:
            unknown = "its part of the output is not valid XML"
            report.cards.append(Card(index=index, uuid="", name="unknown card", memory=None, unknown=unknown))


def _card(index: int, gpu: ElementTree.Element) -> Card:
    memory, unknown = _memory(gpu)
    uuid = _text(gpu, "uuid")
    processes, processes_unknown = _processes(gpu)
    display = "display" if _text(gpu, "display_active") == "Enabled" else ""
    if _text(gpu, "driver_model/current_dm") == "WDDM":
        display = "WDDM"
    return Card(
        index=index,
        uuid="" if uuid in _NOTHING or " " in uuid else uuid,
        name=_text(gpu, "product_name") or "unknown card",
        memory=memory,
        unknown=unknown,
        display=display,
        compute_mode=_text(gpu, "compute_mode"),
        mig_enabled=_text(gpu, "mig_mode/current_mig") == "Enabled",
        mig_mode=_text(gpu, "mig_mode/current_mig"),
        mig_pending=_text(gpu, "mig_mode/pending_mig"),
        bus_id=gpu.get("id", ""),
        architecture=_text(gpu, "product_architecture"),
        # Numbered by their order, which is that of -L: mock drivers give every device the index 0.
        mig_devices=tuple(
            _mig_device(order, device, uuid)
            for order, device in enumerate(gpu.iterfind("mig_devices/mig_device"))
        ),
        processes=processes,
        processes_unknown=processes_unknown,
    )


def _mig_device(index: int, device: ElementTree.Element, card_uuid: str) -> MigDevice:
    memory, unknown = _memory(device)
    gpu_instance, compute_instance = _text(device, "gpu_instance_id"), _text(device, "compute_instance_id")
    return MigDevice(
        index=index,
        gpu_instance_id=gpu_instance,
        compute_instance_id=compute_instance,
        # No driver seen so far has a MIG device's own UUID in its XML, only -L has it. This is its name in
        # the notation of drivers R450 and R460 (NVIDIA MIG User Guide, "CUDA Device Enumeration").
        uuid=_text(device, "uuid") or f"MIG-{card_uuid}/{gpu_instance}/{compute_instance}",
        name="MIG device",
        memory=memory,
        unknown=unknown,
    )


def _memory(owner: ElementTree.Element) -> tuple[Memory | None, str]:
    """The four figures, or None and what stood there: never a guess from half of them."""
    usage = owner.find("fb_memory_usage")
    if usage is None:
        return None, "no fb_memory_usage element"
    if len(usage) == 0:
        return None, f"fb_memory_usage is {(usage.text or '').strip()!r}"
    figures: dict[str, int] = {}
    for name in ("total", "reserved", "used", "free"):
        element = usage.find(name)
        if element is None and name == "reserved":
            figures[name] = 0  # before driver 510 there is no such field, and total is smaller by it
            continue
        if element is None:
            return None, f"fb_memory_usage has no {name}"
        raw = (element.text or "").strip()
        match = _MIB.fullmatch(raw)
        if match is None:
            return None, f"{name} is {raw!r}"
        figures[name] = int(match.group(1))
    return Memory(figures["total"], figures["reserved"], figures["used"], figures["free"]), ""


def _processes(gpu: ElementTree.Element) -> tuple[tuple[Process, ...], str]:
    element = gpu.find("processes")
    if element is None:
        return (), "no processes element"
    raw = (element.text or "").strip()
    if raw and raw != "None":
        return (), f"processes is {raw!r}"
    found = []
    for info in element.findall("process_info"):
        pid, used = _text(info, "pid"), _MIB.fullmatch(_text(info, "used_memory"))
        if re.fullmatch("[0-9]+", pid):
            instance = _text(info, "gpu_instance_id")
            used_mib = int(used.group(1)) if used else None
            found.append(Process(int(pid), used_mib, "" if instance in _NOTHING else instance))
    return tuple(found), ""


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
