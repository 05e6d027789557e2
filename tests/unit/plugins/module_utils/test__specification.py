# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The specification: what a replica's container is made from, and the hash that stands for it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import PlanError, Slot

GPU_SLOT = Slot("GPU-5a0e", 1, 8192)
SPECIFICATION: dict[str, Any] = {
    "image": "example/tts:1",
    "revision": "r1",
    "command": ["bash", "run.sh"],
    "entrypoint": [],
    "environment": {"NAME": "{replica}", "DEPTH": 3, "SAVE": True, "API_KEY": "hush"},
    "mounts": [{"source": "/srv/{replica}/voices", "target": "/voices", "read_only": True}],
    "outputs_target": "/outputs",
    "port": 7860,
    "network": "voicefleet",
    "labels": {"traefik.http.routers.{replica}.rule": "Host(`{replica}.example.org`)"},
    "health": {
        "test": ["CMD", "true"],
        "interval_seconds": 0.5,
        "timeout_seconds": 2.0,
        "retries": 1,
        "start_period_seconds": 60.0,
    },
    "user": "10001:10001",
    "capabilities": [],
    "read_only": True,
    "tmpfs": {"/tmp": "mode=1777"},
    "shm_size_mib": 64,
    "memory_mib": 0,
    "stop_timeout_seconds": 90,
}


def config(
    slot: Slot = GPU_SLOT, number: int = 2, image_id: str = "sha256:1", **changes: Any
) -> dict[str, Any]:
    return spec.container_config("tts", number, slot, {**SPECIFICATION, **changes}, image_id, "/data")


def test_placeholders_are_filled_in_labels_environment_and_sources() -> None:
    made = config()
    assert made["labels"]["traefik.http.routers.tts-2.rule"] == "Host(`tts-2.example.org`)"
    assert made["environment"] == {"NAME": "tts-2", "DEPTH": "3", "SAVE": "true", "API_KEY": "hush"}
    assert {"source": "/srv/tts-2/voices", "target": "/voices", "read_only": True} in made["mounts"]


def test_a_replica_has_its_own_outputs_and_a_drain_flag_it_cannot_lower() -> None:
    assert config()["mounts"][:2] == [
        {"source": "/data/tts/tts-2/control/GPU-5a0e-1", "target": "/run/voicefleet", "read_only": True},
        {"source": "/data/tts/tts-2/outputs", "target": "/outputs", "read_only": False},
    ]


def test_the_container_is_as_the_contract_says() -> None:
    made = spec.create_arguments(config())
    host = made["host_config"]
    assert made["name"] == made["hostname"] == "tts-2"
    assert made["image"] == "sha256:1"
    assert made["environment"]["PYTHONUNBUFFERED"] == "1"
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert [request["DeviceIDs"] for request in host["DeviceRequests"]] == [["GPU-5a0e"]]
    assert made["labels"]["voicefleet.slot"] == "GPU-5a0e/1"
    assert made["healthcheck"]["Interval"] == 500_000_000


def test_without_a_card_no_device_is_asked_for() -> None:
    assert not spec.create_arguments(config(Slot(None, 0)))["host_config"].get("DeviceRequests")


def test_the_hash_is_that_of_the_label() -> None:
    assert spec.create_arguments(config())["labels"]["voicefleet.spec"] == spec.spec_hash(config())


@pytest.mark.parametrize(
    "changed",
    [
        config(environment={"NAME": "other"}),
        config(image_id="sha256:2"),
        config(slot=Slot("GPU-5a0e", 0, 8192)),
        config(number=1),
        config(labels={}),
        config(revision="r2"),
        config(weights_digest="2" * 64),
        config(stop_timeout_seconds=91),
    ],
    ids=["environment", "image content", "slot", "number", "labels", "revision", "weights", "stop timeout"],
)
def test_any_change_is_seen_in_the_hash(changed: dict[str, Any]) -> None:
    assert spec.spec_hash(changed) != spec.spec_hash(config())


def test_weights_that_are_not_known_leave_a_replica_as_it_was_made() -> None:
    assert config(weights_digest="") == config()


def test_another_name_for_the_same_image_is_no_change() -> None:
    assert spec.spec_hash(config(image="mirror.example/tts@sha256:1")) == spec.spec_hash(config())


def test_a_diff_does_not_show_secrets() -> None:
    shown = spec.readable(config())
    assert shown["environment"]["API_KEY"] == "(hidden)"
    assert shown["environment"]["NAME"] == "tts-2"
    assert spec.readable({}) == {}


MPS = {"thread_percentage": 50, "pipe_dir": "/run/nvidia-mps", "uid": "10001"}
SHARED_SLOT = Slot("GPU-5a0e", 1, 8192, MPS)


def test_a_replica_on_a_shared_card_is_a_client_of_mps() -> None:
    made = config(SHARED_SLOT)
    environment = {key: value for key, value in made["environment"].items() if key.startswith("CUDA_MPS")}
    assert environment == {
        "CUDA_MPS_PIPE_DIRECTORY": "/run/nvidia-mps",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=8192M",
    }
    pipes = {"source": "/run/nvidia-mps", "target": "/run/nvidia-mps", "read_only": False}
    assert made["mounts"][-1] == pipes
    assert spec.create_arguments(made)["host_config"]["IpcMode"] == "host"


def test_another_share_is_another_specification_and_no_share_is_none_at_all() -> None:
    shares = [Slot("GPU-5a0e", 1, 8192, {**MPS, "thread_percentage": each}) for each in (50, 33)]
    assert len({spec.spec_hash(config(slot)) for slot in (*shares, GPU_SLOT)}) == 3
    # What containers of earlier versions were made from: they must not all be replaced.
    assert "ipc" not in config()
    assert "IpcMode" not in spec.create_arguments(config())["host_config"]


def test_a_replica_of_another_user_cannot_be_a_client() -> None:
    with pytest.raises(PlanError, match="run as user 10002, and MPS on this host serves uid 10001"):
        config(SHARED_SLOT, user="10002")
