#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: voice_set
short_description: Lay the voices of a directory of the controller down on a host
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Makes a directory of the host hold the voices that a directory of the controller holds, each a directory
    with C(prompt.wav), its words in C(prompt.txt), and perhaps C(voice.yml). The speech server notices by
    itself.
  - A voice changes in one step, when all of its files are there and their digests are right. On the host it
    is a link to files that never change, by which the module knows its own voices.
  - A voice that the controller no longer has is removed if it was laid down by this module and nobody wrote
    to it since. Others stay, unless O(exclusive=true).
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows a line for each file, with its SHA-256.
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) lays the voices down.
      - V(planned) tells what that would do, and what the host then has. Without O(source) it tells what the
        host has as it is.
      - V(absent) removes the voices that were laid down; all voices if O(exclusive=true).
    type: str
    choices: [present, planned, absent]
    default: present
  source:
    description:
      - Directory of the voices on the controller. A relative path is looked for as that of a file is by
        M(ansible.builtin.copy).
      - Needed with O(state=present) unless O(voices) will do. Names that begin with a dot are passed over.
    type: path
  dir:
    description: Directory of the voices on the host.
    type: path
    required: true
  exclusive:
    description: Whether voices that were laid down by hand are replaced by those of the same name, and
      removed if there are none.
    type: bool
    default: false
  voices:
    description:
      - SHA-256 of each file of each voice. The action plugin of the same name fills it in from O(source).
      - With O(state=planned), and in check mode, it may be given instead, as M(voicefleet.cosyvoice.voice)
        returns it, to see what a directory would do that is not there yet.
    type: dict
  incoming:
    description: Where the files to bring lie on the host. The action plugin of the same name fills it in.
    type: dict
    default: {}
seealso:
  - module: voicefleet.cosyvoice.voice
    description: Adds, replaces or removes one in the directory on the controller.
  - module: voicefleet.cosyvoice.service_probe
    description: Whether every replica has them.
"""

EXAMPLES = r"""
- name: Lay down the voices of this inventory
  voicefleet.cosyvoice.voice_set:
    source: "{{ inventory_dir }}/../voices"
    dir: /var/lib/voicefleet/voices/cosyvoice

- name: Take them away again
  voicefleet.cosyvoice.voice_set:
    dir: /var/lib/voicefleet/voices/cosyvoice
    state: absent
"""

RETURN = r"""
digest:
  description:
    - What replicas tell as C(voices_digest) when they have exactly the voices that lie there afterwards.
    - With O(state=planned), those that would.
  returned: success
  type: str
voices:
  description: The same for each of those voices alone, by its name.
  returned: success
  type: dict
bring:
  description: The voices that were new or changed.
  returned: success
  type: list
  elements: str
remove:
  description: The voices that were removed.
  returned: success
  type: list
  elements: str
kept:
  description: Voices laid down by hand that stay.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _voices


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "planned", "absent"], "default": "present"},
            "source": {"type": "path"},
            "dir": {"type": "path", "required": True},
            "exclusive": {"type": "bool", "default": False},
            "voices": {"type": "dict"},
            "incoming": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    path, state = params["dir"], params["state"]
    try:
        if state == "planned" and params["voices"] is None:
            due = _voices.as_it_is(path)
        else:
            wanted = {} if state == "absent" else params["voices"] or {}
            due = _voices.plan(path, wanted, params["exclusive"])
        changed = bool(due.bring or due.remove)
        if state != "planned" and not module.check_mode:
            if changed:
                _voices.lay_down(path, due, params["incoming"])
            if state == "absent":
                _voices.clear(path)
    except _voices.VoicesError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or path} cannot be used: {error.strerror or error}. Voices are written by "
            "root; set become: true, or correct dir."
        )
    module.exit_json(
        changed=changed and state != "planned",
        digest=_voices.digest(due.after),
        voices={name: _voices.digest({name: voice}) for name, voice in due.after.items()},
        bring=due.bring,
        remove=due.remove,
        kept=due.kept,
        diff={
            "before_header": path,
            "after_header": path,
            "before": _voices.manifest(due.before),
            "after": _voices.manifest(due.after),
        },
    )


if __name__ == "__main__":
    main()
