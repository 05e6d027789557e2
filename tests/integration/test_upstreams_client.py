# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's own paths behind a real Traefik, as upstream's client asks: with a form in the body of a GET."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from recorded_voices import PORT, TRANSCRIPT, start_replicas, tone, voice

SERVICE = "upstream"
TEXT = "The rain has stopped, and the street is quiet again this evening."


@pytest.fixture(scope="module")
def url(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("upstream")
    folder.chmod(0o755)
    voice(folder / "voices/default", 200)
    network = lab.network(SERVICE).name
    traefik = lab.traefik(network=network)
    start_replicas(
        lab,
        f"{lab.id}-{SERVICE}",
        network,
        folder / "model",
        [folder / "voices"],
        {
            "traefik.enable": "true",
            f"traefik.http.routers.{SERVICE}.rule": "PathPrefix(`/`)",
            f"traefik.http.services.{SERVICE}.loadbalancer.server.port": str(PORT),
        },
    )
    traefik.wait_for(
        lambda have: any(
            "UP" in (each.get("serverStatus") or {}).values()
            for each in have.services
            if each["name"] == f"{SERVICE}@docker"
        ),
        seconds=180,
    )
    return f"http://{traefik.ports['80']}"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("inference_zero_shot", {"prompt_text": TRANSCRIPT}),
        ("inference_cross_lingual", {}),
        ("inference_instruct2", {"instruct_text": "Speak slowly."}),
    ],
)
def test_a_form_is_answered_with_samples(url: str, method: str, path: str, more: dict[str, str]) -> None:
    recording = {"prompt_wav": ("prompt_wav", tone(260), "application/octet-stream")}
    with requests.request(
        method, f"{url}/{path}", data={"tts_text": TEXT, **more}, files=recording, stream=True, timeout=60
    ) as answer:
        samples = b"".join(answer.iter_content(16000))
    assert (answer.status_code, answer.headers["X-Sample-Rate"]) == (200, "24000"), samples[:300]
    assert 2 < len(samples) / 2 / 24000 < 20
    assert any(samples)
