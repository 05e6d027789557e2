# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server asks of an engine.

An engine knows a model and nothing of HTTP, queues or formats. Its methods run in worker threads, not in the
event loop: `load` and `warm_up` once, then `synthesize`, at most SPEECH_MAX_IN_FLIGHT of them at a time, each
from its first to its last sample on one thread.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..older_python import StrEnum

Samples = NDArray[np.float32]  # shape (n,), mono, full scale at -1 and 1


class Mode(StrEnum):
    """The ways of saying who speaks, and how."""

    VOICE = "voice"  # one of the engine's voices
    ZERO_SHOT = "zero_shot"  # the voice of a recording whose words are known
    CROSS_LINGUAL = "cross_lingual"  # the voice of a recording in another language; its words are not needed
    INSTRUCT = "instruct"  # the voice of a recording, spoken as an instruction says


@dataclass(frozen=True)
class Voice:
    """A voice callers can name."""

    id: str
    name: str


@dataclass(frozen=True)
class Synthesis:
    """One wish. The server has checked lengths and ranges; what only the engine can judge, `check` judges."""

    text: str
    mode: Mode = Mode.VOICE
    voice: str = "default"
    # Models that read a recording more than once need a file; it exists until `synthesize` has ended.
    reference_audio: Path | None = None
    # Told before the first part what could be better about the recording, in ASCII; nothing if it is good.
    advise: Callable[[str], None] = lambda _advice: None
    reference_text: str | None = None
    instructions: str | None = None
    speed: float = 1.0
    # Whether parts of a sentence may come before the whole; None: as the engine thinks best.
    stream: bool | None = None


class Made(NamedTuple):
    """An answer, or part of it: the sound, and the work for it."""

    audio_seconds: float
    engine_seconds: float


class WishRefused(Exception):  # noqa: N818 - it is the caller's fault, not an error of ours
    """The wish cannot be fulfilled: answered with 400. `param` is the field of `Synthesis` at fault."""

    def __init__(self, message: str, param: str = "text"):
        super().__init__(message)
        self.message = message
        self.param = param


class Engine(ABC):
    """A model that speaks."""

    name: ClassVar[str]
    modes: ClassVar[frozenset[Mode]] = frozenset({Mode.VOICE})
    follows_instructions: ClassVar[bool] = False  # in Mode.VOICE too

    @property
    @abstractmethod
    def model(self) -> str:
        """The model's own name; known before it is loaded."""

    @property
    @abstractmethod
    def sample_rate_hz(self) -> int:
        """Of what `synthesize` yields; known once loaded."""

    @abstractmethod
    def load(self) -> None:
        """Bring the model into memory. Raises what it likes; the process then ends with the message."""

    @abstractmethod
    def warm_up(self) -> Made | None:
        """Do once what makes the first request slow, then once more what a long text is mostly made of.

        Returns what came of the latter, None if nothing can be spoken yet.
        """

    def made(self, wish: Synthesis) -> Made:
        """Speak a wish for nobody, and say what came of it."""
        started = time.monotonic()
        count = sum(len(samples) for samples in self.synthesize(wish))
        return Made(count / self.sample_rate_hz, time.monotonic() - started)

    @abstractmethod
    def voices(self) -> Sequence[Voice]:
        """The voices of now, `default` first. Called from the event loop: answers from memory."""

    @abstractmethod
    def model_files(self) -> Mapping[str, Path]:
        """The files that decide how the model sounds, by a name that is the same on every host."""

    @property
    def voices_digest(self) -> str | None:
        """SHA-256 of the voices laid down beside the model; None for an engine that takes none."""
        return None

    @property
    def voice_digests(self) -> Mapping[str, str]:
        """The same of each of those voices alone, by its name."""
        return {}

    @property
    def voices_refused(self) -> Mapping[str, str]:
        """The voices among them that are left out, each with the reason."""
        return {}

    def refresh(self) -> None:  # noqa: B027 - most engines have nothing to look at
        """Look again at what may change beside the model (voices). Called every few seconds, on a thread of
        its own and never at the same time twice: must not wait for the model."""

    def streams_within_sentences(self, _wish: Synthesis) -> bool:
        """Whether parts will come before a sentence is finished."""
        return False

    def worn_out(self) -> str:
        """Why the process should start anew once what is in hand is finished; empty while it is fit."""
        return ""

    def check(self, wish: Synthesis) -> None:  # noqa: B027 - most engines have nothing to add
        """Raise WishRefused for what would fail; called on the worker thread just before `synthesize`."""

    @abstractmethod
    def synthesize(self, wish: Synthesis) -> Generator[Samples]:
        """Speak: a generator of samples, each part as soon as it is there (a sentence, or less).

        May raise WishRefused before the first part. Anything else raised counts as the engine's fault. Closed
        early when the caller has left; a model that must not be stopped is then run on until it may be. An
        empty part gives the occasion where no sound is due yet.
        """
