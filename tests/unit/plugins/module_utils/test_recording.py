# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recordings on the controller: what is taken, what is refused and with which words."""

from __future__ import annotations

import builtins
import io
import struct
import sys
import typing as t
import wave
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _audio_file, _recording
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._voices import VoicesError
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_voices import tone
from speech_server import recordings as server

PATH = "/srv/recordings/anna.wav"


def encoded(muxer: str, codec: str, seconds: float = 3) -> bytes:
    """A tone of 220 Hz, stereo, as a phone or a browser would send it."""
    out, rate_hz = io.BytesIO(), 48000
    samples = (0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)
    with av.open(out, "w", format=muxer) as container:
        stream = t.cast(AudioStream, container.add_stream(codec, rate=rate_hz, layout="stereo"))
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate_hz)
        frame = AudioFrame.from_ndarray(np.stack([samples, samples]), format="fltp", layout="stereo")
        frame.sample_rate = rate_hz
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return out.getvalue()


def wav(samples: t.Any) -> bytes:
    """A wav file of 16 bit, 24 kHz; a row for each channel."""
    rows = np.atleast_2d(np.asarray(samples))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(len(rows))
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(rows.T.astype("<i2").tobytes())
    return out.getvalue()


def floats(samples: t.Any) -> bytes:
    """A wav file of 32 bit floating point."""
    data = np.asarray(samples, "<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, 24000, 96000, 4, 32)
    rest = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(rest)) + rest


PLAIN = tone(200)
SAMPLES = np.frombuffer(PLAIN[44:], "<i2")
SQUARE = np.tile([32767, -32768], 48000)
# What either judges of it has to agree with the other.
GOOD = {
    "4 s": PLAIN,
    "as short as may be": tone(200, seconds=1),
    "as long as may be": tone(200, seconds=30, rate_hz=16000),
    "quiet": tone(200, amplitude=0.01),
    "loud": tone(200, amplitude=0.99),
    "half a second of sound": wav([*SAMPLES[:12480], *[0] * 24000]),
    "floating point": floats(0.3 * np.sin(np.arange(96000) / 20)),
    "two channels": wav([SAMPLES, SAMPLES]),
}
BAD = {
    "no audio": (b"Good morning.", "is no audio file that is known here .* Convert it: ffmpeg -i anna.wav"),
    "a playlist": (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", "is no audio file that is known here"),
    "cut off": (PLAIN[:5000], "no whole wav file: cut off: .* 4956 came. Export or copy it anew"),
    "8 kHz": (tone(200, rate_hz=8000), "has 8000 samples a second; 16000 are the least. Record it anew"),
    "200 kHz": (tone(200, seconds=1, rate_hz=200_000), "has 200000 .*; 192000 are the most. Convert it"),
    "short": (tone(200, seconds=0.9), "has 0.90 s; 1 s are the least, .* Record more"),
    "long": (tone(200, seconds=31), "is longer than 30 s, which are the most. Cut it"),
    "overdriven": (wav(SQUARE), "is overdriven: 100% of it is clipped, 1% is the most. Record it anew, mo"),
    "one channel overdriven": (wav([SAMPLES, SQUARE]), "is overdriven"),
    "silent": (tone(200, amplitude=0), "is silent: 0.00 s of it is sound, 0.5 s are the least"),
    "as good as silent": (tone(200, amplitude=0.001), "is silent"),
    "no numbers": (floats([float("nan")] * 48000), "holds samples that are no numbers. Export it anew"),
}  # fmt: skip


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_what_is_taken_is_taken_by_the_server(content: bytes) -> None:
    found, there = _recording.examine(PATH, content), server.read(content)
    assert (found.rate_hz, found.seconds) == (there.rate_hz, pytest.approx(there.seconds, abs=1e-3))
    assert found.sound_seconds == pytest.approx(server._sound_seconds(there), abs=0.03)
    assert bool(found.advice) == bool(server.advice(there))


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_what_is_refused_is_named_with_its_figure_and_the_remedy(content: bytes, says: str) -> None:
    with pytest.raises(VoicesError, match=says) as refused:
        _recording.examine(PATH, content)
    assert str(refused.value).startswith(PATH)


@pytest.mark.parametrize("kind", [each for each in BAD if each not in ("cut off", "one channel overdriven")])
def test_the_server_refuses_them_too(kind: str) -> None:
    with pytest.raises(server.RecordingError):
        server.read(BAD[kind][0])


def test_the_figures_are_the_servers() -> None:
    assert (_recording.LEAST_RATE_HZ, _recording.MOST_RATE_HZ) == (server.LEAST_RATE_HZ, server.MOST_RATE_HZ)
    assert (_recording.LEAST_SECONDS, _recording.MOST_SECONDS) == (server.LEAST_SECONDS, server.MOST_SECONDS)
    assert _recording.ADVISED_SECONDS == server.ADVISED_SECONDS
    assert (_recording.FULL_SCALE, _recording.CLIPPED_SHARE) == (server._FULL_SCALE, server._CLIPPED_SHARE)
    assert (_recording.FRAME_SECONDS, _recording.SOUND_RMS) == (server._FRAME_SECONDS, server._SOUND_RMS)
    assert _recording.LEAST_SOUND_SECONDS == server._LEAST_SOUND_SECONDS
    assert _audio_file.MAGIC == server._MAGIC


@pytest.mark.parametrize(
    ("seconds", "advice"), [(2, "it has 2.0 s; 3 to 15 s give"), (3, ""), (15, ""), (16, "it has 16.0 s")]
)
def test_advice(seconds: float, advice: str) -> None:
    found = _recording.examine(PATH, tone(200, seconds=seconds)).advice
    assert found.startswith(advice)
    assert bool(found) == bool(advice)


KINDS = {
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "libmp3lame"),
    "ogg": ("ogg", "libopus"),
    "a browser's webm": ("webm", "libopus"),
    "a phone's m4a": ("mp4", "aac"),
    "aac": ("adts", "aac"),
    "wav of a telephone's kind": ("wav", "pcm_mulaw"),
}


@pytest.mark.parametrize(("muxer", "codec"), KINDS.values(), ids=KINDS)
def test_what_people_have_is_read_by_pyav(muxer: str, codec: str) -> None:
    found = _recording.examine(PATH, encoded(muxer, codec))
    assert found.seconds == pytest.approx(3, abs=0.1)
    assert found.sound_seconds == pytest.approx(3, abs=0.1)


def test_of_a_long_one_no_more_is_read_than_it_takes_to_refuse_it() -> None:
    with pytest.raises(VoicesError, match="is longer than 30 s"):
        _recording.examine(PATH, encoded("mp3", "libmp3lame", seconds=40))


def test_without_pyav_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_av(name: str, *args: t.Any, **kwargs: t.Any) -> t.Any:
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert _recording.examine(PATH, PLAIN).seconds == 4
    with pytest.raises(VoicesError, match=r"library PyAV.*-m pip install av.*Convert it: ffmpeg") as refused:
        _recording.examine("/srv/recordings/anna.m4a", b"\0\0\0\x20ftypM4A ")
    assert sys.executable in str(refused.value)


def test_what_a_decoder_stumbles_over_is_refused() -> None:
    with pytest.raises(VoicesError, match=r"anna.wav cannot be read as audio \(.*Convert it"):
        _recording.examine(PATH, b"fLaC" + bytes(100))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 60))
def test_any_bytes(rubbish: bytes, keep: int) -> None:
    for content in (PLAIN[:keep] + rubbish, *(magic + rubbish for _at, magic, _name in _audio_file.MAGIC)):
        with suppress(VoicesError):  # and nothing else
            _recording.examine(PATH, content)


def test_files_that_are_not_there_or_too_large_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(VoicesError, match=r"no file .*anna\.wav on the controller"):
        _recording.load(str(tmp_path / "anna.wav"))
    (tmp_path / "anna.wav").touch()
    with (tmp_path / "anna.wav").open("r+b") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(VoicesError, match=r"has 65 MiB; 64 are the most\. Cut it"):
        _recording.load(str(tmp_path / "anna.wav"))


def test_words_beside_it_have_to_be_text(tmp_path: Path) -> None:
    path = tmp_path / "anna.txt"
    path.write_bytes("\ufeffGuten Morgen, schöne Welt.".encode())
    assert _recording.load_words(str(path)) == "Guten Morgen, schöne Welt."
    path.write_bytes("schöne".encode("latin-1"))
    with pytest.raises(VoicesError, match=r"anna\.txt is not UTF-8"):
        _recording.load_words(str(path))
