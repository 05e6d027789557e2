# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi does to cut a card into MIG instances: ``-mig``, and ``mig`` with -lgi, -lgip, -cgi, ...

Changes are written into the data that the stand-in ``nvidia_smi`` reads, and refused as in real life: a card
or an instance that a container holds, more than there is room for, a card that knows no MIG. Real cards have
rules of place beside the number of slices that is counted here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from nvidia_smi_xml import Card, Host, can_mig, made_up_uuid

# Exit codes are those of NVML (nvml.h).
NOT_SUPPORTED, NOT_FOUND, IN_USE, NO_ROOM = 3, 6, 19, 23
NO_ROOM_WORDS = "Insufficient Resources"
IN_USE_WORDS = "In use by another client"
IDLE_MIB = 12  # of an instance that nobody uses


@dataclass(frozen=True)
class Profile:
    """A GPU instance profile: of how many parts of the card it takes, and what memory it has then."""

    id: int
    most: int
    slices: int
    memory_slices: int
    mib: int


# NVIDIA MIG User Guide, "Supported MIG Profiles"; MiB as seen on real cards where they were, and as the guide
# has them (GiB with two decimals) for the profiles that nobody showed.
_PROFILES: tuple[tuple[str, dict[str, Profile]], ...] = (
    (
        r"A30",
        {
            "1g.6gb": Profile(14, 4, 1, 1, 5952),
            "2g.12gb": Profile(5, 2, 2, 2, 11968),
            "4g.24gb": Profile(0, 1, 4, 4, 24002),
        },
    ),
    (
        r"A100.*40GB",
        {
            "1g.5gb": Profile(19, 7, 1, 1, 4864),
            "1g.5gb+me": Profile(20, 1, 1, 1, 4864),
            "2g.10gb": Profile(14, 3, 2, 2, 9984),
            "3g.20gb": Profile(9, 2, 3, 4, 19968),
            "4g.20gb": Profile(5, 1, 4, 4, 19968),
            "7g.40gb": Profile(0, 1, 7, 8, 40448),
        },
    ),
    (
        r"H100",
        {
            "1g.10gb": Profile(19, 7, 1, 1, 9984),
            "1g.20gb": Profile(15, 4, 1, 2, 20096),
            "2g.20gb": Profile(14, 3, 2, 2, 20096),
            "3g.40gb": Profile(9, 2, 3, 4, 40448),
            "4g.40gb": Profile(5, 1, 4, 4, 40448),
            "7g.80gb": Profile(0, 1, 7, 8, 81152),
        },
    ),
)


def profiles(card: Card) -> dict[str, Profile]:
    """What a card offers; nothing for one that is not in the table."""
    return next((offer for words, offer in _PROFILES if re.search(words, card.name)), {})


def profile_id(card: Card, name: str) -> int:
    offer = profiles(card)
    return offer[name].id if name in offer else 19


def slices_left(card: Card) -> tuple[int, int]:
    """(compute slices, memory slices) that no GPU instance has."""
    offer = profiles(card)
    whole = max(offer.values(), key=lambda one: one.memory_slices, default=Profile(0, 0, 0, 0, 0))
    taken = [offer[name] for name in gpu_instances(card).values() if name in offer]
    return (
        whole.slices - sum(one.slices for one in taken),
        whole.memory_slices - sum(one.memory_slices for one in taken),
    )


def gpu_instances(card: Card) -> dict[int, str]:
    """The profile of every GPU instance by its id."""
    found = {device.gpu_instance: device.profile.rpartition("c.")[2] for device in card.mig or []}
    return {**found, **{one["gpu_instance"]: one["profile"] for one in card.bare}}


def profiles_text(host: Host, only: Card | None = None) -> str:
    """``nvidia-smi mig -lgip``, of cards in MIG mode."""
    line = "+" + "-" * 77 + "+"
    lines = [
        line,
        "| GPU instance profiles:                                                      |",
        "| GPU   Name             ID    Instances   Memory     P2P    SM    DEC   ENC  |",
        "|                              Free/Total   GiB              CE    JPEG  OFA  |",
        "|" + "=" * 77 + "|",
    ]
    cards = [card for card in host.cards if card.mig is not None and only in (None, card)]
    for card in cards:
        left, memory_left = slices_left(card)
        for name, one in profiles(card).items():
            there = sum(name == each for each in gpu_instances(card).values())
            free = min(one.most - there, left // one.slices, memory_left // one.memory_slices)
            lines.append(
                f"| {host.cards.index(card):3}  MIG {name:<13} {one.id:3} {max(0, free):5}/{one.most:<3} "
                f"{one.mib / 1024:10.2f}       No {one.slices * 14:6}     0     0   |"
            )
            lines += [
                "|                                                             1     0     0   |",
                line,
            ]
    return "\n".join([*lines, ""]) if cards else "No MIG-enabled devices found.\n"


def gpu_instances_text(host: Host, only: Card | None = None) -> str:
    """``nvidia-smi mig -lgi``. The place on the card is made up."""
    rows = []
    for number, card in enumerate(host.cards):
        seen: set[int] = set()
        for device in card.mig or []:
            if only in (None, card) and device.gpu_instance not in seen:
                profile = device.profile.rpartition("c.")[2]
                rows.append(
                    (
                        number,
                        f"MIG {profile}",
                        profile_id(card, profile),
                        device.gpu_instance,
                        f"{len(seen)}:1",
                    )
                )
                seen.add(device.gpu_instance)
        for one in card.bare if only in (None, card) else []:
            name = f"MIG {one['profile']}"
            rows.append(
                (number, name, profile_id(card, one["profile"]), one["gpu_instance"], f"{len(rows)}:1")
            )
    if not rows:
        return "No GPU instances found: Not Found\n"
    line = "+" + "-" * 55 + "+"
    lines = [
        line,
        "| GPU instances:                                        |",
        "| GPU   Name             Profile  Instance   Placement  |",
        "|                          ID       ID       Start:Size |",
        "|" + "=" * 55 + "|",
    ]
    for number, name, profile, instance, place in rows:
        lines += [f"| {number:3}  {name:<17} {profile:3} {instance:8} {place:>12}     |", line]
    return "\n".join([*lines, ""])


def order(
    words: Sequence[str], cards: Sequence[Card], host: Host, data: dict[str, Any], held: Collection[str]
) -> tuple[int, str]:
    """Exit code and output of what changes cards; ``held`` are the devices that somebody uses."""
    if words[0] == "-mig":
        return 0, set_mode(words[1] == "1", cards, host, data, held)
    if words[0] == "-c":
        return 0, set_compute_mode(words[1], cards, host, data)
    able = [card for card in cards if card.mig is not None]
    if not able:
        return NOT_FOUND, "No MIG-enabled devices found.\n"
    lines: list[str] = []
    for card in able:
        change = {"-cgi": create, "-dci": destroy_compute, "-dgi": destroy}[words[1]]
        entry = data["cards"][host.cards.index(card)]
        code, told = change(card, host.cards.index(card), entry, list(words[2:]), held)
        lines += told
        if code:
            return code, "\n".join([*lines, ""])
    return 0, "\n".join([*lines, ""])


def set_mode(
    enable: bool, cards: Sequence[Card], host: Host, data: dict[str, Any], held: Collection[str]
) -> str:
    """``-mig``: a card in use only waits for it."""
    lines = []
    for card in cards:
        entry, bus = data["cards"][host.cards.index(card)], host.bus(card)
        if not can_mig(card):
            lines += [
                f"Unable to enable MIG Mode for GPU {bus}: Not Supported",
                "Treating as warning and moving on.",
            ]
            continue
        if devices_of(card) & set(held):
            word = "enable" if enable else "disable"
            lines.append(f"Warning: MIG mode is in pending {word} state for GPU {bus}:{IN_USE_WORDS}")
            entry["mig_pending"] = enable
            continue
        if not enable and gpu_instances(card):
            lines += [
                f"Unable to disable MIG Mode for GPU {bus}: {IN_USE_WORDS}",
                "Treating as warning and moving on.",
            ]
            continue
        if enable != (card.mig is not None):
            entry["mig"] = [] if enable else None
        entry.pop("mig_pending", None)
        lines.append(f"{'Enabled' if enable else 'Disabled'} MIG Mode for GPU {bus}")
    return "\n".join([*lines, "All done.", ""])


COMPUTE_MODES = {
    "0": "Default",
    "DEFAULT": "Default",
    "2": "Prohibited",
    "PROHIBITED": "Prohibited",
    "3": "Exclusive_Process",
    "EXCLUSIVE_PROCESS": "Exclusive_Process",
}


def set_compute_mode(mode: str, cards: Sequence[Card], host: Host, data: dict[str, Any]) -> str:
    """``-c``."""
    for card in cards:
        data["cards"][host.cards.index(card)]["compute_mode"] = COMPUTE_MODES[mode]
    name = COMPUTE_MODES[mode].upper()
    lines = [f"Set compute mode to {name} for GPU {host.bus(card)}." for card in cards]
    return "\n".join([*lines, "All done.", ""])


def devices_of(card: Card) -> set[str]:
    return {card.uuid, *(device.uuid for device in card.mig or [])}


Change = tuple[int, list[str]]


def create(card: Card, index: int, entry: dict[str, Any], words: list[str], held: Collection[str]) -> Change:
    """``-cgi PROFILES [-C]``: those before the first that has no room are made, as in real life."""
    offer, lines = profiles(card), []
    there = gpu_instances(card)
    for wanted in words[0].split(","):
        name = next((name for name, one in offer.items() if wanted in (name, str(one.id), f"MIG {name}")), "")
        if not name:
            return NOT_SUPPORTED, [*lines, f"Unable to find GPU instance profile {wanted}: Not Supported"]
        left, memory_left = slices_left(card)
        one = offer[name]
        if (
            one.slices > left
            or one.memory_slices > memory_left
            or sum(name == each for each in there.values()) == one.most
        ):
            lines.append(
                f"Unable to create a GPU instance on GPU {index:2} using profile {one.id}: {NO_ROOM_WORDS}"
            )
            return NO_ROOM, [*lines, f"Failed to create GPU instances: {NO_ROOM_WORDS}"]
        number = next(number for number in range(1, 15) if number not in there)
        there[number] = name
        card.bare.append({"gpu_instance": number, "profile": name})
        lines.append(
            f"Successfully created GPU instance ID {number:2} on GPU {index:2} "
            f"using profile MIG {name} (ID {one.id:2})"
        )
        if "-C" not in words:
            entry["bare"] = card.bare
            continue
        lines.append(
            f"Successfully created compute instance ID  0 on GPU {index:2} GPU instance ID {number:2} "
            f"using profile MIG {name} (ID {one.slices - 1:2})"
        )
        entry["mig"].append(
            {
                "uuid": made_up_uuid(f"{card.uuid} {number} 0", "MIG"),
                "profile": name,
                "gpu_instance": number,
                "compute_instance": 0,
                "total": one.mib,
                "used": IDLE_MIB,
            }
        )
    return 0, lines


def destroy_compute(
    card: Card, index: int, entry: dict[str, Any], words: list[str], held: Collection[str]
) -> Change:
    """``-dci``, of all compute instances."""
    lines = []
    if not card.mig:
        return NOT_FOUND, ["No compute instances found: Not Found"]
    for device in card.mig:
        place = f"compute instance ID {device.compute_instance:2} from GPU {index:2} "
        place += f"GPU instance ID {device.gpu_instance:2}"
        if device.uuid in held:
            lines.append(f"Unable to destroy {place}: {IN_USE_WORDS}")
            return IN_USE, [*lines, f"Failed to destroy compute instances: {IN_USE_WORDS}"]
        lines.append(f"Successfully destroyed {place}")
        entry["mig"] = [one for one in entry["mig"] if one["uuid"] != device.uuid]
        bare = {"gpu_instance": device.gpu_instance, "profile": device.profile.rpartition("c.")[2]}
        if bare not in entry.get("bare", []):
            entry["bare"] = [*entry.get("bare", []), bare]
    return 0, lines


def destroy(card: Card, index: int, entry: dict[str, Any], words: list[str], held: Collection[str]) -> Change:
    """``-dgi``, of all GPU instances; one with a compute instance is in use."""
    there = gpu_instances(card)
    if not there:
        return NOT_FOUND, ["No GPU instances found: Not Found"]
    lines = []
    for number in there:
        place = f"GPU instance ID {number:2} from GPU {index:2}"
        if any(device.gpu_instance == number for device in card.mig or []):
            lines.append(f"Unable to destroy {place}: {IN_USE_WORDS}")
            return IN_USE, [*lines, f"Failed to destroy GPU instances: {IN_USE_WORDS}"]
        lines.append(f"Successfully destroyed {place}")
        entry["bare"] = [one for one in entry.get("bare", []) if one["gpu_instance"] != number]
    return 0, lines
