# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings come from the environment, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from speech_server import engines
from speech_server.settings import Settings, SettingsError


def test_defaults_and_empty_variables() -> None:
    settings = Settings.from_environment({"SPEECH_MODEL": "", "PATH": "/bin"})
    assert (settings.port, settings.max_in_flight, settings.max_queued) == (7860, 1, 4)
    assert settings.model == ""
    assert settings.replica  # the host's name


def test_values_are_parsed() -> None:
    settings = Settings.from_environment(
        {
            "SPEECH_PORT": "80",
            "SPEECH_DEADLINE_SECONDS": "1.5",
            "SPEECH_LOG_TEXTS": "True",
            "SPEECH_MODEL_DIR": "/m",
        }
    )
    assert (settings.port, settings.deadline_seconds, settings.log_texts, settings.model_dir) == (
        80,
        1.5,
        True,
        Path("/m"),
    )


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("SPEECH_PORT", "70000", "SPEECH_PORT='70000': wants a whole number from 0 to 65535"),
        ("SPEECH_PORT", "-1", "whole number"),
        ("SPEECH_DEADLINE_SECONDS", "nan", "wants seconds"),
        ("SPEECH_SAVE_OUTPUTS", "maybe", "wants true or false"),
        ("SPEECH_SERVICE", "two\r\nlines", "wants letters"),
        ("SPEECH_MAX_INFLIGHT", "2", "did you mean SPEECH_MAX_IN_FLIGHT?"),
    ],
)
def test_faults_are_named(variable: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({variable: value})
    assert says in str(raised.value)


COSYVOICE3 = {"SPEECH_ENGINE": "cosyvoice3", "SPEECH_MODEL_DIR": "/m", "SPEECH_CACHE_DIR": "/c"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"SPEECH_TRT": "true"}, ""),
        ({"SPEECH_FP16": "true", "SPEECH_VLLM": "true"}, ""),
        ({"SPEECH_MODEL_DIR": ""}, "SPEECH_MODEL_DIR"),
        ({"SPEECH_TRT": "true", "SPEECH_FP16": "true"}, "silence instead of speech"),
        ({"SPEECH_VLLM": "true", "SPEECH_CACHE_DIR": ""}, "SPEECH_CACHE_DIR"),
        ({"SPEECH_STREAM": "second"}, "wants none, first or all"),
        ({"SPEECH_ENGINE": "piper", "SPEECH_MODEL_DIR": ""}, ""),
    ],
)
def test_what_cosyvoice3_can_be_told(changes: dict[str, str], says: str) -> None:
    environment = COSYVOICE3 | changes
    if not says:
        assert Settings.from_environment(environment).engine == environment["SPEECH_ENGINE"]
        return
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(environment)
    assert says in str(raised.value)


def test_all_faults_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({"SPEECH_PORT": "x", "SPEECH_THREADS": "y"})
    assert len(str(raised.value).splitlines()) == 2


def test_an_engine_this_build_lacks() -> None:
    with pytest.raises(SettingsError, match="this build has cosyvoice3, piper"):
        engines.make(Settings(engine="espeak"))
