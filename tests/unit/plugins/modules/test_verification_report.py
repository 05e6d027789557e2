# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to files."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.modules import verification_report


def run(capsys: pytest.CaptureFixture[str], dest: Path, **other: t.Any) -> dict[str, t.Any]:
    args = {"dest": str(dest), "generated_at": "2026-11-22T10:53:07Z", "json": "{}", "html": "<p>", **other}
    with patch_module_args(args), pytest.raises(SystemExit):
        verification_report.main()
    return t.cast(dict[str, t.Any], json.loads(capsys.readouterr().out))


def test_a_report_is_kept_under_its_time_and_as_the_latest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dest = tmp_path / "new" / "reports"
    result = run(capsys, dest)
    assert (result["changed"], result["removed"]) == (False, [])
    assert result["json_path"] == str(dest / "2026-11-22T105307Z.json")
    assert (dest / "latest.json").read_text() == "{}"
    assert (dest / "latest.html").read_text() == "<p>"


def test_the_oldest_are_removed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, tmp_path)
    result = run(capsys, tmp_path, generated_at="2026-11-23T10:53:07Z", keep=1)
    assert result["removed"] == [str(tmp_path / f"2026-11-22T105307Z.{kind}") for kind in ("html", "json")]
    assert (tmp_path / "latest.html").exists()


def test_check_mode_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, tmp_path / "reports", _ansible_check_mode=True)
    assert result["html_path"].endswith("2026-11-22T105307Z.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"generated_at": "today"}, "generated_at: time data 'today' does not match"),
        ({"keep": 0}, "keep is 0; give at least 1"),
        ({"dest": "/proc/no/such"}, "cannot be kept below /proc/no/such"),
    ],
)
def test_bad_input_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, wrong: dict[str, t.Any], message: str
) -> None:
    result = run(capsys, **{"dest": tmp_path, **wrong})
    assert result["failed"]
    assert message in result["msg"]
    assert list(tmp_path.iterdir()) == []
