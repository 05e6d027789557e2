# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key of NVIDIA's driver packages is fetched, and is the right one or is not kept.

The role's own tasks on this machine; what is fetched are other vendors' keys.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "roles/docker_engine/files/docker.asc"
DOCKERS = "9DC8 5822 9FC7 DD38 854A  E2D8 8D81 803C 0EBF CD88"  # as gpg writes it
NVIDIAS = "EB693B3035CD5710E231E123A4B469963BF863CC"
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: voicefleet.cosyvoice.nvidia_driver, tasks_from: key}
"""


class Host:
    """This machine, with a folder for the key."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, folder / "keyrings/nvidia.asc"
        self.key.parent.mkdir()
        (folder / "play.yml").write_text(PLAY, encoding="utf-8")

    def play(self, offered: Path, **variables: str) -> tuple[int, str]:
        repository = {
            "key": str(self.key),
            "key_url": f"file://{offered}",
            "key_fingerprint": NVIDIAS,
        }
        given = {
            "ansible_python_interpreter": sys.executable,
            "nvidia_driver_state": {"repository": repository},
            **variables,
        }
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", json.dumps(given)]
        command.append(str(self.folder / "play.yml"))
        path = f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_key_of_a_mirror_that_was_named(host: Host) -> None:
    code, said = host.play(DOCKER, nvidia_driver_repo_key_fingerprint=DOCKERS)
    assert code == 0, said
    assert host.key.read_bytes() == DOCKER.read_bytes()


def test_another_key_is_not_kept(host: Host) -> None:
    code, said = host.play(DOCKER)
    assert code == 2, said
    assert f"holds the key {DOCKERS.replace(' ', '')}, and not NVIDIA's, {NVIDIAS}." in said
    assert not host.key.exists()


def test_a_page_that_asks_for_a_login_is_no_key(host: Host) -> None:
    page = host.folder / "login.html"
    page.write_text("<html>Please log in</html>", encoding="utf-8")
    code, said = host.play(page)
    assert code == 2, said
    assert "holds no OpenPGP key, and not NVIDIA's" in said
    assert not host.key.exists()


def test_a_file_of_the_controller_is_taken_as_it_is(host: Host) -> None:
    code, said = host.play(Path("/nowhere"), nvidia_driver_repo_key_file=str(DOCKER))
    assert code == 0, said
    assert host.key.read_bytes() == DOCKER.read_bytes()
