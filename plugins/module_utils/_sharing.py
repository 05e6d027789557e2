# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the cards of a host are to be shared, how they are, and what forbids to change it now.

This module util is private to the collection. What a host was told last is in a file there (``DECLARED``), so
that whoever counts its slots, on whatever day, holds the cards against it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _mig, _mps
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._mig import (
    OFF,
    Layout,
    LayoutError,
    Possible,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi import order
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Card,
    Memory,
    MigDevice,
    SmiError,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_problems import Problem

DECLARED = "/etc/voicefleet/gpu_sharing/declared.json"
SMI_SECONDS = 60.0
CONTROL = "nvidia-cuda-mps-control"
CONTROL_SECONDS = 10.0
# What the daemon reads only as it starts, beside its cards.
_OF_THE_UNIT = ("uid", "pipe_dir")


@dataclass(frozen=True)
class Declaration:
    """What a host is to be like: MIG layouts by the UUID of a card, and MPS with its cards."""

    mig: Mapping[str, Layout] = field(default_factory=dict)
    mps: Mapping[str, Any] | None = None

    def as_data(self) -> dict[str, Any]:
        return {"mig": dict(self.mig), "mps": dict(self.mps) if self.mps else None}


@dataclass
class Sharing:
    """A host's cards against its declaration."""

    wanted: Declaration
    layouts: dict[str, Layout] = field(default_factory=dict)
    orders: dict[str, list[list[str]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    # What happens to MPS: nothing, start, restart or stop. But for nothing, its cards have to be idle.
    mps: str = "nothing"


def read_declared(path: str) -> Declaration:
    """What the file says; without one nothing is declared.

    :raises LayoutError: it is there and cannot be read.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        return from_data(told)
    except FileNotFoundError:
        return Declaration()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutError(
            f"{path} cannot be read ({error}). Role gpu_sharing writes it: run it again, or remove the file."
        ) from error


def from_data(told: Mapping[str, Any]) -> Declaration:
    """A declaration as C(as_data) gives it."""
    mig = {uuid: _mig.read_layout(uuid, layout) for uuid, layout in (told.get("mig") or {}).items()}
    return Declaration(mig, told.get("mps") or None)


def look_at_layouts(
    command: list[str], cards: Sequence[Card], timeout_seconds: float = SMI_SECONDS
) -> dict[str, Layout]:
    """How every card is cut now.

    :raises SmiError: nvidia-smi does not end, or a card in MIG mode does not tell.
    """
    found: dict[str, Layout] = {}
    for card in cards:
        there: dict[str, str] = {}
        if card.mig_enabled:
            code, words = order(command, ["mig", "-i", card.uuid, "-lgi"], timeout_seconds)
            there = _mig.instances(words, card.index)
            if not there and (card.mig_devices or "No GPU instances found" not in words):
                raise SmiError(
                    Problem(
                        f"'nvidia-smi mig -i {card.uuid} -lgi' does not tell the instances of {card.name} "
                        f"#{card.index}, but: {words} (exit code {code})",
                        "It needs root's rights: set become: true",
                    )
                )
        found[card.uuid] = _mig.layout_of(card, there)
    return found


def what_cards_offer(
    command: list[str], card: Card, timeout_seconds: float = SMI_SECONDS
) -> dict[str, Possible]:
    """The profiles of a card; none while it is not in MIG mode, for then it does not tell."""
    if not card.mig_enabled:
        return {}
    _code, words = order(command, ["mig", "-i", card.uuid, "-lgip"], timeout_seconds)
    return _mig.possible(words, card.index)


def mps_cards(cards: Sequence[Card], mig: Mapping[str, Layout], layouts: Mapping[str, Layout]) -> list[Card]:
    """The cards that MPS shares: all that are not, and are not to be, in MIG mode."""
    return [card for card in cards if card.uuid and mig.get(card.uuid, layouts.get(card.uuid, OFF)) == OFF]


def mps_problems(cards: Sequence[Card]) -> list[str]:
    """Why MPS cannot be had on these cards."""
    if not cards:
        return [
            "gpu_sharing_mps is true, and every card of this host is in MIG mode or declared to be. MPS "
            "shares whole cards: set it to false, or declare a card as off in gpu_sharing_mig."
        ]
    found = []
    for card in filter(_mig.answers, cards):
        label = f"{card.name} #{card.index}"
        if card.architecture in _mps.TOO_OLD:
            found.append(
                f"{label} is of the generation {card.architecture}: before Volta, MPS protects no client's "
                "memory from the others and limits nothing. Set gpu_sharing_mps to false on this host."
            )
        elif not card.architecture or card.architecture == "N/A":
            found.append(
                f"{label} does not tell its generation, and MPS needs Volta or later. A newer driver does "
                "(450 or later)."
            )
    return found


def mps_change(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, here: Collection[str]
) -> str:
    """What a new declaration means for the daemon. Each of them but V(nothing) ends every client.

    Other limits do not: the daemon takes them as it runs, for clients that begin after that. Nor does a card
    that is not ``here`` any more, by UUID.
    """
    if before and after:
        same = all(before.get(key) == after.get(key) for key in _OF_THE_UNIT)
        left = set(before.get("cards", ())).intersection(here)
        return "nothing" if same and left == set(after["cards"]) else "restart"
    return "start" if after else "stop" if before else "nothing"


def refusals(
    sharing: Sharing, cards: Sequence[Card], users: Mapping[str, list[str]], mps: Sequence[str]
) -> list[str]:
    """A sentence for each card that would change while somebody is on it; C(mps) are the daemon's."""
    found = []
    for card in cards:
        there = users.get(card.uuid, [])
        if not there:
            continue
        on_it = f"{card.name} #{card.index} ({card.uuid}) is in use by {', '.join(there)}"
        remedy = (
            "Drain them first (drain.yml, or stop what is not ours), and run this again. Nothing was changed."
        )
        if sharing.orders.get(card.uuid):
            want = _mig.text_of(sharing.wanted.mig[card.uuid])
            have = _mig.text_of(sharing.layouts[card.uuid])
            found.append(f"{on_it}, and would be cut anew: it is {have}, and declared as {want}. {remedy}")
        elif sharing.mps != "nothing" and card.uuid in mps:
            what = {"start": "start on it", "stop": "stop", "restart": "restart"}[sharing.mps]
            found.append(
                f"{on_it}, and MPS would {what}, which ends or keeps out every program there. {remedy}"
            )
    return found


class MigChangeError(Exception):
    """A card did not become what it was to be; the message says how it is left."""


def carry_out(
    command: list[str],
    card: Card,
    have: Layout,
    orders: Sequence[Sequence[str]],
    timeout_seconds: float = SMI_SECONDS,
) -> list[str]:
    """Give the orders one after the other; what nvidia-smi said.

    If one fails, the card gets back what it had as far as that can be.

    :raises MigChangeError: one failed.
    """
    said = []
    for number, arguments in enumerate(orders):
        code, words = order(command, list(arguments), timeout_seconds)
        told = f"'nvidia-smi {' '.join(arguments)}' said: {words} (exit code {code})"
        if "pending" in words:
            raise MigChangeError(
                f"{card.name} #{card.index}: MIG mode waits for a reset of the card. {told}. Stop what holds "
                "it (monitors too: nvidia-persistenced, dcgm) and run "
                f"'nvidia-smi --gpu-reset -i {card.index}', or reboot the host. Then run this again."
            )
        if code or "Unable to" in words:
            left = "nothing was changed" if number == 0 else _go_back(command, card, have, timeout_seconds)
            raise MigChangeError(f"{card.name} #{card.index} cannot be cut as declared: {told}. {left}.")
        said.append(told)
    return said


def _go_back(command: list[str], card: Card, have: Layout, timeout_seconds: float) -> str:
    """The layout there was before, from wherever the card is now; in words what became of it."""
    back = [["mig", "-i", card.uuid, "-dci"], ["mig", "-i", card.uuid, "-dgi"]]
    if have == OFF:
        back.append(["-i", card.uuid, "-mig", "0"])
    elif have and not any(" " in each for each in have):
        back.append(["mig", "-i", card.uuid, "-cgi", ",".join(have), "-C"])
    try:
        # What is not there to be destroyed is told as an error too: only the last one counts.
        codes = [order(command, each, timeout_seconds)[0] for each in back]
    except SmiError as error:
        return f"It could not be brought back to what it was, {_mig.text_of(have)}: {error}"
    if codes[-1] and len(back) > 2:
        return f"It could not be brought back to what it was, {_mig.text_of(have)}"
    return f"It is as it was, {_mig.text_of(have)}"


def as_declared(
    cards: Sequence[Card], declared: Mapping[str, Layout], layouts: Mapping[str, Layout]
) -> list[Card]:
    """The cards as they will be when they are cut as declared, for a look before that.

    A device that is yet to be made has the name ``MIG-<card>/new-<number>/0``; its memory is what devices of
    its profile have on such cards, and unknown where nobody saw one.
    """
    return [
        replace(
            card,
            mig_enabled=declared[card.uuid] != OFF,
            mig_devices=tuple(
                _made_up(card, number, profile) for number, profile in enumerate(_list(declared[card.uuid]))
            ),
        )
        if card.uuid in declared and _mig.answers(card) and declared[card.uuid] != layouts.get(card.uuid)
        else card
        for card in cards
    ]


def _list(layout: Layout) -> list[str]:
    return [] if isinstance(layout, str) else layout


def _made_up(card: Card, number: int, profile: str) -> MigDevice:
    mib = _mig.seen_mib(card.name, profile)
    return MigDevice(
        index=number,
        gpu_instance_id=f"new-{number}",
        compute_instance_id="0",
        uuid=f"MIG-{card.uuid}/new-{number}/0",
        name=f"MIG {profile}",
        memory=Memory(mib, 0, 0, mib) if mib else None,
        unknown="" if mib else "it is known when the card is cut",
    )


def daemon_problem(mps: Mapping[str, Any]) -> str:
    """Why the daemon cannot take a replica. It is asked, as its pipes stay when it ends."""
    remedy = "Run role gpu_sharing again, or look at 'systemctl status voicefleet-mps'."
    try:
        done = subprocess.run(
            [CONTROL],
            input="get_server_list\n",
            capture_output=True,
            text=True,
            timeout=CONTROL_SECONDS,
            env={**os.environ, _mps.PIPE_DIRECTORY: str(mps["pipe_dir"])},
            check=False,
        )
    except FileNotFoundError:
        return f"MPS is declared on this host, and there is no {CONTROL}. {remedy}"
    except subprocess.TimeoutExpired:
        return (
            f"MPS is declared on this host, and its daemon did not answer in {CONTROL_SECONDS:g} s. {remedy}"
        )
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        return f"MPS is declared on this host, and its daemon does not answer: {said} {remedy}"
    return ""
