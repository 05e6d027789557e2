# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m speech_server`: read the settings, serve, end well."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from . import engines, logs
from .app import Server
from .connections import Protocol
from .engines.base import Engine
from .process import Process
from .settings import Settings, SettingsError

_LOG = logging.getLogger("speech_server")
EXIT_SETTINGS = 2
# Longer than the idle time of the proxies in front (Traefik: 90 s): they close idle connections, never we,
# or a request could be sent into a connection that is just being closed.
_KEEP_ALIVE_SECONDS = 120


class PoliteServer(uvicorn.Server):
    """Uvicorn, but SIGTERM does not close the door at once.

    It makes the replica not ready. New requests are still taken for the linger time, and as long as
    something is in hand; then the listener is closed and what is left is finished. A process that ends by
    itself is in no hurry, and waits until no request has come for the linger time: on a busy host it may take
    long before the router has noticed.
    """

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self._server = server
        server.end = self.end_well
        self.asked_at: float | None = None
        self.hurried = False
        self.cut_short = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: begin to end. Second: end now."""
        if self.hurried:
            self.cut_short = self.force_exit = self.should_exit = True
        self.hurried = True
        self.end_well()

    def end_well(self) -> None:
        """Not ready from now on; the end comes when what is in hand is finished."""
        self.asked_at = self.asked_at or time.monotonic()
        self._server.readiness.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second by uvicorn; true ends its main loop."""
        if self.asked_at is not None:
            settings = self._server.settings
            now = time.monotonic()
            waited = now - self.asked_at
            idle = self._server.frame.active == 0 and (
                self.hurried or now - self._server.frame.last_arrived >= settings.linger_seconds
            )
            # Who was drained before is out of the router's list already.
            out = max(waited, self._server.readiness.draining_seconds())
            if (out >= settings.linger_seconds and idle) or waited >= _longest_request_seconds(settings):
                self.should_exit = True
        return await super().on_tick(counter)


def _longest_request_seconds(settings: Settings) -> float:
    return settings.deadline_seconds + settings.grace_seconds + settings.linger_seconds


def main(make_engine: Callable[[Settings], Engine] = engines.make) -> int:
    """Serve until told to end; returns the exit code."""
    logs.configure()
    process = Process()
    try:
        settings = Settings.from_environment(os.environ)
        server = Server(settings, make_engine(settings), process)
    except SettingsError as error:
        for line in str(error).splitlines():
            _LOG.critical("wrong setting: %s", line)
        return EXIT_SETTINGS
    config = uvicorn.Config(
        server.frame,
        http=Protocol,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(_longest_request_seconds(settings)),
    )
    polite = PoliteServer(config, server)
    polite.run()
    code = 1 if polite.cut_short else 0
    # Not by way of the interpreter's own end: an engine thread still inside a native library (loading,
    # or at work for a caller who has left) would crash there, with exit code 139.
    logging.shutdown()
    process.exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
