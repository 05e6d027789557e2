# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter over argument specifications on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter.misspelt_variables import misspelt_variables

SPEC = """
argument_specs:
  main:
    options:
      cosyvoice_replicas: {type: raw}
  absent:
    options:
      cosyvoice_keep_data: {type: bool}
  preflight: {short_description: Nothing to declare}
"""


@pytest.fixture
def roles(tmp_path: Path) -> Path:
    meta = tmp_path / "cosyvoice" / "meta"
    meta.mkdir(parents=True)
    (meta / "argument_specs.yml").write_text(SPEC)
    (tmp_path / "no_spec" / "meta").mkdir(parents=True)
    return tmp_path


def test_options_of_all_entry_points_are_known(roles: Path) -> None:
    names = ["cosyvoice_replicas", "cosyvoice_keep_data", "cosyvoice_replica"]
    assert misspelt_variables(names, str(roles)) == [
        {"name": "cosyvoice_replica", "nearest": "cosyvoice_replicas"}
    ]


def test_allowed_names_are_not_returned(roles: Path) -> None:
    assert misspelt_variables(["cosyvoice_ticket"], str(roles), allow=["cosyvoice_ticket"]) == []


def test_no_specification_at_all_is_an_error_and_no_approval(tmp_path: Path) -> None:
    with pytest.raises(AnsibleFilterError, match="no meta/argument_specs"):
        misspelt_variables(["cosyvoice_replica"], str(tmp_path))


def test_a_broken_specification_is_named(roles: Path) -> None:
    broken = roles / "cosyvoice" / "meta" / "argument_specs.yml"
    broken.write_text("argument_specs: [")
    with pytest.raises(AnsibleFilterError, match=str(broken)):
        misspelt_variables(["cosyvoice_replica"], str(roles))
