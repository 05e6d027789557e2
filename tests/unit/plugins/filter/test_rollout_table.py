# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people read when a rollout is over."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter.rollout_table import rollout_table

CARD = "GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11"
OLD = {"revision": "2511", "image": "sha256:" + "a" * 64, "spec": "1"}
NEW = {"revision": "2512", "image": "sha256:" + "b" * 64, "spec": "2"}


def step(number: int, action: str = "replace", **other: t.Any) -> dict[str, t.Any]:
    return {
        "name": f"cosyvoice-{number}",
        "number": number,
        "gpu": CARD,
        "slot": f"{CARD}/{number - 1}",
        "action": action,
        "surge": False,
        "from": OLD,
        "to": NEW,
        "drained_seconds": 3.21,
        "in_flight_at_stop": 0,
        "stopped_seconds": 0.4,
        "started_seconds": 14.06,
        "seconds": 20.0,
        "soak": None,
        "error": "",
        "container_id": "c" * 64,
        **other,
    }


def unstopped(number: int, action: str, **other: t.Any) -> dict[str, t.Any]:
    none = {"drained_seconds": None, "in_flight_at_stop": None, "stopped_seconds": None}
    return step(number, action, **{**none, **other})


def table(*steps: dict[str, t.Any], **other: t.Any) -> list[str]:
    record = {"verb": "upgrade", "service": "cosyvoice", "host": "gpu1", "seconds": 41.66, "ok": True}
    return rollout_table({**record, "error": "", "steps": list(steps), **other})


def test_a_rollout_that_lost_nothing() -> None:
    assert table(step(1), step(2, drained_seconds=11.0, started_seconds=9)) == [
        "replica      card            from  to    drained in  started in  cut off  result",
        "cosyvoice-1  GPU-5a0e8f21/0  2511  2512       3.2 s      14.1 s        0  replaced",
        "cosyvoice-2  GPU-5a0e8f21/1  2511  2512      11.0 s       9.0 s        0  replaced",
        "upgrade of cosyvoice on gpu1: 2 replicas in 41.7 s, 0 requests cut off.",
    ]


def test_creations_come_from_nothing_and_removals_go_to_nothing() -> None:
    created = unstopped(1, "create", slot="cpu/0", gpu="", **{"from": None})
    removed = step(2, "remove", to=None, started_seconds=None, slot="cpu/1", gpu="")
    lines = table(created, removed)
    assert lines[1].split() == ["cosyvoice-1", "cpu/0", "-", "2512", "-", "14.1", "s", "-", "created"]
    assert lines[2].split() == ["cosyvoice-2", "cpu/1", "2511", "-", "3.2", "s", "-", "0", "removed"]


def test_one_replica_and_one_request() -> None:
    assert table(step(1, in_flight_at_stop=1))[-1].endswith("1 replica in 41.7 s, 1 request cut off.")


@pytest.mark.parametrize(
    ("counts", "ending"),
    [
        ((None, None), "requests cut off unknown, as the service cannot tell what it has in hand."),
        ((2, None), "2 requests cut off, and an unknown number at 1 of 2 stops."),
    ],
)
def test_what_nobody_knows_is_not_called_none(counts: tuple[int | None, int | None], ending: str) -> None:
    lines = table(*(step(number, in_flight_at_stop=count) for number, count in enumerate(counts, 1)))
    assert lines[2].split()[-2] == "?"
    assert lines[-1].endswith(f", {ending}")


def test_a_failure_says_so_and_why() -> None:
    lines = table(step(1, "restore", error="never healthy"), ok=False, error="never healthy\nlast words")
    assert lines[1].endswith("failed, old one back")
    assert lines[2].endswith("0 requests cut off; it FAILED.")
    assert lines[3:] == ["Failed: never healthy", "last words"]


def test_a_step_that_failed_without_anything_to_restore() -> None:
    lines = table(unstopped(1, "create", error="no memory", started_seconds=None), ok=False)
    assert lines[1].endswith("failed to create")


def test_nothing_to_do() -> None:
    assert table() == ["upgrade of cosyvoice on gpu1: nothing to do, in 41.7 s."]


def test_a_version_without_a_name_is_its_image_and_a_long_one_is_cut() -> None:
    line = table(step(1, **{"from": {**OLD, "revision": ""}, "to": {**NEW, "revision": "v" * 40}}))[1]
    assert line.split()[2] == "a" * 12
    assert line.split()[3] == "v" * 31 + "…"


@pytest.mark.parametrize("wrong", [None, [], {}, {"steps": [1]}, {"steps": [{}]}])
def test_other_input_is_refused(wrong: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="rollout_table: "):
        rollout_table(wrong)
