#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_capacity
short_description: Tell how many instances the NVIDIA cards of a host hold, and why
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Reads a host's cards with C(nvidia-smi -q -x) and says how many instances of a GPU service each may hold,
    with the reason for every figure. Changes nothing.
  - The rule for one card is that it holds the smallest of three numbers. They are the cap of its class (see
    O(class_caps)), O(max_per_gpu), and its total memory less what the driver reserves, less what others use,
    less O(headroom_mib), divided by O(instance_mib) and rounded down. What others use (foreign memory) is all
    that is in use by anything but O(own_containers).
  - With the defaults a card sold as 24 GB holds two instances and never three, although an RTX 3090 reports
    exactly 3 x 8192 MiB.
  - The count is by memory the card has, not by memory that is free at the moment. So a second run, with our
    instances in place, decides as the first.
  - A card with MIG enabled holds nothing itself; each of its MIG devices is counted as a device of its own.
    MIG devices (compute instances) of one GPU instance share its memory, which is counted once and dealt out
    to them.
  - Memory that cannot be read (V(N/A), V(GPU is lost), V(Insufficient Permissions), an element that is
    missing) holds nothing, and the reason quotes what stood there. See O(fail_on_unknown).
  - One bad card does not hide the good ones. If C(nvidia-smi) does not describe all cards at once, they are
    listed with C(nvidia-smi -L) and asked one by one.
requirements:
  - C(nvidia-smi) of driver 352 or later on the managed host, unless O(xml_file) is used.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.info_module
  - voicefleet.cosyvoice.attributes.platform
options:
  smi_command:
    description:
      - The command to run, by name or path, with arguments that come before C(-q -x) if need be, as in
        V(docker exec driver nvidia-smi). It is split as a shell would, but no shell is involved.
      - A name is looked up on the PATH and where WSL 2 keeps it.
    type: str
    default: nvidia-smi
  timeout_seconds:
    description:
      - How long to wait for an answer of C(nvidia-smi).
      - Without persistence mode every call initialises all cards, which was seen to take half a minute on
        hosts with eight of them. A card that hangs makes C(nvidia-smi) unkillable; it is then left behind.
      - If it has to ask card by card, the module takes three times this at most.
    type: int
    default: 60
  xml_file:
    description:
      - A file on the managed host with saved output of C(nvidia-smi -q -x), to be read in place of the cards.
        With C(delegate_to=localhost) a host can be planned before it exists.
      - The XML does not tell the UUIDs of MIG devices. In this case they are named in the older notation
        C(MIG-<UUID of the card>/<GPU instance>/<compute instance>).
    type: path
  instance_mib:
    description:
      - Memory in MiB that one instance needs at most, its CUDA context included.
    type: int
    default: 8192
  instance_fraction:
    description:
      - What an instance takes beside O(instance_mib), as a part of the card's total memory. vLLM inside
        CosyVoice takes V(0.2), which is 4.8 GiB on a 24 GB card and 16 GiB on an 80 GB card.
      - Of a MIG device it is a part of the device's memory.
    type: float
    default: 0
  start_mib:
    description:
      - Memory in MiB that an instance takes beside that while it starts. Kept free once on each card, since
        instances start one after another, and part of RV(slots[].memory_mib).
    type: int
    default: 0
  headroom_mib:
    description:
      - Memory in MiB that stays free on each card, or MIG device, beside all instances.
      - It guards against an instance that takes a little more than O(instance_mib), and against memory that
        comes and goes. With 8192 per instance, idle 24 GB cards have room for two with anything up to 2048.
    type: int
    default: 512
  display_headroom_mib:
    description:
      - Used in place of O(headroom_mib) on cards that drive a display or run under WDDM (Windows, WSL 2),
        where a desktop takes 700 to 2500 MiB and what it takes changes. V(1024) is a fair value on such a
        host.
      - Not given, these cards are treated like any other, and their reason mentions the desktop.
    type: int
  max_per_gpu:
    description:
      - No card, and no MIG GPU instance, gets more than this. Not given, there is no such limit.
    type: int
  class_caps:
    description:
      - Limits for classes of cards, told apart by their total memory as the driver reports it (before
        anything is subtracted). The first class that covers a card's total counts.
      - The built-in class, which is the default, stays in force for every card that no class in this list
        covers. To lift the limit for 24 GB cards, say so with a class that covers them.
      - The default covers every 24 GB card, from 22731 MiB (A10 on a driver before 510) to 24576 MiB.
    type: list
    elements: dict
    default:
      - name: 24 GB
        min_mib: 22400
        max_mib: 25600
        max_instances: 2
    suboptions:
      name:
        description: What to call the class in reasons.
        type: str
        required: true
      min_mib:
        description: The smallest total in MiB that belongs to it.
        type: int
        required: true
      max_mib:
        description: The largest total in MiB that belongs to it.
        type: int
        required: true
      max_instances:
        description: What a card of this class holds at most. V(0) keeps such cards free.
        type: int
        required: true
  gpus:
    description:
      - Count only these cards. Each is named by UUID, which is best, or by the index that C(nvidia-smi) gives
        it, which follows the PCI order and may change when a card is added.
      - A MIG device is named by its UUID, or by C(<index of the card>:<index of the device>) as in V("0:1").
      - A card that is not there is an error. Not given or empty means all cards.
    type: list
    elements: str
    default: []
  own_containers:
    description:
      - Ids of the containers that hold our instances, in full or short (12 digits). What their processes use
        is not counted as foreign. Ids of containers that no longer run do no harm.
      - A process belongs to a container if its cgroup (C(/proc/<pid>/cgroup), version 1 or 2) says so. So the
        module must run on the host itself.
      - If the driver does not tell how much such a process uses, its container is taken to use
        O(instance_mib) but not more than is in use at all, and beside it only what fits in free memory is
        counted.
    type: list
    elements: str
    default: []
  sharing_file:
    description:
      - Where the host keeps how its cards are to be shared, which P(voicefleet.cosyvoice.gpu_sharing#role)
        writes. Without that file nothing is declared. Not looked at with O(xml_file).
      - A card that is not cut into MIG instances as declared there is an error. The slots of a card that MPS
        shares have RV(slots[].mps), and an MPS daemon that does not answer is an error.
    type: path
    default: /etc/voicefleet/gpu_sharing/declared.json
  sharing:
    description:
      - In place of O(sharing_file), RV(voicefleet.cosyvoice.gpu_sharing#module:declaration) of a change that
        is still to come. What is counted then are the cards as they will be, with the memory that devices of
        such profiles are known to have.
    type: dict
  fail_on_unknown:
    description:
      - Fail if the memory of any of the cards is unknown. Otherwise such a card holds nothing, and a warning
        says so.
    type: bool
    default: false
notes:
  - Start instances on one card one after another. Some need more memory while they start than later, see
    O(start_mib).
  - Error-correcting memory (ECC) is in the total already, and is never subtracted again.
seealso:
  - module: voicefleet.cosyvoice.replica_plan
  - module: voicefleet.cosyvoice.replica
"""

EXAMPLES = r"""
- name: See what the cards of this host hold
  voicefleet.cosyvoice.gpu_capacity:
  register: capacity

- name: Show it, one line per card
  ansible.builtin.debug:
    msg: "{{ capacity.summary.splitlines() }}"

- name: Count again while our replicas run
  voicefleet.cosyvoice.gpu_capacity:
    own_containers: "{{ replicas.containers | map(attribute='Id') }}"
  register: capacity

- name: Use two of the cards, one instance each, and stop if one of them is not well
  voicefleet.cosyvoice.gpu_capacity:
    gpus:
      - GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11
      - "3"
    max_per_gpu: 1
    fail_on_unknown: true

- name: A smaller model, of which three fit on a 24 GB card
  voicefleet.cosyvoice.gpu_capacity:
    instance_mib: 6000
    class_caps:
      - name: 24 GB
        min_mib: 22400
        max_mib: 25600
        max_instances: 3

- name: Plan a host from a saved output of nvidia-smi -q -x
  voicefleet.cosyvoice.gpu_capacity:
    xml_file: "{{ playbook_dir }}/files/new-host.xml"
  delegate_to: localhost
  register: capacity
"""

RETURN = r"""
capacity:
  description: How many instances the host holds. The number of RV(slots).
  returned: always
  type: int
  sample: 2
slots:
  description: One place for each instance, in the order of the cards.
  returned: always
  type: list
  elements: dict
  contains:
    gpu:
      description: UUID of the card or MIG device, for C(device_ids) of Docker or C(CUDA_VISIBLE_DEVICES).
      type: str
    index:
      description: Number of the slot on that device, from 0.
      type: int
    memory_mib:
      description: What the instance may use, in MiB.
      type: int
    mps:
      description:
        - Only on a card that MPS shares. The percentage of its threads (C(thread_percentage)), which is a
          hundred by the slots there are on it, rounded down; where the daemon has its pipes (C(pipe_dir))
          and whom it serves (C(uid)). The memory limit is C(memory_mib).
      type: dict
  sample:
    - {gpu: GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11, index: 0, memory_mib: 8192}
    - {gpu: GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11, index: 1, memory_mib: 8192}
summary:
  description: The account for people, one line per card and MIG device. In brackets stands what decided.
  returned: always
  type: str
  sample: "RTX 4090 #0: 24564 MiB, 346 reserved, 0 foreign -> 2 x 8192 MiB (class cap 24 GB: 2)"
gpus:
  description:
    - The cards, in the order of C(nvidia-smi). On failure those that could be read.
  returned: always
  type: list
  elements: dict
  contains:
    uuid:
      description: The card's UUID, null if it has none.
      type: str
    index:
      description: The card's index as C(nvidia-smi) counts.
      type: int
    name:
      description: The product name.
      type: str
    driver:
      description: Version of the driver.
      type: str
    total_mib:
      description: Total memory, null if unknown.
      type: int
    reserved_mib:
      description:
        - What the driver keeps for itself. V(0) with drivers before 510, whose total is smaller by it.
      type: int
    used_mib:
      description: Memory in use, by anybody.
      type: int
    free_mib:
      description: Free memory.
      type: int
    usable_mib:
      description: Total less reserved, which is what CUDA offers.
      type: int
    own_mib:
      description:
        - Memory used by O(own_containers). Null if nothing was decided by memory, as on a card with MIG.
      type: int
    foreign_mib:
      description: Memory used by others, which is usable less free less own.
      type: int
    class:
      description: The class of O(class_caps) that the card belongs to, if any.
      type: str
    capacity:
      description: How many instances it holds. V(0) for a card with MIG enabled, whose devices hold them.
      type: int
    reason:
      description: The arithmetic, or why the card holds nothing.
      type: str
    mig_devices:
      description:
        - The card's MIG devices, with the same keys except C(driver) and C(mig_devices).
      type: list
      elements: dict
      contains:
        gpu_instance_id:
          description: The GPU instance, which has the memory.
          type: str
        compute_instance_id:
          description: The compute instance within it.
          type: str
  sample:
    - uuid: GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11
      index: 0
      name: NVIDIA GeForce RTX 4090
      driver: 570.148.08
      total_mib: 24564
      reserved_mib: 346
      used_mib: 0
      free_mib: 24218
      usable_mib: 24218
      own_mib: 0
      foreign_mib: 0
      class: 24 GB
      capacity: 2
      reason: >-
        24564 MiB total - 346 reserved - 0 foreign - 512 headroom = 23706 MiB, room for 2 x 8192 MiB;
        class 24 GB allows 2
      mig_devices: []
problems:
  description:
    - What is wrong on the host, with the remedy. If the module succeeds, each is a warning too.
  returned: always
  type: list
  elements: dict
  contains:
    message:
      description: What is wrong, with the words and exit code of C(nvidia-smi).
      type: str
    remedy:
      description: What to do.
      type: str
  sample: []
msg:
  description: What is wrong and what to do about it.
  returned: failure
  type: str
  sample: >-
    The loaded NVIDIA kernel module and the installed driver library have different versions: nvidia-smi said
    'Failed to initialize NVML: Driver/library version mismatch' (exit code 18). A driver upgrade was
    installed but not loaded: stop what uses the cards and reload the module (rmmod nvidia_uvm nvidia_drm
    nvidia_modeset nvidia; modprobe nvidia), or reboot the host
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _mig, _sharing
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._capacity import (
    BUILT_IN_CLASSES,
    ClassCap,
    NoSuchGpuError,
    Plan,
    Policy,
    plan,
    select,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._container_processes import (
    CONTAINER_ID,
    owners,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._mig import LayoutError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi import query
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Card,
    Report,
    SmiError,
    decode,
    parse,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_problems import Problem
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._sharing import Declaration

ARGUMENTS = {
    "smi_command": {"type": "str", "default": "nvidia-smi"},
    "timeout_seconds": {"type": "int", "default": 60},
    "xml_file": {"type": "path"},
    "instance_mib": {"type": "int", "default": 8192},
    "instance_fraction": {"type": "float", "default": 0.0},
    "start_mib": {"type": "int", "default": 0},
    "headroom_mib": {"type": "int", "default": 512},
    "display_headroom_mib": {"type": "int"},
    "max_per_gpu": {"type": "int"},
    "class_caps": {
        "type": "list",
        "elements": "dict",
        "default": [asdict(cap) for cap in BUILT_IN_CLASSES],
        "options": {
            "name": {"type": "str", "required": True},
            "min_mib": {"type": "int", "required": True},
            "max_mib": {"type": "int", "required": True},
            "max_instances": {"type": "int", "required": True},
        },
    },
    "gpus": {"type": "list", "elements": "str", "default": []},
    "own_containers": {"type": "list", "elements": "str", "default": []},
    "sharing_file": {"type": "path", "default": _sharing.DECLARED},
    "sharing": {"type": "dict"},
    "fail_on_unknown": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    options = module.params
    policy = Policy(
        instance_mib=options["instance_mib"],
        instance_fraction=options["instance_fraction"],
        start_mib=options["start_mib"],
        headroom_mib=options["headroom_mib"],
        display_headroom_mib=options["display_headroom_mib"],
        max_per_gpu=options["max_per_gpu"],
        class_caps=tuple(ClassCap(**cap) for cap in options["class_caps"]),
    )
    command, mistakes = check(options, policy)
    if mistakes:
        fail(module, "; ".join(mistakes), Report(), Plan())

    message = ""
    try:
        report = (
            read(options["xml_file"]) if options["xml_file"] else query(command, options["timeout_seconds"])
        )
    except SmiError as error:
        report, message = error.report, str(error.problem)
        report.problems.insert(0, error.problem)
    declared = Declaration()
    try:
        declared = declaration(options)
        # Of a host that cannot be asked there is nothing to hold against it.
        wrong = [] if message else as_declared(report, declared, command, module)
        report.cards = select(report.cards, options["gpus"])
        chosen = {card.uuid for card in report.cards}
        message = message or " ".join(text for uuid, text in wrong if uuid in chosen)
        if declared.mps and chosen & {*declared.mps["cards"]}:
            message = message or mps_problem(
                declared.mps, policy, report.cards, to_come=options["sharing"] is not None
            )
    except (NoSuchGpuError, LayoutError, SmiError) as error:
        message = message or str(error)

    pids = {process.pid for card in report.cards for process in card.processes}
    own = owners(pids, options["own_containers"])
    found = plan(report, policy, own, own_containers=len(options["own_containers"]), mps=declared.mps)
    if message:
        fail(module, message, report, found)
    if found.unknown and options["fail_on_unknown"]:
        first = found.unknown[0]
        fail(module, f"The memory of {len(found.unknown)} device(s) is unknown. {first}", report, found)
    result = results(report, found)
    for problem in (*report.problems, *found.problems, *found.unknown):
        module.warn(str(problem))
    module.exit_json(changed=False, **result)


def declaration(options: dict[str, Any]) -> Declaration:
    """How the host's cards are to be shared."""
    if options["sharing"] is not None:
        return _sharing.from_data(options["sharing"])
    return Declaration() if options["xml_file"] else _sharing.read_declared(options["sharing_file"])


def as_declared(
    report: Report, declared: Declaration, command: list[str], module: AnsibleModule
) -> list[tuple[str, str]]:
    """What is wrong with the layout of each card. Before a change, the report is made what it will be."""
    cards = [card for card in report.cards if card.uuid in declared.mig and _mig.answers(card)]
    layouts = _sharing.look_at_layouts(command, cards, module.params["timeout_seconds"])
    wrong = _mig.differences(declared.mig, layouts, cards)
    if module.params["sharing"] is not None:
        report.cards = _sharing.as_declared(report.cards, declared.mig, layouts)
        return []
    remedy = "Role gpu_sharing cuts it; after a reboot, look at 'systemctl status voicefleet-mig'."
    return [(uuid, f"{text} {remedy}") for uuid, text in wrong]


def mps_problem(mps: Mapping[str, Any], policy: Policy, cards: Sequence[Card], to_come: bool) -> str:
    """Why replicas cannot be clients of the daemon."""
    limit = int(mps.get("memory_mib") or 0)
    sizes = [card.memory.total_mib for card in cards if card.memory and card.uuid in mps["cards"]]
    needed = max((policy.instance_on(size) for size in sizes), default=policy.instance_mib) + policy.start_mib
    if 0 < limit < needed:
        return (
            f"One instance takes {needed} MiB, and MPS on this host gives no client more than "
            f"{limit} MiB. Raise gpu_sharing_mps_memory_mib, or set it to 0: every replica has its own limit."
        )
    return "" if to_come else _sharing.daemon_problem(mps)


def check(options: dict[str, Any], policy: Policy) -> tuple[list[str], list[str]]:
    """The command to run, and what is wrong with the options."""
    mistakes = policy.mistakes()
    if options["timeout_seconds"] <= 0:
        mistakes.append(f"timeout_seconds is {options['timeout_seconds']}: give more than 0")
    for container in options["own_containers"]:
        if CONTAINER_ID.fullmatch(container) is None:
            mistakes.append(
                f"own_containers: {container!r} is not a container id. Give the id and not the name: "
                f"12 to 64 hexadecimal digits, as 'docker ps -q --no-trunc' prints them"
            )
    command: list[str] = []
    try:
        command = shlex.split(options["smi_command"])
    except ValueError as error:
        mistakes.append(f"smi_command {options['smi_command']!r} cannot be split into words: {error}")
    else:
        if not command:
            mistakes.append("smi_command is empty: give the name or path of nvidia-smi")
    return command, mistakes


def read(path: str) -> Report:
    """A saved output."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        remedy = "xml_file is read on the managed host; use delegate_to: localhost for one on the controller"
        raise SmiError(Problem(f"xml_file {path} cannot be read: {error.strerror}", remedy)) from error
    try:
        return parse(decode(data))
    except SmiError as error:
        problem = Problem(f"xml_file {path}: {error.problem.message}", error.problem.remedy)
        raise SmiError(problem, error.report) from error


def results(report: Report, found: Plan) -> dict[str, Any]:
    """What is returned, on success and on failure alike."""
    return {
        "gpus": found.gpus,
        "slots": found.slots,
        "capacity": found.capacity,
        "summary": found.summary,
        "problems": [asdict(one) for one in (*report.problems, *found.problems, *found.unknown)],
    }


def fail(module: AnsibleModule, message: str, report: Report, found: Plan) -> NoReturn:
    module.fail_json(msg=message, changed=False, **results(report, found))
    raise AssertionError("fail_json does not return")


if __name__ == "__main__":
    main()
