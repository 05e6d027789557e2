# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One replica measured on a made-up card, and the figure in the host's variables.

The hard service on the stand-in GPU host holds more of the card the longer and the more streams it has in
hand, and lets go of it when they end: only who looks meanwhile sees the most there was.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from gpu_host.host import ROOT, GpuHost, HostError
from patience import until
from recorded_voices import STAND_IN_PLACE, bring_stand_in

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"
PLAYBOOK = SUPPORT / "hard_service/playbook.yml"
SERVER = "/opt/hard/server.py"  # on the host
CARD = "GPU-24000000-0000-4000-8000-000000000001"
SMALL = "GPU-12000000-0000-4000-8000-000000000002"
PARTS = ("MIG-30000000-0000-4000-8000-000000000031", "MIG-30000000-0000-4000-8000-000000000032")
RTX_4090 = {"uuid": CARD, "name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346}
RTX_3060 = {"uuid": SMALL, "name": "NVIDIA GeForce RTX 3060", "total": 12288, "reserved": 230}
A30 = {
    "uuid": "GPU-30000000-0000-4000-8000-000000000003",
    "name": "NVIDIA A30",
    "total": 24576,
    "reserved": 318,
    "mig": [
        {"uuid": uuid, "gpu_instance": number, "compute_instance": 0, "total": 11968, "profile": "2g.12gb"}
        for number, uuid in enumerate(PARTS, 1)
    ],
}
# As it starts, when it is loaded, and then 100 for every second of a stream: 4000 + 2 x 3 x 100 at most.
STARTS_MIB, LOADED_MIB, PEAK_MIB, INSTANCE_MIB = 3000, 4000, 4600, 5120
REQUESTS = [
    {"name": "a short one", "path": "/stream?seconds=1"},
    {"name": "a long one", "path": "/stream?seconds=3"},
]
QUICK: dict[str, Any] = {
    "gpu_service_calibration_requests": REQUESTS[:1],
    "gpu_service_calibration_at_once": [1],
}
QUICK_MIB = 4544  # 4000 + 100, and a tenth of that


class Fleet:
    """The hard service on the host, and the host's variables beside its inventory."""

    def __init__(self, host: GpuHost) -> None:
        self.host = host
        self.folder = ROOT / ".work" / host.name / "host_vars"
        self.own = self.folder / host.name
        self.file = self.own / "calibration.yml"

    def cards(self, *cards: dict[str, Any], starts_mib: int = STARTS_MIB) -> None:
        self.host.cards({"cards": cards, "default_mib": starts_mib})

    def run(self, *options: str, **variables: Any) -> str:
        given = {
            "part": "calibrate",
            "ansible_become": False,  # it is root, and the host has no sudo
            "hard_image": self.host.images["base"],
            "hard_start_seconds": 1,
            "hard_gpu_file": "/tmp/gpu-mib",
            "gpu_service_device": "gpu",
            "gpu_service_mounts": [{"source": SERVER, "target": "/server.py"}],
            "gpu_service_lock_expiry_seconds": 5,
            "gpu_service_calibration_requests": REQUESTS,
            "gpu_service_calibration_at_once": [1, 2],
            **variables,
        }
        return self.host.playbook(PLAYBOOK, *options, **given)

    def refused(self, *options: str, **variables: Any) -> str:
        """What it said as it failed; nothing was started, and nothing written, for all that."""
        since = time.time()
        with pytest.raises(HostError) as failed:
            self.run(*options, **variables)
        assert self.host.starts(since) == []
        assert not self.file.exists()
        return plain(failed.value)

    def figure(self) -> int:
        return int(yaml.safe_load(self.file.read_text(encoding="utf-8"))["gpu_service_instance_mib"])

    def put_on(self, card: str, name: str, *options: str) -> None:
        """A container that does nothing there."""
        gpus, image = f'"device={card}"', self.host.images["base"]
        command = ("python3", "-ISc", "import signal; signal.pause()")
        self.host.docker("run", "--detach", "--name", name, "--gpus", gpus, *options, image, *command)

    def containers(self) -> list[str]:
        return sorted(
            one["Name"].lstrip("/") for one in self.host.containers("label=voicefleet.service=hard")
        )

    def leaves_nothing(self) -> None:
        assert self.containers() == []
        there = self.host.run("find", "/var/lib/voicefleet/hard", "-mindepth", "1")
        assert there == "", there


@pytest.fixture
def fleet(gpu_host: GpuHost) -> Iterator[Fleet]:
    gpu_host.copy(SUPPORT / "hard_service/server.py", SERVER)
    made = Fleet(gpu_host)
    shutil.rmtree(made.folder, ignore_errors=True)
    made.cards(RTX_4090)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


def plain(error: HostError) -> str:
    """What was said, without the line breaks that YAML put in."""
    return " ".join(re.sub(r"\\\n\s*\\?", "", str(error)).split())


def test_it_measures_writes_and_leaves_nothing(fleet: Fleet) -> None:
    fleet.cards(RTX_3060, RTX_4090)
    since = time.time()
    print(said := fleet.run("--check"))
    assert f"one replica would be measured on RTX 4090 #1 ({CARD})" in " ".join(said.split())
    assert "changed=0" in said
    assert fleet.host.starts(since) == []
    assert not fleet.folder.exists()

    print(said := fleet.run())
    assert fleet.figure() == INSTANCE_MIB
    assert f"+gpu_service_instance_mib: {INSTANCE_MIB}" in said  # though no diff was asked for
    assert "changed=1" in said
    assert f"2 x a long one: {PEAK_MIB} MiB" in said
    assert f"fit to serve: {LOADED_MIB} MiB" in said
    assert [(start["name"], start["device"]) for start in fleet.host.starts(since)] == [
        ("hard-calibration", CARD)
    ]
    fleet.leaves_nothing()

    # Again, and nothing changes: it counts with what it has written, and keeps what somebody put beside that.
    own = "# how we came by it\nhard_note: ours\n"
    fleet.file.write_text(own + fleet.file.read_text(encoding="utf-8"), encoding="utf-8")
    before = fleet.file.read_bytes()
    print(said := fleet.run())
    assert f"{INSTANCE_MIB}, as before" in " ".join(said.split())
    assert "changed=0" in said
    assert fleet.file.read_bytes() == before

    # More at once takes more, and the figure grows in its place.
    print(said := fleet.run(gpu_service_calibration_at_once=[4]))
    assert fleet.figure() == 5760  # 4000 + 4 x 3 x 100, and a tenth of that
    assert fleet.file.read_text(encoding="utf-8").startswith(own)
    assert f"-gpu_service_instance_mib: {INSTANCE_MIB}" in said


def test_no_card_is_idle(fleet: Fleet) -> None:
    """Replicas, and a process that is in no container."""
    for number in (1, 2):
        fleet.put_on(CARD, f"hard-{number}", "--label=voicefleet.role=replica")
    fleet.cards(RTX_4090, {**RTX_3060, "processes": [{"pid": 4000001, "used": 4000}]})
    said = fleet.refused(gpu_service_replicas=99)  # what is asked for of replicas is not looked at
    assert f"RTX 4090 #0 ({CARD}) is in use by replica hard-1, replica hard-2" in said
    assert f"RTX 3060 #1 ({SMALL}) is in use by process 4000001" in said
    assert "drain.yml" in said
    assert "is in use by replica hard-1" in fleet.refused("--check")

    # On a card that is named it is measured beside them, and they do not count.
    print(fleet.run(**QUICK, gpu_service_calibration_gpu="0"))
    assert fleet.figure() == QUICK_MIB
    assert fleet.host.overfilled() == []

    # As drain.yml leaves them.
    fleet.host.docker("stop", "--time=0", "hard-1", "hard-2")
    print(said := fleet.run(**QUICK))
    assert f"{QUICK_MIB}, as before" in " ".join(said.split())


def test_a_mig_device_and_a_start_that_takes_more_than_all_that_follows(fleet: Fleet) -> None:
    fleet.cards(A30, starts_mib=6000)
    fleet.put_on(PARTS[0], "theirs")
    print(said := fleet.run(**QUICK))
    assert PARTS[1] in said
    assert fleet.figure() == 6656


def test_variables_that_would_be_hidden_or_contradicted(fleet: Fleet) -> None:
    beside = fleet.folder / f"{fleet.host.name}.yml"
    fleet.folder.mkdir()
    beside.write_text("hard_note: ours\n", encoding="utf-8")
    assert f"{beside} holds variables of" in fleet.refused()
    assert not fleet.own.exists()
    beside.unlink()

    fleet.own.mkdir()
    by_hand = fleet.own / "main.yml"
    by_hand.write_text('"gpu_service_instance_mib" : 9000\n', encoding="utf-8")
    assert f"is set by hand in {by_hand}," in fleet.refused()
    by_hand.write_text("# gpu_service_instance_mib: 9000\n", encoding="utf-8")
    fleet.run(**QUICK)
    assert fleet.figure() == QUICK_MIB


def test_a_service_that_does_not_do_what_is_asked(fleet: Fleet) -> None:
    for variables, words in (
        ({"hard_fault": "dies_at_start"}, "no memory left for the model"),
        ({"hard_fault": "errors"}, "2 of 2 requests at once (a short one) were not answered as wanted: 500"),
        ({"hard_fault": "crashes_after=2"}, "stopped with exit code 3"),
        ({"gpu_service_calibration_requests": []}, "requests is empty"),
        ({"gpu_service_device": "cpu", "gpu_service_replicas": 1}, "uses no card"),
        ({"gpu_service_calibration_dir": ""}, "which is no directory on the controller"),
    ):
        with pytest.raises(HostError) as failed:
            fleet.run(**{"gpu_service_calibration_at_once": [2], **variables})
        assert words in plain(failed.value)
        assert not fleet.file.exists()
        fleet.leaves_nothing()


def test_a_run_that_was_cut_off(fleet: Fleet) -> None:
    """Its module is killed on the host: what it leaves is in nobody's way, and the next takes it away."""
    failures: list[HostError] = []

    def run() -> None:
        try:
            fleet.run(gpu_service_calibration_requests=[{"name": "endless", "path": "/stream?seconds=100"}])
        except HostError as error:
            failures.append(error)

    thread = Thread(target=run)
    thread.start()
    until("measuring", lambda: fleet.containers() == ["hard-calibration"])
    with pytest.raises(HostError, match="is held by"):
        fleet.run(**QUICK)
    fleet.host.run("pkill", "--signal", "KILL", "--full", "replica_footprint")
    thread.join()
    assert "was killed" in str(failures[0])
    assert fleet.containers() == ["hard-calibration"]

    print(said := fleet.run("--check"))
    assert f"would be measured on RTX 4090 #0 ({CARD})" in " ".join(said.split())
    assert fleet.containers() == ["hard-calibration"]
    fleet.run(**QUICK)
    assert fleet.figure() == QUICK_MIB
    fleet.leaves_nothing()


def test_the_playbook_with_the_speech_server(fleet: Fleet, tmp_path: Path) -> None:
    """Its own texts, spoken by the stand-in of upstream's code."""
    host = fleet.host
    host.load("speech_server")
    fleet.cards(RTX_4090, starts_mib=5000)
    said = host.playbook(
        ROOT / "playbooks/calibrate.yml",
        ansible_become=False,
        **bring_stand_in(host, tmp_path, "model"),
        cosyvoice_image=host.images["speech_server"],
        cosyvoice_model_dir=f"{STAND_IN_PLACE}/model",
        cosyvoice_max_in_flight=2,
    )
    print(said)
    waves = [
        f"{at_once} x {name}: 5000 MiB"
        for at_once in (1, 2)
        for name in ("a greeting", "a sentence", "a long sentence", "a page")
    ]
    assert [one for one in waves if one not in said] == []
    assert fleet.figure() == 5504


def test_the_image_that_a_host_builds_is_brought_first() -> None:
    """On the demo, which has no card: what is refused is that, and no longer an image that nobody named."""
    command = ["ansible-playbook", "-i", str(ROOT / "inventories/demo"), str(ROOT / "calibrate.yml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gpu_service_device is 'cpu'" in done.stdout + done.stderr
    assert "gpu_service_image is empty" not in done.stdout + done.stderr
