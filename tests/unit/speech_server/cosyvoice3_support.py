# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recordings, voices and a model directory for the engine cosyvoice3, which runs on the stand-in package."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
from conftest import settings_for
from speech_server.engines.base import Samples, Synthesis
from speech_server.engines.cosyvoice3 import CosyVoice3Engine
from speech_server.engines.cosyvoice3_upstream import _FILES, _TRT_FILE
from speech_server.settings import Settings

TRANSCRIPT = "This is what is said in it."
ANNA_HZ, BERT_HZ = 200, 320


def recording(
    pitch_hz: float = ANNA_HZ, seconds: float = 4.0, rate_hz: int = 24000, amplitude: float = 0.4
) -> bytes:
    """A wav file with a tone for a voice."""
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    samples = np.clip(amplitude * np.sin(2 * np.pi * pitch_hz * times), -1, 1)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


def lay_down_voice(
    directory: Path, name: str, pitch_hz: float = ANNA_HZ, about: str | None = None, **changes: Any
) -> Path:
    """As Ansible does."""
    voice = directory / name
    voice.mkdir(parents=True, exist_ok=True)
    (voice / "prompt.wav").write_bytes(changes.pop("wav", None) or recording(pitch_hz, **changes))
    (voice / "prompt.txt").write_text(TRANSCRIPT + "\n", encoding="utf-8")
    if about is not None:
        (voice / "voice.yml").write_text(about, encoding="utf-8")
    return voice


def lay_down_model(directory: Path) -> Path:
    """Files of the right names."""
    for name in (*_FILES, _TRT_FILE):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return directory


def cosyvoice3_settings(tmp_path: Path, **changes: Any) -> Settings:
    """A model and the voices anna (the default) and bert."""
    lay_down_model(tmp_path / "model")
    lay_down_voice(tmp_path / "voices", "anna", ANNA_HZ)
    lay_down_voice(tmp_path / "voices", "bert", BERT_HZ, about="name: Bert from next door\n")
    return settings_for(
        tmp_path,
        engine="cosyvoice3",
        model_dir=tmp_path / "model",
        voices_dir=tmp_path / "voices",
        **changes,
    )


def loaded(settings: Settings) -> CosyVoice3Engine:
    """The engine with its model, on the stand-in package."""
    engine = CosyVoice3Engine(settings)
    engine.load()
    return engine


def inner(engine: CosyVoice3Engine) -> Any:
    """The stand-in's model, which notes what it was asked to speak."""
    return engine._upstream._model.model


def spoken(engine: CosyVoice3Engine, text: str, **more: Any) -> Samples:
    """All of it."""
    parts = list(engine.synthesize(Synthesis(text, **more)))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def pitch(samples: Any, rate_hz: int = 24000) -> float:
    """What one would hear, in Hz."""
    crossings = np.count_nonzero(np.diff(np.signbit(np.asarray(samples))))
    return float(crossings / 2 / (len(samples) / rate_hz))
