# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes that labels and files are made of, as Traefik's API has to show them."""

from __future__ import annotations

from typing import Any

import pytest
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
BALANCED = {"name": "tts-lb0a1b2c", "port": 7860, "strategy": "hrw"}
PROBE = {"name": "{replica}-probe", "rule": "Host(`{replica}.x`)", "service": "{replica}"}
IN_FILE = {"name": "tts", "rule": "PathPrefix(`/`)", "service": "tts-lb0a1b2c@docker"}
FALLBACK = {"name": "tts-none", "rule": "PathPrefix(`/`)", "service": "tts-none"}


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


def test_a_service_without_a_router_and_a_router_without_a_service() -> None:
    expected = expected_routes([BALANCED, {"name": "{replica}", "port": 7860}, PROBE], "tts", 2)
    assert [(router["name"], router["service"]) for router in expected["routers"]] == [
        ("tts-1-probe@docker", "tts-1"),
        ("tts-2-probe@docker", "tts-2"),
    ]
    assert [(service["name"], service["servers"]) for service in expected["services"]] == [
        ("tts-lb0a1b2c@docker", 2),
        ("tts-1@docker", 1),
        ("tts-2@docker", 1),
    ]


def test_a_router_in_a_file_is_one_of_the_file_provider() -> None:
    expected = expected_routes([BALANCED], "tts", 2, in_file=[IN_FILE, FALLBACK])
    assert [(router["name"], router["service"]) for router in expected["routers"]] == [
        ("tts@file", "tts-lb0a1b2c@docker"),
        ("tts-none@file", "tts-none"),
    ]
    assert expected["services"] == [{"name": "tts-lb0a1b2c@docker", "servers": 2, "strategy": "hrw"}]


def test_without_replicas_only_what_needs_none_is_served() -> None:
    assert expected_routes([SHARED, OWN, PROBE], "tts", 0) == {"routers": [], "services": []}
    expected = expected_routes([BALANCED], "tts", 0, in_file=[IN_FILE, FALLBACK])
    assert [router["name"] for router in expected["routers"]] == ["tts-none@file"]


@pytest.mark.parametrize(
    ("tls", "wanted"), [({}, True), (True, True), ({"options": "x"}, True), (False, False)]
)
def test_tls_is_on_where_labels_switch_it_on(tls: Any, wanted: bool) -> None:
    assert expected_routes([{**SHARED, "tls": tls}], "tts", 1)["routers"][0]["tls"] is wanted
