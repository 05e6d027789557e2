# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the door closes after SIGTERM: decided ten times a second, looked at one decision at a time."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
import uvicorn
from conftest import WatchedProcess, settings_for
from speech_server.__main__ import PoliteServer
from speech_server.app import Server
from speech_stand_in import StandIn


@pytest.mark.parametrize(
    ("linger_seconds", "waited_seconds", "in_hand", "closes"),
    [
        (3, 1, 0, False),  # idle, but somebody may not have noticed yet
        (3, 4, 0, True),
        (3, 4, 1, False),  # something is in hand, so what still comes is taken too
        (3, 182, 1, False),
        (3, 184, 1, True),  # longer than any request can take
    ],
)
def test_the_door(
    tmp_path: Path, linger_seconds: float, waited_seconds: float, in_hand: int, closes: bool
) -> None:
    settings = settings_for(tmp_path, linger_seconds=linger_seconds)
    server = Server(settings, StandIn(settings), WatchedProcess())
    polite = PoliteServer(uvicorn.Config(server.frame), server)
    assert not asyncio.run(polite.on_tick(1))
    polite.handle_exit(signal.SIGTERM, None)
    assert server.readiness.stopping
    assert polite.asked_at
    polite.asked_at -= waited_seconds
    server.frame.active = in_hand
    assert asyncio.run(polite.on_tick(1)) == closes


@pytest.mark.parametrize(
    ("seconds_since_a_caller", "hurried", "closes"),
    [
        (1, False, False),  # the router still sends callers
        (4, False, True),
        (1, True, True),  # somebody stops it, and waits
    ],
)
def test_the_door_of_a_process_that_ends_by_itself(
    tmp_path: Path, seconds_since_a_caller: float, hurried: bool, closes: bool
) -> None:
    settings = settings_for(tmp_path, linger_seconds=3)
    server = Server(settings, StandIn(settings), WatchedProcess())
    polite = PoliteServer(uvicorn.Config(server.frame), server)
    polite.end_well()
    assert polite.asked_at
    server.frame.last_arrived = polite.asked_at - seconds_since_a_caller
    polite.asked_at -= 60
    if hurried:
        polite.handle_exit(signal.SIGTERM, None)
        assert not polite.cut_short
    assert asyncio.run(polite.on_tick(1)) == closes
