# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that loads cosyvoice3 with vLLM on stand-ins: `python load_when_told.py <model> <cache> [fork]`.

Says "loading" with what it finds of a build, and begins one; goes on after a line on stdin, and then says
"loaded". With `fork` it leaves a child, made while it loads, as vLLM's engine is.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cosyvoice.cli import cosyvoice as upstream
from speech_server.engines import cosyvoice3_upstream
from speech_server.engines.cosyvoice3 import CosyVoice3Engine
from speech_server.settings import Settings

MODULES: dict[str, Any] = {
    "torch": SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)),
    "vllm": SimpleNamespace(ModelRegistry=SimpleNamespace(register_model=lambda _name, _model: None)),
}


def main(model_dir: str, cache_dir: str, fork: str = "") -> None:
    """Load once, then wait for the end of stdin."""
    sys.modules.update(MODULES)
    upstream.CUDA = True
    load = upstream.AutoModel

    def told(**how: Any) -> Any:
        if fork:
            multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True).start()
        built = Path(how["model_dir"], "built")
        print("loading", "on what is built" if built.exists() else "anew", flush=True)
        built.touch()
        sys.stdin.readline()
        return load(**how)

    upstream.AutoModel = told
    settings = Settings(
        engine="cosyvoice3",
        model_dir=Path(model_dir),
        voices_dir=Path(cache_dir, "no-voices"),
        cache_dir=Path(cache_dir),
        vllm=True,
    )
    assert cosyvoice3_upstream.card() == "cpu"
    CosyVoice3Engine(settings).load()
    print("loaded", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
