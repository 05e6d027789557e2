# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a model from a directory or a tar archive of the host.

This module util is private to the collection. An archive is read as data: only plain files are taken, by
names that stay inside the model's directory, and nothing in it decides owners, modes or links.
"""

from __future__ import annotations

import errno
import lzma
import os
import tarfile
import typing as t
import zlib

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_manifest import (
    CHUNK_BYTES,
    Entry,
    WeightsError,
    safe_name,
)

Tell = t.Callable[[], None]
# What a directory holds besides the model: hidden files are tools' own, such as .git and .cache.
_HIDDEN = "."
# What an archive that was cut off or altered on its way raises, whatever it is compressed with.
_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


def list_directory(path: str) -> list[Entry]:
    """All files below it but hidden ones. Raises WeightsError."""
    if not os.path.isdir(path):
        raise WeightsError(
            f"There is no directory {path} on this host. Bring it there, or mount it, and run the same again."
        )
    found = []
    for place, directories, files in os.walk(path):
        directories[:] = sorted(name for name in directories if not name.startswith(_HIDDEN))
        for name in sorted(files):
            file = os.path.join(place, name)
            # Hubs' caches have links to the files: what counts is where they lead to.
            if not name.startswith(_HIDDEN) and os.path.isfile(file):
                found.append(Entry(os.path.relpath(file, path), os.path.getsize(file)))
    return found


def copy_directory(path: str, entries: t.Sequence[Entry], directory: str, tell: Tell) -> None:
    """Copy files of it. Raises WeightsError."""
    for entry in entries:
        with open(os.path.join(path, entry.name), "rb") as source:
            _write(source, os.path.join(directory, entry.name), tell)


def list_archive(path: str) -> list[Entry]:
    """All files in it. Raises WeightsError, also if anything in it is not for a model."""
    with _opened(path) as archive:
        return [Entry(name, member.size) for name, member in _members(archive, path)]


def copy_archive(path: str, entries: t.Sequence[Entry], directory: str, tell: Tell) -> None:
    """Unpack files of it. Raises WeightsError."""
    wanted = {entry.name for entry in entries}
    with _opened(path) as archive:
        for name, member in _members(archive, path):
            source = archive.extractfile(member) if name in wanted else None
            if source is not None:
                _write(source, os.path.join(directory, name), tell)


def _members(archive: tarfile.TarFile, path: str) -> t.Iterator[tuple[str, tarfile.TarInfo]]:
    """Its files, by their names below the one directory that holds everything, if there is one."""
    files = []
    try:
        for member in archive:
            if not (member.isreg() or member.isdir()):
                raise WeightsError(
                    f"{path} holds '{member.name}', which is neither a file nor a directory. Nothing was "
                    "taken from it: pack the files themselves (tar --dereference)."
                )
            name = member.name[2:] if member.name.startswith("./") else member.name
            if name not in ("", "."):
                safe_name(name, path)
            if member.isreg():
                files.append((name, member))
    except (*_BROKEN, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read to its end: {error}. Bring it to the host again."
        ) from error
    tops = {name.partition("/")[0] for name, _member in files}
    if len(tops) == 1 and all("/" in name for name, _member in files):
        files = [(name.partition("/")[2], member) for name, member in files]
    yield from files


def _opened(path: str) -> tarfile.TarFile:
    try:
        return tarfile.open(path)
    except FileNotFoundError:
        raise WeightsError(
            f"There is no file {path} on this host. Bring it there (rsync --partial --progress goes on "
            "after a broken connection), and run the same again."
        ) from None
    except (*_BROKEN, OSError) as error:
        raise WeightsError(f"{path} is no tar archive: {error}.") from error


def _write(source: t.IO[bytes], target: str, tell: Tell) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        with open(f"{target}.incomplete", "wb") as file:
            while chunk := source.read(CHUNK_BYTES):
                file.write(chunk)
                tell()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise WeightsError(f"No space left for {target}. Make room and run the same again.") from error
        raise WeightsError(f"{target} cannot be written: {error}.") from error
    except _BROKEN as error:
        raise WeightsError(f"The archive is broken within {os.path.basename(target)}: {error}.") from error
    os.replace(f"{target}.incomplete", target)
