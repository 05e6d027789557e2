# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of the words of nvidia-smi and of the engine; real containers are molecule's."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _container_gpus

CARD = "GPU-24000000-0000-4000-8000-000000000001"


class Container:
    """A stand-in for a container of the SDK that ends a command with this code and these words."""

    name = "cosyvoice-1"

    def __init__(self, code: int, said: str) -> None:
        self.answer = code, said.encode()

    def exec_run(self, command: list[str]) -> tuple[int, bytes]:
        assert command == ["nvidia-smi", "-L"]
        return self.answer


@pytest.mark.parametrize(
    ("host", "holds"),
    [
        ({"DeviceRequests": None, "Runtime": "runc"}, False),
        ({"DeviceRequests": [], "Runtime": "nvidia"}, True),
        ({"DeviceRequests": [{"Capabilities": [["gpu"]], "DeviceIDs": [CARD]}]}, True),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={CARD}"]}]}, True),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.example/net=0"]}]}, False),
    ],
)
def test_who_holds_a_card(host: dict[str, Any], holds: bool) -> None:
    assert _container_gpus.holds_a_card({"HostConfig": host}) is holds


def test_requests() -> None:
    assert _container_gpus.device_request(CARD, "cdi")["DeviceIDs"] == [f"nvidia.com/gpu={CARD}"]
    assert _container_gpus.device_request(CARD, "cdi")["Driver"] == "cdi"
    assert _container_gpus.device_request(CARD, "hook")["DeviceIDs"] == [CARD]
    assert _container_gpus.device_request("all", "hook")["Count"] == -1


def test_a_container_that_sees_its_card_is_well() -> None:
    seen = _container_gpus.look_into(Container(0, f"GPU 0: NVIDIA L4 (UUID: {CARD})\n"))
    assert (seen.ok, seen.found, seen.name) == (True, "1 card(s)", "cards in cosyvoice-1")


def test_a_container_that_lost_its_card_is_told_with_the_remedy() -> None:
    lost = _container_gpus.look_into(Container(255, "Failed to initialize NVML: Unknown Error\n"))
    assert not lost.ok
    assert "Unknown Error" in lost.found
    assert "daemon-reload" in lost.remedy
    assert not _container_gpus.look_into(Container(0, "")).ok


def test_an_image_without_nvidia_smi_proves_nothing() -> None:
    said = 'OCI runtime exec failed: exec: "nvidia-smi": executable file not found in $PATH'
    assert _container_gpus.look_into(Container(127, said)).ok
