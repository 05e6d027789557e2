# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo that benchmarks look at: its containers, as the engine has them.

Run by itself, prints the name of Traefik's image.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import docker
from docker.errors import DockerException
from docker.models.containers import Container

NETWORK = "voicefleet"
REPLICA_PORT = 7860
WEB_URL = "http://127.0.0.1:9080"  # this and the next as in inventories/demo
ADMIN_URL = "http://127.0.0.1:9090"


@dataclass
class Demo:
    """What runs: Traefik, and the replicas by name."""

    traefik: Container
    replicas: list[Container]


def demo() -> Demo:
    """The demo, two or more healthy replicas; ends the program with the reason if it is not up."""
    try:
        containers = docker.from_env().containers
        traefik = containers.list(filters={"label": "voicefleet.role=traefik"})
        replicas = containers.list(filters={"label": "voicefleet.service=cosyvoice"})
    except DockerException as error:
        sys.exit(f"The demo is not up: no Docker Engine answers here ({error}). Bring it up with: make demo")
    if not traefik or len(replicas) < 2:
        sys.exit(
            f"The demo is not up: this engine runs {len(traefik)} Traefik and {len(replicas)} replicas of "
            "cosyvoice; 1 and at least 2 are needed. Bring it up with: make demo"
        )
    for replica in replicas:
        if (found := health(replica)) != "healthy":
            sys.exit(
                f"The demo is not up: {replica.name} is {found}. docker logs {replica.name} may say why."
            )
    return Demo(traefik[0], sorted(replicas, key=lambda replica: str(replica.name)))


def health(container: Container) -> str:
    """What Docker's health check last said."""
    return str(container.attrs["State"].get("Health", {}).get("Status", "without a health check"))


def address(container: Container) -> str:
    """Its IP address on the demo's network; empty while it does not run."""
    return str(container.attrs["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])


def load_average() -> str:
    """Of the last minute, beside the number of cores, for the reader to judge the figures by."""
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


if __name__ == "__main__":
    print(demo().traefik.attrs["Config"]["Image"])
