# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks as text."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter.verification_table import verification_table

CHECKS: list[dict[str, t.Any]] = [
    {"name": "router a@docker", "ok": True, "found": "enabled", "wanted": "enabled", "remedy": ""},
    {
        "name": "a-2: version",
        "ok": False,
        "found": "2506",
        "wanted": "2512",
        "remedy": "Run site.yml: it replaces it.",
    },
]


def test_columns_are_aligned_and_failures_come_first_with_the_remedy() -> None:
    assert verification_table(CHECKS, width=80) == [
        "FAILED  a-2: version     2506",
        "        wanted  2512",
        "        remedy  Run site.yml: it replaces it.",
        "",
        "ok      router a@docker  enabled",
    ]


def test_without_a_failure_no_room_is_kept_for_the_word() -> None:
    assert verification_table(CHECKS[:1], width=80) == ["ok  router a@docker  enabled"]


def test_long_text_is_wrapped_in_its_column() -> None:
    check = {**CHECKS[0], "found": "one two three four five six seven eight nine ten eleven twelve"}
    lines = verification_table([check], width=60)
    assert len(lines) == 2
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].index("nine") == lines[0].index("one")
    assert " ".join(" ".join(lines).split()) == f"ok router a@docker {check['found']}"


def test_one_long_name_stands_on_a_line_of_its_own() -> None:
    check = {**CHECKS[0], "name": "router " + "x" * 90}
    lines = verification_table([check, *CHECKS[:1]], width=80)
    assert lines[0] == f"ok  {check['name']}"
    assert lines[1].strip() == "enabled"
    assert lines[1].index("enabled") == lines[2].index("enabled")


def test_a_url_is_never_cut() -> None:
    url = "http://example.com/" + "x" * 90
    assert url in "\n".join(verification_table([{**CHECKS[0], "found": f"see {url}"}], width=60))


def test_no_checks_no_lines() -> None:
    assert verification_table([], width=80) == []


@pytest.mark.parametrize("wrong", ["text", {"name": "x"}, [1], None])
def test_something_else_than_checks_is_refused(wrong: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="list of checks"):
        verification_table(wrong)


def test_a_check_that_lacks_its_outcome_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="'ok'"):
        verification_table([{"name": "x"}])
