# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way in which Traefik loses a container, as a real container behind a real Traefik.

All rows run at once under one Traefik. For each the failed checks are compared by name, so that a check that
is missing, and one that has nothing to do with the row, are both seen. The healthy neighbours must have none.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._docker_provider import Containers
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import TraefikApi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_checks import Expectations
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_containers import read_containers
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_verify import (
    Engine,
    Result,
    Verifier,
)

H = "traefik.http."
ON = {"traefik.enable": "true"}
# Routers of the file provider: more than one page of the API.
MANY = 250


def served(name: str) -> dict[str, str]:
    """Labels of a container that is right."""
    return {
        **ON,
        f"{H}routers.{name}.rule": f"Path(`/{name}`)",
        f"{H}routers.{name}.entrypoints": "web",
        f"{H}routers.{name}.service": name,
        f"{H}services.{name}.loadbalancer.server.port": "80",
    }


@dataclass(frozen=True)
class Row:
    """One row: labels to add to a container that is right, and the checks that must fail.

    C(labels) are one dictionary for each container; None as a value takes the label away. {n} is the row's
    name, {c} its container's. C(failed) maps the name of each check that must fail to a pattern for
    "<found> | <wanted> | <remedy>".
    """

    name: str
    labels: list[dict[str, str | None]]
    failed: dict[str, str] = field(default_factory=dict)
    listen: int | None = 80
    options: dict[str, Any] = field(default_factory=dict)
    # Routers that are to be there; {n} by default.
    routers: tuple[str, ...] = ("{n}",)

    def containers(self) -> dict[str, dict[str, str]]:
        made = {}
        for number, changes in enumerate(self.labels):
            labels: dict[str, str | None] = {**served(self.name)}
            labels.update({key.format(n=self.name): value for key, value in changes.items()})
            suffix = "" if len(self.labels) == 1 else f"-{number + 1}"
            made[self.name + suffix] = {
                key: v.format(n=self.name) for key, v in labels.items() if v is not None
            }
        return made


ROUTER, SERVICE = H + "routers.{n}.", H + "services.{n}.loadbalancer."
NO_ROUTER = dict.fromkeys((ROUTER + "rule", ROUTER + "entrypoints", ROUTER + "service"))
GONE = {"router {n}@docker": "absent", "container {c}: router {n}@docker": "absent"}


def dropped(key: str, pattern: str) -> dict[str, str]:
    """The checks of a container that Traefik dropped for one label."""
    name = re.escape(key).replace(r"\{n\}", "{n}")
    return {
        f'container {{c}}: label "{key}"': pattern,
        "container {c}: router {n}@docker": f"absent: Traefik dropped the container: label .{name}",
        "router {n}@docker": f"absent: container {{c}}: Traefik dropped it: label .{name}.*container {{c}}: ",
    }


def disabled(pattern: str) -> dict[str, str]:
    return {"router {n}@docker": pattern, "container {c}: router {n}@docker": pattern}


def both(checks: dict[str, str], name: str = "container {c}: ") -> dict[str, str]:
    """The same of two containers."""
    return {
        key.replace("{c}", f"{{c}}-{number}"): value
        for number in (1, 2)
        for key, value in checks.items()
        if key.startswith(name)
    } | {key: value for key, value in checks.items() if not key.startswith(name)}


ROWS = [
    Row("good", [{}]),
    Row("pair", [{}, {}]),
    Row("by-default", [{ROUTER + "entrypoints": "web", SERVICE + "passhostheader": "true"}, {}]),
    Row("right-case", [{ROUTER + "rule": None, "traefik.HTTP.Routers.{n}.Rule": "Path(`/{n}`)"}]),
    Row("ten-seconds", [{SERVICE + "responseforwarding.flushinterval": v} for v in ("10s", "10000ms")]),
    # A key or a value that Traefik cannot read: it drops the container.
    Row(
        "unknown-option",
        [{ROUTER + "foo": "1"}],
        dropped(ROUTER + "foo", "unknown to Traefik.*valid in its place: .*entrypoints.*rule"),
    ),
    Row(
        "healtcheck",
        [{SERVICE + "healtcheck.path": "/"}],
        dropped(SERVICE + "healtcheck.path", r"\| " + SERVICE + r"healthcheck.path \| write"),
    ),
    Row(
        "ten-seconds-in-words",
        [{SERVICE + "healthcheck.interval": "10 seconds"}],
        dropped(SERVICE + "healthcheck.interval", '"10 seconds" is not a duration.*"10s"'),
    ),
    Row("high", [{ROUTER + "priority": "high"}], dropped(ROUTER + "priority", '"high" is not an integer')),
    Row(
        "big-root", [{"Traefik.http.x": "1"}], dropped("Traefik.http.x", 'the root must be exactly "traefik"')
    ),
    Row("docker-key", [{"traefik.docker.net": "x"}], dropped("traefik.docker.net", "traefik.docker.network")),
    Row("enable-yes", [{"traefik.enable": "yes"}], dropped("traefik.enable", '"yes" is not a bool.*"true"')),
    Row(
        "dotted",
        [{H + "routers.my.app.rule": "Path(`/`)"}],
        dropped(H + "routers.my.app.rule", r"must not contain a dot.*routers\.my-app\.rule")
        | {"container {c}: router my@docker": "absent"},
    ),
    Row(
        "servers-url",
        [{SERVICE + "servers[0].url": "http://x"}],
        dropped(SERVICE + "servers[0].url", r"\| " + SERVICE + r"server\.url"),
    ),
    # A key that Traefik ignores without a word.
    Row(
        "misspelt-root",
        [{**NO_ROUTER, "trafik.http.routers.{n}.rule": "Path(`/`)"}],
        {
            'container {c}: label "trafik.http.routers.{n}.rule"': r"\| traefik.http.routers.{n}.rule \|",
            "router {n}@docker": 'container {c}: label "trafik.http.*write "traefik.http.routers.{n}.rule"',
            "unwanted router {c}@docker": "made by container {c}, whose label.*Traefik ignores.*write",
        },
    ),
    Row(
        "misspelt-protocol",
        [{**NO_ROUTER, "traefik.htp.routers.{n}.rule": "Path(`/`)"}],
        {
            'container {c}: label "traefik.htp.routers.{n}.rule"': r"\| traefik.http.routers.{n}.rule \|",
            "router {n}@docker": 'container {c}: label "traefik.htp.*write "traefik.http.routers.{n}.rule"',
            "unwanted router {c}@docker": "made by container {c}, whose label.*Traefik ignores.*write",
        },
    ),
    Row(
        "foo-bar",
        [{"traefik.foo.bar": "1"}],
        {'container {c}: label "traefik.foo.bar"': "ignores it without"},
    ),
    Row("swarm", [{"traefik.swarm.network": "x"}], {'container {c}: label "traefik.swarm.network"': "Swarm"}),
    Row(
        "transports",
        [{H + "serverstransports.{n}.insecureskipverify": "true"}],
        {f'container {{c}}: label "{H}serverstransports.{{n}}.insecureskipverify"': "by labels.*file"},
    ),
    Row(
        "tls-yes",
        [{ROUTER + "tls": "yes"}],
        {f'container {{c}}: label "{ROUTER}tls"': 'reads the value "yes" as off'},
    ),
    Row(
        "misspelt-enable",
        [{"traefik.enable": None, "trafik.enable": "true"}],
        {
            'container {c}: label "trafik.enable"': r"\| traefik.enable \|",
            "container {c}: router {n}@docker": 'no label traefik.enable.*write "traefik.enable" instead',
            "router {n}@docker": 'no label traefik.enable.*write "traefik.enable" instead',
            "service {n}@docker": "no label traefik.enable",
        },
    ),
    # What Traefik cannot build; its API says so.
    Row(
        "no-service",
        [{ROUTER + "service": "nowhere"}],
        disabled('"nowhere@docker" does not exist.*define the ser'),
    ),
    Row(
        "no-middleware",
        [{ROUTER + "middlewares": "nothing@docker"}],
        disabled('"nothing@docker" does not exist'),
    ),
    Row(
        "bad-middleware",
        [{ROUTER + "middlewares": "{n}", H + "middlewares.{n}.ipallowlist.sourcerange": "x"}],
        disabled("cannot parse CIDR"),
    ),
    Row(
        "no-plugin",
        [{ROUTER + "middlewares": "{n}", H + "middlewares.{n}.plugin.magic.key": "x"}],
        disabled("disabled: .*magic"),
    ),
    Row(
        "no-tls-options",
        [{ROUTER + "rule": "Host(`{n}.example`)", ROUTER + "tls.options": "strange@file"}],
        disabled("disabled: .*unknown TLS options: strange@file"),
    ),
    Row(
        "tls-options-without-host",
        [{ROUTER + "tls.options": "strange@file"}],
        disabled("absent: Traefik serves it as web-conflicted-{n}@docker.*name a host in its rule"),
    ),
    Row("no-function", [{ROUTER + "rule": "Pathh(`/x`)"}], disabled("Pathh.*correct the router's rule")),
    Row(
        "no-entrypoint",
        [{ROUTER + "entrypoints": "nowhere"}],
        disabled('"nowhere" doesn.t exist.*define the entry'),
    ),
    Row(
        "some-entrypoint",
        [{ROUTER + "entrypoints": "web,nowhere"}],
        disabled('warning: .*"nowhere" doesn.t exist'),
    ),
    Row(
        "strategy",
        [{SERVICE + "strategy": "P2C"}],
        disabled("unsupported load-balancer strategy")
        | {
            f'container {{c}}: label "{SERVICE}strategy"': 'strategy "P2C" does not exist.*write p2c',
            "service {n}@docker": "unsupported load-balancer strategy",
        },
    ),
    Row(
        "no-transport",
        [{SERVICE + "serverstransport": "strange@file"}],
        disabled("servers transport not found") | {"service {n}@docker": "servers transport not found"},
    ),
    Row(
        "port-name",
        [{SERVICE + "server.port": "http"}],
        disabled("invalid port")
        | {
            f'container {{c}}: label "{SERVICE}server.port"': '"http" is not a port',
            "service {n}@docker": "invalid port",
        },
    ),
    # One name, several containers.
    Row(
        "two-services-differ",
        [{SERVICE + "passhostheader": "true"}, {SERVICE + "passhostheader": "false"}],
        both(
            disabled("does not exist.*differ in loadbalancer.passhostheader: {c}-1 has true, {c}-2 has false")
        )
        | {
            "service {n}@docker: the same on every container": "{c}-1 has true, {c}-2 has false.*same labels",
            "service {n}@docker": "absent: Traefik deleted it",
        },
    ),
    Row(
        "two-middlewares-differ",
        [
            {ROUTER + "middlewares": "{n}", H + "middlewares.{n}.addprefix.prefix": "/a"},
            {ROUTER + "middlewares": "{n}", H + "middlewares.{n}.addprefix.prefix": "/b"},
        ],
        both(disabled('middleware "{n}@docker" does not exist.*{c}-1 has /a, {c}-2 has /b'))
        | {"middleware {n}@docker: the same on every container": "{c}-1 has /a, {c}-2 has /b"},
    ),
    Row(
        "two-routers-differ",
        [{}, {ROUTER + "rule": "Path(`/other`)"}],
        both(
            {
                "router {n}@docker": "deleted it.*rule: {c}-1 has",
                "container {c}: router {n}@docker": "deleted it",
            }
        )
        | {"router {n}@docker: the same on every container": "{c}-2 has Path"},
    ),
    Row(
        "two-without-service",
        [{ROUTER + "service": None, SERVICE + "server.port": None}] * 2,
        both(
            {
                "router {n}@docker": "deleted it.*service: {c}-1 has",
                "container {c}: router {n}@docker": "deleted",
            }
        )
        | {"router {n}@docker: the same on every container": "{c}-1 has {c}-1.*the service among them"},
        options={"ports": {"80/tcp": None}},
    ),
    # Ports and networks.
    Row(
        "no-port",
        [{SERVICE + "server.port": None, SERVICE + "passhostheader": "true"}],
        {
            "container {c}: port": "no port label, and the image exposes no port.*" + SERVICE + "server.port",
            **dict.fromkeys(GONE, "absent.*no port label"),
        },
    ),
    Row(
        "wrong-port",
        [{SERVICE + "server.port": "81"}],
        {"container {c}: port 81 of service {n}": r"nothing listens on .*:81;.*502 .*exposes 80\).* to 80"},
        options={"ports": {"80/tcp": None}},
    ),
    Row(
        "no-network",
        [{}],
        {
            "container {c}: network": "no address in any network",
            **dict.fromkeys(GONE, "absent.*no address"),
        },
        options={"network_mode": "none"},
    ),
    Row(
        "absent-network",
        [{"traefik.docker.network": "absent"}],
        {"container {c}: network": 'names absent, which is none of .*bridge.*any.*to "bridge"'},
    ),
    Row(
        "foreign-network",
        [{}],
        {"container {c}: network": "{id}-foreign \\| one of Traefik's: bridge.*attach"},
        options={"network": "{id}-foreign"},
    ),
    Row("host-network", [{}], options={"network_mode": "host"}, listen=None),
    Row(
        "unlinked",
        [{ROUTER + "service": None, H + "services.{n}-b.loadbalancer.server.port": "80"}],
        dict.fromkeys(GONE, "absent.*names no service, and the container has 2.*routers.{n}.service"),
    ),
    Row(
        "weighted",
        [{SERVICE + "server.port": None, H + "services.{n}.weighted.services[0].name": "a"}],
        {
            f'container {{c}}: label "{H}services.{{n}}.weighted.services[0].name"': "be set by labels",
            "container {c}: service": "load-balancer is not defined",
            **dict.fromkeys(GONE, "absent.*load-balancer is not defined"),
        },
    ),
    # Certificates: the router is enabled, and Traefik serves its own.
    Row(
        "no-resolver",
        [{ROUTER + "rule": "Host(`{n}.example`)", ROUTER + "tls.certresolver": "nowhere"}],
        {"certificate for {n}.example": "none: .*self-signed.*resolver nowhere"},
    ),
    Row(
        "skipped-resolver",
        [{ROUTER + "rule": "Host(`{n}.example`)", ROUTER + "tls.certresolver": "skipped"}],
        {"certificate for {n}.example": "none: .*self-signed.*acme.json must have mode 0600"},
    ),
    # State.
    Row(
        "unhealthy",
        [{}],
        {
            "container {c}: in rotation": "running unhealthy.*docker logs {c}",
            "router {n}@docker": "absent: container {c}: it is unhealthy",
        },
        options={"healthcheck": {"test": ["CMD", "false"], "interval": 10**9 // 2, "retries": 1}},
    ),
    Row(
        "plain",
        [{key: None for key in served("{n}") if key != "traefik.enable"}],
        options={"ports": {"80/tcp": None}},
        failed={"unwanted router {c}@docker": "most likely made by container {c}.*stop container {c}"},
        routers=(),
    ),
    Row(
        "off",
        [{"traefik.enable": "false", ROUTER + "foo": "1"}],
        {"router {n}@docker": "absent: container {c} has the label traefik.enable=false"},
    ),
]


@pytest.fixture(scope="module")
def traefik(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The Traefik that has all rows."""
    dynamic, acme = tmp_path_factory.mktemp("dynamic"), tmp_path_factory.mktemp("acme")
    routers = "".join(f"    many-{n}: {{rule: 'Path(`/many-{n}`)', service: many}}\n" for n in range(MANY))
    services = "    many: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}\n"
    (dynamic / "many.yml").write_text(
        f"http:\n  routers:\n{routers}  services:\n{services}", encoding="utf-8"
    )
    (acme / "acme.json").write_text("", encoding="utf-8")
    (acme / "acme.json").chmod(0o644)
    lab.network("foreign")

    def start(row: Row, name: str, labels: dict[str, str]) -> None:
        options = {**row.options}
        if "network" in options:
            options["network"] = options["network"].format(id=lab.id)
        lab.run(name, labels, listen=row.listen, **options)

    lab.run_all(
        [
            lambda row=row, name=name, labels=labels: start(row, name, labels)
            for row in ROWS
            for name, labels in row.containers().items()
        ]
    )
    started = lab.traefik(
        "--certificatesresolvers.skipped.acme.email=a@b.example",
        "--certificatesresolvers.skipped.acme.storage=/acme/acme.json",
        "--certificatesresolvers.skipped.acme.tlschallenge=true",
        "--entrypoints.secure.address=:443",
        dynamic=dynamic,
        volumes={str(acme): {"bind": "/acme", "mode": "rw"}},
        ports={f"{port}/tcp": ("127.0.0.1", None) for port in (80, 443, 8080)},
    )
    started.wait_for(lambda have: {"good@docker", "many-0@file"} <= {item["name"] for item in have.routers})
    return started


def wanted() -> Expectations:
    many = [{"name": f"many-{number}@file", "service": "many"} for number in range(MANY)]
    routers = [{"name": name.format(n=row.name)} for row in ROWS for name in row.routers]
    return Expectations(routers=[*routers, *many], exclusive=True)


@pytest.fixture(scope="module")
def result(lab: Any, traefik: Any) -> Result:
    engine = Engine(lab.engine, [f"vf.test={lab.id}"], traefik_container=traefik.name)
    return Verifier(TraefikApi(traefik.api_url, per_page=100), wanted(), engine).look()


def is_about(check: Check, row: Row, lab: Any) -> bool:
    """Whether a check names the row: its container, its router or service, or its host."""
    return re.search(rf"(?<![\w-])(?:{lab.id}-)?{row.name}(?:-[12])?(?![\w-])", check.name) is not None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, lab: Any, result: Result) -> None:
    def fill(text: str) -> str:
        return text.replace("{n}", row.name).replace("{c}", f"{lab.id}-{row.name}").replace("{id}", lab.id)

    about = [check for check in result.checks if is_about(check, row, lab)]
    failed = {check.name: check for check in about if not check.ok}
    assert set(failed) == {fill(name) for name in row.failed}, failed
    for name, pattern in row.failed.items():
        check = failed[fill(name)]
        assert re.search(fill(pattern), f"{check.found} | {check.wanted} | {check.remedy}"), check
        assert check.remedy
    if row.failed == {}:
        assert f"router {row.name}@docker" in {check.name for check in about}


def test_no_check_fails_that_belongs_to_no_row(lab: Any, result: Result) -> None:
    strays = [c for c in result.checks if not c.ok and not any(is_about(c, row, lab) for row in ROWS)]
    assert strays == []


def test_all_pages_are_read(traefik: Any, result: Result) -> None:
    """The fixture asks for pages of 100; one page alone must not be enough."""
    assert result.snapshot is not None
    names = {router["name"] for router in result.snapshot.routers}
    assert {f"many-{number}@file" for number in range(MANY)} <= names
    assert (
        len(TraefikApi(traefik.api_url)._json("", TraefikApi(traefik.api_url)._get("/api/http/routers")))
        == 100
    )


def test_traefik_drops_what_we_say_it_drops_and_nothing_else(traefik: Any, lab: Any) -> None:
    """Traefik logs an error for each container that it leaves out: the same that the model leaves out."""
    containers = Containers(read_containers(lab.engine, [f"vf.test={lab.id}"]))
    predicted = {reading.name for reading in containers.served if reading.dropped}
    logged = set()
    for line in traefik.container.logs().decode().splitlines():
        entry = json.loads(line)
        skipped = re.fullmatch(r"Skip container (.+)", entry.get("message", ""))
        if skipped:
            logged.add(skipped[1])
        elif entry.get("level") == "error" and "container" in entry:
            logged.add(re.sub(r"-[0-9a-f]{64}$", "", entry["container"]))
    assert logged == predicted
    assert len(predicted) > 10
