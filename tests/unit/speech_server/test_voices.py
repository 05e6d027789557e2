# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory of voices: read, checked, watched, digested."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import pytest
from cosyvoice3_support import lay_down_voice, recording
from speech_server.voices import VoiceStore


def store(directory: Path) -> VoiceStore:
    found = VoiceStore(directory)
    found.rescan()
    return found


def test_one_voice(tmp_path: Path) -> None:
    lay_down_voice(tmp_path, "anna", about="name: Anna\nlanguage: en\ndescription: warm\n")
    found = store(tmp_path)
    voice = found.voices["anna"]
    assert (voice.name, voice.transcript) == ("Anna", "This is what is said in it.")
    assert voice.wav[:4] == b"RIFF"
    assert found.refused == {}


@pytest.mark.parametrize(
    ("seconds", "advice"),
    [
        (2, ["prompt.wav: it has 2.0 s; 3 to 15 s give the best voices"]),
        (3, []),
        (15, []),
        (16, ["prompt.wav: it has 16.0 s; 3 to 15 s give the best voices"]),
    ],
)
def test_a_voice_that_could_be_better_is_taken_and_the_log_says_how(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seconds: float, advice: list[str]
) -> None:
    caplog.set_level(logging.INFO)
    lay_down_voice(tmp_path, "anna", seconds=seconds)
    assert list(store(tmp_path).voices) == ["anna"]
    said = [record for record in caplog.records if record.message == "a voice could be better"]
    assert [record.__dict__["fields"] for record in said] == [
        {"voice": "anna", "advice": each} for each in advice
    ]


def test_no_directory_is_no_voice(tmp_path: Path) -> None:
    found = store(tmp_path / "nowhere")
    assert (dict(found.voices), found.default) == ({}, None)
    assert found.digest == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda voice: (voice / "prompt.wav").unlink(), "prompt.wav is missing"),
        (lambda voice: (voice / "prompt.txt").unlink(), "prompt.txt is missing"),
        (lambda voice: (voice / "prompt.txt").write_text(" \n"), "prompt.txt: The recording's words are"),
        (lambda voice: (voice / "prompt.txt").write_bytes(b"\xff\xfe"), "prompt.txt is not UTF-8"),
        (lambda voice: (voice / "prompt.txt").write_text("<|en|>Hello."), "<|en|>"),
        (lambda voice: (voice / "prompt.txt").write_text("Far too many. " * 30), "not the recording's words"),
        (lambda voice: (voice / "prompt.wav").write_bytes(b"nonsense"), "prompt.wav is no audio file"),
        (lambda voice: (voice / "prompt.wav").write_bytes(recording(rate_hz=8000)), "16000 are the least"),
        (lambda voice: (voice / "prompt.wav").write_bytes(recording(seconds=0.5)), "1 s are the least"),
        (lambda voice: (voice / "prompt.wav").write_bytes(recording(amplitude=0)), "silent"),
        (lambda voice: (voice / "prompt.wav").write_bytes(recording(amplitude=9)), "overdriven"),
        (lambda voice: (voice / "voice.yml").write_text("nmae: Anna\n"), "has the key 'nmae'"),
        (lambda voice: (voice / "voice.yml").write_text("name: 3\n"), "name wants a str"),
        (lambda voice: (voice / "voice.yml").write_text("- a\n"), "wants keys and values"),
        (lambda voice: (voice / "voice.yml").write_text("a: [\n"), "not valid YAML"),
        (lambda voice: voice.rename(voice.with_name("an na")), "its name wants"),
    ],
)  # fmt: skip
def test_a_bad_voice_is_left_out_with_its_reason(
    tmp_path: Path, spoil: object, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(lay_down_voice(tmp_path, "anna"))  # type: ignore[operator]
    lay_down_voice(tmp_path, "bert")
    found = store(tmp_path)
    assert list(found.voices) == ["bert"]
    (reason,) = found.refused.values()
    assert says in reason
    assert "a voice is left out" in caplog.text


@pytest.mark.parametrize(
    ("names", "marked", "default"),
    [
        (["bert", "anna"], None, "anna"),
        (["bert", "anna"], "bert", "bert"),
        (["bert", "anna", "default"], "bert", "default"),
    ],
)
def test_the_default(tmp_path: Path, names: list[str], marked: str | None, default: str) -> None:
    for name in names:
        lay_down_voice(tmp_path, name, about="default: true\n" if name == marked else None)
    found = store(tmp_path).default
    assert found
    assert found.id == default


def test_the_digest_is_that_of_the_files_and_equal_on_every_host(tmp_path: Path) -> None:
    for host in ("a", "b"):
        for name in ("anna", "bert") if host == "a" else ("bert", "anna"):
            lay_down_voice(tmp_path / host, name, about="name: x\n" if name == "anna" else None)
    (tmp_path / "b/.bert.tmp").mkdir()
    listing = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(tmp_path / 'a')}\n"
        for path in sorted(tmp_path.glob("a/*/*"))
    )
    digests = {store(tmp_path / host).digest for host in ("a", "b")}
    assert digests == {hashlib.sha256(listing.encode()).hexdigest()}


def test_only_what_has_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_down_voice(tmp_path, "anna")
    lay_down_voice(tmp_path, "bert")
    found = store(tmp_path)
    before = found.voices["anna"]
    assert not found.rescan()
    (tmp_path / "bert/prompt.txt").write_text("Other words.")
    (tmp_path / "clara").mkdir()  # unfinished
    assert found.rescan()
    assert found.voices["anna"] is before
    assert found.voices["bert"].transcript == "Other words."
    assert list(found.refused) == ["clara"]
    lay_down_voice(tmp_path, "clara")  # finished
    assert found.rescan()
    assert found.refused == {}
    shutil.rmtree(tmp_path / "anna")
    assert found.rescan()
    assert list(found.voices) == ["bert", "clara"]
