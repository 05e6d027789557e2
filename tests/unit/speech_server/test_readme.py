# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server's README says is held by a test, a setting or a file is there under that name."""

from __future__ import annotations

import re
from pathlib import Path

from speech_server.settings import _PARSERS, PREFIX

HERE = Path(__file__).parent
SERVER = HERE.parents[2] / "roles/cosyvoice/files/speech_server"
README = (SERVER / "README.md").read_text(encoding="utf-8")


def test_the_tests_it_names_exist() -> None:
    have = {
        name for path in HERE.glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", README))
    assert len(named) > 10
    assert named <= have, sorted(named - have)


def test_the_settings_it_names_exist() -> None:
    named = set(re.findall(rf"`{PREFIX}([A-Z0-9_]+)", README))
    assert len(named) > 8
    assert named <= {name.upper() for name in _PARSERS}


def test_the_functions_and_files_it_names_exist() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in SERVER.rglob("*.py"))
    rows = "".join(re.findall(r"^\| \d+ \|.*$", README, re.MULTILINE))
    named = re.findall(r"\(((?:`[\w.]+`(?:, )?)+)\)", rows)
    for name in re.findall(r"`([\w.]+)`", "".join(named)):
        found = (SERVER / name).exists() if name.endswith(".py") else f"def {name.split('.')[-1]}(" in code
        assert found, name
