# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The voices laid down beside the server: `<directory>/<name>/{prompt.wav, prompt.txt, voice.yml}`.

`prompt.wav` is the recording, `prompt.txt` its exact words, and `voice.yml` (may be missing) says what
to call it. A voice that cannot be used is left out with the reason, and costs nobody else his.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from . import recordings
from .engines.base import WishRefused
from .prompts import bare_transcript, least_seconds
from .recordings import RecordingError

_LOG = logging.getLogger(__name__)
WAV, TEXT, ABOUT = FILES = ("prompt.wav", "prompt.txt", "voice.yml")
DEFAULT = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEYS: dict[str, type] = {"name": str, "description": str, "language": str, "default": bool}
_LARGEST_BYTES = 64 * 2**20

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class StoredVoice:
    """One voice that can be used. `wav` is the recording in the one form that models are given."""

    id: str
    name: str
    is_default: bool
    transcript: str
    wav: bytes
    digests: Mapping[str, str]  # SHA-256 of each file, as it lies there

    @property
    def digest(self) -> str:
        """Changes with anything that decides how the voice sounds."""
        return f"{self.digests[WAV]}-{self.digests[TEXT]}"


class VoiceError(ValueError):
    """Why a voice is left out."""


class VoiceStore:
    """The voices of now. `rescan` may be called from any thread; what is read is swapped in whole."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._lock = threading.Lock()
        self._stamps: dict[str, _Stamp] = {}
        self._scanned = False
        self.voices: Mapping[str, StoredVoice] = {}
        self.refused: Mapping[str, str] = {}
        self.digest = _digest({})

    @property
    def digests(self) -> Mapping[str, str]:
        """Of each voice alone, by its name."""
        return {name: _digest({name: voice}) for name, voice in self.voices.items()}

    @property
    def default(self) -> StoredVoice | None:
        """The one called `default`, else the first that says so in its voice.yml, else the first by name."""
        voices = self.voices
        if DEFAULT in voices:
            return voices[DEFAULT]
        marked = [voice for voice in voices.values() if voice.is_default]
        return next(iter([*marked, *voices.values()]), None)

    def rescan(self) -> bool:
        """Read what is new or changed; returns whether anything was. Costs a few stat calls otherwise."""
        with self._lock:
            stamps = self._look()
            if self._scanned and stamps == self._stamps:
                return False
            voices, refused = {}, {}
            for name, stamp in stamps.items():
                if self._scanned and self._stamps.get(name) == stamp:
                    if name in self.voices:
                        voices[name] = self.voices[name]
                    else:
                        refused[name] = self.refused[name]
                    continue
                try:
                    voices[name] = read(self._directory / name)
                except VoiceError as error:
                    refused[name] = str(error)
                    _LOG.warning(
                        "a voice is left out", extra={"fields": {"voice": name, "reason": str(error)}}
                    )
            self._stamps, self._scanned = stamps, True
            self.voices, self.refused = MappingProxyType(voices), MappingProxyType(refused)
            self.digest = _digest(voices)
            fields = {"voices": sorted(voices), "left_out": sorted(refused), "digest": self.digest}
            _LOG.info("voices", extra={"fields": fields})
            return True

    def leave_out(self, name: str, reason: str) -> None:
        """A voice that looked well and is not; until its files change."""
        with self._lock:
            voices = {id_: voice for id_, voice in self.voices.items() if id_ != name}
            self.voices = MappingProxyType(voices)
            self.refused = MappingProxyType({**self.refused, name: reason})
            self.digest = _digest(voices)
        _LOG.warning("a voice is left out", extra={"fields": {"voice": name, "reason": reason}})

    def _look(self) -> dict[str, _Stamp]:
        try:
            names = sorted(path.name for path in self._directory.iterdir() if path.is_dir())
        except OSError:
            return {}  # no directory: no voices
        # Names with a dot in front are somebody's unfinished copies.
        return {
            name: tuple(_stamp(self._directory / name / file) for file in FILES)
            for name in names
            if not name.startswith(".")
        }


def read(directory: Path) -> StoredVoice:
    """Read and check one voice; raises VoiceError."""
    name = directory.name
    if not _NAME.fullmatch(name):
        raise VoiceError("its name wants letters, digits and ._- (at most 64, the first a letter or digit)")
    contents = {file: _content(directory / file, required=file != ABOUT) for file in FILES}
    about = _about(contents[ABOUT])
    try:
        transcript = bare_transcript((contents[TEXT] or b"").decode("utf-8-sig"))
        recording = recordings.read(contents[WAV] or b"")
    except UnicodeDecodeError:
        raise VoiceError(f"{TEXT} is not UTF-8") from None
    except WishRefused as error:
        raise VoiceError(f"{TEXT}: {error.message.rstrip('.')}") from None
    except RecordingError as error:
        raise VoiceError(f"{WAV} {error}") from None
    if (least := least_seconds(transcript)) > recording.seconds:
        raise VoiceError(
            f"{TEXT} takes {least:.1f} s at least and {WAV} has {recording.seconds:.1f} s: "
            "these are not the recording's words"
        )
    if hint := recordings.advice(recording):
        _LOG.info("a voice could be better", extra={"fields": {"voice": name, "advice": f"{WAV}: {hint}"}})
    return StoredVoice(
        id=name,
        name=about.get("name", name),
        is_default=about.get("default", False),
        transcript=transcript,
        wav=recording.wav(),
        digests={
            file: hashlib.sha256(data).hexdigest() for file, data in contents.items() if data is not None
        },
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _content(path: Path, required: bool) -> bytes | None:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise VoiceError(f"{path.name} is larger than {_LARGEST_BYTES // 2**20} MiB")
        return path.read_bytes()
    except FileNotFoundError:
        if required:
            raise VoiceError(f"{path.name} is missing") from None
        return None
    except OSError as error:
        raise VoiceError(f"{path.name} cannot be read: {error.strerror}") from None


def _about(data: bytes | None) -> dict[str, Any]:
    try:
        about = yaml.safe_load(data or b"") or {}
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        raise VoiceError(f"{ABOUT} is not valid YAML") from None
    if not isinstance(about, dict):
        raise VoiceError(f"{ABOUT} wants keys and values")
    for key, value in about.items():
        if key not in _KEYS:
            raise VoiceError(f"{ABOUT} has the key {key!r}; it may have {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise VoiceError(f"{ABOUT}: {key} wants a {_KEYS[key].__name__}")
    return about


def _digest(voices: Mapping[str, StoredVoice]) -> str:
    """SHA-256 over one line `<sha256>  <name>/<file>\\n` for each file, in the order of the names."""
    lines = sorted(
        (f"{voice.id}/{file}", digest) for voice in voices.values() for file, digest in voice.digests.items()
    )
    return hashlib.sha256("".join(f"{digest}  {path}\n" for path, digest in lines).encode()).hexdigest()
