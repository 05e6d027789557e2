# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the engine cosyvoice3, from role cosyvoice to what stand-in cards hold; changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
CARDS = (
    {"name": "NVIDIA GeForce RTX 4090", "total": 24564, "reserved": 346, "uuid": "GPU-small"},
    {"name": "NVIDIA A100-SXM4-80GB", "total": 81920, "reserved": 869, "uuid": "GPU-large"},
)
COSYVOICE3 = {
    "cosyvoice_engine": "cosyvoice3",
    "cosyvoice_image": "cosyvoice3-runtime",
    "cosyvoice_model_dir": "/srv/model",
}
# Options of a host -> what a replica may take of the small and of the large card, how many each holds.
FIT: dict[str, tuple[dict[str, Any], tuple[int, int], tuple[int, int]]] = {
    "eager": ({}, (8192, 8192), (2, 9)),
    "fp16": ({"cosyvoice_fp16": True}, (8192, 8192), (2, 9)),
    "two_at_once": ({"cosyvoice_max_in_flight": 2}, (9216, 9216), (2, 8)),
    "trt": ({"cosyvoice_trt": True}, (13312, 13312), (1, 6)),
    "vllm": ({"cosyvoice_vllm": True}, (4096 + 4913 + 6144, 4096 + 16384 + 6144), (1, 3)),
    "vllm_fp16": (
        {"cosyvoice_vllm": True, "cosyvoice_fp16": True},
        (4096 + 4913 + 6144, 4096 + 16384 + 6144),
        (1, 3),
    ),
    "vllm_trt": (
        {"cosyvoice_vllm": True, "cosyvoice_trt": True},
        (9216 + 4913 + 6144, 9216 + 16384 + 6144),
        (1, 2),
    ),
    "measured": ({"gpu_service_instance_mib": 6000}, (6000, 6000), (2, 13)),
    "patient": (
        {"cosyvoice_deadline_seconds": 300, "gpu_service_health_retries": 3},
        (8192, 8192),
        (2, 9),
    ),
    "article": (
        {
            "cosyvoice_engine": "piper",
            "cosyvoice_profile": "user",
            "cosyvoice_command": ["bash", "run.sh"],
            "cosyvoice_health_path": "/health",
        },
        (8192, 8192),
        (2, 9),
    ),
    "another_engine": ({"cosyvoice_engine": "piper", "cosyvoice_max_in_flight": 4}, (8192, 8192), (2, 9)),
}
REFUSED = {
    "silence": (
        {"cosyvoice_trt": True, "cosyvoice_fp16": True},
        "cosyvoice_trt and cosyvoice_fp16 are both true",
    ),
    "no_such_option": (
        {"cosyvoice_engine": "piper", "cosyvoice_vllm": True},
        "cosyvoice_vllm: the engine piper has no such option",
    ),
    "no_card": (
        {"cosyvoice_device": "cpu", "cosyvoice_replicas": 1, "cosyvoice_fp16": True},
        "cosyvoice_fp16 wants a card, and cosyvoice_device is cpu",
    ),
    "behind_the_back": (
        {"cosyvoice_environment": {"SPEECH_VLLM": "true"}},
        "cosyvoice_environment has SPEECH_VLLM. Set cosyvoice_fp16, cosyvoice_vllm or cosyvoice_trt instead",
    ),
    "nobodys_cache": (
        {"cosyvoice_trt": True, "cosyvoice_user": "speech"},
        "cosyvoice_user is 'speech', and replicas write into /var/lib/voicefleet/cache/vfoptions",
    ),
    "too_old_a_torch": (
        {
            "cosyvoice_image": "",
            "cosyvoice_profile": "upstream-pins",
            "nvidia_driver_state": {
                "cards": [
                    {"address": "0000:01:00.0", "generation": "Ada"},
                    {"address": "0000:02:00.0", "generation": "Blackwell or newer"},
                ]
            },
        },
        "No image of profile upstream-pins serves all cards of this host: 0000:01:00.0 is Ada, "
        "0000:02:00.0 is Blackwell or newer. upstream-pins is for compute capability 5.0 to below 10.0; "
        "cosyvoice_profile new-torch serves them all.",
    ),
    "too_far_apart": (
        {
            "cosyvoice_image": "",
            "nvidia_driver_state": {
                "cards": [
                    {"address": "0000:01:00.0", "generation": "Maxwell or Pascal"},
                    {"address": "0000:02:00.0", "generation": "Blackwell or newer"},
                ]
            },
        },
        "there is none that serves them all, so name one of your own in cosyvoice_image",
    ),
    "no_voice": (
        {"cosyvoice_image": ""},
        "cosyvoice_engine is cosyvoice3, which speaks with recorded voices, and there is none",
    ),
    "no_image": (
        {"cosyvoice_profile": "user", "cosyvoice_image": ""},
        "An image of one's own is the profile user",
    ),
    "no_cache": ({"cosyvoice_vllm": True, "cosyvoice_cache_dir": ""}, "cosyvoice_cache_dir is empty"),
}
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: voicefleet.cosyvoice.cosyvoice, tasks_from: preflight}
    - ansible.builtin.copy:
        dest: "{{ told }}/{{ inventory_hostname }}.json"
        content: "{{ {'slots': __gpu_service_capacity.slots, 'mounts': __cosyvoice_mounts,
                      'needs': __cosyvoice_needs,
                      'environment': __cosyvoice_environment | combine(__cosyvoice_options)} | to_json }}"
        mode: "0644"
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where each host has told what it would do; and the run's output."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "cards.json").write_text(json.dumps({"driver": "570.148.08", "cards": CARDS}))
    smi = f"env NVIDIA_SMI_STAND_IN={folder / 'cards.json'} {ROOT / 'tests/support/nvidia_smi'}"
    hosts = {name: {**COSYVOICE3, **options} for name, (options, *_unused) in {**FIT, **REFUSED}.items()}
    everywhere = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "cosyvoice_name": "vfoptions",
        "gpu_service_smi_command": smi,
        "told": str(folder),
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": everywhere}}))
    (folder / "play.yml").write_text(PLAY)
    done = subprocess.run(
        [ANSIBLE_PLAYBOOK, "-i", folder / "hosts.yml", folder / "play.yml", "--forks=4"],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_CALLBACK_FORMAT_PRETTY": "false",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stdout + done.stderr  # some are refused
    return folder, done.stdout + done.stderr


def tells(told: tuple[Path, str], name: str) -> dict[str, Any]:
    path = told[0] / f"{name}.json"
    assert path.exists(), told[1]
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("name", FIT)
def test_how_many_fit_follows_from_the_options(told: tuple[Path, str], name: str) -> None:
    _options, memory_mib, count = FIT[name]
    slots = tells(told, name)["slots"]
    found = [[slot["memory_mib"] for slot in slots if slot["gpu"] == card["uuid"]] for card in CARDS]
    assert found == [[mib] * many for mib, many in zip(memory_mib, count, strict=True)]


def test_the_server_is_told_what_was_counted_with(told: tuple[Path, str]) -> None:
    environment = tells(told, "vllm_trt")["environment"]
    assert {name: environment[f"SPEECH_{name}"] for name in ("FP16", "VLLM", "TRT", "CACHE_DIR")} == {
        "FP16": False,
        "VLLM": True,
        "TRT": True,
        "CACHE_DIR": "/cache",
    }
    assert "SPEECH_VLLM" not in tells(told, "another_engine")["environment"]


def test_what_is_built_for_a_card_has_a_place_and_time(told: tuple[Path, str]) -> None:
    cache = {"source": "/var/lib/voicefleet/cache/vfoptions", "target": "/cache", "read_only": False}
    assert cache in tells(told, "trt")["mounts"]
    assert cache not in tells(told, "eager")["mounts"]
    needs = [tells(told, name)["needs"] for name in ("eager", "vllm", "vllm_trt")]
    assert [need["start_timeout_seconds"] for need in needs] == [180, 300, 1200]


@pytest.mark.parametrize(("name", "drain", "linger"), [("eager", 130, 4), ("patient", 310, 12)])
def test_a_replica_that_goes_has_time_for_its_longest_answer_and_until_traefik_knows(
    told: tuple[Path, str], name: str, drain: float, linger: float
) -> None:
    assert tells(told, name)["needs"]["drain_timeout_seconds"] == drain
    assert tells(told, name)["environment"]["SPEECH_LINGER_SECONDS"] == linger


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(told: tuple[Path, str], name: str) -> None:
    _options, words = REFUSED[name]
    assert not (told[0] / f"{name}.json").exists()
    (line,) = [line for line in told[1].splitlines() if line.startswith(f"fatal: [{name}]")]
    assert words in line
