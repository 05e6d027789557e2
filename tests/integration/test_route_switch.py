# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes change under load and no request is lost; the same change made the naive way loses them.

The load is open: requests leave on a clock, each in a thread of its own, whatever became of those before. One
that is refused, cut, answered by another status or by another body has failed.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.filter.traefik_router import traefik_router
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_labels import labels_of
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_switch import live, to_carry
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import Snapshot

REQUESTS_PER_SECOND = 40
PORT = 8000
STRATEGY = {"tts-lbaaaaaa": "p2c", "tts-lbbbbbbb": "wrr", "tts-lbcccccc": "hrw"}
A, B, C = STRATEGY
# The base image has Python and no shell.
PYTHON = ["python3", "-I", "-S", "-c"]
# Traefik lists what is healthy, so that has to mean that it listens: on a busy machine that takes seconds.
IS_HEALTHY = f"""
import os, socket
assert not os.path.exists("/tmp/drain")
socket.create_connection(("127.0.0.1", {PORT}), 10)
"""
HEALTHY = {
    "test": ["CMD", *PYTHON, IS_HEALTHY],
    "interval": 5 * 10**8,
    "timeout": 10 * 10**9,
    "retries": 1,
}


class Load:
    """Requests on a clock, and what became of them."""

    def __init__(self, address: str, path: str, tls: bool = False) -> None:
        self.address, self.path = address, path
        self.context = ssl.create_default_context() if tls else None
        if self.context:  # Traefik's own certificate, signed by itself
            self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.answers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._end = threading.Event()

    @property
    def failed(self) -> dict[str, int]:
        return {answer: count for answer, count in self.answers.items() if answer != "200"}

    @contextmanager
    def running(self) -> Iterator[None]:
        clock = threading.Thread(target=self._run)
        clock.start()
        try:
            yield
        finally:
            self._end.set()
            clock.join()

    def _run(self) -> None:
        begin = time.monotonic()
        sent: list[threading.Thread] = []
        while not self._end.wait(max(0.0, begin + len(sent) / REQUESTS_PER_SECOND - time.monotonic())):
            sent.append(threading.Thread(target=self._ask))
            sent[-1].start()
        for thread in sent:
            thread.join()

    def _ask(self) -> None:
        answer = self.ask()[0]
        with self._lock:
            self.answers[answer] += 1

    def ask(self) -> tuple[str, dict[str, str]]:
        """V(200), another status, or what went wrong; and the headers."""
        connection = (
            http.client.HTTPSConnection(self.address, timeout=60, context=self.context)
            if self.context
            else http.client.HTTPConnection(self.address, timeout=60)
        )
        try:
            connection.request("GET", self.path)
            response = connection.getresponse()
            whole = b"a page" in response.read()
            status = str(response.status)
            return ("a body cut short" if status == "200" and not whole else status), dict(response.headers)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__, {}
        finally:
            connection.close()


class Service:
    """A service of replicas as role gpu_service labels them, with its router in a file."""

    def __init__(self, lab: Any, prefix: str) -> None:
        self.lab, self.prefix = lab, prefix
        self.fleet: dict[str, tuple[Any, dict[str, str]]] = {}
        self.made: list[Any] = []

    @property
    def labels(self) -> list[dict[str, str]]:
        return [labels for _container, labels in self.fleet.values()]

    def labels_of(self, replica: str, wanted: str) -> dict[str, str]:
        now = live(self.labels, "tts", wanted)
        own = labels_of(
            [
                {"name": wanted, "port": PORT, "strategy": STRATEGY[wanted]},
                {"name": replica, "port": PORT, "strategy": "wrr"},
                {
                    "name": f"{replica}-probe",
                    "rule": f"Host(`{replica}.replica.internal`)",
                    "service": replica,
                },
            ]
        )
        return {**to_carry(self.labels, now, wanted, PORT), **own}

    def start(self, replica: str, labels: dict[str, str]) -> str:
        """Start a container in the place of a replica's; answers the address that Traefik will list."""
        name = f"{self.prefix}-{replica}-{len(self.made)}"
        container = self.lab.run(name, labels, listen=PORT, healthcheck=HEALTHY)
        self.made.append(container)
        self.fleet[replica] = (container, labels)
        container.reload()
        return url_of(container)

    def close(self) -> None:
        for container in self.made:
            container.remove(force=True)


def url_of(container: Any) -> str:
    networks = container.attrs["NetworkSettings"]["Networks"]
    return f"http://{next(iter(networks.values()))['IPAddress']}:{PORT}"


def drain(container: Any) -> None:
    """What takes a replica out of Traefik: its health check fails. It answers all the while."""
    assert container.exec_run([*PYTHON, "open('/tmp/drain', 'w')"]).exit_code == 0


def servers(have: Snapshot, service: str) -> set[str]:
    item = have.named("service", f"{service}@docker") or {}
    return {server["url"] for server in (item.get("loadBalancer") or {}).get("servers") or []}


def write(directory: Path, service: str, rule: str = "PathPrefix(`/`)", **options: Any) -> None:
    """The file of a service, replaced in one step, with its fallback just below."""
    route = {"name": "tts", "rule": rule, "service": f"{service}@docker", **options}
    fallback = {**route, "service": "tts-unavailable", "middlewares": ["tts-unavailable"]}
    http_ = {
        "routers": {
            "tts": traefik_router(route),
            "tts-unavailable": traefik_router(fallback, fallback=True),
        },
        "services": {"tts-unavailable": {"loadBalancer": {"servers": []}}},
        "middlewares": {"tts-unavailable": {"headers": {"customResponseHeaders": {"Retry-After": "5"}}}},
    }
    new = directory / ".new"
    new.write_text(json.dumps({"http": http_}), encoding="utf-8")
    os.replace(new, directory / "tts.yml")


def router(have: Snapshot) -> dict[str, Any]:
    return have.named("router", "tts@file") or {}


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture
def traefik(lab: Any, dynamic: Path) -> Iterator[Any]:
    """A Traefik of the test's own."""
    write(dynamic, A)
    started = lab.traefik(
        "--entrypoints.secure.address=:443",
        dynamic=dynamic,
        ports={f"{port}/tcp": ("127.0.0.1", None) for port in (80, 443, 8080)},
    )
    started.wait_for(lambda have: router(have) != {})
    yield started
    started.container.remove(force=True)


@pytest.fixture
def empty(lab: Any, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service without replicas."""
    made = Service(lab, request.node.name.replace("_", "-")[5:35])
    yield made
    made.close()


@pytest.fixture
def service(empty: Service, traefik: Any) -> Service:
    """Two replicas that carry A, behind the router."""
    urls = {empty.start(replica, empty.labels_of(replica, A)) for replica in ("tts-1", "tts-2")}
    traefik.wait_for(lambda have: servers(have, A) == urls and router(have).get("status") == "enabled", 90)
    return empty


def test_a_changed_rule_priority_and_entry_point_lose_nothing(
    traefik: Any, dynamic: Path, service: Service
) -> None:
    load = Load(traefik.ports["80"], "/v1/audio/speech")
    changes: list[dict[str, Any]] = [
        {"rule": "PathPrefix(`/v1`)"},
        {"rule": "PathPrefix(`/v1`)", "priority": 7},
        {"rule": "PathPrefix(`/v1`)", "priority": 7, "entrypoints": ["web", "secure"]},
        {"rule": "PathPrefix(`/v1`) || Host(`tts.example.org`)", "priority": 1},
        {},
    ]
    with load.running():
        for change in changes * 3:
            write(dynamic, A, **change)
            traefik.wait_for(
                lambda have, wanted=change: (
                    router(have).get("rule") == wanted.get("rule", "PathPrefix(`/`)")
                    and len(router(have)["entryPoints"]) == len(wanted.get("entrypoints", ["web"]))
                    and router(have)["priority"] == wanted.get("priority", len(router(have)["rule"]))
                )
            )
    assert load.failed == {}
    assert load.answers["200"] > 100


def test_a_changed_tls_setting_loses_nothing(traefik: Any, dynamic: Path, service: Service) -> None:
    secure: dict[str, Any] = {"entrypoints": ["secure"], "tls": True}
    write(dynamic, A, **secure)
    traefik.wait_for(lambda have: router(have).get("entryPoints") == ["secure"])
    load = Load(traefik.ports["443"], "/v1/audio/speech", tls=True)
    with load.running():
        for host in ("a.example", "b.example", "c.example"):
            write(dynamic, A, **{**secure, "tls": {"domains": [{"main": host}]}})
            traefik.wait_for(lambda have, host=host: host in str(router(have).get("tls")))
    assert load.failed == {}
    assert load.answers["200"] > 20


def point(traefik: Any, dynamic: Path, service: str) -> None:
    """Point the router at a service, and see that Traefik has done so."""
    write(dynamic, service)
    traefik.wait_for(lambda have: router(have).get("service") == f"{service}@docker", 90)


def roll(traefik: Any, dynamic: Path, service: Service, wanted: str, replicas: list[str]) -> None:
    """Replace those replicas one by one, each by one that carries what the router uses now as well."""
    used = live(service.labels, "tts", wanted)
    point(traefik, dynamic, used)
    for replica in replicas:
        old = service.fleet[replica][0]
        new = service.start(replica, service.labels_of(replica, wanted))
        traefik.wait_for(
            lambda have, new=new, names=(used, wanted, replica): all(
                new in servers(have, name) for name in names
            ),
            90,
        )
        drain(old)
        traefik.wait_for(lambda have, old=old: url_of(old) not in servers(have, used), 90)
        found = traefik.wait_for(lambda have: True)
        assert router(found)["service"] == f"{used}@docker"
        assert len(servers(found, used)) == len(service.fleet)


def switch(traefik: Any, dynamic: Path, service: Service, wanted: str) -> None:
    """Point the router at what all replicas carry."""
    assert live(service.labels, "tts", wanted) == wanted
    point(traefik, dynamic, wanted)


def test_changed_options_of_the_load_balancer_lose_nothing(
    traefik: Any, dynamic: Path, service: Service
) -> None:
    load = Load(traefik.ports["80"], "/v1/audio/speech")
    with load.running():
        roll(traefik, dynamic, service, B, ["tts-1", "tts-2"])
        switch(traefik, dynamic, service, B)
        traefik.wait_for(lambda have: "tts@file" in (have.named("service", f"{B}@docker") or {})["usedBy"])
    assert load.failed == {}
    assert load.answers["200"] > 100
    have = traefik.wait_for(lambda have: True)
    # What was carried for the old router's sake stays, used by nobody, and no other service lost anything.
    assert len(servers(have, A)) == len(servers(have, B)) == 2
    assert have.named("service", f"{A}@docker").get("usedBy") is None
    assert {item["status"] for item in have.services + have.routers} == {"enabled"}


def test_cut_off_half_way_and_then_to_another_loses_nothing(
    traefik: Any, dynamic: Path, service: Service
) -> None:
    load = Load(traefik.ports["80"], "/v1/audio/speech")
    with load.running():
        roll(traefik, dynamic, service, B, ["tts-1"])
        # Here the run was killed; the next one wants a third set of options.
        roll(traefik, dynamic, service, C, ["tts-1", "tts-2"])
        switch(traefik, dynamic, service, C)
        # And back to what ran first, which some of them happen to carry still.
        roll(traefik, dynamic, service, A, ["tts-1", "tts-2"])
        switch(traefik, dynamic, service, A)
    assert load.failed == {}
    assert load.answers["200"] > 100


def test_changed_options_under_one_name_are_an_outage(traefik: Any, lab: Any) -> None:
    """What the other tests avoid: they would pass for nothing if this did not fail."""

    def labels(strategy: str) -> dict[str, str]:
        return labels_of({"name": "naive", "rule": "Path(`/naive`)", "port": PORT, "strategy": strategy})

    old = lab.run("naive-1", labels("p2c"), listen=PORT, healthcheck=HEALTHY)
    traefik.wait_for(lambda have: len(servers(have, "naive")) == 1, 90)
    load = Load(traefik.ports["80"], "/naive")
    with load.running():
        new = lab.run("naive-2", labels("wrr"), listen=PORT, healthcheck=HEALTHY)
        traefik.wait_for(lambda have: have.named("service", "naive@docker") is None, 90)
        deadline = time.monotonic() + 60
        while not load.failed and time.monotonic() < deadline:
            time.sleep(0.05)
    assert load.failed.keys() & {"404", "503"}, load.answers
    for container in (old, new):
        container.remove(force=True)


def test_without_replicas_callers_are_told_to_come_again(traefik: Any, empty: Service) -> None:
    """The router's file may come before the first replica, and outlive the last: it recovers by itself."""
    load = Load(traefik.ports["80"], "/v1/audio/speech")
    assert router(traefik.wait_for(lambda have: True))["status"] == "disabled"
    status, headers = load.ask()
    assert (status, headers.get("Retry-After")) == ("503", "5")

    empty.start("tts-1", empty.labels_of("tts-1", A))
    traefik.wait_for(lambda have: router(have).get("status") == "enabled", 90)
    assert load.ask()[0] == "200"

    drain(empty.fleet["tts-1"][0])
    traefik.wait_for(lambda have: router(have).get("status") == "disabled", 90)
    status, headers = load.ask()
    assert (status, headers.get("Retry-After")) == ("503", "5")
