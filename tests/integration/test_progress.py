# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people see of a step while it runs, and what becomes of it when ansible-playbook is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from patience import until

ROOT = Path(__file__).parents[2]
# The one beside this interpreter: each virtual environment has its own.
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
SECONDS_TO_START = 4
# A replica that takes its time to load.
SLOW = (
    f"import time, http.server as h; time.sleep({SECONDS_TO_START}); "
    "h.test(h.SimpleHTTPRequestHandler, port=8000)"
)
HEALTHY = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/')"


class Play:
    """A play of one task, a step of a replica of the test's own, and what it prints."""

    def __init__(self, directory: Path, image: str) -> None:
        self.directory = directory
        self.service = f"vftest-{uuid.uuid4().hex[:8]}"
        self.client = docker.from_env()
        self.result_file = directory / "result.json"
        self.arguments: dict[str, Any] = {
            "service": self.service,
            "number": 1,
            "slot": {"index": 0},
            "data_dir": str(directory / "data"),
            "specification": {
                "image": image,
                "revision": "1",
                "command": ["python3", "-c", SLOW],
                "port": 8000,
                "network": "bridge",
                "health": {
                    "test": ["CMD", "python3", "-c", HEALTHY],
                    "interval_seconds": 0.3,
                    "timeout_seconds": 30,
                },
                "user": "10001",
            },
        }

    def start(self, *options: str, hosts: int = 1) -> subprocess.Popen[str]:
        host = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        inventory = {"all": {"hosts": {f"host{n}": {**host, "number": n} for n in range(1, hosts + 1)}}}
        (self.directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
        play = {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [
                {
                    "name": "Take the step",
                    "voicefleet.cosyvoice.replica": {**self.arguments, "number": "{{ number }}"},
                    "register": "result",
                },
                {
                    "name": "Keep its result",
                    "ansible.builtin.copy": {
                        "content": "{{ result | to_json }}",
                        "dest": str(self.result_file),
                        "mode": "0600",
                    },
                    "check_mode": False,
                },
            ],
        }
        (self.directory / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
        return subprocess.Popen(
            [ANSIBLE_PLAYBOOK, "-i", "hosts.yml", "play.yml", *options],
            cwd=self.directory,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_HOME": str(self.directory / "ansible"),
                "ANSIBLE_ASYNC_DIR": str(self.directory / "async"),
                "ANSIBLE_REMOTE_TEMP": str(self.directory / "remote"),
                # To a pipe, Python writes in blocks; to a terminal, line by line.
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def follow(self, *options: str, hosts: int = 1) -> list[tuple[float, str]]:
        """Every line printed, with the time at which it was."""
        process = self.start(*options, hosts=hosts)
        assert process.stdout
        lines = [(time.monotonic(), line.rstrip()) for line in process.stdout]
        assert process.wait() == 0, "\n".join(line for _, line in lines)
        return lines

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.result_file.read_text())
        return found

    def job_text(self) -> str:
        """What the background has written of the module that it runs: that it started, or its result."""
        (job,) = (path for path in self.directory.glob("async/j*") if path.suffix != ".tmp")
        return job.read_text()

    def left_over(self) -> list[Path]:
        """Temporary files on the host; the background removes its own within seconds."""
        return [*self.directory.glob("async/*"), *self.directory.glob("remote/*")]


@pytest.fixture
def play(base_image: str, tmp_path: Path) -> Iterator[Play]:
    tmp_path.chmod(0o755)
    made = Play(tmp_path, base_image)
    yield made
    for replica in _replica.observe(made.client, made.service, made.arguments["data_dir"]):
        made.client.api.remove_container(replica.container_id, force=True)
    made.client.close()


def test_lines_come_while_the_step_lasts_and_the_result_is_whole(play: Play) -> None:
    lines = play.follow()
    told = [(when, line) for when, line in lines if line.startswith(f"{play.service}-1 on cpu/0: ")]
    ended = next(when for when, line in lines if line.startswith("changed: [host1]"))
    assert told
    assert all(re.search(r": +\d+\.\d s  \S", line) for _, line in told)
    assert told[0][0] < ended - SECONDS_TO_START / 2, "the first line came when all was over"
    result = play.result()
    assert (result["action"], result["changed"]) == ("create", True)
    assert result["step"]["started_seconds"] >= SECONDS_TO_START - 1
    assert not {"ansible_job_id", "finished", "started", "results_file"} & set(result)
    until("without temporary files", lambda: play.left_over() == [])


def test_with_several_hosts_every_line_says_which(play: Play) -> None:
    # Both are this machine, and their replicas neighbours.
    play.arguments["slot"] = {"index": "{{ number }}"}
    lines = [line for _, line in play.follow(hosts=2)]
    for number in (1, 2):
        assert any(
            line.startswith(f"[host{number}] {play.service}-{number} on cpu/{number}: ") for line in lines
        )


def test_check_mode_shows_and_leaves_nothing(play: Play) -> None:
    lines = [line for _, line in play.follow("--check")]
    assert not any(line.startswith(play.service) for line in lines)
    assert play.result()["action"] == "create"
    assert play.left_over() == []


def test_a_step_finishes_when_ansible_playbook_is_killed(play: Play) -> None:
    process = play.start()
    assert process.stdout
    for line in process.stdout:
        if line.startswith(f"{play.service}-1 on cpu/0: "):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()

    def state() -> list[tuple[str, str, str]]:
        found = _replica.observe(play.client, play.service, play.arguments["data_dir"])
        return [(replica.name, replica.state, replica.health) for replica in found]

    until("finished", lambda: state() == [(f"{play.service}-1", "running", "healthy")])
    # The end of the step is its result on the host, which nobody fetches any more.
    until("the step over", lambda: '"started":' not in play.job_text())
    made = json.loads(play.job_text())["step"]["container_id"]
    play.follow()
    assert play.result()["action"] == "none"
    assert play.result()["step"]["container_id"] == made
