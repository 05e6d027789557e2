# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WAV files: whole, streamed, cut off, silent, and none at all."""

from __future__ import annotations

import contextlib
import io
import struct
import wave

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._wave import (
    WaveError,
    read_channels,
    read_wave,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def wav(frames: bytes, rate_hz: int = 24000, channels: int = 1, sample_bytes: int = 2) -> bytes:
    """A file as the standard library writes it."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(sample_bytes)
        file.setframerate(rate_hz)
        file.writeframes(frames)
    return buffer.getvalue()


def announcing(content: bytes, length: int) -> bytes:
    """The same file with another length in the header of its data."""
    place = content.index(b"data") + 4
    return content[:place] + struct.pack("<I", length) + content[place + 4 :]


SOUND = struct.pack("<4h", 0, 16384, -32768, 1) * 6000


def test_length_rate_and_peak() -> None:
    sound = read_wave(wav(SOUND))
    assert (sound.seconds, sound.rate_hz, sound.channels, sound.peak) == (1.0, 24000, 1, 1.0)


def test_stereo_counts_both_channels() -> None:
    assert read_wave(wav(SOUND, channels=2)).seconds == 0.5


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36])
def test_a_streamed_file_is_as_long_as_what_came(length: int) -> None:
    assert read_wave(announcing(wav(SOUND), length)).seconds == 1.0


def test_a_file_cut_off_is_noticed() -> None:
    with pytest.raises(WaveError, match="announces 48000 bytes of audio, 47000 came"):
        read_wave(wav(SOUND)[:-1000])


def test_chunks_before_and_after_the_audio_are_not_audio() -> None:
    plain = wav(SOUND)
    listed = plain[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + plain[12:] + b"LIST" + bytes(40)
    assert read_wave(listed).seconds == 1.0


def test_silence_has_no_peak_at_all() -> None:
    assert read_wave(wav(bytes(4800))).peak == 0.0


def test_the_peak_of_other_encodings_is_not_guessed() -> None:
    assert read_wave(wav(SOUND, sample_bytes=3)).peak is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no RIFF/WAVE header"),
        (b'{"error": {"message": "no such voice"}}', "no RIFF/WAVE header"),
        (b"ID3\x04" + bytes(100), "no RIFF/WAVE header"),
        (wav(b""), "holds no audio"),
        (wav(SOUND)[:20], "fmt chunk is cut off"),
        (wav(SOUND)[:36], "no data chunk"),
        (b"RIFF\0\0\0\0WAVEdata\x02\0\0\0ab", "before the fmt chunk"),
        (wav(SOUND).replace(struct.pack("<I", 24000), bytes(4)), "makes no sense"),
    ],
)
def test_what_is_no_audio_is_told_apart(content: bytes, reason: str) -> None:
    with pytest.raises(WaveError, match=reason):
        read_wave(content)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_rubbish_is_refused_or_read_and_never_crashes(rubbish: bytes, keep: int) -> None:
    with contextlib.suppress(WaveError):
        assert read_wave(wav(SOUND)[:keep] + rubbish).seconds > 0
        read_channels(wav(SOUND)[:keep] + rubbish)


WHOLE_NUMBERS = [0, 1 << 30, -(1 << 31), 1 << 24]  # of 32 bit, exact in 8


def encoded(samples: bytes, kind: int, bits: int, extensible: bool = False) -> bytes:
    """One channel at 24 kHz; C(kind) is 1 for whole numbers, 3 for floating point."""
    head = (0xFFFE if extensible else kind, 1, 24000, 24000 * bits // 8, bits // 8, bits)
    form = struct.pack("<HHIIHH", *head)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 4, kind) + bytes.fromhex("000000001000800000aa00389b71")
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(chunks) + len(samples)) + chunks + samples


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("samples", "kind", "bits"),
    [
        (bytes(128 + (value >> 24) for value in WHOLE_NUMBERS), 1, 8),
        (struct.pack("<4h", *(value >> 16 for value in WHOLE_NUMBERS)), 1, 16),
        (b"".join(struct.pack("<i", value)[1:] for value in WHOLE_NUMBERS), 1, 24),
        (struct.pack("<4i", *WHOLE_NUMBERS), 1, 32),
        (struct.pack("<4f", *(value / 2**31 for value in WHOLE_NUMBERS)), 3, 32),
        (struct.pack("<4d", *(value / 2**31 for value in WHOLE_NUMBERS)), 3, 64),
    ],
)
def test_samples_of_every_plain_encoding(samples: bytes, kind: int, bits: int, extensible: bool) -> None:
    channels = read_channels(encoded(samples, kind, bits, extensible))
    assert channels is not None
    assert [list(channel) for channel in channels] == [[0, 0.5, -1, 0.0078125]]


def test_each_channel_by_itself() -> None:
    channels = read_channels(wav(struct.pack("<4h", 0, 16384, -32768, 0), channels=2))
    assert channels is not None
    assert [list(channel) for channel in channels] == [[0, -1], [0.5, 0]]


def test_samples_that_are_no_numbers_are_left_to_others() -> None:
    assert read_channels(encoded(bytes(100), 7, 8)) is None  # of a telephone
