# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to result, against a real server on loopback and an engine that is not there."""

from __future__ import annotations

import json
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.modules import service_probe


class Echo(BaseHTTPRequestHandler):
    """Answers with the method, and tells the test what came."""

    seen: t.ClassVar[list[str]] = []

    def log_message(self, *_args: t.Any) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append(self.command)
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"hello"
        self.send_response(200)
        self.send_header("X-Replica", "tts-1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()


@pytest.fixture(scope="module")
def url() -> t.Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def run(capsys: pytest.CaptureFixture[str], **args: t.Any) -> dict[str, t.Any]:
    Echo.seen.clear()
    with patch_module_args(args), pytest.raises(SystemExit):
        service_probe.main()
    return t.cast(dict[str, t.Any], json.loads(capsys.readouterr().out))


def asking(url: str, **other: t.Any) -> dict[str, t.Any]:
    return {"name": "ask", "url": url, "method": "POST", "body": {"a": 1}, **other}


def test_what_came_back_is_judged_returned_and_saved(
    capsys: pytest.CaptureFixture[str], url: str, tmp_path: Path
) -> None:
    dest = tmp_path / "new" / "answer.json"
    request = asking(url, response_headers={"X-Replica": "^tts-"}, min_bytes=5, dest=str(dest))
    result = run(capsys, requests=[request])
    assert (result["ok"], result["changed"], result["summary"]) == (True, False, "3 of 3 checks passed")
    assert dest.read_text() == '{"a": 1}'
    assert dest.stat().st_mode & 0o777 == 0o644
    (answer,) = result["answers"]
    assert (answer["status"], answer["bytes"], answer["dest"]) == (200, 8, str(dest))
    assert answer["headers"]["x-replica"] == "tts-1"


def test_a_wrong_answer_is_no_failure_of_the_module_and_replaces_no_record(
    capsys: pytest.CaptureFixture[str], url: str, tmp_path: Path
) -> None:
    dest = tmp_path / "answer.json"
    dest.write_text("yesterday's")
    result = run(capsys, requests=[asking(url, min_bytes=100, dest=str(dest))])
    assert not result.get("failed")
    assert result["ok"] is False
    assert [check["name"] for check in result["checks"] if not check["ok"]] == ["ask: size"]
    assert result["answers"][0]["dest"] == ""
    assert dest.read_text() == "yesterday's"


def test_check_mode_asks_only_what_changes_nothing_and_saves_nothing(
    capsys: pytest.CaptureFixture[str], url: str, tmp_path: Path
) -> None:
    dest = tmp_path / "answer"
    requests = [asking(url), {"name": "get", "url": url, "dest": str(dest)}]
    result = run(capsys, requests=requests, _ansible_check_mode=True)
    assert Echo.seen == ["GET"]
    assert [answer["name"] for answer in result["answers"]] == ["get"]
    assert not dest.exists()


def test_an_engine_that_is_not_there_is_a_failed_check_that_hides_no_other(
    capsys: pytest.CaptureFixture[str], url: str, tmp_path: Path
) -> None:
    result = run(
        capsys,
        services=[{"name": "tts", "port": 7860}],
        requests=[asking(url)],
        cards=[{"index": 0, "total_mib": 24564}],
        docker_host=f"unix://{tmp_path}/no.sock",
    )
    assert {check["name"]: check["ok"] for check in result["checks"]} == {
        "card #0: memory": True,
        "Docker Engine": False,
        "ask: status": True,
    }
    assert result["ok"] is False
    assert result["summary"] == "2 of 3 checks passed"


def test_nothing_to_look_at_needs_no_engine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, docker_host=f"unix://{tmp_path}/no.sock")
    assert (result["ok"], result["checks"], result["replicas"]) == (True, [], [])


def test_slots_of_a_card_that_mps_shares_are_slots(capsys: pytest.CaptureFixture[str]) -> None:
    mps = {"thread_percentage": 50, "pipe_dir": "/run/nvidia-mps", "uid": "10001"}
    slot = {"gpu": "GPU-1", "index": 0, "memory_mib": 8192, "mps": mps}
    assert run(capsys, slots=[slot])["checks"] == []
