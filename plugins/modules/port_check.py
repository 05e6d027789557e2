#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Say which ports are taken, and by whom, before anything tries to use them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_check
short_description: Check that TCP ports of a host can be bound, and name who holds the others
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - Asks the kernel for each port, and names the container or the process that holds one that cannot be had.
  - It runs on a host without an engine, too. With one, the container that is to have a port may hold it.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.info_module
options:
  ports:
    description: The ports to check.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: The port.
        type: int
        required: true
      address:
        description: The address of the host it is to be bound on.
        type: str
        default: 0.0.0.0
      purpose:
        description: What it is for, in the words of a message.
        type: str
        default: ''
      owner:
        description: The name of the container that may hold it.
        type: str
        default: ''
      variable:
        description: The variable that sets it, to be named in a message.
        type: str
        default: ''
  docker_host:
    description: The engine to ask for published ports. Where none answers, only processes are looked at.
    type: str
    default: unix:///var/run/docker.sock
  fail:
    description: Fail when a port cannot be had.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Refuse ports that others hold
  voicefleet.cosyvoice.port_check:
    ports:
      - port: 80
        purpose: the entry point web
        owner: voicefleet-traefik
        variable: traefik_web_port
"""

RETURN = r"""
ports:
  description: Each port as asked for, with what was found. The same on success and on failure.
  type: list
  elements: dict
  returned: always
  contains:
    free: {description: Whether nobody holds it., type: bool, returned: always}
    holder:
      description: Who holds it, its C(address), C(container) or C(pid) and C(command). V(null) for nobody.
      type: dict
      returned: always
    problem: {description: What is wrong and what to do; V(null) for nothing., type: str, returned: always}
"""

import ipaddress

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _engine, _ports


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ports": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "port": {"type": "int", "required": True},
                    "address": {"type": "str", "default": "0.0.0.0"},  # noqa: S104  what services bind by default
                    "purpose": {"type": "str", "default": ""},
                    "owner": {"type": "str", "default": ""},
                    "variable": {"type": "str", "default": ""},
                },
            },
            "docker_host": {"type": "str", "default": _engine.DEFAULT_DOCKER_HOST},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    wishes = [_ports.Wish(**port) for port in module.params["ports"]]
    for wish in wishes:
        change = f"Change {wish.variable or 'it'}."
        if not 0 < wish.port < 65536:
            module.fail_json(msg=f"{wish}: a port is a number from 1 to 65535. {change}")
        try:
            ipaddress.ip_address(wish.address)
        except ValueError:
            module.fail_json(msg=f"{wish}: {wish.address!r} is no IP address. {change}")
    try:
        client = _engine.connect(module.params["docker_host"])
        containers = client.api.containers()
        client.close()
    except _engine.EngineError:  # none yet, or none that can be asked: then no container holds a port
        containers = []
    checked = _ports.check(wishes, containers)
    problems = [port["problem"] for port in checked if port["problem"]]
    if problems and module.params["fail"]:
        module.fail_json(msg=" ".join(problems), ports=checked)
    module.exit_json(changed=False, ports=checked)


if __name__ == "__main__":
    main()
