# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to result, with real files: the controller's directory before and after."""

from __future__ import annotations

import json
import os
import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _voice_change, _voices
from ansible_collections.voicefleet.cosyvoice.plugins.modules import voice
from recorded_voices import tone
from speech_server.voices import _KEYS, DEFAULT, VoiceStore

Run = t.Callable[..., dict[str, t.Any]]
WORDS = "This is what is said in it."


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Voices anna, the default as the first, and bert."""
    path = tmp_path / "voices"
    for name, pitch_hz in (("anna", 200), ("bert", 320)):
        (path / name).mkdir(parents=True)
        (path / name / "prompt.wav").write_bytes(tone(pitch_hz))
        (path / name / "prompt.txt").write_text(WORDS)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], source: Path) -> Run:
    """Runs the module on C(source) and returns what it prints; a refusal has to change nothing."""
    documented = yaml.safe_load(voice.RETURN)

    def call(name: str, **options: t.Any) -> dict[str, t.Any]:
        before = tree(source)
        with patch_module_args({"source": str(source), "name": name, **options}), pytest.raises(SystemExit):
            voice.main()
        result: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        if result.get("failed") or options.get("_ansible_check_mode"):
            assert tree(source) == before
        if not result.get("failed"):
            assert set(documented) <= set(result)
            assert bool(result["changed"]) == (result["diff"]["before"] != result["diff"]["after"])
        return result

    return call


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "new.wav"
    path.write_bytes(tone(260, seconds=5))
    return str(path)


def tree(path: Path) -> dict[str, bytes]:
    """Every file below it."""
    return {
        str(each.relative_to(path)): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()
    }


def test_a_new_voice_is_what_the_server_takes(run: Run, source: Path, recording: str) -> None:
    new = {"recording": recording, "transcript": f" {WORDS}\n", "title": "Carl", "language": "en"}
    planned = run("carl", **new, _ansible_check_mode=True)
    done = run("carl", **new)
    assert planned["changed"]
    assert {**done, "invocation": 0} == {**planned, "invocation": 0}
    assert (done["seconds"], done["rate_hz"], done["advice"], done["default"]) == (5, 24000, "", "anna")
    assert (done["recording"], done["transcript"], done["former"]) == (recording, WORDS, False)
    assert done["bytes"] == len(Path(recording).read_bytes())
    store = VoiceStore(source)
    store.rescan()
    assert store.voices["carl"].name == "Carl"
    assert not store.refused
    assert store.digest == _voices.digest(done["voices"]) == _voices.digest(_voices.read_source(str(source)))
    assert not run("carl", **new)["changed"]
    assert sorted(os.listdir(source)) == ["anna", "bert", "carl"]


def test_the_first_one_makes_the_directory_and_is_the_default(run: Run, source: Path, recording: str) -> None:
    for name in ("anna", "bert"):
        for file in (source / name).iterdir():
            file.unlink()
        (source / name).rmdir()
    source.rmdir()
    assert run("carl", recording=recording, transcript=WORDS)["default"] == "carl"
    assert set(tree(source)) == {"carl/prompt.txt", "carl/prompt.wav"}


def test_the_words_may_lie_beside_the_recording(run: Run, source: Path, recording: str) -> None:
    assert "voice_transcript is missing" in run("carl", recording=recording)["msg"]
    Path(recording).with_suffix(".txt").write_text(f"{WORDS}\n")
    assert run("carl", recording=recording)["transcript"] == WORDS
    # With another recording those of the old one are not taken.
    Path(recording).with_suffix(".txt").unlink()
    assert not run("carl", recording=recording)["changed"]
    Path(recording).write_bytes(tone(270))
    assert "voice_transcript is missing" in run("carl", recording=recording)["msg"]


def test_a_part_of_it_alone_is_replaced(run: Run, source: Path) -> None:
    (source / "bert/voice.yml").write_text("# of the radio\nname: Bert\n")
    before = tree(source)
    assert not run("bert", transcript=WORDS, title="Bert")["changed"]  # nor rewritten, line end or comment
    done = run("bert", transcript="Words that were misheard.", description="warm")
    assert done["changed"]
    assert (source / "bert/prompt.txt").read_text() == "Words that were misheard.\n"
    assert yaml.safe_load((source / "bert/voice.yml").read_text()) == {"name": "Bert", "description": "warm"}
    assert run("bert", state="former")["changed"]
    assert {path: content for path, content in tree(source).items() if path[0] != "."} == before


def test_what_was_is_kept_and_put_back(run: Run, source: Path, recording: str) -> None:
    first = tree(source)
    assert run("bert", recording=recording, transcript=WORDS)["former"]
    second = tree(source)
    assert second[".former/bert/prompt.wav"] == first["bert/prompt.wav"]
    back = run("bert", state="former")
    assert back["recording"] == str(source / ".former/bert/prompt.wav")
    assert {path: content for path, content in tree(source).items() if path[0] != "."} == first
    run("bert", state="former")
    assert tree(source) == second
    run("bert", state="absent")
    assert set(_voices.read_source(str(source))) == {"anna"}
    assert not run("bert", state="absent")["changed"]
    run("bert", state="former")
    assert (source / "bert/prompt.wav").read_bytes() == Path(recording).read_bytes()


def test_a_run_that_was_killed_is_no_obstacle(run: Run, source: Path, recording: str) -> None:
    (source / ".new.bert").mkdir()
    (source / ".new.bert/prompt.wav").write_bytes(b"half of")
    (source / ".former/bert").mkdir(parents=True)
    run("bert", recording=recording, transcript=WORDS)
    assert sorted(os.listdir(source)) == [".former", "anna", "bert"]
    assert sorted(os.listdir(source / "bert")) == ["prompt.txt", "prompt.wav"]


def test_the_default_goes_to_another_only_when_asked(run: Run, source: Path, recording: str) -> None:
    new = {"recording": recording, "transcript": WORDS}
    said = run("adam", **new)["msg"]
    assert "anna is the default voice" in said
    assert "adam would be" in said
    assert "-e voice_name=anna -e voice_default=true" in said
    assert run("anna", default=True)["default"] == "anna"
    assert run("adam", **new)["default"] == "anna"
    said = run("anna", state="absent")["msg"]
    assert "-e voice_name=adam -e voice_default=true" in said
    done = run("bert", default=True)
    assert done["default"] == "bert"
    assert not (source / "anna/voice.yml").exists()
    store = VoiceStore(source)
    store.rescan()
    assert store.default
    assert store.default.id == "bert"
    assert run("anna", state="absent")["changed"]


def test_the_voice_called_default(run: Run, source: Path, recording: str) -> None:
    new = {"recording": recording, "transcript": WORDS}
    assert run("default", **new)["default"] == "default"
    assert "Replace it by another recording" in run("default", state="absent")["msg"]
    assert "voice called default is the default one, whatever bert" in run("bert", default=True)["msg"]
    assert run("anna", state="absent")["default"] == "default"


def test_the_only_one_stays(run: Run) -> None:
    run("bert", state="absent")
    assert "anna is the only voice. Add another" in run("anna", state="absent")["msg"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "an na"}, "voice_name is 'an na'"),
        ({"name": ".anna"}, "voice_name is '.anna'"),
        ({"name": "carl"}, "voice_recording is missing, and .* has no voice carl yet; it has anna, bert"),
        ({"name": "carl", "state": "absent"}, "has no voice carl to remove; it has anna, bert"),
        ({"name": "anna", "state": "former"}, "has no former version of anna"),
        ({"name": "anna", "recording": "/nowhere/a.wav"}, "There is no file /nowhere/a.wav"),
        ({"name": "anna", "transcript": "This"}, "'This' takes 1.3 s at most"),
        ({"name": "anna", "transcript": "..."}, "has no letter and no digit"),
    ],
)
def test_refusals(run: Run, options: dict[str, str], says: str) -> None:
    result = run(**options)
    assert result["failed"]
    assert re.search(says, result["msg"]), result["msg"]


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ("nmae: Anna\n", "anna/voice.yml: nmae is 'Anna'. It may have name, description, language, default"),
        ("default: perhaps\n", "anna/voice.yml: default is 'perhaps'"),
        ("- a\n", "anna/voice.yml wants keys and values"),
        ("a: [\n", "anna/voice.yml is not valid YAML"),
    ],
)
def test_a_description_that_no_server_would_take(run: Run, source: Path, about: str, says: str) -> None:
    (source / "anna/voice.yml").write_text(about)
    assert says in run("bert", title="Bert")["msg"]
    store = VoiceStore(source)
    store.rescan()
    assert "anna" in store.refused


def test_another_that_is_broken_is_named_and_can_be_mended(run: Run, source: Path, recording: str) -> None:
    (source / "bert/prompt.txt").unlink()
    assert "bert: prompt.txt is missing" in run("anna", title="Anna")["msg"]
    assert run("bert", recording=recording, transcript=WORDS)["changed"]
    assert run("anna", title="Anna")["changed"]


def test_words_that_are_no_text_are_refused_until_they_are_given(run: Run, source: Path) -> None:
    (source / "bert/prompt.txt").write_bytes(b"\xff\xfe")
    assert "words of" in run("bert", title="Bert")["msg"]
    assert run("bert", transcript=WORDS)["changed"]


def test_a_directory_that_cannot_be_written_is_named(run: Run, source: Path, recording: str) -> None:
    (source / ".former").write_text("a file")
    assert f"{source}/.former cannot be used" in run("bert", recording=recording, transcript=WORDS)["msg"]


def test_keys_and_the_default_are_those_of_the_server() -> None:
    assert _voice_change.KEYS == _KEYS
    assert _voice_change.DEFAULT == DEFAULT
