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
  - Creates, starts, replaces, drains or removes the container of one replica on one slot. Every step is
    observed before the next one is taken.
  - "A replica that has to go is drained: its drain flag makes its health check fail, Traefik's API is watched
    until it does not list it any more, and the replica's own metrics until it has no request in hand. Then it
    is stopped."
  - "A newcomer is looked at behind that closed door first: whether it is loaded, whether it tells the wanted
    revision, whether it stays up for O(bake_seconds). Then its drain flag is lowered, Docker calls it
    healthy, Traefik lists it, and a request through Traefik has come back from it."
  - A replaced container is set aside as C(<service>-<number>.old) and only removed when its successor serves.
    If that fails at anything, the old one comes back, and the module fails with the newcomer's last words.
  - What it has done stands in the containers' names and labels. A run that was cut off is simply run again.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
  - voicefleet.cosyvoice.replica
  - voicefleet.cosyvoice.replica.metrics
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
  previous:
    description:
      - What ran before, as RV(voicefleet.cosyvoice.replica_plan#module:previous) tells. A new container keeps
        it, and a rollback goes back to it.
    type: dict
  number:
    description: The replica's number, from 1. Its container is C(<service>-<number>).
    type: int
    required: true
  state:
    description:
      - V(present) means running, on its slot, as specified, and serving.
      - V(drained) means stopped without a caller cut off, and kept from starting to serve. V(present) ends
        that.
      - V(absent) means that there is no container; its directories on the host stay.
    type: str
    choices: [present, drained, absent]
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
        description: What the replica may use of the card's memory. So much has to be free before it starts.
        type: int
      mps:
        description: The share of a card that MPS shares, as in M(voicefleet.cosyvoice.replica_plan).
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
            description: The user id that the daemon serves.
            type: str
            required: true
  surge:
    description:
      - The old container serves until the new one does. Needs a slot that nobody has; without it, the old one
        makes room first.
    type: bool
    default: false
  traefik:
    description:
      - Where Traefik tells what it serves. Without it, Docker's health check alone says when a replica gets
        callers, and Traefik is given four seconds to let go of one.
    type: dict
    suboptions:
      api_url:
        description: Base URL of the API, such as V(http://127.0.0.1:8080). Not asked when empty.
        type: str
        default: ""
      probe_url:
        description:
          - An entry point of Traefik at which each replica can be reached alone, by the host name
            C(<replica>.replica.internal). A request is sent through it before a replica counts as let in.
        type: str
        default: ""
      username:
        description: User of the API, where it has a login.
        type: str
        default: ""
      password:
        description: The user's password.
        type: str
        default: ""
      password_file:
        description: File on the host that holds the password, read when O(traefik.password) is empty.
        type: path
      validate_certs:
        description: Whether an HTTPS certificate of the API has to be trusted.
        type: bool
        default: true
      ca_path:
        description: Authority that signed it, as a file in PEM form.
        type: path
  health_path:
    description:
      - Path at which the service says whether it is fit to serve, asked at the replica's own address while
        its drain flag still keeps callers away. 2xx and 3xx mean yes, and so does a 503 whose JSON body has
        C(status) V(draining), as a service answers that reads the flag itself.
      - When empty, a newcomer is let in as soon as its health check is satisfied, and watched from then on.
    type: str
    default: ""
  version_path:
    description:
      - Path at which the service tells its revision, as JSON or as plain text, and in JSON the digest of its
        weights. A newcomer that tells another than O(specification.revision), or other weights than
        O(specification.weights_digest), is not let in. Not asked when empty.
    type: str
    default: ""
  revision_key:
    description: The key of the revision in that JSON.
    type: str
    default: revision
  digest_key:
    description: The key of the digest of the weights in that JSON.
    type: str
    default: weights_digest
  metrics:
    description:
      - How the service tells how busy it is. Without O(metrics.in_flight) a drain lasts O(drain_seconds).
  start_timeout_seconds:
    description: How long a new container may take until it is fit to serve.
    type: float
    default: 180
  drain_timeout_seconds:
    description: How long the requests in hand may take.
    type: float
    default: 130
  drain_policy:
    description:
      - What happens when a request is still in hand then. V(abort) lets the replica serve again and fails;
        V(cut) stops it, and tells how many were cut off.
    type: str
    choices: [abort, cut]
    default: abort
  drain_seconds:
    description: How long a drain lasts for a service that cannot tell what it has in hand.
    type: float
    default: 30
  route_timeout_seconds:
    description: How long Traefik may take to let go of a replica, or to take it in.
    type: float
    default: 30
  bake_seconds:
    description: How long a newcomer that replaces another is watched before it gets callers.
    type: float
    default: 5
  soak:
    description:
      - "For a canary: how long it is compared with its neighbours, by their metrics, before the old one is
        let go."
    type: dict
    suboptions:
      seconds:
        description: How long. 0 means not at all.
        type: float
        default: 0
      max_error_ratio:
        description: How much larger its share of errors may be than its neighbours' share.
        type: float
        default: 0
      max_latency_ratio:
        description: How many times its neighbours' latency its own may be.
        type: float
        default: 2
      min_requests:
        description: Latencies are compared when both sides have answered so many requests.
        type: int
        default: 10
  smi_command:
    description: The command that answers for C(nvidia-smi) on the host.
    type: str
    default: nvidia-smi
  lock_token:
    description:
      - Token of M(voicefleet.cosyvoice.rollout_lock), whose lock is renewed while the step lasts. A step
        whose lock was lost is not taken.
    type: str
    default: ""
  lock_expiry_seconds:
    description: Expiry of that lock.
    type: float
    default: 30
  progress_file:
    description:
      - File to which a line is written for everything that is waited for. The controller shows the lines
        while the step lasts, and names a file by itself.
    type: path
seealso:
  - module: voicefleet.cosyvoice.replica_plan
  - module: voicefleet.cosyvoice.rollout_lock
  - module: voicefleet.cosyvoice.rollout_record
"""

EXAMPLES = r"""
- name: Carry out the plan, one replica after another
  voicefleet.cosyvoice.replica:
    service: cosyvoice
    number: "{{ item.number }}"
    state: "{{ 'absent' if item.action == 'remove' else 'present' }}"
    slot: "{{ item.slot | default(omit) }}"
    surge: "{{ item.surge | default(false) }}"
    specification: "{{ plan.specification }}"
    previous: "{{ plan.previous }}"
    traefik:
      api_url: http://127.0.0.1:8080
    health_path: /healthz
    version_path: /version
    metrics:
      in_flight: [speech_in_flight, speech_queued]
  loop: "{{ plan.todo }}"
  loop_control:
    label: "{{ item.action }} {{ item.name }}: {{ item.reason }}"
"""

RETURN = r"""
action:
  description:
    - What was done, or in check mode would be. One of V(none), V(start), V(create), V(replace), V(drain),
      V(remove); or V(restore) on failure, when the old container is back in its place.
  returned: always
  type: str
step:
  description: What was done and observed, for M(voicefleet.cosyvoice.rollout_record). Returned on failure
    too.
  returned: not in check mode
  type: dict
  contains:
    name:
      description: The replica's container.
      type: str
    number:
      description: The replica's number.
      type: int
    slot:
      description: Key of the slot, such as V(cpu/0).
      type: str
    gpu:
      description: UUID of its card, if it has one.
      type: str
    action:
      description: As RV(action).
      type: str
    surge:
      description: Whether the new one came first.
      type: bool
    from:
      description: C(revision), C(image) and C(spec) of the container there was.
      type: dict
    to:
      description: The same of the one there is.
      type: dict
    container_id:
      description: The container, where there is one now.
      type: str
    drained_seconds:
      description: From the drain flag to the moment of its stop.
      type: float
    in_flight_at_stop:
      description: How many requests were cut off by the stop. None when the service cannot tell.
      type: int
    stopped_seconds:
      description: How long it took to stop.
      type: float
    started_seconds:
      description: From the start of the new container to the moment it got callers, without its bake time.
      type: float
    soak:
      description: What the comparison with its neighbours gave.
      type: dict
    seconds:
      description: The whole step.
      type: float
    error:
      description: What went wrong, empty if nothing did.
      type: str
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _canary,
    _engine,
    _lock,
    _metrics,
    _replica,
    _route_switch,
    _specification,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import Barriers, Hooks, Limits
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed, PlanError, Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._progress import Progress
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rollout import Rollout
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._soak import Soak
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import TraefikApi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_watch import TraefikWatch

# A stop lasts as long as the longest answer in hand.
ENGINE_TIMEOUT_SECONDS = 600

TRAEFIK_OPTIONS: dict[str, Any] = {
    "api_url": {"type": "str", "default": ""},
    "probe_url": {"type": "str", "default": ""},
    "username": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
    "password_file": {"type": "path", "no_log": False},
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
}
SOAK_OPTIONS: dict[str, Any] = {
    "seconds": {"type": "float", "default": 0},
    "max_error_ratio": {"type": "float", "default": 0},
    "max_latency_ratio": {"type": "float", "default": 2},
    "min_requests": {"type": "int", "default": 10},
}


def barriers_of(params: dict[str, Any], client: Any) -> Barriers:
    """What is waited for, and where it is asked."""
    traefik = params["traefik"] or {}
    password = traefik.get("password") or ""
    if not password and traefik.get("password_file"):
        with open(traefik["password_file"], encoding="utf-8") as file:
            password = file.read().strip()
    watch = None
    if traefik.get("api_url"):
        watch = TraefikWatch(
            TraefikApi(
                traefik["api_url"],
                traefik["username"] or None,
                password,
                traefik["ca_path"],
                traefik["validate_certs"],
            )
        )
    limits = {name: params[name] for name in Limits.__dataclass_fields__}
    return Barriers(
        client,
        Limits(**limits),
        Hooks(
            params["health_path"],
            params["version_path"],
            params["revision_key"],
            params["digest_key"],
            _metrics.MetricNames.of(params["metrics"]) if params["metrics"] else None,
        ),
        watch,
        traefik.get("probe_url") or "",
        (traefik["username"], password) if traefik.get("username") else None,
        [params["smi_command"]],
        Progress(params["progress_file"]),
    )


def soak_of(params: dict[str, Any], client: Any, barriers: Barriers) -> Soak | None:
    """The comparison with the neighbours, where one is asked for."""
    asked = dict(params["soak"] or {"seconds": 0})
    seconds = asked.pop("seconds")
    if not seconds:
        return None
    name = f"{params['service']}-{params['number']}"
    return Soak(
        client, barriers, params["service"], name, params["data_dir"], seconds, _canary.Limits(**asked)
    )


def notes_of(rollout: Rollout, config: dict[str, Any], params: dict[str, Any]) -> dict[str, str]:
    """Labels beside a new container's own: the way back, and services that the router still needs."""
    service = rollout.service
    labels = [replica.labels for replica in rollout.observed]
    wanted = next(iter(sorted(_route_switch.carried(config["labels"], service))), "")
    live = _route_switch.live(labels, service, wanted)
    return {
        **_specification.origin_labels(params["specification"], config["image_id"], params["previous"]),
        **(_route_switch.to_carry(labels, live, wanted, config["port"]) if wanted else {}),
    }


def version_of(replica: Observed | None) -> dict[str, str] | None:
    """A replica's revision, image and specification as the record keeps them."""
    return (
        {"revision": replica.revision, "image": replica.image_id, "spec": replica.spec} if replica else None
    )


def told(rollout: Rollout, config: dict[str, Any] | None, surge: bool, error: str) -> dict[str, Any]:
    """The step as the record keeps it."""
    before = rollout.before
    labels = config["labels"] if config else (before.labels if before else {})
    after = None
    if config:
        after = {
            "revision": config["labels"][_specification.LABEL_REVISION],
            "image": config["image_id"],
            "spec": _specification.spec_hash(config),
        }
    return {
        "name": rollout.name,
        "number": rollout.number,
        "slot": labels.get(_specification.LABEL_SLOT, ""),
        "gpu": labels.get(_specification.LABEL_GPU, ""),
        "surge": surge,
        "from": version_of(before),
        "to": after,
        "seconds": round(rollout.barriers.progress.seconds, 1),
        "error": error,
        **asdict(rollout.outcome),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "specification": {"type": "dict", "options": _specification.ARGUMENT_SPEC},
            "data_dir": {"type": "path", "default": "/var/lib/voicefleet"},
            "docker_host": {"type": "str", "default": _engine.DEFAULT_DOCKER_HOST},
            "previous": {"type": "dict"},
            "number": {"type": "int", "required": True},
            "state": {"type": "str", "choices": ["present", "drained", "absent"], "default": "present"},
            "slot": {"type": "dict", "options": _specification.SLOT_OPTIONS},
            "surge": {"type": "bool", "default": False},
            "traefik": {"type": "dict", "options": TRAEFIK_OPTIONS},
            "health_path": {"type": "str", "default": ""},
            "version_path": {"type": "str", "default": ""},
            "revision_key": {"type": "str", "default": "revision", "no_log": False},
            "digest_key": {"type": "str", "default": "weights_digest", "no_log": False},
            "metrics": {"type": "dict", "options": _metrics.OPTIONS},
            "start_timeout_seconds": {"type": "float", "default": 180},
            "drain_timeout_seconds": {"type": "float", "default": 130},
            "drain_policy": {"type": "str", "choices": ["abort", "cut"], "default": "abort"},
            "drain_seconds": {"type": "float", "default": 30},
            "route_timeout_seconds": {"type": "float", "default": 30},
            "bake_seconds": {"type": "float", "default": 5},
            "soak": {"type": "dict", "options": SOAK_OPTIONS},
            "smi_command": {"type": "str", "default": "nvidia-smi"},
            "lock_token": {"type": "str", "default": "", "no_log": False},
            "lock_expiry_seconds": {"type": "float", "default": _lock.DEFAULT_EXPIRY_SECONDS},
            "progress_file": {"type": "path"},
        },
        required_if=[("state", "present", ("specification", "slot"))],
        supports_check_mode=True,
    )
    params = module.params
    wanted = params["state"] == "present"
    try:
        client = _engine.connect(params["docker_host"], timeout=ENGINE_TIMEOUT_SECONDS)
    except _engine.EngineError as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        module.exit_json(changed=wanted, action="create" if wanted else "none")
    _engine.outlast_restarts(client)
    service, number, slot = params["service"], params["number"], params["slot"] or {}
    config = None
    result: dict[str, Any] = {}
    try:
        barriers = barriers_of(params, client)
        soak = soak_of(params, client, barriers)
        rollout = Rollout(
            client,
            service,
            number,
            params["data_dir"],
            barriers,
            slot.get("memory_mib"),
            soak,
        )
        if wanted:
            config = _specification.container_config(
                service,
                number,
                Slot(**slot),
                params["specification"],
                _replica.image_id(client, params["specification"]["image"], must_exist=not module.check_mode),
                params["data_dir"],
            )
        drain = params["state"] == "drained"
        action = rollout.drain_action() if drain else rollout.action(config)
        before = rollout.before
        result = {
            "changed": action != "none",
            "action": action,
            "diff": {
                "before": _specification.readable(
                    _replica.recorded_config(client, before.container_id) if before else {}
                ),
                "after": _specification.readable(config),
            },
        }
        if drain:
            result["diff"] = {"before": f"{action}\n" if action != "none" else "", "after": ""}
    except (_replica.ReplicaError, PlanError, OSError) as error:
        module.fail_json(msg=str(error), **result)
    if module.check_mode:
        module.exit_json(**result)
    failure = ""
    try:
        with _lock.kept(
            params["data_dir"], service, params["lock_token"], params["lock_expiry_seconds"]
        ) as still_ours:
            rollout.checkpoint = lambda step: still_ours()
            if drain:
                rollout.drain()
            else:
                notes = notes_of(rollout, config, params) if config else {}
                rollout.carry_out(config, notes, params["surge"])
    except (_replica.ReplicaError, _lock.LockError) as error:
        failure = str(error)
    step = told(rollout, config, params["surge"], failure)
    result.update(action=rollout.outcome.action, step=step, **rollout.barriers.progress.told())
    if failure:
        module.fail_json(msg=failure, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
