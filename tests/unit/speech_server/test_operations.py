# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health, version, metrics, headers, the OpenAPI document."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import InProcess, Live, eventually
from prometheus_client.parser import text_string_to_metric_families


def test_health_follows_the_drain_flag_and_requests_are_still_served(
    start: Callable[..., Live], tmp_path: Path
) -> None:
    live = start()
    with live.client() as client:
        assert client.get("/healthz").json() == {"status": "ready", "reason": ""}
        (tmp_path / "drain").touch()
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        assert client.get("/livez").status_code == 200
        assert live.speak(client, "Hello.").status_code == 200
        assert live.metric("ready") == 0
        (tmp_path / "drain").unlink()
        assert client.get("/healthz").status_code == 200


def test_while_loading(start: Callable[..., Live]) -> None:
    live = start(wait=False, prepare=lambda engine: engine.loading.clear())
    with live.client() as client:
        assert client.get("/livez").status_code == 200
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "loading")
        refused = live.speak(client, "Hello.")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/version").json()["weights_digest"] is None
        live.engine.loading.set()
        eventually(lambda: client.get("/healthz").status_code == 200)
        assert live.metric("load_seconds") > 0


def test_a_model_that_cannot_be_loaded_ends_the_process(start: Callable[..., Live]) -> None:
    def break_it(engine: object) -> None:
        engine.load_error = OSError("llm.pt is damaged")  # type: ignore[attr-defined]

    live = start(wait=False, prepare=break_it)
    with live.client() as client:
        eventually(lambda: client.get("/healthz").json()["status"] == "failed")
        assert "llm.pt is damaged" in client.get("/healthz").json()["reason"]
    eventually(lambda: live.exits == [1])


def test_version_digests_what_is_loaded(start: Callable[..., Live], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/b").write_bytes(b"second")
    (tmp_path / "model/a").write_bytes(b"first")
    live = start(model_dir=tmp_path / "model")
    with live.client() as client:
        version = client.get("/version").json()
    listing = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in (("a", b"first"), ("b", b"second"))
    )
    assert version["weights_digest"] == hashlib.sha256(listing.encode()).hexdigest()
    assert version["revision"] == version["weights_digest"][:12]
    assert version["engine"] == "stand-in"


def test_a_given_revision_is_kept(start: Callable[..., Live]) -> None:
    live = start(model="Fun-CosyVoice3", revision="29e01c4")
    with live.client() as client:
        assert client.get("/livez").headers["x-model-version"] == "Fun-CosyVoice3@29e01c4"


@pytest.mark.parametrize(
    "path", ["/livez", "/healthz", "/nix", "/v1/audio/speech", "/openapi.json", "/metrics"]
)
@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2:3", True), ("a b", False), ("x" * 129, False), ("", False)]
)
def test_headers_on_every_answer(hum: InProcess, path: str, given: str, kept: bool) -> None:
    answer = hum.client.get(path, headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) == kept
    assert len(answer.headers["x-request-id"]) >= 8 or kept
    assert answer.headers["x-replica"] == "r-1"
    assert answer.headers["x-model-version"].startswith("hum@")


def test_headers_on_a_fault_of_ours(hum: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hum.engine, "voices", lambda: 1 / 0)
    answer = hum.client.get("/v1/audio/voices")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-replica"] == "r-1"


def test_metrics_tell_what_happened(start: Callable[..., Live]) -> None:
    live = start(max_in_flight=2, max_queued=3)
    with live.client() as client:
        live.speak(client, "One. Two.")
        live.speak(client, "???")
        eventually(lambda: live.metric("engine_seconds_total") > 0)
        text = client.get("/metrics").text
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    endpoint = ("endpoint", "/v1/audio/speech")
    assert found["speech_requests_total", endpoint, ("status", "200")] == 1
    assert found["speech_requests_total", endpoint, ("status", "400")] == 1
    assert found["speech_capacity",] == 2
    assert found["speech_queue_capacity",] == 3
    assert found["speech_in_flight",] == found["speech_queued",] == 0
    assert found["speech_first_byte_seconds_count",] == found["speech_request_seconds_count",] == 1
    assert found["speech_real_time_factor_count",] == 1
    assert found["speech_audio_seconds_total",] == pytest.approx(1, abs=0.01)
    assert found["speech_characters_total",] == len("One. Two.")
    assert found["process_resident_memory_bytes",] > 1e6


def test_the_openapi_document_names_our_errors_and_no_others(hum: InProcess) -> None:
    document = hum.client.get("/openapi.json").json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path in (
        "/v1/audio/speech",
        "/inference_zero_shot",
        "/inference_cross_lingual",
        "/inference_instruct2",
    ):
        answers = document["paths"][path]["post"]["responses"]
        assert set(answers) == {"200", "4XX", "500", "503", "504"}
        for status in ("4XX", "500", "503", "504"):
            schema = answers[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}
        assert "application/json" not in answers["200"]["content"]
    assert set(document["paths"]["/healthz"]["get"]["responses"]) == {"200", "503"}
