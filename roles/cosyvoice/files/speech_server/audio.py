# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Audio out: an engine's samples become bytes in the caller's format, part by part as they are spoken.

Whatever the engine's rate, callers get 24 kHz mono: OpenAI's clients take raw PCM for that without asking.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, cast

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from .engines.base import Samples

SAMPLE_RATE_HZ = 24_000
_BYTES_PER_SAMPLE = 2


@dataclass(frozen=True)
class Format:
    """A format callers can ask for. No codec: the samples themselves."""

    name: str
    media_type: str
    muxer: str = ""
    codec: str = ""
    bit_rate: int | None = None
    options: dict[str, str] = field(default_factory=dict)


FORMATS = {
    format_.name: format_
    for format_ in (
        # The Xing header holds the length, which is not known while streaming; players then show none at all.
        Format("mp3", "audio/mpeg", "mp3", "libmp3lame", 96_000, {"write_xing": "0", "id3v2_version": "0"}),
        # Ogg gathers a second of audio per page by default; a tenth lets short sentences out at once.
        Format("opus", "audio/ogg; codecs=opus", "ogg", "libopus", 48_000, {"page_duration": "100000"}),
        Format("aac", "audio/aac", "adts", "aac", 64_000),
        # FFmpeg leaves 8 KiB for tags to come; nobody will write any.
        Format("flac", "audio/flac", "flac", "flac", options={"metadata_header_padding": "0"}),
        Format("wav", "audio/wav"),
        Format("pcm", "audio/pcm"),
    )
}


# From PyAV 19 on a resampler's threads live until the garbage collector comes round, and need not be there.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if hasattr(AudioResampler, "threads") else {}


class Encoder:
    """One answer's way from samples to bytes. Used by one thread; `finish` exactly once, at the end.

    `close` in any case: without it the threads of a coder live on until the garbage collector comes round.

    With `whole`, wav bytes come out only at the end and their header holds the true length; otherwise it
    holds the largest possible one, as every streamed wav does.
    """

    def __init__(self, format_: Format, source_rate_hz: int, whole: bool = False):
        self._source_rate_hz = source_rate_hz
        self._resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ, **_ONE_THREAD)
        self._sink: _Raw | _Wav | _Muxed
        if format_.codec:
            self._sink = _Muxed(format_)
        else:
            self._sink = _Wav(whole) if format_.name == "wav" else _Raw()
        self._samples_out = 0

    @property
    def audio_seconds(self) -> float:
        """How much has been encoded."""
        return self._samples_out / SAMPLE_RATE_HZ

    def encode(self, samples: Samples) -> bytes:
        """Take samples; return the bytes that are ready, possibly none."""
        if not len(samples):
            return b""
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="mono")
        frame.sample_rate = self._source_rate_hz
        return self._through(frame)

    def finish(self) -> bytes:
        """Return the rest."""
        return self._through(None) + self._sink.finish() if self._samples_out else b""

    def close(self) -> None:
        """Let go of everything, finished or not."""
        self._sink.close()

    def _through(self, frame: AudioFrame | None) -> bytes:
        out = b""
        for resampled in self._resampler.resample(frame):
            self._samples_out += resampled.samples
            out += self._sink.write(resampled)
        return out


class _Raw:
    def write(self, frame: AudioFrame) -> bytes:
        return bytes(frame.planes[0])[: frame.samples * _BYTES_PER_SAMPLE]

    def finish(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


class _Wav(_Raw):
    def __init__(self, whole: bool):
        self._whole = whole
        self._kept = b""
        self._started = False

    def write(self, frame: AudioFrame) -> bytes:
        data = super().write(frame)
        if self._whole:
            self._kept += data
            return b""
        head = b"" if self._started else wav_header(None)
        self._started = True
        return head + data

    def finish(self) -> bytes:
        return wav_header(len(self._kept)) + self._kept if self._whole else b""


class _Muxed:
    def __init__(self, format_: Format):
        self._out = bytearray()
        # flush_packets and a small buffer: what is encoded comes out at once.
        self._container = av.open(
            _Writable(self._out),
            "w",
            format=format_.muxer,
            container_options={**format_.options, "flush_packets": "1"},
            buffer_size=4096,
        )
        stream = self._container.add_stream(format_.codec, rate=SAMPLE_RATE_HZ, layout="mono")
        self._stream = cast(AudioStream, stream)
        if format_.bit_rate:
            self._stream.bit_rate = format_.bit_rate

    def write(self, frame: AudioFrame | None) -> bytes:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        return self._taken()

    def finish(self) -> bytes:
        rest = self.write(None)
        self._container.close()
        return rest + self._taken()

    def close(self) -> None:
        self._container.close()

    def _taken(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out


class _Writable:
    """What FFmpeg writes to; it cannot seek, so no muxer tries to mend its header afterwards."""

    def __init__(self, out: bytearray):
        self._out = out

    def write(self, data: bytes) -> int:
        self._out += data
        return len(data)


def wav_header(data_bytes: int | None) -> bytes:
    """Return the 44 bytes before the samples; None for an unknown length, written as the largest there is."""
    largest = 0xFFFFFFFF
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        largest if data_bytes is None else 36 + data_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        SAMPLE_RATE_HZ,
        SAMPLE_RATE_HZ * _BYTES_PER_SAMPLE,
        _BYTES_PER_SAMPLE,
        8 * _BYTES_PER_SAMPLE,
        b"data",
        largest if data_bytes is None else data_bytes,
    )
