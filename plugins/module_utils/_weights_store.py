# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The revisions of one model on a host: laid down whole, looked at cheaply, removed when nobody needs them.

This module util is private to the collection. Below the directory of the models:

    <name>/<revision>/            what replicas mount, complete and checked; it never changes
    <name>/<revision>.sha256      its manifest, which outlives it
    <name>/.stamps/<revision>     size and time of each file when it was last read through
    <name>/.incoming/<revision>/  what is being brought
    <name>/.lock                  held by whoever brings or removes
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _reports
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_manifest import (
    Entry,
    Manifest,
    WeightsError,
    dump,
    gib,
    hash_file,
    parse,
)

REVISION = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
MIB = 2**20
# Half-brought revisions nobody came back to.
FORGOTTEN_SECONDS = 7 * 24 * 3600

Tell = t.Callable[[str], None]


@dataclass
class Look:
    """What there is of a revision. C(faults) are files that are not what the manifest says, in words."""

    there: bool = False
    manifest: Manifest = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


class Store:
    """The directory of one model."""

    def __init__(self, models: str, name: str) -> None:
        self.path = os.path.join(models, name)

    def directory(self, revision: str) -> str:
        """What replicas mount."""
        return os.path.join(self.path, revision)

    def incoming(self, revision: str) -> str:
        """Where it is put together."""
        return os.path.join(self.path, ".incoming", revision)

    def manifest_file(self, revision: str) -> str:
        return os.path.join(self.path, f"{revision}.sha256")

    def recorded(self, revision: str) -> Manifest:
        """The manifest that was recorded, empty if there is none. Raises WeightsError if it is damaged."""
        path = self.manifest_file(revision)
        try:
            with open(path, encoding="utf-8") as file:
                return parse(file.read(), path)
        except FileNotFoundError:
            return {}

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """Nobody else brings or removes meanwhile. It ends with its holder, however. Raises WeightsError."""
        os.makedirs(self.path, mode=0o755, exist_ok=True)
        path = os.path.join(self.path, ".lock")
        with open(path, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise WeightsError(
                    f"Another run is bringing files into {self.path} ({file.read().strip() or 'unknown'}). "
                    "Wait until it is done and run the same again; what it brought will be there."
                ) from None
            file.truncate(0)
            file.write(
                f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}\n"
            )
            file.flush()
            yield

    def look(self, revision: str, full: bool = False, tell: Tell = lambda _text: None) -> Look:
        """Compare what is there with its manifest: by size and time, and by content where those are new."""
        directory, manifest = self.directory(revision), self.recorded(revision)
        if not os.path.isdir(directory):
            return Look(False, manifest)
        if not manifest:
            return Look(True, {}, {"": f"{directory} has no manifest {self.manifest_file(revision)}"})
        stamps, faults = self._stamps(revision), {}
        due = []
        for name, entry in manifest.items():
            try:
                now = _stamp(os.path.join(directory, name))
            except FileNotFoundError:
                faults[name] = "missing"
                continue
            if now[0] != entry.size:
                faults[name] = f"{now[0]} bytes instead of {entry.size}"
            elif full or stamps.get(name) != now:
                due.append(entry)
        faults.update(read_through(directory, due, tell)[1])
        if due and not faults:
            with contextlib.suppress(PermissionError):  # Whoever may only read, reads it all each time.
                self.stamp(revision, manifest)
        return Look(True, manifest, faults)

    def stamp(self, revision: str, manifest: Manifest) -> None:
        """Remember the files as they are now, just read through."""
        seen = {name: _stamp(os.path.join(self.directory(revision), name)) for name in manifest}
        os.makedirs(os.path.join(self.path, ".stamps"), mode=0o755, exist_ok=True)
        _reports.write(os.path.join(self.path, ".stamps", revision), json.dumps(seen), 0o644)

    def publish(self, revision: str, manifest: Manifest, *comments: str) -> None:
        """Make what was put together and checked the revision, or a part of it.

        A new one appears as a whole. Files for one that is there move in one by one, as replicas have this
        very directory open.
        """
        incoming, directory = self.incoming(revision), self.directory(revision)
        for path, directories, files in os.walk(incoming, topdown=False):
            for name in files:
                file = os.path.join(path, name)
                if os.path.relpath(file, incoming) in manifest:
                    os.chmod(file, 0o444)
                    _flush(file)
                else:
                    os.unlink(file)
            for name in directories:
                with contextlib.suppress(OSError):  # Those that hold something stay.
                    os.rmdir(os.path.join(path, name))
            os.chmod(path, 0o755)  # noqa: S103 - replicas run as a user of their own
            _flush(path)
        if os.path.isdir(directory):
            for name in sorted(manifest):
                if os.path.exists(os.path.join(incoming, name)):
                    os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
                    os.replace(os.path.join(incoming, name), os.path.join(directory, name))
            shutil.rmtree(incoming)
            self._record(revision, manifest, comments)
        else:
            # Recorded first: what is there without a record would be of unknown origin.
            self._record(revision, manifest, comments)
            os.rename(incoming, directory)
        self.stamp(revision, manifest)

    def revisions(self) -> list[str]:
        """What is laid down, the newest first."""
        try:
            found = [
                entry for entry in os.scandir(self.path) if entry.is_dir() and REVISION.match(entry.name)
            ]
        except FileNotFoundError:
            return []
        return [entry.name for entry in sorted(found, key=lambda entry: entry.stat().st_mtime, reverse=True)]

    def unneeded(self, needed: t.Container[str], keep: int) -> list[str]:
        """Revisions that nobody needs, but for the newest C(keep) of them."""
        return [revision for revision in self.revisions() if revision not in needed][max(keep, 0) :]

    def remove(self, revision: str) -> None:
        """A revision, but not its manifest: it has to be the same if it ever comes back."""
        # Renamed first, so that nobody finds half of it.
        aside = os.path.join(self.path, ".incoming", f"{revision}.old")
        os.makedirs(os.path.dirname(aside), mode=0o700, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(self.directory(revision), aside)
        shutil.rmtree(aside)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, ".stamps", revision))

    def forget(self, revision: str) -> None:
        """Half-brought revisions other than this one that nobody came back to."""
        place = os.path.join(self.path, ".incoming")
        for entry in os.scandir(place) if os.path.isdir(place) else ():
            if entry.name != revision and time.time() - entry.stat().st_mtime > FORGOTTEN_SECONDS:
                shutil.rmtree(entry.path)

    def _record(self, revision: str, manifest: Manifest, comments: t.Sequence[str]) -> None:
        _reports.write(self.manifest_file(revision), dump(manifest, *comments), 0o644)

    def _stamps(self, revision: str) -> dict[str, list[int]]:
        try:
            with open(os.path.join(self.path, ".stamps", revision), encoding="utf-8") as file:
                found = json.load(file)
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def read_through(directory: str, entries: t.Sequence[Entry], tell: Tell) -> tuple[Manifest, dict[str, str]]:
    """The files with the digest of what is in them; and what is wrong with those that are not as was said."""
    total, done = sum(entry.size for entry in entries), 0
    seen: Manifest = {}
    faults = {}

    def count(read: int) -> None:
        nonlocal done
        done += read
        tell(f"checked {gib(done)} of {gib(total)}")

    for entry in entries:
        path = os.path.join(directory, entry.name)
        size = os.path.getsize(path) if os.path.exists(path) else -1
        if size != entry.size:
            faults[entry.name] = f"{size} bytes instead of {entry.size}" if size >= 0 else "missing"
            continue
        sha256, sha1 = hash_file(path, count, bool(entry.git_sha1))
        if entry.sha256 and sha256 != entry.sha256:
            faults[entry.name] = f"sha256 {sha256} instead of {entry.sha256}"
        elif not entry.sha256 and entry.git_sha1 and sha1 != entry.git_sha1:
            faults[entry.name] = f"git's hash {sha1} instead of {entry.git_sha1}"
        seen[entry.name] = Entry(entry.name, entry.size, sha256)
    return seen, faults


def check_space(path: str, needed: int, reserve_mib: int) -> None:
    """Raises WeightsError if a file system has too little room."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    free = shutil.disk_usage(path).free
    if free < needed + reserve_mib * MIB:
        raise WeightsError(
            f"Too little room in {path}: {gib(needed)} are to be brought and {reserve_mib} MiB have to stay "
            f"free, and {gib(free)} are free. Make room there, remove revisions that nobody needs, or "
            "choose another directory."
        )


def size_below(path: str) -> int:
    """Bytes of all files there, also while files come and go."""
    total = 0
    for place, _directories, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _flush(path: str) -> None:
    """A name must not survive a power cut without its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stamp(path: str) -> list[int]:
    seen = os.stat(path)
    return [seen.st_size, seen.st_mtime_ns]
