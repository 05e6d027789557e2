# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One voice of the controller's directory: added, replaced, removed or put back.

This module util is private to the collection. Beside the voices lies, for the way back:

    .former/<name>/     the voice as it was before the last change of it
    .new.<name>/        one that is being written

Readers pass over names with a dot.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import typing as t
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _recording, _voices
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._recording import Recording
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._transcript import check_words
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._voices import (
    ABOUT,
    FILES,
    NAME,
    TEXT,
    WAV,
    Voices,
    VoicesError,
)

FORMER = ".former"
DEFAULT = "default"  # the voice of this name is the default; else one that says so; else the first
KEYS: dict[str, type] = {"name": str, "description": str, "language": str, "default": bool}

Contents = t.Dict[str, bytes]  # noqa: UP006 - read at run time. By name of the file


@dataclass(frozen=True)
class Wish:
    """What is to become of one voice. What is none stays as it is; C(about) are keys of voice.yml."""

    name: str
    state: str
    recording: bytes | None = None
    words: str | None = None
    about: t.Mapping[str, str] = field(default_factory=dict)
    default: bool = False


@dataclass
class Change:
    """What has to be written, and what the directory holds before and after it."""

    name: str
    write: dict[str, Contents] = field(default_factory=dict)
    remove: bool = False
    before: Voices = field(default_factory=dict)
    after: Voices = field(default_factory=dict)
    default: str = ""
    voice: Contents = field(default_factory=dict)  # the one that was asked for, as it will be


def plan(source: str, wish: Wish) -> Change:
    """What carries it out. Raises VoicesError for what would break a voice, or change the default unasked."""
    if not NAME.fullmatch(wish.name):
        raise VoicesError(
            f"voice_name is '{wish.name}'. A voice's name has letters, digits and ._- (at most 64, the first "
            "a letter or digit). Give it another; callers ask for it by that name."
        )
    there = {name: _contents(source, name) for name in _names(source)}
    for name in there:
        if name != wish.name:  # the one that is asked for may be what mends it
            _voices.read_voice(os.path.join(source, name))
    voice = _wanted(source, wish, there)
    now = {name: contents for name, contents in there.items() if name != wish.name}
    if voice and wish.default:
        voice = _described(wish.name, voice, {"default": True})
        now = {name: _unmarked(name, contents) for name, contents in now.items()}
    if voice:
        now[wish.name] = voice
    change = Change(
        name=wish.name,
        write={name: contents for name, contents in now.items() if contents != there.get(name)},
        remove=wish.name in there and not voice,
        before=_digests(there),
        after=_digests(now),
        default=_default(now),
        voice=voice,
    )
    _check_default(_default(there), change, wish)
    return change


def examine(change: Change, path: str) -> Recording:
    """Measure the recording, which is called C(path), and hold the words against it. Raises VoicesError."""
    recording = _recording.examine(path, change.voice[WAV])
    try:
        words = change.voice[TEXT].decode("utf-8-sig")
    except UnicodeDecodeError:
        raise VoicesError(f"The words of {path} are not UTF-8. Give them in voice_transcript.") from None
    check_words(path, words, recording.seconds, recording.sound_seconds)
    return recording


def carry_out(source: str, change: Change) -> None:
    """Write it. A voice is exchanged when all of its files are there; what it was before is kept."""
    os.makedirs(os.path.join(source, FORMER), exist_ok=True)
    for name, contents in change.write.items():
        place = os.path.join(source, f".new.{name}")
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
        os.mkdir(place)
        for file, content in contents.items():
            with open(os.path.join(place, file), "wb") as out:
                out.write(content)
        _set_aside(source, name, keep=name == change.name)
        os.rename(place, os.path.join(source, name))
    if change.remove:
        _set_aside(source, change.name, keep=True)
    if not os.listdir(os.path.join(source, FORMER)):
        os.rmdir(os.path.join(source, FORMER))


def former(source: str, name: str) -> bool:
    """Whether there is an earlier one to put back."""
    return bool(_contents(os.path.join(source, FORMER), name))


def recording_path(source: str, name: str, state: str, given: str | None) -> str:
    """Where the recording lies before the change."""
    if state == "present" and given:
        return given
    return os.path.join(source, FORMER if state == "former" else "", name, WAV)


def _wanted(source: str, wish: Wish, there: t.Mapping[str, Contents]) -> Contents:
    """The voice as it is to be; nothing if it is to be gone."""
    have, names = there.get(wish.name, {}), ", ".join(there) or "none"
    if wish.state == "former":
        contents = _contents(os.path.join(source, FORMER), wish.name)
        if not contents:
            raise VoicesError(
                f"{source} has no former version of {wish.name}: it was not changed or removed by this "
                "playbook. To remove it, say voice_state=absent."
            )
        return contents
    if wish.state == "absent":
        if wish.name not in there and not former(source, wish.name):
            raise VoicesError(
                f"{source} has no voice {wish.name} to remove; it has {names}. Correct voice_name."
            )
        return {}
    wav = have.get(WAV) if wish.recording is None else wish.recording
    if wav is None:
        raise VoicesError(
            f"voice_recording is missing, and {source} has no voice {wish.name} yet; it has {names}. Give "
            f"the file: -e voice_recording={wish.name}.wav"
        )
    text = have.get(TEXT) if wav == have.get(WAV) else None
    if wish.words is not None and (
        text is None or wish.words.strip() != text.decode(errors="replace").strip()
    ):
        text = f"{wish.words.strip()}\n".encode()
    if text is None:
        raise VoicesError(
            f"voice_transcript is missing: the exact words of the recording of {wish.name}. Give them, or "
            "put them into a file beside it that is called as it is, with .txt: anna.wav and anna.txt."
        )
    wanted = {WAV: wav, TEXT: text}
    if ABOUT in have:
        wanted[ABOUT] = have[ABOUT]
    return _described(wish.name, wanted, wish.about)


def _described(name: str, voice: Contents, keys: t.Mapping[str, t.Any]) -> Contents:
    """With these in its voice.yml, which is left alone if it says so already."""
    about = _about(name, voice)
    if about == {**about, **keys}:
        return voice
    return {**voice, ABOUT: _dumped({**about, **keys})}


def _unmarked(name: str, voice: Contents) -> Contents:
    """One that does not say it is the default."""
    about = _about(name, voice)
    if not about.pop("default", False):
        return voice
    rest = {file: content for file, content in voice.items() if file != ABOUT}
    return {**rest, ABOUT: _dumped(about)} if about else rest


def _check_default(before: str, change: Change, wish: Wish) -> None:
    """Refuse that callers who name no voice hear another, unless that was asked for."""
    after = change.default
    if not after:
        raise VoicesError(
            f"{wish.name} is the only voice. Add another one before it is removed, or nobody can be answered."
        )
    if wish.default and after != wish.name:
        raise VoicesError(
            f"The voice called {DEFAULT} is the default one, whatever {wish.name} says of itself. Replace "
            "that one, or leave voice_default out."
        )
    if before in ("", after) or wish.default or wish.name == after == DEFAULT:
        return
    what = (
        f"{before} is the default voice, which speaks for callers who name none. After this, {after} would be"
    )
    if before == DEFAULT:
        raise VoicesError(f"{what}. Replace it by another recording instead of removing it.")
    if before not in change.after:
        raise VoicesError(f"{what}. Say first which is to be: -e voice_name={after} -e voice_default=true")
    raise VoicesError(
        f"{what}. If it is to be, add -e voice_default=true. If not, say so first: "
        f"-e voice_name={before} -e voice_default=true"
    )


def _default(voices: t.Mapping[str, Contents]) -> str:
    names = sorted(voices)
    if DEFAULT in voices:
        return DEFAULT
    marked = [name for name in names if _about(name, voices[name]).get("default")]
    return next(iter([*marked, *names]), "")


def _about(name: str, voice: t.Mapping[str, bytes]) -> dict[str, t.Any]:
    """What its voice.yml says. Raises VoicesError for one that the server would not take."""
    import yaml  # the controller has it, as Ansible does not go without

    try:
        about = yaml.safe_load(voice.get(ABOUT) or b"") or {}
    except (yaml.YAMLError, ValueError, RecursionError):
        raise VoicesError(f"{name}/{ABOUT} is not valid YAML. Correct it, or remove it.") from None
    if not isinstance(about, dict):
        raise VoicesError(f"{name}/{ABOUT} wants keys and values. Correct it, or remove it.")
    for key, value in about.items():
        if key not in KEYS or not isinstance(value, KEYS[key]):
            raise VoicesError(
                f"{name}/{ABOUT}: {key} is {value!r}. It may have {', '.join(KEYS)}; default is true or "
                "false, the others are text. Correct it."
            )
    return about


def _dumped(about: t.Mapping[str, t.Any]) -> bytes:
    import yaml

    return yaml.safe_dump(dict(about), allow_unicode=True, sort_keys=False).encode()


def _names(source: str) -> list[str]:
    return _voices.names_in(source) if os.path.isdir(source) else []


def _contents(source: str, name: str) -> Contents:
    found = {}
    for file in FILES:
        path = os.path.join(source, name, file)
        if os.path.isfile(path) and os.path.getsize(path) <= _voices.LARGEST_BYTES:
            with open(path, "rb") as opened:
                found[file] = opened.read()
    return found


def _digests(voices: t.Mapping[str, Contents]) -> Voices:
    return {
        name: {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
        for name, contents in sorted(voices.items())
    }


def _set_aside(source: str, name: str, keep: bool) -> None:
    place, kept = os.path.join(source, name), os.path.join(source, FORMER, name)
    if os.path.isdir(place):
        if keep:
            shutil.rmtree(kept, ignore_errors=True)
            os.rename(place, kept)
        elif os.path.islink(place):
            os.unlink(place)
        else:
            shutil.rmtree(place)
