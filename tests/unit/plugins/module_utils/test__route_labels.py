# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._labels import check_labels
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_labels import RouteError, labels_of

ROUTE = {"name": "tts", "rule": "PathPrefix(`/v1`)", "port": 7860}


def test_the_fewest_labels() -> None:
    assert labels_of(ROUTE, network="voicefleet") == {
        "traefik.enable": "true",
        "traefik.docker.network": "voicefleet",
        "traefik.http.routers.tts.rule": "PathPrefix(`/v1`)",
        "traefik.http.routers.tts.entrypoints": "web",
        "traefik.http.routers.tts.service": "tts",
        "traefik.http.services.tts.loadbalancer.server.port": "7860",
        "traefik.http.services.tts.loadbalancer.strategy": "p2c",
    }


def test_everything_a_route_can_say() -> None:
    route = {
        **ROUTE,
        "port": "7860",
        "entrypoints": ["web", "websecure"],
        "middlewares": ["tts@file", "auth@file"],
        "strategy": "wrr",
        "flush_interval": 0,
        "priority": 10,
        "tls": {
            "certresolver": "le",
            "options": "modern@file",
            "domains": [{"main": "a.example", "sans": ["b.example"]}],
        },
        "extra": {"traefik.http.services.tts.loadbalancer.passhostheader": False},
    }
    labels = labels_of([route])
    assert "traefik.docker.network" not in labels
    router = {key.partition(".tts.")[2]: value for key, value in labels.items() if ".routers.tts." in key}
    assert router == {
        "rule": "PathPrefix(`/v1`)",
        "entrypoints": "web,websecure",
        "service": "tts",
        "middlewares": "tts@file,auth@file",
        "priority": "10",
        "tls": "true",
        "tls.certresolver": "le",
        "tls.options": "modern@file",
        "tls.domains[0].main": "a.example",
        "tls.domains[0].sans": "b.example",
    }
    assert labels["traefik.http.services.tts.loadbalancer.passhostheader"] == "false"
    assert labels["traefik.http.services.tts.loadbalancer.responseforwarding.flushinterval"] == "0"
    assert check_labels(labels) == []


def test_every_router_of_several_names_its_service() -> None:
    labels = labels_of([ROUTE, {**ROUTE, "name": "metrics", "port": 9090}])
    assert labels["traefik.http.routers.tts.service"] == "tts"
    assert labels["traefik.http.routers.metrics.service"] == "metrics"


def test_without_a_rule_there_is_only_the_service() -> None:
    labels = labels_of([{"name": "tts-lb", "port": 7860, "strategy": "wrr"}, ROUTE])
    assert {key: value for key, value in labels.items() if ".tts-lb." in key} == {
        "traefik.http.services.tts-lb.loadbalancer.server.port": "7860",
        "traefik.http.services.tts-lb.loadbalancer.strategy": "wrr",
    }


@pytest.mark.parametrize("service", ["tts", "{replica}", "speech@file"])
def test_a_router_of_anothers_service_has_none_of_its_own(service: str) -> None:
    routes = [
        ROUTE,
        {**ROUTE, "name": "{replica}"},
        {"name": "probe", "rule": "Host(`x`)", "service": service},
    ]
    labels = labels_of(routes)
    assert labels["traefik.http.routers.probe.service"] == service
    assert not [key for key in labels if key.startswith("traefik.http.services.probe.")]


def test_a_service_may_be_defined_by_a_label_of_ones_own() -> None:
    extra = {"traefik.http.services.own.loadbalancer.server.port": 80}
    labels = labels_of({"name": "tts", "rule": "Path(`/`)", "service": "own", "extra": extra})
    assert labels["traefik.http.routers.tts.service"] == "own"


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        ([{"name": "tts", "port": 80}], "no route has a rule, and for a container without a router"),
        ([{"name": "tts", "rule": "Path(`/`)", "service": "typo"}], "no route is called 'typo'"),
        ([{"name": "tts", "rule": "Path(`/`)", "service": "a.b"}], "service: the name of a service"),
        ([{"name": "tts", "rule": "Path(`/`)", "service": ""}], "service: the name of a service"),
        ([{**ROUTE, "service": "speech@file"}], "port: it belongs to the service speech@file"),
        (
            [{"name": "tts", "rule": "Path(`/`)", "service": "tts@file", "flush_interval": 0}],
            "flush_interval: it belongs",
        ),
        ([{**ROUTE, "flush_interval": "soon"}], "or 0 for no flush before the end, not 'soon'"),
        (
            [{"name": "tts", "rule": "Path(`/`)", "service": "tts@file", "strategy": "wrr"}],
            "strategy: it belongs",
        ),
        ([{"name": "tts", "port": 80, "entrypoints": ["web"]}, ROUTE], "entrypoints: without a rule"),
        ([{"name": "tts", "port": 80, "service": "x"}, ROUTE], "service: without a rule"),
        ([{"name": "tts"}, ROUTE], "port: a number from 1 to 65535 is wanted, not ''"),
    ],
)
def test_a_router_without_a_service_and_a_service_without_a_router(
    routes: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(RouteError, match=said):
        labels_of(routes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"entrypoint": "web"},
            r"route 1 \(tts\): unknown option 'entrypoint'; did you mean 'entrypoints'\?",
        ),
        ({"name": None}, "route 1: name: .* not None"),
        ({"name": "my.app"}, r"route 1 \(my.app\): name: .* not 'my.app'"),
        ({"rule": ""}, "rule: a rule such as"),
        ({"port": 0}, "port: a number from 1 to 65535 is wanted, not 0"),
        ({"port": True}, "port: .* not True"),
        ({"port": "http"}, "port: .* not 'http'"),
        ({"strategy": "P2C"}, "strategy: one of wrr, p2c, hrw, leasttime is wanted, not 'P2C'"),
        ({"entrypoints": []}, "entrypoints: at least one"),
        ({"middlewares": "a@file,b@file"}, "middlewares: a list of names"),
        ({"priority": "high"}, "priority: an integer is wanted, not 'high'"),
        ({"tls": "yes"}, "tls: true, false or a dictionary is wanted, not 'yes'"),
        ({"tls": {"certResolver": "le"}}, "tls: unknown option 'certResolver'; did you mean 'certresolver'"),
        ({"tls": {"domains": ["a.example"]}}, r"tls: domains\[0\]: a dictionary with main"),
        (
            {"extra": {"traefik.http.services.tts.loadbalancer.healtcheck.path": "/x"}},
            "loadbalancer.healthcheck.path",
        ),
        (
            {"extra": {"traefik.http.services.tts.loadbalancer.healthcheck.interval": "10 seconds"}},
            "not a duration",
        ),
        ({"extra": {"trafik.enable": "true"}}, 'write "traefik.enable" instead of "trafik.enable"'),
        ({"extra": {"com.example.team": "voice"}}, "is not Traefik's"),
        ({"extra": {"traefik.http.routers.tts.rule": "Path(`/`)"}}, "is already"),
        ({"extra": ["a"]}, "extra: a dictionary of labels"),
    ],
)
def test_a_route_that_cannot_become_labels(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RouteError, match=said):
        labels_of({**ROUTE, **change})


@pytest.mark.parametrize("routes", [[], None, "tts", 5, [ROUTE, "tts"]])
def test_what_is_no_route_is_refused(routes: Any) -> None:
    with pytest.raises(RouteError, match="wanted"):
        labels_of(routes)


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(RouteError, match=r"route 2 \(tts\): an earlier route has this name"):
        labels_of([ROUTE, ROUTE])
