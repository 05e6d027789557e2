# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every container that has labels for Traefik against what Traefik made of it.

This module util is private to the collection. Pure: a snapshot, readings and the outcome of connections in,
checks out.
"""

from __future__ import annotations

import difflib
import typing as t
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._docker_provider import (
    Containers,
    Reading,
    in_rotation,
    same_options,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import Item, Snapshot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_checks import (
    all_up,
    missing,
    server_urls,
    status_check,
    tls_twins,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_containers import Address
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_keys import TRAEFIK_VERSION


@dataclass(frozen=True)
class Surroundings:
    """What is known beside labels and API."""

    # Outcome of a connection to each address (see try_connect); empty when none was to be tried.
    connections: t.Mapping[Address, str] = field(default_factory=dict)
    # Networks that Traefik's own container is in; None when unknown, or when it reaches all of them.
    traefik_networks: t.Collection[str] | None = None


def check_containers(containers: Containers, have: Snapshot, around: Surroundings) -> list[Check]:
    """Checks of each container, then of what several of them define together."""
    checks = [each for reading in containers.served for each in _container(reading, containers, have, around)]
    for kind in ("router", "service", "middleware"):
        checks += _shared(kind, have, containers)
    return checks + _services(containers, have)


def addresses(containers: Containers, have: Snapshot) -> set[Address]:
    """Addresses at which the containers have to listen, as Traefik will use them."""
    return {
        address
        for reading in containers.served
        for service in reading.services
        if (address := _address(reading, service, have))
    }


def _container(reading: Reading, containers: Containers, have: Snapshot, around: Surroundings) -> list[Check]:
    name, container = f"container {reading.name}", reading.container
    wanted = f"every key and value is read by Traefik {TRAEFIK_VERSION}"
    checks = [
        Check(f'{name}: label "{p.key}"', False, f'"{p.value}": {p.reason}', p.nearest or wanted, p.remedy)
        for p in reading.problems
    ] or [Check(f"{name}: labels", True, f"{len(container.labels)} labels", wanted)]
    checks.append(_state(name, reading))
    if not in_rotation(container):
        return checks
    dropped = reading.dropped
    if dropped and dropped.subject != "label":
        found = f"{dropped.found}; Traefik drops the whole container for it"
        checks.append(
            Check(f"{name}: {dropped.subject}", False, found, "one that Traefik can use", dropped.remedy)
        )
    elif not dropped:
        checks += _network(name, reading, around)
        for service in sorted(reading.services):
            checks += _port(name, reading, service, have, around)
    return checks + [_router(name, router, reading, containers, have) for router in sorted(reading.routers)]


def _state(name: str, reading: Reading) -> Check:
    state, health = reading.container.state, reading.container.health
    remedy = f"look why: docker logs {reading.name}"
    if state == "paused":
        remedy = f"docker unpause {reading.name}: Traefik goes on sending requests to a paused container"
    ok = state == "running" and in_rotation(reading.container)
    wanted = "running, and healthy if it has a HEALTHCHECK"
    return check(f"{name}: in rotation", ok, f"{state} {health}".strip(), wanted, remedy)


def _network(name: str, reading: Reading, around: Surroundings) -> list[Check]:
    container, network = reading.container, reading.network()
    what = f"{name}: network"
    if container.host_network:
        return [Check(what, True, "the host's network", "one that Traefik reaches")]
    attached = ", ".join(sorted(container.networks)) or "none"
    if network and network not in container.networks:
        near = [other for other in container.networks if other.endswith(f"_{network}")]
        near = near or difflib.get_close_matches(network, container.networks, n=1)
        best = (near or sorted(container.networks))[0]
        remedy = f'set the label "traefik.docker.network" to "{best}", or attach the container to {network}'
        found = f"traefik.docker.network names {network}, which is none of its networks ({attached}); "
        return [Check(what, False, found + "Traefik takes any of them", network, remedy)]
    used = [network] if network else sorted(container.networks)
    if around.traefik_networks is not None:
        foreign = [other for other in used if other not in around.traefik_networks]
        wanted = f"one of Traefik's: {', '.join(sorted(around.traefik_networks))}"
        shared = sorted(set(container.networks) & set(around.traefik_networks))
        remedy = (
            f'set the label "traefik.docker.network" to "{shared[0]}"'
            if shared
            else f"attach Traefik or {reading.name} to a network of the other"
        )
        return [check(what, not foreign, ", ".join(used), wanted, remedy)]
    return [Check(what, True, ", ".join(used), network or "one that Traefik reaches")]


def _port(name: str, reading: Reading, service: str, have: Snapshot, around: Surroundings) -> list[Check]:
    address = _address(reading, service, have)
    outcome = around.connections.get(address) if address else None
    if address is None or outcome is None:
        return []
    host, port = address
    what, wanted = f"{name}: port {port} of service {service}", "something listens there"
    if outcome == "refused":
        exposed = [other for other in reading.container.ports if other != port]
        key = f"traefik.http.services.{service}.loadbalancer.server.port"
        found = f"nothing listens on {host}:{port}; Traefik lists the server as UP and callers get 502"
        if exposed:
            found += f" (the image exposes {', '.join(map(str, exposed))})"
        value = exposed[0] if len(exposed) == 1 else "the port that the container listens on"
        return [Check(what, False, found, wanted, f'set the label "{key}" to {value}')]
    remedy = "container addresses cannot be reached from this host: set container_connect to false"
    return [check(what, outcome == "open", f"{host}:{port}: {outcome}", wanted, remedy)]


def _router(name: str, router: str, reading: Reading, containers: Containers, have: Snapshot) -> Check:
    qualified = f"{router}@docker"
    found = have.named("router", qualified)
    if not found:
        if router in reading.unlinked:
            cause = reading.unlinked[router]
            failed = Check("", False, f"absent: {cause.found}", "enabled", cause.remedy)
        elif reading.dropped:
            cause = reading.dropped
            found_instead = f"absent: Traefik dropped the container: {cause.found}"
            failed = Check("", False, found_instead, "enabled", cause.remedy)
        else:
            failed = missing("router", qualified, have.routers, containers)
        return Check(f"{name}: router {qualified}", False, failed.found, "enabled", failed.remedy)
    items = (found, *tls_twins(qualified, have))
    of_all = [status_check("router", item, "enabled", containers) for item in items]
    worst = min(of_all, key=lambda each: each.ok)
    return Check(f"{name}: router {qualified}", worst.ok, worst.found, "enabled", worst.remedy)


def _shared(kind: str, have: Snapshot, containers: Containers) -> list[Check]:
    """A name that several containers define must have the same options on each of them."""
    checks = []
    for name in containers.names(f"{kind}s"):
        makers = [reading.name for reading in containers.serving(f"{kind}s", name)]
        if len(makers) < 2:
            continue
        differences = containers.differences(f"{kind}s", name)
        # An option that one container states and another leaves at the same default is no difference to
        # Traefik, so what it serves decides.
        differ = bool(differences) and not have.named(kind, f"{name}@docker")
        found = f"Traefik deleted it for all: {'; '.join(differences)}" if differ else ", ".join(makers)
        what = f"{kind} {name}@docker: the same on every container"
        checks.append(check(what, not differ, found, "the same options", same_options(f"{kind}s")))
    return checks


def _services(containers: Containers, have: Snapshot) -> list[Check]:
    """The servers of each service that containers define are its healthy containers, and all are up."""
    checks = []
    for service in containers.names("services"):
        readings = containers.serving("services", service)
        if not readings:
            continue
        name = f"{service}@docker"
        item = have.named("service", name)
        if not item:
            checks.append(missing("service", name, have.services, containers))
            continue
        checks += [status_check("service", item, "enabled", containers), all_up(name, item)]
        checks.append(_members(name, service, item, readings))
    return checks


def _members(name: str, service: str, item: Item, readings: list[Reading]) -> Check:
    urls = set(server_urls(item))
    absent = []
    for reading in readings:
        own = {url for url in urls if _is_of(url, reading, service)}
        urls -= own
        if not own:
            absent.append(reading.name)
    found = [f"{len(server_urls(item))} servers"]
    remedy = "wait: Traefik follows the engine within its throttle (2 s by default); else look at its log"
    if absent:
        found.append(f"not a server: {', '.join(absent)}")
    if urls:
        found.append(f"of no healthy container: {', '.join(sorted(urls))}")
    wanted = f"{len(readings)} servers: {', '.join(reading.name for reading in readings)}"
    what = f"service {name}: servers are its healthy containers"
    return check(what, not absent and not urls, "; ".join(found), wanted, remedy)


def _is_of(url: str, reading: Reading, service: str) -> bool:
    fixed = reading.url(service)
    if fixed:
        return url.rstrip("/") == fixed.rstrip("/")
    # A container in the host's network is reached at whatever address Traefik has for the host.
    return reading.container.host_network or _host(url) in reading.container.networks.values()


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _address(reading: Reading, service: str, have: Snapshot) -> Address | None:
    """Where Traefik reaches a service in a container; None where that is not an address of its own."""
    container, port = reading.container, reading.port(service)
    if reading.dropped or not in_rotation(container):
        return None
    if container.host_network or reading.url(service) or not port:
        return None
    item = have.named("service", f"{service}@docker") or {}
    listed = [_host(url) for url in server_urls(item)]
    own = [address for address in container.networks.values() if address]
    network = container.networks.get(reading.network(), "")
    return (next((host for host in listed if host in own), network or own[0]), port)
