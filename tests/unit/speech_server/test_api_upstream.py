# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CosyVoice's own paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import InProcess, WatchedProcess, settings_for
from fastapi.testclient import TestClient
from speech_server.app import Server
from speech_server.engines.base import Mode
from speech_stand_in import SENTENCE_SECONDS, StandIn

WAV = {"prompt_wav": ("prompt.wav", b"RIFF....", "application/octet-stream")}


@pytest.mark.parametrize("method", ["POST", "GET"])  # upstream's client sends GET
@pytest.mark.parametrize(
    ("path", "more", "mode"),
    [
        ("/inference_zero_shot", {"prompt_text": "What is said."}, Mode.ZERO_SHOT),
        ("/inference_cross_lingual", {}, Mode.CROSS_LINGUAL),
        ("/inference_instruct2", {"instruct_text": "Speak slowly."}, Mode.INSTRUCT),
    ],
)
def test_cloning(hum: InProcess, method: str, path: str, more: dict[str, str], mode: Mode) -> None:
    answer = hum.client.request(method, path, data={"tts_text": "Hello.", **more}, files=WAV)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-sample-rate"] == "24000"
    assert len(answer.content) / 48000 == pytest.approx(SENTENCE_SECONDS, abs=0.01)
    wish = hum.engine.begun[-1]
    assert (wish.mode, wish.reference_text, wish.instructions) == (
        mode,
        more.get("prompt_text"),
        more.get("instruct_text"),
    )
    assert hum.engine.reference_seen == b"RIFF...."
    assert wish.reference_audio
    assert not wish.reference_audio.exists()


@pytest.mark.parametrize(
    ("data", "files", "status", "param"),
    [
        ({"prompt_text": "a"}, WAV, 400, "tts_text"),
        ({"tts_text": "a"}, WAV, 400, "prompt_text"),
        ({"tts_text": "a", "prompt_text": "a"}, {"other": ("a", b"")}, 400, "prompt_wav"),
        ({"tts_text": "a", "prompt_text": "a"}, {"prompt_wav": ("a", b"")}, 400, "prompt_wav"),
        ({"tts_text": "?", "prompt_text": "a"}, WAV, 400, "tts_text"),
        ({"tts_text": "a", "prompt_text": "\x00"}, WAV, 400, "prompt_text"),
        ({"tts_text": "Refuse", "prompt_text": "a"}, WAV, 400, "tts_text"),
    ],
)
def test_refusals(hum: InProcess, data: dict[str, str], files: Any, status: int, param: str) -> None:
    answer = hum.client.post("/inference_zero_shot", data=data, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_a_body_that_is_no_form(hum: InProcess) -> None:
    answer = hum.client.post("/inference_zero_shot", json={"tts_text": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    broken = hum.client.post(
        "/inference_zero_shot",
        content=b"--x\r\nnonsense",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert broken.status_code == 400, broken.text


def test_both_methods_are_named_and_documented(hum: InProcess) -> None:
    assert hum.client.delete("/inference_zero_shot").headers["Allow"] == "GET, POST"
    assert hum.client.delete("/v1/models/tts-1").headers["Allow"] == "GET"
    assert set(hum.client.get("/openapi.json").json()["paths"]["/inference_zero_shot"]) == {"get", "post"}


def test_an_engine_that_cannot_clone_says_so(tmp_path: Path) -> None:
    class Plain(StandIn):
        modes = frozenset({Mode.VOICE})

    settings = settings_for(tmp_path)
    with TestClient(Server(settings, Plain(settings), WatchedProcess()).frame) as client:
        answer = client.post("/inference_cross_lingual", data={"tts_text": "Hello."}, files=WAV)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_by_engine")
    assert "cannot clone" in answer.json()["error"]["message"]
