# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to result, on the stand-in for nvidia-smi; containers are made up."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._card_users import Holder, holder
from ansible_collections.voicefleet.cosyvoice.plugins.modules import gpu_capacity, gpu_sharing

STAND_IN = str(Path(__file__).parents[3] / "support" / "nvidia_smi")
A100 = {"name": "NVIDIA A100-SXM4-40GB", "total": 40960, "reserved": 605, "uuid": "GPU-a"}
RTX_4090 = {"name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346, "uuid": "GPU-b"}
P100 = {"name": "Tesla P100-PCIE-16GB", "total": 16384, "reserved": 103, "uuid": "GPU-p"}
MPS = {"mps": True, "mps_uid": "10001"}


class Bench:
    """Cards in a folder, and who holds them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.holders: list[Holder] = []

    def cards(self, *cards: dict[str, Any], **data: Any) -> None:
        text = json.dumps({"driver": "570.148.08", "cards": cards, **data})
        (self.folder / "host.json").write_text(text, encoding="utf-8")

    def run(self, module: Any = gpu_sharing, check: bool = False, **options: Any) -> dict[str, Any]:
        place = {"smi_command": STAND_IN}
        if module is gpu_sharing:
            place["declared_file"] = str(self.folder / "declared.json")
        with (
            patch_module_args({**place, **options, "_ansible_check_mode": check}),
            pytest.raises(SystemExit),
        ):
            module.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return result

    def declare(self, **options: Any) -> None:
        told = self.run(check=True, **options)
        (self.folder / "declared.json").write_text(json.dumps(told["declaration"]), encoding="utf-8")

    def slots(self, **options: Any) -> dict[str, Any]:
        return self.run(gpu_capacity, sharing_file=str(self.folder / "declared.json"), **options)

    def list(self) -> list[str]:
        lines = subprocess.run([STAND_IN, "-L"], capture_output=True, text=True, check=True).stdout
        return [line.split()[1] for line in lines.splitlines() if line.startswith("  MIG")]


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path, capsys)
    monkeypatch.setenv("NVIDIA_SMI_STAND_IN", str(tmp_path / "host.json"))
    monkeypatch.setenv("GPU_STAND_IN_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(gpu_sharing, "holders", lambda _module: made.holders)
    return made


def replica(name: str, *devices: str, sources: tuple[str, ...] = ()) -> Holder:
    return Holder(f"{name:0<64}", name, frozenset(devices), frozenset(sources), replica=True)


def test_a_card_is_cut_and_cut_anew_and_made_whole(bench: Bench) -> None:
    bench.cards(A100, RTX_4090)
    steps: list[tuple[Any, list[str]]] = [
        (["3g.20gb", "3g.20gb"], ["3g.20gb", "3g.20gb"]),
        (["2g.10gb", "3g.20gb"], ["2g.10gb", "3g.20gb"]),
        ([], []),
        (["1g.5gb"] * 7, ["1g.5gb"] * 7),
        ("off", []),
    ]
    for layout, there in steps:
        before = bench.list()
        assert bench.run(check=True, mig={"GPU-a": layout})["changed"]
        assert bench.list() == before
        assert bench.run(mig={"GPU-a": layout})["changed"]
        assert sorted(bench.list()) == there
        assert not bench.run(mig={"GPU-a": layout})["changed"]


@pytest.mark.parametrize("name", ["all", "0", "GPU-a", "part"])
def test_who_holds_a_card_is_named_and_nothing_changes(bench: Bench, name: str) -> None:
    bench.cards(A100)
    bench.run(mig={"0": ["3g.20gb", "3g.20gb"]})
    part = bench.run(gpu_capacity)["gpus"][0]["mig_devices"][1]["uuid"]
    bench.holders = [replica("tts-1", part if name == "part" else name)]
    result = bench.run(mig={"0": ["7g.40gb"]})
    assert result["failed"]
    assert "in use by replica tts-1" in result["msg"]
    assert "it is 3g.20gb + 3g.20gb, and declared as 7g.40gb" in result["msg"]
    assert bench.list() == ["3g.20gb", "3g.20gb"]
    assert "failed" not in bench.run(mig={"0": ["3g.20gb", "3g.20gb"]})


def test_a_process_counts_too_and_one_card_in_use_saves_all(bench: Bench) -> None:
    bench.cards(A100, {**A100, "uuid": "GPU-d", "processes": [{"pid": 4000001, "used": 400}]})
    result = bench.run(mig={"all": ["3g.20gb"]})
    assert "NVIDIA A100-SXM4-40GB #1 (GPU-d) is in use by process 4000001" in result["msg"]
    assert bench.list() == []
    assert bench.run(mig={"0": ["3g.20gb"]})["changed"]


def test_what_the_card_has_no_room_for_is_undone(bench: Bench) -> None:
    bench.cards(A100)
    bench.run(mig={"0": ["3g.20gb", "2g.10gb"]})
    # 7 slices, but 9 eighths of its memory.
    result = bench.run(mig={"0": ["3g.20gb", "3g.20gb", "1g.5gb"]})
    assert "Insufficient Resources" in result["msg"]
    assert "It is as it was, 2g.10gb + 3g.20gb" in result["msg"]
    assert sorted(bench.list()) == ["2g.10gb", "3g.20gb"]


def test_a_mode_that_waits_for_a_reset_is_named(bench: Bench) -> None:
    bus = "00000000:01:00.0"
    pending = f"Warning: MIG mode is in pending enable state for GPU {bus}:In use by another client\n"
    bench.cards(A100, faults=[{"on": "mig", "stdout": pending}])
    result = bench.run(mig={"0": ["3g.20gb"]})
    assert "waits for a reset of the card" in result["msg"]
    assert "nvidia-smi --gpu-reset -i 0" in result["msg"]


def test_a_card_that_does_not_tell_its_instances_is_not_taken_for_empty(bench: Bench) -> None:
    denied = {"on": "mig", "stdout": "Unable to query: Insufficient Permissions\n", "exit_code": 4}
    bench.cards({**A100, "mig": []}, faults=[denied])
    assert "Insufficient Permissions (exit code 4). It needs root" in bench.run(mig={"0": ["3g.20gb"]})["msg"]


def test_profiles_are_checked_before_anything_changes(bench: Bench) -> None:
    bench.cards({**A100, "mig": []})
    assert "has no profile 3g.40gb" in bench.run(mig={"0": ["3g.40gb"]})["msg"]


def test_mps_is_for_whole_cards_from_volta_on(bench: Bench) -> None:
    bench.cards(RTX_4090, P100)
    assert "Tesla P100-PCIE-16GB #1 is of the generation Pascal" in bench.run(**MPS)["msg"]
    bench.cards(A100)
    assert "every card of this host is in MIG mode" in bench.run(**MPS, mig={"0": []})["msg"]
    bench.cards(A100, RTX_4090)
    result = bench.run(check=True, **MPS, mig={"0": []})
    assert result["declaration"]["mps"]["cards"] == ["GPU-b"]
    assert result["mps_change"] == "start"


def test_mps_does_not_begin_or_end_under_a_program(bench: Bench) -> None:
    bench.cards(RTX_4090)
    bench.holders = [replica("tts-1", "GPU-b", sources=("/run/nvidia-mps",))]
    assert "MPS would start on it" in bench.run(**MPS)["msg"]
    bench.holders, before = [], bench.holders
    bench.declare(**MPS)
    bench.holders = before
    result = bench.run(**MPS, mps_thread_percentage=50)
    assert (result["mps_change"], result["mps_clients"]) == ("nothing", ["replica tts-1"])
    assert "MPS would restart" in bench.run(mps=True, mps_uid="7")["msg"]
    assert "MPS would stop" in bench.run(mps=False)["msg"]


def seen(**host: Any) -> dict[str, Any]:
    config = {"Env": ["NVIDIA_VISIBLE_DEVICES=GPU-b,1"], "Labels": None}
    return {"Id": "1" * 64, "Name": "/one", "HostConfig": host, "Config": config, "Mounts": []}


@pytest.mark.parametrize(
    ("host", "devices"),
    [
        ({"DeviceRequests": [{"DeviceIDs": ["GPU-a"], "Count": 0}]}, {"GPU-a"}),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-a"]}]}, {"GPU-a"}),
        ({"DeviceRequests": [{"DeviceIDs": None, "Count": -1}]}, {"all"}),
        ({"Runtime": "nvidia"}, {"GPU-b", "1"}),
        ({"DeviceRequests": None, "Runtime": "runc"}, set()),
    ],
)
def test_what_a_container_was_given(host: dict[str, Any], devices: set[str]) -> None:
    assert holder(seen(**host)).devices == devices


# --- what becomes of the slots ---


def test_slots_follow_the_layout_and_a_card_that_is_not_as_declared_is_an_error(bench: Bench) -> None:
    bench.cards(A100)
    declared = {"mig": {"0": ["3g.20gb", "3g.20gb"]}}
    bench.declare(**declared)
    result = bench.slots()
    assert result["failed"]
    assert "is declared as 3g.20gb + 3g.20gb and is not cut (MIG off)" in result["msg"]
    to_come = bench.slots(sharing=bench.run(check=True, **declared)["declaration"])
    bench.run(**declared)
    now = bench.slots()
    assert now["capacity"] == to_come["capacity"] == 4
    assert [slot["memory_mib"] for slot in now["slots"]] == [8192] * 4
    assert not any("mps" in slot for slot in now["slots"])


def test_a_layout_to_come_of_a_card_nobody_saw_counts_nothing(bench: Bench) -> None:
    bench.cards({**A100, "name": "NVIDIA B200"})
    result = bench.slots(sharing={"mig": {"GPU-a": ["1g.23gb"]}, "mps": None})
    assert result["capacity"] == 0
    assert "it is known when the card is cut" in result["summary"]


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in the place of nvidia-cuda-mps-control."""

    def put(script: str) -> None:
        program = tmp_path / "nvidia-cuda-mps-control"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_slots_of_a_shared_card_have_even_shares(bench: Bench, control: Callable[[str], None]) -> None:
    control("cat > /dev/null")
    bench.cards({**RTX_4090, "compute_mode": "Exclusive_Process"}, {**A100, "mig": []})
    bench.declare(**MPS)
    result = bench.slots()
    mps = {"thread_percentage": 50, "pipe_dir": "/run/nvidia-mps", "uid": "10001"}
    assert [slot["mps"] for slot in result["slots"]] == [mps, mps]
    assert "shared by MPS: 50 % of its threads each" in result["gpus"][0]["reason"]
    bench.declare(**MPS, mps_thread_percentage=40)
    assert bench.slots()["slots"][0]["mps"]["thread_percentage"] == 40
    bench.declare(**MPS, mps_memory_mib=8000)
    assert (
        "One instance takes 8192 MiB, and MPS on this host gives no client more than 8000"
        in bench.slots()["msg"]
    )


def test_a_daemon_that_does_not_answer_is_an_error(bench: Bench, control: Callable[[str], None]) -> None:
    bench.cards(RTX_4090)
    bench.declare(**MPS)
    control("echo Cannot find MPS control daemon process; exit 1")
    assert "does not answer: Cannot find MPS control daemon process" in bench.slots()["msg"]
    assert bench.slots(check=True)["failed"]
    to_come = json.loads((bench.folder / "declared.json").read_text("utf-8"))
    assert bench.slots(sharing=to_come)["capacity"] == 2
    assert bench.slots(gpus=["0"])["failed"]


def test_a_declaration_that_cannot_be_read_is_an_error(bench: Bench) -> None:
    bench.cards(RTX_4090)
    (bench.folder / "declared.json").write_text("{", encoding="utf-8")
    assert "declared.json cannot be read" in bench.slots()["msg"]
