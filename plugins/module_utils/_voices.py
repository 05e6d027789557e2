# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of voices: what the controller has of it, what lies on a host, and how the one becomes the other.

This module util is private to the collection. On a host:

    <name>                  a link to the voice's files, changed in one step; or a directory laid down by hand
    .laid/<name>.<digest>/  prompt.wav, prompt.txt and perhaps voice.yml, which never change

So whose a voice is can be seen from the voice itself. The speech server passes over names with a dot.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

WAV, TEXT, ABOUT = FILES = ("prompt.wav", "prompt.txt", "voice.yml")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LARGEST_BYTES = 64 * 2**20
STORE = ".laid"
DIGITS = 16  # of the digest, in the name of a directory
CHUNK_BYTES = 2**20

Voice = t.Dict[str, str]  # noqa: UP006 - read at run time, also by Python 3.8. SHA-256 by name of the file
Voices = t.Dict[str, Voice]  # noqa: UP006


class VoicesError(Exception):
    """The voices are not, or cannot become, what was asked for; says which, why and what to do."""


@dataclass
class Plan:
    """What has to happen on a host. C(kept) are voices laid down by hand, which stay."""

    before: Voices = field(default_factory=dict)
    after: Voices = field(default_factory=dict)
    bring: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def digest(voices: Voices) -> str:
    """What the speech server tells as C(voices_digest) when it has exactly these."""
    return hashlib.sha256(manifest(voices).encode()).hexdigest()


def manifest(voices: Voices) -> str:
    """One line for each file, as C(sha256sum) prints it, in the order of the names."""
    lines = sorted(
        (f"{name}/{file}", sha256) for name, voice in voices.items() for file, sha256 in voice.items()
    )
    return "".join(f"{sha256}  {path}\n" for path, sha256 in lines)


def read_source(path: str) -> Voices:
    """The voices in a directory of the controller. Raises VoicesError for one that no server would take."""
    names = names_in(path)
    if not names:
        raise VoicesError(
            f"{path} holds no voice. Each is a directory with {WAV} and {TEXT}. To have none on the hosts, "
            "say state: absent."
        )
    return {name: read_voice(os.path.join(path, name)) for name in names}


def names_in(path: str) -> list[str]:
    """The voices in a directory, whether they can be used or not."""
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and entry.name[0] != ".")


def look(path: str) -> Voices:
    """The voices that lie on a host, whoever laid them down."""
    if not os.path.isdir(path):
        return {}
    return {name: _files(os.path.join(path, name)) for name in names_in(path)}


def as_it_is(path: str) -> Plan:
    """Nothing has to happen; what lies there is what is wanted."""
    there = look(path)
    return Plan(before=there, after=there, kept=sorted(there))


def plan(path: str, wanted: Voices, exclusive: bool) -> Plan:
    """What makes the host's voices the wanted ones. Raises VoicesError if one laid by hand is in the way."""
    there = look(path)
    # One of ours that somebody has written to since is no longer what was laid down.
    ours = {name for name, voice in there.items() if _link(path, name) == _target(name, voice)}
    if not exclusive:
        by_hand = [
            name
            for name, voice in wanted.items()
            if there.get(name, voice) != voice and _link(path, name) is None
        ]
        if by_hand:
            raise VoicesError(
                f"{path} has voices that were laid down by hand and are not those of the same name to bring: "
                f"{', '.join(sorted(by_hand))}. Nothing was changed. Rename them, or say exclusive: true "
                "(for CosyVoice, cosyvoice_voices_exclusive) to replace them, and remove all others."
            )
    remove = sorted(name for name in there if name not in wanted and (exclusive or name in ours))
    kept = sorted(name for name in there if name not in wanted and name not in remove)
    bring = sorted(name for name, voice in wanted.items() if there.get(name) != voice)
    after = {name: voice for name, voice in there.items() if name in kept}
    return Plan(before=there, after={**after, **wanted}, bring=bring, remove=remove, kept=kept)


def lay_down(path: str, due: Plan, incoming: t.Mapping[str, t.Mapping[str, str]]) -> None:
    """Carry it out. C(incoming) says for each voice to bring where on this host each of its files lies.

    All is copied and checked before the first link changes.
    """
    for place in (path, os.path.join(path, STORE)):
        if not os.path.isdir(place):
            os.makedirs(place)
            Path(place).chmod(0o755)  # whatever the umask: replicas are not root
    _tidy(path)
    for name in due.bring:
        _store(path, name, due.after[name], incoming[name])
    for name in due.bring:
        _show(path, name, _target(name, due.after[name]))
    for name in due.remove:
        _take_away(os.path.join(path, name))
    _tidy(path)


def clear(path: str) -> None:
    """Remove what C(lay_down) has made besides voices, as far as nothing else lies there."""
    for place in (os.path.join(path, STORE), path):
        if os.path.isdir(place) and not os.listdir(place):
            os.rmdir(place)


def read_voice(path: str) -> Voice:
    """One voice of a directory of the controller. Raises VoicesError for one that no server would take."""
    name = os.path.basename(path)
    if not NAME.fullmatch(name):
        raise VoicesError(
            f"{path}: a voice's name has letters, digits and ._- (at most 64, the first a letter or digit). "
            "Rename the directory."
        )
    found = {entry.name for entry in os.scandir(path) if entry.name[0] != "."}
    for file in (WAV, TEXT):
        if file not in found:
            raise VoicesError(
                f"{path}: {file} is missing. A voice is {WAV}, its words in {TEXT}, perhaps {ABOUT}."
            )
    if others := sorted(found - set(FILES)):
        raise VoicesError(
            f"{path}: {others[0]} is no part of a voice, which has {', '.join(FILES)}. Remove it."
        )
    for file in sorted(found):
        size = os.path.getsize(os.path.join(path, file))
        if size > LARGEST_BYTES:
            raise VoicesError(
                f"{path}/{file} has {size // 2**20} MiB; {LARGEST_BYTES // 2**20} are the most. "
                "A voice wants 3 to 15 s."
            )
    with open(os.path.join(path, TEXT), "rb") as words:
        try:
            blank = not words.read().decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise VoicesError(f"{path}/{TEXT} is not UTF-8. Save it as such.") from None
    if blank:
        raise VoicesError(f"{path}/{TEXT} is empty. It wants the exact words of {WAV}.")
    return _files(path)


def _files(path: str) -> Voice:
    paths = {file: os.path.join(path, file) for file in FILES}
    return {file: _sha256(place) for file, place in paths.items() if os.path.isfile(place)}


def _sha256(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def _target(name: str, voice: Voice) -> str:
    """Where a voice of ours points, seen from the directory of the voices."""
    return f"{STORE}/{name}.{digest({name: voice})[:DIGITS]}"


def _link(path: str, name: str) -> str | None:
    """Where it points if it is one that was laid down, else none."""
    place = os.path.join(path, name)
    target = os.readlink(place) if os.path.islink(place) else ""
    return target if target.startswith(f"{STORE}/") else None


def _store(path: str, name: str, voice: Voice, incoming: t.Mapping[str, str]) -> None:
    place = os.path.join(path, _target(name, voice))
    unfinished = f"{place}.new"
    os.mkdir(unfinished)
    Path(unfinished).chmod(0o755)
    for file, sha256 in voice.items():
        copy = os.path.join(unfinished, file)
        shutil.copyfile(incoming[file], copy)
        Path(copy).chmod(0o644)
        if _sha256(copy) != sha256:
            raise VoicesError(
                f"{name}/{file} changed on its way here, or is being written. Run the same again."
            )
    if os.path.isdir(place):  # somebody has written to it
        os.rename(place, f"{place}.old")
    os.rename(unfinished, place)


def _show(path: str, name: str, target: str) -> None:
    place = os.path.join(path, name)
    if os.path.isdir(place) and not os.path.islink(place):
        _take_away(place)  # laid down by hand, and to be replaced
    # Beside the voices, as a link's target is seen from where it lies.
    link = os.path.join(path, f".{name}.link")
    os.symlink(target, link)
    os.replace(link, place)


def _take_away(place: str) -> None:
    if os.path.islink(place):
        os.unlink(place)
        return
    # Gone in one step: a half-removed voice would be told as a broken one.
    gone = os.path.join(os.path.dirname(place), STORE, f"{os.path.basename(place)}.gone")
    os.rename(place, gone)
    shutil.rmtree(gone)


def _tidy(path: str) -> None:
    """Remove what no voice points to, and what an interrupted run has left."""
    for name in os.listdir(path):
        if name.startswith(".") and _link(path, name):
            os.unlink(os.path.join(path, name))
    used = {_link(path, name) for name in os.listdir(path)}
    for name in os.listdir(os.path.join(path, STORE)):
        if f"{STORE}/{name}" not in used:
            shutil.rmtree(os.path.join(path, STORE, name))
