# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of a service's routes, written by role gpu_service on this machine, without engine or Traefik."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WRITE = "routes | Write the router and the middlewares of tts"


class Role:
    """Role gpu_service, with its dynamic directory in the test's own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "dynamic" / "tts.yml"
        self.file.parent.mkdir()

    def write(
        self,
        *services: str,
        arguments: tuple[str, ...] = (),
        seen: dict[str, str] | None = None,
        **variables: Any,
    ) -> tuple[str, list[str]]:
        """Include the tasks once for each service that the router is to use; empty: the wanted one.

        C(seen) are the files that role traefik has seen, with their checksums. Answers the output, and
        V(changed), V(ok) or V(skipping) of each time.
        """
        include = {"name": "voicefleet.cosyvoice.gpu_service", "tasks_from": "routes"}
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {
                "ansible_python_interpreter": "/usr/bin/python3",
                "gpu_service_name": "tts",
                "gpu_service_traefik_dynamic_dir": str(self.file.parent),
                **variables,
            },
            "tasks": [
                {"ansible.builtin.set_fact": {"traefik_dynamic_files": seen or {}}},
                *(
                    {
                        "ansible.builtin.include_role": include,
                        "vars": {"__gpu_service_route_service": service} if service else {},
                    }
                    for service in services
                ),
            ],
        }
        playbook = self.folder / "play.yml"
        playbook.write_text(json.dumps([play]), encoding="utf-8")
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), str(playbook), *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        tasks = done.stdout.split("\nTASK [")
        results = [
            next(
                line.split(":")[0] for line in task.splitlines() if line.startswith(("changed", "ok", "skip"))
            )
            for task in tasks
            if WRITE in task.splitlines()[0]
        ]
        return done.stdout, results

    def routers(self) -> dict[str, Any]:
        routers: dict[str, Any] = yaml.safe_load(self.file.read_text(encoding="utf-8"))["http"]["routers"]
        return routers


@pytest.fixture
def role(tmp_path: Path) -> Role:
    return Role(tmp_path)


def test_checked_then_written_then_left_alone(role: Role) -> None:
    out, results = role.write("", arguments=("--check", "--diff"))
    assert results == ["changed"]
    assert "+      rule: PathPrefix(`/`)" in out
    assert not role.file.exists()
    assert role.write("")[1] == ["changed"]
    assert role.write("")[1] == ["ok"]
    shared = role.routers()["tts"]
    assert shared["service"].startswith("tts-lb")
    assert shared["service"].endswith("@docker")
    assert {key: value for key, value in shared.items() if key != "service"} == {
        "rule": "PathPrefix(`/`)",
        "entryPoints": ["web"],
        "middlewares": ["tts@file"],
    }
    assert role.routers()["tts-unavailable"] == {
        "rule": "PathPrefix(`/`)",
        "entryPoints": ["web"],
        "service": "tts-unavailable",
        "middlewares": ["tts-unavailable@file"],
        "priority": len("PathPrefix(`/`)") - 1,
    }


def test_what_changes_without_the_replicas(role: Role) -> None:
    role.write("")
    service = role.routers()["tts"]["service"]
    role.write(
        "",
        gpu_service_rule="Host(`a.example`)",
        gpu_service_priority=1,
        gpu_service_entrypoints=["websecure"],
        gpu_service_tls={"certresolver": "le"},
        gpu_service_port=9000,
    )
    assert role.routers()["tts"] == {
        "rule": "Host(`a.example`)",
        "entryPoints": ["websecure"],
        "service": service,
        "middlewares": ["tts@file"],
        "priority": 1,
        "tls": {"certResolver": "le"},
    }
    assert role.routers()["tts-unavailable"]["priority"] == -1  # 0 would be the length of the rule
    role.write("", gpu_service_strategy="wrr")
    assert role.routers()["tts"]["service"] != service


def test_no_shared_route_no_router(role: Role) -> None:
    role.write("", gpu_service_rule="")
    http = yaml.safe_load(role.file.read_text(encoding="utf-8"))["http"]
    assert list(http) == ["middlewares"]


def test_what_role_traefik_saw_is_believed_until_the_file_was_written(role: Role) -> None:
    """The router is pointed at what the replicas carry now, and back, in one play that looked only once."""
    role.write("")
    wanted = role.file.read_bytes()
    seen = {str(role.file): hashlib.sha1(wanted, usedforsecurity=False).hexdigest()}
    assert role.write("", seen=seen)[1] == ["skipping"]
    other = "tts-lb000000"
    assert role.write(other, other, "", "", seen=seen)[1] == ["changed", "skipping", "changed", "skipping"]
    assert role.file.read_bytes() == wanted
