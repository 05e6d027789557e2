# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to result, asking the stand-in for nvidia-smi."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.modules import gpu_capacity
from nvidia_smi_xml import Card, Host, Mig, host_from, query_xml

STAND_IN = str(Path(__file__).parents[3] / "support" / "nvidia_smi")
RETURNED = {"changed", "capacity", "slots", "summary", "gpus", "problems"}
RTX_4090 = {"name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346, "uuid": "GPU-a"}
L4 = {"name": "NVIDIA L4", "total": 23034, "reserved": 556, "uuid": "GPU-b"}
LOST = {"name": "NVIDIA H200", "total": 143771, "reserved": 614, "uuid": "GPU-c", "lost": True}

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module with these options and returns what it prints, after the checks that always hold."""
    warned: list[str] = []
    # Ansible shows a warning once in a process, and all tests are one process.
    monkeypatch.setattr(gpu_capacity.AnsibleModule, "warn", lambda _module, text: warned.append(text))

    def call(**options: Any) -> dict[str, Any]:
        with patch_module_args(options), pytest.raises(SystemExit) as ended:
            gpu_capacity.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert ended.value.code == (1 if result.get("failed") else 0)
        assert result.keys() >= RETURNED
        assert result["changed"] is False
        assert result["capacity"] == len(result["slots"])
        return {**result, "warnings": [warned.pop() for _each in list(warned)]}

    return call


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the cards and faults of the stand-in."""

    def set_up(*cards: dict[str, Any], faults: list[dict[str, Any]] | None = None) -> None:
        data = {"driver": "570.148.08", "cards": cards, "faults": faults or []}
        (tmp_path / "host.json").write_text(json.dumps(data), encoding="utf-8")
        monkeypatch.setenv("NVIDIA_SMI_STAND_IN", str(tmp_path / "host.json"))

    return set_up


Play = Callable[..., None]


def test_two_cards(run: Run, play: Play) -> None:
    play(RTX_4090, L4)
    result = run(smi_command=STAND_IN)
    assert result["capacity"] == 4
    assert result["slots"] == [
        {"gpu": uuid, "index": index, "memory_mib": 8192} for uuid in ("GPU-a", "GPU-b") for index in (0, 1)
    ]
    assert result["summary"].splitlines() == [
        "RTX 4090 #0: 24564 MiB, 346 reserved, 0 foreign -> 2 x 8192 MiB (class cap 24 GB: 2)",
        "L4 #1: 23034 MiB, 556 reserved, 0 foreign -> 2 x 8192 MiB (class cap 24 GB: 2)",
    ]
    assert result["problems"] == []
    assert result["warnings"] == []


def test_check_mode_is_the_same(run: Run, play: Play) -> None:
    play(RTX_4090)
    assert run(smi_command=STAND_IN, _ansible_check_mode=True) == run(smi_command=STAND_IN)


def test_result_is_as_documented(run: Run, play: Play) -> None:
    """The sample in RETURN is what the module gives for that card, and every key is documented."""
    documented = yaml.safe_load(gpu_capacity.RETURN)
    play({**RTX_4090, "uuid": "GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11"})
    result = run(smi_command=STAND_IN)
    for key in ("gpus", "slots", "capacity", "summary", "problems"):
        assert result[key] == documented[key]["sample"]
    mig = [{"gpu_instance": 1, "compute_instance": 0, "total": 9984}]
    play({**RTX_4090, "mig": mig})
    (card,) = run(smi_command=STAND_IN)["gpus"]
    card_keys = set(documented["gpus"]["contains"])
    assert set(card) == card_keys
    mig_keys = set(documented["gpus"]["contains"]["mig_devices"]["contains"])
    assert set(card["mig_devices"][0]) == (card_keys - {"driver", "mig_devices"}) | mig_keys


def test_documented_failure_is_what_comes(run: Run, play: Play) -> None:
    sample = yaml.safe_load(gpu_capacity.RETURN)["msg"]["sample"]
    words = "Failed to initialize NVML: Driver/library version mismatch"
    play(RTX_4090, faults=[{"on": "any", "exit_code": 18, "stdout": words}])
    assert run(smi_command=STAND_IN)["msg"] == sample


def test_options_reach_the_rule(run: Run, play: Play) -> None:
    play({**RTX_4090, "display": True}, L4)
    loose = [{"name": "big enough", "min_mib": 24000, "max_mib": 25000, "max_instances": 9}]
    assert run(smi_command=STAND_IN, instance_mib=4000, class_caps=loose)["capacity"] == 5 + 2
    assert run(smi_command=STAND_IN, max_per_gpu=1)["capacity"] == 2
    assert run(smi_command=STAND_IN, headroom_mib=20000)["capacity"] == 0
    assert run(smi_command=STAND_IN, display_headroom_mib=20000)["capacity"] == 2
    result = run(smi_command=STAND_IN, gpus=["1"], instance_mib=6000)
    assert result["slots"][0] == {"gpu": "GPU-b", "index": 0, "memory_mib": 6000}
    assert [gpu["uuid"] for gpu in result["gpus"]] == ["GPU-b"]
    result = run(smi_command=STAND_IN, gpus=["1"], instance_mib=4096, instance_fraction=0.2, start_mib=2048)
    assert [slot["memory_mib"] for slot in result["slots"]] == [4096 + 4607 + 2048] * 2


def test_card_that_is_not_there_fails_and_shows_what_is(run: Run, play: Play) -> None:
    play(RTX_4090)
    result = run(smi_command=STAND_IN, gpus=["GPU-x"])
    assert result["msg"] == "gpus: GPU-x not found on this host. It has: 0 = GPU-a (RTX 4090)"
    assert result["gpus"][0]["uuid"] == "GPU-a"


def test_own_containers_are_found_by_cgroup(run: Run, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    container = "4d" * 32
    calls: list[tuple[set[int], list[str]]] = []

    def owners(pids: set[int], own_containers: list[str]) -> dict[int, str]:
        calls.append((pids, own_containers))
        return {1234: container}

    monkeypatch.setattr(gpu_capacity, "owners", owners)
    play({**RTX_4090, "used": 16000, "processes": [{"pid": 1234, "used": 16000}]})
    result = run(smi_command=STAND_IN, own_containers=[container])
    assert calls == [({1234}, [container])]
    assert (result["capacity"], result["gpus"][0]["foreign_mib"]) == (2, 0)


def test_stranger_is_foreign_although_own_containers_are_given(run: Run, play: Play) -> None:
    """With the real /proc: this test's own process is in none of these containers."""
    play({**RTX_4090, "used": 16000, "processes": [{"pid": os.getpid(), "used": 16000}]})
    result = run(smi_command=STAND_IN, own_containers=["4d" * 32, "0123456789ab"])
    assert (result["capacity"], result["gpus"][0]["foreign_mib"]) == (0, 16000)


# --- trouble ------------------------------------------------------------------------------------------------


def test_unknown_memory_warns_and_holds_nothing(run: Run, play: Play) -> None:
    play(RTX_4090, LOST)
    result = run(smi_command=STAND_IN)
    assert [gpu["capacity"] for gpu in result["gpus"]] == [2, 0]
    (problem,) = result["problems"]
    assert "H200 #1: memory unknown: total is 'GPU is lost'" in problem["message"]
    assert problem["remedy"] in json.dumps(result["warnings"])


def test_unknown_memory_fails_if_asked_and_returns_all_that_was_found(run: Run, play: Play) -> None:
    play(RTX_4090, LOST)
    result = run(smi_command=STAND_IN, fail_on_unknown=True)
    assert result["msg"].startswith(
        "The memory of 1 device(s) is unknown. "
        "H200 #1: memory unknown: total is 'GPU is lost'. Reboot the host"
    )
    assert result["capacity"] == 2
    assert len(result["gpus"]) == 2
    assert not run(smi_command=STAND_IN, fail_on_unknown=True, gpus=["0"]).get("failed")


@pytest.mark.parametrize(
    ("code", "stdout", "words"),
    [
        (2, "Invalid combination of input arguments.", "Check smi_command"),
        (3, "Not Supported", "Update the driver"),
        (4, "Insufficient Permissions", "become: true"),
        (6, "No devices were found", "lspci"),
        (8, "", "power cables"),
        (
            9,
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            "modprobe nvidia",
        ),
        (10, "", "interrupt problem"),
        (12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", "ldconfig"),
        (13, "Function Not Found", "one driver version"),
        (14, "WARNING: infoROM is corrupted at gpu 0000:01:00.0", "infoROM"),
        (15, "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.", "Reboot the host"),
        (18, "Failed to initialize NVML: Driver/library version mismatch", "reload the module"),
        (255, "Unable to determine the device handle for GPU0000:07:00.0: Unknown Error", "cannot open"),
    ],
)
def test_every_exit_code_fails_with_words_code_and_remedy(
    run: Run, play: Play, code: int, stdout: str, words: str
) -> None:
    play(RTX_4090, faults=[{"on": "any", "exit_code": code, "stdout": stdout}])
    result = run(smi_command=STAND_IN)
    assert result["failed"]
    assert words in result["msg"]
    assert stdout in result["msg"]
    assert f"(exit code {code})" in result["msg"]
    assert (result["gpus"], result["summary"]) == ([], "no cards")
    assert result["msg"] == "{message}. {remedy}".format(**result["problems"][0])


def test_inforom_warning_after_good_output_is_only_a_warning(run: Run, play: Play) -> None:
    words = "WARNING: infoROM is corrupted at gpu 0000:01:00.0\n"
    play(RTX_4090, faults=[{"on": "query", "exit_code": 14, "after": words}])
    result = run(smi_command=STAND_IN)
    assert result["capacity"] == 2
    assert "infoROM" in json.dumps(result["warnings"])


def test_lost_card_does_not_hide_the_good_one(run: Run, play: Play) -> None:
    fault = {
        "exit_code": 15,
        "stdout": "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost",
    }
    play(RTX_4090, LOST, faults=[{"on": "query", **fault}, {"on": "GPU-c", **fault}])
    result = run(smi_command=STAND_IN)
    assert result["capacity"] == 2
    assert [gpu["index"] for gpu in result["gpus"]] == [0, 1]
    assert "memory unknown" in result["gpus"][1]["reason"]


def test_hang(run: Run, play: Play) -> None:
    play(RTX_4090, faults=[{"on": "any", "hang_seconds": 30}])
    result = run(smi_command=STAND_IN, timeout_seconds=1)
    assert "no answer within 1 s" in result["msg"]
    assert "reboot the host" in result["msg"]


def test_mig_slots_bear_the_uuids_of_the_list(run: Run, play: Play) -> None:
    mig = [
        {"gpu_instance": 3, "compute_instance": 0, "total": 19968, "uuid": "MIG-one", "profile": "1g.20gb"}
    ]
    play({**RTX_4090, "mig": mig})
    result = run(smi_command=STAND_IN)
    assert [slot["gpu"] for slot in result["slots"]] == ["MIG-one", "MIG-one"]
    assert "  MIG 1g.20gb #0:0: 19968 MiB" in result["summary"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instance_mib": 0}, "instance_mib is 0"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0"),
        ({"smi_command": ""}, "smi_command is empty"),
        ({"smi_command": "nvidia-smi 'x"}, "cannot be split"),
        ({"smi_command": "/no/such/nvidia-smi"}, "'/no/such/nvidia-smi' was not found"),
        ({"own_containers": ["cosyvoice-1"]}, "'cosyvoice-1' is not a container id"),
        ({"instance_mib": -1, "headroom_mib": -2}, "instance_mib is -1: give the MiB one instance needs"),
    ],
)
def test_wrong_options_are_named(run: Run, options: dict[str, Any], words: str) -> None:
    result = run(**options)
    assert result["failed"]
    assert words in result["msg"]


# --- a saved output -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "saved.xml").write_text(text, encoding="utf-8")
        return str(tmp_path / "saved.xml")

    return write


def test_xml_file_needs_no_nvidia_smi(run: Run, saved: Callable[[str], str]) -> None:
    path = saved(query_xml(host_from({"cards": [RTX_4090], "dtd": True})))
    assert run(xml_file=path, smi_command="/no/such/nvidia-smi")["capacity"] == 2


def test_xml_file_names_mig_devices_the_older_way(run: Run, saved: Callable[[str], str]) -> None:
    card = Card("NVIDIA A30", 24576, 0, uuid="GPU-p", mig=[Mig(5, 0, 11968)])
    result = run(xml_file=saved(query_xml(Host([card]))))
    assert result["slots"] == [{"gpu": "MIG-GPU-p/5/0", "index": 0, "memory_mib": 8192}]


def test_cut_off_xml_file_fails_with_the_complete_cards(run: Run, saved: Callable[[str], str]) -> None:
    text = query_xml(host_from({"cards": [RTX_4090, L4]}))
    path = saved(text[: text.rindex("<uuid>")])
    result = run(xml_file=path)
    assert result["failed"]
    assert f"xml_file {path}: The output of nvidia-smi is cut off" in result["msg"]
    assert [gpu["capacity"] for gpu in result["gpus"]] == [2]


@pytest.mark.parametrize("text", ["", "Failed to initialize NVML: Driver/library version mismatch\n"])
def test_xml_file_of_something_else(run: Run, saved: Callable[[str], str], text: str) -> None:
    assert f"nvidia-smi said {text.strip()!r}" in run(xml_file=saved(text))["msg"] or not text


def test_xml_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    result = run(xml_file=str(tmp_path / "none.xml"))
    assert "none.xml cannot be read: No such file" in result["msg"]
    assert "delegate_to" in result["msg"]


# --- real outputs, where they are at hand -------------------------------------------------------------------

# Instances on each card, or MIG devices' sum, of real outputs that are not part of this project.
REAL = {
    "a0s-nvidia-smi-3.xml": [0, 0],
    "k8stestinfra-hw-a100.xml": [4],
    "k8stestinfra-hw-l40s.xml": [5],
    "k8stestinfra-hw-t4.xml": [1],
    "lampaa-smi_test_2.xml": [1, 1],
    "pai-nvidia_smi_outdated_gpu.xml": [0],
    "telegraf-3090-v13.xml": [2],
    "telegraf-a100-sxm4-v12.xml": [8],
    "telegraf-a10g.xml": [2],
    "telegraf-dual_2080-v13.xml": [0, 0],
    "telegraf-dual_a5000-v13.xml": [0, 0],
    "telegraf-pro-6000-maxq-blackwell-v13.xml": [3],
    "telegraf-rtx-3080-v12.xml": [1],
    "telegraf-rtx-3090-v12.xml": [2],
    "telegraf-tesla_p4.xml": [0],
    "tony-hadoop-p100x2.xml": [1, 1],
}


@pytest.mark.skipif("VOICEFLEET_GPU_CAPTURES" not in os.environ, reason="VOICEFLEET_GPU_CAPTURES is not set")
@pytest.mark.parametrize(("name", "expected"), REAL.items())
def test_real_output(run: Run, name: str, expected: list[int]) -> None:
    result = run(xml_file=os.path.join(os.environ["VOICEFLEET_GPU_CAPTURES"], name))
    assert not result.get("failed"), result["msg"]
    found = [gpu["capacity"] + sum(mig["capacity"] for mig in gpu["mig_devices"]) for gpu in result["gpus"]]
    assert found == expected, result["summary"]
