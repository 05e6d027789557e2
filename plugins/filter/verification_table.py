# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks as lines of text with aligned columns."""

from __future__ import annotations

import shutil
import textwrap
import typing as t

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: verification_table
short_description: Show checks as a table of text
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Turns the checks that M(voicefleet.cosyvoice.traefik_verify) and M(voicefleet.cosyvoice.service_probe)
    return into lines with aligned columns. Failed checks come first, each followed by what was wanted and by
    the remedy.
options:
  _input:
    description: The checks.
    type: list
    elements: dict
    required: true
  width:
    description: How wide a line may be. The width of the terminal if not given, 100 without one.
    type: int
"""

EXAMPLES = r"""
- name: Show what was found
  ansible.builtin.debug:
    msg: "{{ proof.checks | voicefleet.cosyvoice.verification_table }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
  sample:
    - "FAILED  cosyvoice-2: version  2506"
    - "        wanted  2512"
    - "        remedy  Run site.yml: it replaces replicas that are out of date, one at a time."
    - ""
    - "ok      cosyvoice-1: version  2512"
"""

GAP = "  "
# How far Ansible's YAML output moves a message to the right.
INDENT_OF_OUTPUT = 8


def verification_table(checks: t.Any, width: int | None = None) -> list[str]:
    """One line or more for each check, failed ones first; see the documentation above."""
    if not isinstance(checks, (list, tuple)) or not all(isinstance(check, t.Mapping) for check in checks):
        raise AnsibleFilterError("verification_table: give a list of checks, as traefik_verify returns them")
    if not checks:
        return []
    width = width or shutil.get_terminal_size((108, 24)).columns - INDENT_OF_OUTPUT
    try:
        failed = [check for check in checks if not check["ok"]]
        passed = [check for check in checks if check["ok"]]
        longest_name = max(len(str(check["name"])) for check in checks)
    except KeyError as error:
        raise AnsibleFilterError(f"verification_table: a check has no {error}") from error
    status_column = len("FAILED" if failed else "ok") + len(GAP)
    # A single long name must not push the findings of all others off the screen.
    found_column = status_column + min(longest_name, max(width // 2, 20)) + len(GAP)
    lines: list[str] = []
    for check in failed:
        lines += first_lines("FAILED", check, status_column, found_column, width)
        for label in ("wanted", "remedy"):
            text = wrap(str(check.get(label) or ""), width - status_column - len(label) - len(GAP))
            for number, line in enumerate(text):
                lines.append(" " * status_column + f"{label if number == 0 else '':<{len(label)}}{GAP}{line}")
    if failed and passed:
        lines.append("")
    for check in passed:
        lines += first_lines("ok", check, status_column, found_column, width)
    return lines


def first_lines(
    status: str, check: t.Mapping[str, t.Any], status_column: int, found_column: int, width: int
) -> list[str]:
    """Outcome, name and finding, each in its column; the finding below a name that is too long for that."""
    head = f"{status:<{status_column}}{check['name']}"
    found = wrap(str(check.get("found") or ""), width - found_column)
    if len(head) + len(GAP) <= found_column and found:
        head, found = f"{head:<{found_column}}{found[0]}", found[1:]
    return [head, *(" " * found_column + line for line in found)]


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of C(width) characters; words longer than that (URLs, digests) stay whole."""
    return textwrap.wrap(text, max(width, 30), break_long_words=False, break_on_hyphens=False)


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"verification_table": verification_table}
