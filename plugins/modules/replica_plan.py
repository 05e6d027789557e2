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
  - A replica is also out of date when a directory or file that it has mounted, and may only read, was removed
    from the host and put there anew, as it sees nothing of that.
  - A replica keeps its slot for as long as the slot exists. No step puts two replicas on one slot, or more on
    a card than it has slots; what frees a slot stands before what needs it. Where a slot is free, a replica
    that serves is replaced there, so that its successor serves before it goes.
  - What takes nobody out comes first (create, start, replace what does not serve), then what is too many,
    then the replacement of those that serve, one after the other.
  - A plan is refused, with the figures, when a step would leave fewer replicas serving than O(min_ready),
    when it would leave nobody who answers (O(downtime)), or when the others cannot take the load that there
    is now (O(metrics)). What repairs a service is never refused.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
  - voicefleet.cosyvoice.replica
  - voicefleet.cosyvoice.replica.metrics
attributes:
  check_mode:
    support: full
    details:
      - Nothing is ever changed. In check mode C(changed) tells whether there is anything to do, and a
        host without an engine, or without the image, counts as one where that has yet to come.
      - A plan is refused in check mode as it is otherwise.
  diff_mode:
    support: full
    details:
      - Slot, revision, image and hash of the specification of each replica, before and after.
  idempotent:
    support: full
options:
  follow:
    description:
      - Which specification the replicas are to have.
      - V(wanted) is O(specification).
      - V(current) is the one that all replicas were made from, for another number of replicas. Replicas that
        were not all made from the same are refused.
      - V(previous) is what ran before, as the newest replica that knows has it on record. Replicas that are
        so already are kept.
    type: str
    choices: [wanted, current, previous]
    default: wanted
  specification:
    description:
      - What the container of every replica of the service is made from. Required with O(follow=wanted), and
        not looked at otherwise.
  replicas:
    description:
      - How many replicas to run, or V(max) for one on every slot.
      - More than there are slots is refused, with the arithmetic in the message.
      - Required with O(follow=wanted). Otherwise as many as there are, unless given.
    type: str
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
      mps:
        description:
          - On a card that MPS shares. The replica gets its share and its memory limit as environment
            variables, the daemon's pipes as a mount, and the host's shared memory. Another share makes
            another specification; and while replicas are replaced, their limits never add up to more than a
            card has slots for.
        type: dict
        suboptions:
          thread_percentage:
            description: The share of the card's threads.
            type: int
            required: true
          pipe_dir:
            description: Where the daemon has its pipes.
            type: path
            required: true
          uid:
            description: The user id that the daemon serves. Replicas that run as another are refused.
            type: str
            required: true
  cpu_slots:
    description:
      - Without O(slots), how many replicas the host may run for a while. More than O(replicas) leaves a slot
        free for a successor.
    type: int
    default: 0
  capacity_summary:
    description: The account of the capacity, for the message when more is asked for than fits.
    type: str
    default: ""
  surge:
    description:
      - With V(if_free), a replica that serves is replaced on a slot that nobody has, where there is one;
        its own slot is then free for the next. With V(never), every replica stays on its slot.
    type: str
    choices: [if_free, never]
    default: if_free
  canary:
    description: Whether to mark the first replacement of a replica that serves, where it has neighbours.
    type: bool
    default: true
  min_ready:
    description:
      - So many replicas have to serve whenever a step takes one out.
      - When negative, one less than O(replicas), or than serve now if those are fewer; but at least one.
    type: int
    default: -1
  downtime:
    description:
      - What to do when a step leaves nobody who answers, such as the replacement of the only replica
        without a free slot. Whoever calls between its stop and the moment its successor has loaded gets an
        error.
    type: str
    choices: [refuse, accept]
    default: refuse
  metrics:
    description:
      - How the service tells how busy it is. Where a step takes a replica out, those that serve are asked at
        their own addresses, and the plan is refused if the others cannot take the load.
      - Nothing is asked without O(metrics.in_flight).
    default: {}
  load_sample_seconds:
    description: How long the replicas are looked at for their load.
    type: float
    default: 3
  force:
    description:
      - Makes a plan that O(min_ready), O(downtime) or the load forbids, with a warning for each. The load
        is not measured then. More than the cards hold is refused all the same.
    type: bool
    default: false
  undrain:
    description:
      - A host that was drained by hand has a file C(<service>/drained) below O(data_dir), and no step starts
        anything on it. With V(true) the plan is made as if there were none.
    type: bool
    default: false
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
    metrics:
      in_flight: [speech_in_flight, speech_queued]
      capacity: speech_capacity
  register: plan

- name: Show the plan
  ansible.builtin.debug:
    var: plan.summary

- name: Plan one replica more of what runs
  voicefleet.cosyvoice.replica_plan:
    service: cosyvoice
    follow: current
    replicas: "3"
    slots: "{{ capacity.slots }}"
  register: plan

- name: Plan the way back to what ran before, whatever the load
  voicefleet.cosyvoice.replica_plan:
    service: cosyvoice
    follow: previous
    slots: "{{ capacity.slots }}"
    force: true
  register: plan
"""

RETURN = r"""
steps:
  description: What to do, in this order. V(keep) steps are part of it.
  returned: when a plan was made, even if it is refused
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
      description: The slot it has or gets. Absent for V(remove), and where a drained host keeps it as it is.
      type: dict
    container_id:
      description: The container there is, if there is one.
      type: str
    reason:
      description: Why. Of a changed specification, what changed in it; values of secrets are not shown.
      type: str
    surge:
      description: Whether the new container comes first, on a slot that nobody has.
      type: bool
    takes_out:
      description: Whether a replica that serves is out while the step lasts, or for good.
      type: bool
    canary:
      description: Whether this is the first replacement of a replica that serves and has neighbours.
      type: bool
    from_slot:
      description: Key of the slot that it sits on now, empty if there is none.
      type: str
    from_revision:
      description: The revision that it has, empty if there is none.
      type: str
    to_revision:
      description: The revision that it gets or keeps, empty for V(remove).
      type: str
  sample:
    - action: replace
      name: cosyvoice-1
      number: 1
      reason: image changed 3f1c0a9be771 -> 77ab3c2d1e0f, revision 2511 -> 2512
      slot: {gpu: GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11, index: 0, memory_mib: 8192}
      container_id: d4b20ef82baf
      surge: false
      takes_out: true
      canary: true
      from_slot: GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11/0
      from_revision: "2511"
      to_revision: "2512"
todo:
  description: The steps that are not V(keep).
  returned: when a plan was made, even if it is refused
  type: list
  elements: dict
summary:
  description: The plan to read. A heading, what is out of the ordinary, and a line for each step.
  returned: when a plan was made, even if it is refused
  type: list
  elements: str
  sample:
    - "cosyvoice: 2 wanted, 2 there, 2 serving; 2 to replace; 1 serving at the worst moment"
    - "replace  cosyvoice-1  GPU-5a0e8f21/0  2511 -> 2512  revision 2511 -> 2512 (canary)"
    - "replace  cosyvoice-2  GPU-5a0e8f21/1  2511 -> 2512  revision 2511 -> 2512"
count:
  description: How many replicas there will be.
  returned: when a plan was made, even if it is refused
  type: int
specification:
  description:
    - The specification that was followed, for M(voicefleet.cosyvoice.replica). With O(follow=current) and
      O(follow=previous), C(image) is the content address, which no tag that was moved can change.
    - It has the values of its environment variables, secrets too.
  returned: when a plan was made, even if it is refused
  type: dict
image_id:
  description: Content address of its image. Empty in check mode where the image has yet to come.
  returned: when a plan was made, even if it is refused
  type: str
revision:
  description: Its revision.
  returned: when a plan was made, even if it is refused
  type: str
previous:
  description:
    - What new containers are to record as what ran before them, C(specification) and C(image_id). Empty if
      nothing did. Who follows V(previous) records just that, so a rollback that is run again changes nothing.
  returned: when a plan was made, even if it is refused
  type: dict
serving:
  description: How many replicas serve, and have to.
  returned: when a plan was made, even if it is refused
  type: dict
  contains:
    now:
      description: So many serve now.
      type: int
    lowest:
      description: So many do at the worst moment of the plan.
      type: int
    floor:
      description: So many have to whenever one is taken out.
      type: int
  sample: {now: 2, lowest: 1, floor: 1}
downtime:
  description: Whether a step leaves nobody who answers.
  returned: when a plan was made, even if it is refused
  type: bool
load:
  description:
    - What was measured of the load, empty if it was not. C(ready) replicas served, C(out) of them are out
      at the worst moment; C(in_flight) requests were in hand on one in the mean of C(looks), and it works
      on C(capacity) at once. C(on_the_rest) is the share of their capacity that the others would be loaded
      to, and C(limit) what is bearable. C(refusal) and C(unknown) say it in words.
  returned: when a plan was made, even if it is refused
  type: dict
  sample: {ready: 2, out: 1, looks: 6, in_flight: 0.5, capacity: 2.0, on_the_rest: 0.5, limit: 0.6}
drained:
  description: Who drained this host by hand, when and why (C(by), C(at), C(why)). Empty if nobody did.
  returned: when a plan was made, even if it is refused
  type: dict
  sample: {by: anna, at: "2026-03-01T10:00:00Z", why: new driver}
locked:
  description:
    - Whether a rollout has left its lock (M(voicefleet.cosyvoice.rollout_lock)) here, one that lives or one
      that was killed. Take it even where nothing is left to do, and nothing of a dead run stays behind.
  returned: when a plan was made, even if it is refused
  type: bool
route_service:
  description: Name of the load-balancer service that the router can name now so that no replica is left out.
  returned: when a plan was made, even if it is refused
  type: str
  sample: cosyvoice-lb3f1c0a
routes_wanted:
  description: Name of the load-balancer service in the specification's labels, empty if they have none.
  returned: when a plan was made, even if it is refused
  type: str
  sample: cosyvoice-lb77ab3c
"""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _changes,
    _load,
    _lock,
    _metrics,
    _mps,
    _plan_rules,
    _plan_text,
    _replica,
    _route_switch,
    _specification,
    _target,
)
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
    replicas_of,
    wanted_count,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_steps import plan
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._target import Target

if TYPE_CHECKING:
    from docker import DockerClient

ARGUMENTS: dict[str, Any] = {
    "service": {"type": "str", "required": True},
    "follow": {"type": "str", "choices": ["wanted", "current", "previous"], "default": "wanted"},
    "specification": {"type": "dict", "options": _specification.ARGUMENT_SPEC},
    "data_dir": {"type": "path", "default": "/var/lib/voicefleet"},
    "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
    "replicas": {"type": "str"},
    "slots": {"type": "list", "elements": "dict", "options": _specification.SLOT_OPTIONS},
    "cpu_slots": {"type": "int", "default": 0},
    "capacity_summary": {"type": "str", "default": ""},
    "surge": {"type": "str", "choices": ["if_free", "never"], "default": "if_free"},
    "canary": {"type": "bool", "default": True},
    "min_ready": {"type": "int", "default": -1},
    "downtime": {"type": "str", "choices": ["refuse", "accept"], "default": "refuse"},
    "metrics": {"type": "dict", "default": {}, "options": _metrics.OPTIONS},
    "load_sample_seconds": {"type": "float", "default": 3},
    "force": {"type": "bool", "default": False},
    "undrain": {"type": "bool", "default": False},
}


def observe(module: AnsibleModule) -> tuple[DockerClient | None, list[Observed]]:
    """The engine and the service's replicas on it."""
    try:
        client = connect(module.params["docker_host"])
        return client, _replica.observe(client, module.params["service"], module.params["data_dir"])
    except EngineError as error:
        if not module.check_mode:
            raise
        module.warn(f"Nothing can be observed, so the plan is made as for a new host. {error}")
        return None, []


def target_of(module: AnsibleModule, client: DockerClient | None, observed: list[Observed]) -> Target:
    """What the replicas are to be made from."""
    service, follow = module.params["service"], module.params["follow"]
    if follow == "wanted":
        specification = module.params["specification"]
        # In check mode an image may be missing that will be there by then; no running replica can have it.
        must_exist = not module.check_mode
        image_id = _replica.image_id(client, specification["image"], must_exist) if client else ""
        return Target(specification, image_id)
    recorded = (_target.current if follow == "current" else _target.previous)(service, observed)
    if client is None or not _replica.image_id(client, recorded.image_id, must_exist=False):
        raise PlanError(_target.gone(service, recorded, follow))
    return Target({**recorded.specification, "image": recorded.image_id}, recorded.image_id)


def drained_by_hand(params: dict[str, Any]) -> dict[str, Any]:
    """What the marker of a host that was taken out says, empty without one."""
    try:
        path = os.path.join(params["data_dir"], params["service"], "drained")
        with open(path, encoding="utf-8", errors="replace") as marker:
            return {} if params["undrain"] else _plan_rules.drained_by_hand(marker.read())
    except FileNotFoundError:
        return {}


def measured(
    params: dict[str, Any],
    client: DockerClient | None,
    observed: list[Observed],
    outlook: _plan_rules.Outlook,
) -> _load.Load | None:
    """The load, where a step takes a replica out that others have to stand in for."""
    metrics = params["metrics"]
    asked = metrics.get("in_flight") and not params["force"] and outlook.out and outlook.lowest
    if client is None or not asked:
        return None
    urls = {each.name: _replica.describe(client, each)["url"] for each in observed if each.serving}
    series = _load.sample(urls, _metrics.MetricNames.of(metrics), params["load_sample_seconds"])
    return _load.measure(series, outlook.serving, outlook.out)


def as_data(step: Step) -> dict[str, Any]:
    data = {key: value for key, value in asdict(step).items() if value is not None}
    if step.slot and not step.slot.mps:
        del data["slot"]["mps"]
    return data


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("follow", "wanted", ("specification", "replicas"))],
        supports_check_mode=True,
    )
    params = module.params
    service = params["service"]
    slots = None if params["slots"] is None else [Slot(**slot) for slot in params["slots"]]
    try:
        client, observed = observe(module)
        target = target_of(module, client, observed)
        asked = params["replicas"] if params["replicas"] is not None else len(replicas_of(observed))
        count = wanted_count(service, asked, slots, params["capacity_summary"])

        def config_of(number: int, slot: Slot) -> dict[str, Any]:
            return _specification.container_config(
                service, number, slot, target.specification, target.image_id, params["data_dir"]
            )

        def spec_of(number: int, slot: Slot) -> str:
            return _specification.spec_hash(config_of(number, slot))

        def why(container: Observed, slot: Slot) -> str:
            if container.outdated_mounts:
                return f"what it has mounted at {', '.join(container.outdated_mounts)} was put there anew"
            label = container.labels.get(_specification.LABEL_CONFIG, "")
            return _changes.reason(label, config_of(container.number, slot))

        steps = plan(
            service,
            count,
            slots,
            observed,
            spec_of,
            why=why,
            held_mib=lambda container: _mps.limit_of(container.labels.get(_specification.LABEL_CONFIG, "")),
            revision=target.revision,
            surge=params["surge"] == "if_free",
            canary=params["canary"],
            cpu_slots=params["cpu_slots"],
        )
        drained = drained_by_hand(params)
        if drained:
            steps = _plan_rules.while_drained(steps)
        outlook = _plan_rules.look_ahead(
            service, count, steps, observed, params["min_ready"], params["downtime"] == "accept"
        )
        load = measured(params, client, observed, outlook)
    except (PlanError, EngineError, _replica.ReplicaError) as error:
        module.fail_json(msg=str(error))

    refusals = [*outlook.refusals, *([f"{service}: {load.refusal}"] if load and load.refusal else [])]
    overridden = refusals if params["force"] else []
    previous = _target.to_record(observed, target, params["follow"])
    routes_wanted = max(_route_switch.carried(target.specification["labels"], service), default="")
    todo = [step for step in steps if step.action != "keep"]
    result = {
        # A plan changes nothing; but a dry run is to show that, and what, would change.
        "changed": bool(todo) and module.check_mode,
        "steps": [as_data(step) for step in steps],
        "todo": [as_data(step) for step in todo],
        "summary": _plan_text.summary(service, count, steps, observed, outlook, drained, overridden),
        "count": count,
        "specification": target.specification,
        "image_id": target.image_id,
        "revision": target.revision,
        "previous": json.loads(previous.label) if previous else {},
        "serving": {"now": outlook.serving, "lowest": outlook.lowest, "floor": outlook.floor},
        "downtime": outlook.downtime,
        "load": asdict(load) if load else {},
        "drained": drained,
        "locked": os.path.exists(_lock.path_of(params["data_dir"], service)),
        "route_service": _route_switch.live([each.labels for each in observed], service, routes_wanted)
        if routes_wanted
        else "",
        "routes_wanted": routes_wanted,
        "diff": _plan_text.diff(steps, observed, spec_of, target.image_id),
    }
    if load and load.unknown:
        module.warn(load.unknown)
    if refusals and not params["force"]:
        module.fail_json(msg="\n".join(refusals), **result)
    for refusal in overridden:
        module.warn(f"Forced: {refusal}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
