# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between two specifications, named, and no secret in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._changes import changes, reason, told
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._specification import container_config
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._target import complete

OLD = {
    "image": "speech:1",
    "revision": "1",
    "port": 7860,
    "network": "voicefleet",
    "health": {"test": ["CMD", "true"]},
    "environment": {"SPEECH_THREADS": "1", "API_KEY": "hunter2"},
    "labels": {"traefik.http.services.tts.loadbalancer.strategy": "wrr"},
    "mounts": [{"source": "/weights/1", "target": "/weights"}],
}


def config(image_id: str = "sha256:" + "3f1c" * 16, slot: int = 0, **change: Any) -> dict[str, Any]:
    return container_config("tts", 1, Slot("GPU-a", slot), complete({**OLD, **change}), image_id, "/data")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": "sha256:" + "77ab" * 16}, ["image changed 3f1c3f1c3f1c -> 77ab77ab77ab"]),
        ({"image": "another-name"}, []),
        ({"slot": 1}, []),
        ({"revision": "2"}, ["revision 1 -> 2"]),
        ({"weights_digest": "ab" * 32}, ["weights unknown -> abababababab"]),
        (
            {"environment": {"SPEECH_THREADS": "2", "API_KEY": "other"}},
            ["environment API_KEY changed", "environment SPEECH_THREADS 1 -> 2"],
        ),
        (
            {"environment": {"API_KEY": "hunter2", "NEW": "1"}},
            ["environment NEW added", "environment SPEECH_THREADS removed"],
        ),
        (
            {"mounts": [{"source": "/weights/2", "target": "/weights"}]},
            ["mount /weights /weights/1 -> /weights/2"],
        ),
        (
            {"labels": {"traefik.http.services.tts.loadbalancer.strategy": "p2c"}},
            ["label traefik.http.services.tts.loadbalancer.strategy wrr -> p2c"],
        ),
        ({"command": ["--password", "x"]}, ["command changed"]),
        (
            {"health": {"test": ["CMD", "false"], "retries": 3}},
            ["health retries 1 -> 3", "health test changed"],
        ),
        ({"memory_mib": 1}, ["memory_mib 0 -> 1"]),
        ({"user": "1000"}, ["user (empty) -> 1000"]),
    ],
)
def test_each_difference_is_named(change: dict[str, Any], said: list[str]) -> None:
    assert changes(config(), config(**change)) == said


def test_a_secret_in_a_label_is_not_shown() -> None:
    key = "traefik.http.middlewares.login.basicauth.users"
    said = changes(config(labels={key: "a:b"}), config(labels={key: "a:c"}))
    assert said == [f"label {key} changed"]


def test_at_most_three_are_named() -> None:
    assert told(["a", "b", "c"]) == "a, b, c"
    assert told(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_the_reason_for_a_container_that_tells_nothing() -> None:
    assert reason(json.dumps(config()), config(revision="2")) == "revision 1 -> 2"
    assert reason("", config()) == "it does not tell what it was made from"
    assert "another version" in reason(json.dumps(config()), config())
