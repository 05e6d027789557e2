# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may start anew: locks on one directory, as the replicas of a host hold them."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest
from speech_server import turn
from speech_server.turn import Turn


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(turn.time, "monotonic", lambda: now[0])
    return now


def test_one_at_a_time_while_all_others_serve(tmp_path: Path, clock: list[float]) -> None:
    first, second = Turn(tmp_path), Turn(tmp_path)
    first.away(True)  # loading
    assert not second.taken()
    first.away(False)
    assert (
        not second.taken()
    )  # free, but perhaps only between the end of one process and the start of the next
    assert not first.taken()
    clock[0] += turn.QUIET_SECONDS
    assert second.taken()
    clock[0] += turn.QUIET_SECONDS
    assert not first.taken()


def test_two_may_be_away_at_once_and_both_have_to_be_back(tmp_path: Path, clock: list[float]) -> None:
    first, second, third = (Turn(tmp_path) for _ in range(3))
    first.away(True)
    second.away(True)
    first.away(False)
    assert not third.taken()
    clock[0] += turn.QUIET_SECONDS
    assert not third.taken()
    second.away(False)
    assert not third.taken()
    clock[0] += turn.QUIET_SECONDS
    assert third.taken()


def test_who_is_away_has_no_turn_and_stays_away_for_the_others(tmp_path: Path, clock: list[float]) -> None:
    """As one that is being drained when its last request ends."""
    draining, neighbour = Turn(tmp_path), Turn(tmp_path)
    draining.away(True)
    for _ in range(2):
        assert not draining.taken()
        clock[0] += turn.QUIET_SECONDS
        assert not neighbour.taken()
        clock[0] += turn.QUIET_SECONDS
    draining.away(False)
    assert not draining.taken()
    clock[0] += turn.QUIET_SECONDS
    assert draining.taken()


def test_whoever_sees_other_voices_or_none_waits_for_nobody(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    Turn(tmp_path / "one").away(True)
    other = Turn(tmp_path / "two")
    assert not other.taken()
    clock[0] += turn.QUIET_SECONDS
    assert other.taken()
    alone = Turn(tmp_path / "not-there")
    alone.away(True)
    assert alone.taken()
    assert not caplog.records  # no fault: not every engine has voices of its own


def test_on_a_file_system_without_locks_it_is_always_ones_turn(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """NFS gives an exclusive one only to who may write."""

    def flock(_file: int, kind: int) -> None:
        if kind & fcntl.LOCK_EX:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(turn.fcntl, "flock", flock)
    alone = Turn(tmp_path)
    alone.away(True)
    alone.away(False)
    alone.taken()
    assert alone.taken()
    alone.away(True)
    assert alone.taken()
    assert [record.message for record in caplog.records] == ["no turns are taken"]
