# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI document is kept to: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HERE, Live, running
from cosyvoice3_support import cosyvoice3_settings
from speech_server.engines.cosyvoice3 import CosyVoice3Engine

pytestmark = pytest.mark.slow

# At most so many are made up for an operation; those derived from the document itself come on top.
CASES = int(os.environ.get("VOICEFLEET_OPENAPI_CASES", "15"))


def conforms(live: Live, directory: Path) -> None:
    """Run schemathesis; what it prints is the message."""
    program = Path(sys.executable).with_name("schemathesis")
    options = [f"--config-file={HERE / 'schemathesis.toml'}", "run", f"--max-examples={CASES}", "--no-color"]
    run = subprocess.run(
        [program, *options, f"{live.url}/openapi.json"],
        cwd=directory,  # it leaves its findings there
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout


def test_every_operation_of_the_stand_in_engine(start: Callable[..., Live], tmp_path: Path) -> None:
    conforms(start(), tmp_path)


def test_every_operation_of_cosyvoice3(tmp_path: Path) -> None:
    settings = cosyvoice3_settings(tmp_path)
    with running(settings, CosyVoice3Engine(settings)) as live:
        conforms(live, tmp_path)
