# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a replica on a card with MPS is given, and who may not be a client."""

from __future__ import annotations

import json

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _mps, _sharing

MPS = {"thread_percentage": 33, "pipe_dir": "/run/nvidia-mps", "uid": "10001"}


def test_shares_never_add_up_to_more_than_the_card() -> None:
    assert [_mps.share(slots) for slots in (1, 2, 3, 7)] == [100, 50, 33, 14]
    assert all(slots * _mps.share(slots) <= 100 for slots in range(1, 49))


def test_the_limit_is_written_as_cuda_reads_it_and_read_again() -> None:
    environment = _mps.environment(MPS, 8192)
    assert environment == {
        "CUDA_MPS_PIPE_DIRECTORY": "/run/nvidia-mps",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "33",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=8192M",
    }
    assert _mps.limit_of(json.dumps({"environment": environment})) == 8192


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"environment": {}}', '{"environment": null}'])
def test_a_container_without_a_limit(config: str) -> None:
    assert _mps.limit_of(config) is None


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("10001", ""),
        ("10001:5", ""),
        ("10002:10001", "run as user 10002:10001, and MPS on this host serves uid 10001"),
        ("0", "run as user 0"),
        ("", "run as the image's own user"),
    ],
)
def test_only_one_user_is_served(user: str, words: str) -> None:
    fault = _mps.fault("tts", MPS, {"user": user, "environment": {}})
    assert words in fault
    assert bool(words) == bool(fault)


def test_what_comes_from_the_slot_is_not_the_services_to_set() -> None:
    fault = _mps.fault("tts", MPS, {"user": "10001", "environment": {_mps.THREADS: "90"}})
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" in fault


def test_only_what_the_daemon_reads_at_its_start_ends_clients() -> None:
    before = {"uid": "1", "pipe_dir": "/run/a", "cards": ["GPU-a"], "thread_percentage": 100, "memory_mib": 0}
    here = ["GPU-a"]
    assert _sharing.mps_change(None, None, ()) == "nothing"
    assert _sharing.mps_change(None, before, here) == "start"
    assert _sharing.mps_change(before, None, here) == "stop"
    limits = {**before, "thread_percentage": 50, "memory_mib": 9000}
    assert _sharing.mps_change(before, limits, here) == "nothing"
    assert _sharing.mps_change(before, {**before, "uid": "2"}, here) == "restart"
    assert _sharing.mps_change(before, {**before, "cards": []}, here) == "restart"
    # A card that fell off its bus leaves the others their clients.
    assert _sharing.mps_change(before, {**before, "cards": []}, ()) == "nothing"
