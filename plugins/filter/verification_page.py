# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A verification's report as a page."""

from __future__ import annotations

import json
import typing as t

from ansible.errors import AnsibleFilterError
from jinja2 import Environment, TemplateError, Undefined

DOCUMENTATION = r"""
name: verification_page
short_description: Show the report of a verification as one HTML page
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Fills a Jinja2 template with a report, everything escaped. The names in a report come from labels, from
    Traefik and from replicas, and may hold anything.
  - Ansible's own templating does not escape, not even inside C({% autoescape true %}), and would have to be
    told so at every single expression; that is why this is a filter.
options:
  _input:
    description: The report. Its keys are the template's variables.
    type: dict
    required: true
  template:
    description: The text of the template.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Make a page of the report
  ansible.builtin.set_fact:
    page: "{{ report | voicefleet.cosyvoice.verification_page(template) }}"
  vars:
    template: "{{ lookup('ansible.builtin.file', 'page.html.j2') }}"
"""

RETURN = r"""
_value:
  description: The page.
  type: str
"""


def verification_page(report: t.Any, template: str) -> str:
    """The template filled with the report; a value that the report lacks counts as empty."""
    if not isinstance(report, t.Mapping):
        raise AnsibleFilterError(f"verification_page: give a report, not {type(report).__name__}")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=Undefined)
    # Plain types only: what Ansible hands over is tagged and may be lazy.
    plain = json.loads(json.dumps(report, default=str))
    try:
        return environment.from_string(str(template)).render(plain)
    except TemplateError as error:
        raise AnsibleFilterError(f"verification_page: the template cannot be filled: {error}") from error


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"verification_page": verification_page}
