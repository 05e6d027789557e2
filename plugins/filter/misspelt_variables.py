# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Variables that look as if they were meant for roles, and are not known to them."""

from __future__ import annotations

import typing as t
from pathlib import Path

import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._spelling import misspellings

DOCUMENTATION = r"""
name: misspelt_variables
short_description: Find variables that look like misspelt ones of a collection's roles
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Compares names of variables with those that roles declare in C(meta/argument_specs.yml). A name that
    begins with a role's name and is not declared, or that is very like a declared one, is returned with the
    nearest declared name.
  - Names that begin with C(__) or C(ansible_) are never returned.
options:
  _input:
    description: Names of variables, for example all that a host has.
    type: list
    elements: str
    required: true
  roles_path:
    description: The directory on the controller that holds the roles.
    type: path
    required: true
  allow:
    description: Names that are right although no role declares them.
    type: list
    elements: str
    default: []
  everyday:
    description:
      - Roles whose name is a word that other variables may well begin with. Below such a prefix only a name
        that is very like a declared one is returned.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Find variables that do nothing
  ansible.builtin.debug:
    msg: "{{ query('ansible.builtin.varnames', '.+') | voicefleet.cosyvoice.misspelt_variables('roles') }}"
"""

RETURN = r"""
_value:
  description: The names, in alphabetical order.
  type: list
  elements: dict
  contains:
    name:
      description: The name that was given.
      type: str
    nearest:
      description: The declared name that was most likely meant. Empty if none is similar.
      type: str
  sample: [{name: cosyvoice_replica, nearest: cosyvoice_replicas}]
"""

# libyaml reads the specifications of all roles in 20 ms; the loader in Python takes ten times as long.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def misspelt_variables(
    names: t.Iterable[str], roles_path: str, allow: t.Iterable[str] = (), everyday: t.Iterable[str] = ()
) -> list[dict[str, str]]:
    """Names that look like misspelt ones of the roles'; see the documentation above."""
    options = {role: declared(path) for role, path in specifications(roles_path).items()}
    known = set(allow).union(*options.values())
    found = misspellings([str(name) for name in names], known, list(options), everyday)
    return [{"name": each.name, "nearest": each.nearest} for each in found]


def specifications(roles_path: str) -> dict[str, Path]:
    """The argument specification of each role in the directory."""
    found = {path.parts[-3]: path for path in sorted(Path(roles_path).glob("*/meta/argument_specs.yml"))}
    if not found:
        # With nothing to compare with, every name would pass.
        raise AnsibleFilterError(
            f"misspelt_variables: no meta/argument_specs.yml in any role below {roles_path}"
        )
    return found


def declared(path: Path) -> set[str]:
    """The names of all options of all entry points of one role's specification."""
    try:
        spec = yaml.load(path.read_bytes(), Loader=LOADER)  # noqa: S506 - CSafeLoader is a safe loader
        return {option for entry in spec["argument_specs"].values() for option in entry.get("options") or {}}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise AnsibleFilterError(f"misspelt_variables: {path} cannot be read: {error}") from error


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"misspelt_variables": misspelt_variables}
