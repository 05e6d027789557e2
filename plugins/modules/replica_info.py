#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_info
short_description: Tell which replicas of a service a host has
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Reads the replicas of a service from the Docker Engine, as their labels and their state tell.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.info_module
  - voicefleet.cosyvoice.attributes.platform
options:
  service:
    description: Name of the service.
    type: str
    required: true
  network:
    description: The network whose addresses RV(replicas[].url) is made of. Any network when not given.
    type: str
  engine_required:
    description:
      - Whether a host without an engine is an error. If not, it is a host without replicas.
    type: bool
    default: true
  data_dir:
    description: Directory on the host below which each replica has its drain flag.
    type: path
    default: /var/lib/voicefleet
  docker_host:
    description: Where the Docker Engine listens.
    type: str
    default: unix:///var/run/docker.sock
seealso:
  - module: voicefleet.cosyvoice.replica_plan
"""

EXAMPLES = r"""
- name: See which replicas there are
  voicefleet.cosyvoice.replica_info:
    service: cosyvoice
  register: cosyvoice

- name: Read the cards' capacity, with our own replicas' memory left out of the account
  voicefleet.cosyvoice.gpu_capacity:
    own_containers: "{{ cosyvoice.replicas | map(attribute='container_id') }}"
"""

RETURN = r"""
gpu_access:
  description:
    - How the engine gives a card to a container. V(cdi) where it reads CDI specifications and there is one of
      NVIDIA's cards, V(hook) otherwise.
  type: str
  returned: always
replicas:
  description: The service's replicas, running or not, ordered by number.
  returned: success
  type: list
  elements: dict
  contains:
    number:
      description: The replica's number, from 1.
      type: int
    name:
      description: Name of its container.
      type: str
    container_id:
      description: Id of its container.
      type: str
    slot:
      description: The slot it sits on, V(<UUID of the card>/<index>) or V(cpu/<index>).
      type: str
    gpu:
      description: UUID of its card, empty without one.
      type: str
    revision:
      description: The revision it was made for.
      type: str
    spec:
      description: Hash of its specification.
      type: str
    image:
      description: The image's name, as it was asked for.
      type: str
    image_id:
      description: Content address of its image.
      type: str
    state:
      description: Docker's state, such as V(running) or V(exited).
      type: str
    health:
      description: Docker's health, V(healthy), V(unhealthy), V(starting), or V(none) without a health check.
      type: str
    draining:
      description: Whether its drain flag is up.
      type: bool
    aside:
      description: Whether it was set aside while its successor started, and is a leftover of a run cut off.
      type: bool
    url:
      description: Where it listens, as Traefik reaches it. Empty when it does not run.
      type: str
      sample: http://172.30.0.4:7860
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _cdi, _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
    connect,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "network": {"type": "str"},
            "engine_required": {"type": "bool", "default": True},
            "data_dir": {"type": "path", "default": "/var/lib/voicefleet"},
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        client = connect(params["docker_host"])
    except EngineError as error:
        if params["engine_required"]:
            module.fail_json(msg=str(error))
        module.exit_json(replicas=[], gpu_access="hook")
    observed = _replica.observe(client, params["service"], params["data_dir"])
    module.exit_json(
        replicas=[_replica.describe(client, replica, params["network"]) for replica in observed],
        gpu_access=_cdi.access(client.info()),
    )


if __name__ == "__main__":
    main()
