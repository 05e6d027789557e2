# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's API: what is taken, what is refused and how."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import InProcess, WatchedProcess, eventually, settings_for
from fastapi.testclient import TestClient
from speech_server.app import Server
from speech_server.engines.base import Mode, Voice
from speech_stand_in import SENTENCE_SECONDS, StandIn
from test_audio import decode


def speak(hum: InProcess, **body: Any) -> Any:
    return hum.client.post("/v1/audio/speech", json={"input": "Hello. World.", **body})


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_every_format(hum: InProcess, name: str) -> None:
    answer = speak(hum, response_format=name)
    samples, rate = decode(answer.content, name)
    assert answer.status_code == 200
    assert len(samples) / rate == pytest.approx(2 * SENTENCE_SECONDS, abs=0.08)
    assert answer.headers["x-sample-rate"] == "24000"
    assert "content-length" not in answer.headers


def test_the_wav_of_one_sentence_knows_its_length(hum: InProcess) -> None:
    answer = speak(hum, input="Hello.", response_format="wav")
    with wave.open(io.BytesIO(answer.content)) as file:
        assert file.getnframes() == pytest.approx(SENTENCE_SECONDS * 24000, abs=2)


def test_the_default_is_mp3_as_openai_has_it(hum: InProcess) -> None:
    assert speak(hum).headers["content-type"] == "audio/mpeg"
    assert speak(hum, response_format=None, voice=None, speed=None).headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize("model", ["cosyvoice", "hum", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"])
def test_models(hum: InProcess, model: str) -> None:
    assert speak(hum, model=model).status_code == 200
    assert model in [entry["id"] for entry in hum.client.get("/v1/models").json()["data"]]
    assert {"id": model} in hum.client.get("/v1/audio/models").json()["models"]
    assert hum.client.get(f"/v1/models/{model}").json()["id"] == model


@pytest.mark.parametrize("told", ["Fun-CosyVoice3", "FunAudioLLM/Fun-CosyVoice3"])
def test_the_models_own_name_with_and_without_its_owner(tmp_path: Path, told: str) -> None:
    settings = settings_for(tmp_path, model=told)
    engine = StandIn(settings)
    server = Server(settings, engine, WatchedProcess())
    with TestClient(server.frame) as client:
        live = InProcess(client, server, engine)
        eventually(lambda: server.readiness.loaded)
        assert told in [entry["id"] for entry in client.get("/v1/models").json()["data"]]
        for model in ("Fun-CosyVoice3", "FunAudioLLM/Fun-CosyVoice3"):
            assert speak(live, model=model).status_code == 200
            for path in (model, quote(model, safe="")):
                assert client.get(f"/v1/models/{path}").json()["id"] == model
        assert speak(live, model="FunAudioLLM/CosyVoice2").status_code == 404
        assert client.get("/v1/models/FunAudioLLM/CosyVoice2").status_code == 404


@pytest.mark.parametrize("voice", ["alloy", "marin", {"id": "nova"}])
def test_openais_voices_mean_the_default(hum: InProcess, voice: Any) -> None:
    assert speak(hum, voice=voice).status_code == 200
    assert hum.engine.begun[-1].voice == "default"


def test_a_voice_of_ones_own_comes_before_openais(hum: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    voices = [Voice("default", "Default"), Voice("alloy", "Alloy")]
    monkeypatch.setattr(hum.engine, "voices", lambda: voices)
    speak(hum, voice="alloy")
    assert hum.engine.begun[-1].voice == "alloy"
    voices.clear()
    refused = speak(hum, voice="alloy")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "voice_not_found")
    assert "there is none" in refused.json()["error"]["message"]


@pytest.mark.parametrize("voice", ["default", "hum", {"id": "hum"}])
def test_voices(hum: InProcess, voice: Any) -> None:
    assert speak(hum, voice=voice).status_code == 200
    assert hum.client.get("/v1/audio/voices").json()["voices"][0] == {"id": "default", "name": "Default"}


def test_what_reaches_the_engine(hum: InProcess) -> None:
    speak(hum, voice="hum", speed=2, instructions="Whisper.")
    wish = hum.engine.begun[-1]
    assert (wish.text, wish.voice, wish.speed, wish.instructions) == ("Hello. World.", "hum", 2.0, "Whisper.")


@pytest.mark.parametrize("audio", ["UklGRi4uLi4=", "data:audio/wav;base64,UklGRi4uLi4="])
@pytest.mark.parametrize(
    ("more", "mode"),
    [
        ({"ref_text": "What is said."}, Mode.ZERO_SHOT),
        ({}, Mode.CROSS_LINGUAL),
        ({"instructions": "Whisper.", "ref_text": "What is said."}, Mode.INSTRUCT),
    ],
)
def test_a_recording_of_ones_own(hum: InProcess, audio: str, more: dict[str, str], mode: Mode) -> None:
    assert speak(hum, ref_audio=audio, voice="whoever", **more).status_code == 200
    wish = hum.engine.begun[-1]
    assert (wish.mode, wish.reference_text, hum.engine.reference_seen) == (
        mode,
        more.get("ref_text"),
        b"RIFF....",
    )


@pytest.mark.parametrize(
    ("body", "status", "code", "param", "says"),
    [
        (
            {"model": "gpt-4"},
            404,
            "model_not_found",
            "model",
            "there is cosyvoice, hum, tts-1, tts-1-hd, gpt-4o-mini-tts",
        ),
        ({"voice": "nobody"}, 400, "voice_not_found", "voice", "there is default, hum"),
        ({"voice": "\ud800"}, 400, "voice_not_found", "voice", "'\\ud800'"),
        ({"input": "..."}, 400, "nothing_to_speak", "input", "no letter and no digit"),
        ({"input": "Nothing here"}, 400, "nothing_to_speak", "input", "no letter"),
        ({"input": "Refuse this"}, 400, "invalid_value", "input", "this text is refused"),
        ({"input": "x" * 4097}, 400, "string_above_max_length", "input", "4097"),
        ({"input": None}, 400, "invalid_value", "input", "string"),
        ({"speed": 4.1}, 400, "invalid_value", "speed", "4"),
        ({"speed": "fast"}, 400, "invalid_value", "speed", "number"),
        ({"speed": "1.0"}, 400, "invalid_value", "speed", "number"),
        ({"stream": "yes"}, 400, "invalid_value", "stream", "boolean"),
        ({"response_format": "ogg"}, 400, "invalid_value", "response_format", "'mp3'"),
        ({"ref_audio": "data:..."}, 400, "invalid_value", "ref_audio", "base64"),
        ({"ref_audio": ""}, 400, "invalid_value", "ref_audio", "base64"),
        ({"ref_audio": "https://example.com/a.wav"}, 400, "invalid_value", "ref_audio", "nothing is fetched"),
        ({"ref_text": "Hello."}, 400, "missing_required_parameter", "ref_audio", "'ref_audio'"),
        ({"ref_audio": "UklGRg==", "ref_text": "?"}, 400, "nothing_to_speak", "ref_text", "no letter"),
    ],
)
def test_refusals(
    hum: InProcess, body: dict[str, Any], status: int, code: str, param: str, says: str
) -> None:
    sent = json.dumps({"input": "Hello.", **body})  # escapes what is not valid UTF-8
    answer = hum.client.post("/v1/audio/speech", content=sent, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert error["param"].split(".")[0] == param
    assert says in error["message"]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b"[]", "application/json", 400, "invalid_body"),
        (b"{}", "application/json", 400, "missing_required_parameter"),
        (b'{"input": "\xff"}', "application/json", 400, "invalid_body"),
        (b'{"input": "a", "speed": NaN}', "application/json", 400, "invalid_value"),
        (b"[" * 100_000, "application/json", 400, None),
        (b'{"input": "a", "speed": ' + b"9" * 5000 + b"}", "application/json", 400, None),
        (b'{"input": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b"input=a", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"", "application/json", 400, None),
        (b'{"input": "' + b"a" * 200_000 + b'"}', "application/json", 413, "body_too_large"),
    ],
)
def test_bodies(hum: InProcess, content: bytes, content_type: str, status: int, code: str | None) -> None:
    answer = hum.client.post("/v1/audio/speech", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["error"]["code"] == code


def test_a_large_body_without_a_declared_length(hum: InProcess) -> None:
    answer = hum.client.post("/v1/audio/speech", content=(b"a" * 50_000 for _ in range(5)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_ignored_parameters_are_named(hum: InProcess) -> None:
    answer = speak(hum, respons_format="wav", **{"bad\r\nname": 1})
    assert answer.headers["x-ignored-parameters"] == "bad??name, respons_format"


def test_server_sent_events(hum: InProcess) -> None:
    answer = speak(hum, response_format="pcm", stream_format="sse")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert [event["type"] for event in events[-2:]] == ["speech.audio.delta", "speech.audio.done"]
    audio = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert len(audio) / 48000 == pytest.approx(2 * SENTENCE_SECONDS, abs=0.01)


@pytest.mark.parametrize("path", ["/nix", "/v1/audio/speech/", "/v1/audio/speech", "/v1/models/x\ud7ff"])
def test_other_paths_and_methods(hum: InProcess, path: str) -> None:
    answer = hum.client.get(path)
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["type"] == "invalid_request_error"
