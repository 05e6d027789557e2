# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas that share a cache load one after another: vLLM takes 14 GB while it starts, and 8 afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import HERE, eventually
from cosyvoice3_support import lay_down_model

Load = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def load(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Load]:
    """Start a process that loads, all of them with one cache; `tell` lets it go on."""
    model = lay_down_model(tmp_path / "model")
    paths = [pytestconfig.rootpath / path for path in ("roles/cosyvoice/files", "tests/support")]
    started: list[subprocess.Popen[str]] = []

    def begin(*more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "load_when_told.py"), str(model), str(tmp_path / "cache"), *more],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.communicate()  # the end of stdin ends it, and its child
    assert not [process.returncode for process in started if process.returncode not in (0, -9)]


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go on\n")
    process.stdin.flush()


def waits(process: subprocess.Popen[str]) -> bool:
    """Whether the kernel has it among those who wait for a lock."""
    return bool(re.search(rf"-> FLOCK +ADVISORY +WRITE {process.pid} ", Path("/proc/locks").read_text()))


@pytest.mark.parametrize("more", [(), ("fork",)], ids=["alone", "with a child that lives on"])
def test_the_second_loads_after_the_first(load: Load, more: tuple[str, ...]) -> None:
    first = load(*more)
    assert says(first) == "loading anew"
    second = load()
    eventually(lambda: waits(second), "the second waits for the lock")
    tell(first)
    assert says(first) == "loaded"
    assert says(second) == "loading on what is built"
    assert first.poll() is None
    tell(second)
    assert says(second) == "loaded"


def test_one_that_is_killed_while_it_loads_blocks_nobody(load: Load) -> None:
    first = load()
    assert says(first) == "loading anew"
    second = load()
    eventually(lambda: waits(second), "the second waits for the lock")
    first.kill()
    assert says(second) == "loading anew"  # what the first has left is not taken for the whole
    tell(second)
    assert says(second) == "loaded"
