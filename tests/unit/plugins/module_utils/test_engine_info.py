# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a host's engine, with an HTTP server on a socket that answers as an engine does."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _engine_info, _engine_socket

ANSWERS = {
    "/version": {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41"},
    "/containers/json": [
        {
            "Names": ["/theirs"],
            "Ports": [{"IP": "127.0.0.1", "PublicPort": 8080, "PrivatePort": 80}, {"PrivatePort": 443}],
        }
    ],
    "/info": {"LiveRestoreEnabled": True, "ContainersRunning": 2, "DockerRootDir": "/var/lib/docker",
              "Swarm": {"LocalNodeState": "inactive"}},
    "/containers/json?all=1": [
        {"Id": "a", "Names": ["/ours"], "Labels": {"voicefleet.managed": "true"}},
        {"Id": "b", "Names": ["/theirs"], "Labels": {"voicefleet.managed": "false"}},
    ],
    "/images/json": [
        {"Id": "c", "RepoTags": ["theirs:1"], "Labels": None},
        {"Id": "d", "RepoTags": None, "Labels": {}},
    ],
    "/volumes": {"Volumes": None},
}  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def engine_socket(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "s")
    with socketserver.ThreadingUnixStreamServer(path, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_an_engine_that_answers(engine_socket: str) -> None:
    engine = _engine_info.engine(f"unix://{engine_socket}")
    assert engine["running"]
    assert engine["version"] == "20.10.24+dfsg1"
    assert engine["live_restore"]
    assert not engine["swarm"]
    assert engine["containers_running"] == 2
    assert engine["published_ports"] == {"theirs": ["127.0.0.1:8080"]}
    assert engine["pid"] is None, "what listens here is no dockerd, and must not be stopped for one"


def test_no_engine(tmp_path: Path) -> None:
    engine = _engine_info.engine(f"unix://{tmp_path}/none")
    assert not engine["running"]
    assert "No such file" in engine["error"]


def test_waiting_ends(tmp_path: Path) -> None:
    assert not _engine_info.engine(f"unix://{tmp_path}/none", wait_seconds=0.3)["running"]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:2375", "/var/run/docker.sock", "unix://relative"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"has to be a socket such as unix:///"):
        _engine_socket.socket_path(address)


def test_what_is_not_ours(engine_socket: str) -> None:
    found = _engine_socket.not_ours(engine_socket, "voicefleet.managed=true")
    assert found == ["container theirs", "image theirs:1", "image d"]


def test_stale_pid_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale, live = tmp_path / "stale.pid", tmp_path / "live.pid"
    stale.write_text("1")
    live.write_text("1")
    name = _engine_info.process_name(1)
    missing = str(tmp_path / "missing")
    monkeypatch.setattr(
        _engine_info, "PID_FILES", {str(stale): "dockerd", str(live): name, missing: "dockerd"}
    )
    assert _engine_info.stale_pid_files() == [str(stale)]


PACKAGES = (["docker.io", "iptables"], ["python3-docker"])
SDK = {"installed": True}
NO_SDK = {"installed": False}
THERE = {"installed": True, "running": True}
NOT_THERE = {"installed": False, "running": False}


@pytest.mark.parametrize(
    ("engine", "sdk", "record", "required"),
    [
        (NOT_THERE, NO_SDK, {}, ["docker.io", "iptables", "python3-docker"]),
        (NOT_THERE, SDK, {}, ["docker.io", "iptables"]),
        (THERE, NO_SDK, {}, ["python3-docker"]),
        (THERE, SDK, {}, []),
        # Ours: one that broke off is completed from where it came, whatever is asked for now.
        (THERE, SDK, {"engine_packages": ["docker-ce"]}, ["docker-ce"]),
    ],
)  # fmt: skip
def test_required_packages(
    engine: dict[str, object], sdk: dict[str, object], record: dict[str, object], required: list[str]
) -> None:
    assert _engine_info.required_packages(engine, sdk, record, *PACKAGES) == required


def test_a_program_that_came_after_dockerd_is_unseen_until_it_was_restarted_or_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "nvidia-container-runtime-hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    monkeypatch.setattr(_engine_info, "SYSTEM_PATH", str(tmp_path))
    names = [hook.name, "nvidia-cdi-hook"]
    came = hook.stat().st_ctime
    before, after = {"running": True, "started_at": came - 1}, {"running": True, "started_at": came + 1}

    assert _engine_info.programs(names, before, {}) == ([hook.name], [hook.name])
    assert _engine_info.programs(names, after, {}) == ([hook.name], [])
    # A newer version of what dockerd has found already.
    assert _engine_info.programs(names, before, {"programs": [hook.name]}) == ([hook.name], [])
    assert _engine_info.programs(names, {**before, "running": False}, {}) == ([hook.name], [])


def test_when_a_process_started() -> None:
    assert time.time() - 3600 * 24 < _engine_info.started_at(os.getpid()) <= time.time()
    assert _engine_info.started_at(None) == 0
