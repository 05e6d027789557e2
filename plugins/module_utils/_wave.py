# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a WAV file really holds: its length counted in bytes that came, and whether there is sound in it.

This module util is private to the collection. The standard library's C(wave) trusts the length in the header,
which a server that streams cannot know; here the header is only held against what came.
"""

from __future__ import annotations

import array
import struct
import sys
from dataclasses import dataclass

# A length that stands for "until the end" in a streamed file: 0, or close to the largest 32-bit number
# (0xFFFFFFFF; ffmpeg and sox write 0x7FFFFFFF and neighbours).
OPEN_ENDED_BYTES = 0x7FFF0000


class WaveError(ValueError):
    """These bytes are no complete WAV file; the text says in what way."""


@dataclass(frozen=True)
class Sound:
    """How long it is, and how loud at most: C(peak) from 0 to 1, None unless it is 16-bit PCM."""

    seconds: float
    rate_hz: int
    channels: int
    peak: float | None


def read_wave(content: bytes) -> Sound:
    """Read a RIFF/WAVE file. Raises WaveError when it is none, is cut off, or holds no audio."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise WaveError(f"no RIFF/WAVE header, it begins with {content[:12]!r}")
    position, layout = 12, None
    while position + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, position)
        start = position + 8
        if kind == b"fmt ":
            if size < 16 or start + 16 > len(content):
                raise WaveError("the fmt chunk is cut off")
            layout = struct.unpack_from("<HHIIHH", content, start)
        elif kind == b"data":
            if layout is None:
                raise WaveError("the data chunk comes before the fmt chunk")
            return _sound(layout, size, content[start:])
        position = start + size + size % 2
    raise WaveError("it has no data chunk")


def _sound(layout: tuple[int, ...], announced: int, data: bytes) -> Sound:
    encoding, channels, rate_hz, bytes_per_second, _frame_bytes, bits = layout
    if not channels or not rate_hz or not bytes_per_second:
        raise WaveError(f"the fmt chunk makes no sense: {channels} channels at {rate_hz} Hz")
    if 0 < announced < OPEN_ENDED_BYTES:
        if announced > len(data):
            raise WaveError(f"cut off: the header announces {announced} bytes of audio, {len(data)} came")
        data = data[:announced]
    if not data:
        raise WaveError("it holds no audio")
    return Sound(
        len(data) / bytes_per_second, rate_hz, channels, _peak(data) if (encoding, bits) == (1, 16) else None
    )


def _peak(data: bytes) -> float:
    samples = array.array("h", data[: len(data) // 2 * 2])
    if sys.byteorder == "big":
        samples.byteswap()
    return max(abs(max(samples, default=0)), abs(min(samples, default=0))) / 32768
