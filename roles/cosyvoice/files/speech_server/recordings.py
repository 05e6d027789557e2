# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recordings of voices: read whatever people have, and say what is wrong before a model chokes on it.

What comes out is one plain form, because the models' own readers take few formats, fail on files they have to
read twice, and answer wrong rates and lengths with assertions.
"""

from __future__ import annotations

import io
import math
import wave
from dataclasses import dataclass

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from .engines.base import Samples

# CosyVoice's frontend asserts the rate and the longest; below a second there is no voice to take.
LEAST_RATE_HZ = 16_000
MOST_RATE_HZ = 192_000
LEAST_SECONDS, MOST_SECONDS = 1.0, 30.0
# What its users advise: longer ones make it repeat itself and leak the prompt's words into the answer.
ADVISED_SECONDS = (3.0, 15.0)
_FULL_SCALE = 0.999
_CLIPPED_SHARE = 0.01
_FRAME_SECONDS = 0.02
_SOUND_RMS = 10 ** (-50 / 20)  # of a frame that is not silence
_LEAST_SOUND_SECONDS = 0.5

# By their first bytes, never by FFmpeg's guess: among its formats are playlists that name files and URLs.
_MAGIC = (
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


class RecordingError(ValueError):
    """A recording that no voice can be taken from; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Recording:
    """Mono samples, full scale at -1 and 1, at the rate they were recorded."""

    samples: Samples
    rate_hz: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate_hz

    def wav(self) -> bytes:
        """As a file of 16 bit PCM."""
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate_hz)
            file.writeframes((np.clip(self.samples, -1, 1) * 32767).astype("<i2").tobytes())
        return out.getvalue()


def read(data: bytes) -> Recording:
    """Read and check; raises RecordingError. Never takes more than 30 s of samples into memory."""
    recording = _decoded(data, _format(data))
    _check(recording)
    return recording


def advice(recording: Recording) -> str:
    """What could be better, or nothing."""
    least, most = ADVISED_SECONDS
    if not least <= recording.seconds <= most:
        return f"it has {recording.seconds:.1f} s; {least:g} to {most:g} s give the best voices"
    return ""


def _format(data: bytes) -> str:
    for at, magic, name in _MAGIC:
        if data[at : at + len(magic)] == magic:
            return name
    raise RecordingError("is no audio file that is known here (wav, flac, mp3, ogg, webm, m4a, aac)")


def _decoded(data: bytes, format_: str) -> Recording:
    parts: list[Samples] = []
    try:
        with av.open(
            io.BytesIO(data), "r", format=format_, options={"protocol_whitelist": "none"}
        ) as container:
            stream = container.streams.audio[0]
            rate = int(stream.rate or 0)
            if not LEAST_RATE_HZ <= rate <= MOST_RATE_HZ:
                raise RecordingError(f"has {rate} samples a second; {LEAST_RATE_HZ} are the least")
            resampler = AudioResampler(format="flt", layout="mono", rate=rate)
            taken = 0
            for frame in container.decode(stream):
                for part in _mono(resampler, frame):
                    taken += len(part)
                    parts.append(part)
                if taken > (MOST_SECONDS + 0.1) * rate:
                    raise RecordingError(f"is longer than {MOST_SECONDS:g} s")
            parts += _mono(resampler, None)
    except RecordingError:
        raise
    except Exception as error:  # whatever a decoder says of what a caller sent
        raise RecordingError(f"cannot be read as audio ({type(error).__name__})") from error
    return Recording(np.concatenate(parts) if parts else np.zeros(0, np.float32), rate)


def _mono(resampler: AudioResampler, frame: AudioFrame | None) -> list[Samples]:
    return [out.to_ndarray().reshape(-1).astype(np.float32) for out in resampler.resample(frame)]


def _check(recording: Recording) -> None:
    samples, seconds = recording.samples, recording.seconds
    if seconds < LEAST_SECONDS:
        raise RecordingError(f"has {seconds:.2f} s; {LEAST_SECONDS:g} s are the least")
    if seconds > MOST_SECONDS:
        raise RecordingError(f"has {seconds:.1f} s; {MOST_SECONDS:g} s are the most")
    if not np.isfinite(samples).all():
        raise RecordingError("holds samples that are no numbers")
    clipped = float(np.mean(np.abs(samples) >= _FULL_SCALE))
    if clipped > _CLIPPED_SHARE:
        raise RecordingError(f"is overdriven: {clipped:.0%} of it is clipped; record it more quietly")
    sound = _sound_seconds(recording)
    if sound < _LEAST_SOUND_SECONDS:
        raise RecordingError(f"is silent: {sound:.2f} s of it is sound")


def _sound_seconds(recording: Recording) -> float:
    size = math.ceil(_FRAME_SECONDS * recording.rate_hz)
    frames = recording.samples[: len(recording.samples) // size * size].reshape(-1, size)
    loud = np.sqrt(np.mean(np.square(frames), axis=1)) > _SOUND_RMS
    return float(np.count_nonzero(loud)) * size / recording.rate_hz
