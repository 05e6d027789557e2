# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Traefik's Docker provider makes of each container, and why it leaves one out.

This module util is private to the collection. A pure model of Traefik 3.7: its API does not show a container
that was dropped, so the reason has to be found where Traefik found it, in labels, ports and networks. Every
rule here is checked against a real Traefik by tests/integration/test_traefik_matrix.py.
"""

from __future__ import annotations

import re
import typing as t
from collections import defaultdict
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._labels import (
    DROPPED,
    LabelProblem,
    as_bool,
    check_labels,
    is_bool,
    is_traefiks,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_containers import Container

_OPTION = re.compile(r"traefik\.http\.(routers|services|middlewares)\.([^.]+)\.(.+)", re.IGNORECASE)
_TCP_OR_UDP = re.compile(r"traefik\.(?:tcp|udp)\.(?:routers|services)\.", re.IGNORECASE)
_SERVER = "loadbalancer.server."


class Cause(t.NamedTuple):
    """Why something is not there, and what to do about it."""

    found: str
    remedy: str
    subject: str = ""  # label, service, network or port, where a whole container was dropped


@dataclass
class Reading:
    """One container as Traefik reads it. Options are as labelled, their names in lower case."""

    container: Container
    problems: list[LabelProblem]
    # False: its own label, or a state in which Traefik leaves it alone, says that it is not to be served.
    wanted: bool = True
    # Why Traefik left out the whole container, None if it should not have.
    dropped: Cause | None = None
    routers: dict[str, dict[str, str]] = field(default_factory=dict)
    services: dict[str, dict[str, str]] = field(default_factory=dict)
    middlewares: dict[str, dict[str, str]] = field(default_factory=dict)
    # Routers that Traefik leaves out although it reads the container.
    unlinked: dict[str, Cause] = field(default_factory=dict)
    # True: no label names a router, so Traefik made one of its own.
    default_router: bool = False

    @property
    def name(self) -> str:
        return self.container.name

    def network(self) -> str:
        """The value of the label traefik.docker.network, empty without one."""
        return _label(self.container, "traefik.docker.network") or ""

    def port(self, service: str) -> int | None:
        """Port of a service in this container: its label's, else the lowest that is exposed."""
        value = self.services.get(service, {}).get(f"{_SERVER}port", "")
        if re.fullmatch(r"[0-9]{1,5}", value):
            return int(value)
        return self.container.ports[0] if not value and self.container.ports else None

    def url(self, service: str) -> str:
        """The fixed URL of a service, where a label gives one."""
        return self.services.get(service, {}).get(f"{_SERVER}url", "")


def default_name(container: Container) -> str:
    """Name of the router and service that Traefik makes for a container whose labels name none."""
    service = container.labels.get("com.docker.compose.service")
    project = container.labels.get("com.docker.compose.project")
    name = f"{service}_{project}" if service and project else container.name
    return "-".join(part for part in re.split(r"[\W_]+", name) if part)


def read(container: Container) -> Reading:
    """What Traefik makes of one container."""
    reading = Reading(container, check_labels(container.labels))
    for key, value in container.labels.items():
        match = _OPTION.fullmatch(key)
        if match:
            kind, name, option = match[1].lower(), match[2], match[3].lower()
            # What labels cannot set Traefik does not see: a service of such options only has none.
            unseen = any(p.key == key and p.reason == "cannot be set by labels" for p in reading.problems)
            options: dict[str, dict[str, str]] = getattr(reading, kind)
            options.setdefault(name, {}).update({} if unseen else {option: value})
    enable = _label(container, "traefik.enable")
    disabled = enable is not None and is_bool(enable) and not as_bool(enable)
    asleep = container.state in ("created", "exited", "removing")
    reading.wanted = any(map(is_traefiks, container.labels)) and not disabled and not asleep
    dropping = [problem for problem in reading.problems if problem.effect == DROPPED]
    if dropping:
        first = dropping[0]
        reading.dropped = Cause(
            f'label "{first.key}" = "{first.value}": {first.reason}', first.remedy, "label"
        )
    tcp_only = any(_TCP_OR_UDP.match(key) for key in container.labels) and not (
        reading.routers or reading.services or reading.middlewares
    )
    if not tcp_only:
        _fill_in(reading)
    return reading


def _fill_in(reading: Reading) -> None:
    """The services and routers that Traefik makes itself, and the links between them."""
    container = reading.container
    labelled = set(reading.services)
    if not labelled:
        reading.services[default_name(container)] = {}
    for service, options in reading.services.items():
        if reading.dropped:
            break
        if not options and service in labelled:
            found = f'service "{service}": load-balancer is not defined'
            remedy = "move what labels cannot set (weighted, mirroring, failover) to the file provider"
            reading.dropped = Cause(found, remedy, "service")
        elif not any(container.networks.values()) and not container.host_network:
            found = "the container has no address in any network"
            reading.dropped = Cause(found, "attach it to a network that Traefik is in", "network")
        elif not reading.url(service) and not options.get(f"{_SERVER}port") and not container.ports:
            found = f'service "{service}": no port label, and the image exposes no port'
            key = f"traefik.http.services.{service}.loadbalancer.server.port"
            remedy = f'set the label "{key}" to the port that the container listens on'
            reading.dropped = Cause(found, remedy, "port")
    if not reading.routers:
        reading.default_router = True
        if len(reading.services) > 1:
            return
        reading.routers[default_name(container)] = {}
    for router, options in reading.routers.items():
        if options.get("service"):
            continue
        if len(reading.services) > 1:
            found = f"it names no service, and the container has {len(reading.services)}: " + ", ".join(
                sorted(reading.services)
            )
            remedy = f'set the label "traefik.http.routers.{router}.service" to one of them'
            reading.unlinked[router] = Cause(found, remedy)
        else:
            # Part of what Traefik compares: two containers without it differ in their own default services.
            options["service"] = next(iter(reading.services))


def _label(container: Container, key: str) -> str | None:
    """A label whose key Traefik compares without regard to case, but for the root."""
    if key in container.labels:
        return container.labels[key]
    root, rest = key.split(".", 1)
    for other, value in container.labels.items():
        if other.startswith(f"{root}.") and other[len(root) + 1 :].lower() == rest:
            return value
    return None


class Containers:
    """All containers that Traefik may read, and the answers to why something is not there."""

    def __init__(self, containers: t.Iterable[Container]) -> None:
        self.readings = [read(container) for container in containers]
        self.served = [reading for reading in self.readings if reading.wanted]

    def defining(self, kind: str, name: str) -> list[Reading]:
        """Readings whose labels define a router, service or middleware; kind is the plural."""
        return [reading for reading in self.served if name in getattr(reading, kind)]

    def serving(self, kind: str, name: str) -> list[Reading]:
        """Those of them that Traefik takes into account."""
        return [r for r in self.defining(kind, name) if not r.dropped and in_rotation(r.container)]

    def names(self, kind: str) -> list[str]:
        """Names that the containers which Traefik reads define."""
        return sorted(
            {name for reading in self.served if not reading.dropped for name in getattr(reading, kind)}
        )

    def differences(self, kind: str, name: str) -> list[str]:
        """Options in which containers that Traefik reads differ: V(rule: a has X, b has Y)."""
        values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        readings = self.serving(kind, name)
        if kind == "routers":
            readings = [reading for reading in readings if name not in reading.unlinked]
        options = {option for reading in readings for option in getattr(reading, kind)[name]}
        for option in sorted(options):
            if kind == "services" and (option.startswith(_SERVER) or option == "middlewares"):
                continue  # these may differ from server to server
            for reading in readings:
                values[option][getattr(reading, kind)[name].get(option, "nothing")].append(reading.name)
        return [
            f"{option}: "
            + ", ".join(f"{' and '.join(names)} has {value}" for value, names in by_value.items())
            for option, by_value in values.items()
            if len(by_value) > 1
        ]

    def why_missing(self, kind: str, name: str) -> Cause | None:
        """Why Traefik has no such router, service or middleware, or None when no container explains it."""
        for reading in self.defining(kind, name):
            where = f"container {reading.name}: "
            if reading.dropped:
                return Cause(
                    f"{where}Traefik dropped it: {reading.dropped.found}", where + reading.dropped.remedy
                )
            if name in reading.unlinked:
                return Cause(where + reading.unlinked[name].found, where + reading.unlinked[name].remedy)
        differences = self.differences(kind, name)
        if differences:
            return Cause(
                f"Traefik deleted it: containers differ in {'; '.join(differences)}", same_options(kind)
            )
        for reading in self.defining(kind, name):
            where = f"container {reading.name}: "
            if not in_rotation(reading.container):
                found = f"{where}it is {reading.container.health or reading.container.state}"
                return Cause(found, f"look why: docker logs {reading.name}")
            if _label(reading.container, "traefik.enable") is None:
                found = f"{where}it has no label traefik.enable, and Traefik may have exposedByDefault=false"
                near = next((p for p in reading.problems if p.nearest == "traefik.enable"), None)
                remedy = near.remedy if near else 'set the label "traefik.enable" to "true"'
                return Cause(found, where + remedy)
        return self._misspelt(kind, name) or self._stopped(kind, name)

    def _misspelt(self, kind: str, name: str) -> Cause | None:
        for reading in self.served:
            for problem in reading.problems:
                if f".{kind}.{name}." in problem.nearest or f".{kind}.{name}." in problem.key:
                    where = f"container {reading.name}: "
                    found = f'{where}label "{problem.key}" = "{problem.value}": {problem.reason}'
                    return Cause(found, where + problem.remedy)
        return None

    def _stopped(self, kind: str, name: str) -> Cause | None:
        for reading in self.readings:
            if not reading.wanted and name in getattr(reading, kind):
                if reading.container.state != "running":
                    remedy = (
                        f"docker start {reading.name}, or look why it stopped: docker logs {reading.name}"
                    )
                    return Cause(f"container {reading.name} is {reading.container.state}", remedy)
                found = f"container {reading.name} has the label traefik.enable=false"
                return Cause(found, f"container {reading.name}: set traefik.enable to true")
        return None

    def maker(self, router: str) -> Reading | None:
        """The container that most likely made a router."""
        defining = self.defining("routers", router)
        if defining:
            return defining[0]
        return next((r for r in self.readings if default_name(r.container) == router), None)


def in_rotation(container: Container) -> bool:
    """Whether Traefik sends requests to it: it runs, and is healthy if it has a HEALTHCHECK."""
    return container.state in ("running", "paused") and container.health in ("", "healthy")


def same_options(kind: str) -> str:
    if kind == "routers":
        return (
            "give all of them the same labels, the service among them: a router that names none gets its "
            "container's own"
        )
    return "give all of them the same labels; what changes in an upgrade belongs into the file provider"
