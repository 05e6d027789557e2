# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_build import (
    Settings,
    check_archive,
    missing_tools,
    provide,
    short_of_space,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import (
    Host,
    Image,
    ImagesError,
    Target,
    parse_images,
    targets,
)

HOST = Host("bookworm", "x86_64", "3.11")


class FakeStore:
    """Stands in for the engine: keeps what it is told to make."""

    def __init__(self, there: set[str]) -> None:
        self.there = there
        self.made: list[tuple[str, str | None, list[str]]] = []

    def has(self, target: Target) -> bool:
        return target.reference in self.there

    def remove_leftovers(self) -> None:
        pass

    def create(self, target: Target, tree: Path, parent: str | None, python: str) -> None:
        files = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
        self.made.append((target.image.name, parent, files))
        if target.image.name == "broken":
            raise ImagesError("Image broken: the engine refused it")


def images(dockerfiles: dict[str, str]) -> list[Target]:
    folders = {
        name: {"dockerfile": text, "digest": "", "requirements": "none"} for name, text in dockerfiles.items()
    }
    parsed = parse_images({name: {} for name in dockerfiles}, {}, list(dockerfiles), folders)
    return targets(parsed, HOST, "vf", "")


def packed(tmp_path: Path, names: list[str]) -> Path:
    import tarfile

    (tmp_path / "in").mkdir()
    for name in ("one.txt", "sub/two.txt", "Dockerfile"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    archive = tmp_path / "folders.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        for name in names:
            stream.add(tmp_path / "in", name)
    return archive


def settings(tmp_path: Path, names: list[str]) -> Settings:
    return Settings("python3", tmp_path / "cache", packed(tmp_path, names), {})


def test_places_files_as_docker_does(tmp_path: Path) -> None:
    wanted = images({"a": "FROM scratch\nCOPY . /all/\nCOPY one.txt /renamed\nCOPY *.txt sub /etc/"})
    store = FakeStore(set())
    seconds = provide(wanted, wanted, HOST, settings(tmp_path, ["a"]), lambda: store)  # type: ignore[arg-type,return-value]
    files = ["all/one.txt", "all/sub/two.txt", "etc/one.txt", "etc/two.txt", "renamed"]
    assert store.made == [("a", None, files)]
    assert list(seconds) == ["a"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["lock"]


def test_children_wait_for_parents_and_get_their_references(tmp_path: Path) -> None:
    wanted = images({"child": "FROM base\nCOPY one.txt /x", "base": "FROM scratch\nCOPY one.txt /y"})
    store = FakeStore(set())
    provide(wanted, wanted, HOST, settings(tmp_path, ["child", "base"]), lambda: store)  # type: ignore[arg-type,return-value]
    assert [(name, parent) for name, parent, _ in store.made] == [
        ("base", None),
        ("child", wanted[0].reference),
    ]


def test_one_failure_is_told_once_and_stops_only_what_needs_it(tmp_path: Path) -> None:
    wanted = images(
        {
            "broken": "FROM scratch\nCOPY one.txt /x",
            "child": "FROM broken\nCOPY one.txt /x",
            "other": "FROM scratch\nCOPY one.txt /x",
            "wrong": "FROM scratch\nCOPY nothing.txt /x",
        }
    )
    store = FakeStore(set())
    with pytest.raises(ImagesError) as error:
        provide(wanted, wanted, HOST, settings(tmp_path, [one.image.name for one in wanted]), lambda: store)  # type: ignore[arg-type,return-value]
    assert str(error.value).splitlines()[0] == "Image broken: the engine refused it"
    assert "Image wrong: COPY nothing.txt: there is no such file" in str(error.value)
    assert "child" not in str(error.value)
    assert {name for name, _, _ in store.made} == {"broken", "other"}


def test_what_another_run_made_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    wanted = images({"a": "FROM scratch\nCOPY one.txt /x"})
    store = FakeStore({wanted[0].reference})
    assert provide(wanted, wanted, HOST, settings(tmp_path, ["a"]), lambda: store) == {}  # type: ignore[arg-type,return-value]
    assert store.made == []


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / "cache/work/a/tree"
    left.mkdir(parents=True)
    (left / "half").touch()
    wanted = images({"a": "FROM scratch\nCOPY one.txt /x"})
    store = FakeStore(set())
    provide(wanted, wanted, HOST, settings(tmp_path, ["a"]), lambda: store)  # type: ignore[arg-type,return-value]
    assert store.made == [("a", None, ["x"])]


def test_an_archive_must_be_the_very_one(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    checksum = "sha256:" + hashlib.sha256(b"right").hexdigest()
    image = Image("a", "archive", path=str(archive), checksum=checksum)
    with pytest.raises(ImagesError, match=r"there is no file .*a\.tar.*remote_src"):
        check_archive(image, archive)
    archive.write_bytes(b"wrong")
    with pytest.raises(
        ImagesError, match=f"{hashlib.sha256(b'wrong').hexdigest()}, but {checksum} is wanted"
    ):
        check_archive(image, archive)
    archive.write_bytes(b"right")
    check_archive(image, archive)


def test_room_is_looked_for_where_a_directory_will_be(tmp_path: Path) -> None:
    missing = str(tmp_path / "not/yet/there")
    assert short_of_space([missing], 1) == []
    (sentence,) = short_of_space([missing, str(tmp_path)], 1 << 40)
    assert "MiB free" in sentence


def test_tools_are_asked_for_only_when_an_image_needs_them(tmp_path: Path) -> None:
    (target,) = images({"a": "FROM scratch\nCOPY one.txt /x"})
    assert missing_tools([target.image], "no-such-python") == {}
    folders = {
        "a": {"dockerfile": "FROM scratch\nCOPY --from=wheels / /", "digest": "", "requirements": "locked"}
    }
    (wheels,) = parse_images({"a": {}}, {}, ["a"], folders)
    assert missing_tools([wheels], "no-such-python") == {"pip": "python3-pip"}
