# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads from the Docker engine what Traefik's Docker provider reads: labels, networks, ports, state.

This module util is private to the collection. Works with the Docker SDK for Python 5.0.3 to 7.2; the client
comes from _engine.py.
"""

from __future__ import annotations

import socket
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._labels import is_traefiks

if t.TYPE_CHECKING:
    from docker import DockerClient

CONNECT_TIMEOUT_SECONDS = 2
Address = tuple[str, int]


@dataclass(frozen=True)
class Container:
    """One container as far as Traefik cares."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    state: str = "running"
    # healthy, unhealthy, starting; empty without a HEALTHCHECK.
    health: str = ""
    # Name of each network with the address there (empty when it has none).
    networks: dict[str, str] = field(default_factory=dict)
    # TCP ports that the image exposes or `docker run` published.
    ports: tuple[int, ...] = ()
    host_network: bool = False


def read_containers(client: DockerClient, with_labels: t.Sequence[str] = ()) -> list[Container]:
    """All containers that bear all of C(with_labels) (V(key) or V(key=value)), sorted by name.

    Those without a label of Traefik's are not inspected: their name and state is all they matter for.
    """
    from docker.errors import NotFound

    found = []
    for listed in client.api.containers(all=True, filters={"label": list(with_labels)}):
        labels = listed.get("Labels") or {}
        if any(is_traefiks(key) for key in labels):
            try:
                found.append(parse_inspected(client.api.inspect_container(listed["Id"])))
            except NotFound:  # removed since it was listed
                continue
        else:
            # The first name is its own, the others are those of legacy links.
            name = min(listed.get("Names") or ["/"], key=lambda name: name.count("/")).lstrip("/")
            found.append(Container(name=name, labels=labels, state=listed.get("State", "")))
    return sorted(found, key=lambda container: container.name)


def read_networks(client: DockerClient, name: str) -> dict[str, str] | None:
    """Networks of the container that Traefik itself runs in, with its address in each.

    None when it shares the host's network, from where it reaches every bridge.

    :raises LookupError: there is no such container.
    """
    from docker.errors import NotFound

    try:
        container = parse_inspected(client.api.inspect_container(name))
    except NotFound as error:
        raise LookupError(name) from error
    return None if container.host_network else container.networks


def parse_inspected(inspected: dict[str, t.Any]) -> Container:
    """A container from what C(GET /containers/<id>/json) answers."""
    state = inspected.get("State") or {}
    config = inspected.get("Config") or {}
    settings = inspected.get("NetworkSettings") or {}
    networks = {
        name: (network or {}).get("IPAddress") or (network or {}).get("GlobalIPv6Address") or ""
        for name, network in (settings.get("Networks") or {}).items()
    }
    exposed = {**(config.get("ExposedPorts") or {}), **(settings.get("Ports") or {})}
    return Container(
        name=str(inspected.get("Name", "")).lstrip("/"),
        labels=config.get("Labels") or {},
        state=str(state.get("Status", "")),
        health=str((state.get("Health") or {}).get("Status", "")).replace("none", ""),
        networks=networks,
        ports=tuple(sorted(int(port.split("/")[0]) for port in exposed if port.endswith("/tcp"))),
        host_network=(inspected.get("HostConfig") or {}).get("NetworkMode") == "host",
    )


def try_connect(addresses: t.Iterable[Address]) -> dict[Address, str]:
    """Open a TCP connection to each address from here: V(open), V(refused), or why it cannot be told."""
    wanted = sorted(set(addresses))
    if not wanted:
        return {}
    with ThreadPoolExecutor(min(8, len(wanted))) as pool:
        return dict(pool.map(lambda address: (address, _connect(address)), wanted))


def _connect(address: Address) -> str:
    try:
        with socket.create_connection(address, timeout=CONNECT_TIMEOUT_SECONDS):
            return "open"
    except ConnectionRefusedError:
        return "refused"
    except (OSError, OverflowError) as error:
        return str(error) or type(error).__name__
