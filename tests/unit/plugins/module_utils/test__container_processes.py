# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a process is, in every form of cgroup path that Docker and others write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._container_processes import (
    CONTAINER_ID,
    container_ids_of,
    owners,
)

ONE, TWO = "1a" * 32, "2b" * 32


def with_cgroup(proc: Path, pid: int, text: str) -> str:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cgroup").write_text(text, encoding="utf-8")
    return str(proc)


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/system.slice/docker-{ONE}.scope\n",
        f"0::/docker/{ONE}\n",
        f"0::/../{ONE}\n",
        f"12:devices:/docker/{ONE}\n11:memory:/docker/{ONE}\n1:name=systemd:/docker/{ONE}\n",
        f"4:memory:/system.slice/docker-{ONE}.scope\n0::/\n",
        f"0::/kubepods.slice/kubepods-pod7.slice/cri-containerd-{ONE}.scope\n",
        f"0::/user.slice/user-1000.slice/user@1000.service/libpod-{ONE}.scope/container\n",
    ],
)
def test_container_of_a_process(tmp_path: Path, cgroup: str) -> None:
    assert container_ids_of(7, with_cgroup(tmp_path, 7, cgroup)) == {ONE}


def test_container_in_a_container_is_in_both(tmp_path: Path) -> None:
    proc = with_cgroup(tmp_path, 7, f"0::/docker/{ONE}/docker/{TWO}\n")
    assert container_ids_of(7, proc) == {ONE, TWO}


@pytest.mark.parametrize("cgroup", ["0::/user.slice/session-1.scope\n", "", f"0::/docker/{ONE}ab\n"])
def test_process_outside_of_containers(tmp_path: Path, cgroup: str) -> None:
    assert container_ids_of(7, with_cgroup(tmp_path, 7, cgroup)) == set()


def test_process_that_is_gone(tmp_path: Path) -> None:
    assert container_ids_of(7, str(tmp_path)) == set()


def test_owners_takes_full_and_short_ids_and_leaves_out_strangers(tmp_path: Path) -> None:
    for pid, container in ((1, ONE), (2, TWO), (3, "3c" * 32)):
        with_cgroup(tmp_path, pid, f"0::/docker/{container}\n")
    assert owners([1, 2, 3, 4], [ONE, TWO[:12]], str(tmp_path)) == {1: ONE, 2: TWO[:12]}
    assert owners([1, 2, 3], [], str(tmp_path)) == {}


def test_this_very_process_is_readable() -> None:
    """The real /proc, whatever this test runs in."""
    assert all(len(container) == 64 for container in container_ids_of(os.getpid()))


@pytest.mark.parametrize(
    ("text", "ok"), [(ONE, True), (ONE[:12], True), ("cosyvoice-1", False), (ONE[:11], False)]
)
def test_container_id(text: str, ok: bool) -> None:
    assert (CONTAINER_ID.fullmatch(text) is not None) == ok
