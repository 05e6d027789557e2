# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two replicas behind a real Traefik, replaced by hand under load: with every barrier, and without any.

This proves the proof: the load and the watch find nothing where nothing is lost, and find it where it is.
"""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from invariants import Watch
from open_load import OpenLoad
from patience import until

SERVER = Path(__file__).parents[1] / "support/hard_service/server.py"
LENGTHS = {0.5: 4, 1: 4, 3: 2}


class Pair:
    """Two replicas of the hard service."""

    def __init__(self, lab: Any, scratch: Path, health: bool) -> None:
        self.lab, self.scratch, self.health = lab, scratch, health
        self.service = f"{lab.id}-{'gated' if health else 'blind'}"
        self.host = f"{self.service}.example.org"
        self.traefik = lab.traefik()
        self.replicas = {number: self.make(number, "1") for number in (1, 2)}
        for container in self.replicas.values():
            self.wait_serving(container)

    @property
    def url(self) -> str:
        return f"http://{self.traefik.ports['80']}"

    def control(self, number: int) -> Path:
        directory = self.scratch / str(number)
        directory.mkdir(exist_ok=True)
        return directory

    def make(self, number: int, revision: str) -> Any:
        route = f"traefik.http.routers.{self.service}"
        check = {"test": ["CMD", "python3", "-I", "-S", "/server.py", "healthcheck"], "interval": 500_000_000,
                 "timeout": 10_000_000_000, "start_period": 100_000_000_000, "retries": 1}  # fmt: skip
        container = self.lab.engine.containers.create(
            self.lab.base_image,
            ["python3", "-I", "-S", "/server.py"],
            name=f"{self.service}-{number}",
            init=True,
            environment={
                "REPLICA": f"hard-{number}",
                "REVISION": revision,
                "START_SECONDS": "2",
                "LINGER_SECONDS": "0",
            },
            labels={
                "vf.test": self.lab.id,
                "voicefleet.service": self.service,
                "voicefleet.replica": str(number),
                "voicefleet.slot": f"cpu/{number - 1}",
                "voicefleet.revision": revision,
                "traefik.enable": "true",
                f"{route}.rule": f"Host(`{self.host}`)",
                f"{route}.entrypoints": "web",
                f"traefik.http.services.{self.service}.loadbalancer.server.port": "8000",
            },
            volumes={
                str(SERVER): {"bind": "/server.py", "mode": "ro"},
                str(self.control(number)): {"bind": "/run/voicefleet", "mode": "ro"},
            },
            healthcheck=check if self.health else None,
            detach=True,
        )
        self.lab.made.append(container)
        container.start()
        container.reload()
        return container

    def address(self, container: Any) -> str:
        container.reload()
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        return f"http://{network['IPAddress']}:8000"

    def listed(self, address: str) -> bool:
        """Whether Traefik has it among the service's servers."""
        have = self.traefik.wait_for(lambda _snapshot: True)
        found = [each for each in have.services if each["name"] == f"{self.service}@docker"]
        return any(
            server["url"] == address for each in found for server in each["loadBalancer"].get("servers", [])
        )

    def wait_serving(self, container: Any) -> None:
        address = self.address(container)
        until("ready", lambda: self.metric(address, "hard_ready") == 1)
        until("in Traefik", lambda: self.listed(address))

    @staticmethod
    def metric(address: str, name: str) -> float | None:
        try:
            with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
                found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
        except OSError:
            return None
        return float(found.group(1)) if found else None

    def replace(self, number: int, revision: str) -> None:
        """As it should be: each barrier seen before the next step."""
        old = self.replicas[number]
        address = self.address(old)
        flag = self.control(number) / "drain"
        flag.touch()
        until("out of Traefik", lambda: not self.listed(address))
        until("finished", lambda: self.metric(address, "hard_in_flight") == 0)
        old.stop(timeout=10)
        old.rename(f"{self.service}-{number}.old")
        flag.unlink()
        self.replicas[number] = self.make(number, revision)
        self.wait_serving(self.replicas[number])
        old.remove(v=True)

    def replace_blindly(self, number: int, revision: str) -> None:
        """As a script does that knows of no barrier: stop, start, on to the next."""
        old = self.replicas[number]
        old.stop(timeout=1)
        old.remove(v=True)
        self.replicas[number] = self.make(number, revision)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def test_with_every_barrier_nothing_is_lost_and_nothing_is_seen(lab: Any, scratch: Path) -> None:
    pair = Pair(lab, scratch, health=True)
    with (
        Watch(pair.service, floor=1, slots=2, versions={"1"}) as watch,
        OpenLoad(pair.url, 20, host=pair.host, lengths=LENGTHS) as load,
    ):
        load.wait_until(20)
        watch.expect("1", "2")
        pair.replace(1, "2")
        pair.replace(2, "2")
        watch.expect("2")
        load.wait_for_more(40)
    report = load.report()
    print(report, watch, *watch.story(), sep="\n")
    report.assert_lossless(at_least=200)
    watch.assert_held(report.outcomes)
    assert {version for (version,) in report.count_by("version")} == {"1", "2"}


def test_without_barriers_the_load_and_the_watch_see_what_is_lost(lab: Any, scratch: Path) -> None:
    pair = Pair(lab, scratch, health=False)
    with (
        Watch(pair.service, floor=0, slots=2, versions={"1", "2"}) as watch,
        OpenLoad(pair.url, 20, host=pair.host, lengths=LENGTHS) as load,
    ):
        load.wait_until(20)
        pair.replace_blindly(1, "2")
        pair.replace_blindly(2, "2")
        load.wait_for_more(40)
        for container in pair.replicas.values():
            pair.wait_serving(container)
    report = load.report()
    print(report)
    assert report.sent == len(report.outcomes)
    assert len(report.failed) >= 10
    # Streams that ended with their replica; and callers sent to one that was still loading, or to none.
    assert any("cut after" in outcome.reason for outcome in report.failed)
    assert any(outcome.reason.startswith("status ") for outcome in report.failed)
    assert {violation.invariant for violation in watch.violations(report.outcomes)} >= {"I1"}
