#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: replica
short_description: Bring one replica of a GPU web service to its specification
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Creates, starts, replaces or removes the container of one replica on one slot, and waits until Docker
    calls it healthy, which is when Traefik begins to send it callers.
  - Before a replica is stopped it is drained. Its drain flag makes its health check fail, so Traefik takes it
    out of its list; then SIGTERM lets it finish what it has in hand.
  - A replaced container is set aside as C(<service>-<number>.old) and only removed when its successor is
    healthy. If the successor never is, the old one comes back, and the module fails with its last words.
  - What it has done stands in the containers' names and labels. A run that was cut off is simply run again.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
  - voicefleet.cosyvoice.replica
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - The configuration of the container before and after. Values of environment variables whose names look
        like those of secrets are not shown.
  idempotent:
    support: full
options:
  specification:
    description:
      - What the container is made from. Required with O(state=present).
  number:
    description: The replica's number, from 1. Its container is C(<service>-<number>).
    type: int
    required: true
  state:
    description:
      - V(present) means running, on its slot, as specified, and healthy.
      - V(absent) means that there is no container; its directories on the host stay.
    type: str
    choices: [present, absent]
    default: present
  slot:
    description: The place the replica takes, from RV(voicefleet.cosyvoice.replica_plan#module:steps[].slot).
    type: dict
    suboptions:
      gpu:
        description: UUID of the card or of its MIG device. None on a host without cards.
        type: str
      index:
        description: Number of the slot on that card, from 0.
        type: int
        required: true
      memory_mib:
        description: What the replica may use of the card's memory.
        type: int
  start_timeout_seconds:
    description: How long a new container may take to turn healthy.
    type: float
    default: 180
  drain_timeout_seconds:
    description: How long to wait for the health check to notice the drain flag before the replica is stopped.
    type: float
    default: 15
seealso:
  - module: voicefleet.cosyvoice.replica_plan
"""

EXAMPLES = r"""
- name: Carry out the plan, one replica after another
  voicefleet.cosyvoice.replica:
    service: cosyvoice
    number: "{{ item.number }}"
    state: "{{ 'absent' if item.action == 'remove' else 'present' }}"
    slot: "{{ item.slot | default(omit) }}"
    specification: "{{ specification }}"
  loop: "{{ plan.todo }}"
  loop_control:
    label: "{{ item.action }} {{ item.name }}: {{ item.reason }}"
"""

RETURN = r"""
action:
  description:
    - What was done, or in check mode would be. One of V(none), V(start), V(create), V(replace), V(remove);
      or V(restore) on failure, when the old container is back in its place.
  returned: always
  type: str
container_id:
  description: The container, where there is one now.
  returned: when the replica exists
  type: str
started_seconds:
  description: How long the new container took to turn healthy.
  returned: when a container was started
  type: float
  sample: 4.1
drained:
  description: Whether the health check had noticed the drain flag before the old container was stopped.
  returned: when a container was stopped
  type: bool
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica, _specification
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
    connect,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rollout import Rollout

# A stop lasts as long as the longest answer in hand.
ENGINE_TIMEOUT_SECONDS = 600


def told(rollout: Rollout) -> dict[str, Any]:
    """What was done and observed, without what did not come up."""
    return {key: value for key, value in asdict(rollout.outcome).items() if value is not None}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "specification": {"type": "dict", "options": _specification.ARGUMENT_SPEC},
            "data_dir": {"type": "path", "default": "/var/lib/voicefleet"},
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
            "number": {"type": "int", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "slot": {
                "type": "dict",
                "options": _specification.SLOT_OPTIONS,
            },
            "start_timeout_seconds": {"type": "float", "default": 180},
            "drain_timeout_seconds": {"type": "float", "default": 15},
        },
        required_if=[("state", "present", ("specification", "slot"))],
        supports_check_mode=True,
    )
    params = module.params
    wanted = params["state"] == "present"
    try:
        client = connect(params["docker_host"], timeout=ENGINE_TIMEOUT_SECONDS)
    except EngineError as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        module.exit_json(changed=wanted, action="create" if wanted else "none")
    rollout = Rollout(
        client,
        params["service"],
        params["number"],
        params["data_dir"],
        params["start_timeout_seconds"],
        params["drain_timeout_seconds"],
    )
    result: dict[str, Any] = {}
    try:
        config = None
        if wanted:
            config = _specification.container_config(
                params["service"],
                params["number"],
                Slot(**params["slot"]),
                params["specification"],
                _replica.image_id(client, params["specification"]["image"], must_exist=not module.check_mode),
                params["data_dir"],
            )
        action = rollout.action(config)
        result = {
            "changed": action != "none",
            "action": action,
            "diff": {
                "before": _specification.readable(rollout.before()),
                "after": _specification.readable(config),
            },
        }
        if not module.check_mode:
            rollout.carry_out(config)
    except _replica.ReplicaError as error:
        module.fail_json(msg=str(error), **{**result, **told(rollout)})
    module.exit_json(**{**result, **({} if module.check_mode else told(rollout))})


if __name__ == "__main__":
    main()
