# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a WAV file really holds: its length counted in bytes that came, its samples, whether they are sound.

This module util is private to the collection. The standard library's C(wave) trusts the length in the header,
which a server that streams cannot know; here the header is only held against what came.
"""

from __future__ import annotations

import array
import struct
import sys
import typing as t
from dataclasses import dataclass

# A length that stands for "until the end" in a streamed file: 0, or close to the largest 32-bit number
# (0xFFFFFFFF; ffmpeg and sox write 0x7FFFFFFF and neighbours).
OPEN_ENDED_BYTES = 0x7FFF0000
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # the last says in its own extension which of the others it is


class WaveError(ValueError):
    """These bytes are no complete WAV file; the text says in what way."""


@dataclass(frozen=True)
class Sound:
    """How long it is, and how loud at most: C(peak) from 0 to 1, None unless it is 16-bit PCM."""

    seconds: float
    rate_hz: int
    channels: int
    peak: float | None


@dataclass(frozen=True)
class _Form:
    """How the samples lie in the file."""

    encoding: int
    channels: int
    rate_hz: int
    bytes_per_second: int
    bits: int


def read_wave(content: bytes) -> Sound:
    """Read a RIFF/WAVE file. Raises WaveError when it is none, is cut off, or holds no audio."""
    form, data = _open(content)
    return Sound(
        len(data) / form.bytes_per_second,
        form.rate_hz,
        form.channels,
        _peak(data) if (form.encoding, form.bits) == (_PCM, 16) else None,
    )


def read_channels(content: bytes) -> list[array.array[float]] | None:
    """The samples of each channel, full scale at -1 and 1. None for an encoding that is not plain numbers."""
    form, data = _open(content)
    samples = _numbers(form, data)
    if samples is None:
        return None
    return [samples[channel :: form.channels] for channel in range(form.channels)]


def _open(content: bytes) -> tuple[_Form, bytes]:
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise WaveError(f"no RIFF/WAVE header, it begins with {content[:12]!r}")
    position, form = 12, None
    while position + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, position)
        start = position + 8
        if kind == b"fmt ":
            if size < 16 or start + 16 > len(content):
                raise WaveError("the fmt chunk is cut off")
            form = _form(content[start : start + size])
        elif kind == b"data":
            if form is None:
                raise WaveError("the data chunk comes before the fmt chunk")
            return form, _data(form, size, content[start:])
        position = start + size + size % 2
    raise WaveError("it has no data chunk")


def _form(chunk: bytes) -> _Form:
    encoding, channels, rate_hz, bytes_per_second, _frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if encoding == _EXTENSIBLE and len(chunk) >= 26:
        (encoding,) = struct.unpack_from("<H", chunk, 24)
    return _Form(encoding, channels, rate_hz, bytes_per_second, bits)


def _data(form: _Form, announced: int, data: bytes) -> bytes:
    if not form.channels or not form.rate_hz or not form.bytes_per_second:
        raise WaveError(f"the fmt chunk makes no sense: {form.channels} channels at {form.rate_hz} Hz")
    if 0 < announced < OPEN_ENDED_BYTES:
        if announced > len(data):
            raise WaveError(f"cut off: the header announces {announced} bytes of audio, {len(data)} came")
        data = data[:announced]
    if not data:
        raise WaveError("it holds no audio")
    return data


def _numbers(form: _Form, data: bytes) -> array.array[float] | None:
    """All samples in the order of the file."""
    if (form.encoding, form.bits) == (_PCM, 8):
        return array.array("f", [(value - 128) / 128 for value in data])
    if (form.encoding, form.bits) == (_PCM, 24):
        # As 32 bits, the lowest eight of them 0.
        count = len(data) // 3
        wide = bytearray(4 * count)
        for place in range(3):
            wide[place + 1 :: 4] = data[place : 3 * count : 3]
        form, data = _Form(_PCM, form.channels, form.rate_hz, form.bytes_per_second, 32), bytes(wide)
    kind = {(_PCM, 16): "h", (_PCM, 32): "i", (_FLOAT, 32): "f", (_FLOAT, 64): "d"}.get(
        (form.encoding, form.bits)
    )
    if kind is None:
        return None
    values = _array(kind, data)
    if form.encoding == _FLOAT:
        return array.array("f", values)
    full_scale = float(2 ** (form.bits - 1))
    return array.array("f", [value / full_scale for value in values])


def _peak(data: bytes) -> float:
    samples: array.array[int] = _array("h", data)
    return max(abs(max(samples, default=0)), abs(min(samples, default=0))) / 32768


def _array(kind: str, data: bytes) -> array.array[t.Any]:
    values = array.array(kind)
    values.frombytes(data[: len(data) // values.itemsize * values.itemsize])
    if sys.byteorder == "big":
        values.byteswap()
    return values
