# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a revision of a model has, how large they are and what is in them.

This module util is private to the collection. A manifest is a text that `sha256sum --check` reads, with the
sizes in comments:

    # size 6934 cosyvoice3.yaml
    f5a6b2c6f05139d0f18861a1fe506f751e787026b77c05f7e8fef9f8a4405965  cosyvoice3.yaml
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import typing as t
from dataclasses import dataclass

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_SIZE = re.compile(r"^# size (\d+) (.+)$")
_LINE = re.compile(r"^([0-9a-f]{64})  (.+)$")
CHUNK_BYTES = 4 * 2**20


class WeightsError(Exception):
    """The files are not, or cannot become, what was asked for; the message says which, why and what to do."""


@dataclass(frozen=True)
class Entry:
    """One file. A hub may know a file only by the hash that git has of it; a directory knows neither."""

    name: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


Manifest = t.Dict[str, Entry]  # noqa: UP006 - read at run time, also by Python 3.8


def parse(text: str, where: str) -> Manifest:
    """The files that a manifest names. Raises WeightsError with the line that is none."""
    sizes: dict[str, int] = {}
    found: Manifest = {}
    for number, line in enumerate(text.splitlines(), 1):
        if size := _SIZE.match(line):
            sizes[size[2]] = int(size[1])
        elif entry := _LINE.match(line):
            name = safe_name(entry[2], where)
            found[name] = Entry(name, sizes.get(name, -1), entry[1])
        elif line.strip() and not line.startswith("#"):
            raise WeightsError(
                f"{where}: line {number} is '{line[:80]}'. Each is a SHA-256, two spaces, a name."
            )
    if unknown := sorted(name for name, entry in found.items() if entry.size < 0):
        raise WeightsError(f"{where}: no line '# size <bytes> {unknown[0]}' before its digest.")
    if not found:
        raise WeightsError(f"{where} names no file.")
    return found


def dump(manifest: Manifest, *comments: str) -> str:
    """The other way round, in the order of the names."""
    lines = [f"# {comment}" for comment in comments]
    for name in sorted(manifest):
        entry = manifest[name]
        lines += [f"# size {entry.size} {name}", f"{entry.sha256}  {name}"]
    return "\n".join(lines) + "\n"


def safe_name(name: str, where: str) -> str:
    """A path inside the model's directory. Raises WeightsError for one that leads out of it, or hides."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise WeightsError(
            f"{where} names the file '{name}', which does not lie inside the model's directory. Nothing was "
            "taken from there: files of a model have plain relative paths."
        )
    return name


def digest_of(manifest: Manifest, names: t.Iterable[str] = ()) -> str:
    """One figure for all files, the SHA-256 over a line V(<sha256>  <name>) of each.

    The speech server tells the same of the files it has read. C(names) are those that count, all if there
    are none. One that is not there counts for nothing.
    """
    counted = sorted(set(names) & set(manifest) if names else manifest)
    lines = "".join(f"{manifest[name].sha256}  {name}\n" for name in counted)
    return hashlib.sha256(lines.encode()).hexdigest()


def choose(entries: t.Iterable[Entry], patterns: t.Sequence[str], where: str) -> Manifest:
    """Those of the files that the patterns want. Raises WeightsError if a pattern finds none."""
    every = {entry.name: entry for entry in entries}
    wanted: Manifest = {}
    missing = []
    for pattern in patterns:
        hits = [name for name in every if fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            missing.append(pattern)
        wanted.update((name, every[name]) for name in hits)
    if missing:
        names = sorted(every)
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise WeightsError(f"{where} has no {', no '.join(missing)}. It has: {shown or 'nothing'}.")
    return wanted


def agree(listed: Manifest, known: Manifest, where: str, known_from: str) -> Manifest:
    """What is wanted, with all that is known of it. Raises WeightsError where a source has something else.

    A file that the manifest does not name, such as one that was asked for later, is what its source says.
    """
    merged = {}
    for name, entry in listed.items():
        ours = known.get(name)
        if ours is None:
            merged[name] = entry
            continue
        if entry.size != ours.size:
            raise WeightsError(_other(name, where, f"{entry.size} bytes", known_from, f"{ours.size}"))
        if entry.sha256 and entry.sha256 != ours.sha256:
            raise WeightsError(_other(name, where, f"sha256 {entry.sha256}", known_from, ours.sha256))
        merged[name] = Entry(name, ours.size, ours.sha256, entry.git_sha1)
    return merged


def check_digest(text: str, what: str) -> str:
    """A SHA-256 as it is compared, or nothing. Raises WeightsError."""
    digest = text.strip().lower().rpartition(":")[2]
    if digest and not _SHA256.match(digest):
        raise WeightsError(f"{what} is '{text}'. It is 64 hexadecimal digits.")
    return digest


def hash_file(
    path: str, tell: t.Callable[[int], None] = lambda _bytes: None, git: bool = False
) -> tuple[str, str]:
    """SHA-256 of a file and, if asked for, the hash that git has of it. C(tell) hears of each piece."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        sha1 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            if git:
                sha1.update(chunk)
            tell(len(chunk))
    return sha256.hexdigest(), sha1.hexdigest() if git else ""


def gib(size: float) -> str:
    """Bytes for people."""
    if size < 2**20 / 10:
        return f"{size:.0f} bytes"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def _other(name: str, where: str, found: str, known_from: str, known: str) -> str:
    return (
        f"{name}: {where} has {found}, and {known_from} says {known}. That is another file under the same "
        "revision, so it is not taken. If it is a newer release, give it a revision of its own; if the "
        "source is wrong, take another."
    )
