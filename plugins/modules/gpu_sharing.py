#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_sharing
short_description: Cut cards into MIG instances as declared, and tell whether MPS may be changed
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Compares how the cards of a host are cut (MIG) and shared (MPS) with how they are to be, and makes the MIG
    layouts so with C(nvidia-smi). P(voicefleet.cosyvoice.gpu_sharing#role) does the rest of MPS.
  - A card that has to change while a container holds it or a process is on it is refused with their names,
    before anything changes on any card.
  - When C(nvidia-smi) refuses an order in the middle, the card gets back the layout it had.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
attributes:
  check_mode:
    support: full
    details:
      - Refuses what it would refuse otherwise.
  diff_mode:
    support: full
    details:
      - The layout of each card before and after.
  idempotent:
    support: full
options:
  mig:
    description:
      - The layout of each card, named by its UUID, its PCI address or its index. V(all) stands for every card
        that knows MIG and is not named by itself.
      - A list of GPU instance profiles such as V([3g.20gb, 3g.20gb]), each of which gets one compute
        instance; an empty list for MIG mode without instances; V(off) (V(false) too, as YAML reads it) for a
        card that is not cut. A card that is not named is left as it is.
    type: dict
    default: {}
  mps:
    description: Whether MPS is to share the cards that are not in MIG mode.
    type: bool
    default: false
  mps_uid:
    description: The user id whose processes MPS serves. Required with O(mps=true).
    type: str
    default: ""
  mps_pipe_dir:
    description: Where its pipes are.
    type: path
    default: /run/nvidia-mps
  mps_thread_percentage:
    description: The share of a card's threads that a client gets at most.
    type: int
    default: 100
  mps_memory_mib:
    description: The memory of a card in MiB that a client gets at most. No limit but the card's when V(0).
    type: int
    default: 0
  declared_file:
    description: Where the host keeps what was declared last.
    type: path
    default: /etc/voicefleet/gpu_sharing/declared.json
  smi_command:
    description: The command C(nvidia-smi), with leading arguments if need be.
    type: str
    default: nvidia-smi
  timeout_seconds:
    description: How long one call of it may take. A reset of a card is part of some.
    type: int
    default: 120
  docker_host:
    description:
      - Where the Docker Engine listens. Without an engine there are no containers to look for.
    type: str
    default: unix:///var/run/docker.sock
seealso:
  - module: voicefleet.cosyvoice.gpu_capacity
"""

EXAMPLES = r"""
- name: Cut one card in two and leave the others
  voicefleet.cosyvoice.gpu_sharing:
    mig:
      GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11: [3g.20gb, 3g.20gb]

- name: See what would become of a host, and who is on its cards
  voicefleet.cosyvoice.gpu_sharing:
    mig: {all: "off"}
    mps: true
    mps_uid: "10001"
  check_mode: true
  register: sharing
"""

RETURN = r"""
cards:
  description: The cards of the host.
  returned: always, where they could be read
  type: list
  elements: dict
  contains:
    uuid:
      description: The card's UUID.
      type: str
    index:
      description: Its index as C(nvidia-smi) counts.
      type: int
    name:
      description: The product name.
      type: str
    layout:
      description: How it is cut, V(off) if it is not.
      type: raw
    declared:
      description: How it is declared to be cut, null if it is not declared.
      type: raw
    mps:
      description: Whether MPS is declared to share it.
      type: bool
    compute_mode:
      description: Its compute mode.
      type: str
    users:
      description: Who is on it.
      type: list
      elements: str
declaration:
  description:
    - What is declared. Layouts by UUIDs (C(mig)), and C(mps) with its C(uid), C(pipe_dir), C(cards) and
      limits, or null.
  returned: success
  type: dict
declared:
  description: What was declared before, in the same form.
  returned: success
  type: dict
before:
  description: How the cards with a declared layout were cut before.
  returned: success
  type: dict
mps_change:
  description: What has to become of the daemon, V(nothing), V(start), V(restart) or V(stop).
  returned: success
  type: str
mig_change:
  description: The UUIDs of the cards that were, or would be, cut anew.
  returned: success
  type: list
  elements: str
orders:
  description: What C(nvidia-smi) was told, or would be.
  returned: success
  type: list
  elements: str
mps_clients:
  description: The containers that MPS serves now.
  returned: success
  type: list
  elements: str
"""

import shlex
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _card_users, _mig, _sharing
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
    connect,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi import query
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import Card, SmiError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._sharing import Declaration, Sharing

ARGUMENTS: dict[str, Any] = {
    "mig": {"type": "dict", "default": {}},
    "mps": {"type": "bool", "default": False},
    "mps_uid": {"type": "str", "default": ""},
    "mps_pipe_dir": {"type": "path", "default": "/run/nvidia-mps"},
    "mps_thread_percentage": {"type": "int", "default": 100},
    "mps_memory_mib": {"type": "int", "default": 0},
    "declared_file": {"type": "path", "default": _sharing.DECLARED},
    "smi_command": {"type": "str", "default": "nvidia-smi"},
    "timeout_seconds": {"type": "int", "default": 120},
    "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
}


def holders(module: AnsibleModule) -> list[_card_users.Holder]:
    """The containers that run; none where there is no engine."""
    try:
        return _card_users.holders(connect(module.params["docker_host"]))
    except EngineError as error:
        module.warn(f"Containers cannot be looked for, so only processes count as users of a card. {error}")
        return []


def sharing_of(
    params: dict[str, Any], command: list[str], cards: list[Card], before: Declaration
) -> tuple[Sharing, list[str]]:
    """What is declared against what is, and the UUIDs of the cards of MPS, those it leaves too.

    :raises LayoutError: the declaration means nothing here.
    """
    mig = _mig.resolve(params["mig"], cards, before.mig)
    layouts = _sharing.look_at_layouts(command, cards, params["timeout_seconds"])
    mps = None
    shared: list[Card] = []
    problems = []
    if params["mps"]:
        shared = _sharing.mps_cards(cards, mig, layouts)
        problems += _sharing.mps_problems(shared)
        mps = {
            "uid": params["mps_uid"],
            "pipe_dir": params["mps_pipe_dir"],
            "cards": [card.uuid for card in shared],
            "thread_percentage": params["mps_thread_percentage"],
            "memory_mib": params["mps_memory_mib"],
        }
    sharing = Sharing(Declaration(mig, mps), layouts, problems=problems)
    for uuid, layout in mig.items():
        card = next(card for card in cards if card.uuid == uuid)
        if not _mig.answers(card):
            continue
        problem = _mig.check_possible(
            card, layout, _sharing.what_cards_offer(command, card, params["timeout_seconds"])
        )
        if problem:
            sharing.problems.append(problem)
        found = _mig.orders(uuid, layouts[uuid], layout)
        if found:
            sharing.orders[uuid] = found
    sharing.mps = _sharing.mps_change(before.mps, mps, {card.uuid for card in cards})
    of_mps = [*(mps or {}).get("cards", []), *(before.mps or {}).get("cards", [])]
    return sharing, of_mps


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS, required_if=[("mps", True, ("mps_uid",))], supports_check_mode=True
    )
    params = module.params
    command = shlex.split(params["smi_command"])
    result: dict[str, Any] = {}
    try:
        before = _sharing.read_declared(params["declared_file"])
        cards = [card for card in query(command, params["timeout_seconds"]).cards if card.uuid]
        containers = holders(module)
        users = {card.uuid: _card_users.users(card, containers) for card in cards}
        sharing, of_mps = sharing_of(params, command, cards, before)
    except (SmiError, _mig.LayoutError) as error:
        module.fail_json(msg=str(error))
    mps = sharing.wanted.mps
    result["cards"] = [
        {
            "uuid": card.uuid,
            "index": card.index,
            "name": card.name,
            "layout": sharing.layouts[card.uuid],
            "declared": sharing.wanted.mig.get(card.uuid),
            "mps": mps is not None and card.uuid in mps["cards"],
            "compute_mode": card.compute_mode,
            "users": users[card.uuid],
        }
        for card in cards
    ]
    problems = [*sharing.problems, *_sharing.refusals(sharing, cards, users, of_mps)]
    if problems:
        module.fail_json(msg=" ".join(problems), **result)
    after = {**sharing.layouts, **sharing.wanted.mig}
    result.update(
        changed=bool(sharing.orders),
        declaration=sharing.wanted.as_data(),
        declared=before.as_data(),
        before={
            card.uuid: sharing.layouts[card.uuid]
            for card in cards
            if card.uuid in sharing.wanted.mig and _mig.answers(card)
        },
        mps_change=sharing.mps,
        mig_change=list(sharing.orders),
        orders=[f"nvidia-smi {' '.join(each)}" for orders in sharing.orders.values() for each in orders],
        mps_clients=_card_users.clients(
            containers, (before.mps or {}).get("pipe_dir", params["mps_pipe_dir"])
        ),
        diff={"before": told(cards, sharing.layouts), "after": told(cards, after)},
    )
    if not module.check_mode:
        try:
            for card in cards:
                if card.uuid in sharing.orders:
                    _sharing.carry_out(
                        command,
                        card,
                        sharing.layouts[card.uuid],
                        sharing.orders[card.uuid],
                        params["timeout_seconds"],
                    )
        except (SmiError, _sharing.MigChangeError) as error:
            module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


def told(cards: list[Card], layouts: dict[str, Any]) -> str:
    """How the cards are cut, a line each."""
    return "".join(
        f"{card.name} #{card.index} ({card.uuid}): {_mig.text_of(layouts[card.uuid])}\n" for card in cards
    )


if __name__ == "__main__":
    main()
