# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter failure_words: why a task failed, for whoever reads the last line only."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: failure_words
short_description: Why a task failed, in its own words
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - Tells what a failed task said, for a C(rescue) that says it again at the end.
  - Ansible says of a loop only that some of its items failed, and of a command only that it did not end with
    0. So the items that failed are asked, and what a command wrote to its standard error is added.
options:
  _input:
    description: What a C(rescue) has in C(ansible_failed_result).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Try
  block:
    - name: Stop them
      ansible.builtin.command:
        argv: [systemctl, stop, "{{ item }}"]
      loop: [one, two]
  rescue:
    - name: Say why
      ansible.builtin.fail:
        msg: "{{ ansible_failed_result | voicefleet.cosyvoice.failure_words }}"
"""

RETURN = r"""
_value:
  description: Sentences, none of them twice.
  type: str
  sample: "non-zero return code: Failed to stop two.service: Unit two.service not loaded."
"""

NONE = "No reason was given."
_ENDS = (".", "!", "?")


def failure_words(result: t.Any) -> str:
    """What the task, or each failed item of its loop, said."""
    if not isinstance(result, t.Mapping):
        raise AnsibleFilterError("failure_words: give what a rescue has in ansible_failed_result")
    failed = [item for item in result.get("results", []) if item.get("failed") or item.get("unreachable")]
    said = [
        ": ".join(filter(None, (str(each.get(key) or "").strip() for key in ("msg", "stderr"))))
        for each in failed or [result]
    ]
    sentences = (words if words.endswith(_ENDS) else f"{words}." for words in filter(None, said))
    return " ".join(dict.fromkeys(sentences)) or NONE


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"failure_words": failure_words}
