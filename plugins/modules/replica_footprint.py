#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_footprint
short_description: Measure how much of a card one replica of a GPU web service takes
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Starts one container, made as a replica is, on a card that nobody uses. Waits until its health check calls
    it fit to serve, and sends it O(requests) in growing numbers at once. All the while it reads from
    C(nvidia-smi) what the container's processes have of the card.
  - The most there was, with a margin, is RV(instance_mib), for
    O(voicefleet.cosyvoice.gpu_capacity#module:instance_mib). What it takes while it starts counts too, as a
    replica is started over beside others that run.
  - The container has no route, so no caller ever reaches it. It does not count as a replica, and is always
    removed in the end. What a run has left that was killed is removed by the next.
  - The margin is a tenth of that, and 256 MiB at least. The sum is rounded up to whole steps of 64 MiB.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
  - voicefleet.cosyvoice.replica
attributes:
  check_mode:
    support: full
    details:
      - Tells on which card would be measured, or why on none. Nothing is started.
  diff_mode:
    support: N/A
    details:
      - What it makes is gone when it ends.
  idempotent:
    support: full
    details:
      - Two measurements differ a little. The second gives the figure of the first, handed to it as
        O(standing_mib), as long as that suffices.
options:
  specification:
    description:
      - What the container is made from, as for M(voicefleet.cosyvoice.replica). Its labels are left out.
      - Required with O(state=measured).
  state:
    description: V(absent) only removes what a killed run has left.
    type: str
    choices: [measured, absent]
    default: measured
  gpus:
    description: The cards to choose from, as for M(voicefleet.cosyvoice.gpu_capacity). All when empty.
    type: list
    elements: str
    default: []
  gpu:
    description:
      - The card or MIG device to measure on, by UUID or index, whoever is on it. What others have there does
        not count, but the replica needs room beside them.
      - When empty, the idle one with the most memory, as some engines take a share of all there is. If none
        is idle, the module fails and tells who is on each.
    type: str
    default: ""
  requests:
    description:
      - What the replica is given to do, the shortest first. Every request has to be answered with status 200.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What it is called in results.
        type: str
        required: true
      path:
        description: Where to send it, such as V(/v1/audio/speech).
        type: str
        required: true
      method:
        description: The HTTP method.
        type: str
        default: POST
      headers:
        description: Headers to send.
        type: dict
        default: {}
      body:
        description: Text is sent as it is, anything else as JSON.
        type: raw
  at_once:
    description: How many of each request are sent at once, one number after the other.
    type: list
    elements: int
    default: [1, 2, 4]
  standing_mib:
    description:
      - The figure that is counted with so far. It stays if it suffices and is at most one step larger than
        the new one would be.
    type: int
    default: 0
  start_timeout_seconds:
    description: How long the container may take until it is fit to serve.
    type: float
    default: 180
  request_timeout_seconds:
    description: How long one answer may take.
    type: float
    default: 120
  smi_command:
    description: The command that answers for C(nvidia-smi) on the host.
    type: str
    default: nvidia-smi
  sharing_file:
    description:
      - Where the host keeps how its cards are to be shared. On a card that MPS shares, the container is a
        client of it, with all threads and without a limit.
    type: path
    default: /etc/voicefleet/gpu_sharing/declared.json
  lock_token:
    description: Token of M(voicefleet.cosyvoice.rollout_lock), whose lock is renewed meanwhile.
    type: str
    default: ""
  lock_expiry_seconds:
    description: Expiry of that lock.
    type: float
    default: 30
  progress_file:
    description:
      - File to which a line is written for everything that is waited for. The controller shows the lines
        meanwhile, and names a file by itself.
    type: path
seealso:
  - module: voicefleet.cosyvoice.gpu_capacity
  - module: voicefleet.cosyvoice.replica
"""

EXAMPLES = r"""
- name: See what one replica takes
  voicefleet.cosyvoice.replica_footprint:
    service: pictures
    specification: "{{ specification }}"
    requests:
      - {name: a small one, path: /draw, body: {size: 256}}
      - {name: a large one, path: /draw, body: {size: 2048}}
    at_once: [1, 4]
    standing_mib: 8192
  register: footprint

- name: Count with it
  voicefleet.cosyvoice.gpu_capacity:
    instance_mib: "{{ footprint.instance_mib }}"
"""

RETURN = r"""
gpu:
  description: UUID of the card or MIG device.
  returned: when one was chosen
  type: str
card:
  description: The same for people.
  returned: when one was chosen
  type: str
  sample: "RTX 4090 #0 (GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11)"
instance_mib:
  description: What to count with for one replica.
  returned: success, not in check mode, with O(state=measured)
  type: int
  sample: 5632
peak_mib:
  description: The most that its processes had of the card.
  returned: success, not in check mode, with O(state=measured)
  type: int
  sample: 5070
start_mib:
  description: The most until it was fit to serve.
  returned: success, not in check mode, with O(state=measured)
  type: int
  sample: 4410
waves:
  description: The most with every request and every number of them at once.
  returned: success, not in check mode, with O(state=measured)
  type: list
  elements: dict
  sample:
    - {name: a small one, at_once: 1, peak_mib: 4552, seconds: 2.1}
removed:
  description: How many containers of killed runs were removed, or in check mode would be.
  returned: success
  type: int
  sample: 0
"""

import shlex
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _calibration,
    _card_users,
    _engine,
    _footprint,
    _idle_cards,
    _lock,
    _nvidia_smi,
    _replica,
    _sharing,
    _specification,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._capacity import NoSuchGpuError, select
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._idle_cards import NoIdleCardError, Place
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._mig import LayoutError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import SmiError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import PlanError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Request, encode_body
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._progress import Progress

SMI_SECONDS = 60
REQUEST_OPTIONS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "path": {"type": "str", "required": True},
    "method": {"type": "str", "default": "POST"},
    "headers": {"type": "dict", "default": {}},
    "body": {"type": "raw"},
}


def mistakes_of(params: dict[str, Any]) -> list[str]:
    """What is wrong with the options, one sentence each."""
    found = []
    if not params["requests"]:
        found.append(
            "requests is empty, and a replica that has nothing to do does not show what it takes. Give what "
            "callers send, the shortest first."
        )
    found += [
        f"requests: the path of '{each['name']}' is '{each['path']}'. It begins with a slash."
        for each in params["requests"]
        if not each["path"].startswith("/")
    ]
    if not params["at_once"] or min(params["at_once"]) < 1:
        found.append(f"at_once is {params['at_once']}. Give how many at once, such as [1, 2].")
    return found


def request_of(params: dict[str, Any], timeout_seconds: float) -> Request:
    """One of the option's; its URL is completed when the container has an address."""
    body, headers = encode_body(
        params["body"], {name: str(value) for name, value in params["headers"].items()}
    )
    return Request(
        params["name"],
        params["path"],
        method=params["method"],
        headers=headers,
        body=body,
        timeout_seconds=timeout_seconds,
    )


def place_for(client: Any, params: dict[str, Any]) -> Place:
    """The card to measure on. Raises what says why there is none."""
    report = _nvidia_smi.query(shlex.split(params["smi_command"]), SMI_SECONDS)
    cards = select(report.cards, [params["gpu"]] if params["gpu"] else params["gpus"])
    ours = _calibration.left_over(client, params["service"])
    return _idle_cards.choose(
        _idle_cards.places(cards, _card_users.holders(client), ours), named=bool(params["gpu"])
    )


def mps_on(place: Place, sharing_file: str) -> Any:
    """What a client of MPS needs on this card; None where MPS does not share it."""
    mps = _sharing.read_declared(sharing_file).mps
    if not mps or place.uuid not in mps["cards"]:
        return None
    problem = _sharing.daemon_problem(mps)
    if problem:
        raise LayoutError(problem)
    return mps


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "specification": {"type": "dict", "options": _specification.ARGUMENT_SPEC},
            "data_dir": {"type": "path", "default": "/var/lib/voicefleet"},
            "docker_host": {"type": "str", "default": _engine.DEFAULT_DOCKER_HOST},
            "state": {"type": "str", "choices": ["measured", "absent"], "default": "measured"},
            "gpus": {"type": "list", "elements": "str", "default": []},
            "gpu": {"type": "str", "default": ""},
            "requests": {"type": "list", "elements": "dict", "default": [], "options": REQUEST_OPTIONS},
            "at_once": {"type": "list", "elements": "int", "default": [1, 2, 4]},
            "standing_mib": {"type": "int", "default": 0},
            "start_timeout_seconds": {"type": "float", "default": 180},
            "request_timeout_seconds": {"type": "float", "default": 120},
            "smi_command": {"type": "str", "default": "nvidia-smi"},
            "sharing_file": {"type": "path", "default": _sharing.DECLARED},
            "lock_token": {"type": "str", "default": "", "no_log": False},
            "lock_expiry_seconds": {"type": "float", "default": _lock.DEFAULT_EXPIRY_SECONDS},
            "progress_file": {"type": "path"},
        },
        required_if=[("state", "measured", ("specification",))],
        supports_check_mode=True,
    )
    params = module.params
    progress = Progress(params["progress_file"])
    result: dict[str, Any] = {"changed": False, "removed": 0}
    try:
        client = _engine.connect(params["docker_host"])
    except _engine.EngineError as error:
        if params["state"] == "absent":
            module.exit_json(**result)  # No engine, no containers.
        module.fail_json(msg=str(error), **result)
    _engine.outlast_restarts(client)
    try:
        if params["state"] == "absent":
            remove(module, client, result)
        measure(module, client, result, progress)
    except (
        _lock.LockError,
        _replica.ReplicaError,
        LayoutError,
        NoIdleCardError,
        NoSuchGpuError,
        OSError,
        PlanError,
        SmiError,
    ) as error:
        module.fail_json(msg=str(error), **result, **progress.told())


def remove(module: AnsibleModule, client: Any, result: dict[str, Any]) -> None:
    """What a killed run has left."""
    service, data_dir = module.params["service"], module.params["data_dir"]
    result["removed"] = len(_calibration.left_over(client, service))
    if not module.check_mode:
        _calibration.clear(client, service, data_dir)
    module.exit_json(**{**result, "changed": result["removed"] > 0})


def measure(module: AnsibleModule, client: Any, result: dict[str, Any], progress: Progress) -> None:
    """The whole of it; everything that can be refused is, before anything is started."""
    params = module.params
    mistakes = mistakes_of(params)
    if mistakes:
        module.fail_json(msg=" ".join(mistakes), **result)
    service, data_dir, specification = params["service"], params["data_dir"], params["specification"]
    place = place_for(client, params)
    result.update(gpu=place.uuid, card=place.label, removed=len(_calibration.left_over(client, service)))
    image_id = _replica.image_id(client, specification["image"])
    mps = mps_on(place, params["sharing_file"])
    config = _calibration.config_of(service, place, mps, specification, image_id, data_dir)
    if module.check_mode:
        module.exit_json(**result)
    work = _calibration.Work(
        [request_of(each, params["request_timeout_seconds"]) for each in params["requests"]],
        sorted(set(params["at_once"])),
    )
    with _lock.kept(data_dir, service, params["lock_token"], params["lock_expiry_seconds"]) as still_ours:
        measured = _calibration.Calibration(
            client,
            shlex.split(params["smi_command"]),
            place,
            params["start_timeout_seconds"],
            progress,
            still_ours,
        )(service, config, data_dir, work)
    module.exit_json(
        **result,
        **progress.told(),
        instance_mib=_footprint.instance_mib(measured.peak_mib, params["standing_mib"]),
        peak_mib=measured.peak_mib,
        start_mib=measured.start_mib,
        waves=measured.waves,
    )


if __name__ == "__main__":
    main()
