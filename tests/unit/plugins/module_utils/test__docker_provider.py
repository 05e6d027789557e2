# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model of Traefik's Docker provider; that it is right is shown by tests/integration with a real one."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._docker_provider import (
    Containers,
    default_name,
    read,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_containers import (
    Container,
    parse_inspected,
)

H = "traefik.http."
SERVED = {
    "traefik.enable": "true",
    H + "routers.tts.rule": "Path(`/`)",
    H + "routers.tts.service": "tts",
    H + "services.tts.loadbalancer.server.port": "80",
}


def container(name: str = "tts-1", labels: dict[str, str] | None = None, **options: Any) -> Container:
    options = {"networks": {"web": "172.18.0.2"}, **options}
    return Container(name=name, labels=SERVED if labels is None else labels, **options)


def test_what_is_right_is_read() -> None:
    reading = read(container())
    assert (reading.wanted, reading.dropped, reading.problems) == (True, None, [])
    assert reading.routers == {"tts": {"rule": "Path(`/`)", "service": "tts"}}
    assert reading.port("tts") == 80


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("vf_Def.1", {}, "vf-Def-1"),
        (
            "a",
            {"com.docker.compose.service": "Web_s", "com.docker.compose.project": "My_Proj"},
            "Web-s-My-Proj",
        ),
    ],
)
def test_default_names(name: str, labels: dict[str, str], expected: str) -> None:
    """As 3.7.15 named the routers of such containers."""
    assert default_name(container(name, labels)) == expected


@pytest.mark.parametrize(
    ("change", "subject", "said"),
    [
        ({"labels": {**SERVED, H + "routers.tts.foo": "1"}}, "label", "routers.tts.foo"),
        ({"labels": {"traefik.enable": "true"}}, "port", "exposes no port"),
        ({"networks": {}}, "network", "no address"),
        ({"networks": {"none": ""}}, "network", "no address"),
        (
            {"labels": {**SERVED, H + "services.w.weighted.services[0].name": "a"}},
            "service",
            '"w": load-balancer is not defined',
        ),
    ],
)
def test_why_a_container_is_dropped(change: dict[str, Any], subject: str, said: str) -> None:
    dropped = read(container(**change)).dropped
    assert dropped is not None
    assert dropped.subject == subject
    assert said in dropped.found
    assert dropped.remedy


def test_a_container_with_tcp_labels_only_gets_no_http_router() -> None:
    labels = {"traefik.enable": "true", "traefik.tcp.routers.t.rule": "HostSNI(`*`)"}
    reading = read(container(labels=labels))
    assert (reading.routers, reading.services, reading.dropped) == ({}, {}, None)


@pytest.mark.parametrize(
    ("labels", "state", "wanted"),
    [
        (SERVED, "running", True),
        ({**SERVED, "traefik.enable": "false"}, "running", False),
        ({**SERVED, "traefik.enable": "yes"}, "running", True),
        (SERVED, "exited", False),
        (SERVED, "restarting", True),
        ({"com.example": "x"}, "running", False),
        ({"trafik.enable": "true"}, "running", True),
    ],
)
def test_which_containers_count(labels: dict[str, str], state: str, wanted: bool) -> None:
    assert read(container(labels=labels, state=state)).wanted is wanted


def test_a_router_without_service_takes_the_only_one() -> None:
    labels = {**SERVED}
    del labels[H + "routers.tts.service"]
    assert read(container(labels=labels)).routers["tts"]["service"] == "tts"
    two = read(container(labels={**labels, H + "services.b.loadbalancer.server.port": "81"}))
    assert "has 2: b, tts" in two.unlinked["tts"].found


def test_options_that_differ_are_named_with_their_containers() -> None:
    other = {
        **SERVED,
        H + "routers.tts.rule": "Path(`/b`)",
        H + "services.tts.loadbalancer.server.port": "81",
    }
    containers = Containers(
        [container("a"), container("b", other), container("c", SERVED, health="starting")]
    )
    assert containers.differences("routers", "tts") == ["rule: a has Path(`/`), b has Path(`/b`)"]
    assert containers.differences("services", "tts") == []
    cause = containers.why_missing("routers", "tts")
    assert cause is not None
    assert "deleted it" in cause.found


def test_why_a_router_is_missing() -> None:
    def why(*containers: Container) -> str:
        cause = Containers(containers).why_missing("routers", "tts")
        return f"{cause.found} | {cause.remedy}" if cause else "unknown"

    assert why() == "unknown"
    assert "container a: it is unhealthy" in why(container("a", health="unhealthy"))
    assert "container a is exited | docker start a" in why(container("a", state="exited"))
    unlabelled = {key: value for key, value in SERVED.items() if key != "traefik.enable"}
    assert 'set the label "traefik.enable"' in why(container("a", unlabelled))
    misspelt = {"traefik.enable": "true", "trafik.http.routers.tts.rule": "Path(`/`)"}
    assert 'write "traefik.http.routers.tts.rule"' in why(container("a", misspelt, ports=(80,)))
    assert why(container("a")) == "unknown"


def test_an_inspected_container() -> None:
    parsed = parse_inspected(
        {
            "Name": "/tts-1",
            "State": {"Status": "running", "Health": {"Status": "healthy"}},
            "Config": {"Labels": {"a": "b"}, "ExposedPorts": {"7860/tcp": {}, "53/udp": {}}},
            "HostConfig": {"NetworkMode": "web"},
            "NetworkSettings": {
                "Ports": {"80/tcp": None},
                "Networks": {"web": {"IPAddress": "172.18.0.2"}, "six": {"GlobalIPv6Address": "fd00::2"}},
            },
        }
    )
    networks = {"web": "172.18.0.2", "six": "fd00::2"}
    assert parsed == Container("tts-1", {"a": "b"}, "running", "healthy", networks, (80, 7860), False)
    assert parse_inspected({"Name": "/x", "State": {}, "Config": {"Labels": None}}).labels == {}
