# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which card, or MIG device, nobody is on, so that one replica can be measured there.

This module util is private to the collection. One with more memory comes first: some engines take a share of
all there is, so that the figure from the largest card does for the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._capacity import short_name
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._card_users import Holder, users
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import Card, MigDevice


class NoIdleCardError(Exception):
    """There is none; the message says who is on each, and what to do."""


@dataclass(frozen=True)
class Place:
    """A card or MIG device, as a container is given it, and what is on it.

    ``unusable`` says why nothing can be measured there, whoever is on it.
    """

    uuid: str
    label: str
    card: str  # UUID of the card, by which nvidia-smi is asked
    gpu_instance_id: str = ""
    usable_mib: int = 0
    used_mib: int = 0
    users: tuple[str, ...] = ()
    unusable: str = ""

    @property
    def obstacle(self) -> str:
        """What is in the way, empty if nothing is."""
        return self.unusable or (f"is in use by {', '.join(self.users)}" if self.users else "")


def places(cards: Sequence[Card], containers: Sequence[Holder], ours: Collection[str] = ()) -> list[Place]:
    """Every card, and in place of one in MIG mode its devices; ``ours`` are containers that do not count."""
    gone = {str(each) for each in containers if each.container_id in ours}
    found = []
    for card in cards:
        devices: Sequence[MigDevice | None] = card.mig_devices if card.mig_enabled else [None]
        for device in devices:
            there = tuple(who for who in users(card, containers, device) if who not in gone)
            found.append(_place(card, device, there))
    return found


def choose(found: Sequence[Place], named: bool = False) -> Place:
    """The largest that is idle; among those that were ``named``, one that is in use will do."""
    usable = [place for place in found if not place.unusable]
    idle = [place for place in usable if not place.users]
    largest = sorted(idle or (usable if named else []), key=lambda place: -place.usable_mib)
    if largest:
        return largest[0]
    told = "; ".join(f"{place.label} {place.obstacle}" for place in found) or "there is none"
    raise NoIdleCardError(
        f"No card of this host is idle: {told}. Take the host out (drain.yml, and undrain.yml afterwards) or "
        "let it run fewer replicas (scale.yml), stop what is not ours, and run this again; or name a card "
        "that has room for one replica beside what is on it. Nothing was started."
    )


def _place(card: Card, device: MigDevice | None, there: tuple[str, ...]) -> Place:
    memory, unknown = (device.memory, device.unknown) if device else (card.memory, card.unknown)
    uuid = device.uuid if device else card.uuid
    label = f"{short_name(card.name)} #{card.index}" + (f":{device.index}" if device else "")
    unusable = ""
    if memory is None:
        unusable = f"does not tell its memory ({unknown})"
    elif not uuid:
        unusable = "has no UUID by which a container could be given it"
    elif card.compute_mode == "Prohibited":
        unusable = "is in compute mode Prohibited"
    return Place(
        uuid=uuid,
        label=f"{label} ({uuid or 'no UUID'})",
        card=card.uuid,
        gpu_instance_id=device.gpu_instance_id if device else "",
        usable_mib=memory.total_mib - memory.reserved_mib if memory else 0,
        used_mib=max(0, memory.total_mib - memory.reserved_mib - memory.free_mib) if memory else 0,
        users=there,
        unusable=unusable,
    )
