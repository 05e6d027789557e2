# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of the stand-in: logging as upstream sets it up when it is imported, and its reader of recordings."""

from __future__ import annotations

import logging
import sys
import wave

import numpy as np
from numpy.typing import NDArray

logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(levelname)s %(message)s")
opened: list[str] = []


def load_wav(wav: object, target_sr: int, min_sr: int = 16000) -> NDArray[np.float32]:
    """Shape (1, n). Takes a path and nothing else; asserts instead of explaining."""
    if not isinstance(wav, str):
        raise TypeError(f"Invalid file: {wav!r}")
    opened.append(wav)
    with wave.open(wav, "rb") as file:
        rate, count = file.getframerate(), file.getnframes()
        samples = np.frombuffer(file.readframes(count), "<i2").astype(np.float32) / 32768
    if rate != target_sr:
        assert rate >= min_sr, f"wav sample rate {rate} must be greater than {target_sr}"
        at = np.arange(int(len(samples) * target_sr / rate)) * rate / target_sr
        samples = np.interp(at, np.arange(len(samples)), samples).astype(np.float32)
    return samples.reshape(1, -1)


def bar(total: int) -> None:
    """Stands in for tqdm, which is silent when this variable is set before it is imported."""
    import os

    if os.environ.get("TQDM_DISABLE") != "1":
        sys.stderr.write(f"100%|##########| {total}/{total}\n")
