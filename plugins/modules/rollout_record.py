#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_record
short_description: Keep the record of a rollout on the host
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Writes down as JSON what a rollout did to the replicas of a service on this host, who started it, how long
    it took, and how many requests were cut off. The file is C(rollouts/<time>-<verb>.json) in the service's
    directory below O(data_dir), and a reader never sees half of it.
  - Removes the oldest records beyond O(keep).
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
attributes:
  check_mode:
    support: full
    details:
      - Nothing is written. The return values tell what would be.
  diff_mode:
    support: N/A
    details:
      - A record tells of one rollout and is not a state that the host is brought to.
  idempotent:
    support: N/A
    details:
      - Every call keeps another record and never counts as a change, for the same reason.
options:
  service:
    description: Name of the service.
    type: str
    required: true
  data_dir:
    description: Directory on the host below which the service has its own. What is missing is created.
    type: path
    default: /var/lib/voicefleet
  verb:
    description:
      - What the rollout was, such as V(upgrade), V(rollback), V(scale), V(drain), V(undrain) or V(site).
      - It becomes part of the file's name, so it is lower-case letters, digits, dashes and underscores.
    type: str
    required: true
  owner:
    description: Who started it, in words that tell a colleague whom to ask.
    type: str
    default: ""
  started_at:
    description: When it began, in ISO 8601 with a time zone. Now, if not given.
    type: str
  steps:
    description: What each step did, in order; RV(voicefleet.cosyvoice.replica#module:step) of each.
    type: list
    elements: dict
    default: []
  ok:
    description: Whether all of it succeeded.
    type: bool
    default: true
  error:
    description: What went wrong, if not.
    type: str
    default: ""
  plan:
    description: The plan it followed, line by line.
    type: list
    elements: str
    default: []
  keep:
    description: How many records to keep.
    type: int
    default: 50
seealso:
  - module: voicefleet.cosyvoice.replica
  - module: voicefleet.cosyvoice.rollout_lock
  - plugin: voicefleet.cosyvoice.rollout_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Write down what was done
  voicefleet.cosyvoice.rollout_record:
    service: cosyvoice
    verb: upgrade
    owner: ada on ci-runner-3
    started_at: "2026-11-22T10:53:07Z"
    plan: "{{ plan.summary }}"
    steps: "{{ rolled.results | map(attribute='step') }}"
  register: written

- name: Show it
  ansible.builtin.debug:
    msg: "{{ written.record | voicefleet.cosyvoice.rollout_table }}"
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /var/lib/voicefleet/cosyvoice/rollouts/20261122T105307Z-upgrade.json
removed:
  description: Old records that were removed.
  returned: always
  type: list
  elements: str
record:
  description: What stands in it.
  returned: always
  type: dict
  contains:
    service:
      description: Name of the service.
      type: str
    host:
      description: The host's own name.
      type: str
    verb:
      description: As O(verb).
      type: str
    owner:
      description: As O(owner).
      type: str
    started_at:
      description: When the rollout began, in UTC.
      type: str
      sample: "2026-11-22T10:53:07Z"
    ended_at:
      description: When this record was made, in UTC.
      type: str
    seconds:
      description: From one to the other.
      type: float
    ok:
      description: As O(ok).
      type: bool
    error:
      description: As O(error).
      type: str
    plan:
      description: As O(plan).
      type: list
      elements: str
    steps:
      description: As O(steps).
      type: list
      elements: dict
    totals:
      description:
        - How many replicas were V(replaced), V(created), V(started), V(drained), V(removed) and V(restored).
        - V(in_flight_cut) is how many requests were cut off when replicas were stopped. It is none if one of
          V(in_flight_unknown) stopped replicas could not tell.
      type: dict
    physical_minimum_seconds:
      description: What these steps take at the very least, the sum of drains, stops, and starts until ready.
      type: float
    seconds_over_minimum:
      description: What the rollout took beyond that.
      type: float
"""

import os
import platform
from datetime import datetime

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _record


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "data_dir": {"type": "path", "default": "/var/lib/voicefleet"},
            "verb": {"type": "str", "required": True},
            "owner": {"type": "str", "default": ""},
            "started_at": {"type": "str"},
            "steps": {"type": "list", "elements": "dict", "default": []},
            "ok": {"type": "bool", "default": True},
            "error": {"type": "str", "default": ""},
            "plan": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 50},
        },
        supports_check_mode=True,
    )
    params = module.params
    if not _record.VERB.match(params["verb"]):
        module.fail_json(
            msg=f"verb is '{params['verb']}'. It names a file: "
            "use lower-case letters, digits, - and _, a letter first."
        )
    if params["keep"] < 1:
        module.fail_json(msg=f"keep is {params['keep']}; give at least 1, the record that is written now.")
    ended = datetime.now(_record.UTC)
    try:
        started = _record.moment(params["started_at"]) if params["started_at"] else ended
    except ValueError as error:
        module.fail_json(msg=f"started_at: {error}")
    record = _record.compose(
        params["service"],
        platform.node(),
        params["verb"],
        params["owner"],
        started,
        ended,
        params["ok"],
        params["error"],
        params["plan"],
        params["steps"],
    )
    directory = os.path.join(params["data_dir"], params["service"], "rollouts")
    path = _record.path_for(directory, started, params["verb"])
    removed: list[str] = []
    if not module.check_mode:
        try:
            removed = _record.keep(path, record, params["keep"])
        except OSError as error:
            module.fail_json(
                msg=f"The record cannot be kept in {directory}: {error}. Make room there; the rollout itself "
                "is not undone by this.",
                record=record,
            )
    module.exit_json(changed=False, path=path, record=record, removed=removed)


if __name__ == "__main__":
    main()
