# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Label keys and values against what Traefik 3.7.15 did with each of them (a container per row was run)."""

from __future__ import annotations

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _labels
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._labels import (
    BROKEN,
    DROPPED,
    IGNORED,
    check_label,
    check_labels,
    kind_of,
    nearest_key,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_keys import KEYS
from hypothesis import given, settings
from hypothesis import strategies as st

H = "traefik.http."


@pytest.mark.parametrize(
    ("key", "effect", "nearest"),
    [
        (
            H + "services.x.loadbalancer.healtcheck.path",
            DROPPED,
            H + "services.x.loadbalancer.healthcheck.path",
        ),
        (H + "routers.x.entrypoint", DROPPED, H + "routers.x.entrypoints"),
        (H + "routers.x.foo", DROPPED, ""),
        (H + "router.x.rule", DROPPED, H + "routers.x.rule"),
        (H + "routers.my.app.rule", DROPPED, H + "routers.my-app.rule"),
        (H + "services.x.loadbalancer.port", DROPPED, H + "services.x.loadbalancer.server.port"),
        (H + "services.x.loadbalancer.servers[0].url", DROPPED, H + "services.x.loadbalancer.server.url"),
        (H + "routers.x.tls.domain[2].main", DROPPED, H + "routers.x.tls.domains[2].main"),
        ("Traefik.http.routers.x.rule", DROPPED, H + "routers.x.rule"),
        ("traefik.httpx.routers.x.rule", DROPPED, H + "routers.x.rule"),
        ("Traefik.enable", DROPPED, "traefik.enable"),
        ("traefik.enabled", DROPPED, "traefik.enable"),
        ("traefik.docker.networks", DROPPED, "traefik.docker.network"),
        ("traefik.http", DROPPED, ""),
        ("trafik.http.routers.x.rule", IGNORED, H + "routers.x.rule"),
        ("trafik.enable", IGNORED, "traefik.enable"),
        ("traefik.htp.routers.x.rule", IGNORED, H + "routers.x.rule"),
        ("traefik.foo.bar", IGNORED, ""),
        ("traefik.swarm.network", IGNORED, "traefik.docker.network"),
        ("traefik.frontend.rule", IGNORED, ""),
        ("traefik.http.routers.rule", IGNORED, "traefik.http.routers.<name>.rule"),
        (H + "services.x.weighted.services[0].name", IGNORED, ""),
        (H + "serverstransports.x.insecureskipverify", IGNORED, ""),
        ("traefik.tls.options.x.minversion", IGNORED, ""),
    ],
)
def test_a_key_that_traefik_does_not_read(key: str, effect: str, nearest: str) -> None:
    problem = check_label(key, "true")
    assert problem is not None
    assert (problem.effect, problem.nearest) == (effect, nearest)
    assert problem.reason
    assert nearest in problem.remedy
    assert key in problem.remedy or "file provider" in problem.remedy


@pytest.mark.parametrize(
    "key",
    [
        "traefik.Enable",
        "traefik.HTTP.Routers.X.Rule",
        H + "routers.x.tls.domains[3].sans",
        H + "routers.x.tls.domains.main",
        H + "middlewares.x.headers.customrequestheaders.X-A.B",
        H + "middlewares.x.plugin.p.a.b",
        H + "services.x.loadbalancer.server.url",
        "com.docker.compose.project",
        "voicefleet.role",
        "traffic.light",
        "traefik-forward-auth.enable",
        "maintainer",
    ],
)
def test_a_key_that_is_right_or_none_of_traefiks(key: str) -> None:
    assert check_label(key, "true") is None


DURATION = H + "services.x.loadbalancer.healthcheck.interval"
BOOL = H + "middlewares.x.stripprefix.forceslash"
INT = H + "routers.x.priority"
PORT = H + "services.x.loadbalancer.server.port"
STRATEGY = H + "services.x.loadbalancer.strategy"


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (
            DURATION,
            ["10", "10s", "1h5m", "-1s", "1.5s", ".5s", "0", "+5s", "1µs", "1us"],
            ["10 seconds", "1d", "", "10S", "9e3s", "1_000", "٣s", " 10s", "s"],
        ),
        (
            BOOL,
            ["1", "t", "T", "TRUE", "True", "true", "0", "f", "FALSE"],
            ["yes", "no", "on", "", "tRue", " true"],
        ),
        ("traefik.enable", ["true", "0"], ["yes", "on", ""]),
        ("traefik.docker.lbswarm", ["true"], ["yes"]),
        (INT, ["5", "-5", "+5", "010"], ["high", "1_000", "0x10", "5.0", "1e3", "", " 5"]),
    ],
)
def test_a_value_is_read_as_go_reads_it(key: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        assert check_label(key, value) is None, value
    for value in bad:
        problem = check_label(key, value)
        assert problem is not None, value
        assert (problem.effect, problem.nearest) == (DROPPED, "")
        assert f'"{value}"' in problem.reason
        assert key in problem.remedy


@pytest.mark.parametrize("key", [H + "routers.x.tls", H + "middlewares.x.compress"])
def test_a_section_is_on_only_for_true(key: str) -> None:
    assert [check_label(key, value) for value in ("true", "TRUE", "false", "")] == [None] * 4
    for value in ("1", "yes", "t"):
        problem = check_label(key, value)
        assert problem is not None
        assert problem.effect == IGNORED
        assert "as off" in problem.reason


@pytest.mark.parametrize(("key", "value"), [(PORT, "http"), (PORT, "0"), (PORT, "65536"), (STRATEGY, "p2p")])
def test_a_value_that_is_read_and_cannot_work(key: str, value: str) -> None:
    problem = check_label(key, value)
    assert problem is not None
    assert problem.effect == BROKEN
    assert value in problem.reason


def test_the_nearest_strategy_is_named() -> None:
    problem = check_label(STRATEGY, "P2C")
    assert problem is not None
    assert "write p2c" in problem.remedy


def test_what_drops_the_container_comes_first() -> None:
    problems = check_labels(
        {"trafik.enable": "true", H + "routers.x.priority": "high", "traefik.enable": "true"}
    )
    assert [problem.effect for problem in problems] == [DROPPED, IGNORED]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(KEYS)), st.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True), st.data())
def test_every_key_is_known_and_one_slip_is_found(known: str, name: str, data: st.DataObject) -> None:
    """Any key with a name in it is valid, and so is its nearest key after one letter was lost."""
    key = known.replace("<name>", name).replace("[n]", "[0]").replace("<key>", "k").replace("<plugin>", "p")
    assert kind_of(key) == KEYS[known]
    assert nearest_key(key) == key
    last = key.rindex(".") + 1
    if len(key) - last > 6 and "<key>" not in known:
        lost = data.draw(st.integers(last, len(key) - 1))
        assert nearest_key(key[:lost] + key[lost + 1 :]) == key


def test_siblings_are_what_may_stand_there() -> None:
    assert "rule" in _labels.siblings(H + "routers.x.foo")
    assert _labels.siblings(H + "routers.x.tls.foo") == ["certresolver", "domains[n]", "options"]
