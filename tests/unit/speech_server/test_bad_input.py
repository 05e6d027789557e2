# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a caller sends, it is never this server's fault: no 5xx, and always the error shape."""

from __future__ import annotations

import json
from typing import Any

from conftest import InProcess
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from speech_server.errors import ErrorAnswer

SURROGATES_TOO = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | SURROGATES_TOO
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SURROGATES_TOO, inner, max_size=3),
    max_leaves=6,
)
FIELDS = {
    "input": st.sampled_from(["Hello.", "Nothing", "Refuse", "?", ""]) | JSON,
    "model": st.sampled_from(["tts-1", None]) | JSON,
    "voice": st.sampled_from(["default", {"id": "hum"}, {"id": 1}]) | JSON,
    "response_format": st.sampled_from(["mp3", "opus", "aac", "flac", "wav", "pcm"]) | JSON,
    "speed": st.floats(0.2, 4.1) | JSON,
    "instructions": JSON,
    "stream_format": st.sampled_from(["sse", "audio"]) | JSON,
    "ref_audio": JSON,
    "extra": JSON,
}
LIKELY = st.fixed_dictionaries({}, optional=FIELDS)
QUIET = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(answer: Any) -> None:
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    if answer.status_code != 200:
        assert ErrorAnswer.model_validate(answer.json()).error.message


@QUIET
@given(LIKELY | JSON)
def test_any_json(hum: InProcess, body: Any) -> None:
    check(
        hum.client.post(
            "/v1/audio/speech", content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
    )


@QUIET
@given(
    st.binary(max_size=200),
    st.sampled_from(["application/json", "text/plain", "", "application/json; charset=x"]),
)
def test_any_bytes(hum: InProcess, body: bytes, content_type: str) -> None:
    check(hum.client.post("/v1/audio/speech", content=body, headers={"Content-Type": content_type}))


@QUIET
@given(
    st.dictionaries(
        st.sampled_from(["tts_text", "prompt_text", "instruct_text", "prompt_wav"]),
        st.text(max_size=20) | st.just("Hello."),
    ),
    st.binary(max_size=20) | st.none(),
    st.sampled_from(["/inference_zero_shot", "/inference_cross_lingual", "/inference_instruct2"]),
)
def test_any_form(hum: InProcess, data: dict[str, str], prompt: bytes | None, path: str) -> None:
    files = None if prompt is None else {"prompt_wav": ("a.wav", prompt)}
    check(hum.client.post(path, data=data, files=files))
