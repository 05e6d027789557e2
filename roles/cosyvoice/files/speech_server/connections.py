# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections whose end comes even if the caller does not read.

A transport that is closed sends first what it still holds, and waits for ever for a caller who neither reads
nor goes: his connection would stay, and the process would wait for it when it ends.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# For how long nothing of the rest may be taken. Of an answer that was broken off it is worth little. That of
# a complete one may lie behind much audio in the kernel's buffers, which a caller who plays what he reads
# empties in large steps: a third of 4 MiB (the most that Linux gives, tcp_wmem) are 29 s of PCM.
_BROKEN_SECONDS = 1.0
_COMPLETE_SECONDS = 60.0
_RESET = struct.pack("ii", 1, 0)  # on, 0 s: the kernel does not keep the rest either


class Protocol(H11Protocol):
    """Uvicorn's, with connections that end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        closing: Any = _Ending(transport, self.loop, self._patience_seconds)
        super().connection_made(closing)

    def _patience_seconds(self) -> float:
        broken = self.cycle is not None and not self.cycle.response_complete
        return _BROKEN_SECONDS if broken else _COMPLETE_SECONDS


class _Ending:
    """A transport that is aborted if, once it is closed, nothing of the rest is taken any more."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        patience_seconds: Callable[[], float],
    ):
        self._transport = transport
        self._loop = loop
        self._patience_seconds = patience_seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()
            self._look_again(self._patience_seconds())

    def _look_again(self, seconds: float) -> None:
        if rest := self._transport.get_write_buffer_size():
            self._loop.call_later(seconds, self._look, rest, seconds)

    def _look(self, rest: int, seconds: float) -> None:
        if self._transport.get_write_buffer_size() < rest:
            self._look_again(seconds)
        else:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
