# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame round every request: its id, the headers each answer carries, its line in the log, its size.

Plain ASGI, outside the framework, so that it also sees the answers that the framework makes on its own.
"""

from __future__ import annotations

import logging
import math
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import SpeechError
from .metrics import Metrics

_LOG = logging.getLogger("speech_server.request")
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
SPEECH_PATHS = frozenset(
    ("/v1/audio/speech", "/inference_zero_shot", "/inference_cross_lingual", "/inference_instruct2")
)


@dataclass
class Record:
    """What is known of one request; whoever learns more adds it to `notes`, which go into the log."""

    request_id: str
    method: str
    path: str
    arrived: float = field(default_factory=time.monotonic)
    status: int = 0
    bytes_out: int = 0
    first_byte_seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Since arrival."""
        return time.monotonic() - self.arrived


class Frame:
    """The outermost application. `active` counts the speech requests that are not yet answered to the end;
    `last_arrived` is when one last came, by the monotonic clock."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        max_body_bytes: int,
        headers: Callable[[], dict[str, str]],
        stopping: Callable[[], bool],
    ):
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._headers = headers
        self._stopping = stopping
        self.active = 0
        self.last_arrived = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        record = scope["record"] = Record(request_id, scope["method"], scope["path"])

        async def framed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({"X-Request-Id": record.request_id, **self._headers()})
                if self._stopping():
                    headers["Connection"] = "close"  # so that no idle connection is cut under a new request
            elif body := message.get("body"):
                record.bytes_out += len(body)
                if record.first_byte_seconds is None:
                    record.first_byte_seconds = record.seconds
            await send(message)

        speech = record.path in SPEECH_PATHS
        self.active += speech
        if speech:
            self.last_arrived = record.arrived
        try:
            await self._app(scope, self._limited(scope, receive), framed_send)
        finally:
            if speech:
                self._account(record)
            self.active -= speech  # last: at 0 the process may end

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """The body, up to the limit; a declared length is believed, so a large body is not even read."""
        declared = Headers(scope=scope).get("content-length", "")
        size = int(declared) if declared.isdecimal() and len(declared) < 20 else 0
        too_large = HTTPException(413, f"The body is larger than {self._max_body_bytes} bytes.")

        async def limited() -> Message:
            nonlocal size
            if size > self._max_body_bytes:
                raise too_large
            message = await receive()
            if not declared:
                size += len(message.get("body", b""))
                if size > self._max_body_bytes:
                    raise too_large
            return message

        return limited

    def _account(self, record: Record) -> None:
        self._metrics.requests.labels(record.path, str(record.status)).inc()
        if record.status == 200 and record.first_byte_seconds is not None:
            self._metrics.first_byte_seconds.observe(record.first_byte_seconds)
            self._metrics.request_seconds.observe(record.seconds)
        first = record.first_byte_seconds
        _LOG.info(
            "request",
            extra={
                "fields": {
                    "request_id": record.request_id,
                    "method": record.method,
                    "path": record.path,
                    "status": record.status,
                    "seconds": round(record.seconds, 4),
                    "first_byte_seconds": None if first is None else round(first, 4),
                    "bytes": record.bytes_out,
                    **record.notes,
                }
            },
        )


def record_of(scope: Scope) -> Record:
    """The request's record."""
    record: Record = scope["record"]
    return record


def note_error(scope: Scope, error: SpeechError) -> None:
    """Let the log say what was answered."""
    record_of(scope).notes["error"] = error.code
