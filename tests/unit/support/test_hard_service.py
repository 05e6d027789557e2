# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hard service, as a process: hard, and fair."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from open_load import OpenLoad

SERVER = Path(__file__).parents[2] / "support/hard_service/server.py"
PATIENCE_SECONDS = 60


class Replica:
    """One process of it, on a port of its own."""

    def __init__(self, scratch: Path, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.drain_file = scratch / "drain"
        defaults = {"START_SECONDS": "0", "LINGER_SECONDS": "0.5"}
        own = {"PORT": str(self.port), "DRAIN_FILE": str(self.drain_file)}
        self.environment = {**os.environ, **defaults, **own, **environment}
        self.process = subprocess.Popen(
            self.command(), env=self.environment, stdout=subprocess.PIPE, text=True
        )
        assert "listening" in self.next_line()

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-I", "-S", str(SERVER), *arguments]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next_line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def get(self, path: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer, answer.read()

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1].decode(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def wait_for(self, name: str, value: float) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.metric(name) < value:
            assert time.monotonic() < deadline, f"{name} is still {self.metric(name)}"
            time.sleep(0.05)

    def healthcheck(self) -> tuple[int, str]:
        done = subprocess.run(
            self.command("healthcheck"), env=self.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout.strip()

    def end(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[Replica] = []

    def make(**environment: str) -> Replica:
        started.append(Replica(tmp_path, **environment))
        return started[-1]

    yield make
    for replica in started:
        replica.process.kill()
        replica.process.communicate()


def ready(replica: Replica) -> Replica:
    assert "ready" in replica.next_line()
    return replica


def test_it_says_who_it_is_in_every_answer(start) -> None:
    replica = ready(start(REPLICA="hard-3", REVISION="7"))
    answer, body = replica.get("/prefix/version")
    assert (answer.headers["X-Replica"], answer.headers["X-Model-Version"]) == ("hard-3", "7")
    told = json.loads(body)
    assert (told["service"], told["replica"], told["revision"]) == ("hard", "hard-3", "7")
    assert len(told["weights_digest"]) == 64
    assert replica.get("/nothing")[0].status == 404


def test_it_is_healthy_only_when_loaded_and_not_draining(start) -> None:
    replica = start(START_SECONDS="0.5")
    assert replica.healthcheck() == (1, '{"status": "loading"}')
    answer, _body = replica.get("/stream?seconds=1")
    assert (answer.status, answer.headers["Retry-After"]) == (503, None)
    ready(replica)
    assert replica.healthcheck() == (0, '{"status": "ready"}')
    replica.drain_file.touch()
    assert replica.healthcheck() == (1, "draining")
    assert replica.get("/healthz")[0].status == 503
    assert replica.get("/stream?seconds=0.1")[0].status == 200


def test_sigterm_lets_what_is_in_hand_finish(start) -> None:
    replica = ready(start(LINGER_SECONDS="0"))
    with OpenLoad(replica.url, 20, lengths={3: 1}, send_seconds=0.2) as load:
        replica.wait_for("hard_in_flight", 5)
        replica.process.send_signal(signal.SIGTERM)
        load.wait_until(5)
    load.report().assert_lossless(at_least=5)
    assert replica.end() == 0


def test_after_sigterm_it_is_not_ready_and_goes_on_serving_for_a_while(start) -> None:
    replica = ready(start(LINGER_SECONDS="600"))
    replica.process.send_signal(signal.SIGTERM)
    assert "SIGTERM" in replica.next_line()
    assert replica.healthcheck() == (1, '{"status": "stopping"}')
    answer, _body = replica.get("/stream?seconds=0.1")
    assert (answer.status, answer.headers["Connection"]) == (200, "close")


def test_a_killed_one_loses_what_it_had_in_hand_and_the_load_sees_it(start) -> None:
    replica = ready(start())
    with OpenLoad(replica.url, 20, lengths={3: 1}, send_seconds=1) as load:
        replica.wait_for("hard_in_flight", 10)
        replica.process.kill()
        load.wait_until(21)
    report = load.report()
    assert report.sent == len(report.outcomes) == 21
    assert len(report.failed) >= 10
    assert any("cut after" in outcome.reason for outcome in report.failed)


def test_more_than_it_can_take_wait_and_then_are_refused_in_time(start) -> None:
    replica = ready(start(MAX_IN_FLIGHT="2", MAX_QUEUED="1"))
    with OpenLoad(replica.url, 100, lengths={1: 1}, send_seconds=0.05) as load:
        load.wait_until(6)
    report = load.report()
    assert (len(report.ok), len(report.refused), len(report.failed)) == (3, 3, 0)
    assert sorted(round(outcome.whole) for outcome in report.ok) == [1, 1, 2]
    assert replica.metric('hard_requests_total{status="200"}') == 3
    assert replica.metric('hard_requests_total{status="503"}') == 3
    assert replica.metric("hard_in_flight") == 0
    assert replica.metric("hard_capacity") == 2
    assert replica.metric("hard_first_byte_seconds_count") == 3


@pytest.mark.parametrize("fault", ["dies_at_start", "crashes_after=0.1"])
def test_faults_that_end_it(start, fault: str) -> None:
    assert start(FAULT=fault, START_SECONDS="0.1").end() == 3


def test_faults_that_do_not(start) -> None:
    never = start(FAULT="never_healthy")
    wrong = ready(start(FAULT="wrong_version"))
    errors = ready(start(FAULT="errors"))
    slow = ready(start(FAULT="slow=0.5"))
    assert wrong.get("/version")[0].headers["X-Model-Version"] == "1-wrong"
    assert errors.get("/stream?seconds=1")[0].status == 500
    begin = time.monotonic()
    assert slow.get("/stream?seconds=0.1")[0].status == 200
    assert time.monotonic() - begin > 0.5
    assert never.healthcheck()[0] == 1


def test_one_that_hangs_answers_nothing_and_is_not_healthy(start) -> None:
    replica = ready(start(FAULT="hangs_after=0"))
    assert "hangs" in replica.next_line()
    code, told = replica.healthcheck()
    assert (code, told) == (1, "no answer: timed out")
