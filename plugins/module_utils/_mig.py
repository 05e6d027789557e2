# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a card is to be cut into MIG instances, how it is cut, and what makes one of the other.

This module util is private to the collection. A layout is a list of GPU instance profiles (``3g.20gb``), each
with one compute instance that fills it, in any order; ``OFF`` is a card that is not cut at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import Card, MigDevice

OFF = "off"
EVERY_CARD = "all"
# Python 3.9 knows no | between types.
Layout = Union[str, list[str]]  # noqa: UP007

# NVIDIA MIG User Guide, "MIG Device Names": slices, memory, and what the instance has or lacks beside them.
_PROFILE = re.compile(r"([1-7])g\.([0-9]+)gb((?:[+-][a-z.]+)*)")
_SLICES = 7
# An A30 has four slices, every other card with MIG seven (NVIDIA MIG User Guide, "Supported MIG Profiles").
_SLICES_OF = (("A30", 4),)
# Rows of `nvidia-smi mig -lgi` and of `mig -lgip`.
_INSTANCE = re.compile(r"^\|\s*(\d+)\s+MIG (\S+)\s+(\d+)\s+(\d+)\s+(\d+):(\d+)\s*\|", re.MULTILINE)
_POSSIBLE = re.compile(r"^\|\s*(\d+)\s+MIG (\S+)\s+(\d+)\s+(\d+)/(\d+)\s+([0-9.]+)\s", re.MULTILINE)
# MiB of a device, as drivers report it for these cards. Needed only where a layout is yet to be made.
_SEEN_MIB = (
    ("A30", {"1g.6gb": 5952, "2g.12gb": 11968}),
    ("A100", {"1g.5gb": 4864, "3g.20gb": 19968, "1g.20gb": 19968, "2g.20gb": 19968}),
    ("H100", {"1g.10gb": 9984, "2g.20gb": 20096, "3g.40gb": 40448}),
    ("H200", {"1g.18gb": 16384, "2g.35gb": 33280, "3g.71gb": 71424}),
)


class LayoutError(ValueError):
    """A declaration that means nothing, or not on this host; the message says where and what instead."""


@dataclass(frozen=True)
class Possible:
    """A profile that a card in MIG mode offers."""

    total: int
    memory_mib: int


def read_layout(place: str, value: Any) -> Layout:
    """One layout as people write it. YAML reads ``off`` as false, which is meant all the same."""
    if value is False or value == OFF:
        return OFF
    if not isinstance(value, list):
        raise LayoutError(
            f"{place} is {value!r}. Give a list of profiles such as [3g.20gb, 3g.20gb], [] for MIG mode "
            "without instances, or off for a card that is not cut."
        )
    for profile in value:
        if not isinstance(profile, str) or not _PROFILE.fullmatch(profile):
            raise LayoutError(
                f"{place}: {profile!r} is no GPU instance profile. Their names are those of "
                "'nvidia-smi mig -lgip', such as 1g.10gb or 3g.20gb."
            )
    return sorted(value)


def answers(card: Card) -> bool:
    """Whether a card tells more than its name, which is all that is left of one that fell off its bus."""
    return card.memory is not None or bool(card.mig_mode or card.architecture)


def resolve(
    declared: Mapping[str, Any], cards: Sequence[Card], before: Mapping[str, Layout] | None = None
) -> dict[str, Layout]:
    """Layouts by the cards' UUIDs. A card is named by its UUID, its PCI address or its index.

    ``all`` stands for every card that knows MIG and is not named by itself. One that does not answer keeps
    what was declared for it ``before``.

    :raises LayoutError: what is named is not there, named twice, or cannot be cut so.
    """
    found: dict[str, Layout] = {}
    said: dict[str, str] = {}
    for name, value in declared.items():
        place = f"gpu_sharing_mig[{str(name)!r}]"
        layout = read_layout(place, value)
        if str(name) == EVERY_CARD:
            continue
        card = next((card for card in cards if str(name).lower() in names_of(card)), None)
        if card is None or not card.uuid:
            there = ", ".join(f"{each.index} = {each.bus_id} = {each.uuid} ({each.name})" for each in cards)
            raise LayoutError(f"{place}: there is no such card on this host. It has: {there or 'none'}")
        if card.uuid in found:
            raise LayoutError(f"{place} is the card that {said[card.uuid]} names too. Name it once.")
        found[card.uuid], said[card.uuid] = layout, place
        _check(place, card, layout)
    if EVERY_CARD in declared:
        place = f"gpu_sharing_mig[{EVERY_CARD!r}]"
        layout = read_layout(place, declared[EVERY_CARD])
        able = [card for card in cards if card.uuid and can_be_cut(card)]
        silent = {card.uuid for card in cards if not answers(card)}
        kept = {uuid: there for uuid, there in (before or {}).items() if uuid in silent}
        found = {**kept, **found}
        if not able and not kept and layout != OFF:
            raise LayoutError(
                f"{place}: no card of this host knows MIG ({', '.join(c.name for c in cards)})."
            )
        for card in able:
            if card.uuid not in found:
                found[card.uuid] = layout
                _check(place, card, layout)
    return found


def names_of(card: Card) -> set[str]:
    """What a card may be called, in lower case; a PCI address with or without its domain."""
    bus = card.bus_id.lower()
    short = bus.partition(":")[2]
    return {str(card.index), card.uuid.lower(), bus, f"0000:{short}", short} - {""}


def can_be_cut(card: Card) -> bool:
    return card.mig_mode in ("Enabled", "Disabled")


def _check(place: str, card: Card, layout: Layout) -> None:
    if layout == OFF or not answers(card):
        return
    if not can_be_cut(card):
        raise LayoutError(
            f"{place}: {card.name} #{card.index} does not know MIG. Take it out of the declaration."
        )
    slices = next((count for word, count in _SLICES_OF if word in card.name), _SLICES)
    wanted = sum(int(profile[0]) for profile in layout)
    if wanted > slices:
        raise LayoutError(
            f"{place}: {' + '.join(layout)} are {wanted} slices, and {card.name} #{card.index} has {slices}."
        )


def check_possible(card: Card, layout: Layout, possible: Mapping[str, Possible]) -> str:
    """What is wrong with a layout for a card that tells what it offers; empty if nothing is."""
    if layout == OFF or not possible:
        return ""
    for profile in layout:
        if profile not in possible:
            offer = ", ".join(sorted(possible))
            return f"{card.name} #{card.index} has no profile {profile}. It offers: {offer}."
        if layout.count(profile) > possible[profile].total:
            return (
                f"{card.name} #{card.index} takes {possible[profile].total} x {profile} at most, and "
                f"{layout.count(profile)} are declared."
            )
    return ""


def instances(text: str, index: int) -> dict[str, str]:
    """GPU instances of a card by their id, with the profile of each, from ``mig -lgi``."""
    return {row[3]: row[1] for row in _INSTANCE.findall(text) if int(row[0]) == index}


def possible(text: str, index: int) -> dict[str, Possible]:
    """The profiles of a card in MIG mode, from ``mig -lgip``. A MiB there has two decimals of a GiB."""
    return {
        row[1]: Possible(int(row[4]), round(float(row[5]) * 1024))
        for row in _POSSIBLE.findall(text)
        if int(row[0]) == index
    }


def layout_of(card: Card, there: Mapping[str, str]) -> Layout:
    """How a card is cut now. An instance that no one compute instance fills is told as it is."""
    if not card.mig_enabled:
        return OFF
    told = []
    for number, profile in there.items():
        inside = [device for device in card.mig_devices if device.gpu_instance_id == number]
        told.append(profile + _inside(inside))
    return sorted(told)


def _inside(devices: Sequence[MigDevice]) -> str:
    if not devices:
        return " (no compute instance)"
    if len(devices) > 1 or re.search(r"\b[0-9]c\.", devices[0].name):
        return f" ({len(devices)} compute instance{'s' if len(devices) > 1 else ', smaller'})"
    return ""


def text_of(layout: Layout) -> str:
    """A layout to read."""
    if layout == OFF:
        return "not cut (MIG off)"
    return " + ".join(layout) if layout else "MIG mode without instances"


def orders(uuid: str, have: Layout, want: Layout) -> list[list[str]]:
    """Arguments for nvidia-smi that make one of the other, in order."""
    found: list[list[str]] = []
    if have == want:
        return found
    if have != OFF and have:
        # A GPU instance without a compute instance is nothing that -dci knows.
        if any("(no compute instance)" not in each for each in have):
            found.append(["mig", "-i", uuid, "-dci"])
        found.append(["mig", "-i", uuid, "-dgi"])
    if want == OFF:
        return [*found, ["-i", uuid, "-mig", "0"]]
    if have == OFF:
        found.append(["-i", uuid, "-mig", "1"])
    if want:
        found.append(["mig", "-i", uuid, "-cgi", ",".join(want), "-C"])
    return found


def differences(
    declared: Mapping[str, Layout], have: Mapping[str, Layout], cards: Iterable[Card]
) -> list[tuple[str, str]]:
    """A sentence for each card that is not cut as declared, with its UUID."""
    return [
        (
            card.uuid,
            f"{card.name} #{card.index} ({card.uuid}) is declared as {text_of(declared[card.uuid])} and is "
            f"{text_of(have[card.uuid])}.",
        )
        for card in cards
        if have[card.uuid] != declared[card.uuid]
    ]


def seen_mib(name: str, profile: str) -> int | None:
    """What a device of this profile has on a card of this name, where that was seen."""
    known = next((sizes for word, sizes in _SEEN_MIB if word in name), {})
    return known.get(profile)
