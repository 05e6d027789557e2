# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three stand-in GPU hosts, bare at first: site.yml lays all down, driver_upgrade.yml changes their driver.

Before them stands a real Traefik that asks each host for its health, and a load that leaves on a clock goes
through it all the time. Driver packages, modprobe, rmmod and cards are stand-ins.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from gpu_host.host import ROOT, GpuHost, HostError, bare_variables
from open_load import OpenLoad

CARD = {"name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346}
FIRST, NEXT, BROKEN = "580.159.03", "580.178.04", "590.48.01"
PLAYBOOK = ROOT / "driver_upgrade.yml"


class Fleet:
    """The hosts by their names, and a Traefik before them."""

    def __init__(self, lab: Any, hosts: list[GpuHost], scratch: Path) -> None:
        self.lab, self.hosts, self.scratch = lab, hosts, scratch

    def up(self) -> None:
        for number, host in enumerate(self.hosts, 1):
            host.bare(self.cards(number))
        self.play(ROOT / "site.yml", nvidia_driver_version=FIRST)

    def cards(self, number: int, **more: Any) -> dict[str, Any]:
        card = {"uuid": f"GPU-{number}0000000-0000-4000-8000-000000000001", **CARD}
        return {"cards": [card], "programs_inside": True, **more}

    def play(self, playbook: Path, *options: str, **variables: Any) -> str:
        """What it printed; HostError if it failed."""
        hosts = {host.name: host.inventory["gpu_hosts"]["hosts"][host.name] for host in self.hosts}
        inventory = self.scratch / "hosts.json"
        inventory.write_text(json.dumps({"speech_hosts": {"hosts": hosts}}), encoding="utf-8")
        given = {
            **bare_variables(),
            "cosyvoice_device": "gpu",
            "gpu_service_soak_seconds": 0,
            "gpu_service_bake_seconds": 1,
            "gpu_service_stop_timeout_seconds": 5,
            **variables,
        }
        return self.hosts[0].playbook(playbook, "-i", str(inventory), *options, **given)

    def upgrade(self, *options: str, **variables: Any) -> str:
        return self.play(PLAYBOOK, *options, **variables)

    def fails(self, *options: str, **variables: Any) -> str:
        with pytest.raises(HostError) as failed:
            self.upgrade(*options, **variables)
        return " ".join(str(failed.value).split())

    def drivers(self) -> list[tuple[str, str]]:
        """Of each host: the loaded driver, and the installed one."""
        told = []
        for host in self.hosts:
            loaded = host.run("sh", "-c", "cat /opt/sysfs/module/nvidia/version || echo none").strip()
            library = host.run("sh", "-c", "cd /usr/lib/x86_64-linux-gnu; echo libnvidia-ml.so.*.*").strip()
            told.append((loaded, library.removeprefix("libnvidia-ml.so.")))
        return told

    def serving(self) -> list[int]:
        """How many replicas of each host are fit to serve."""
        label = ("--filter", "label=voicefleet.role=replica", "--filter", "health=healthy")
        return [len(host.docker("ps", "--quiet", *label).split()) for host in self.hosts]

    def edge(self) -> str:
        """The address of a Traefik that sends callers to the hosts that can serve.

        A host that is drained whole says 503, with Retry-After. Trying another one at once (middleware retry
        with a status) is no way: 4 of 3110 answers came without their headers then.
        """
        balancer = {
            "servers": [{"url": f"http://{host.address}"} for host in self.hosts],
            "healthCheck": {"path": "/healthz", "interval": "500ms", "timeout": "3s"},
        }
        dynamic = {
            "http": {
                "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "hosts"}},
                "services": {"hosts": {"loadBalancer": balancer}},
            }
        }
        folder = self.scratch / "dynamic"
        folder.mkdir()
        (folder / "hosts.yml").write_text(yaml.safe_dump(dynamic), encoding="utf-8")
        return f"http://{self.lab.traefik(dynamic=folder).ports['80']}"


@pytest.fixture(scope="module")
def names() -> list[str]:
    mark = uuid.uuid4().hex[:6]
    return [f"vf-driver-{mark}-{number}" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def hosts(names: list[str]) -> Iterator[list[GpuHost]]:
    made = [GpuHost(name) for name in names]
    try:
        yield made
    finally:
        for host in made:
            host.down()


@pytest.fixture
def fleet(lab: Any, hosts: list[GpuHost], tmp_path: Path) -> Fleet:
    return Fleet(lab, hosts, tmp_path)


def test_host_after_host_and_nobody_is_cut_off(fleet: Fleet) -> None:
    fleet.up()
    assert fleet.drivers() == [(FIRST, FIRST)] * 3
    assert fleet.serving() == [2, 2, 2]

    told = fleet.upgrade("--check")
    assert told.count(f"Driver {FIRST} (loaded: {FIRST}) becomes {NEXT}") == 3
    assert fleet.drivers() == [(FIRST, FIRST)] * 3

    # Somebody took the second one out, and it stays so.
    fleet.play(ROOT / "drain.yml", host=fleet.hosts[1].name)
    began = time.time()
    with OpenLoad(fleet.edge(), 4, retry_seconds=10) as load:
        load.wait_for_more(10)
        said = fleet.upgrade()
        load.wait_for_more(10)
    print(load.report())
    load.report().assert_lossless(at_least=100)
    assert fleet.drivers() == [(NEXT, NEXT)] * 3
    assert fleet.serving() == [2, 0, 2]
    assert all(host.overfilled(began) == [] for host in fleet.hosts)
    turns = [said.index(f"Change the driver of {host.name}") for host in fleet.hosts]
    assert turns == sorted(turns)
    fleet.play(ROOT / "undrain.yml", host=fleet.hosts[1].name)
    assert fleet.serving() == [2, 2, 2]

    assert "Nothing to do: driver" in fleet.upgrade()
    assert fleet.drivers() == [(NEXT, NEXT)] * 3


def test_a_card_that_somebody_else_uses_stops_it_before_anything_changed(fleet: Fleet) -> None:
    first = fleet.hosts[0]
    first.run("sh", "-c", "sleep 1000 < /dev/nvidia0 > /dev/null 2>&1 & echo $! > /run/sleeper")
    said = fleet.fails(nvidia_driver_version=FIRST)
    assert f"{first.name} stopped the upgrade" in said
    assert "nothing was changed: sleep (process" in said
    assert fleet.drivers() == [(NEXT, NEXT)] * 3
    assert fleet.serving() == [2, 2, 2]
    first.run("sh", "-c", "kill $(cat /run/sleeper)")


def test_a_host_that_does_not_come_back_stops_it_with_what_was_seen(fleet: Fleet) -> None:
    first, second, _third = fleet.hosts
    second.cards({"sysfs": "/opt/sysfs", **fleet.cards(2, faults=[{"on": "load"}])})
    said = fleet.fails(nvidia_driver_version=FIRST)
    assert f"{second.name} stopped the upgrade" in said
    assert "could not insert 'nvidia'" in said
    assert f"{FIRST} installed, none loaded" in said
    assert fleet.drivers() == [(FIRST, FIRST), ("none", FIRST), (NEXT, NEXT)]
    assert fleet.serving() == [2, 0, 2]

    # Mended, the next run takes it up where it stood, and goes on.
    second.cards({"sysfs": "/opt/sysfs", **fleet.cards(2)})
    fleet.upgrade(nvidia_driver_version=FIRST)
    assert fleet.drivers() == [(FIRST, FIRST)] * 3
    assert fleet.serving() == [2, 2, 2]
    assert first.docker("ps", "--quiet")


def test_a_driver_that_does_not_build_is_taken_back_out(fleet: Fleet) -> None:
    first = fleet.hosts[0]
    said = fleet.fails(nvidia_driver_branch=BROKEN.partition(".")[0])
    assert f"{first.name} stopped the upgrade" in said
    assert "error: too few arguments to function call" in said
    assert fleet.drivers()[1:] == [(FIRST, FIRST)] * 2
    assert fleet.serving() == [0, 2, 2]
    first.run("apt-get", "check")

    fleet.upgrade(nvidia_driver_version=FIRST)
    assert fleet.drivers() == [(FIRST, FIRST)] * 3
    assert fleet.serving() == [2, 2, 2]
