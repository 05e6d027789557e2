#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at NVIDIA's container toolkit on a host once, for everything that is to be decided about it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_container_toolkit_info
short_description: Look at NVIDIA's container toolkit on a host, and plan what has to be done
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - One look at a host for everything the role P(voicefleet.cosyvoice.nvidia_container_toolkit#role) decides.
    Which packages are there, which are missing or of another version, what forbids it, and whether the CDI
    specifications of the host say which cards there are.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.info_module
options:
  family:
    description: The host's family of distributions, as C(ansible_facts.os_family).
    type: str
    required: true
  architecture:
    description: The host's architecture, as C(ansible_facts.architecture).
    type: str
    default: x86_64
  toolkit_version:
    description: The version of all four packages, such as V(1.20.0-1), or V(1.20.0) for any build of it.
    type: str
    required: true
  manage:
    description: Whether the toolkit may be installed at all.
    type: bool
    default: true
  manage_repo:
    description: Whether the role adds NVIDIA's repository.
    type: bool
    default: true
  repo_url:
    description: Address of NVIDIA's repositories.
    type: str
    default: https://nvidia.github.io/libnvidia-container
  cdi:
    description: Whether CDI specifications are wanted.
    type: bool
    default: true
  sysfs:
    description: The root of sysfs.
    type: path
    default: /sys
  record_path:
    description: The file in which the role keeps what it installed.
    type: path
    default: /etc/voicefleet/nvidia_container_toolkit/record.json
"""

EXAMPLES = r"""
- name: Look at the container toolkit
  voicefleet.cosyvoice.nvidia_container_toolkit_info:
    family: "{{ ansible_facts['os_family'] }}"
    toolkit_version: 1.20.0-1
  register: toolkit

- name: Say what is missing
  ansible.builtin.debug:
    msg: "{{ toolkit.plan.missing | join(', ') }}"
"""

RETURN = r"""
uid:
  description: The user the module ran as.
  type: int
  returned: always
cards:
  description: How many of NVIDIA's cards there are.
  type: int
  returned: always
packages:
  description: The versions of the toolkit's packages that are installed.
  type: dict
  returned: always
  sample: {nvidia-container-toolkit: 1.20.0-1}
plan:
  description: What is to be done.
  type: dict
  returned: always
  contains:
    managed: {description: Whether the toolkit is ours to change., type: bool, returned: always}
    reason: {description: Why it is or is not., type: str, returned: always}
    missing: {description: Packages that are not there., type: list, elements: str, returned: always}
    outdated: {description: Packages of another version., type: list, elements: str, returned: always}
    install: {description: What to tell apt or dnf to install., type: list, elements: str, returned: always}
    problems: {description: What forbids it., type: list, elements: str, returned: always}
repository:
  description: NVIDIA's repository for this host, its C(url) and the path of its key, C(key).
  type: dict
  returned: always
files:
  description:
    - The files that keep the toolkit as it was chosen, each with its C(path), C(content), whether it
      C(differs) on the host, whether its C(folder) is there, and C(part), V(before) for those that packages
      are chosen by, or V(after).
  type: list
  elements: dict
  returned: always
all_files:
  description: Files of the role that are there, wanted or not.
  type: list
  elements: str
  returned: always
daemon_additions:
  description: What dockerd's C(daemon.json) has to say for the toolkit. Empty on a host without cards.
  type: dict
  returned: always
cdi:
  description:
    - The CDI specifications of NVIDIA's cards. Their C(paths), the UUIDs of the C(devices) in them, whether
      C(nvidia-smi) C(answers), so that they can be written, and why they are C(stale), in words, empty
      where they name what can be given to a container, and files of the driver that is loaded.
  type: dict
  returned: always
asked:
  description: What was asked for, by the options' names.
  type: dict
  returned: always
record:
  description: What the role recorded on this host.
  type: dict
  returned: always
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _daemon_plan,
    _toolkit,
    _toolkit_look,
)

ASKED = ("toolkit_version", "manage", "manage_repo", "repo_url", "cdi", "sysfs")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "family": {"type": "str", "required": True},
            "architecture": {"type": "str", "default": "x86_64"},
            "toolkit_version": {"type": "str", "required": True},
            "manage": {"type": "bool", "default": True},
            "manage_repo": {"type": "bool", "default": True},
            "repo_url": {"type": "str", "default": "https://nvidia.github.io/libnvidia-container"},
            "cdi": {"type": "bool", "default": True},
            "sysfs": {"type": "path", "default": "/sys"},
            "record_path": {
                "type": "path",
                "default": "/etc/voicefleet/nvidia_container_toolkit/record.json",
            },
        },
        supports_check_mode=True,
    )
    params = module.params
    record, error = _daemon_plan.read_json(params["record_path"])
    if error:
        module.fail_json(msg=error)
    wish = _toolkit.Wish(
        version=params["toolkit_version"],
        manage=params["manage"],
        manage_repo=params["manage_repo"],
        repo_url=params["repo_url"],
        cdi=params["cdi"],
    )
    module.exit_json(
        changed=False,
        uid=os.geteuid(),
        record=record or {},
        asked={name: params[name] for name in ASKED},
        **_toolkit_look.look(wish, params["family"], params["architecture"], params["sysfs"], record or {}),
    )


if __name__ == "__main__":
    main()
