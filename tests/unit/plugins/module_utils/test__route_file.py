# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_file import (
    fallback_priority,
    file_router,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_labels import RouteError

ROUTE = {"name": "tts", "rule": "PathPrefix(`/v1`)", "service": "tts-lb0a1b2c@docker"}


def test_the_least_that_a_router_says() -> None:
    assert file_router(ROUTE) == {
        "rule": "PathPrefix(`/v1`)",
        "entryPoints": ["web"],
        "service": "tts-lb0a1b2c@docker",
    }


def test_everything_that_a_router_can_say_in_traefiks_spelling() -> None:
    domains = [{"main": "a.example", "sans": ["b.example"]}, {"main": "c.example"}]
    tls = {"certresolver": "le", "options": "modern@file", "domains": domains}
    more = {"entrypoints": ["web", "websecure"], "middlewares": ["tts@file"], "priority": "10", "tls": tls}
    assert file_router({**ROUTE, **more}) == {
        "rule": "PathPrefix(`/v1`)",
        "entryPoints": ["web", "websecure"],
        "service": "tts-lb0a1b2c@docker",
        "middlewares": ["tts@file"],
        "priority": 10,
        "tls": {
            "certResolver": "le",
            "options": "modern@file",
            "domains": [{"main": "a.example", "sans": ["b.example"]}, {"main": "c.example", "sans": []}],
        },
    }


@pytest.mark.parametrize(("tls", "body"), [(True, {}), ({}, {}), (False, None), (None, None)])
def test_tls_is_there_or_not(tls: Any, body: Any) -> None:
    assert file_router({**ROUTE, "tls": tls}).get("tls") == body


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rule": ""}, r"route 1 \(tts\): rule: a rule such as"),
        ({"rule": None}, "rule: a rule such as .* not None"),
        ({"entrypoint": "web"}, "unknown option 'entrypoint'; did you mean 'entrypoints'"),
        ({"port": 80}, "port: a router in a file has none"),
        ({"strategy": "p2c"}, "strategy: a router in a file has none"),
        ({"flush_interval": "0"}, "flush_interval: a router in a file has none"),
        ({"tls": {"certResolver": "le"}}, "unknown option 'certResolver'"),
        ({"priority": "high"}, "priority: an integer"),
    ],
)
def test_what_no_router_can_be_made_of(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RouteError, match=said):
        file_router({**ROUTE, **change})


@pytest.mark.parametrize(
    ("rule", "priority", "below"),
    [
        ("PathPrefix(`/`)", None, 14),
        ("PathPrefix(`/ü`)", None, 16),  # Traefik counts bytes
        ("PathPrefix(`/`)", 7, 6),
        ("PathPrefix(`/`)", 1, -1),  # 0 would be the length of the rule
        ("PathPrefix(`/`)", -3, -4),
    ],
)
def test_a_fallback_comes_just_below(rule: str, priority: int | None, below: int) -> None:
    assert fallback_priority(rule, priority) == below
