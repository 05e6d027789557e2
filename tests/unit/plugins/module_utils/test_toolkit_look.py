# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at the container toolkit, where nvidia-smi does not end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _pci, _toolkit, _toolkit_look

UUID = "GPU-11111111-2222-3333-4444-555555555555"
# A process that waits for a dead card cannot be killed, which only a kernel can play; this one leaves a child
# that holds its output open.
HANGS = """#!/bin/sh
echo "$1" >> "${0%/*}/asked"
trap '' TERM
sleep 600
"""
ANSWERS = f"""#!/bin/sh
case "$1" in
-L) echo "GPU 0: NVIDIA L4 (UUID: {UUID})" ;;
*) echo "{UUID}, Disabled" ;;
esac
"""


def specifications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smi: str) -> dict[str, object]:
    for name, text in {"nvidia-smi": smi, "nvidia-ctk": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(_toolkit_look, "which", lambda name: str(tmp_path / name))
    monkeypatch.setattr(_toolkit_look, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(_pci, "devices", lambda _sysfs: [])
    monkeypatch.setattr(_pci, "cards", lambda _devices: ["one"])
    wish = _toolkit.Wish("1.20.0-1", repo_url="https://mirror.example.com")
    found = _toolkit_look.look(wish, "Debian", "x86_64", str(tmp_path / "sys"), {})["cdi"]
    assert isinstance(found, dict)
    return found


def test_cards_that_answer_without_a_specification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = specifications(tmp_path, monkeypatch, ANSWERS)
    assert found["answers"] is True
    assert found["stale"]


def test_a_card_that_hangs_costs_one_wait_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    found = specifications(tmp_path, monkeypatch, HANGS)
    assert (found["answers"], found["stale"]) == (False, "")
    assert time.monotonic() - begun < 60
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
