#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: voice
short_description: Add, replace or remove one voice in a directory of voices, after checking it
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Keeps the directory that M(voicefleet.cosyvoice.voice_set) lays down on hosts. Run it where that directory
    is, on the controller as a rule, with C(delegate_to=localhost).
  - The recording has to be 1 to 30 s long (3 to 15 s are best), with 16000 samples a second or more, neither
    overdriven nor silent, and the words have to be neither too many nor too few for it. What is not is
    refused before anything changes, with the figure and the remedy.
  - What the voice was before is kept beside the others as C(.former/<name>), and O(state=former) puts it
    back.
  - The default voice cannot be removed, and no other becomes the default unless O(default=true) says so.
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
    support: partial
    details:
      - O(state=former) exchanges a voice and what it was before, so that a second call undoes the first.
options:
  state:
    description:
      - V(present) adds the voice, or replaces of it what is given.
      - V(absent) removes it.
      - V(former) puts back what it was before it was last replaced or removed.
    type: str
    choices: [present, absent, former]
    default: present
  source:
    description: The directory of the voices. Made if it is missing.
    type: path
    required: true
  name:
    description: The voice's name, by which callers ask for it.
    type: str
    required: true
  recording:
    description:
      - The file with the recording, a wav file, or with the library PyAV a flac, mp3, ogg, webm, m4a or aac
        file.
      - The voice's own if not given.
    type: path
  transcript:
    description:
      - Exactly what is said in it. If not given, what the file beside O(recording) says that has its name and
        C(.txt), else what the voice has already for the same recording.
    type: str
  title:
    description: What to call the voice in lists. Whatever it has already if not given, as for the next two.
    type: str
  description:
    description: What the voice is like.
    type: str
  language:
    description: The language of the recording.
    type: str
  default:
    description: Whether it becomes the voice of callers that name none. Others then no longer say that they
      are.
    type: bool
    default: false
requirements:
  - PyAV, for recordings that are no plain wav file
seealso:
  - module: voicefleet.cosyvoice.voice_set
"""

EXAMPLES = r"""
- name: Add a voice
  voicefleet.cosyvoice.voice:
    source: "{{ inventory_dir }}/../voices"
    name: anna
    recording: /srv/recordings/anna.wav
    transcript: This is what is said in it.
  delegate_to: localhost
  run_once: true

- name: Put back what it was before
  voicefleet.cosyvoice.voice:
    source: "{{ inventory_dir }}/../voices"
    name: anna
    state: former
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
voices:
  description: The voices that the directory then has, with the SHA-256 of each of their files.
  returned: success
  type: dict
default:
  description: The voice of callers that name none.
  returned: success
  type: str
recording:
  description: Where the recording lies before the change. Empty with O(state=absent).
  returned: success
  type: str
transcript:
  description: Its words.
  returned: success
  type: str
seconds:
  description: How long it is. 0 with O(state=absent).
  returned: success
  type: float
rate_hz:
  description: Its samples a second.
  returned: success
  type: int
bytes:
  description: The size of the recording. 0 with O(state=absent).
  returned: success
  type: int
advice:
  description: What could be better. Empty if nothing.
  returned: success
  type: str
former:
  description: Whether O(state=former) would then put back what the voice was before.
  returned: success
  type: bool
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _recording,
    _voice_change,
    _voices,
)

ABOUT = {"title": "name", "description": "description", "language": "language"}


def wish_of(params: dict[str, Any]) -> _voice_change.Wish:
    """What was asked for. Raises VoicesError if the recording or its words cannot be read."""
    recording, words = params["recording"], params["transcript"]
    beside = f"{os.path.splitext(recording or '')[0]}.txt"
    if params["state"] == "present" and recording and words is None and os.path.isfile(beside):
        words = _recording.load_words(beside)
    return _voice_change.Wish(
        name=params["name"],
        state=params["state"],
        recording=_recording.load(recording) if recording and params["state"] == "present" else None,
        words=words,
        about={key: params[option] for option, key in ABOUT.items() if params[option] is not None},
        default=params["default"],
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "former"], "default": "present"},
            "source": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "recording": {"type": "path"},
            "transcript": {"type": "str"},
            "title": {"type": "str"},
            "description": {"type": "str"},
            "language": {"type": "str"},
            "default": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    source, name, state = params["source"], params["name"], params["state"]
    try:
        change = _voice_change.plan(source, wish_of(params))
        path = _voice_change.recording_path(source, name, state, params["recording"])
        found = _voice_change.examine(change, path) if change.voice else None
        changed = change.remove or bool(change.write)
        kept = name in change.before if changed else _voice_change.former(source, name)
        if changed and not module.check_mode:
            _voice_change.carry_out(source, change)
    except _voices.VoicesError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or source} cannot be used: {error.strerror or error}. Voices are kept on "
            "the controller by whoever runs the playbook: correct the path, or its permissions."
        )
    module.exit_json(
        changed=changed,
        voices=change.after,
        default=change.default,
        recording=path if found else "",
        transcript=change.voice[_voices.TEXT].decode("utf-8-sig").strip() if found else "",
        seconds=found.seconds if found else 0.0,
        rate_hz=found.rate_hz if found else 0,
        bytes=len(change.voice[_voices.WAV]) if found else 0,
        advice=found.advice if found else "",
        former=kept,
        diff={
            "before_header": source,
            "after_header": source,
            "before": _voices.manifest(change.before),
            "after": _voices.manifest(change.after),
        },
    )


if __name__ == "__main__":
    main()
