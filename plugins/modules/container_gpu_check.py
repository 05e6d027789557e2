#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at NVIDIA's cards from inside the containers that have them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_gpu_check
short_description: Look at NVIDIA's cards from inside containers
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - Runs C(nvidia-smi -L) in every running container that was given a card. A container that got it by
    NVIDIA's hook loses it when systemd reads its units anew, runs on, and fails at its next request; nothing
    on the host shows that.
  - With O(image), and while no container has a card, it looks from a container of that image which is removed
    at once. Beside replicas on full cards it starts nothing.
  - It fails when a container does not get at its cards, naming host and container, with what to do.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
attributes:
  check_mode:
    support: full
    details:
      - In check mode it makes no container.
  diff_mode:
    support: N/A
    details:
      - This module does not modify state.
  idempotent:
    support: full
    details:
      - This module does not modify state.
options:
  image:
    description: An image for the container that is made where none has a card. One that is not on the host is
      warned of, and not pulled.
    type: str
  look_inside:
    description: Whether the containers are looked into; when false they are only listed.
    type: bool
    default: true
  engine_required:
    description: Whether it is an error when no engine answers. Without one there are no containers.
    type: bool
    default: true
  docker_host:
    description: Address of the engine.
    type: str
    default: unix:///var/run/docker.sock
"""

EXAMPLES = r"""
- name: Look at the cards from inside containers
  voicefleet.cosyvoice.container_gpu_check:
    image: registry.example.com/speech/cosyvoice3-runtime:2512
"""

RETURN = r"""
containers:
  description: Names of the running containers that were given a card.
  type: list
  elements: str
  returned: always
  sample: [cosyvoice-1, cosyvoice-2]
checks:
  description: What was found in each, C(ok) or not, with what was C(found), C(wanted) and the C(remedy).
  type: list
  elements: dict
  returned: always
"""

import platform

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _container_gpus
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, summary
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
    connect,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str"},
            "look_inside": {"type": "bool", "default": True},
            "engine_required": {"type": "bool", "default": True},
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        client = connect(params["docker_host"])
    except EngineError as error:
        if params["engine_required"]:
            module.fail_json(msg=str(error), containers=[], checks=[])
        module.exit_json(changed=False, containers=[], checks=[])
    holders = _container_gpus.holders(client)
    checks: list[Check] = []
    if params["look_inside"]:
        checks = [_container_gpus.look_into(container) for container in holders]
        if params["image"] and not holders and not module.check_mode:
            found = _container_gpus.look_from(client, params["image"])
            checks = [found] if found else []
            if not found:
                module.warn(
                    f"No container looked at the cards: image {params['image']} is not on {platform.node()}."
                )
    result = {
        "containers": [container.name for container in holders],
        "checks": [each.as_dict() for each in checks],
    }
    failed = [each for each in checks if not each.ok]
    if failed:
        words = " ".join(f"{each.name}: {each.found}. {each.remedy}" for each in failed)
        module.fail_json(msg=f"{summary(checks)} on {platform.node()}. {words}", **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
