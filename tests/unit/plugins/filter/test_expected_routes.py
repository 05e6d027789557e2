# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes that labels are made of, as Traefik's API has to show them."""

from __future__ import annotations

from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.filter.expected_routes import expected_routes

SHARED: dict[str, Any] = {
    "name": "tts",
    "rule": "PathPrefix(`/`)",
    "port": 7860,
    "entrypoints": ["web"],
    "middlewares": ["tts@file"],
    "strategy": "wrr",
}
OWN: dict[str, Any] = {
    "name": "{replica}",
    "rule": "Host(`{replica}.example.org`)",
    "tls": {"certresolver": "le"},
}


def test_one_service_for_all_replicas() -> None:
    assert expected_routes([SHARED], "tts", 3) == {
        "routers": [
            {
                "name": "tts@docker",
                "rule": "PathPrefix(`/`)",
                "service": "tts",
                "entrypoints": ["web"],
                "middlewares": ["tts@file"],
                "tls": False,
            }
        ],
        "services": [{"name": "tts@docker", "servers": 3, "strategy": "wrr"}],
    }


def test_one_for_each_replica() -> None:
    expected = expected_routes([SHARED, OWN], "tts", 2)
    assert [(router["name"], router["rule"], router["tls"]) for router in expected["routers"][1:]] == [
        ("tts-1@docker", "Host(`tts-1.example.org`)", True),
        ("tts-2@docker", "Host(`tts-2.example.org`)", True),
    ]
    assert [(service["name"], service["servers"]) for service in expected["services"]] == [
        ("tts@docker", 2),
        ("tts-1@docker", 1),
        ("tts-2@docker", 1),
    ]


def test_without_replicas_nothing_is_served() -> None:
    assert expected_routes([SHARED, OWN], "tts", 0) == {"routers": [], "services": []}
