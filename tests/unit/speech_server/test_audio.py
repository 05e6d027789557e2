# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the encoders make can be read by others, whole and in parts."""

from __future__ import annotations

import gc
import io
import os
import wave

import av
import numpy as np
import pytest
from speech_server.audio import FORMATS, SAMPLE_RATE_HZ, Encoder
from speech_stand_in import RATE_HZ, tone


def decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Samples (n,) in -1..1, and their rate."""
    if name == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768, SAMPLE_RATE_HZ
    container = av.open(io.BytesIO(data), "r")
    to_float = av.AudioResampler(format="flt", layout="mono")
    frames = [part for frame in [*container.decode(audio=0), None] for part in to_float.resample(frame)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]), frames[0].sample_rate


def pitch_hz(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_sound(name: str) -> None:
    encoder = Encoder(FORMATS[name], RATE_HZ)
    parts = [encoder.encode(tone(0.7)) for _ in range(3)] + [encoder.finish()]
    samples, rate = decode(b"".join(parts), name)
    assert rate == (48000 if name == "opus" else 24000)  # Opus is always decoded at 48 kHz
    assert len(samples) / rate == pytest.approx(2.1, abs=0.08)  # coders add up to three frames of padding
    assert encoder.audio_seconds == pytest.approx(2.1, abs=0.001)
    assert pitch_hz(samples, rate) == pytest.approx(440, abs=2)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.06)
    # Most of each part is out before the next begins: that is what streaming by sentence means.
    assert min(len(part) for part in parts[:3]) > 0.5 * max(len(part) for part in parts[:3])


@pytest.mark.parametrize("name", FORMATS)
def test_without_samples_there_are_no_bytes(name: str) -> None:
    encoder = Encoder(FORMATS[name], RATE_HZ)
    assert encoder.encode(np.zeros(0, np.float32)) + encoder.finish() == b""


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_given_up_leaves_no_thread_behind(name: str) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    gc.collect()
    before = threads()
    gc.disable()
    try:
        for parts in (0, 1, 1, 1):
            encoder = Encoder(FORMATS[name], RATE_HZ)
            for _ in range(parts):
                encoder.encode(tone(0.7))
            encoder.close()
            del encoder
        assert threads() <= before
    finally:
        gc.enable()


def test_a_whole_wav_knows_its_length() -> None:
    encoder = Encoder(FORMATS["wav"], RATE_HZ, whole=True)
    assert encoder.encode(tone(1)) == b""
    with wave.open(io.BytesIO(encoder.finish())) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)
        assert file.getnframes() == pytest.approx(24000, abs=2)
        assert len(file.readframes(100_000)) == 2 * file.getnframes()


def test_a_streamed_wav_is_read_to_its_end() -> None:
    encoder = Encoder(FORMATS["wav"], RATE_HZ)
    data = encoder.encode(tone(1)) + encoder.finish()
    with wave.open(io.BytesIO(data)) as file:
        assert len(file.readframes(10**6)) == pytest.approx(48000, abs=4)


def test_what_is_too_loud_is_clipped_not_wrapped() -> None:
    encoder = Encoder(FORMATS["pcm"], SAMPLE_RATE_HZ)
    samples, _rate = decode(encoder.encode(np.full(2400, 3, np.float32)) + encoder.finish(), "pcm")
    assert samples.min() > 0.99
