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
  - What it has done stands in the container's labels. A run that was cut off is simply run again.
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
    - What was done, or in check mode would be. One of V(none), V(start), V(create), V(replace), V(remove).
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

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica, _specification
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
    connect,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed, Slot

if t.TYPE_CHECKING:
    from docker import DockerClient


class Replica:
    """One replica between what is and what is wanted."""

    def __init__(self, module: AnsibleModule, client: DockerClient) -> None:
        self.params = module.params
        self.check_mode = module.check_mode
        self.client = client
        self.name = f"{self.params['service']}-{self.params['number']}"
        self.directories = _specification.replica_directories(
            self.params["data_dir"], self.params["service"], self.name
        )
        self.seen: Observed | None = next(
            (
                replica
                for replica in _replica.observe(client, self.params["service"])
                if replica.number == self.params["number"]
            ),
            None,
        )
        self.result: dict[str, t.Any] = {"changed": False, "action": "none"}

    def present(self) -> None:
        specification = self.params["specification"]
        config = _specification.container_config(
            self.params["service"],
            self.params["number"],
            Slot(**self.params["slot"]),
            specification,
            self._image_id(specification["image"]),
            self.params["data_dir"],
        )
        if self.seen and self.seen.spec == _specification.spec_hash(config):
            self.result["container_id"] = self.seen.container_id
            if self.seen.state not in ("running", "restarting"):
                self._act("start", config)
        else:
            self._act("replace" if self.seen else "create", config)

    def absent(self) -> None:
        if self.seen:
            self._act("remove", {})

    def _act(self, action: str, config: dict[str, t.Any]) -> None:
        before = _replica.recorded_config(self.client, self.seen.container_id) if self.seen else {}
        self.result.update(
            changed=True,
            action=action,
            diff={"before": _specification.readable(before), "after": _specification.readable(config)},
        )
        if self.check_mode:
            return
        if self.seen and action in ("replace", "remove"):
            self.result["drained"] = _replica.drain(
                self.client,
                self.seen.container_id,
                self.directories["control"],
                self.params["drain_timeout_seconds"],
            )
            _replica.remove(self.client, self.seen.container_id, before.get("stop_timeout_seconds", 90))
        _replica.lower_drain_flag(self.directories["control"])
        if action == "remove":
            self.result.pop("container_id", None)
            return
        if action == "start":
            self.client.api.start(self.result["container_id"])
        else:
            _replica.make_directories(self.directories, config["user"])
            self.result["container_id"] = _replica.create(self.client, config)
        self.result["started_seconds"] = round(
            _replica.wait_healthy(
                self.client, self.result["container_id"], self.params["start_timeout_seconds"]
            ),
            1,
        )

    def _image_id(self, image: str) -> str:
        try:
            return _replica.image_id(self.client, image)
        except _replica.ReplicaError:
            if self.check_mode:
                return ""
            raise


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
                "options": {
                    "gpu": {"type": "str"},
                    "index": {"type": "int", "required": True},
                    "memory_mib": {"type": "int"},
                },
            },
            "start_timeout_seconds": {"type": "float", "default": 180},
            "drain_timeout_seconds": {"type": "float", "default": 15},
        },
        required_if=[("state", "present", ("specification", "slot"))],
        supports_check_mode=True,
    )
    try:
        client = connect(module.params["docker_host"], timeout=300)
    except EngineError as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        module.exit_json(changed=module.params["state"] == "present", action="create")
    replica = Replica(module, client)
    try:
        getattr(replica, module.params["state"])()
    except _replica.ReplicaError as error:
        module.fail_json(msg=str(error), **replica.result)
    module.exit_json(**replica.result)


if __name__ == "__main__":
    main()
