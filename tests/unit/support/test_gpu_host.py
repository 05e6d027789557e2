# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-ins of a GPU host without a host: the runtime hook, nvidia-smi and the samples, on one folder."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parents[2] / "support"
HOOK = str(SUPPORT / "gpu_host/nvidia-container-runtime-hook")
SAMPLES = str(SUPPORT / "gpu_host/gpu-samples")
SMI = str(SUPPORT / "nvidia_smi")
RTX_4090 = {"uuid": "GPU-a", "name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346}
A30 = {
    "uuid": "GPU-b",
    "name": "NVIDIA A30",
    "total": 24576,
    "reserved": 318,
    "mig": [
        {"uuid": "MIG-1", "gpu_instance": 1, "compute_instance": 0, "total": 11968, "used": 12},
        {"uuid": "MIG-2", "gpu_instance": 1, "compute_instance": 1, "total": 11968, "used": 12},
        {"uuid": "MIG-3", "gpu_instance": 2, "compute_instance": 0, "total": 11968, "profile": "2g.12gb"},
    ],
}
LOST = {"uuid": "GPU-c", "name": "NVIDIA H200", "total": 143771, "lost": True}


class Stage:
    """Cards in a folder; containers are processes that only sleep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "NVIDIA_SMI_STAND_IN": str(folder / "cards.json"),
            "GPU_STAND_IN_STATE": str(folder / "state"),
            "GPU_STAND_IN_LOGS": str(folder / "logs"),
        }
        (folder / "state").mkdir()
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def cards(self, *cards: dict[str, Any], **data: Any) -> None:
        (self.folder / "cards.json").write_text(json.dumps({"cards": cards, **data}), encoding="utf-8")

    def start(self, name: str, visible: str = "GPU-a", mib: int | None = None) -> str:
        """As the engine does: the process is there, then the hook decides. Its words, or none."""
        process = subprocess.Popen(["sleep", "600"])
        bundle = self.folder / name
        bundle.mkdir(exist_ok=True)
        about = self.folder / f"{name}-about"
        about.mkdir(exist_ok=True)
        (about / "config.v2.json").write_text(json.dumps({"Name": f"/{name}"}), encoding="utf-8")
        own = [f"VOICEFLEET_STAND_IN_GPU_MIB={mib}"] if mib else []
        config = {
            "process": {
                # The engine's own comes after what the image or the user has set.
                "env": ["NVIDIA_VISIBLE_DEVICES=all", *own, f"NVIDIA_VISIBLE_DEVICES={visible}"]
            },
            "mounts": [{"destination": "/etc/hostname", "source": str(about / "hostname")}],
        }
        (bundle / "config.json").write_text(json.dumps(config), encoding="utf-8")
        state = json.dumps({"id": f"id-{name}", "pid": process.pid, "bundle": str(bundle)})
        hook = subprocess.run(
            [HOOK, "prestart"], input=state, env=self.environment, capture_output=True, text=True
        )
        if hook.returncode:
            process.kill()
            process.wait()
            assert hook.stderr
            return hook.stderr
        self.running[name] = process
        return ""

    def end(self, name: str, bury: bool = True) -> None:
        self.running[name].kill()
        if bury:
            self.running.pop(name).wait()

    def smi(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run([SMI, *arguments], env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, done
        return done.stdout

    def used(self) -> dict[str, Any]:
        done = subprocess.run(
            [SAMPLES, "now"], env=self.environment, capture_output=True, text=True, check=True
        )
        return {card: figures and figures[0] for card, figures in json.loads(done.stdout)["cards"].items()}

    def starts(self) -> list[dict[str, Any]]:
        text = (self.folder / "logs/starts.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    made.cards(RTX_4090)
    yield made
    for process in made.running.values():
        process.kill()
        process.wait()


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_what_was_started_is_counted_until_its_process_ends(stage: Stage) -> None:
    assert stage.start("one") == ""
    assert stage.start("two", mib=9000) == ""
    assert stage.used() == {"GPU-a": 17192}
    asked = stage.smi("--query-gpu=memory.total,memory.used,memory.free", "--format=csv,noheader,nounits")
    assert asked == "24564, 17192, 7026\n"
    listed = stage.smi("--query-compute-apps=gpu_uuid,pid,process_name,used_memory", "--format=csv")
    pids = [stage.running[name].pid for name in ("one", "two")]
    rows = sorted([f"GPU-a, {pids[0]}, sleep, 8192 MiB", f"GPU-a, {pids[1]}, sleep, 9000 MiB"])
    head, *body = listed.splitlines()
    assert (head, sorted(body)) == ("gpu_uuid, pid, process_name, used_memory [MiB]", rows)
    assert f"<pid>{pids[0]}</pid>" in stage.smi("-q", "-x")
    stage.end("one", bury=False)  # a zombie holds no memory
    assert soon(lambda: stage.used() == {"GPU-a": 9000})


def test_over_filling_is_refused_in_the_words_of_cuda_and_written_down(stage: Stage) -> None:
    stage.start("one")
    stage.start("two")
    words = stage.start("three")
    assert "CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has a total capacity of 23.65 GiB" in words
    assert [(one["name"], one["used_mib"], one["overfill"]) for one in stage.starts()] == [
        ("one", 0, False),
        ("two", 8192, False),
        ("three", 16384, True),
    ]
    assert stage.used() == {"GPU-a": 16384}


def test_of_many_that_start_at_once_as_many_get_in_as_fit(stage: Stage) -> None:
    with ThreadPoolExecutor(6) as pool:
        words = list(pool.map(stage.start, [f"c{number}" for number in range(6)]))
    assert words.count("") == 2
    assert stage.used() == {"GPU-a": 16384}


def test_over_filling_can_be_let_happen(stage: Stage) -> None:
    stage.cards(RTX_4090, enforce=False)
    assert [stage.start(name) for name in ("one", "two", "three")] == ["", "", ""]
    assert stage.used() == {"GPU-a": 24576}
    assert [one["overfill"] for one in stage.starts()] == [False, False, True]


def test_others_are_in_the_way_too(stage: Stage) -> None:
    stage.cards({**RTX_4090, "processes": [{"pid": 4000001, "used": 12000}]})
    assert stage.smi("--query-gpu=memory.free", "--format=csv,noheader") == "12218 MiB\n"
    assert stage.start("one") == ""
    assert "CUDA out of memory" in stage.start("two")
    assert stage.used() == {"GPU-a": 20192}


def test_compute_instances_share_the_memory_of_their_gpu_instance(stage: Stage) -> None:
    stage.cards(RTX_4090, A30)
    assert "ask for a MIG device" in stage.start("card", "GPU-b")
    assert stage.start("one", "MIG-1") == ""
    assert "CUDA out of memory" in stage.start("two", "MIG-2")
    assert stage.start("three", "MIG-3") == ""
    assert stage.used() == {"GPU-a": 0, "MIG-1": 8204, "MIG-2": 8204, "MIG-3": 8192}
    assert "<gpu_instance_id>2</gpu_instance_id>" in stage.smi("-q", "-x").split("<processes>")[2]


@pytest.mark.parametrize(
    ("visible", "device"), [("all", "GPU-a"), ("0", "GPU-a"), ("1", "GPU-d"), ("GPU-d,GPU-a", "GPU-d")]
)
def test_a_container_uses_the_first_device_it_sees(stage: Stage, visible: str, device: str) -> None:
    stage.cards(RTX_4090, {**RTX_4090, "uuid": "GPU-d"})
    assert stage.start("one", visible) == ""
    assert stage.starts()[0]["device"] == device


def test_no_card_is_asked_for(stage: Stage) -> None:
    assert stage.start("one", "void") == ""
    assert stage.used() == {"GPU-a": 0}


@pytest.mark.parametrize(("visible", "words"), [("GPU-9", "unknown device"), ("GPU-c", "gpu is lost")])
def test_a_card_that_cannot_be_used(stage: Stage, visible: str, words: str) -> None:
    stage.cards(RTX_4090, LOST)
    assert words in stage.start("one", visible)
    assert stage.used() == {"GPU-a": 0, "GPU-c": None}
    assert not stage.starts()[0].get("overfill")


def test_a_card_whose_memory_is_unknown_takes_all(stage: Stage) -> None:
    stage.cards({**RTX_4090, "fb_text": "N/A"})
    assert [stage.start(name) for name in ("one", "two", "three")] == ["", "", ""]
    assert stage.used() == {"GPU-a": None}
    assert "<fb_memory_usage>N/A</fb_memory_usage>" in stage.smi("-q", "-x")


def test_memory_is_freed_late(stage: Stage) -> None:
    stage.cards(RTX_4090, faults=[{"on": "end", "card": "GPU-a", "late_free_seconds": 600}])
    stage.start("one", mib=20000)
    stage.end("one")
    assert stage.used() == {"GPU-a": 20000}
    assert "CUDA out of memory" in stage.start("two")
    stage.cards(RTX_4090, faults=[{"on": "end", "card": "GPU-a", "late_free_seconds": 0.5}])
    assert soon(lambda: stage.used() == {"GPU-a": 0})


def test_out_of_memory_as_often_as_a_fault_says(stage: Stage) -> None:
    stage.cards(RTX_4090, faults=[{"on": "start", "out_of_memory": True, "times": 2}])
    assert ["CUDA out of memory" in stage.start(name) for name in ("one", "two", "three")] == [
        True,
        True,
        False,
    ]
    assert [one["overfill"] for one in stage.starts()] == [False, False, False]


def test_a_driver_that_does_not_fit_its_library(stage: Stage) -> None:
    stage.cards(RTX_4090, faults=[{"on": "any", "named": "version_mismatch"}])
    assert "nvml error: driver/library version mismatch" in stage.start("one")
    assert stage.smi("-L", code=18).startswith("Failed to initialize NVML: Driver/library version mismatch\n")


def test_figures_of_cards_in_trouble_as_csv(stage: Stage) -> None:
    stage.cards({**RTX_4090, "fb_text": "N/A"}, A30, LOST)
    assert stage.smi(
        "--query-gpu=uuid,mig.mode.current,memory.free", "--format=csv,noheader"
    ).splitlines() == [
        "GPU-a, [N/A], [N/A]",
        "GPU-b, Enabled, 24258 MiB",
        "GPU-c, Disabled, [GPU is lost]",
    ]
    assert stage.smi("--query-gpu=index", "--format=csv", "-i", "GPU-c") == "index\n2\n"
    wrong = stage.smi("--query-gpu=price", "--format=csv", code=2)
    assert wrong == 'Field "price" is not a valid field to query.\n'


def test_mig_is_switched_on_an_idle_card_only(stage: Stage) -> None:
    idle = {**A30, "mig": None}
    stage.cards(RTX_4090, idle)
    stage.start("one", "GPU-b")
    assert "pending enable state" in stage.smi("-i", "1", "-mig", "1")
    assert "<pending_mig>Enabled</pending_mig>" in stage.smi("-q", "-x", "-i", "1")
    stage.end("one")
    assert stage.smi("-i", "1", "-mig", "1") == "Enabled MIG Mode for GPU 00000000:02:00.0\nAll done.\n"
    assert "<current_mig>Enabled</current_mig>" in stage.smi("-q", "-x", "-i", "1")
    assert stage.smi("mig", "-lgi") == "No GPU instances found: Not Found\n"
    assert "Not Supported" in stage.smi("-i", "0", "-mig", "1")
    assert "Disabled MIG Mode" in stage.smi("-i", "GPU-b", "-mig", "0")


def test_a_card_is_cut_as_far_as_it_has_room(stage: Stage) -> None:
    stage.cards({**A30, "mig": None})
    assert stage.smi("mig", "-lgip") == "No MIG-enabled devices found.\n"
    stage.smi("-mig", "1")
    row = next(line for line in stage.smi("mig", "-lgip").splitlines() if "2g.12gb" in line)
    assert row.split()[1:7] == ["0", "MIG", "2g.12gb", "5", "2/2", "11.69"]
    made = stage.smi("mig", "-cgi", "2g.12gb,5", "-C")
    assert "compute instance ID  0 on GPU  0 GPU instance ID  2" in made
    assert "Insufficient Resources" in stage.smi("mig", "-cgi", "1g.6gb", "-C", code=23)
    assert "Not Supported" in stage.smi("mig", "-cgi", "3g.20gb", code=3)
    assert "Unable to disable MIG Mode" in stage.smi("-mig", "0")
    assert "In use by another client" in stage.smi("mig", "-dgi", code=19)
    uuids = [line.split("UUID: ")[1].rstrip(")") for line in stage.smi("-L").splitlines()[1:]]
    stage.start("one", uuids[1])
    assert "In use by another client" in stage.smi("mig", "-dci", code=19)
    stage.end("one")
    stage.smi("mig", "-dci")
    assert len(stage.smi("-L").splitlines()) == 1
    assert stage.smi("mig", "-lgi").count("MIG 2g.12gb") == 2
    stage.smi("mig", "-dgi")
    assert stage.smi("mig", "-dgi", code=6) == "No GPU instances found: Not Found\n"


@pytest.mark.parametrize(("name", "mode"), [("NVIDIA A30", "Enabled"), ("NVIDIA H100 80GB HBM3", "Disabled")])
def test_a_boot_takes_instances_and_compute_mode(stage: Stage, name: str, mode: str) -> None:
    stage.cards({**A30, "name": name, "compute_mode": "Exclusive_Process"})
    for _boot in "first", "no other":
        subprocess.run([SAMPLES, "boot"], env=stage.environment, check=True)
        told = stage.smi("--query-gpu=mig.mode.current,compute_mode", "--format=csv,noheader")
        assert told == f"{mode}, Default\n"
    assert "MIG" not in stage.smi("-L").replace(name, "")


def test_compute_mode(stage: Stage) -> None:
    stage.cards(RTX_4090)
    assert stage.smi("-i", "0", "-c", "EXCLUSIVE_PROCESS").startswith("Set compute mode to EXCLUSIVE_PROCESS")
    assert stage.start("one") == ""
    assert "busy or unavailable" in stage.start("two")
    stage.smi("-c", "0")
    assert stage.start("two") == ""


def test_gpu_instances_are_listed_once(stage: Stage) -> None:
    stage.cards(RTX_4090, A30)
    rows = [line for line in stage.smi("mig", "-lgi").splitlines() if "MIG" in line]
    assert [(row.split()[1], row.split()[3], row.split()[5]) for row in rows] == [
        ("1", "1g.10gb", "1"),
        ("1", "2g.12gb", "2"),
    ]
