# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of one service on one host: at most one run changes its replicas at a time.

This module util is private to the collection. A lock that only a person can lift is left behind by every run
that is killed (Kamal's is such a one), so this one expires: whoever holds it renews it, and a holder that
stays silent until its expiry is gone. What it left half done is resumed by whoever takes over.

The record is replaced as a whole, and whoever decides about it holds a guard (flock on a file beside it)
meanwhile, so two runs cannot both win. It is not flushed to the disk: should the host crash, its holder's
step is dead as well, and a record that is damaged counts as none.
"""

from __future__ import annotations

import calendar
import contextlib
import dataclasses
import fcntl
import json
import math
import os
import secrets
import threading
import time
import typing as t

DEFAULT_EXPIRY_SECONDS = 30.0
# How soon a waiting run notices that the lock was released or renewed.
POLL_SECONDS = 0.1
# The guard is held for about a millisecond; whoever holds it for so long has been stopped in the middle.
GUARD_SECONDS = 10.0
GUARD_POLL_SECONDS = 0.005
# Renewals within one expiry: two may come late before anybody else takes over.
RENEWALS = 3
TIME = "%Y-%m-%dT%H:%M:%S"


class LockError(Exception):
    """The lock could not be had; the message says why and what to do."""


class LockedError(LockError):
    """Another run holds the lock, and lives."""


class LockLost(LockError):  # noqa: N818  the name says what happened
    """The lock is not ours any more: whoever took it may change replicas now, so this run must not."""


@dataclasses.dataclass(frozen=True)
class Lock:
    """What the file says. Times are in seconds since 1970, by the host's wall clock."""

    owner: str
    purpose: str
    token: str
    acquired_at: float
    renewed_at: float
    expires_at: float

    @property
    def expiry_seconds(self) -> float:
        """How long this holder may be silent."""
        return max(self.expires_at - self.renewed_at, 0.0)

    def who(self) -> str:
        """The holder in the words of a message."""
        purpose = f" ({self.purpose})" if self.purpose else ""
        return f"{self.owner}{purpose}, since {_clock(self.acquired_at)}"

    def public(self) -> dict[str, str]:
        """For results: times as text, and without the token, by which a run knows its own lock."""
        return {
            "owner": self.owner,
            "purpose": self.purpose,
            "acquired_at": _iso(self.acquired_at),
            "renewed_at": _iso(self.renewed_at),
            "expires_at": _iso(self.expires_at),
        }

    def encode(self) -> str:
        """The text of the file; people look at it, too."""
        return json.dumps({**self.public(), "token": self.token}, indent=2) + "\n"

    @classmethod
    def decode(cls, text: str) -> Lock:
        """Raises ValueError for anything that is not the whole record of a lock."""
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError("not a record")
        try:
            words = {key: record[key] for key in ("owner", "purpose", "token")}
            times = {key: _seconds(record[key]) for key in ("acquired_at", "renewed_at", "expires_at")}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if not all(isinstance(word, str) for word in words.values()) or not words["token"]:
            raise ValueError("owner, purpose or token is no text")
        return cls(**{**words, **times})


@dataclasses.dataclass(frozen=True)
class Acquired:
    """A lock that is ours. C(taken_over) is the former holder (empty: none); C(warning) tells the story."""

    token: str
    lock: Lock
    taken_over: str = ""
    warning: str = ""


def path_of(data_dir: str, service: str) -> str:
    """Where the lock of a service is."""
    return os.path.join(data_dir, service, "lock")


def kept(
    data_dir: str, service: str, token: str, expiry_seconds: float
) -> t.ContextManager[t.Callable[[], None]]:
    """C(LockFile.kept) of the service's lock; without a token nothing is renewed, and nothing can be lost."""
    if not token:
        return contextlib.nullcontext(lambda: None)
    return LockFile(path_of(data_dir, service), expiry_seconds).kept(token)


class LockFile:
    """The lock in the file C(path). Every method may raise OSError, if it cannot be read or written."""

    def __init__(
        self,
        path: str,
        expiry_seconds: float = DEFAULT_EXPIRY_SECONDS,
        clock: t.Callable[[], float] = time.time,
    ) -> None:
        if not (math.isfinite(expiry_seconds) and expiry_seconds > 0):
            raise ValueError(f"expiry_seconds is {expiry_seconds}; give more than 0")
        self.path = path
        self.expiry_seconds = expiry_seconds
        self.clock = clock

    def read(self) -> Lock | None:
        """What the file says now, expired or not; None if there is none, or a damaged one."""
        return self._look()[0]

    def acquire(self, owner: str, purpose: str = "", force: bool = False) -> Acquired:
        """Take the lock. Raises LockedError if another run holds it and lives.

        A holder that is silent is watched until its lock expires. A sign of life meanwhile, and this one is
        refused at once; none, and the lock is taken over. The wait is never longer than what the holder
        claimed to need, even if the clock was set back. With C(force) nobody is watched.
        """
        os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
        first: Lock | None = None
        patience_ends = 0.0
        while True:
            with self._guard():
                held, damage = self._look()
                if held is None:
                    return self._take(owner, purpose, taken_over="", warning=damage)
                if force:
                    return self._take(owner, purpose, held.owner, self._forced(held))
                if first is None:
                    first = held
                    left = min(held.expires_at - self.clock(), held.expiry_seconds)
                    patience_ends = time.monotonic() + left
                elif (held.token, held.renewed_at) != (first.token, first.renewed_at):
                    raise LockedError(self._refusal(held))
                if time.monotonic() >= patience_ends:
                    return self._take(owner, purpose, held.owner, self._silent(held))
            time.sleep(POLL_SECONDS)

    def renew(self, token: str) -> Lock:
        """Show that the holder lives. Raises LockLost if the lock is not ours any more.

        One that has expired is still ours as long as nobody has taken it over.
        """
        try:
            with self._guard():
                held = self._ours(token, _STOPPED)
                now = self._now()
                expires_at = round(now + self.expiry_seconds, 3)
                renewed = dataclasses.replace(held, renewed_at=now, expires_at=expires_at)
                self._write(renewed)
                return renewed
        except FileNotFoundError:
            raise LockLost(f"The lock {self.path} is gone, and its directory with it.{_STOPPED}") from None

    def release(self, token: str) -> bool:
        """Give the lock back; False if there was none. Raises LockLost, and leaves it, if it is another's."""
        try:
            with self._guard():
                held, damage = self._look()
                if held is None and not damage:
                    return False
                self._ours(token)
                os.unlink(self.path)
                return True
        except FileNotFoundError:
            return False

    def lift(self) -> bool:
        """Remove the lock, whoever holds it, also a damaged one; False if there was none."""
        try:
            with self._guard():
                os.unlink(self.path)
                return True
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def kept(self, token: str) -> t.Iterator[t.Callable[[], None]]:
        """Renew the lock while the block runs, from a thread: a step may hang in one long call of the engine.

        Gives a function that raises LockLost (or OSError) as soon as a renewal has failed; call it before
        anything is changed. The first renewal is made before the block is entered.
        """
        self.renew(token)
        ended = threading.Event()
        failures: list[Exception] = []

        def keep() -> None:
            while not ended.wait(self.expiry_seconds / RENEWALS):
                try:
                    self.renew(token)
                    failures.clear()
                except LockLost as error:
                    failures[:] = [error]
                    return
                except (LockError, OSError) as error:  # a full disk may have room again next time
                    failures[:] = [error]

        def check() -> None:
            for failure in failures[:1]:
                raise failure

        thread = threading.Thread(target=keep, name="lock", daemon=True)
        thread.start()
        try:
            yield check
        finally:
            ended.set()
            thread.join()

    # --- inside ---------------------------------------------------------------------------------------------

    def _look(self) -> tuple[Lock | None, str]:
        """The lock, and a text about a file that is there and is none."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except FileNotFoundError:
            return None, ""
        try:
            return Lock.decode(text), ""
        except ValueError as error:
            found = "empty" if not text.strip("\0 \n") else f"damaged ({error})"
            return None, (
                f"The lock {self.path} was {found}, as a host leaves it that crashes while it writes. "
                "It counts as none; what its run left half done is resumed."
            )

    def _take(self, owner: str, purpose: str, taken_over: str, warning: str) -> Acquired:
        now = self._now()
        lock = Lock(owner, purpose, secrets.token_hex(16), now, now, round(now + self.expiry_seconds, 3))
        self._write(lock)
        return Acquired(lock.token, lock, taken_over, warning)

    def _now(self) -> float:
        return round(self.clock(), 3)

    def _ours(self, token: str, remedy: str = "") -> Lock:
        held, damage = self._look()
        if held is None:
            what = "is damaged" if damage else "is gone: somebody removed it"
            raise LockLost(f"The lock {self.path} {what}.{remedy}")
        if held.token != token:
            raise LockLost(f"The lock {self.path} was taken over by {held.who()}.{remedy}")
        return held

    def _write(self, lock: Lock) -> None:
        # Always the same name, as the guard is held: a run killed in between leaves no heap of files behind.
        fresh = f"{self.path}.new"
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(lock.encode())
        os.replace(fresh, self.path)

    @contextlib.contextmanager
    def _guard(self) -> t.Iterator[None]:
        """Be the only one that decides. The guard is removed afterwards, so that no file stays behind."""
        name = f"{self.path}.guard"
        deadline = time.monotonic() + GUARD_SECONDS
        while True:
            handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._flock(handle, deadline)
                # The one before us has removed it? Then others make a new one, and ours guards nothing.
                if _is_file(handle, name):
                    try:
                        yield
                    finally:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(name)
                    return
            finally:
                os.close(handle)

    def _flock(self, handle: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LockError(
                        f"The guard {self.path}.guard is held for more than {GUARD_SECONDS:.0f} s by a "
                        f"process that does not go on. Find it with: fuser {self.path}.guard"
                    ) from None
                time.sleep(GUARD_POLL_SECONDS)

    def _refusal(self, held: Lock) -> str:
        return (
            f"The lock {self.path} is held by {held.who()}. It is alive: its last sign of life came "
            f"{_ago(self.clock() - held.renewed_at)}. Wait until it has ended and run this again. "
            "What it has done by then is not done twice. If it hangs, take the lock by force."
        )

    def _silent(self, held: Lock) -> str:
        return (
            f"The lock {self.path} was held by {held.who()}. That run gave its last sign of life "
            f"{_ago(self.clock() - held.renewed_at)} (at {_clock(held.renewed_at)}) and may be silent for "
            f"{held.expiry_seconds:g} s at most, so it was killed or cut off. This run has taken the lock "
            "over and resumes what it left half done."
        )

    def _forced(self, held: Lock) -> str:
        return (
            f"The lock {self.path} was held by {held.who()}, with its last sign of life "
            f"{_ago(self.clock() - held.renewed_at)}. It was taken by force. If that run is alive, it stops "
            "at its next step."
        )


_STOPPED = " Another run may be changing replicas now, so this one has stopped. Run it again: it resumes."


def _is_file(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _iso(seconds: float) -> str:
    """C(seconds) to the millisecond, which is as fine as the times of a lock are."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime(TIME, time.gmtime(whole))}.{milliseconds:03d}Z"


def _seconds(text: str) -> float:
    """The other way round. Raises ValueError and TypeError."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no time")
    whole, _dot, fraction = text.rstrip("Z").partition(".")
    return round(calendar.timegm(time.strptime(whole, TIME)) + int(fraction or 0) / 1000, 3)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _ago(seconds: float) -> str:
    """How long ago in words; a clock that was set back gives no negative ages."""
    seconds = max(seconds, 0.0)
    if seconds < 120:
        return f"{seconds:.1f} s ago" if seconds < 10 else f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
