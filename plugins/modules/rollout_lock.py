#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_lock
short_description: Let only one run at a time change the replicas of a service on a host
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Takes, renews or gives back the lock of one service on one host. It is the file C(lock) in the service's
    directory below O(data_dir).
  - The lock expires. Its holder renews it while it works, so a run that was killed leaves nothing for a
    person to clean up.
  - A holder whose lock has not expired yet is watched. If it renews the lock meanwhile it is alive, and the
    module fails at once and says who it is, since when, and what to do. If it stays silent until its lock
    expires, the lock is taken over with a warning.
  - An empty or damaged file, as a host leaves it that crashes, counts as no lock, with a warning.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
attributes:
  check_mode:
    support: full
    details:
      - Nothing is taken, renewed or given back. A lock that another run holds is only warned of.
  diff_mode:
    support: N/A
    details:
      - A lock is the sign of a run, not a state that the host is brought to.
  idempotent:
    support: N/A
    details:
      - Nothing that is done to a lock counts as a change, for the same reason. Taking it a second time
        without O(token) meets the first, which is what a lock is for.
options:
  service:
    description: Name of the service.
    type: str
    required: true
  data_dir:
    description: Directory on the host below which the service has its own. What is missing is created.
    type: path
    default: /var/lib/voicefleet
  state:
    description:
      - V(present) takes the lock, or renews it if O(token) is given.
      - V(absent) gives it back. A lock that belongs to another run is left as it is, with a warning. None at
        all is no error.
    type: str
    choices: [present, absent]
    default: present
  owner:
    description:
      - Who takes the lock, in words that tell a colleague whom to ask. Required to take it.
    type: str
    default: ""
  purpose:
    description: What it is taken for, for the same readers.
    type: str
    default: ""
  token:
    description:
      - What RV(token) was when the lock was taken. It tells one run from another and is no secret.
      - Required to give the lock back, unless O(force) is set.
    type: str
    default: ""
  expiry_seconds:
    description: How long the holder may be silent before another run may take over.
    type: float
    default: 30
  force:
    description:
      - Take the lock at once, or remove it, whoever holds it, with a warning. If that run is alive it stops
        at its next step.
    type: bool
    default: false
seealso:
  - module: voicefleet.cosyvoice.replica_plan
  - module: voicefleet.cosyvoice.replica
"""

EXAMPLES = r"""
- name: Take the lock
  voicefleet.cosyvoice.rollout_lock:
    service: cosyvoice
    owner: ada@control
    purpose: upgrade to 2.1.0
  register: lock

- name: Give it back
  voicefleet.cosyvoice.rollout_lock:
    service: cosyvoice
    state: absent
    token: "{{ lock.token }}"

- name: Remove a lock that is in the way, by hand
  voicefleet.cosyvoice.rollout_lock:
    service: cosyvoice
    state: absent
    force: true
"""

RETURN = r"""
token:
  description: By what the holder renews the lock and gives it back. Empty if this run does not hold it.
  returned: always
  type: str
  sample: 5f0c1d7e9a3b4c2d8e6f7a1b2c3d4e5f
taken_over:
  description: The owner of a lock that was taken over, because it was silent or by force. Empty otherwise.
  returned: always
  type: str
  sample: bob@laptop
released:
  description: Whether a lock was removed.
  returned: always
  type: bool
lock:
  description: The lock as it is afterwards, this run's or another's. V(null) if there is none.
  returned: always
  type: dict
  contains:
    owner: {description: Who holds it., type: str, returned: success, sample: ada@control}
    purpose: {description: What for., type: str, returned: success, sample: upgrade to 2.1.0}
    acquired_at:
      description: Since when, in UTC.
      type: str
      returned: success
      sample: "2026-11-23T09:18:31.250Z"
    renewed_at:
      description: The last sign of life, in UTC.
      type: str
      returned: success
      sample: "2026-11-23T09:19:02.500Z"
    expires_at:
      description: When it may be taken over without another sign, in UTC.
      type: str
      returned: success
      sample: "2026-11-23T09:19:32.500Z"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _lock


def take(module: AnsibleModule, file: _lock.LockFile) -> dict[str, Any]:
    """Take or renew the lock. Raises LockError and OSError."""
    params = module.params
    if module.check_mode:
        held = file.read()
        if held and held.token != params["token"] and held.expires_at > file.clock():
            module.warn(
                f"The lock {file.path} is held by {held.who()}. If it is alive, this run will be refused."
            )
        return {}
    if params["token"]:
        file.renew(params["token"])
        return {"token": params["token"]}
    acquired = file.acquire(params["owner"], params["purpose"], params["force"])
    if acquired.warning:
        module.warn(acquired.warning)
    return {"token": acquired.token, "taken_over": acquired.taken_over}


def give_back(module: AnsibleModule, file: _lock.LockFile) -> dict[str, Any]:
    """Release the lock, or remove it by force. Raises LockError and OSError."""
    params = module.params
    if module.check_mode:
        return {}
    if params["force"]:
        held = file.read()
        removed = file.lift()
        if held and held.token != params["token"]:
            module.warn(f"The lock {file.path} of {held.who()} was removed by force.")
        return {"released": removed}
    try:
        return {"released": file.release(params["token"])}
    except _lock.LockLost as error:
        module.warn(f"It was not given back. {error}")
        return {}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "data_dir": {"type": "path", "default": "/var/lib/voicefleet"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "owner": {"type": "str", "default": ""},
            "purpose": {"type": "str", "default": ""},
            # It tells runs apart and opens nothing; hidden, it could not be handed on.
            "token": {"type": "str", "default": "", "no_log": False},
            "expiry_seconds": {"type": "float", "default": _lock.DEFAULT_EXPIRY_SECONDS},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    present = params["state"] == "present"
    if present and not (params["owner"] or params["token"]):
        module.fail_json(msg="owner is empty. Say who takes the lock, so that others know whom to ask.")
    if not present and not (params["token"] or params["force"]):
        module.fail_json(
            msg="token is empty. Give the one that was returned when the lock was taken, or set force to "
            "remove the lock whoever holds it."
        )
    result: dict[str, Any] = {"token": "", "taken_over": "", "released": False, "lock": None}
    path = _lock.path_of(params["data_dir"], params["service"])
    try:
        file = _lock.LockFile(path, params["expiry_seconds"])
        try:
            result.update(take(module, file) if present else give_back(module, file))
        finally:
            held = file.read()
            result["lock"] = held.public() if held else None
    except (_lock.LockError, ValueError) as error:
        module.fail_json(msg=str(error), **result)
    except OSError as error:
        module.fail_json(
            msg=f"The lock {path} cannot be used: {error.strerror or error}. It is written by the user who "
            "changes the replicas; set become: true, or correct data_dir.",
            **result,
        )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
