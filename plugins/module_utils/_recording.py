# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a voice can be taken from a recording: its length, its rate, and what is heard in it.

This module util is private to the collection. The speech server judges by the same figures and leaves out
what does not come up to them; here somebody is there to hear of it.
"""

from __future__ import annotations

import array
import math
import operator
import os
from dataclasses import dataclass

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _audio_file
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._voices import LARGEST_BYTES, VoicesError

LEAST_RATE_HZ, MOST_RATE_HZ = 16_000, 192_000
LEAST_SECONDS, MOST_SECONDS = 1.0, 30.0
ADVISED_SECONDS = (3.0, 15.0)
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.01
FRAME_SECONDS = 0.02
SOUND_RMS = 10 ** (-50 / 20)  # of a frame that is not silence
LEAST_SOUND_SECONDS = 0.5
LONGEST_WORDS_BYTES = 2**16  # many times what can be said
_ADVICE = "{:g} to {:g} s give the best voices".format(*ADVISED_SECONDS)


@dataclass(frozen=True)
class Recording:
    """What was measured."""

    seconds: float
    rate_hz: int
    sound_seconds: float  # of it that are not silence

    @property
    def advice(self) -> str:
        """What could be better, or nothing."""
        least, most = ADVISED_SECONDS
        return "" if least <= self.seconds <= most else f"it has {self.seconds:.1f} s; {_ADVICE}"


def load(path: str) -> bytes:
    """The file. Raises VoicesError if there is none, or one that nobody should read whole."""
    if not os.path.isfile(path):
        raise VoicesError(f"There is no file {path} on the controller. Correct voice_recording.")
    size = os.path.getsize(path)
    if size > LARGEST_BYTES:
        raise VoicesError(
            f"{path} has {size // 2**20} MiB; {LARGEST_BYTES // 2**20} are the most. Cut it: {_ADVICE}."
        )
    with open(path, "rb") as file:
        return file.read()


def load_words(path: str) -> str:
    """What the file beside the recording says. Raises VoicesError if that is no text."""
    with open(path, "rb") as file:
        try:
            return file.read(LONGEST_WORDS_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise VoicesError(f"{path} is not UTF-8. Save it as such.") from None


def examine(path: str, content: bytes) -> Recording:
    """Measure it. Raises VoicesError for one that no voice can be taken from."""

    def judge(rate_hz: int, seconds: float) -> None:
        _check_rate(path, rate_hz)
        _check_most(path, seconds)

    channels, rate_hz = _audio_file.read(path, content, judge)
    seconds = len(channels[0]) / rate_hz
    _check_most(path, seconds)
    if seconds < LEAST_SECONDS:
        raise VoicesError(
            f"{path} has {seconds:.2f} s; {LEAST_SECONDS:g} s are the least, and {_ADVICE}. Record more."
        )
    if not all(all(map(math.isfinite, channel)) for channel in channels):
        raise VoicesError(f"{path} holds samples that are no numbers. Export it anew, as 16 bit wav.")
    clipped = max(_clipped(channel) for channel in channels)
    if clipped > CLIPPED_SHARE:
        raise VoicesError(
            f"{path} is overdriven: {clipped:.0%} of it is clipped, {CLIPPED_SHARE:.0%} is the most. "
            "Record it anew, more quietly; to turn it down now does not mend it."
        )
    sound_seconds = _sound_seconds(_mono(channels), rate_hz)
    if sound_seconds < LEAST_SOUND_SECONDS:
        raise VoicesError(
            f"{path} is silent: {sound_seconds:.2f} s of it is sound, {LEAST_SOUND_SECONDS:g} s are the "
            "least. Look which microphone was on, and record it louder."
        )
    return Recording(seconds, rate_hz, sound_seconds)


def _check_rate(path: str, rate_hz: int) -> None:
    if rate_hz < LEAST_RATE_HZ:
        raise VoicesError(
            f"{path} has {rate_hz} samples a second; {LEAST_RATE_HZ} are the least. Record it anew, at 24000 "
            "or more; to convert it does not bring back what is missing."
        )
    if rate_hz > MOST_RATE_HZ:
        raise VoicesError(
            f"{path} has {rate_hz} samples a second; {MOST_RATE_HZ} are the most. Convert it to 48000."
        )


def _check_most(path: str, seconds: float) -> None:
    if seconds > MOST_SECONDS:
        raise VoicesError(
            f"{path} is longer than {MOST_SECONDS:g} s, which are the most. Cut it, and its words: {_ADVICE}."
        )


def _mono(channels: _audio_file.Channels) -> array.array[float]:
    if len(channels) == 1:
        return channels[0]
    return array.array("f", map(lambda *values: sum(values) / len(values), *channels))


def _clipped(channel: array.array[float]) -> float:
    return sum(value >= FULL_SCALE or value <= -FULL_SCALE for value in channel) / len(channel)


def _sound_seconds(mono: array.array[float], rate_hz: int) -> float:
    size = math.ceil(FRAME_SECONDS * rate_hz)
    limit = SOUND_RMS**2 * size
    loud = 0
    for start in range(0, len(mono) - size + 1, size):
        frame = mono[start : start + size]
        loud += sum(map(operator.mul, frame, frame)) > limit
    return loud * size / rate_hz
