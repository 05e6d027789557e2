# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock: who gets it, who is refused, who takes over, and what a crash leaves behind.

No test sleeps to be right: where time has to pass, the wall clock of the lock is a figure that the test sets.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _lock
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._lock import (
    Lock,
    LockedError,
    LockError,
    LockFile,
    LockLost,
)
from patience import until

NOW = 1_795_425_511.25
GENEROUS_SECONDS = 60


class Clock:
    """A wall clock that stands still unless a test sets it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return _lock.path_of(str(tmp_path / "missing"), "cosyvoice")


@pytest.fixture
def lock(path: str, clock: Clock) -> LockFile:
    return LockFile(path, 30, clock)


def others(path: str) -> list[str]:
    """What lies beside the lock."""
    return sorted(name for name in os.listdir(os.path.dirname(path)) if name != "lock")


# --- one holder ---------------------------------------------------------------------------------------------


def test_taken_read_renewed_and_given_back(lock: LockFile, clock: Clock, path: str) -> None:
    acquired = lock.acquire("ada@control", "upgrade to 2.1.0")
    assert (acquired.taken_over, acquired.warning) == ("", "")
    assert lock.read() == acquired.lock
    assert acquired.lock == Lock("ada@control", "upgrade to 2.1.0", acquired.token, NOW, NOW, NOW + 30)
    clock.now += 20
    assert lock.renew(acquired.token).expires_at == NOW + 50
    held = lock.read()
    assert held is not None
    assert (held.acquired_at, held.renewed_at, held.expires_at) == (NOW, NOW + 20, NOW + 50)
    assert lock.release(acquired.token) is True
    assert lock.read() is None
    assert lock.release(acquired.token) is False
    assert others(path) == []


def test_people_can_read_the_file(lock: LockFile, path: str) -> None:
    token = lock.acquire("Zoë@control", "upgrade").token
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == {
            "owner": "Zoë@control",
            "purpose": "upgrade",
            "token": token,
            "acquired_at": "2026-11-23T09:18:31.250Z",
            "renewed_at": "2026-11-23T09:18:31.250Z",
            "expires_at": "2026-11-23T09:19:01.250Z",
        }


def test_an_expired_lock_is_still_the_holders_until_somebody_takes_it(lock: LockFile, clock: Clock) -> None:
    token = lock.acquire("ada").token
    clock.now += 3600
    assert lock.renew(token).expires_at == NOW + 3630


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_an_expiry_that_is_none_is_refused(path: str, seconds: float) -> None:
    with pytest.raises(ValueError, match="expiry_seconds"):
        LockFile(path, seconds)


# --- a second one -------------------------------------------------------------------------------------------


def in_thread(work: t.Callable[[], t.Any]) -> tuple[threading.Thread, list[t.Any]]:
    """Runs it, and collects what it returns or raises."""
    outcome: list[t.Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except LockError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


@pytest.fixture
def watched(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when somebody has looked at the lock at least once and waits for it."""
    waiting = threading.Event()
    sleep = time.sleep

    def tell(seconds: float) -> None:
        if seconds == _lock.POLL_SECONDS:
            waiting.set()
        sleep(min(seconds, 0.01))

    monkeypatch.setattr(_lock.time, "sleep", tell)
    return waiting


def test_a_holder_that_renews_is_alive_and_the_second_is_refused_at_once(
    lock: LockFile, clock: Clock, watched: threading.Event
) -> None:
    token = lock.acquire("ada@control", "upgrade to 2.1.0").token
    clock.now += 65
    lock.renew(token)
    thread, outcome = in_thread(lambda: LockFile(lock.path, 30, clock).acquire("bob"))
    assert watched.wait(GENEROUS_SECONDS)
    clock.now += 2
    lock.renew(token)
    clock.now += 0.5
    thread.join(GENEROUS_SECONDS)
    (error,) = outcome
    assert isinstance(error, LockedError)
    assert str(error).startswith(
        f"The lock {lock.path} is held by ada@control (upgrade to 2.1.0), since 2026-11-23 09:18:31 UTC. "
        "It is alive: its last sign of life came 0."
    )
    assert "Wait until it has ended and run this again." in str(error)
    held = lock.read()
    assert held is not None
    assert held.token == token


def test_a_lock_that_is_given_back_meanwhile_is_simply_taken(
    lock: LockFile, clock: Clock, watched: threading.Event
) -> None:
    token = lock.acquire("ada").token
    thread, outcome = in_thread(lambda: LockFile(lock.path, 30, clock).acquire("bob"))
    assert watched.wait(GENEROUS_SECONDS)
    lock.release(token)
    thread.join(GENEROUS_SECONDS)
    (acquired,) = outcome
    assert (acquired.taken_over, acquired.warning) == ("", "")
    assert acquired.lock.owner == "bob"


def test_whoever_takes_it_first_is_alive_for_the_others_that_wait(
    lock: LockFile, clock: Clock, watched: threading.Event
) -> None:
    lock.acquire("ada")
    thread, outcome = in_thread(lambda: LockFile(lock.path, 30, clock).acquire("bob"))
    assert watched.wait(GENEROUS_SECONDS)
    lock.acquire("eve", force=True)
    thread.join(GENEROUS_SECONDS)
    (error,) = outcome
    assert isinstance(error, LockedError)
    assert "is held by eve" in str(error)


def test_a_silent_holder_is_waited_for_until_its_expiry_and_taken_over(path: str) -> None:
    gone = LockFile(path, 1).acquire("ada@control", "upgrade")
    began = time.monotonic()
    acquired = LockFile(path, 30).acquire("bob@laptop")
    assert time.monotonic() - began > 0.5
    assert acquired.taken_over == "ada@control"
    assert "was held by ada@control (upgrade), since" in acquired.warning
    assert "may be silent for 1 s at most, so it was killed or cut off" in acquired.warning
    assert "resumes what it left half done" in acquired.warning
    with pytest.raises(LockLost, match=r"was taken over by bob@laptop, since .*Run it again: it resumes"):
        LockFile(path).renew(gone.token)
    with pytest.raises(LockLost, match="was taken over by bob@laptop"):
        LockFile(path).release(gone.token)
    assert LockFile(path).renew(acquired.token)


def test_a_lock_that_expired_long_ago_is_not_waited_for(
    lock: LockFile, clock: Clock, watched: threading.Event
) -> None:
    lock.acquire("ada")
    clock.now += 7 * 3600
    acquired = lock.acquire("bob")
    assert not watched.is_set()
    assert "its last sign of life 7 h ago (at 2026-11-23 09:18:31 UTC)" in acquired.warning


def test_a_clock_that_was_set_back_costs_no_more_than_the_expiry(path: str) -> None:
    """The lock seems to expire in a day, but its holder claimed to need half a second."""
    LockFile(path, 0.5, lambda: time.time() + 86400).acquire("ada")
    began = time.monotonic()
    assert LockFile(path, 30).acquire("bob").taken_over == "ada"
    assert 0.4 < time.monotonic() - began < GENEROUS_SECONDS


def test_force_takes_it_at_once_and_the_former_holder_hears_so(
    lock: LockFile, watched: threading.Event
) -> None:
    token = lock.acquire("ada").token
    acquired = lock.acquire("bob", force=True)
    assert not watched.is_set()
    assert acquired.taken_over == "ada"
    assert "was held by ada, since 2026-11-23 09:18:31 UTC, with its last sign of life 0.0 s ago" in (
        acquired.warning
    )
    with pytest.raises(LockLost, match="taken over by bob"):
        lock.renew(token)


def test_a_lock_can_be_lifted_whoever_holds_it(lock: LockFile) -> None:
    token = lock.acquire("ada").token
    assert lock.lift() is True
    assert lock.lift() is False
    with pytest.raises(LockLost, match="is gone: somebody removed it"):
        lock.renew(token)


def test_a_directory_that_is_gone_takes_the_lock_along(lock: LockFile) -> None:
    token = lock.acquire("ada").token
    os.unlink(lock.path)
    os.rmdir(os.path.dirname(lock.path))
    with pytest.raises(LockLost, match="its directory with it"):
        lock.renew(token)
    assert lock.release(token) is False
    assert lock.lift() is False


# --- crashes ------------------------------------------------------------------------------------------------


WHOLE = Lock("ada", "", "t", NOW, NOW, NOW + 30).encode()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0" * 200,
        WHOLE[:60],
        "null",
        "[]",
        "7",
        "{}",
        "\udcff{",
        json.dumps({**json.loads(WHOLE), "token": ""}),
        json.dumps({**json.loads(WHOLE), "owner": 7}),
        json.dumps({**json.loads(WHOLE), "renewed_at": NOW}),
        json.dumps({**json.loads(WHOLE), "expires_at": "tomorrow"}),
        json.dumps({**json.loads(WHOLE), "expires_at": "2026-11-23T09:19:01.nanZ"}),
    ],
)
def test_what_a_crash_leaves_is_no_lock_and_is_said(lock: LockFile, content: str) -> None:
    os.makedirs(os.path.dirname(lock.path))
    with open(lock.path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)
    assert lock.read() is None
    with pytest.raises(LockLost, match="is damaged"):
        lock.renew("t")
    acquired = lock.acquire("bob")
    assert acquired.taken_over == ""
    assert ("was empty" if not content.strip("\0") else "was damaged") in acquired.warning
    assert "as a host leaves it that crashes while it writes" in acquired.warning
    assert lock.read() == acquired.lock


def test_files_of_a_run_that_was_killed_while_it_wrote_are_no_obstacle(lock: LockFile) -> None:
    os.makedirs(os.path.dirname(lock.path))
    for litter in (".new", ".guard"):
        Path(lock.path + litter).write_text("half")
    token = lock.acquire("bob").token
    assert others(lock.path) == []
    lock.release(token)


def test_a_guard_that_is_never_let_go_is_named(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lock, "GUARD_SECONDS", 0.05)
    os.makedirs(os.path.dirname(lock.path))
    with open(lock.path + ".guard", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        with pytest.raises(LockError, match=r"process that does not go on.*fuser .*lock\.guard"):
            lock.acquire("ada")
    assert lock.acquire("ada").token


def test_a_guard_that_was_removed_guards_nothing(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited for it has to look again: the next one may have made another meanwhile."""
    os.makedirs(os.path.dirname(lock.path))
    sleep, polls = time.sleep, threading.Semaphore(0)

    def tell(seconds: float) -> None:
        if seconds == _lock.GUARD_POLL_SECONDS:
            polls.release()
        sleep(seconds)

    monkeypatch.setattr(_lock.time, "sleep", tell)
    with open(lock.path + ".guard", "w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        thread, outcome = in_thread(lambda: lock.acquire("bob"))
        assert polls.acquire(timeout=GENEROUS_SECONDS)
        os.unlink(lock.path + ".guard")
        second = open(lock.path + ".guard", "w")  # noqa: SIM115  it outlives this block
        fcntl.flock(second, fcntl.LOCK_EX)
    with second:
        for _poll in range(10):
            assert polls.acquire(timeout=GENEROUS_SECONDS)
        assert outcome == []
    thread.join(GENEROUS_SECONDS)
    assert outcome[0].lock == lock.read()


# --- kept while a step runs ---------------------------------------------------------------------------------


def test_it_is_renewed_while_a_step_hangs(path: str) -> None:
    lock = LockFile(path, 0.3)
    acquired = lock.acquire("ada")

    def renewed() -> float:
        held = lock.read()
        return held.renewed_at if held else 0.0

    with lock.kept(acquired.token) as check:
        first = renewed()
        until("renewed", lambda: renewed() > first)
        second = renewed()
        until("renewed again", lambda: renewed() > second)
        check()
    assert not any(thread.name == "lock" for thread in threading.enumerate())


def test_a_lock_lost_while_a_step_hangs_is_told_before_anything_else_is_changed(path: str) -> None:
    lock = LockFile(path, 0.3)
    acquired = lock.acquire("ada")
    with lock.kept(acquired.token) as check:
        lock.acquire("bob", force=True)

        def told() -> bool:
            try:
                check()
            except LockLost as error:
                return "taken over by bob" in str(error)
            return False

        until("told", told)


def test_a_lock_that_is_lost_already_keeps_the_step_from_starting(lock: LockFile) -> None:
    token = lock.acquire("ada").token
    lock.acquire("bob", force=True)
    started = False
    with pytest.raises(LockLost), lock.kept(token):
        started = True
    assert not started


# --- races between real processes ---------------------------------------------------------------------------

PROCESSES = 8
ROUNDS = 50


def refuse_to_wait(seconds: float, sleep: t.Callable[[float], None] = time.sleep) -> None:
    """In the place of sleep: whoever meets a lock that has not expired is refused instead of watching it."""
    if seconds == _lock.POLL_SECONDS:
        raise LockedError
    sleep(seconds)


def race(path: str, barrier: t.Any, results: t.Any, number: int, before: str) -> None:
    """In each round all try at the same moment; the winner keeps the lock until all have tried."""
    _lock.time.sleep = refuse_to_wait  # type: ignore[assignment]  # this process is the test's own
    lock = LockFile(path, 3600)
    for turn in range(ROUNDS):
        if number == 0 and before == "expired":
            LockFile(path, 1, lambda: time.time() - 60).acquire("dead", force=True)
        elif number == 0 and before == "empty":
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "w").close()
        barrier.wait(GENEROUS_SECONDS)
        try:
            token = lock.acquire(str(number)).token
        except LockedError:
            token = ""
        results.put((turn, number, bool(token)))
        barrier.wait(GENEROUS_SECONDS)
        if token:
            assert lock.renew(token).owner == str(number)
            assert lock.release(token)
        barrier.wait(GENEROUS_SECONDS)


@pytest.mark.parametrize("before", ["nothing", "expired", "empty"])
def test_of_processes_that_race_exactly_one_wins(path: str, before: str) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    racers = [
        context.Process(target=race, args=(path, barrier, results, number, before))
        for number in range(PROCESSES)
    ]
    for racer in racers:
        racer.start()
    outcomes = [results.get(timeout=GENEROUS_SECONDS) for _each in range(PROCESSES * ROUNDS)]
    for racer in racers:
        racer.join(GENEROUS_SECONDS)
        assert racer.exitcode == 0
    assert sorted(turn for turn, _number, won in outcomes if won) == list(range(ROUNDS))
    assert os.listdir(os.path.dirname(path)) == []


def test_of_those_who_wait_for_a_dead_one_exactly_one_takes_over(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others hear of the new holder. Nobody goes on before all four have seen the dead one's lock."""
    clock = Clock()
    LockFile(path, 1, clock).acquire("dead")
    sleep, together, seen = time.sleep, threading.Barrier(4), threading.local()

    def gather(seconds: float) -> None:
        if seconds == _lock.POLL_SECONDS and not hasattr(seen, "it"):
            seen.it = True
            together.wait(GENEROUS_SECONDS)
        sleep(seconds)

    monkeypatch.setattr(_lock.time, "sleep", gather)
    pairs = [in_thread(lambda: LockFile(path, 3600, clock).acquire("waiter")) for _each in range(4)]
    for thread, _outcome in pairs:
        thread.join(GENEROUS_SECONDS)
    outcomes = [outcome for _thread, (outcome,) in pairs]
    assert sorted(type(each).__name__ for each in outcomes) == ["Acquired"] + ["LockedError"] * 3
