# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three stand-in GPU hosts, bare at first: site.yml lays all down, driver_upgrade.yml changes their driver.

What goes wrong on the way is tested here; that nobody is cut off, in molecule/driver_upgrade. Driver
packages, modprobe, rmmod and cards are stand-ins.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu_host.host import ROOT, SYSFS, GpuHost, HostError, bare_variables, hard_service
from patience import until

pytestmark = pytest.mark.slow

CARD = {"name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346}
FIRST, NEXT, BROKEN = "580.159.03", "580.178.04", "590.48.01"
PLAYBOOK = ROOT / "driver_upgrade.yml"
ROLE = ROOT / "tests/support/gpu_host/driver.yml"
LOADED = f"{SYSFS}/module/nvidia/version"  # on a host
BOOT_ID = ("cat", "/proc/sys/kernel/random/boot_id")
REPLICA = ("--filter", "label=voicefleet.role=replica")


class Fleet:
    """The hosts, and the playbooks on them."""

    def __init__(self, hosts: list[GpuHost], scratch: Path) -> None:
        self.hosts, self.scratch = hosts, scratch

    def bare(self) -> None:
        for number, host in enumerate(self.hosts, 1):
            host.bare(self.cards(number))

    def site(self, *options: str, **variables: Any) -> str:
        return self.play(ROOT / "site.yml", *options, nvidia_driver_version=FIRST, **variables)

    def cards(self, number: int, **more: Any) -> dict[str, Any]:
        card = {"uuid": f"GPU-{number}0000000-0000-4000-8000-000000000001", **CARD}
        return {"sysfs": SYSFS, "cards": [card], "programs_inside": True, **more}

    def play(self, playbook: Path, *options: str, **variables: Any) -> str:
        """What it printed; HostError if it failed."""
        hosts = {host.name: host.inventory["gpu_hosts"]["hosts"][host.name] for host in self.hosts}
        inventory = self.scratch / "hosts.json"
        inventory.write_text(json.dumps({"speech_hosts": {"hosts": hosts}}), encoding="utf-8")
        given = {
            **bare_variables(),
            **hard_service(),
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
            loaded = host.run("sh", "-c", f"cat {LOADED} || echo none").strip()
            library = host.run("sh", "-c", "cd /usr/lib/x86_64-linux-gnu; echo libnvidia-ml.so.*.*").strip()
            told.append((loaded, library.removeprefix("libnvidia-ml.so.")))
        return told

    def loaded_at(self) -> list[int]:
        """When each host's driver was loaded, in seconds since the epoch."""
        return [int(host.run("stat", "--format=%Y", LOADED)) for host in self.hosts]

    def serving(self) -> list[int]:
        """How many replicas of each host are fit to serve."""
        return [
            len(host.docker("ps", "--quiet", *REPLICA, "--filter", "health=healthy").split())
            for host in self.hosts
        ]


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
def fleet(hosts: list[GpuHost], tmp_path: Path) -> Fleet:
    return Fleet(hosts, tmp_path)


def test_a_card_that_nouveau_holds_takes_a_reboot_and_all_but_replicas_is_there(fleet: Fleet) -> None:
    fleet.bare()
    first = fleet.hosts[0]
    only = ("--limit", first.name)
    first.run("mkdir", "--parents", f"{SYSFS}/module/nouveau")
    with pytest.raises(HostError) as failed:
        fleet.site(*only)
    said = " ".join(str(failed.value).split())
    assert f"{first.name} has no NVIDIA driver in its kernel" in said
    assert "nouveau, holds the card. A REBOOT IS DUE." in said
    assert first.docker("ps", "--quiet", *REPLICA) == ""
    assert first.docker("ps", "--quiet")  # Traefik is there

    before = first.run(*BOOT_ID)
    fleet.site(*only, nvidia_driver_reboot_policy="if_idle")
    assert first.run(*BOOT_ID) != before
    assert first.run("cat", LOADED).strip() == FIRST
    assert len(first.docker("ps", "--quiet", *REPLICA).split()) == 2


def test_what_becomes_of_each_is_told_and_then_done(fleet: Fleet) -> None:
    fleet.site()
    assert fleet.drivers() == [(FIRST, FIRST)] * 3
    assert fleet.serving() == [2, 2, 2]

    told = fleet.upgrade("--check")
    assert told.count(f"Driver {FIRST} (loaded: {FIRST}) becomes {NEXT}") == 3
    assert fleet.drivers() == [(FIRST, FIRST)] * 3

    fleet.upgrade()
    assert fleet.drivers() == [(NEXT, NEXT)] * 3
    assert fleet.serving() == [2, 2, 2]


def test_a_card_that_somebody_else_uses_stops_it_before_anything_changed(fleet: Fleet) -> None:
    first = fleet.hosts[0]
    first.run("sh", "-c", "sleep 1000 < /dev/nvidia0 > /dev/null 2>&1 & echo $! > /run/sleeper")
    try:
        said = fleet.fails(nvidia_driver_version=FIRST)
    finally:
        first.run("sh", "-c", "kill $(cat /run/sleeper)")
    assert f"{first.name} stopped the upgrade" in said
    assert "nothing was changed: sleep (process" in said
    assert fleet.drivers() == [(NEXT, NEXT)] * 3
    assert fleet.serving() == [2, 2, 2]


def test_a_module_that_does_not_leave_takes_a_reboot(fleet: Fleet) -> None:
    """No program holds it, but a console, say: nobody reboots for that unless the policy allows it."""
    first = fleet.hosts[0]
    first.cards(fleet.cards(1, faults=[{"on": "unload"}]))
    said = fleet.fails(nvidia_driver_version=FIRST)
    assert "nothing was changed: it is in use, and no program says so" in said
    assert "nvidia_driver_reboot_policy: drain" in said
    assert fleet.drivers() == [(NEXT, NEXT)] * 3
    assert fleet.serving() == [2, 2, 2]

    before = first.run(*BOOT_ID)
    fleet.upgrade("--limit", first.name, nvidia_driver_version=FIRST, nvidia_driver_reboot_policy="drain")
    assert first.run(*BOOT_ID) != before
    assert fleet.drivers() == [(FIRST, FIRST), (NEXT, NEXT), (NEXT, NEXT)]
    assert fleet.serving() == [2, 2, 2]
    first.cards(fleet.cards(1))


def test_a_host_that_does_not_come_back_stops_it_with_what_was_seen(fleet: Fleet) -> None:
    first, second, _third = fleet.hosts
    second.cards(fleet.cards(2, faults=[{"on": "load"}]))
    said = fleet.fails(nvidia_driver_version=FIRST)
    assert f"{second.name} stopped the upgrade" in said
    assert "could not insert 'nvidia'" in said
    assert f"{FIRST} installed, none loaded" in said
    assert fleet.drivers() == [(FIRST, FIRST), ("none", FIRST), (NEXT, NEXT)]
    assert fleet.serving() == [2, 0, 2]

    # Mended, the next run takes it up where it stood, and goes on.
    second.cards(fleet.cards(2))
    fleet.upgrade(nvidia_driver_version=FIRST)
    assert fleet.drivers() == [(FIRST, FIRST)] * 3
    assert fleet.serving() == [2, 2, 2]
    assert first.docker("ps", "--quiet")


def test_a_driver_that_does_not_build_makes_way_for_the_one_of_before(fleet: Fleet) -> None:
    first = fleet.hosts[0]
    packages = ("sh", "-c", "dpkg --list '*nvidia*' | grep ^ii")
    pins = ("cat", "/etc/apt/preferences.d/voicefleet-nvidia-driver")
    before = [first.run(*command) for command in (packages, pins)]
    broken = {"nvidia_driver_branch": BROKEN.partition(".")[0]}

    # Its packages are back, and the host stays out, as its module does not load.
    first.cards(fleet.cards(1, faults=[{"on": "load"}]))
    said = fleet.fails(**broken)
    assert f"{first.name} stopped the upgrade" in said
    assert "error: too few arguments to function call" in said
    assert f"The driver of before, {FIRST}, could not be put back as well" in said
    assert "could not insert 'nvidia'" in said
    assert fleet.drivers() == [("none", FIRST), (FIRST, FIRST), (FIRST, FIRST)]
    assert fleet.serving() == [0, 2, 2]

    first.cards(fleet.cards(1))
    said = fleet.fails(**broken)
    assert f"{first.name} stopped the upgrade" in said
    assert "error: too few arguments to function call" in said
    assert f"The driver of before, {FIRST}, is back." in said
    assert f"{FIRST} installed, {FIRST} loaded" in said
    assert fleet.drivers() == [(FIRST, FIRST)] * 3
    assert fleet.serving() == [2, 2, 2]
    assert [first.run(*command) for command in (packages, pins)] == before
    first.run("apt-get", "check")


def test_policy_reboot_reboots_whatever_runs(fleet: Fleet) -> None:
    """The role alone, without a drain: what has a card open keeps neither the driver nor the host."""
    second = fleet.hosts[1]
    second.run("sh", "-c", "sleep 1000 < /dev/nvidia0 > /dev/null 2>&1 &")
    before = second.run(*BOOT_ID)
    only = ("--limit", second.name)
    fleet.play(ROLE, *only, nvidia_driver_version=NEXT, nvidia_driver_reboot_policy="reboot")
    assert second.run(*BOOT_ID) != before
    assert fleet.drivers() == [(FIRST, FIRST), (NEXT, NEXT), (FIRST, FIRST)]
    until("serving again", lambda: fleet.serving() == [2, 2, 2])


def test_a_host_that_does_not_answer_after_its_reboot_stops_it(fleet: Fleet) -> None:
    """The last one, as the host stays away."""
    first = fleet.hosts[0]
    others = Fleet(fleet.hosts[1:], fleet.scratch)
    loaded = others.loaded_at()
    first.cards(fleet.cards(1, faults=[{"on": "unload"}]))
    subprocess.run(["docker", "update", "--restart=no", first.name], check=True)
    said = fleet.fails(
        nvidia_driver_reboot_policy="drain",
        nvidia_driver_reboot_timeout_seconds=10,
        # Pipelined, this connection tells of a container that is down as of a module that failed.
        ansible_pipelining=False,
    )
    assert f"{first.name} stopped the upgrade, so no other host is touched." in said
    assert "Timed out waiting for last boot time check" in said
    assert "It does not answer (" in said
    assert others.drivers() == [(NEXT, NEXT), (FIRST, FIRST)]
    assert others.loaded_at() == loaded
    assert others.serving() == [2, 2]
