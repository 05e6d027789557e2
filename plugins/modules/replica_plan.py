#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_plan
short_description: Tell what has to happen for the wanted replicas to run on their slots
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Compares the replicas that are wanted with those that the engine has, and returns ordered steps, each with
    its reason. Changes nothing; M(voicefleet.cosyvoice.replica) carries a step out.
  - A replica keeps its slot for as long as the slot exists. No step puts two replicas on one slot; what frees
    a slot stands before what needs it.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
  - voicefleet.cosyvoice.replica
attributes:
  check_mode:
    support: full
    details:
      - Nothing is ever changed. In check mode C(changed) tells whether there is anything to do, and a
        host without an engine, or without the image, counts as one where that has yet to come.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  specification:
    required: true
  replicas:
    description:
      - How many replicas to run, or V(max) for one on every slot.
      - More than there are slots is refused, with the arithmetic in the message.
    type: str
    required: true
  slots:
    description:
      - The places for replicas, as RV(voicefleet.cosyvoice.gpu_capacity#module:slots) returns them.
      - Not given on a host where replicas take no card. Any number of replicas fits there.
    type: list
    elements: dict
    suboptions:
      gpu:
        description: UUID of the card or of its MIG device.
        type: str
      index:
        description: Number of the slot on that card, from 0.
        type: int
        required: true
      memory_mib:
        description: What a replica on this slot may use of the card's memory.
        type: int
  capacity_summary:
    description: The account of the capacity, for the message when more is asked for than fits.
    type: str
    default: ""
seealso:
  - module: voicefleet.cosyvoice.gpu_capacity
  - module: voicefleet.cosyvoice.replica
"""

EXAMPLES = r"""
- name: Plan two replicas per 24 GB card
  voicefleet.cosyvoice.replica_plan:
    service: cosyvoice
    replicas: max
    slots: "{{ capacity.slots }}"
    capacity_summary: "{{ capacity.summary }}"
    specification:
      image: voicefleet/speech_server:3f1c0a9be771
      revision: 2512
      port: 7860
      network: voicefleet
      health:
        test: [CMD-SHELL, "test ! -e /run/voicefleet/drain && curl -fs http://127.0.0.1:7860/healthz"]
  register: plan

- name: Show the plan
  ansible.builtin.debug:
    var: plan.summary
"""

RETURN = r"""
steps:
  description: What to do, in this order. V(keep) steps are part of it.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: One of V(keep), V(start), V(create), V(replace), V(remove).
      type: str
    name:
      description: The replica's container.
      type: str
    number:
      description: The replica's number, from 1.
      type: int
    slot:
      description: The slot it has or gets. Absent for V(remove).
      type: dict
    reason:
      description: Why.
      type: str
  sample:
    - action: create
      name: cosyvoice-1
      number: 1
      reason: wanted and not there
      slot: {gpu: GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11, index: 0, memory_mib: 8192}
todo:
  description: The steps that are not V(keep).
  returned: always
  type: list
  elements: dict
summary:
  description: The steps as sentences.
  returned: always
  type: list
  elements: str
  sample: ["create cosyvoice-1 on GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11/0: wanted and not there"]
count:
  description: How many replicas there will be.
  returned: always
  type: int
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
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import (
    Observed,
    PlanError,
    Slot,
    Step,
    plan,
    wanted_count,
)


def observe(module: AnsibleModule) -> tuple[list[Observed], str]:
    """The service's replicas and the content address of the wanted image."""
    try:
        client = connect(module.params["docker_host"])
        # In check mode an image may be missing that will be there by then; no running replica can have it.
        image_id = _replica.image_id(
            client, module.params["specification"]["image"], must_exist=not module.check_mode
        )
        return _replica.observe(client, module.params["service"], module.params["data_dir"]), image_id
    except EngineError as error:
        if not module.check_mode:
            raise
        module.warn(f"Nothing can be observed, so the plan is made as for a new host. {error}")
        return [], ""


def as_data(step: Step) -> dict[str, Any]:
    return {key: value for key, value in asdict(step).items() if value is not None}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "specification": {"type": "dict", "required": True, "options": _specification.ARGUMENT_SPEC},
            "data_dir": {"type": "path", "default": "/var/lib/voicefleet"},
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
            "replicas": {"type": "str", "required": True},
            "slots": {
                "type": "list",
                "elements": "dict",
                "options": _specification.SLOT_OPTIONS,
            },
            "capacity_summary": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    service = params["service"]
    slots = None if params["slots"] is None else [Slot(**slot) for slot in params["slots"]]
    try:
        count = wanted_count(service, params["replicas"], slots, params["capacity_summary"])
        observed, image_id = observe(module)
    except (PlanError, EngineError, _replica.ReplicaError) as error:
        module.fail_json(msg=str(error))

    def spec_of(number: int, slot: Slot) -> str:
        return _specification.spec_hash(
            _specification.container_config(
                service, number, slot, params["specification"], image_id, params["data_dir"]
            )
        )

    steps = plan(service, count, slots, observed, spec_of)
    todo = [step for step in steps if step.action != "keep"]
    module.exit_json(
        # A plan changes nothing; but a dry run is to show that, and what, would change.
        changed=bool(todo) and module.check_mode,
        steps=[as_data(step) for step in steps],
        todo=[as_data(step) for step in todo],
        summary=[str(step) for step in steps],
        count=count,
        diff={
            "before": "".join(f"{replica.name} on {replica.slot} ({replica.spec})\n" for replica in observed),
            "after": "".join(
                f"{step.name} on {step.slot.key} ({spec_of(step.number, step.slot)})\n"
                for step in sorted(steps, key=lambda step: step.number)
                if step.slot
            ),
        },
    )


if __name__ == "__main__":
    main()
