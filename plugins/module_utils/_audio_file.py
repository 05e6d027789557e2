# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The samples of a recording, whatever kind of file people have.

This module util is private to the collection. A plain wav file takes nothing but Python. Any other takes the
library PyAV, which is also what the speech server reads with.
"""

from __future__ import annotations

import array
import io
import os
import sys
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._voices import VoicesError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._wave import (
    WaveError,
    read_channels,
    read_wave,
)

# By their first bytes, never by FFmpeg's guess: among its formats are playlists that name files and URLs.
MAGIC = (
    (0, b"RIFF", "wav"),
    (0, b"RF64", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (4, b"ftyp", "mp4"),
    (0, b"ID3", "mp3"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf9", "aac"),
    (0, b"\xff\xfb", "mp3"),
    (0, b"\xff\xf3", "mp3"),
    (0, b"\xff\xf2", "mp3"),
    (0, b"\xff\xfa", "mp3"),
)

Channels = t.List["array.array[float]"]  # noqa: UP006 - read at run time
# What is told the rate and the seconds known so far, and raises to end the reading.
Judge = t.Callable[[int, float], None]


def read(path: str, content: bytes, judge: Judge) -> tuple[Channels, int]:
    """The samples of each channel, full scale at -1 and 1, and the rate. Raises VoicesError.

    C(judge) is asked before much is read.
    """
    format_ = next((name for at, magic, name in MAGIC if content[at : at + len(magic)] == magic), "")
    if not format_:
        raise VoicesError(
            f"{path} is no audio file that is known here (wav, flac, mp3, ogg, webm, m4a, aac). "
            f"{_convert(path)}"
        )
    if content[:4] == b"RIFF":
        try:
            sound = read_wave(content)
            judge(sound.rate_hz, sound.seconds)
            if channels := read_channels(content):
                return channels, sound.rate_hz
        except WaveError as error:
            raise VoicesError(f"{path} is no whole wav file: {error}. Export or copy it anew.") from None
    return _decoded(path, content, format_, judge)


def _decoded(path: str, content: bytes, format_: str, judge: Judge) -> tuple[Channels, int]:
    try:
        import av
    except ImportError:
        raise VoicesError(
            f"{path} is no plain wav file, and to read it takes the library PyAV, which "
            f"{sys.executable} has not. Install it: {sys.executable} -m pip install av. Or convert the file. "
            f"{_convert(path)}"
        ) from None
    samples = array.array("f")
    try:
        with av.open(
            io.BytesIO(content), "r", format=format_, options={"protocol_whitelist": "none"}
        ) as container:
            stream = container.streams.audio[0]
            rate_hz = int(stream.rate or 0)
            judge(rate_hz, 0)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
            for frame in container.decode(stream):
                _gather(samples, resampler.resample(frame))
                judge(rate_hz, len(samples) / rate_hz)
            _gather(samples, resampler.resample(None))
    except VoicesError:
        raise
    except Exception as error:  # whatever a decoder says of what it was given
        raise VoicesError(
            f"{path} cannot be read as audio ({type(error).__name__}). {_convert(path)}"
        ) from None
    return [samples], rate_hz


def _gather(samples: array.array[float], frames: t.Iterable[t.Any]) -> None:
    for frame in frames:
        samples.frombytes(bytes(frame.planes[0])[: frame.samples * samples.itemsize])


def _convert(path: str) -> str:
    name = os.path.basename(path)
    return f"Convert it: ffmpeg -i {name} -ac 1 -c:a pcm_s16le {os.path.splitext(name)[0]}-plain.wav"
