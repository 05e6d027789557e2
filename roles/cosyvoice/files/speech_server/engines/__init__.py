# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engines, by the name that SPEECH_ENGINE takes; imported only when asked for, with their libraries."""

from __future__ import annotations

from importlib import import_module

from ..settings import Settings, SettingsError
from .base import Engine

_CLASSES = {"cosyvoice3": "CosyVoice3Engine", "piper": "PiperEngine"}


def make(settings: Settings) -> Engine:
    """The engine that the settings name, not yet loaded; raises SettingsError for one this build lacks."""
    if settings.engine not in _CLASSES:
        raise SettingsError(
            f"SPEECH_ENGINE={settings.engine!r}: this build has {', '.join(sorted(_CLASSES))}"
        )
    module = import_module(f".{settings.engine}", __package__)
    engine: Engine = getattr(module, _CLASSES[settings.engine])(settings)
    return engine
