# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order driver_upgrade.yml stops what is at the cards and starts it again, as the host itself tells.

A host with an NVSwitch, cards that Debian's real MPS daemon shares, and exporters. Driver, Fabric Manager and
exporters are stand-ins that have a card open, so that the module does not leave while one of them runs.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from gpu_host.host import CARD, ROOT, SLEEPS, SYSFS, GpuHost, HostError, bare_variables, hard_service

pytestmark = pytest.mark.slow

FIRST, NEXT = "580.159.03", "580.178.04"
# systemd's ids of the messages that a unit was started and stopped: sd-messages.h.
STARTED, STOPPED = "39f53479d3a045ac8e11786248231fbf", "9d1aaa27d60140bd96365438aad20286"
EXPORTERS = ("dcgm-exporter", "nvidia-dcgm")
SERVICES = ("nvidia-persistenced", "nvidia-fabricmanager")
UNITS = (*EXPORTERS, "voicefleet-mps", *SERVICES)
REPLICAS = ("cosyvoice-1", "cosyvoice-2")
# The daemon's program, before pins keep Debian's package out; a bridge of NVIDIA's is a switch.
PREPARED = f"""
sed 's/ main$/ non-free/' /etc/apt/sources.list.d/*.list > /etc/apt/sources.list.d/mps.list
cd /tmp && apt-get update -qq && apt-get download -qq nvidia-cuda-mps
dpkg-deb --extract nvidia-cuda-mps_*.deb /
rm /etc/apt/sources.list.d/mps.list
switch={SYSFS}/bus/pci/devices/0000:0f:00.0
mkdir $switch && cd $switch && echo 0x10de > vendor && echo 0x22a3 > device && echo 0x068000 > class
"""


def exporters() -> str:
    """Writes their units, and has them run."""
    unit = "[Service]\nExecStart=/bin/sleep infinity\nStandardInput=file:/dev/nvidiactl\n"
    written = [f"printf '{unit}' > /etc/systemd/system/{name}.service" for name in EXPORTERS]
    return "\n".join([*written, "systemctl daemon-reload", f"systemctl start {' '.join(EXPORTERS)}"])


@pytest.fixture(scope="module")
def host() -> Iterator[GpuHost]:
    made = GpuHost(f"vf-order-{uuid.uuid4().hex[:6]}")
    try:
        made.bare({"cards": [CARD], "programs_inside": True})
        made.run("bash", "-ec", PREPARED)
        yield made
    finally:
        made.down()


def play(host: GpuHost, name: str, **more: Any) -> None:
    given = {
        **bare_variables(),
        **hard_service(),
        "cosyvoice_device": "gpu",
        "gpu_sharing_mps": True,
        "gpu_service_soak_seconds": 0,
        "gpu_service_bake_seconds": 1,
        "gpu_service_stop_timeout_seconds": 5,
        "nvidia_driver_client_containers": ["bystander"],
        **more,
    }
    host.playbook(ROOT / name, **given)


def told(host: GpuHost, since: float) -> list[str]:
    """What began (+) and ended (-) on the host: units, containers and modules, in the order of its clock."""
    journal = host.run(
        "journalctl", "--quiet", "--output=json", f"--since=@{since:.6f}",
        f"MESSAGE_ID={STARTED}", f"MESSAGE_ID={STOPPED}",
    )  # fmt: skip
    found = []
    for line in map(json.loads, journal.splitlines()):
        mark = "+" if line["MESSAGE_ID"] == STARTED else "-"
        found.append((int(line["__REALTIME_TIMESTAMP"]) / 1e6, mark + line["UNIT"].removesuffix(".service")))
    events = host.docker(
        "events", "--since", f"{since:.6f}", "--until", f"{time.time():.6f}", "--format", "{{json .}}",
        "--filter", "type=container", "--filter", "event=start", "--filter", "event=die",
    )  # fmt: skip
    for line in map(json.loads, events.splitlines()):
        mark = "+" if line["Action"] == "start" else "-"
        found.append((line["timeNano"] / 1e9, mark + line["Actor"]["Attributes"]["name"]))
    marks = {"load": "+", "unload": "-"}
    found += [(one["time"], marks[one["did"]] + one["name"]) for one in host.modules(since)]
    known = {*UNITS, *REPLICAS, "bystander", "nvidia", "nvidia_uvm"}
    return [what for _when, what in sorted(found) if what[1:] in known]


def test_all_that_is_at_a_card_makes_way_and_comes_back_in_nvidias_order(host: GpuHost) -> None:
    play(host, "site.yml", nvidia_driver_version=FIRST)
    host.run("bash", "-ec", exporters())
    image = host.docker("inspect", "--format", "{{.Config.Image}}", REPLICAS[0]).strip()
    host.docker("run", "--detach", "--name", "bystander", image, *SLEEPS)

    since = time.time()
    play(host, "driver_upgrade.yml")
    happened = told(host, since)
    print(*happened, sep="\n")
    assert host.run("cat", f"{SYSFS}/module/nvidia/version").strip() == NEXT

    away = happened.index("-nvidia_uvm")
    back = len(happened) - happened[::-1].index("+nvidia_uvm")
    assert sorted(happened[:2]) == [f"-{name}" for name in REPLICAS]
    assert happened[2:away] == ["-bystander", *(f"-{name}" for name in UNITS)]
    # Nothing comes while the modules are away, and each module leaves before the one that it needs.
    assert happened[away:back] == ["-nvidia_uvm", "-nvidia", "+nvidia", "+nvidia_uvm"]
    # What a program at a card needs comes before it: NVIDIA's services, MPS, exporters, replicas last.
    clients = ["+voicefleet-mps", *(f"+{name}" for name in reversed(EXPORTERS)), "+bystander"]
    assert happened[back:-2] == [*(f"+{name}" for name in SERVICES), *clients]
    assert sorted(happened[-2:]) == [f"+{name}" for name in REPLICAS]

    starts = [one for one in host.starts(since) if one["name"] in REPLICAS]
    assert [(one["refused"], one["mps"]["wrong"]) for one in starts] == [("", "")] * 2
    assert "stopped" not in json.loads(host.run("cat", "/etc/voicefleet/nvidia_driver/record.json"))
    running = host.docker("ps", "--format", "{{.Names}}", "--filter", "health=healthy").split()
    assert {*REPLICAS} <= {*running}


@pytest.mark.parametrize(
    ("playbook", "unit"),
    [
        ("site.yml", "voicefleet-nvidia-driver-state.timer"),
        ("tests/support/gpu_host/sharing.yml", "voicefleet-mps.service"),
    ],
)
def test_a_container_that_loses_its_card_as_units_are_read_anew_is_named(
    host: GpuHost, playbook: str, unit: str
) -> None:
    # What is mounted in the containers is this very file.
    inside = f"/var/lib/gpu-stand-in/inside-{CARD['uuid']}"
    sees = host.run("cat", inside)
    lost = (
        '#!/usr/bin/python3 -IS\nprint("Failed to initialize NVML: Unknown Error")\nraise SystemExit(255)\n'
    )
    host.run("sh", "-c", f"cat > {inside}; rm /etc/systemd/system/{unit}", text=lost)
    try:
        with pytest.raises(HostError) as failed:
            play(host, playbook)
    finally:
        host.run("sh", "-c", f"cat > {inside}", text=sees)
    said = " ".join(str(failed.value).split())
    assert "docker_engine : run |" not in said  # at the end of the very role
    assert f"0 of 2 checks passed on {host.run('uname', '-n').strip()}. cards in {REPLICAS[0]}" in said
    assert all(f"docker restart {name}" in said for name in REPLICAS)
