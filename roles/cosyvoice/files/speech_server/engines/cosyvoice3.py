# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CosyVoice3 (Fun-CosyVoice3-0.5B): voices taken from recordings, and instructions on how to speak.

What a caller wishes becomes prompts here, and what the model makes is looked at before it is sent: it
sometimes stops after a syllable (its minimum length is not enforced), which is noticed and tried once more.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import prompts, recordings
from ..recordings import RecordingError
from ..settings import Settings, SettingsError
from ..voices import DEFAULT, StoredVoice, VoiceStore
from .base import Engine, Made, Mode, Samples, Synthesis, Voice, WishRefused
from .cosyvoice3_upstream import Call, ContentError, Features, Upstream

_LOG = logging.getLogger(__name__)
_AUDIBLE = 1e-3  # a part whose peak is below is silence
_FIRST_HOP_SECONDS = 0.9  # of a streamed segment: its first part has one second, unless it is the only one
_FAILURES_IN_A_ROW = 3  # a card's memory error stays until the process ends
_NOTHING = np.zeros(0, np.float32)
_OF_THE_CARD = re.compile(r"cu(?:da|dnn|blas)", re.IGNORECASE)  # in what torch and ONNX Runtime say of one
_WARM_UP_TEXT = "The quick brown fox jumps over the lazy dog, and nobody there was much surprised."


@dataclass(frozen=True)
class _Plan:
    """How every segment of one wish is spoken."""

    mode: Mode
    features: Features
    instruct_text: str


class CosyVoice3Engine(Engine):
    """One model, the voices of SPEECH_VOICES_DIR, and whatever recordings callers send along."""

    name = "cosyvoice3"
    modes = frozenset(Mode)
    follows_instructions = True

    def __init__(self, settings: Settings):
        if faults := settings.conflicts():
            raise SettingsError("\n".join(faults))
        self._settings = settings
        self._upstream = Upstream(settings)
        self._store = VoiceStore(settings.voices_dir)
        self._features: dict[str, Features] = {}
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._last_failure = ""

    @property
    def model(self) -> str:
        return self._upstream.name

    @property
    def sample_rate_hz(self) -> int:
        return self._upstream.sample_rate_hz

    @property
    def voices_digest(self) -> str:
        return self._store.digest

    @property
    def voice_digests(self) -> Mapping[str, str]:
        return self._store.digests

    @property
    def voices_refused(self) -> Mapping[str, str]:
        return self._store.refused

    def load(self) -> None:
        self._upstream.load()
        self._store.rescan()
        failures: dict[str, Exception] = {}
        voices = dict(self._store.voices)
        for voice in voices.values():
            try:
                self._features_of(voice)
            except Exception as error:
                failures[voice.id] = error
        if failures and len(failures) == len(voices):
            raise next(iter(failures.values()))  # not the voices' fault
        for name, failure in failures.items():
            self._store.leave_out(name, f"the model cannot take it: {failure}")

    def warm_up(self) -> Made | None:
        if self._store.default is None:
            fields = {"path": str(self._settings.voices_dir)}
            _LOG.warning("no voice to warm up with", extra={"fields": fields})
            return None
        # A long text is mostly of pieces after the first. The quicker of two: the one may be cut off by the
        # model and tried once more.
        streams = self._settings.stream == "all"
        self.made(Synthesis(_WARM_UP_TEXT, stream=not streams))
        made = [self.made(Synthesis(_WARM_UP_TEXT, stream=streams)) for _again in range(2)]
        return min(made, key=lambda each: each.engine_seconds / max(each.audio_seconds, 1e-3))

    def voices(self) -> Sequence[Voice]:
        default = self._store.default
        if default is None:
            return []
        others = [Voice(voice.id, voice.name) for voice in self._store.voices.values() if voice.id != DEFAULT]
        return [Voice(DEFAULT, f"default ({default.name})"), *others]

    def model_files(self) -> Mapping[str, Path]:
        return self._upstream.files()

    def refresh(self) -> None:
        self._store.rescan()

    def streams_within_sentences(self, wish: Synthesis) -> bool:
        if wish.speed != 1 or wish.stream is False:  # with speed the model asserts that it does not stream
            return False
        return wish.stream is True or self._settings.stream != "none"

    def worn_out(self) -> str:
        if self._failed_in_a_row < _FAILURES_IN_A_ROW:
            return ""
        return f"{self._failed_in_a_row} requests failed one after another, the last: {self._last_failure}"

    def check(self, wish: Synthesis) -> None:
        if wish.stream and wish.speed != 1:
            raise WishRefused(
                "CosyVoice3 cannot change the speed of what it streams; leave one out.", "speed"
            )
        prompts.bare_text(wish.text)
        if wish.instructions is not None:
            prompts.bare_instruction(wish.instructions)
        if wish.reference_text is not None:
            prompts.bare_transcript(wish.reference_text)

    def synthesize(self, wish: Synthesis) -> Generator[Samples]:
        self.check(wish)
        streams = self.streams_within_sentences(wish)
        try:
            plan = self._plan(wish)
            for piece in prompts.pieces(prompts.bare_text(wish.text)):
                for segment in [piece] if prompts.has_tags(piece) else self._upstream.segments(piece):
                    call = Call(
                        plan.mode,
                        prompts.cross_lingual_text(segment) if plan.mode is Mode.CROSS_LINGUAL else segment,
                        plan.features,
                        plan.instruct_text,
                        streams,
                        wish.speed,
                    )
                    yield from self._segment(call, prompts.least_seconds(segment) / wish.speed)
                    streams = streams and self._settings.stream == "all"
        except (WishRefused, ContentError):  # callers try again what failed: one bad text is three failures
            raise
        except Exception as error:
            self._failed_in_a_row += 1
            self._last_failure = str(error) or type(error).__name__
            raise
        self._failed_in_a_row = 0

    def _plan(self, wish: Synthesis) -> _Plan:
        mode = wish.mode
        if mode is Mode.VOICE:
            voice = self._voice(wish.voice)
            features = self._features_of(voice)
            mode = Mode.INSTRUCT if wish.instructions else Mode.ZERO_SHOT
        else:
            features = self._ad_hoc_features(wish)
        if mode is not Mode.INSTRUCT:
            return _Plan(mode, features, "")
        prompt = prompts.instruct_prompt(prompts.bare_instruction(wish.instructions or ""))
        return _Plan(mode, self._upstream.with_prompt(features, prompt), prompt)

    def _voice(self, name: str) -> StoredVoice:
        voice = self._store.default if name == DEFAULT else self._store.voices.get(name)
        if voice is None:
            have = ", ".join(self._store.voices) or "none"
            raise WishRefused(f"There is no such voice here now; there is {have}.", "voice")
        return voice

    def _features_of(self, voice: StoredVoice) -> Features:
        """From memory; taken now for a voice that has come or changed since the start."""
        with self._lock:
            if voice.digest not in self._features:
                prompt = prompts.zero_shot_prompt(voice.transcript)
                self._features[voice.digest] = self._upstream.features(prompt, voice.wav)
                known = {stored.digest for stored in self._store.voices.values()} | {voice.digest}
                self._features = {key: value for key, value in self._features.items() if key in known}
            return self._features[voice.digest]

    def _ad_hoc_features(self, wish: Synthesis) -> Features:
        """Of the recording that came with the request."""
        if wish.reference_audio is None:
            raise WishRefused("The recording is missing.", "reference_audio")
        try:
            recording = recordings.read(wish.reference_audio.read_bytes())
        except RecordingError as error:
            raise WishRefused(f"The recording {error}.", "reference_audio") from None
        wish.advise(recordings.advice(recording))
        prompt = ""
        if wish.mode is Mode.ZERO_SHOT:
            transcript = prompts.bare_transcript(wish.reference_text or "")
            if (least := prompts.least_seconds(transcript)) > recording.seconds:
                raise WishRefused(
                    f"These cannot be the recording's words: it has {recording.seconds:.1f} s, "
                    f"and they take {least:.1f} s at least.",
                    "reference_text",
                )
            prompt = prompts.zero_shot_prompt(transcript)
        try:
            return self._upstream.features(prompt, recording.wav())
        except Exception as error:
            if _OF_THE_CARD.search(str(error)):
                raise
            raise ContentError(f"the model cannot take the recording: {error}") from error

    def _segment(self, call: Call, least_seconds: float) -> Generator[Samples]:
        """Speak one segment; what is too short is held back, and tried once more."""
        enough = min(least_seconds, _FIRST_HOP_SECONDS) if call.stream else least_seconds
        best: list[Samples] = []
        best_seconds = 0.0
        for attempt in (1, 2):
            held: list[Samples] = []
            seconds, flowing = 0.0, False
            with closing(self._upstream.speak(call, attempt)) as parts:
                for samples in parts:
                    seconds += self._audible_seconds(samples)
                    held.append(samples)
                    flowing = flowing or seconds >= enough
                    if flowing:
                        yield from held
                        held.clear()
            if flowing:
                if seconds < least_seconds:  # a part of it is sent: too late to begin again
                    _short(seconds, least_seconds, attempt, "sent as it is")
                return
            if seconds >= best_seconds:
                best, best_seconds = held, seconds
            _short(seconds, least_seconds, attempt, "tried once more" if attempt == 1 else "")
            if attempt == 1:
                yield _NOTHING  # whoever reads no more closes us here, before it costs as much again
        if best_seconds < least_seconds / 2:
            raise ContentError(
                f"the model twice made {best_seconds:.2f} s or less "
                f"of a text that takes {least_seconds:.2f} s at least"
            )
        yield from best

    def _audible_seconds(self, samples: Samples) -> float:
        if not len(samples) or float(np.abs(samples).max()) < _AUDIBLE:
            return 0.0
        return len(samples) / self.sample_rate_hz


def _short(seconds: float, least_seconds: float, attempt: int, what_now: str) -> None:
    fields = {
        "seconds": round(seconds, 2),
        "least_seconds": round(least_seconds, 2),
        "attempt": attempt,
        "what_now": what_now,
    }
    _LOG.warning("the model stopped too early", extra={"fields": fields})
