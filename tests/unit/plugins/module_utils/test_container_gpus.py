# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of the words of nvidia-smi and of the engine; real containers are molecule's."""

from __future__ import annotations

from threading import Event
from typing import Any
from unittest.mock import Mock

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _container_gpus
from docker.errors import APIError, ImageNotFound

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
    assert "'docker restart cosyvoice-1'" in lost.remedy
    assert not _container_gpus.look_into(Container(0, "")).ok


def test_a_container_with_the_library_of_before_is_told_to_start_again() -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.1"
    seen = _container_gpus.look_into(Container(18, said))
    assert not seen.ok
    assert "a driver that was loaded before: run 'docker restart cosyvoice-1'" in seen.remedy


def test_a_card_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    over = Event()

    class Hanging(Container):
        def exec_run(self, command: list[str]) -> tuple[int, bytes]:
            over.wait()
            return super().exec_run(command)

    monkeypatch.setattr(_container_gpus, "ANSWER_SECONDS", 0.1)
    seen = _container_gpus.look_into(Hanging(0, ""))
    over.set()
    assert (seen.ok, seen.found) == (False, "no answer within 0.1 s")
    assert "hangs" in seen.remedy


def test_a_container_that_has_ended_meanwhile_proves_nothing() -> None:
    class Ended(Container):
        def exec_run(self, command: list[str]) -> tuple[int, bytes]:
            raise APIError("409 Client Error", explanation="container is not running")

    seen = _container_gpus.look_into(Ended(0, ""))
    assert (seen.ok, seen.found) == (True, "not to be asked: container is not running")


def test_an_image_that_is_not_there_is_not_pulled() -> None:
    client = Mock()
    client.images.get.side_effect = ImageNotFound("404 Client Error")
    assert _container_gpus.look_from(client, "registry.example.com/absent:1") is None
    client.containers.run.assert_not_called()


def test_an_image_without_nvidia_smi_proves_nothing() -> None:
    said = 'OCI runtime exec failed: exec: "nvidia-smi": executable file not found in $PATH'
    assert _container_gpus.look_into(Container(127, said)).ok
