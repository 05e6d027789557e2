# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a newcomer has to tell of itself before it gets callers, asked of real servers on loopback."""

from __future__ import annotations

import json
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import Mock

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import Barriers, Hooks, Limits
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError

ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def version() -> t.Iterator[t.Callable[..., None]]:
    """Ask a replica that answers so; ReplicaError if it may not be let in."""
    body = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    barriers = Barriers(Mock(), Limits(route_timeout_seconds=5), Hooks(version_path="/version"))

    def ask(said: t.Any, revision: str, weights: str) -> None:
        nonlocal body
        body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        barriers.version("tts-1", f"http://127.0.0.1:{server.server_port}", revision, weights)

    yield ask
    server.shutdown()
    server.server_close()


def test_the_wanted_revision_with_the_wanted_weights_is_let_in(version: t.Callable[..., None]) -> None:
    version({"revision": "r2", "weights_digest": ONE}, "r2", ONE)
    version({"revision": "r2", "weights_digest": OTHER}, "r2", "")
    version("r2", "r2", "")


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ({"revision": "r1", "weights_digest": ONE}, "tts-1 is revision r1, and r2 was wanted"),
        (
            {"revision": "r2", "weights_digest": OTHER},
            f"tts-1 is revision r2, but has loaded weights {OTHER}, and {ONE} were wanted",
        ),
        ({"revision": "r2", "weights_digest": None}, "does not tell which weights it has loaded"),
        ("r2", "does not tell which weights it has loaded"),
    ],
)
def test_any_other_is_refused(version: t.Callable[..., None], said: t.Any, refusal: str) -> None:
    with pytest.raises(ReplicaError, match=refusal):
        version(said, "r2", ONE)
