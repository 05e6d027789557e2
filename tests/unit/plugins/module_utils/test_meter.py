# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory of one container, asked of the stand-in for nvidia-smi."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _meter
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._idle_cards import Place
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._meter import Meter

STAND_IN = str(Path(__file__).parents[3] / "support" / "nvidia_smi")
L4 = {"name": "NVIDIA L4", "total": 23034, "reserved": 556, "uuid": "GPU-a"}
OURS, ALSO_OURS, THEIRS = 4000001, 4000002, 4000003
Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Sets what nvidia-smi says of the card's processes."""
    path = tmp_path / "host.json"
    monkeypatch.setenv("NVIDIA_SMI_STAND_IN", str(path))
    monkeypatch.setenv("GPU_STAND_IN_STATE", str(tmp_path / "none"))
    monkeypatch.setattr(
        _meter, "owners", lambda pids, ids: {pid: ids[0] for pid in pids if pid in (OURS, ALSO_OURS)}
    )

    def set_up(*processes: dict[str, Any], **data: Any) -> None:
        path.with_suffix(".new").write_text(
            json.dumps({"cards": [{**L4, "processes": processes}], **data}), encoding="utf-8"
        )
        path.with_suffix(".new").rename(path)

    return set_up


def meter(gpu_instance_id: str = "") -> Meter:
    return Meter([STAND_IN], Place("GPU-a", "L4 #0", "GPU-a", gpu_instance_id), "id")


def test_its_processes_add_up_and_no_other_counts(play: Play) -> None:
    play({"pid": OURS, "used": 3000}, {"pid": ALSO_OURS, "used": 500}, {"pid": THEIRS, "used": 9000})
    assert meter().part() == 3500


def test_the_most_since_the_last_time_is_told_though_it_is_over(play: Play) -> None:
    play({"pid": OURS, "used": 7000})
    with meter() as measuring:
        deadline = time.monotonic() + 30
        while measuring._part_mib < 7000 and time.monotonic() < deadline:
            time.sleep(0.05)
        play({"pid": OURS, "used": 3000})
        assert measuring.part() == 7000
        # A look that had begun before may still end.
        measuring.part()
        assert measuring.part() == 3000


def test_on_a_part_of_a_card_what_is_there_counts(play: Play) -> None:
    play(
        {"pid": OURS, "used": 3000, "gpu_instance": "1", "compute_instance": "0"},
        {"pid": ALSO_OURS, "used": 500, "gpu_instance": "2", "compute_instance": "0"},
    )
    assert meter("2").part() == 500


@pytest.mark.parametrize(
    ("processes", "data", "words"),
    [
        (
            [{"pid": OURS, "used": 3000}, {"pid": ALSO_OURS, "used": None}],
            {},
            "does not tell the memory of its processes",
        ),
        (
            [],
            {
                "faults": [
                    {"on": "GPU-a", "exit_code": 15, "stdout": "Unable to determine the device handle\n"}
                ]
            },
            "Unable to determine the device handle",
        ),
    ],
)
def test_what_cannot_be_read_is_no_figure(
    play: Play, processes: list[dict[str, Any]], data: dict[str, Any], words: str
) -> None:
    play(*processes, **data)
    measuring = meter()
    assert measuring.part() == 0
    assert words in measuring.trouble
