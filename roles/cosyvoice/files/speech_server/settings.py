# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings, all from environment variables named SPEECH_*; a wrong one is refused at start, by name."""

from __future__ import annotations

import difflib
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "SPEECH_"
# What may stand in a response header and in a metric's label without escaping.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")


class SettingsError(ValueError):
    """One or more settings are wrong; each line of the message names one."""


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("wants letters, digits and ._:/@+- (at most 200, the first a letter or digit)")
    return value


def _bool(value: str) -> bool:
    if value.lower() in ("true", "yes", "on", "1"):
        return True
    if value.lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError("wants true or false")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value) or not least <= int(value) <= most:
            raise ValueError(f"wants a whole number from {least} to {most}")
        return int(value)

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not least <= float(value) <= most:
            raise ValueError(f"wants seconds from {least:g} to {most:g}")
        return float(value)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"wants {', '.join(words[:-1])} or {words[-1]}")
        return value

    return parse


_PARSERS: dict[str, Callable[[str], Any]] = {
    "engine": _name,
    "host": str,
    "port": _whole(0, 65535),
    "service": _name,
    "replica": _name,
    "model": _name,
    "revision": _name,
    "max_in_flight": _whole(1, 64),
    "max_queued": _whole(0, 1000),
    "deadline_seconds": _seconds(0.1, 86400),
    "grace_seconds": _seconds(0.1, 3600),
    "load_seconds": _seconds(1, 86400),
    "linger_seconds": _seconds(0, 600),
    "max_input_characters": _whole(1, 1_000_000),
    "max_body_bytes": _whole(1024, 2**30),
    "threads": _whole(0, 1024),
    "drain_file": Path,
    "outputs_dir": Path,
    "save_outputs": _bool,
    "voices_dir": Path,
    "model_dir": Path,
    "log_texts": _bool,
    "max_requests_per_process": _whole(0, 1_000_000_000),
    "stream": _one_of("none", "first", "all"),
    "fp16": _bool,
    "vllm": _bool,
    "trt": _bool,
    "cache_dir": Path,
    "seed": _whole(0, 2**32 - 2),
}


@dataclass(frozen=True)
class Settings:
    """What one process serves and within which limits. `max_in_flight` is SPEECH_MAX_IN_FLIGHT, and so on."""

    engine: str = "piper"
    host: str = "0.0.0.0"  # noqa: S104 - inside a container; who may reach it is the network's affair
    port: int = 7860
    service: str = "cosyvoice"
    replica: str = ""  # empty: the host's name
    model: str = ""  # empty: what the engine calls its model
    revision: str = ""  # empty: taken from the weights' digest
    max_in_flight: int = 1
    max_queued: int = 4
    # From a request's arrival to its last byte of audio; queueing included.
    deadline_seconds: float = 120.0
    # How long past the deadline an engine may take to come back before the process is given up. CosyVoice3
    # finishes its piece: 20 s of audio (prompts.py) at the real-time factor of eager streaming, 0.93 on an
    # RTX 3090, are 19 s; three times that for slower cards and for several at once.
    grace_seconds: float = 60.0
    # Loading and warming up; generous because a first TensorRT build takes minutes.
    load_seconds: float = 1800.0
    # After SIGTERM new requests are still taken for so long: whoever routes to us needs time to notice.
    linger_seconds: float = 3.0
    max_input_characters: int = 4096
    # A prompt of 30 s at 48 kHz, 24 bit, stereo is 8.2 MiB.
    max_body_bytes: int = 16 * 2**20
    threads: int = 0  # of the inference library; 0: its own choice
    drain_file: Path = Path("/run/voicefleet/drain")
    outputs_dir: Path = Path("/outputs")
    save_outputs: bool = False
    voices_dir: Path = Path("/voices")  # recordings, for engines that clone
    model_dir: Path | None = None  # none: what the engine ships
    log_texts: bool = False
    # Requests until a clean restart (drained first), for models that grow; 0: never. Each process draws its
    # own number from three quarters to all of it, so that replicas that share the load do not go all at once.
    max_requests_per_process: int = 0
    # What follows is of the engine cosyvoice3; README.md says what each needs.
    stream: str = "first"  # pieces that are streamed while they are made: none, the first of a text, or all
    fp16: bool = False  # autocast only: the weights stay as they are
    vllm: bool = False  # the language model by vLLM, which takes a fifth of the whole card
    trt: bool = False  # the flow decoder by TensorRT
    cache_dir: Path | None = None  # writable; what vllm and trt build for this card
    seed: int | None = None  # the same request then gives the same sound

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings; empty variables count as unset. Raises SettingsError that lists every fault."""
        known = {PREFIX + name.upper(): name for name in _PARSERS}
        values: dict[str, Any] = {}
        faults = []
        for variable, value in sorted(environment.items()):
            if not variable.startswith(PREFIX):
                continue
            if variable not in known:
                near = difflib.get_close_matches(variable, known, n=1)
                faults.append(f"{variable}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
            elif value:
                try:
                    values[known[variable]] = _PARSERS[known[variable]](value)
                except ValueError as error:
                    faults.append(f"{variable}={value!r}: {error}")
        if "replica" not in values:
            values["replica"] = socket.gethostname() or "replica"
        if not faults:
            settings = cls(**values)
            faults = settings.conflicts()
        if faults:
            raise SettingsError("\n".join(faults))
        return settings

    def conflicts(self) -> list[str]:
        """Settings that cannot be had together."""
        if self.engine != "cosyvoice3":
            return []
        faults = []
        if self.model_dir is None:
            faults.append("SPEECH_MODEL_DIR: the engine cosyvoice3 wants the directory of its weights")
        if self.trt and self.fp16:
            faults.append(
                "SPEECH_TRT and SPEECH_FP16: together they give silence instead of speech "
                "(github.com/FunAudioLLM/CosyVoice issue 1930); choose one"
            )
        if (self.trt or self.vllm) and self.cache_dir is None:
            faults.append(
                "SPEECH_CACHE_DIR: SPEECH_TRT and SPEECH_VLLM want a writable directory for what they build"
            )
        return faults
