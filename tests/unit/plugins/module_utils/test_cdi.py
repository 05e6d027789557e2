# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _cdi

CARD = "GPU-24000000-0000-4000-8000-000000000001"
OTHER = "GPU-48000000-0000-4000-8000-000000000002"
MIG = "MIG-30000000-0000-4000-8000-000000000041"
MODES = f"{CARD}, [N/A]\n{OTHER}, Enabled\n"
LISTED = f"""GPU 0: NVIDIA L4 (UUID: {CARD})
GPU 1: NVIDIA A30 (UUID: {OTHER})
  MIG 2g.12gb     Device  0: (UUID: {MIG})
"""
DRIVER = "580.178.04"
# As nvidia-ctk writes them; a library that is not the driver's own has a version of its own.
EDITS = f"""containerEdits:
    mounts:
        - hostPath: /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{DRIVER}
          containerPath: /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{DRIVER}
        - hostPath: /usr/lib/x86_64-linux-gnu/libnvidia-egl-gbm.so.1.1.2
          containerPath: /usr/lib/x86_64-linux-gnu/libnvidia-egl-gbm.so.1.1.2
"""


def write(folder: Path, *uuids: str) -> Path:
    names = "".join(f'  - name: "{uuid}"\n' for uuid in uuids)
    path = folder / "nvidia.yaml"
    path.write_text(f"cdiVersion: 0.7.0\nkind: nvidia.com/gpu\ndevices:\n{names}{EDITS}")
    return path


def test_a_container_is_given_a_card_or_a_part_of_one_but_no_card_in_mig_mode() -> None:
    assert _cdi.to_give(MODES, LISTED) == {CARD, MIG}
    assert _cdi.to_give(MODES.replace("Enabled", "Disabled"), LISTED) == {CARD, OTHER, MIG}
    assert _cdi.to_give("No devices were found\n", "No devices were found\n") == frozenset()


def test_specifications_of_others_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "vendor.json").write_text('{"kind": "vendor.example/net", "devices": []}')
    assert _cdi.look([str(tmp_path), str(tmp_path / "nowhere")]).paths == ()
    path = write(tmp_path, CARD, MIG)
    found = _cdi.look([str(tmp_path)])
    assert found.paths == (str(path),)
    assert found.uuids == {CARD, MIG}


def test_what_nvidias_unit_writes_hides_what_somebody_wrote_by_hand(tmp_path: Path) -> None:
    etc, run = tmp_path / "etc", tmp_path / "run"
    etc.mkdir()
    run.mkdir()
    by_hand = write(etc, OTHER)
    by_hand.write_text(by_hand.read_text().replace(DRIVER, "535.309.01"))
    assert _cdi.look([str(etc), str(run)]).drivers == {"535.309.01"}
    written = write(run, CARD)
    found = _cdi.look([str(etc), str(run)])
    assert (found.paths, found.uuids, found.drivers) == ((str(written),), {CARD}, {DRIVER})


def test_stale_says_why(tmp_path: Path) -> None:
    assert _cdi.stale(_cdi.Specifications(), frozenset(), "", 0) == ""
    assert _cdi.stale(_cdi.Specifications(), frozenset({CARD}), "", 0) == "there is none"
    path = write(tmp_path, CARD)
    os.utime(path, (1000, 1000))
    found = _cdi.look([str(tmp_path)])
    assert _cdi.stale(found, frozenset({CARD}), DRIVER, 999) == ""
    assert f"{OTHER} is not in {path}" in _cdi.stale(found, frozenset({CARD, OTHER}), DRIVER, 999)
    both = _cdi.look([str(write(tmp_path, CARD, OTHER).parent)])
    assert f"names {OTHER}, which is not there" in _cdi.stale(both, frozenset({CARD}), DRIVER, 0)
    assert "older than the driver" in _cdi.stale(found, frozenset({CARD}), DRIVER, 1001)


def test_specifications_of_another_driver_are_stale_whatever_their_age(tmp_path: Path) -> None:
    path = write(tmp_path, CARD)
    found = _cdi.look([str(tmp_path)])
    assert found.drivers == {DRIVER}
    assert _cdi.stale(found, frozenset({CARD}), "595.84", 0) == (
        f"{path} names files of driver {DRIVER}, and 595.84 is loaded"
    )
    assert _cdi.stale(found, frozenset({CARD}), "", 0) == ""  # nobody can say what is loaded
    assert _cdi.stale(replace(found, drivers=frozenset()), frozenset({CARD}), "595.84", 0) == ""


def test_cdi_is_used_where_the_engine_reads_specifications_of_cards(tmp_path: Path) -> None:
    assert _cdi.access({}) == "hook"  # an engine that knows no CDI
    assert _cdi.access({"CDISpecDirs": None}) == "hook"
    assert _cdi.access({"CDISpecDirs": [str(tmp_path)]}) == "hook"  # nothing in them
    write(tmp_path, CARD)
    assert _cdi.access({"CDISpecDirs": [str(tmp_path)]}) == "cdi"
