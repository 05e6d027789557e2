# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to files."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.modules import rollout_record


def run(capsys: pytest.CaptureFixture[str], data_dir: Path, **other: t.Any) -> dict[str, t.Any]:
    args = {
        "service": "tts",
        "data_dir": str(data_dir),
        "verb": "upgrade",
        "started_at": "2026-11-22T10:53:07Z",
        **other,
    }
    with patch_module_args(args), pytest.raises(SystemExit):
        rollout_record.main()
    return t.cast(dict[str, t.Any], json.loads(capsys.readouterr().out))


def test_what_is_returned_is_what_stands_in_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    steps = [{"name": "tts-1", "action": "create", "started_seconds": 1.5, "seconds": 2.0, "to": None}]
    result = run(capsys, tmp_path, owner="ada", steps=steps, ok=False, error="no", plan=["one, two", "three"])
    path = tmp_path / "tts/rollouts/20261122T105307Z-upgrade.json"
    assert (result["changed"], result["path"]) == (False, str(path))
    assert json.loads(path.read_text()) == result["record"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    record = result["record"]
    assert (record["plan"], record["steps"]) == (["one, two", "three"], steps)
    assert (record["owner"], record["ok"], record["error"]) == ("ada", False, "no")


def test_two_of_the_same_second_are_both_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = (run(capsys, tmp_path)["path"] for _ in range(2))
    assert second == first.replace("upgrade.json", "upgrade.2.json")
    assert Path(first).exists()


def test_the_oldest_are_removed_and_what_is_not_ours_stays(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    directory = tmp_path / "tts/rollouts"
    for day in range(1, 5):
        result = run(capsys, tmp_path, started_at=f"2026-11-0{day}T10:00:00Z", verb="scale", keep=2)
        (directory / "notes.json").write_text("mine")
    assert result["removed"] == [str(directory / "20261102T100000Z-scale.json")]
    assert sorted(path.name for path in directory.iterdir()) == [
        "20261103T100000Z-scale.json",
        "20261104T100000Z-scale.json",
        "notes.json",
    ]


def test_check_mode_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, tmp_path, _ansible_check_mode=True)
    assert result["record"]["verb"] == "upgrade"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"verb": "../up"}, "verb is '../up'"),
        ({"keep": 0}, "keep is 0; give at least 1"),
        ({"started_at": "today"}, "started_at: "),
        ({"data_dir": "/proc/no"}, "cannot be kept in /proc/no/tts/rollouts"),
    ],
)
def test_bad_input_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, wrong: dict[str, t.Any], message: str
) -> None:
    result = run(capsys, **{"data_dir": tmp_path, **wrong})
    assert result["failed"]
    assert message in result["msg"]
