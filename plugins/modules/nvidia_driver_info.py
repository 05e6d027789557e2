#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at the NVIDIA cards and the driver of a host once, for everything that is to be decided about them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_info
short_description: Look at NVIDIA's cards and driver on a host, and plan what has to be done
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - One look at a host for everything the role P(voicefleet.cosyvoice.nvidia_driver#role) decides. Which
    cards there are, by their PCI ids; which driver fits them, the distribution and Secure Boot; which
    packages and files that takes; what is loaded and installed, and whether they agree.
  - It works on a host without a driver, without C(lspci) and without a card.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.info_module
options:
  distribution:
    description: Name of the host's distribution, as C(ansible_facts.distribution).
    type: str
    required: true
  release:
    description: Its release, such as V(12) for Debian, V(24.04) for Ubuntu or V(9) for RHEL.
    type: str
    required: true
  codename:
    description: The name of that release, as C(ansible_facts.distribution_release). Only Debian needs it.
    type: str
    default: ""
  family:
    description: Its family, as C(ansible_facts.os_family).
    type: str
    required: true
  architecture:
    description: The host's architecture, as C(ansible_facts.architecture).
    type: str
    default: x86_64
  manage:
    description: Whether the driver may be installed at all.
    type: bool
    default: true
  replace:
    description: Whether a driver that was there before the role may be replaced.
    type: bool
    default: false
  source:
    description: Where the driver comes from.
    type: str
    choices: [auto, distribution, nvidia]
    default: auto
  branch:
    description: The branch of the driver, V(auto) or a number such as V(580).
    type: str
    default: auto
  flavour:
    description: The flavour of its kernel modules.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  driver_version:
    description: One build of it, such as V(580.178.04). Empty for any of the branch.
    type: str
    default: ""
  manage_repo:
    description: Whether the role adds NVIDIA's repository.
    type: bool
    default: true
  manage_components:
    description: Whether the role adds the parts of Debian that are not C(main).
    type: bool
    default: true
  repo_url:
    description: Address of NVIDIA's repositories, without the distribution's name.
    type: str
    default: https://developer.download.nvidia.com/compute/cuda/repos
  reboot_policy:
    description: What may be done to a loaded driver.
    type: str
    choices: [never, if_idle, drain, reboot]
    default: never
  upgrading:
    description:
      - Whether the playbook C(driver_upgrade.yml) asks. It drains the host first, so what uses its cards is
        no problem, and without O(driver_version) the driver is brought to the newest build of its branch.
    type: bool
    default: false
  client_units:
    description:
      - Units of systemd whose programs use cards, apart from NVIDIA's own, in the order in which they stop.
    type: list
    elements: str
    default: []
  ask_sources:
    description: Whether the host's package sources are expected to have everything by now.
    type: bool
    default: false
  persistence:
    description: Whether nvidia-persistenced is to keep cards set up, which Ubuntu's unit of it does not.
    type: bool
    default: true
  sysfs:
    description: The root of sysfs.
    type: path
    default: /sys
  record_path:
    description: The file in which the role keeps what it installed.
    type: path
    default: /etc/voicefleet/nvidia_driver/record.json
"""

EXAMPLES = r"""
- name: Look at cards and driver
  voicefleet.cosyvoice.nvidia_driver_info:
    distribution: "{{ ansible_facts['distribution'] }}"
    release: "{{ ansible_facts['distribution_major_version'] }}"
    family: "{{ ansible_facts['os_family'] }}"
  register: driver

- name: Say what a reboot is due for
  ansible.builtin.debug:
    msg: "{{ driver.reboot.reasons | join(' ') }}"
  when: driver.reboot.due
"""

RETURN = r"""
uid:
  description: The user the module ran as.
  type: int
  returned: always
wsl:
  description: Whether this is WSL 2, where the driver is Windows' own.
  type: bool
  returned: always
cards:
  description: NVIDIA's cards, each with its C(address), C(device) and C(generation).
  type: list
  elements: dict
  returned: always
  sample:
    - {address: "0000:01:00.0", device: "2684", generation: Ada}
nvswitches:
  description: How many NVSwitches there are.
  type: int
  returned: always
nvlink5:
  description: Whether there are switches of NVLink 5, which are no PCI devices of this host.
  type: bool
  returned: always
secure_boot:
  description: Whether only signed kernel modules are loaded; V(null) without EFI.
  type: bool
  returned: always
choice:
  description: The driver that fits.
  type: dict
  returned: always
  contains:
    source: {description: "V(distribution) or V(nvidia).", type: str, returned: always}
    branch: {description: Such as 580., type: int, returned: always}
    flavour: {description: "V(open) or V(proprietary).", type: str, returned: always}
    precompiled: {description: Whether its modules come built and signed., type: bool, returned: always}
driver:
  description: What is there of a driver.
  type: dict
  returned: always
  contains:
    loaded_version: {description: Of the loaded module., type: str, returned: always}
    loaded_flavour: {description: Of the loaded module., type: str, returned: always}
    installed_version: {description: Of the library on disk., type: str, returned: always}
    nouveau: {description: Whether nouveau is loaded., type: bool, returned: always}
    running_kernel: {description: The release that runs., type: str, returned: always}
    kernels: {description: Releases that may boot., type: list, elements: str, returned: always}
    built: {description: Those with a module of the driver., type: list, elements: str, returned: always}
    unbuilt: {description: Those with headers and no module., type: list, elements: str, returned: always}
    clients: {description: Programs at a card., type: list, elements: str, returned: always}
    modules: {description: Loaded modules as they unload., type: list, elements: str, returned: always}
    installer: {description: Whether it came from the .run installer., type: bool, returned: always}
    services: {description: "NVIDIA's services that run.", type: list, elements: str, returned: always}
    client_units: {description: Of O(client_units)., type: list, elements: str, returned: always}
    persistence_unit: {description: Whether nvidia-persistenced is there., type: bool, returned: always}
    initramfs: {description: Whether kernels start from an image., type: bool, returned: always}
    stale_initramfs: {description: Whether nouveau may be in it still., type: bool, returned: always}
plan:
  description: What is to be done.
  type: dict
  returned: always
  contains:
    managed: {description: Whether the driver is ours to change., type: bool, returned: always}
    reason: {description: Why it is or is not., type: str, returned: always}
    build: {description: That is or will be there. Empty for unknown., type: str, returned: always}
    tools: {description: Missing packages to install first., type: list, elements: str, returned: always}
    missing: {description: All missing packages., type: list, elements: str, returned: always}
    install:
      description: What to tell apt to install, with the build that the sources have of the driver.
      type: list
      elements: str
      returned: always
    outdated: {description: Packages in another build., type: list, elements: str, returned: always}
    purge: {description: Packages that have to go first., type: list, elements: str, returned: always}
    changes_library: {description: Whether programs will meet another library., type: bool, returned: always}
    problems: {description: What forbids it., type: list, elements: str, returned: always}
    unavailable: {description: What the sources lack., type: list, elements: str, returned: always}
    stream: {description: The module stream to enable., type: str, returned: always}
packages:
  description: The versions of all packages that are there, finished or not.
  type: dict
  returned: always
broken:
  description: Packages that are there and not fully installed.
  type: list
  elements: str
  returned: always
repository:
  description: NVIDIA's repository for this host, its C(url), C(key_url), C(key_fingerprint) and the path of
    its key, C(key).
  type: dict
  returned: always
files:
  description:
    - The files that keep the driver as it was chosen, each with its C(path), C(content), whether it
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
asked:
  description: What was asked for, by the options' names.
  type: dict
  returned: always
mismatch:
  description: What is wrong between the loaded module and the installed library, in words. Empty for nothing.
  type: str
  returned: always
reboot:
  description: Whether a reboot is C(due), with its C(reasons); whether modprobe is enough, C(loadable).
  type: dict
  returned: always
pending:
  description: Whether no program gets at a card before the role has done its part.
  type: bool
  returned: always
record:
  description: What the role recorded on this host.
  type: dict
  returned: always
"""

import os
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _daemon_plan,
    _driver_choice,
    _driver_look,
)

ASKED = (
    "source",
    "branch",
    "flavour",
    "driver_version",
    "manage",
    "replace",
    "reboot_policy",
    "upgrading",
    "sysfs",
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "distribution": {"type": "str", "required": True},
            "release": {"type": "str", "required": True},
            "codename": {"type": "str", "default": ""},
            "family": {"type": "str", "required": True},
            "architecture": {"type": "str", "default": "x86_64"},
            "manage": {"type": "bool", "default": True},
            "replace": {"type": "bool", "default": False},
            "source": {"type": "str", "choices": ["auto", "distribution", "nvidia"], "default": "auto"},
            "branch": {"type": "str", "default": "auto"},
            "flavour": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
            "driver_version": {"type": "str", "default": ""},
            "manage_repo": {"type": "bool", "default": True},
            "manage_components": {"type": "bool", "default": True},
            "repo_url": {
                "type": "str",
                "default": "https://developer.download.nvidia.com/compute/cuda/repos",
            },
            "reboot_policy": {
                "type": "str",
                "choices": ["never", "if_idle", "drain", "reboot"],
                "default": "never",
            },
            "upgrading": {"type": "bool", "default": False},
            "client_units": {"type": "list", "elements": "str", "default": []},
            "ask_sources": {"type": "bool", "default": False},
            "persistence": {"type": "bool", "default": True},
            "sysfs": {"type": "path", "default": "/sys"},
            "record_path": {"type": "path", "default": "/etc/voicefleet/nvidia_driver/record.json"},
        },
        supports_check_mode=True,
    )
    params = module.params
    record, error = _daemon_plan.read_json(params["record_path"])
    if error:
        module.fail_json(msg=error)
    result = _driver_look.look(
        _driver_look.Request(
            wish=_driver_choice.Wish(
                params["source"], params["branch"], params["flavour"], params["driver_version"]
            ),
            distribution=params["distribution"],
            release=params["release"],
            codename=params["codename"],
            family=params["family"],
            architecture=params["architecture"],
            manage=params["manage"],
            replace=params["replace"],
            reboot_policy=params["reboot_policy"],
            upgrading=params["upgrading"],
            client_units=params["client_units"],
            manage_repo=params["manage_repo"],
            manage_components=params["manage_components"],
            repo_url=params["repo_url"],
            ask_sources=params["ask_sources"],
            persistence=params["persistence"],
            sysfs=params["sysfs"],
        ),
        record or {},
    )
    plan = asdict(result.pop("plan"))
    plan.update({name: result.pop(name) for name in ("install", "unavailable", "stream")})
    mismatch = result["mismatch"]
    for warning in (*plan.pop("warnings"), *([mismatch] if mismatch else [])):
        module.warn(warning)
    result.update(
        changed=False,
        uid=os.geteuid(),
        record=record or {},
        asked={name: params[name] for name in ASKED},
        plan=plan,
    )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
