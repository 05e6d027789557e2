# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue: its order, its bound, and its promises."""

from __future__ import annotations

import asyncio

import pytest
from speech_server.admission import Admission
from speech_server.errors import SpeechError


def test_first_come_first_served_and_a_bound() -> None:
    async def scenario() -> list[str]:
        admission = Admission(max_in_flight=1, max_queued=2)
        served: list[str] = []

        async def caller(name: str) -> None:
            await admission.enter(10)
            served.append(name)

        await caller("a")
        waiting = [asyncio.ensure_future(caller(name)) for name in "bc"]
        await asyncio.sleep(0)
        assert (admission.in_flight, admission.queued) == (1, 2)
        with pytest.raises(SpeechError) as refused:
            await admission.enter(10)
        assert (refused.value.status, refused.value.code) == (503, "overloaded")
        assert (refused.value.retry_after_seconds or 0) >= 1
        for _ in range(3):
            admission.leave(1.0)
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        assert (admission.in_flight, admission.queued) == (0, 0)
        return served

    assert asyncio.run(scenario()) == ["a", "b", "c"]


@pytest.mark.parametrize("slot_freed_first", [False, True])
def test_who_leaves_the_queue_takes_no_slot_along(slot_freed_first: bool) -> None:
    async def scenario() -> None:
        admission = Admission(1, 2)
        await admission.enter(10)
        leaver, stayer = (asyncio.ensure_future(admission.enter(10)) for _ in range(2))
        await asyncio.sleep(0)
        if slot_freed_first:  # given to the leaver in the same turn of the loop in which he leaves
            admission.leave(1.0)
            leaver.cancel()
        else:
            leaver.cancel()
            await asyncio.sleep(0)
            assert admission.queued == 1
            admission.leave(1.0)
        await asyncio.wait_for(stayer, 1)
        assert (admission.in_flight, admission.queued) == (1, 0)

    asyncio.run(scenario())


def test_waiting_too_long_is_a_refusal() -> None:
    async def scenario() -> None:
        admission = Admission(1, 1)
        await admission.enter(1)
        with pytest.raises(SpeechError, match="no slot became free"):
            await admission.enter(0.01)
        assert (admission.in_flight, admission.queued) == (1, 0)

    asyncio.run(scenario())


def test_retry_after_follows_service_time_and_position() -> None:
    async def scenario() -> None:
        admission = Admission(1, 9)
        await admission.enter(1)
        for _ in range(50):
            admission.leave(10.0)
            await admission.enter(1)
        alone = [admission.retry_after_seconds() for _ in range(200)]
        assert 8 <= min(alone) < max(alone) <= 12  # 10 s, spread by a fifth
        waiting = [asyncio.ensure_future(admission.enter(9)) for _ in range(3)]
        await asyncio.sleep(0)
        assert 32 <= admission.retry_after_seconds() <= 48
        admission.close(SpeechError(503, "not_ready", "gone"))
        assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == [
            "gone"
        ] * 3

    asyncio.run(scenario())
