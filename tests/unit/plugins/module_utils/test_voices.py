# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of voices on its way to a host, and whose the voices there are."""

from __future__ import annotations

import os
import shutil
import typing as t
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _voices
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._voices import Plan, Voices, VoicesError
from speech_server import voices as server
from speech_server.voices import VoiceStore


def voice(directory: Path, name: str, sound: bytes = b"RIFF", words: str = "Hello.", about: str = "") -> Path:
    place = directory / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "prompt.wav").write_bytes(sound)
    (place / "prompt.txt").write_text(words)
    if about:
        (place / "voice.yml").write_text(about)
    return place


@pytest.fixture
def source(tmp_path: Path) -> Path:
    voice(tmp_path / "source", "anna")
    voice(tmp_path / "source", "bert", b"RIFF2", about="name: Bert\n")
    return tmp_path / "source"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    return tmp_path / "host"


def lay_down(source: Path, host: Path, exclusive: bool = False) -> Plan:
    """As action and module do it together."""
    wanted = _voices.read_source(str(source))
    due = _voices.plan(str(host), wanted, exclusive)
    incoming = {name: {file: str(source / name / file) for file in wanted[name]} for name in due.bring}
    _voices.lay_down(str(host), due, incoming)
    return due


def there(host: Path) -> Voices:
    return _voices.look(str(host))


def stored(host: Path) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in (host / ".laid").iterdir())


def test_names_files_and_sizes_are_those_the_server_takes() -> None:
    assert _voices.FILES == server.FILES
    assert _voices.NAME.pattern == server._NAME.pattern
    assert _voices.LARGEST_BYTES == server._LARGEST_BYTES


def test_the_set_arrives_and_nothing_is_left_to_do(source: Path, host: Path) -> None:
    first = lay_down(source, host)
    assert (first.bring, first.remove, first.kept) == (["anna", "bert"], [], [])
    assert there(host) == _voices.read_source(str(source)) == first.after
    again = _voices.plan(str(host), first.after, exclusive=False)
    assert (again.bring, again.remove) == ([], [])


def test_replicas_may_read_it_whatever_the_umask(source: Path, host: Path) -> None:
    before = os.umask(0o077)
    try:
        lay_down(source, host)
    finally:
        os.umask(before)
    for place, directories, files in os.walk(host):
        assert all(Path(place, name).stat().st_mode & 0o777 == 0o755 for name in directories)
        assert all(Path(place, name).stat().st_mode & 0o777 == 0o644 for name in files)
    assert host.stat().st_mode & 0o777 == 0o755


def test_the_server_tells_the_same_digest_and_notices_a_change(
    source: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        server.recordings, "read", lambda data: server.recordings.Recording([0.1] * 40000, 16000)
    )
    lay_down(source, host)
    store = VoiceStore(host)
    store.rescan()
    assert (set(store.voices), dict(store.refused)) == ({"anna", "bert"}, {})
    assert store.digest == _voices.digest(_voices.read_source(str(source)))
    voice(source, "anna", words="Good day.")
    shutil.rmtree(source / "bert")
    due = lay_down(source, host)
    assert (due.bring, due.remove) == (["anna"], ["bert"])
    assert store.rescan()
    assert {name: each.transcript for name, each in store.voices.items()} == {"anna": "Good day."}
    assert store.digest == _voices.digest(due.after)
    assert stored(host) == ["anna"]


def test_a_file_that_the_source_no_longer_has_goes(source: Path, host: Path) -> None:
    lay_down(source, host)
    (source / "bert/voice.yml").unlink()
    assert lay_down(source, host).bring == ["bert"]
    assert set(there(host)["bert"]) == {"prompt.wav", "prompt.txt"}


def test_a_voice_laid_down_by_hand_stays_unless_it_is_asked_for(source: Path, host: Path) -> None:
    voice(host, "carl")
    due = lay_down(source, host)
    assert (due.remove, due.kept, set(due.after)) == ([], ["carl"], {"anna", "bert", "carl"})
    due = lay_down(source, host, exclusive=True)
    assert (due.remove, due.kept, set(there(host))) == (["carl"], [], {"anna", "bert"})
    assert stored(host) == ["anna", "bert"]


def test_one_by_hand_of_the_same_name_is_refused_unless_it_is_the_same(source: Path, host: Path) -> None:
    voice(host, "anna")
    assert lay_down(source, host).bring == ["bert"]
    voice(source, "anna", words="Other words.")
    before = there(host)
    with pytest.raises(VoicesError, match=r"by hand .*: anna\. Nothing was changed"):
        lay_down(source, host)
    assert there(host) == before
    lay_down(source, host, exclusive=True)
    assert there(host) == _voices.read_source(str(source))
    assert (host / "anna").is_symlink()


def test_one_of_ours_that_was_written_to_is_mended_if_wanted_and_else_kept(source: Path, host: Path) -> None:
    lay_down(source, host)
    (host / "anna/prompt.txt").write_text("By hand.")
    assert lay_down(source, host).bring == ["anna"]
    assert there(host) == _voices.read_source(str(source))
    (host / "bert/prompt.txt").write_text("By hand.")
    shutil.rmtree(source / "bert")
    due = lay_down(source, host)
    assert (due.remove, due.kept) == ([], ["bert"])
    assert (host / "bert/prompt.txt").read_text() == "By hand."


def test_what_changed_on_its_way_changes_no_voice(source: Path, host: Path) -> None:
    lay_down(source, host)
    before = there(host)
    voice(source, "anna", b"RIFF3")
    voice(source, "bert", b"RIFF4")
    wanted = _voices.read_source(str(source))
    due = _voices.plan(str(host), wanted, exclusive=False)
    (source / "bert/prompt.wav").write_bytes(b"RIFF5")
    incoming = {name: {file: str(source / name / file) for file in wanted[name]} for name in due.bring}
    with pytest.raises(VoicesError, match=r"bert/prompt\.wav changed on its way"):
        _voices.lay_down(str(host), due, incoming)
    assert there(host) == before


def test_the_leavings_of_a_run_that_was_killed_are_no_obstacle(source: Path, host: Path) -> None:
    due = lay_down(source, host)
    for name in ("anna", "bert"):
        target = _voices._target(name, due.after[name])
        (host / f"{target}.new").mkdir()
        (host / f"{target}.old").mkdir()
        (host / f".{name}.link").symlink_to(target)
        (host / ".laid" / f"{name}.gone").mkdir()
    (host / "anna/prompt.txt").write_text("By hand.")
    voice(source, "bert", words="Other words.")
    lay_down(source, host)
    assert there(host) == _voices.read_source(str(source))
    assert stored(host) == ["anna", "bert"]
    assert {path.name for path in host.iterdir()} == {".laid", "anna", "bert"}


def test_absent_leaves_what_is_not_ours(source: Path, host: Path) -> None:
    lay_down(source, host)
    voice(host, "carl")
    _voices.lay_down(str(host), _voices.plan(str(host), {}, exclusive=False), {})
    _voices.clear(str(host))
    assert [path.name for path in host.iterdir()] == ["carl"]
    shutil.rmtree(host / "carl")
    _voices.clear(str(host))
    assert not host.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda place: (place / "anna/prompt.wav").unlink(), r"anna: prompt\.wav is missing"),
        (lambda place: (place / "anna/prompt.txt").unlink(), r"anna: prompt\.txt is missing"),
        (lambda place: (place / "anna/voice.yaml").write_text(""), r"anna: voice\.yaml is no part"),
        (lambda place: (place / "anna/prompt.txt").write_text(" \n"), r"prompt\.txt is empty"),
        (lambda place: (place / "anna/prompt.txt").write_bytes(b"\xff\xfe"), r"prompt\.txt is not UTF-8"),
        (lambda place: (place / "anna").rename(place / "an na"), r"an na: a voice's name has letters"),
        (lambda place: os.truncate(place / "anna/prompt.wav", 65 * 2**20), "has 65 MiB; 64 are the most"),
    ],
)  # fmt: skip
def test_a_source_that_no_server_would_take_is_refused(
    source: Path, spoil: t.Callable[[Path], object], says: str
) -> None:
    spoil(source)
    with pytest.raises(VoicesError, match=says):
        _voices.read_source(str(source))


def test_an_empty_source_is_refused_rather_than_taken_for_a_wish(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("Voices come here.")
    with pytest.raises(VoicesError, match="holds no voice"):
        _voices.read_source(str(tmp_path))
