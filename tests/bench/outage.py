# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long Traefik goes on sending callers to a replica that has died or hangs. Needs root, and the demo.

Killed: SIGKILL of the replica's server process, as the kernel does when memory runs out; not `docker kill`:
after that Docker would not start it again. Hung: SIGSTOP, then SIGCONT once Traefik has let go of it.

"engine": from the signal until the engine says that the container died or is unhealthy; it is the engine's
part of "out". "out": from the signal until Traefik's API, asked every 10 ms, no longer has the replica's
address among the service's servers. "back": from the signal (hung: from SIGCONT) until the replica is healthy
and there again. Docker's health check comes at fixed intervals, so the moments of the signals are spread
evenly over one. The replicas take turns, each in rotation again before the next is touched.

    python tests/bench/outage.py [--times 6] [--admin-url http://127.0.0.1:9090]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

import docker
from _demo import ADMIN_URL, REPLICA_PORT, address, demo, health, load_average
from docker.models.containers import Container

POLL_SECONDS = 0.01
BACK_POLL_SECONDS = 0.1  # asks the engine as well, which has a process to start meanwhile
OUT_LIMIT_SECONDS = 30.0
BACK_LIMIT_SECONDS = 90.0
KILLED_GOAL_SECONDS = 1.0
HUNG_GOAL_SECONDS = 5.0


class Rotation:
    """The servers that Traefik's API lists for the service, asked over one connection."""

    def __init__(self, url: str, user: str, password: str):
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)

    def servers(self) -> set[str]:
        """Their URLs; none when the service itself is gone, as it is with its last replica."""
        try:
            self._connection.request("GET", "/api/http/services/cosyvoice@docker", headers=self._headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            sys.exit(f"Traefik's API at {self._connection.host}:{self._connection.port}: {error}")
        if answer.status == 404:
            return set()
        if answer.status != 200:
            sys.exit(f"Traefik's API answers {answer.status} {answer.reason}: {body[:200]!r}")
        return {server["url"] for server in json.loads(body)["loadBalancer"].get("servers", [])}

    def has(self, replica: Container) -> bool:
        """Whether callers are sent to this replica."""
        return f"http://{address(replica)}:{REPLICA_PORT}" in self.servers()


@dataclass
class Outage:
    """One, in seconds."""

    engine: float
    out: float
    back: float


def out(rotation: Rotation, replica: Container, since: float) -> float:
    """Seconds until Traefik no longer has the replica; ends the program if that never comes."""
    while rotation.has(replica):
        if time.time() - since > OUT_LIMIT_SECONDS:
            sys.exit(f"{replica.name} is still in rotation {OUT_LIMIT_SECONDS:g} s after its end")
        time.sleep(POLL_SECONDS)
    return time.time() - since


def back(rotation: Rotation, replica: Container, since: float) -> float:
    """Seconds until the replica is healthy and in rotation, perhaps at a new address."""
    while True:
        replica.reload()
        if health(replica) == "healthy" and rotation.has(replica):
            return time.time() - since
        if time.time() - since > BACK_LIMIT_SECONDS:
            sys.exit(f"{replica.name} is not back in rotation {BACK_LIMIT_SECONDS:g} s later")
        time.sleep(BACK_POLL_SECONDS)


def noticed(engine: docker.DockerClient, replica: Container, since: float) -> float:
    """Seconds until the engine said what had happened; nan if it never did."""
    ours = {"container": replica.id}
    for event in engine.events(int(since), math.ceil(time.time()), filters=ours, decode=True):
        after = float(event["timeNano"]) / 1e9 - since
        if after > 0 and event["Action"] in ("die", "health_status: unhealthy"):
            return after
    return float("nan")


def serving_pid(replica: Container) -> int:
    """The server process, by its number on this host: under Docker's init the only child, else the first."""
    replica.reload()
    first = int(replica.attrs["State"]["Pid"])
    if not replica.attrs["HostConfig"]["Init"]:
        return first
    children = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()
    return int(children[0])


@contextmanager
def stopped(pid: int) -> Iterator[float]:
    """Stopped while inside, whatever happens; gives the moment of the signal."""
    try:
        begin = time.time()
        os.kill(pid, signal.SIGSTOP)
        yield begin
    finally:
        os.kill(pid, signal.SIGCONT)


def killed(engine: docker.DockerClient, rotation: Rotation, replica: Container) -> Outage:
    """A death, and the start after it."""
    pid = serving_pid(replica)
    begin = time.time()
    os.kill(pid, signal.SIGKILL)
    out_after = out(rotation, replica, begin)
    back_after = back(rotation, replica, begin)
    return Outage(noticed(engine, replica, begin), out_after, back_after)


def hung(engine: docker.DockerClient, rotation: Rotation, replica: Container) -> Outage:
    """A process that stands still, and goes on once Traefik has let go of it."""
    with stopped(serving_pid(replica)) as begin:
        out_after = out(rotation, replica, begin)
    back_after = back(rotation, replica, time.time())
    return Outage(noticed(engine, replica, begin), out_after, back_after)


def both(seconds: Sequence[float]) -> str:
    """Median and worst."""
    return f"{statistics.median(seconds):>8.2f}{max(seconds):>8.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=6, help="for each kind of outage")
    parser.add_argument("--admin-url", default=ADMIN_URL)
    parser.add_argument("--user", default="admin")
    parser.add_argument(
        "--password-file", type=Path, default=Path("/etc/voicefleet/traefik/dashboard_password")
    )
    options = parser.parse_args()
    if options.times < 1:
        parser.error(f"--times {options.times}: wants at least 1")
    if os.geteuid() != 0:
        sys.exit(
            "This needs root: it signals processes inside containers and reads the dashboard's password."
        )
    found = demo()
    try:
        password = options.password_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        sys.exit(f"--password-file {options.password_file}: {error.strerror}; the demo's Traefik writes one")
    rotation = Rotation(options.admin_url, options.user, password)
    for replica in found.replicas:
        if not rotation.has(replica):
            sys.exit(f"{replica.name} at {address(replica)} is not in Traefik's rotation to begin with")

    print(f"Outages of {len(found.replicas)} replicas, {options.times} of each kind; {load_average()}.\n")
    engine = docker.from_env()
    print(f"{'seconds':<20}{'engine':>16}{'out':>16}{'goal':>8}{'reached':>10}{'back':>16}")
    print(f"{'':<20}{'median   worst':>16}{'median   worst':>16}{'':>18}{'median   worst':>16}")
    kinds = (("killed (SIGKILL)", killed, KILLED_GOAL_SECONDS), ("hung (SIGSTOP)", hung, HUNG_GOAL_SECONDS))
    for name, outage, goal in kinds:
        outages = []
        for turn, replica in enumerate(islice(cycle(found.replicas), options.times)):
            interval = replica.attrs["Config"]["Healthcheck"]["Interval"] / 1e9
            time.sleep(interval * (turn + 0.5) / options.times)
            outages.append(outage(engine, rotation, replica))
        reached = f"{sum(one.out <= goal for one in outages)} of {len(outages)}"
        print(
            f"{name:<20}{both([one.engine for one in outages])}{both([one.out for one in outages])}"
            f"{goal:>8.1f}{reached:>10}{both([one.back for one in outages])}",
            flush=True,
        )
    print(f"\nAll replicas are healthy and in rotation again; {load_average()}.")


if __name__ == "__main__":
    main()
