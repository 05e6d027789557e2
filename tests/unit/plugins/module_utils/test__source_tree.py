# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of images: commits of repositories and archives, named by what they are, not by where they are."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._source_tree import (
    SourceError,
    SourceTree,
    make_tree,
    parse_trees,
)

COMMIT = "ab" * 20
CHECKSUM = "sha256:" + "0" * 64
GIT = {"git": "https://git.example.com/a.git", "commit": COMMIT}


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    return subprocess.run(
        ["git", *who, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits, as a forge has it."""
    folder = tmp_path / "repository"
    (folder / "package").mkdir(parents=True)
    git(tmp_path, "init", "--quiet", str(folder))
    for text in ("old", "new"):
        (folder / "package/module.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", text)
    return folder


def packed(folder: Path, names: dict[str, str], file: str = "a.tar.gz") -> tuple[Path, str]:
    """An archive of these files, and its checksum."""
    archive = folder / file
    with tarfile.open(archive, "w:gz") as stream:
        for name, text in names.items():
            (folder / "text").write_text(text)
            stream.add(folder / "text", name)
    return archive, f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"


def files(tree: Path) -> dict[str, str]:
    return {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [0, 1])
def test_a_commit_is_what_it_was_whatever_came_after(repository: Path, tmp_path: Path, number: int) -> None:
    commit = git(repository, "rev-parse", f"HEAD~{1 - number}")
    make_tree(
        SourceTree("a", git=str(repository), commit=commit), tmp_path / "cache", None, tmp_path / "tree"
    )
    assert files(tmp_path / "tree") == {"module.py": ("old", "new")[number]}


def test_a_server_that_gives_out_no_single_commits(repository: Path, tmp_path: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD~1")
    # The older protocol, in which only what a branch or a tag points at may be asked for.
    git(repository, "config", "uploadpack.allowAnySHA1InWant", "false")
    address = f"file://{repository}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_COUNT", "1")
        patch.setenv("GIT_CONFIG_KEY_0", "protocol.version")
        patch.setenv("GIT_CONFIG_VALUE_0", "0")
        make_tree(SourceTree("a", git=address, commit=commit), tmp_path / "cache", None, tmp_path / "tree")
    assert files(tmp_path / "tree") == {"module.py": "old"}


def test_what_was_fetched_needs_no_network_again(repository: Path, tmp_path: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    source = SourceTree("a", git=str(repository), commit=commit)
    make_tree(source, tmp_path / "cache", None, tmp_path / "one")
    gone = SourceTree("a", git="https://nowhere.invalid/a.git", commit=commit)
    make_tree(gone, tmp_path / "cache", None, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{commit}.tar"]


def test_a_commit_that_is_not_there_is_told(repository: Path, tmp_path: Path) -> None:
    source = SourceTree("a", git=f"file://user:secret@{repository}", commit=COMMIT)
    with pytest.raises(SourceError) as error:
        make_tree(source, tmp_path / "cache", None, tmp_path / "tree")
    assert f"Tree a: commit {COMMIT} cannot be had from file://***@" in str(error.value)
    assert "secret" not in str(error.value)
    assert not any((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ({"a-1.0/x.py": "1", "a-1.0/y/z.py": "2"}, {"x.py": "1", "y/z.py": "2"}),
        ({"x.py": "1", "y/z.py": "2"}, {"x.py": "1", "y/z.py": "2"}),
        ({"x.py": "1"}, {"x.py": "1"}),
    ],
)
def test_a_directory_that_is_alone_is_left_out(
    tmp_path: Path, inside: dict[str, str], expected: dict[str, str]
) -> None:
    archive, checksum = packed(tmp_path, inside)
    source = SourceTree("a", path=str(archive), checksum=checksum)
    make_tree(source, tmp_path / "cache", archive, tmp_path / "trees/a")
    assert files(tmp_path / "trees/a") == expected
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["a"]


def test_an_address_is_fetched_once_and_checked(tmp_path: Path) -> None:
    archive, checksum = packed(tmp_path, {"a/x": "1"})
    source = SourceTree("a", url=archive.as_uri(), checksum=checksum)
    make_tree(source, tmp_path / "cache", None, tmp_path / "one")
    archive.unlink()
    make_tree(source, tmp_path / "cache", None, tmp_path / "two")
    assert files(tmp_path / "two") == {"x": "1"}
    with pytest.raises(SourceError, match="cannot be fetched"):
        make_tree(
            SourceTree("a", url=archive.as_uri(), checksum=CHECKSUM), tmp_path / "cache", None, tmp_path / "3"
        )


@pytest.mark.parametrize("kind", ["url", "path"])
def test_another_content_is_never_used(tmp_path: Path, kind: str) -> None:
    archive, checksum = packed(tmp_path, {"a/x": "1"})
    source = SourceTree("a", **{kind: archive.as_uri()}, checksum=CHECKSUM)  # type: ignore[arg-type]
    with pytest.raises(SourceError) as error:
        make_tree(source, tmp_path / "cache", archive if kind == "path" else None, tmp_path / "tree")
    assert f"has the checksum {checksum}, but {CHECKSUM} is wanted" in str(error.value)
    assert not (tmp_path / "tree").exists()
    assert kind == "path" or not any((tmp_path / "cache").iterdir())


def test_what_it_is_decides_and_not_where_it_is() -> None:
    mirrored = parse_trees({"a": {**GIT, "git": "https://mirror.example.com/a.git"}})
    assert (
        [tree.identity for tree in mirrored]
        == [tree.identity for tree in parse_trees({"a": GIT})]
        == [COMMIT]
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "trees must be a dictionary by name, not []"),
        ({"Up": GIT}, "Tree 'Up': its name must be a-z"),
        ({"wheels": GIT}, "not rootfs or wheels"),
        ({"a": {**GIT, "branch": "main"}}, "unknown key 'branch'"),
        ({"a": {}}, "give exactly one of git (with a commit), url and path (with a checksum); given is none"),
        ({"a": {**GIT, "path": "a.tar"}}, "given is git and path"),
        (
            {"a": {**GIT, "commit": "main"}},
            "'main' is not one. A branch or a tag may be something else tomorrow",
        ),
        ({"a": {"path": "a.tar"}}, "path needs a checksum"),
        ({"a": {"url": "https://example.com/a.tar", "checksum": "sha256:12"}}, "'sha256:12' is not one"),
        ({"a": {**GIT, "checksum": CHECKSUM}}, "checksum belongs to url or path"),
        ({"a": {"path": "a", "checksum": CHECKSUM, "commit": COMMIT}}, "commit belongs to git"),
        ({"a": {"path": "a", "checksum": CHECKSUM, "remote_src": "no"}}, "remote_src must be true or false"),
    ],
)
def test_mistakes_are_named(given: Any, words: str) -> None:
    with pytest.raises(SourceError) as error:
        parse_trees(given)
    assert words in str(error.value)
