# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real voice, through a real server, heard by the clients people use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from conftest import Live, running, settings_for
from speech_server.engines import make
from test_audio import decode

TEXT = "The quick brown fox jumps. It was not amused."


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = settings_for(tmp_path_factory.mktemp("piper"), threads=1)
    with running(settings, make(settings)) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_openai_sdk_in_every_format(client: openai.OpenAI, name: str) -> None:
    answer = client.audio.speech.create(model="tts-1", voice="default", input=TEXT, response_format=name)  # type: ignore[arg-type]
    samples, rate = decode(answer.content, name)
    assert 1.5 < len(samples) / rate < 6
    assert 0.02 < loudness(samples) < 0.5


def test_openai_sdk_streaming(client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1-hd", voice="default", input=TEXT, response_format="pcm", instructions="Be kind."
    ) as answer:
        assert answer.headers["x-ignored-parameters"] == "instructions"
        parts = list(answer.iter_bytes())
    assert len(parts) >= 2  # a sentence each at least
    samples, rate = decode(b"".join(parts), "pcm")
    assert 1.5 < len(samples) / rate < 6


def test_openai_sdk_reads_our_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.speech.create(model="tts-1", voice="nobody", input="Hello.")
    assert (refused.value.code, refused.value.param) == ("voice_not_found", "voice")
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(model="whisper-1", voice="default", input="Hello.")
    assert [model.id for model in client.models.list()] == [
        "cosyvoice",
        "en_US-joe-medium",
        "tts-1",
        "tts-1-hd",
        "gpt-4o-mini-tts",
    ]


def test_openai_sdk_with_names_that_are_openais(client: openai.OpenAI) -> None:
    answer = client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input=TEXT)
    samples, rate = decode(answer.content, "mp3")
    assert 1.5 < len(samples) / rate < 6


def test_speed(live: Live) -> None:
    with live.client() as http:
        slow, fast = (len(live.speak(http, TEXT, speed=speed).content) for speed in (0.5, 2))
    assert slow / fast > 2  # not 4: Piper rounds each sound up to whole frames


def test_a_voice_by_its_own_name_and_brackets_are_text(live: Live) -> None:
    with live.client() as http:
        assert live.speak(http, "Hello.", voice="en_US-joe-medium").status_code == 200
        assert live.speak(http, "Say [[h e l o]] now.").status_code == 200


def test_what_piper_cannot_say_is_the_callers_affair(live: Live) -> None:
    """Scripts that the voice does not know, emoji, marks: spoken or refused, never a fault."""
    with live.client() as http:
        for text in (
            "你好",
            "١٢٣",
            "ꙮa",
            "🙂 x",
            "\U0001d518\U0001d52b\U0001d526",
            "a" * 301,
            "<speak>x</speak>",
            "\u200da\u200d",
            "%1",
        ):
            assert live.speak(http, text).status_code in (200, 400), text
    assert live.metric("engine_errors_total") == 0


def test_several_voices_in_a_directory(tmp_path: Path) -> None:
    for name in ("bert.onnx", "anna.onnx"):
        (tmp_path / name).touch()
    engine = make(settings_for(tmp_path, model_dir=tmp_path))
    assert [voice.id for voice in engine.voices()] == ["default", "anna", "bert"]
    assert sorted(engine.model_files()) == ["anna.onnx", "anna.onnx.json", "bert.onnx", "bert.onnx.json"]


def test_a_model_directory_without_voices(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.onnx"):
        make(settings_for(tmp_path, model_dir=tmp_path)).load()
