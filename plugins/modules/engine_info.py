#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at the Docker Engine of a host once, for everything that is to be decided about it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_info
short_description: Look at the Docker Engine of a host, and plan what has to be done to it
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - One look at a host for everything the role P(voicefleet.cosyvoice.docker_engine#role) decides. Whether an
    engine is there and answers, which version, which packages are missing, whether the Docker SDK for Python
    works, what C(daemon.json) holds and should hold, and how a running dockerd gets to follow it.
  - It works on a host that has neither an engine nor the Docker SDK.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.info_module
options:
  docker_host:
    description: The socket of the host's engine.
    type: str
    default: unix:///var/run/docker.sock
  wait_seconds:
    description: How long an engine that was just started gets to answer.
    type: float
    default: 0
  wait_for:
    description: What O(wait_seconds) is for, an answer, or an engine whose containers outlive it.
    type: str
    choices: [running, live_restore]
    default: running
  engine_packages:
    description: The packages that bring an engine to a host without one.
    type: list
    elements: str
    default: []
  sdk_packages:
    description: The packages that bring the Docker SDK to the host's Python.
    type: list
    elements: str
    default: []
  config_path:
    description: Path of dockerd's configuration file.
    type: path
    default: /etc/docker/daemon.json
  config_defaults:
    description: What the file should hold, unless it said otherwise before or O(config_options) does.
    type: dict
    default: {}
  config_options:
    description: What the file has to hold. Dicts are merged at every depth; V(null) takes a key out.
    type: dict
    default: {}
  config_additions:
    description: What other roles need in the file. Only O(config_options) win over it.
    type: dict
    default: {}
  programs:
    description: Programs that dockerd looks for as it starts, such as C(nvidia-container-runtime-hook).
    type: list
    elements: str
    default: []
  manage_config:
    description: Whether the file is ours to write; V(auto) means only where the role installed the engine.
    type: str
    choices: [auto, always, never]
    default: auto
  record_path:
    description: The file in which the role keeps what it installed and what it replaced.
    type: path
    default: /etc/voicefleet/docker_engine/record.json
  state:
    description:
      - What to plan for. V(absent) plans C(daemon.json) back to what it was, and lists what is left in the
        engine.
    type: str
    choices: [present, absent]
    default: present
  label:
    description: With O(state=absent), the label (C(name=value)) of what may go with the engine.
    type: str
    default: voicefleet.managed=true
"""

EXAMPLES = r"""
- name: Look at the engine
  voicefleet.cosyvoice.engine_info:
    engine_packages: [docker.io]
    sdk_packages: [python3-docker]
    config_options:
      registry-mirrors: [https://mirror.example.com]
  register: engine

- name: Show what would change
  ansible.builtin.debug:
    msg: "{{ engine.config.action }} for {{ engine.config.changed_keys | join(', ') }}"
"""

RETURN = r"""
uid:
  description: The user the module ran as.
  type: int
  returned: always
engine:
  description: The engine.
  type: dict
  returned: always
  contains:
    installed: {description: Whether there is a dockerd., type: bool, returned: always}
    dockerd: {description: Its path., type: str, returned: always}
    systemd: {description: Whether systemd runs this host., type: bool, returned: always}
    enabled: {description: Whether systemd starts it at boot., type: bool, returned: always}
    running: {description: Whether it answers., type: bool, returned: always}
    error: {description: Why it does not answer., type: str, returned: always}
    version: {description: Its version., type: str, returned: always}
    api_version: {description: The newest API it speaks., type: str, returned: always}
    pid: {description: 'Its process, unless systemd opened its socket.', type: int, returned: always}
    arguments: {description: The command line of that process., type: list, elements: str, returned: always}
    live_restore: {description: Whether containers outlive it., type: bool, returned: always}
    swarm: {description: Whether it is a member of a swarm., type: bool, returned: always}
    containers_running: {description: How many containers run., type: int, returned: always}
    published_ports:
      description: The host's addresses and ports that each running container holds, by its name.
      type: dict
      returned: always
      sample: {voicefleet-traefik: ["0.0.0.0:80", "0.0.0.0:443", "127.0.0.1:8080"]}
    data_root: {description: Where it keeps its data., type: str, returned: always}
    data_root_is_mount: {description: Whether something else is mounted there., type: bool, returned: always}
    stale_pid_files: {description: Left over pid files., type: list, elements: str, returned: always}
    started_at: {description: "When it started, in seconds since the epoch.", type: float, returned: always}
    programs: {description: Those of O(programs) that are there., type: list, elements: str, returned: always}
    unseen_programs:
      description: Those of them that came after its start, so that it finds them only after a restart.
      type: list
      elements: str
      returned: always
sdk:
  description: The Docker SDK of this Python.
  type: dict
  returned: always
  contains:
    installed: {description: Whether it can be imported., type: bool, returned: always}
    error: {description: Why it cannot be used., type: str, returned: always}
packages:
  description: The packages that were asked about.
  type: dict
  returned: always
  contains:
    installed: {description: Those that are there., type: list, elements: str, returned: always}
    missing: {description: Those that are not., type: list, elements: str, returned: always}
package_sources:
  description: The files that say where the host gets its packages.
  type: list
  elements: str
  returned: always
config:
  description: The plan for C(daemon.json).
  type: dict
  returned: always
  contains:
    options: {description: What was asked for with O(config_options)., type: dict, returned: always}
    additions: {description: What was asked for with O(config_additions)., type: dict, returned: always}
    managed: {description: Whether it is ours to write., type: bool, returned: always}
    reason: {description: Why it is or is not., type: str, returned: always}
    found: {description: What it holds., type: dict, returned: always}
    original: {description: What it held before the first run., type: dict, returned: always}
    wanted: {description: What it should hold., type: dict, returned: always}
    write: {description: Whether it has to be written., type: bool, returned: always}
    action: {description: "V(none), V(reload) or V(restart).", type: str, returned: always}
    changed_keys: {description: What differs for dockerd., type: list, elements: str, returned: always}
    unmet: {description: What a file left alone lacks., type: list, elements: str, returned: always}
    problems: {description: What is wrong with what is wanted., type: list, elements: str, returned: always}
record:
  description: What the role recorded on this host.
  type: dict
  returned: always
not_ours:
  description: Containers, images and volumes without O(label), in words.
  type: list
  elements: str
  returned: when O(state=absent) and the engine answers
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _daemon_plan,
    _engine_info,
    _engine_socket,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "wait_seconds": {"type": "float", "default": 0},
            "wait_for": {"type": "str", "choices": ["running", "live_restore"], "default": "running"},
            "engine_packages": {"type": "list", "elements": "str", "default": []},
            "sdk_packages": {"type": "list", "elements": "str", "default": []},
            "config_path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "config_defaults": {"type": "dict", "default": {}},
            "config_options": {"type": "dict", "default": {}},
            "config_additions": {"type": "dict", "default": {}},
            "programs": {"type": "list", "elements": "str", "default": []},
            "manage_config": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
            "record_path": {"type": "path", "default": "/etc/voicefleet/docker_engine/record.json"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "label": {"type": "str", "default": "voicefleet.managed=true"},
        },
        supports_check_mode=True,
    )
    params = module.params
    record, error = _daemon_plan.read_json(params["record_path"])
    if error:
        module.fail_json(msg=error)
    try:
        engine = _engine_info.engine(
            params["docker_host"], params["wait_seconds"], params["wait_for"] == "live_restore"
        )
    except ValueError as problem:
        module.fail_json(msg=str(problem))
    engine["programs"], engine["unseen_programs"] = _engine_info.programs(
        params["programs"], engine, record or {}
    )
    sdk = _engine_info.sdk()
    installed = _engine_info.installed_packages()
    required = _engine_info.required_packages(
        engine, sdk, record or {}, params["engine_packages"], params["sdk_packages"]
    )
    result = {
        "uid": os.geteuid(),
        "engine": engine,
        "sdk": sdk,
        "packages": {
            "installed": sorted(installed),
            "missing": [name for name in required if name not in installed],
        },
        "package_sources": _engine_info.package_sources(),
        "record": record or {},
        "config": _daemon_plan.plan_config(
            _daemon_plan.ConfigWish(
                path=params["config_path"],
                manage=params["manage_config"],
                defaults=params["config_defaults"],
                options=params["config_options"],
                additions=params["config_additions"],
                restore=params["state"] == "absent",
            ),
            engine,
            record or {},
        ),
    }
    if params["state"] == "absent" and engine["running"]:
        path = _engine_socket.socket_path(params["docker_host"])
        result["not_ours"] = _engine_socket.not_ours(path, params["label"])
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
