# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expectations against snapshots; items are as 3.7.15 answered them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._certificate_checks import (
    check_certificates,
    covers,
    hosts_of,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._container_checks import (
    Surroundings,
    addresses,
    check_containers,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._docker_provider import Containers
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import Snapshot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_checks import (
    Expectations,
    all_up,
    check_expectations,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_containers import Container

URL = "http://172.18.0.2:80"
ROUTER = {
    "name": "tts@docker",
    "provider": "docker",
    "status": "enabled",
    "rule": "PathPrefix(`/v1`)",
    "service": "tts",
    "entryPoints": ["web"],
    "middlewares": ["tts@file"],
}
SERVICE: dict[str, Any] = {
    "name": "tts@docker",
    "provider": "docker",
    "status": "enabled",
    "type": "loadbalancer",
    "loadBalancer": {"servers": [{"url": URL}], "strategy": "p2c"},
    "serverStatus": {URL: "UP"},
}
LABELS = {
    "traefik.enable": "true",
    "traefik.http.routers.tts.rule": "PathPrefix(`/v1`)",
    "traefik.http.routers.tts.service": "tts",
    "traefik.http.services.tts.loadbalancer.server.port": "80",
}


def snapshot(**changes: Any) -> Snapshot:
    have: dict[str, Any] = {
        "version": "3.7.15",
        "providers": ["Docker", "File"],
        "entrypoints": [{"name": "web", "address": ":80"}],
        "routers": [ROUTER],
        "services": [SERVICE],
        "middlewares": [{"name": "tts@file", "status": "enabled", "type": "chain", "provider": "file"}],
    }
    return Snapshot(**{**have, **changes})


def failed(want: Expectations, have: Snapshot, containers: Containers | None = None) -> dict[str, Check]:
    return {check.name: check for check in check_expectations(want, have, containers) if not check.ok}


def test_all_as_wanted() -> None:
    want = Expectations(
        traefik_version=">=3.6.1",
        routers=[
            {
                "name": "tts",
                "rule": "PathPrefix(`/v1`)",
                "service": "tts",
                "entrypoints": ["web"],
                "middlewares": ["tts@file"],
                "tls": False,
            }
        ],
        services=[{"name": "tts", "servers": 1, "urls": [URL + "/"], "strategy": "p2c"}],
        middlewares=[{"name": "tts@file", "type": "chain"}],
        entrypoints=[{"name": "web", "address": ":80"}],
        exclusive=True,
    )
    checks = check_expectations(want, snapshot(), None)
    assert failed(want, snapshot()) == {}
    assert len(checks) == 17
    assert len({check.name for check in checks}) == len(checks)


@pytest.mark.parametrize(
    ("wanted", "found", "ok"),
    [
        ("3.7.15", "3.7.15", True),
        ("3.7", "3.7.15", True),
        ("3.7.1", "3.7.15", False),
        (">=3.7.13", "3.7.9", False),
        (">= 3.7.9", "3.7.13", True),
        (">=3.6", "v3.10.0".lstrip("v"), True),
    ],
)
def test_versions(wanted: str, found: str, ok: bool) -> None:
    names = failed(Expectations(traefik_version=wanted), snapshot(version=found))
    assert ("Traefik's version" not in names) is ok


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rule", "PathPrefix(`/v2`)"),
        ("service", "tts@file"),
        ("entrypoints", ["web", "websecure"]),
        ("middlewares", ["other@file", "tts@file"]),
        ("middlewares", []),
        ("tls", True),
        ("certresolver", "le"),
    ],
)
def test_one_option_of_a_router_differs(option: str, value: Any) -> None:
    wrong = failed(Expectations(routers=[{"name": "tts", option: value}]), snapshot())
    assert list(wrong) == [f"router tts@docker: {option}"]


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"servers": 2}, "service tts@docker: number of servers"),
        ({"urls": ["http://172.18.0.3:80"]}, "service tts@docker: servers"),
        ({"strategy": "wrr"}, "service tts@docker: strategy"),
        ({"status": "disabled"}, "service tts@docker"),
    ],
)
def test_one_option_of_a_service_differs(item: dict[str, Any], name: str) -> None:
    assert list(failed(Expectations(services=[{"name": "tts", **item}]), snapshot())) == [name]


def test_an_old_traefik_names_no_strategy_and_no_status_of_servers() -> None:
    old = {**SERVICE, "loadBalancer": {"servers": [{"url": URL}]}}
    del old["serverStatus"]
    want = Expectations(services=[{"name": "tts", "strategy": "wrr"}])
    assert failed(want, snapshot(services=[old])) == {}


def test_what_is_absent_is_said_once() -> None:
    want = Expectations(
        provider="swarm",
        routers=[{"name": "tts@file", "rule": "x"}, {"name": "other@docker"}],
        entrypoints=[{"name": "websecure"}],
        middlewares=[{"name": "none@file"}],
    )
    wrong = failed(want, snapshot())
    assert list(wrong) == [
        "provider swarm",
        "entry point websecure",
        "middleware none@file",
        "router tts@file",
        "router other@docker",
    ]
    assert "it is there as tts@docker" in wrong["router tts@file"].remedy
    assert "set containers to true" in wrong["router other@docker"].remedy


def test_entry_points_with_tls_split_a_router() -> None:
    """As 3.7.15 does when one entry point of several has http.tls: a second router."""
    points = [
        {"name": "web", "address": ":80"},
        {"name": "websecure", "address": ":443", "http": {"tls": {}, "middlewares": ["hsts@file"]}},
    ]
    twin = {
        **ROUTER,
        "name": "websecure-tts@docker",
        "entryPoints": ["websecure"],
        "middlewares": ["hsts@file", "tts@file"],
        "tls": {"certResolver": "le"},
    }
    have = snapshot(entrypoints=points, routers=[ROUTER, twin])
    item = {
        "name": "tts",
        "entrypoints": ["web", "websecure"],
        "middlewares": ["tts@file"],
        "tls": True,
        "certresolver": "le",
    }
    assert failed(Expectations(routers=[item], exclusive=True), have) == {}
    only = {**twin, "name": "tts@docker"}
    want = Expectations(routers=[{"name": "tts", "middlewares": ["tts@file"]}])
    assert failed(want, snapshot(entrypoints=points, routers=[only])) == {}
    broken = snapshot(entrypoints=points, routers=[ROUTER, {**twin, "status": "disabled", "error": ["x"]}])
    assert list(failed(Expectations(routers=[item]), broken)) == ["router websecure-tts@docker"]


def test_unwanted_routers() -> None:
    stray = {**ROUTER, "name": "whoami@docker", "rule": "Host(`whoami`)"}
    others = [{**ROUTER, "name": "api@internal"}, {**ROUTER, "name": "x@file", "provider": "file"}]
    have = snapshot(routers=[ROUTER, stray, *others])
    want = Expectations(routers=[{"name": "tts"}], exclusive=True)
    containers = Containers([Container("whoami", {"com.example": "x"})])
    wrong = failed(want, have, containers)
    assert list(wrong) == ["unwanted router whoami@docker"]
    assert "made by container whoami" in wrong["unwanted router whoami@docker"].found
    for pattern in ("whoami", "who*", "*@docker"):
        want = Expectations(routers=[{"name": "tts"}], exclusive=True, ignore=[pattern])
        assert failed(want, have) == {}


@pytest.mark.parametrize(
    ("changes", "ok", "said"),
    [
        ({}, True, "1 UP"),
        ({"serverStatus": {URL: "DOWN"}}, False, f"{URL} is DOWN"),
        ({"loadBalancer": {"servers": []}}, False, "no server"),
        ({"loadBalancer": {}}, False, "no server"),
        ({"loadBalancer": {"servers": [{}]}, "serverStatus": {"": "UP"}}, False, "without address"),
    ],
)
def test_servers_up(changes: dict[str, Any], ok: bool, said: str) -> None:
    check = all_up("tts@docker", {**SERVICE, **changes})
    assert (check.ok, said in check.found) == (ok, True)


def test_a_weighted_service_has_no_servers_of_its_own() -> None:
    weighted = {"name": "w@file", "type": "weighted", "weighted": {}, "status": "enabled"}
    assert all_up("w@file", weighted).ok


@pytest.mark.parametrize(
    ("pattern", "host", "good"),
    [
        ("a.example", "A.example", True),
        ("*.example", "a.example", True),
        ("*.example", "b.a.example", False),
        ("*.example", "example", False),
        ("a.example", "b.example", False),
    ],
)
def test_names_in_certificates(pattern: str, host: str, good: bool) -> None:
    assert covers(pattern, host) is good


def test_hosts_of_a_router() -> None:
    rule = "Host(`a.example`, `b.example`) && (PathPrefix(`/x`) || Host(`C.example`)) || HostRegexp(`.*`)"
    assert hosts_of({"rule": rule}) == ["a.example", "b.example", "c.example"]
    domains = {"domains": [{"main": "d.example", "sans": ["*.d.example"]}, {"main": "e.example"}]}
    assert hosts_of({"rule": rule, "tls": domains}) == ["*.d.example", "d.example", "e.example"]


def test_certificates() -> None:
    tls = {"certResolver": "le"}
    routers = [
        {"name": "a@docker", "rule": "Host(`a.example`)", "tls": tls},
        {"name": "twin@docker", "rule": "Host(`a.example`)", "tls": tls},
        {"name": "b@docker", "rule": "Host(`b.example`)", "tls": tls},
        {"name": "c@docker", "rule": "Host(`c.example`)", "tls": {}},
        {"name": "d@docker", "rule": "PathPrefix(`/`)", "tls": tls},
        {"name": "e@docker", "rule": "Host(`old.example`)", "tls": tls},
    ]
    good = {"sans": ["a.example"], "notAfter": "2027-01-01T00:00:00Z", "issuerCN": "CA", "status": "warning"}
    old = {"commonName": "old.example", "notAfter": "2020-01-01T00:00:00Z", "status": "expired"}
    outcome = {check.name: check.ok for check in check_certificates(routers, [good, old])}
    assert outcome == {
        "certificate of router d@docker": False,
        "certificate for a.example": True,
        "certificate for b.example": False,
        "certificate for old.example": False,
    }


def of_containers(have: Snapshot, *containers: Container, **around: Any) -> dict[str, Check]:
    checks = check_containers(Containers(containers), have, Surroundings(**around))
    return {check.name: check for check in checks if not check.ok}


def container(name: str = "tts-1", address: str = "172.18.0.2", **options: Any) -> Container:
    return Container(**{"name": name, "labels": LABELS, "networks": {"web": address}, **options})


def test_a_container_that_is_right() -> None:
    assert of_containers(snapshot(), container(), traefik_networks=["web"]) == {}
    assert addresses(Containers([container()]), snapshot()) == {("172.18.0.2", 80)}


def test_a_container_that_is_no_server_and_a_server_that_is_no_container() -> None:
    wrong = of_containers(snapshot(), container("tts-2", "172.18.0.3"))
    members = wrong["service tts@docker: servers are its healthy containers"]
    assert "not a server: tts-2" in members.found
    assert f"of no healthy container: {URL}" in members.found


def test_a_port_where_nothing_listens() -> None:
    refused = {("172.18.0.2", 80): "refused"}
    wrong = of_containers(snapshot(), container(ports=(7860,)), connections=refused)
    assert list(wrong) == ["container tts-1: port 80 of service tts"]
    assert wrong["container tts-1: port 80 of service tts"].remedy.endswith("to 7860")
    unreachable = {("172.18.0.2", 80): "timed out"}
    wrong = of_containers(snapshot(), container(), connections=unreachable)
    assert "set container_connect to false" in wrong["container tts-1: port 80 of service tts"].remedy
    assert of_containers(snapshot(), container(), connections={("172.18.0.2", 80): "open"}) == {}


def test_a_router_that_its_container_defines_rightly() -> None:
    """Not yet there, or unknown to an older Traefik: the remedy must not blame the labels."""
    wrong = of_containers(snapshot(routers=[]), container())
    assert list(wrong) == ["container tts-1: router tts@docker"]
    remedy = wrong["container tts-1: router tts@docker"].remedy
    assert "tts-1 defines it" in remedy
    assert "an older Traefik does not know every label" in remedy


def test_networks() -> None:
    two = {"web": "172.18.0.2", "db": "172.19.0.2"}
    wrong = of_containers(snapshot(), container(networks=two), traefik_networks=["web"])
    assert wrong["container tts-1: network"].remedy == 'set the label "traefik.docker.network" to "web"'
    labelled = {**LABELS, "traefik.docker.network": "web"}
    assert of_containers(snapshot(), container(networks=two, labels=labelled), traefik_networks=["web"]) == {}
    compose = {**LABELS, "traefik.docker.network": "web"}
    wrong = of_containers(snapshot(), container(networks={"shop_web": "172.18.0.2"}, labels=compose))
    assert 'to "shop_web"' in wrong["container tts-1: network"].remedy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"state": "restarting"}, "docker logs"),
        ({"state": "paused"}, "unpause"),
        ({"health": "starting"}, "logs"),
    ],
)
def test_a_container_out_of_rotation(options: dict[str, Any], said: str) -> None:
    wrong = of_containers(snapshot(routers=[], services=[]), container(**options))
    assert said in wrong["container tts-1: in rotation"].remedy


def test_a_service_that_two_containers_define_differently() -> None:
    other = {**LABELS, "traefik.http.services.tts.loadbalancer.passhostheader": "false"}
    pair = (container("a"), container("b", "172.18.0.3", labels=other))
    lost = {**ROUTER, "status": "disabled", "error": ['the service "tts@docker" does not exist']}
    wrong = of_containers(snapshot(routers=[lost], services=[]), *pair)
    assert set(wrong) == {
        "container a: router tts@docker",
        "container b: router tts@docker",
        "service tts@docker: the same on every container",
        "service tts@docker",
    }
    for check in wrong.values():
        assert "a has nothing, b has false" in check.found + check.remedy
    # The other states the default: Traefik keeps the service, and so it is no difference.
    urls = [URL, "http://172.18.0.3:80"]
    both = {**SERVICE, "loadBalancer": {"servers": [{"url": url} for url in urls]}, "serverStatus": {}}
    assert of_containers(snapshot(services=[both]), *pair) == {}
