# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source text or a program for an image, from a commit of a git repository or from an archive.

What comes is named by a commit or a checksum, so where it comes from does not count: a mirror gives the same
image. What was fetched is kept, and needs no network a second time.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.urls import open_url
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import ToolError, redact, run

PYTHON = "python"
_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
_KEYS = ("git", "commit", "url", "path", "checksum", "remote_src")


class SourceError(ToolError):
    """A tree is described wrongly, or cannot be had; the text names the tree, the value and the remedy."""


@dataclass(frozen=True)
class SourceTree:
    """One source. Either `git` and `commit`, or `checksum` and one of `url` and `path`."""

    name: str
    git: str = ""
    commit: str = ""
    url: str = ""
    path: str = ""
    checksum: str = ""
    remote_src: bool = False

    @property
    def identity(self) -> str:
        """What decides its content."""
        return self.commit or self.checksum

    @property
    def is_sent(self) -> bool:
        """Whether it is a file of the controller."""
        return bool(self.path) and not self.remote_src


def parse_trees(given: t.Any) -> tuple[SourceTree, ...]:
    """Read trees by name, as a definition of an image has them. Raises SourceError."""
    if not isinstance(given, dict):
        raise SourceError(f"trees must be a dictionary by name, not {given!r}.")
    return tuple(_parse(str(name), source or {}) for name, source in sorted(given.items()))


def make_tree(source: SourceTree, cache: Path, archive: Path | None, target: Path) -> None:
    """Unpack `source` into the new directory `target`; `archive` is its file on this host, if it has one.

    A directory that is alone in an archive is left out, as in what forges make of a commit. Raises
    SourceError.
    """
    file = archive or cache / f"{source.identity.replace(':', '-')}.tar"
    if not archive and not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        if source.git:
            _fetch_commit(source, file)
        else:
            _download(source, file)
    if source.checksum:
        check_file(source, file)
    unpacked = target.with_name(f"{target.name}.unpacked")
    unpacked.mkdir(parents=True)
    run(["tar", "--extract", "--no-same-owner", "--file", str(file), "--directory", str(unpacked)])
    inside = list(unpacked.iterdir())
    alone = len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink()
    (inside[0] if alone else unpacked).rename(target)
    if alone:
        unpacked.rmdir()


def check_file(source: SourceTree, file: Path) -> None:
    """Raise SourceError unless the file is there and is the wanted one."""
    if not file.is_file():
        raise SourceError(
            f"Tree {source.name}: there is no file {file}. Paths are on the controller unless remote_src is "
            "true."
        )
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    if (found := f"sha256:{digest.hexdigest()}") != source.checksum:
        raise SourceError(
            f"Tree {source.name}: {redact(source.path or source.url)} has the checksum {found}, but "
            f"{source.checksum} is wanted. It is not used. Get the file again, or correct the checksum."
        )


def _parse(name: str, source: t.Mapping[str, t.Any]) -> SourceTree:
    if not re.fullmatch(r"[a-z0-9_]+", name) or name in ("rootfs", "wheels"):
        raise SourceError(f"Tree '{name}': its name must be a-z, 0-9 and _, and not rootfs or wheels.")
    for key in source:
        if key not in _KEYS:
            raise SourceError(f"Tree {name}: unknown key '{key}'. Keys are: {', '.join(_KEYS)}.")
    remote_src = source.get("remote_src", False)
    if not isinstance(remote_src, bool):
        raise SourceError(f"Tree {name}: remote_src must be true or false, not {remote_src!r}.")
    texts = {key: str(source.get(key) or "") for key in _KEYS[:-1]}
    places = [key for key in ("git", "url", "path") if texts[key]]
    if len(places) != 1:
        raise SourceError(
            f"Tree {name}: give exactly one of git (with a commit), url and path (with a checksum); given "
            f"is {' and '.join(places) or 'none'}."
        )
    if texts["git"] and not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", texts["commit"]):
        raise SourceError(
            f"Tree {name}: git needs the full commit, 40 hex digits as `git rev-parse HEAD` prints them; "
            f"'{texts['commit']}' is not one. A branch or a tag may be something else tomorrow."
        )
    if not texts["git"] and not re.fullmatch(r"sha256:[0-9a-f]{64}", texts["checksum"]):
        raise SourceError(
            f"Tree {name}: {places[0]} needs a checksum, sha256: and 64 hex digits as sha256sum prints them; "
            f"'{texts['checksum']}' is not one."
        )
    for key, place in (("commit", "git"), ("checksum", "url or path")):
        if texts[key] and (texts["git"] != "") != (key == "commit"):
            raise SourceError(f"Tree {name}: {key} belongs to {place}.")
    return SourceTree(name, remote_src=remote_src, **texts)


def _fetch_commit(source: SourceTree, file: Path) -> None:
    """Write what a commit holds as a tar file. git itself checks the content against the commit's name."""
    work = file.with_suffix(".git")
    shutil.rmtree(work, ignore_errors=True)
    git = ["git", "-C", str(work)]
    # No question for a password that nobody would answer.
    quiet = {"GIT_TERMINAL_PROMPT": "0"}
    work.mkdir()
    try:
        run([*git, "init", "--quiet", "--bare"])
        try:
            run([*git, "fetch", "--quiet", "--depth=1", source.git, source.commit], quiet)
        except ToolError:
            # Not every server gives out a commit by its name alone.
            run([*git, "fetch", "--quiet", source.git, "+refs/*:refs/fetched/*"], quiet)
        part = work / "archive.tar"
        run([*git, "archive", "--format=tar", f"--output={part}", f"{source.commit}^{{commit}}"])
        part.replace(file)
    except ToolError as error:
        raise SourceError(
            f"Tree {source.name}: commit {source.commit} cannot be had from {redact(source.git)}. Check that "
            f"this host reaches it and that it has the commit, or give an archive (path, checksum). {error}"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(source: SourceTree, file: Path) -> None:
    part = file.with_suffix(".part")
    try:
        with open_url(source.url, timeout=_TIMEOUT_SECONDS) as answer, part.open("wb") as out:
            shutil.copyfileobj(answer, out, _CHUNK_BYTES)
        check_file(source, part)
        part.replace(file)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"Tree {source.name}: {redact(source.url)} cannot be fetched: {error}. Check that this host "
            "reaches it (http_proxy, https_proxy), name a mirror, or give the file itself (path, checksum)."
        ) from error
    finally:
        part.unlink(missing_ok=True)
