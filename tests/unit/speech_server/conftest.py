# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application with a stand-in engine, in process and on a real socket; and as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from patience import until
from speech_server.app import Server
from speech_server.connections import Protocol
from speech_server.engines.base import Engine
from speech_server.process import Process
from speech_server.settings import Settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for the stand-in

from speech_stand_in import StandIn  # noqa: E402

PATIENCE_SECONDS = 120  # only for what must happen; nothing waits so long when all is well


class WatchedProcess(Process):
    """Notes how it would have ended, and does not."""

    def __init__(self) -> None:
        self.exits: list[int] = []
        self.exit_in_seconds: float | None = None

    def exit(self, code: int) -> None:
        self.exits.append(code)

    def exit_in(self, seconds: float | None) -> None:
        self.exit_in_seconds = seconds


@dataclass
class Live:
    """A server on loopback."""

    url: str
    server: Server
    engine: Any
    process: WatchedProcess
    loop: asyncio.AbstractEventLoop

    @property
    def exits(self) -> list[int]:
        return self.process.exits

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)

    def speak(self, client: httpx.Client, text: str, **more: object) -> httpx.Response:
        return client.post("/v1/audio/speech", json={"input": text, "response_format": "pcm", **more})

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(f"speech_{name}", labels) or 0.0


def eventually(condition: Callable[[], object], what: str = "so") -> None:
    """Wait until the condition holds."""
    until(what, condition, PATIENCE_SECONDS)


def settings_for(tmp_path: Path, **changes: Any) -> Settings:
    defaults: dict[str, Any] = {
        "drain_file": tmp_path / "drain",
        "outputs_dir": tmp_path / "outputs",
        "replica": "r-1",
    }
    return Settings(**(defaults | changes))


@contextmanager
def under_uvicorn(app: Any, **options: Any) -> Iterator[tuple[uvicorn.Server, threading.Thread]]:
    """A real one with our connections, in that thread, on a port of its own; C(options) are uvicorn's."""
    config = uvicorn.Config(app, http=Protocol, host="127.0.0.1", port=0, log_config=None, **options)
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    eventually(lambda: web.started)
    try:
        yield web, thread
    finally:
        web.should_exit = True
        thread.join(PATIENCE_SECONDS)


@contextmanager
def running(settings: Settings, engine: Engine, wait: bool = True) -> Iterator[Live]:
    """The application under a real uvicorn, in a thread."""
    process = WatchedProcess()
    server = Server(settings, engine, process)
    with under_uvicorn(server.frame, timeout_graceful_shutdown=1) as (web, _thread):
        listener = web.servers[0]
        port = listener.sockets[0].getsockname()[1]
        live = Live(f"http://127.0.0.1:{port}", server, engine, process, listener.get_loop())
        try:
            if wait:
                eventually(lambda: server.readiness.loaded)
            yield live
        finally:
            if isinstance(engine, StandIn):
                engine.loading.set()
                engine.release.set()
                engine.step.release(1000)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Start a live server with a stand-in engine; keyword arguments are settings."""
    with ExitStack() as stack:

        def begin(
            wait: bool = True, prepare: Callable[[StandIn], None] = lambda _: None, **changes: Any
        ) -> Live:
            settings = settings_for(tmp_path, **changes)
            engine = StandIn(settings)
            prepare(engine)
            return stack.enter_context(running(settings, engine, wait))

        yield begin


@dataclass
class InProcess:
    """The application without a socket."""

    client: TestClient
    server: Server
    engine: StandIn


@pytest.fixture(scope="module")
def hum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """The application with the stand-in engine, loaded."""
    settings = settings_for(tmp_path_factory.mktemp("hum"), max_body_bytes=200_000)
    engine = StandIn(settings)
    server = Server(settings, engine, WatchedProcess())
    with TestClient(server.frame, raise_server_exceptions=False) as client:
        eventually(lambda: server.readiness.loaded)
        yield InProcess(client, server, engine)


@dataclass
class Spawned:
    """The server as a process of its own."""

    popen: subprocess.Popen[str]
    url: str
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)

    def health(self) -> tuple[int, str]:
        try:
            answer = self.client.get("/healthz")
        except httpx.TransportError:
            return 0, "no answer"
        return answer.status_code, answer.json()["status"]

    def wait_ready(self) -> None:
        eventually(lambda: self.health()[0] == 200 or self.popen.poll() is not None)
        assert self.popen.poll() is None, self.log.read_text()

    def wait(self) -> int:
        return self.popen.wait(PATIENCE_SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def spawn(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Callable[..., Spawned]]:
    """Start `python -m speech_server` (or the stand-in program) with SPEECH_* settings."""
    started: list[subprocess.Popen[str]] = []

    def begin(stand_in: bool = False, **environment: object) -> Spawned:
        port = free_port()
        settings = {
            "host": "127.0.0.1",
            "port": port,
            "drain_file": tmp_path / "drain",
            "threads": 1,
            **environment,
        }
        log = tmp_path / f"log-{port}"
        with log.open("w") as out:
            popen = subprocess.Popen(
                [
                    sys.executable,
                    *([str(HERE / "speech_stand_in.py")] if stand_in else ["-m", "speech_server"]),
                ],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(
                        str(pytestconfig.rootpath / path)
                        for path in ("roles/cosyvoice/files", "tests/support")
                    ),
                    **{f"SPEECH_{name.upper()}": str(value) for name, value in settings.items()},
                },
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(popen)
        return Spawned(popen, f"http://127.0.0.1:{port}", log)

    yield begin
    for popen in started:
        with suppress(ProcessLookupError):
            popen.send_signal(signal.SIGKILL)
        popen.wait()
