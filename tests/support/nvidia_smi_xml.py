# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders what nvidia-smi prints for cards given as data: ``-q -x`` of any schema from v7 to v13, ``-L``, ...

The stand-in ``nvidia_smi`` and the unit tests share it. Only what a reader of memory may rely on, or stumble
over, is rendered; the real output has hundreds of fields more. Sizes are MiB.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

# Schema of the XML by major driver version, as seen in real outputs.
_SCHEMAS = ((580, 13), (525, 12), (450, 11), (410, 10), (384, 9), (375, 8), (0, 7))
_DEPRECATED = "Requested functionality has been deprecated"


def made_up_uuid(name: str, prefix: str = "GPU") -> str:
    """A UUID in NVIDIA's form, always the same for one name."""
    return f"{prefix}-{uuid.uuid5(uuid.NAMESPACE_OID, name)}"


@dataclass
class Process:
    pid: int
    used: int | str = "N/A"  # MiB, or what stands there
    type: str = "C"
    name: str = "python3"
    gpu_instance: str = "N/A"
    compute_instance: str = "N/A"


@dataclass
class Mig:
    """A MIG device. Those with the same ``gpu_instance`` share its memory."""

    gpu_instance: int
    compute_instance: int
    total: int | str
    used: int | str = 0
    reserved: int | str = 0
    free: int | str | None = None
    profile: str = "1g.10gb"
    uuid: str = ""


@dataclass
class Card:
    """A card. Figures may be words too, such as "GPU is lost"; ``reserved`` None leaves the element out."""

    name: str
    total: int | str | None  # None leaves out all of fb_memory_usage
    reserved: int | str | None = 0
    used: int | str = 0
    free: int | str | None = None  # by default total - reserved - used
    uuid: str = ""
    display: bool = False
    driver_model: str = "N/A"
    compute_mode: str = "Default"
    mig: list[Mig] | None = None  # None: not enabled
    bare: list[dict[str, Any]] = field(default_factory=list)  # GPU instances without a compute instance
    mig_pending: bool | None = None  # the mode after a reset, where it is another
    architecture: str = ""  # by its name, unless given
    processes: list[Process] | str = field(default_factory=list)  # words in place of the list
    fb_text: str = ""  # words in place of the four figures
    lost: bool = False  # the words "GPU is lost" wherever the card would have to answer


@dataclass
class Host:
    """All that a stand-in knows of a host."""

    cards: list[Card]
    driver: str = "570.148.08"
    dtd: bool = False  # as with --dtd: the document type is inside the output

    def __post_init__(self) -> None:
        for index, card in enumerate(self.cards):
            card.uuid = card.uuid or made_up_uuid(f"{index} {card.name}")
            for order, device in enumerate(card.mig or []):
                device.uuid = device.uuid or made_up_uuid(f"{card.uuid} {order}", "MIG")

    @property
    def schema(self) -> int:
        major = int(self.driver.split(".")[0])
        return next(schema for first, schema in _SCHEMAS if major >= first)

    def card(self, name: str) -> Card | None:
        """The card with this UUID or index."""
        return next((card for i, card in enumerate(self.cards) if name in (card.uuid, str(i))), None)

    def bus(self, card: Card) -> str:
        """Its place on the PCI bus, made up from its index."""
        return f"00000000:{self.cards.index(card) + 1:02X}:00.0"


def host_from(data: dict[str, Any]) -> Host:
    """A host from plain data, as JSON holds it; the keys are the fields of the classes above."""
    cards = []
    for entry in data["cards"]:
        values = dict(entry)
        if values.get("mig") is not None:
            values["mig"] = [Mig(**device) for device in values["mig"]]
        if isinstance(values.get("processes"), list):
            values["processes"] = [Process(**process) for process in values["processes"]]
        cards.append(Card(**values))
    return Host(cards, **{key: data[key] for key in ("driver", "dtd") if key in data})


def query_xml(host: Host, only: Sequence[Card] | None = None) -> str:
    """``nvidia-smi -q -x``, of all cards or of ``only`` some (``-i``)."""
    cards = list(only) if only is not None else host.cards
    doctype = f'SYSTEM "nvsmi_device_v{host.schema}.dtd"'
    if host.dtd:
        doctype = "[\n<!ELEMENT nvidia_smi_log (timestamp, driver_version, attached_gpus, gpu*)>\n"
        doctype += (
            "<!ELEMENT gpu (product_name, uuid, fb_memory_usage)>\n<!ATTLIST gpu id CDATA #REQUIRED>\n]"
        )
    head = [
        '<?xml version="1.0" ?>',
        f"<!DOCTYPE nvidia_smi_log {doctype}>",
        "<nvidia_smi_log>",
        "\t<timestamp>Mon Jan  5 09:00:00 2026</timestamp>",
        f"\t<driver_version>{host.driver}</driver_version>",
        f"\t<attached_gpus>{len(cards)}</attached_gpus>",
    ]
    body = [line for card in cards for line in _card(host, card)]
    return "\n".join([*head, *body, "</nvidia_smi_log>", ""])


def list_text(host: Host) -> str:
    """``nvidia-smi -L``. Lost cards are listed too."""
    lines = []
    for index, card in enumerate(host.cards):
        lines.append(f"GPU {index}: {card.name} (UUID: {card.uuid})")
        for order, device in enumerate(card.mig or []):
            lines.append(f"  MIG {device.profile:<12}Device  {order}: (UUID: {device.uuid})")
    return "\n".join([*lines, ""])


def _card(host: Host, card: Card) -> list[str]:
    number = host.cards.index(card)
    lines = [f'\t<gpu id="{host.bus(card)}">', f"\t\t<product_name>{escape(card.name)}</product_name>"]
    if host.schema >= 11:
        lines.append(f"\t\t<product_architecture>{architecture(card)}</product_architecture>")
    lines.append(f"\t\t<display_mode>{_DEPRECATED if host.schema >= 13 else 'Disabled'}</display_mode>")
    lines.append(f"\t\t<display_active>{'Enabled' if card.display else 'Disabled'}</display_active>")
    if host.schema >= 11:
        mode = mig_mode(card)
        pending = mode if card.mig_pending is None else "Enabled" if card.mig_pending else "Disabled"
        lines.append(f"\t\t<mig_mode>\n\t\t\t<current_mig>{mode}</current_mig>")
        lines.append(f"\t\t\t<pending_mig>{pending}</pending_mig>\n\t\t</mig_mode>")
        lines.append("\t\t<mig_devices>")
        lines += [line for order, device in enumerate(card.mig or []) for line in _mig(order, device)]
        lines.append("\t\t</mig_devices>" if card.mig else "\t\t\tNone\n\t\t</mig_devices>")
    if host.schema >= 12:
        lines.append("\t\t<addressing_mode>None</addressing_mode>")
    model = card.driver_model
    lines.append(f"\t\t<driver_model>\n\t\t\t<current_dm>{model}</current_dm>\n\t\t</driver_model>")
    lines += [f"\t\t<uuid>{card.uuid}</uuid>", f"\t\t<minor_number>{number}</minor_number>"]
    if card.total is not None:
        lines += _memory(card.total, card.reserved, card.used, card.free, card.fb_text, card.lost)
        # A second block of the same shape, as on every real card: a reader must not take this one.
        lines.append("\t\t<bar1_memory_usage>\n\t\t\t<total>256 MiB</total>\n\t\t\t<used>2 MiB</used>")
        lines.append("\t\t\t<free>254 MiB</free>\n\t\t</bar1_memory_usage>")
    lines.append(f"\t\t<compute_mode>{card.compute_mode}</compute_mode>")
    if isinstance(card.processes, str):
        lines.append(f"\t\t<processes>{card.processes}</processes>")
    else:
        lines += ["\t\t<processes>", *(_process(process) for process in card.processes), "\t\t</processes>"]
    return [*lines, "\t</gpu>"]


def _mig(order: int, device: Mig) -> list[str]:
    lines = ["\t\t<mig_device>", f"\t\t\t<index>{order}</index>"]
    lines.append(f"\t\t\t<gpu_instance_id>{device.gpu_instance}</gpu_instance_id>")
    lines.append(f"\t\t\t<compute_instance_id>{device.compute_instance}</compute_instance_id>")
    lines += _memory(device.total, device.reserved, device.used, device.free)
    return [*lines, "\t\t</mig_device>"]


# What ``--query-gpu`` and ``--query-compute-apps`` know; a word after the colon is the unit.
CARD_FIELDS = (
    "index", "name", "uuid", "pci.bus_id", "driver_version", "compute_mode", "display_active",
    "mig.mode.current", "memory.total", "memory.reserved", "memory.used", "memory.free",
)  # fmt: skip
PROCESS_FIELDS = ("gpu_uuid", "pid", "process_name", "used_memory")


# Words in the names of cards, the newest generation first.
_ARCHITECTURES = (
    (r"G?B[23]00|RTX PRO|RTX 50\d0", "Blackwell"),
    (r"G?H[12]00|H20|H800", "Hopper"),
    (r"L4|L20|L40S?|RTX 40\d0|Ada", "Ada Lovelace"),
    (r"A100|A30|A10G?|A40|RTX A\d000|RTX 30\d0", "Ampere"),
    (r"T4|RTX 20\d0|TITAN RTX|Quadro RTX \d000|GTX 16\d0", "Turing"),
    (r"V100|TITAN V", "Volta"),
    (r"P100|P40|P4|GTX 10\d0", "Pascal"),
    (r"GTX 9\d0|M60|GT 730", "Maxwell"),
    (r"K80|K520", "Kepler"),
)


def architecture(card: Card) -> str:
    return card.architecture or next(
        (name for words, name in _ARCHITECTURES if re.search(rf"\b({words})\b", card.name)), "N/A"
    )


def mig_mode(card: Card) -> str:
    if card.mig is not None:
        return "Enabled"
    return "Disabled" if can_mig(card) else "N/A"


def can_mig(card: Card) -> bool:
    return re.search(r"\b(A30|A100|H100|H200|B200|GB200|RTX PRO 6000)\b", card.name) is not None


def csv_text(
    host: Host, fields: Sequence[str], only: Card | None = None, header: bool = True, units: bool = True
) -> str:
    """``--query-gpu`` (or ``--query-compute-apps``) with ``--format=csv``: MIG devices are never in it."""
    cards = host.cards if only is None else [only]
    rows: list[dict[str, int | str]] = []
    for card in cards:
        if set(fields) <= set(PROCESS_FIELDS):
            processes = card.processes if isinstance(card.processes, list) else []
            rows += [
                {
                    "gpu_uuid": card.uuid,
                    "pid": str(one.pid),
                    "process_name": one.name,
                    "used_memory": one.used,
                }
                for one in processes
            ]
            continue
        row: dict[str, int | str] = {
            "index": str(host.cards.index(card)),
            "name": card.name,
            "uuid": card.uuid,
            "pci.bus_id": host.bus(card),
            "driver_version": host.driver,
            "compute_mode": card.compute_mode,
            "display_active": "Enabled" if card.display else "Disabled",
            "mig.mode.current": mig_mode(card),
        }
        words = card.fb_text or ("GPU is lost" if card.lost else "N/A" if card.total is None else "")
        figures = _figures(card.total or 0, card.reserved, card.used, card.free)
        rows.append({**row, **{f"memory.{key}": words or value for key, value in figures.items()}})

    def cell(value: int | str) -> str:
        if isinstance(value, int):
            return f"{value} MiB" if units else str(value)
        return f"[{value}]" if value in ("N/A", "GPU is lost", "Unknown Error") else value

    memory = {"memory.total", "memory.reserved", "memory.used", "memory.free", "used_memory"}
    names = [f"{name} [MiB]" if name in memory else name for name in fields]
    lines = [", ".join(names)] if header else []
    return "\n".join(
        [*lines, *(", ".join(cell(row.get(name, "N/A")) for name in fields) for row in rows), ""]
    )


def _figures(
    total: int | str, reserved: int | str | None, used: int | str, free: int | str | None
) -> dict[str, int | str]:
    """The figures by name, ``free`` worked out where it is not given."""
    if free is None:
        numbers = isinstance(total, int) and isinstance(used, int) and isinstance(reserved, (int, type(None)))
        free = max(0, int(total) - int(reserved or 0) - int(used)) if numbers else total
    figures = (("total", total), ("reserved", reserved), ("used", used), ("free", free))
    return {name: value for name, value in figures if value is not None}


def _memory(
    total: int | str,
    reserved: int | str | None,
    used: int | str,
    free: int | str | None,
    text: str = "",
    lost: bool = False,
) -> list[str]:
    if text:
        return [f"\t\t<fb_memory_usage>{text}</fb_memory_usage>"]
    if lost:
        total = used = free = "GPU is lost"
        reserved = None if reserved is None else "GPU is lost"
    lines = ["\t\t<fb_memory_usage>"]
    for name, value in _figures(total, reserved, used, free).items():
        lines.append(f"\t\t\t<{name}>{_size(value)}</{name}>")
    return [*lines, "\t\t</fb_memory_usage>"]


def _process(process: Process) -> str:
    # The name is not escaped: nvidia-smi does not do it either.
    return (
        f"\t\t\t<process_info>\n\t\t\t\t<gpu_instance_id>{process.gpu_instance}</gpu_instance_id>\n"
        f"\t\t\t\t<compute_instance_id>{process.compute_instance}</compute_instance_id>\n"
        f"\t\t\t\t<pid>{process.pid}</pid>\n\t\t\t\t<type>{process.type}</type>\n"
        f"\t\t\t\t<process_name>{process.name}</process_name>\n"
        f"\t\t\t\t<used_memory>{_size(process.used)}</used_memory>\n\t\t\t</process_info>"
    )


def _size(value: int | str) -> str:
    return f"{value} MiB" if isinstance(value, int) else value
