# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recordings that callers send: what is taken, what is refused and with which words."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import cast

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from cosyvoice3_support import pitch, recording
from hypothesis import given, settings
from hypothesis import strategies as st
from speech_server import recordings
from speech_server.recordings import RecordingError


def encoded(muxer: str, codec: str, seconds: float = 3, rate_hz: int = 48000) -> bytes:
    """A tone of 220 Hz, stereo, as a phone or a browser would send it."""
    out = io.BytesIO()
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    tone = (0.3 * np.sin(2 * np.pi * 220 * times)).astype(np.float32)
    with av.open(out, "w", format=muxer) as container:
        stream = cast(AudioStream, container.add_stream(codec, rate=rate_hz, layout="stereo"))
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate_hz)
        frame = AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = rate_hz
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("muxer", "codec"),
    [
        ("wav", "pcm_s16le"),
        ("wav", "pcm_f32le"),
        ("flac", "flac"),
        ("mp3", "libmp3lame"),
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("mp4", "aac"),
        ("adts", "aac"),
    ],
)
def test_what_people_have(muxer: str, codec: str) -> None:
    found = recordings.read(encoded(muxer, codec))
    assert found.rate_hz == 48000
    assert found.seconds == pytest.approx(3, abs=0.1)
    assert pitch(found.samples, found.rate_hz) == pytest.approx(220, rel=0.03)
    again = recordings.read(found.wav())
    assert np.abs(again.samples - np.clip(found.samples, -1, 1)).max() < 1e-3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no audio file"),
        (b"RIFF....", "cannot be read"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n", "no audio file"),  # a playlist would be fetched
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no audio file"),
        (recording()[:60], "has 0.00 s"),
        (recording(seconds=0.8), "1 s are the least"),
        (recording(seconds=31), "longer than 30 s"),
        (recording(seconds=300, rate_hz=16000), "longer than 30 s"),
        (recording(rate_hz=8000), "16000 are the least"),
        (recording(amplitude=0.0), "silent"),
        (recording(amplitude=0.001), "silent"),
        (recording(amplitude=3), "overdriven"),
        (recording(seconds=0.3) + bytes(24000 * 2 * 3), "has 0.30 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_refusals(data: bytes, says: str) -> None:
    with pytest.raises(RecordingError, match=says):
        recordings.read(data)


def test_samples_that_are_no_numbers() -> None:
    bad = recording()[:44].replace(b"\x01\x00\x01\x00", b"\x03\x00\x01\x00", 1)  # float
    header = bytearray(bad)
    header[28:36] = (24000 * 4).to_bytes(4, "little") + (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
    samples = np.full(48000, np.nan, np.float32).tobytes()
    header[40:44] = len(samples).to_bytes(4, "little")
    with pytest.raises(RecordingError):
        recordings.read(bytes(header) + samples)


@pytest.mark.parametrize(("seconds", "advised"), [(2, True), (3, False), (15, False), (20, True)])
def test_advice(seconds: float, advised: bool) -> None:
    assert bool(recordings.advice(recordings.read(recording(seconds=seconds)))) == advised


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([magic for _at, magic, _name in recordings._MAGIC]))
def test_any_bytes(data: bytes, magic: bytes) -> None:
    for start in (b"", magic, bytes(4) + magic):
        with suppress(RecordingError):  # and nothing else
            recordings.read(start + data)
