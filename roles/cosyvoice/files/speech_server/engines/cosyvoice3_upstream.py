# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's package as it is, and what has to be done round it so that it can serve.

Nothing outside this file knows a name of `cosyvoice.*`. Written against FunAudioLLM/CosyVoice at ace7c47.
What is absorbed here:

- An exception in the thread of its language model leaves the generator waiting for ever: `_guard`.
- A generator closed early leaves its state behind and its thread running: `speak` runs it to its end.
- The first chunk of a stream grows from request to request (token_hop_len is never reset): `speak` does.
- Its cached voices are handed out, not copied, and its own methods delete from them; and an instruction is
  ignored with a cached voice: every call gets a copy of its own, with the instruction in it.
- It logs every text on the root logger, and draws progress bars: `_keep_quiet`.
- It writes into the directory of the weights: `_writable_view`.
- It falls back without a word (CUDA, text normaliser): `load` says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import logging
import os
import re
import shutil
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np

from ..settings import Settings
from .base import Mode, Samples

_LOG = logging.getLogger(__name__)
_CONFIGURATION = "cosyvoice3.yaml"
_FILES = (
    _CONFIGURATION,
    "llm.pt",
    "flow.pt",
    "hift.pt",
    "campplus.onnx",
    "speech_tokenizer_v3.onnx",
    "CosyVoice-BlankEN/config.json",
    "CosyVoice-BlankEN/generation_config.json",
    "CosyVoice-BlankEN/vocab.json",
    "CosyVoice-BlankEN/merges.txt",
    "CosyVoice-BlankEN/tokenizer_config.json",
    "CosyVoice-BlankEN/model.safetensors",
)
_TRT_FILE = "flow.decoder.estimator.fp32.onnx"
_GOOD_TRANSFORMERS = "4.51.3"  # later ones garble the audio of the eager model (issues 1446, 1824, 1886)
# What the inner model keeps for each request in hand, under the request's own key.
_STATE = ("tts_speech_token_dict", "llm_end_dict", "hift_cache_dict", "mel_overlap_dict", "flow_cache_dict")

Features = dict[str, Any]  # what upstream takes from a recording: about ten tensors, 50 KB for 3 s


class ModelError(RuntimeError):
    """The model did not do what it was asked; its fault, not the caller's."""


class ContentError(ModelError):
    """It did not, with this text or this recording; with others it may well do."""


@dataclass(frozen=True)
class Call:
    """One segment to speak, as upstream takes it."""

    mode: Mode
    text: str
    features: Features
    instruct_text: str = ""
    stream: bool = False
    speed: float = 1.0


class Upstream:
    """The loaded model. `speak` is called from as many threads as SPEECH_MAX_IN_FLIGHT says."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._directory = settings.model_dir or Path()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._active = 0
        self._failures = 0
        self._failure: BaseException | None = None
        self._model: Any = None
        self._first_hop: int | None = None

    @property
    def name(self) -> str:
        """The weights' directory, which bears the model's name or its revision."""
        return self._directory.name or "cosyvoice3"

    def files(self) -> dict[str, Path]:
        """The files that decide how it sounds."""
        wanted = (*_FILES, _TRT_FILE) if self._settings.trt else _FILES
        return {name: self._directory / name for name in wanted}

    @property
    def sample_rate_hz(self) -> int:
        """Of what it makes."""
        return int(self._model.sample_rate)

    def load(self) -> None:
        """Bring it into memory; raises with what is missing."""
        self._require_files()
        os.environ.setdefault("TQDM_DISABLE", "1")  # read by tqdm when it is imported
        package = import_module("cosyvoice.cli.cosyvoice")
        settings = self._settings
        how = {"load_trt": settings.trt, "load_vllm": settings.vllm, "fp16": settings.fp16}
        if settings.vllm:
            _register_vllm()
        with self._writable_view() as directory:
            # Never a name: what is not a directory, upstream takes for something to download.
            self._model = package.AutoModel(model_dir=str(directory), **how)
        inner = self._model.model
        device = str(getattr(inner, "device", "unknown"))
        if any(how.values()) and not device.startswith("cuda"):
            raise RuntimeError(
                f"SPEECH_FP16, SPEECH_VLLM and SPEECH_TRT want a card, and the model is on {device!r}: "
                "the container sees no card, or its driver is older than the image's CUDA"
            )
        self._first_hop = getattr(inner, "token_hop_len", None)
        self._guard(inner)
        _keep_quiet(settings.log_texts)
        fields = {"device": device, **how, "sample_rate_hz": self.sample_rate_hz}
        _LOG.info("the model is in memory", extra={"fields": fields})
        if not getattr(self._model.frontend, "text_frontend", "unknown"):
            _LOG.warning("no text normaliser (wetext, ttsfrd): numbers and signs are read as the model likes")
        version = _installed("transformers")
        if version and version != _GOOD_TRANSFORMERS and not settings.vllm:
            fields = {"installed": version, "wanted": _GOOD_TRANSFORMERS}
            _LOG.warning("not this model's transformers: garbled audio is likely", extra={"fields": fields})

    def features(self, prompt_text: str, wav: bytes) -> Features:
        """Take what is needed of a recording (seconds), once for as many calls as like."""
        key = self._key()
        # Upstream opens the recording three times, by its path.
        with NamedTemporaryFile(prefix="prompt-", suffix=".wav") as file:
            file.write(wav)
            file.flush()
            self._model.add_zero_shot_spk(prompt_text, file.name, key)
        return dict(self._model.frontend.spk2info.pop(key))

    def with_prompt(self, features: Features, prompt_text: str) -> Features:
        """The same recording with another prompt text; costs nothing."""
        tokens, length = self._model.frontend._extract_text_token(prompt_text)
        return {**features, "prompt_text": tokens, "prompt_text_len": length}

    def segments(self, text: str) -> list[str]:
        """Normalise (numbers, signs) and cut to what upstream takes at once. Before any marker is added: it
        leaves a text with a marker as it is."""
        return list(self._model.frontend.text_normalize(text, split=True))

    def speak(self, call: Call, attempt: int = 1) -> Generator[Samples]:
        """Speak one segment. Closed early, it runs on to the segment's end, on the closing thread."""
        key = self._key()
        speakers = self._model.frontend.spk2info
        inner = self._model.model
        with self._lock:
            self._active += 1
            failures = self._failures
        speakers[key] = dict(call.features)
        try:
            if call.stream and self._first_hop is not None:
                inner.token_hop_len = self._first_hop
            if self._settings.seed is not None:
                _seed(self._settings.seed + attempt - 1)
            outputs = self._begin(call, key)
            try:
                for output in outputs:
                    self._raise_failure(failures)
                    yield _samples(output)
            finally:
                for _output in outputs:
                    pass
            self._raise_failure(failures)
        except Exception:
            self._raise_failure(failures)  # the cause, rather than what followed from it
            raise
        finally:
            speakers.pop(key, None)
            self._forget(inner)

    def _begin(self, call: Call, key: str) -> Iterator[Any]:
        how = {
            "zero_shot_spk_id": key,
            "stream": call.stream,
            "speed": call.speed,
            "text_frontend": False,  # done by `segments`
        }
        model = self._model
        if call.mode is Mode.CROSS_LINGUAL:
            outputs = model.inference_cross_lingual(call.text, "", **how)
        elif call.mode is Mode.INSTRUCT:
            outputs = model.inference_instruct2(call.text, call.instruct_text, "", **how)
        else:
            outputs = model.inference_zero_shot(call.text, "", "", **how)
        return iter(outputs)

    def _guard(self, inner: Any) -> None:
        """Let an exception in the language model's thread end the generator that waits for that thread."""
        job = getattr(inner, "llm_job", None)
        if job is None:
            _LOG.warning("this CosyVoice keeps its threads elsewhere: only the watchdog helps when one dies")
            return

        def guarded(*arguments: Any, **named: Any) -> None:
            request = named.get("uuid", arguments[-1] if arguments else None)
            try:
                job(*arguments, **named)
            except BaseException as error:
                with self._lock:
                    if request in inner.llm_end_dict:  # else its request is over already
                        self._failures += 1
                        self._failure = error
                        inner.llm_end_dict[request] = True

        inner.llm_job = guarded

    def _raise_failure(self, since: int) -> None:
        """With several in flight nobody knows whose thread it was: all of them fail."""
        with self._lock:
            if self._failures > since:
                raise ModelError("the language model's thread failed") from self._failure

    def _forget(self, inner: Any) -> None:
        """What a failed request left behind, as soon as nobody else's can be meant."""
        with self._lock:
            self._active -= 1
            if self._active == 0:
                for name in _STATE:
                    getattr(inner, name, {}).clear()

    def _key(self) -> str:
        return f"speech-server-{next(self._numbers)}"

    def _require_files(self) -> None:
        directory = self._directory
        if not (directory / _CONFIGURATION).is_file():
            others = sorted(path.name for path in directory.glob("cosyvoice*.yaml"))
            raise FileNotFoundError(
                f"SPEECH_MODEL_DIR={directory} is no CosyVoice3 model: it has no {_CONFIGURATION}"
                + (f", but {', '.join(others)}: the weights of another version" if others else "")
            )
        if missing := [name for name, path in self.files().items() if not path.is_file()]:
            raise FileNotFoundError(f"SPEECH_MODEL_DIR={directory} lacks {', '.join(missing)}")

    @contextmanager
    def _writable_view(self) -> Iterator[Path]:
        """The weights' directory; if something is built into it, a directory of links to it, for this card.

        One process at a time builds, the others wait and find it done. What an interrupted build left is
        removed: upstream would take half of it for the whole.
        """
        settings = self._settings
        if not (settings.trt or settings.vllm) or settings.cache_dir is None:
            yield self._directory
            return
        kind = "-".join(name for name in ("fp16", "trt", "vllm") if getattr(settings, name))
        weights = hashlib.sha256(str(self._stamp()).encode()).hexdigest()[:12]
        view = settings.cache_dir / f"{card()}-{kind}-{weights}"
        view.parent.mkdir(parents=True, exist_ok=True)
        with (settings.cache_dir / f"{view.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            complete = view / "complete"
            if not complete.exists() and view.exists():
                _LOG.warning("an unfinished build is removed", extra={"fields": {"path": str(view)}})
                shutil.rmtree(view)
            view.mkdir(exist_ok=True)
            for path in self._directory.iterdir():
                link = view / path.name
                link.unlink(missing_ok=True)
                link.symlink_to(path)
            yield view
            complete.touch()
            # Closing would not do: what was forked meanwhile (vLLM's engine may be) has the lock as well.
            fcntl.flock(lock, fcntl.LOCK_UN)

    def _stamp(self) -> list[tuple[str, int, int]]:
        found = ((name, path.stat()) for name, path in sorted(self.files().items()))
        return [(name, status.st_size, status.st_mtime_ns) for name, status in found]


def card() -> str:
    """The card's model, fit for a file name: what is built for one runs on no other."""
    torch = import_module("torch")
    if not torch.cuda.is_available():
        return "cpu"
    major, minor = torch.cuda.get_device_capability(0)
    name = re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(0)).strip("-")
    return f"{name}-sm{major}{minor}"


def _register_vllm() -> None:
    """As upstream's own example does before it loads."""
    registry = import_module("vllm").ModelRegistry
    name = "CosyVoice2ForCausalLM"
    registry.register_model(name, getattr(import_module("cosyvoice.vllm.cosyvoice2"), name))


def _samples(output: Any) -> Samples:
    """From upstream's `{"tts_speech": tensor of shape (1, n)}`; raises ModelError for what is no sound."""
    samples = np.asarray(output["tts_speech"].cpu().numpy(), dtype=np.float32).reshape(-1)
    if not np.isfinite(samples).all():
        raise ModelError("the model made samples that are no numbers, as fp16 does on some cards")
    return samples


def _seed(seed: int) -> None:
    import_module("cosyvoice.utils.common").set_all_random_seed(seed)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


class _Quiet(logging.Filter):
    """Drops what upstream says on the root logger: at INFO, and even at WARNING, the callers' texts."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


def _keep_quiet(log_texts: bool) -> None:
    root = logging.getLogger()
    if not log_texts and not any(isinstance(known, _Quiet) for known in root.filters):
        root.addFilter(_Quiet())
    for name in ("matplotlib", "numba", "httpx", "modelscope"):
        logging.getLogger(name).setLevel(logging.WARNING)
