# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for an engine: it hums, and does what its text tells it to, as badly as any model could.

Also a program, `python speech_stand_in.py`: the server with this engine, for tests that need a process.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import numpy as np
from speech_server.__main__ import main
from speech_server.engines.base import Engine, Made, Mode, Samples, Synthesis, Voice, WishRefused
from speech_server.settings import Settings
from speech_server.text import sentences

RATE_HZ = 22050
SENTENCE_SECONDS = 0.5


class StandIn(Engine):
    """Half a second of tone a sentence. A sentence that begins with one of these words does something else:

    Crash: raises. Refuse: WishRefused. Nothing: no audio. Hang: waits for `release`. Freeze: never returns,
    and keeps the interpreter's lock. Step: waits for one release of the semaphore `step`.
    """

    name = "stand-in"
    modes = frozenset(Mode)
    follows_instructions = True

    def __init__(self, settings: Settings):
        self.model_dir = settings.model_dir
        self.release = threading.Event()
        self.step = threading.Semaphore(0)
        self.loading = threading.Event()
        self.loading.set()
        self.load_error: Exception | None = None
        self.warm_up_made: Made | None = None
        self.begun: list[Synthesis] = []
        self.reference_seen = b""
        self.parts_made = 0
        self.left_early = threading.Event()
        self.ran_to_end = threading.Event()

    @property
    def model(self) -> str:
        return "hum"

    @property
    def sample_rate_hz(self) -> int:
        return RATE_HZ

    def load(self) -> None:
        self.loading.wait()
        if self.load_error:
            raise self.load_error

    def warm_up(self) -> Made | None:
        return self.warm_up_made

    def voices(self) -> Sequence[Voice]:
        return [Voice("default", "Default"), Voice("hum", "Hum")]

    def model_files(self) -> Mapping[str, Path]:
        return {path.name: path for path in self.model_dir.iterdir()} if self.model_dir else {}

    def check(self, wish: Synthesis) -> None:
        if wish.text.startswith("Refuse"):
            raise WishRefused("this text is refused", "text")

    def synthesize(self, wish: Synthesis) -> Generator[Samples]:
        self.begun.append(wish)
        if wish.reference_audio:
            self.reference_seen = wish.reference_audio.read_bytes()
        try:
            for sentence in sentences(wish.text):
                if sentence.startswith("Crash"):
                    raise TimeoutError(
                        "a fault inside the model"
                    )  # of all kinds the one most easily mistaken
                if sentence.startswith("Hang"):
                    self.release.wait()
                if sentence.startswith("Freeze"):
                    ctypes.PyDLL(None).sleep(600)
                if sentence.startswith("Step"):
                    self.step.acquire()
                if not sentence.startswith("Nothing"):
                    self.parts_made += 1
                    yield tone(SENTENCE_SECONDS / wish.speed)
            self.ran_to_end.set()
        except GeneratorExit:
            self.left_early.set()
            raise


def tone(seconds: float) -> Samples:
    """A tone of 440 Hz at half volume."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main(StandIn))
