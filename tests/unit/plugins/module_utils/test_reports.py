# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports on disk."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _reports


def test_the_time_gives_the_name() -> None:
    assert _reports.stem("2026-11-22T10:53:07Z") == "2026-11-22T105307Z"


@pytest.mark.parametrize("wrong", ["", "yesterday", "2026-11-22", "2026-11-22T10:53:07+01:00", "../../etc/x"])
def test_a_time_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="does not match format"):
        _reports.stem(wrong)


def test_a_file_is_replaced_at_once_and_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    _reports.write(str(path), "old")
    _reports.write(str(path), "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    _reports.write(str(path), "old")

    def fail(*_args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        _reports.write(str(path), "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_the_link_follows_the_newest_and_survives_a_move_of_the_directory(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        (tmp_path / name).write_text(name)
        _reports.point(str(tmp_path / "latest.html"), str(tmp_path / name))
    assert (tmp_path / "latest.html").read_text() == "two.html"
    assert os.readlink(tmp_path / "latest.html") == "two.html"


def test_a_link_left_half_made_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "latest.html.new").symlink_to("nowhere")
    (tmp_path / "one.html").write_text("one")
    _reports.point(str(tmp_path / "latest.html"), str(tmp_path / "one.html"))
    assert (tmp_path / "latest.html").read_text() == "one"


def test_only_the_oldest_reports_are_removed_and_nothing_that_is_not_ours(tmp_path: Path) -> None:
    stems = [f"2026-11-{day:02}T105307Z" for day in range(1, 6)]
    for stem in stems:
        for kind in ("json", "html"):
            (tmp_path / f"{stem}.{kind}").write_text("x")
    (tmp_path / "sentence.wav").write_text("x")
    (tmp_path / "2026-notes.html").write_text("x")
    removed = _reports.prune(str(tmp_path), 2)
    assert {Path(path).name for path in removed} == {
        f"{s}.{kind}" for s in stems[:3] for kind in ("json", "html")
    }
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {
        "sentence.wav", "2026-notes.html", *(f"{s}.{kind}" for s in stems[3:] for kind in ("json", "html"))
    }  # fmt: skip
    assert _reports.prune(str(tmp_path), 2) == []


def test_audio_is_put_into_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "b.wav").write_bytes(b"x" * 100)
    page = '<audio src="audio:0"></audio><audio src="audio:1"></audio><audio src="audio:2"></audio>'
    files = [str(tmp_path / "a.wav"), str(tmp_path / "b.wav"), str(tmp_path / "missing.wav")]
    encoded = base64.b64encode(b"RIFF").decode()
    assert _reports.with_audio(page, files, max_bytes=50) == (
        f'<audio src="data:audio/wav;base64,{encoded}"></audio><audio hidden></audio><audio hidden></audio>'
    )
