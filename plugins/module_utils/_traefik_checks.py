# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was asked for against what Traefik's API has: routers, services, middlewares, entry points.

This module util is private to the collection. Pure: a snapshot and expectations in, checks out.
"""

from __future__ import annotations

import fnmatch
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._docker_provider import Cause, Containers
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import version_tuple
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import Item, Snapshot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_keys import TRAEFIK_VERSION

Options = t.Mapping[str, t.Any]

# Traefik 3.7 serves a router whose TLS options it cannot apply (no host in the rule, or other options for the
# same host on another router) under "<entry point>-conflicted-<name>" and no longer under its own name.
CONFLICTED = "-conflicted-"


@dataclass(frozen=True)
class Expectations:
    """What is asked for. The items are the module's options; one that is None or absent is not looked at."""

    provider: str | None = "docker"
    traefik_version: str | None = None
    routers: list[Options] = field(default_factory=list)
    services: list[Options] = field(default_factory=list)
    middlewares: list[Options] = field(default_factory=list)
    entrypoints: list[Options] = field(default_factory=list)
    exclusive: bool = False
    ignore: list[str] = field(default_factory=list)

    def qualified(self, name: str) -> str:
        """V(speech) -> V(speech@docker); a name with its provider stays."""
        return name if "@" in name or not self.provider else f"{name}@{self.provider}"


def check_expectations(want: Expectations, have: Snapshot, containers: Containers | None) -> list[Check]:
    """One check for each thing asked for; of a thing that is absent only the absence."""
    checks = []
    if want.traefik_version:
        checks.append(_version(want.traefik_version, have.version))
    if want.provider:
        checks.append(_provider(want.provider, have.providers))
    for entrypoint in want.entrypoints:
        checks += _entrypoint(entrypoint, have)
    for middleware in want.middlewares:
        checks += _middleware(want, middleware, have, containers)
    for service in want.services:
        checks += _service(want, service, have, containers)
    for router in want.routers:
        checks += _router(want, router, have, containers)
    if want.exclusive:
        checks += _unwanted(want, have, containers)
    return checks


def _version(wanted: str, found: str) -> Check:
    """V(3.7.15) that version, V(3.7) any of 3.7, V(>=3.6.1) that one or newer."""
    remedy = "install the wanted version of Traefik, or correct traefik_version"
    figures = version_tuple(wanted.lstrip(">= "))
    if wanted.startswith(">="):
        ok = version_tuple(found) >= figures
    else:
        ok = version_tuple(found)[: len(figures)] == figures
    return check("Traefik's version", ok, found, wanted, remedy)


def _provider(wanted: str, providers: list[str]) -> Check:
    ok = wanted.lower() in (provider.lower() for provider in providers)
    remedy = f"enable providers.{wanted} in Traefik's static configuration"
    return check(f"provider {wanted}", ok, ", ".join(providers) or "none", wanted, remedy)


def _entrypoint(want: Options, have: Snapshot) -> list[Check]:
    name = want["name"]
    found = {item.get("name"): item for item in have.entrypoints}
    if name not in found:
        remedy = f"define entryPoints.{name} in Traefik's static configuration, or correct the name"
        return [Check(f"entry point {name}", False, _listed(found), name, remedy)]
    address = found[name].get("address", "")
    if not want.get("address"):
        return [Check(f"entry point {name}", True, address, "present")]
    # Traefik allows the protocol behind it: ":443/tcp".
    ok = address.removesuffix("/tcp") == want["address"].removesuffix("/tcp")
    remedy = f"correct entryPoints.{name}.address in Traefik's static configuration"
    return [check(f"entry point {name}", ok, address, want["address"], remedy)]


def missing(kind: str, name: str, have: t.Iterable[Item], containers: Containers | None) -> Check:
    """The failed check for a router, service or middleware that Traefik does not have, with the reason.

    C(kind) is the singular, C(name) has its provider.
    """
    bare, _unused, provider = name.rpartition("@")
    renamed = next((item for item in have if str(item.get("name", "")).endswith(CONFLICTED + name)), None)
    if renamed:
        errors = "; ".join(
            str(error) for error in renamed.get("error") or ["its own TLS options are not applied"]
        )
        found = f"absent: Traefik serves it as {renamed['name']} with the default TLS options: {errors}"
        remedy = (
            "name a host in its rule, and give every router of that host the same TLS options, which exist"
        )
        return Check(f"{kind} {name}", False, found, "present", remedy)
    cause = containers.why_missing(f"{kind}s", bare) if containers and provider == "docker" else None
    if not cause:
        others = sorted(str(item.get("name", "")) for item in have)
        same = [other for other in others if other.rpartition("@")[0] == bare]
        if same:
            remedy = f"it is there as {', '.join(same)}: correct the name"
        elif provider == "file":
            remedy = (
                "define it in a file of the file provider's directory; one bad file there stops all of them"
            )
        elif provider == "docker" and containers and containers.serving(f"{kind}s", bare):
            makers = ", ".join(reading.name for reading in containers.serving(f"{kind}s", bare))
            remedy = (
                f"{makers} defines it, with labels that Traefik {TRAEFIK_VERSION} reads: wait (Traefik "
                "follows the engine within 2 s), else look for it in Traefik's log; an older Traefik does "
                "not know every label"
            )
        elif provider == "docker" and containers:
            remedy = "no container has a label that defines it: start one, or correct the name"
        elif provider == "docker":
            remedy = "set containers to true to find out which container Traefik dropped, and why"
        else:
            remedy = "define it, or correct the name"
        cause = Cause("Traefik has no such " + kind, remedy)
    return Check(f"{kind} {name}", False, f"absent: {cause.found}", "present", cause.remedy)


def status_check(kind: str, item: Item, wanted: str, containers: Containers | None = None) -> Check:
    """Whether an item of the API is enabled, with Traefik's own words when it is not."""
    found = str(item.get("status", "unknown"))
    errors = "; ".join(str(error) for error in item.get("error") or [])
    remedy = _status_remedy(errors, containers)
    text = f"{found}: {errors}" if errors else found
    return check(f"{kind} {item.get('name')}", found == wanted, text, wanted, remedy)


def _status_remedy(errors: str, containers: Containers | None) -> str:
    lost = re.search(r'(service|middleware) "([^"]+)@(\w+)" does not exist', errors)
    if lost:
        kind, name, provider = lost.groups()
        cause = containers.why_missing(f"{kind}s", name) if containers and provider == "docker" else None
        if cause:
            return f"{cause.found}; {cause.remedy}"
        return f"define the {kind} {name}@{provider}, or correct its name or its provider in the router"
    if "entryPoint" in errors or "entry point" in errors:
        return "define the entry point in Traefik's static configuration, or correct the router's entrypoints"
    if "strategy" in errors:
        return "use one of the strategies wrr, p2c, hrw, leasttime"
    if "rule" in errors:
        return "correct the router's rule"
    return "correct what Traefik names" if errors else "look at Traefik's log"


def _middleware(
    want: Expectations, item: Options, have: Snapshot, containers: Containers | None
) -> list[Check]:
    name = want.qualified(item["name"])
    found = have.named("middleware", name)
    if not found:
        return [missing("middleware", name, have.middlewares, containers)]
    checks = [status_check("middleware", found, "enabled", containers)]
    if item.get("type"):
        kind = str(found.get("type", "unknown"))
        ok = kind.lower() == item["type"].lower()
        checks.append(check(f"middleware {name}: type", ok, kind, item["type"], "correct its definition"))
    return checks


def _service(want: Expectations, item: Options, have: Snapshot, containers: Containers | None) -> list[Check]:
    name = want.qualified(item["name"])
    found = have.named("service", name)
    if not found:
        return [missing("service", name, have.services, containers)]
    checks = [status_check("service", found, item.get("status") or "enabled", containers)]
    urls = server_urls(found)
    if item.get("servers") is not None:
        text = f"{len(urls)}: {', '.join(urls)}" if urls else "0"
        remedy = "look which of its containers do not run, are not healthy, or were dropped by Traefik"
        checks.append(
            check(
                f"service {name}: number of servers",
                len(urls) == item["servers"],
                text,
                item["servers"],
                remedy,
            )
        )
    if item.get("urls") is not None:
        wanted = sorted(url.rstrip("/") for url in item["urls"])
        ok = sorted(url.rstrip("/") for url in urls) == wanted
        remedy = "look at the network and the port of its servers"
        checks.append(check(f"service {name}: servers", ok, _listed(urls), _listed(wanted), remedy))
    if item.get("strategy"):
        # Before 3.4 there was one strategy, and the API did not name it.
        strategy = (found.get("loadBalancer") or {}).get("strategy", "wrr")
        remedy = f"set the strategy of its load balancer to {item['strategy']}"
        checks.append(
            check(
                f"service {name}: strategy", strategy == item["strategy"], strategy, item["strategy"], remedy
            )
        )
    if item.get("all_up", True):
        checks.append(all_up(name, found))
    return checks


def server_urls(service: Item) -> list[str]:
    """URLs (addresses) of a service's servers, sorted; empty texts for servers without one."""
    servers = (service.get("loadBalancer") or {}).get("servers") or []
    return sorted(str(server.get("url") or server.get("address") or "") for server in servers)


def all_up(name: str, service: Item) -> Check:
    """Every server UP. A service without servers, or one with an empty address, is not."""
    what, remedy = f"service {name}: all servers up", "look at the server's own health and its log"
    if "loadBalancer" not in service:  # weighted, mirroring, failover: their parts are services of their own
        kind = service.get("type", "internal")
        return Check(what, True, f"{kind}: has no servers of its own", "every server UP")
    urls = server_urls(service)
    status = service.get("serverStatus") or {}
    if not urls:
        return Check(what, False, "no server", "every server UP", "start a healthy container for it")
    if "" in urls:
        remedy = (
            "a container that is not healthy stayed as a server without address: turn allowEmptyServices off"
        )
        return Check(what, False, "a server without address", "every server UP", remedy)
    # A Traefik that gives no status for a service checks nothing there: listed is all it can say.
    down = [f"{url} is {status.get(url, 'UP')}" for url in urls if status.get(url, "UP") != "UP"]
    return check(what, not down, ", ".join(down) or f"{len(urls)} UP", "every server UP", remedy)


def _router(want: Expectations, item: Options, have: Snapshot, containers: Containers | None) -> list[Check]:
    name = want.qualified(item["name"])
    found = have.named("router", name)
    if not found:
        return [missing("router", name, have.routers, containers)]
    # An entry point with TLS of its own takes the router over as a second one, "<entry point>-<router>".
    twins = tls_twins(name, have)
    checks = [
        status_check("router", each, item.get("status") or "enabled", containers) for each in (found, *twins)
    ]

    def compare(option: str, actual: t.Any, wanted: t.Any, ok: bool) -> None:
        remedy = f"correct the {option} where the router {name} is defined"
        checks.append(check(f"router {name}: {option}", ok, _text(actual), _text(wanted), remedy))

    if item.get("rule") is not None:
        compare("rule", found.get("rule", ""), item["rule"], found.get("rule", "") == item["rule"])
    if item.get("service") is not None:
        actual, wanted = (
            _with_provider(value, name) for value in (found.get("service", ""), item["service"])
        )
        compare("service", actual, wanted, actual == wanted)
    if item.get("entrypoints") is not None:
        points = sorted({point for each in (found, *twins) for point in each.get("entryPoints") or []})
        compare("entrypoints", points, sorted(item["entrypoints"]), points == sorted(item["entrypoints"]))
    if item.get("middlewares") is not None:
        applied = _own_middlewares(found, have)
        asked = [_with_provider(middleware, name) for middleware in item["middlewares"]]
        compare("middlewares", applied, asked, applied == asked)
    resolvers = [(each["tls"] or {}).get("certResolver", "") for each in (found, *twins) if "tls" in each]
    if item.get("tls") is not None:
        compare("tls", bool(resolvers), item["tls"], bool(resolvers) == item["tls"])
    if item.get("certresolver") is not None:
        named = [resolver for resolver in resolvers if resolver]
        compare("certresolver", named, [item["certresolver"]], item["certresolver"] in named)
    return checks


def tls_twins(name: str, have: Snapshot) -> list[Item]:
    """The routers that Traefik derives from one for entry points with TLS."""
    twins = (have.named("router", f"{point.get('name')}-{name}") for point in have.entrypoints)
    return [twin for twin in twins if twin]


def _own_middlewares(router: Item, have: Snapshot) -> list[str]:
    """A router's middlewares without those its entry point puts before them."""
    listed = [str(middleware) for middleware in router.get("middlewares") or []]
    used = set(router.get("entryPoints") or [])
    for point in have.entrypoints:
        before = (point.get("http") or {}).get("middlewares") or []
        if point.get("name") in used and before and listed[: len(before)] == before:
            return listed[len(before) :]
    return listed


def _unwanted(want: Expectations, have: Snapshot, containers: Containers | None) -> list[Check]:
    """Routers of the provider that nobody asked for, with the container that most likely made each."""
    asked = {want.qualified(item["name"]) for item in want.routers}
    asked |= {str(twin.get("name")) for name in asked for twin in tls_twins(name, have)}
    checks = []
    for router in have.routers:
        name = str(router.get("name", ""))
        bare, _unused, provider = name.rpartition("@")
        if provider != (want.provider or provider) or provider == "internal" or name in asked:
            continue
        if name.partition(CONFLICTED)[2] in asked:
            continue
        if any(fnmatch.fnmatchcase(text, pattern) for pattern in want.ignore for text in (name, bare)):
            continue
        found = f"rule {router.get('rule', '')}, service {router.get('service', '')}"
        remedy = "remove it where it is defined, or add it to routers or to ignore"
        reading = containers.maker(bare) if containers else None
        if reading:
            found += f"; most likely made by container {reading.name}"
            ignored = [problem for problem in reading.problems if problem.effect == "ignored"]
            if ignored and reading.default_router:
                first = ignored[0]
                found += f', whose label "{first.key}" Traefik ignores'
                remedy = f"container {reading.name}: {first.remedy}"
            else:
                remedy = (
                    f"stop container {reading.name}, set its label traefik.enable to false, or ignore {bare}"
                )
        checks.append(
            Check(f"unwanted router {name}", False, found, "no router that nobody asked for", remedy)
        )
    what = f"unwanted routers of provider {want.provider}" if want.provider else "unwanted routers"
    return checks or [Check(what, True, "none", "none")]


def _with_provider(name: str, router: str) -> str:
    """A router's service or middleware without a provider is one of the router's own."""
    return name if "@" in name else f"{name}@{router.rpartition('@')[2]}"


def _listed(values: t.Iterable[t.Any]) -> str:
    return ", ".join(sorted(str(value) for value in values)) or "none"


def _text(value: t.Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value) or "none"
