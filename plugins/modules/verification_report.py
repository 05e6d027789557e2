#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: verification_report
short_description: Keep the report of a verification on the host
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Writes a report twice, as JSON for machines and as a page for people, under the time it was made at, and
    points C(latest.json) and C(latest.html) to it. Removes the oldest reports beyond O(keep).
  - A reader never sees half a file.
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
      - A report is a record of one look at the host, not a state that the host is brought to.
  idempotent:
    support: N/A
    details:
      - Every call keeps another report and never counts as a change, for the same reason.
options:
  dest:
    description: Directory of the reports. Made if it is missing.
    type: path
    required: true
  generated_at:
    description: When the report was made, in UTC and in ISO 8601. It gives the files their name.
    type: str
    required: true
  json:
    description: The report for machines.
    type: str
    required: true
  html:
    description: The report for people.
    type: str
    required: true
  audio:
    description:
      - WAV files on this host to put into the page, in the order of their places in it, which are written
        C(src="audio:0"), C(src="audio:1") and so on. The player of a file that is missing, or
        larger than O(max_audio_kib), is hidden.
    type: list
    elements: path
    default: []
  max_audio_kib:
    description: The largest audio file that is put into the page.
    type: int
    default: 2048
  keep:
    description: How many reports to keep.
    type: int
    default: 30
seealso:
  - module: voicefleet.cosyvoice.service_probe
  - module: voicefleet.cosyvoice.traefik_verify
"""

EXAMPLES = r"""
- name: Keep the report
  voicefleet.cosyvoice.verification_report:
    dest: /var/lib/voicefleet/verify
    generated_at: "2026-11-22T10:53:07Z"
    json: "{{ report | ansible.builtin.to_nice_json }}"
    html: "{{ report | voicefleet.cosyvoice.verification_page(template) }}"
    audio: [/var/lib/voicefleet/verify/sentence.wav]
"""

RETURN = r"""
json_path:
  description: The report for machines.
  returned: always
  type: str
  sample: /var/lib/voicefleet/verify/2026-11-22T105307Z.json
html_path:
  description: The report for people.
  returned: always
  type: str
  sample: /var/lib/voicefleet/verify/2026-11-22T105307Z.html
removed:
  description: Old reports that were removed.
  returned: always
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _reports


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "generated_at": {"type": "str", "required": True},
            # Long, and of no use in a log.
            "json": {"type": "str", "required": True, "no_log": True},
            "html": {"type": "str", "required": True, "no_log": True},
            "audio": {"type": "list", "elements": "path", "default": []},
            "max_audio_kib": {"type": "int", "default": 2048},
            "keep": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        stem = _reports.stem(params["generated_at"])
    except ValueError as error:
        module.fail_json(msg=f"generated_at: {error}")
    if params["keep"] < 1:
        module.fail_json(msg=f"keep is {params['keep']}; give at least 1, the report that is written now.")
    paths = {kind: os.path.join(params["dest"], f"{stem}.{kind}") for kind in ("json", "html")}
    removed: list[str] = []
    if not module.check_mode:
        page = _reports.with_audio(params["html"], params["audio"], params["max_audio_kib"] * 1024)
        try:
            os.makedirs(params["dest"], mode=0o755, exist_ok=True)
            _reports.write(paths["json"], params["json"])
            _reports.write(paths["html"], page)
            for kind, path in paths.items():
                _reports.point(os.path.join(params["dest"], f"latest.{kind}"), path)
            removed = _reports.prune(params["dest"], params["keep"])
        except OSError as error:
            module.fail_json(
                msg=f"The report cannot be kept below {params['dest']}: {error}. "
                "Make room there or choose another directory."
            )
    module.exit_json(changed=False, json_path=paths["json"], html_path=paths["html"], removed=removed)


if __name__ == "__main__":
    main()
