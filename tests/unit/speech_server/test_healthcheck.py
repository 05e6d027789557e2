# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container's health check: a program of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Live, free_port


@pytest.fixture
def check(pytestconfig: pytest.Config, tmp_path: Path) -> Callable[[int], tuple[int, str]]:
    program = pytestconfig.rootpath / "roles/cosyvoice/files/speech_server/healthcheck.py"

    def run(port: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-E", program],
            env={**os.environ, "SPEECH_PORT": str(port), "SPEECH_DRAIN_FILE": str(tmp_path / "drain")},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    return run


def test_ready_loading_draining(
    start: Callable[..., Live], check: Callable[[int], tuple[int, str]], tmp_path: Path
) -> None:
    live = start(wait=False, prepare=lambda engine: engine.loading.clear())
    port = int(live.url.rsplit(":", 1)[1])
    code, reason = check(port)
    assert (code, "loading" in reason) == (1, True)
    live.engine.loading.set()
    while not live.server.readiness.loaded:
        pass
    assert check(port) == (0, '{"status":"ready","reason":""}\n')
    (tmp_path / "drain").touch()
    code, reason = check(port)
    assert (code, reason) == (1, f"draining: {tmp_path / 'drain'} exists\n")


def test_nobody_there(check: Callable[[int], tuple[int, str]], tmp_path: Path) -> None:
    code, reason = check(free_port())
    assert (code, "no answer from 127.0.0.1" in reason) == (1, True)
    (tmp_path / "drain").touch()
    assert check(free_port())[1].startswith("draining")


def test_it_costs_little(start: Callable[..., Live], check: Callable[[int], tuple[int, str]]) -> None:
    port = int(start().url.rsplit(":", 1)[1])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(5):
        assert check(port)[0] == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 5
    assert cpu_seconds < 0.1  # measured: 0.02 on an idle machine
