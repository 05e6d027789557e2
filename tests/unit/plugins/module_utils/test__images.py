# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import (
    LOCKED,
    NO_REQUIREMENTS,
    Host,
    ImagesError,
    lock_state,
    parse_images,
    targets,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4
HOST = Host(suite="bookworm", architecture="x86_64", python="3.11")


def folder(dockerfile: str, digest: str = "d", requirements: str = NO_REQUIREMENTS) -> dict[str, str]:
    return {"dockerfile": dockerfile, "digest": digest, "requirements": requirements}


FOLDERS = {
    "base": folder("FROM scratch\nCOPY --from=rootfs / /"),
    "tool": folder("FROM scratch\nCOPY tool /tool"),
    "server": folder("FROM base\nCOPY --from=wheels / /lib/", requirements=LOCKED),
}
DEFINITIONS: dict[str, Any] = {"base": {"packages": ["python3"]}, "tool": {}, "server": None}


def references(
    definitions: dict[str, Any] | None = None,
    sources: dict[str, Any] | None = None,
    folders: dict[str, dict[str, str]] | None = None,
    host: Host = HOST,
    repository: str = "voicefleet",
    revision: str = "",
) -> dict[str, str]:
    images = parse_images(definitions or DEFINITIONS, sources or {}, ["server", "tool"], folders or FOLDERS)
    return {one.image.name: one.reference for one in targets(images, host, repository, revision)}


def changed(**other: Any) -> set[str]:
    """Names of the images that get another reference than they have by default."""
    before, after = references(), references(**other)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_parents_come_along_and_first() -> None:
    images = parse_images(DEFINITIONS, {}, ["server"], FOLDERS)
    assert [image.name for image in images] == ["base", "server"]


def test_built_images_are_named_after_their_inputs() -> None:
    found = references()
    assert found["base"].startswith("voicefleet/base:")
    assert all(len(reference.rpartition(":")[2]) == 12 for reference in found.values())
    assert references() == found


def test_an_image_changes_with_its_inputs_and_no_other_does() -> None:
    assert changed(revision="2026-11-22") == {"base", "server", "tool"}
    assert changed(host=Host("bookworm", "aarch64", "3.11")) == {"base", "server", "tool"}
    assert changed(host=Host("trixie", "x86_64", "3.11")) == {"base", "server"}
    assert changed(host=Host("bookworm", "x86_64", "3.13")) == {"server"}
    assert changed(definitions={**DEFINITIONS, "base": {"packages": ["python3", "sox"]}}) == {
        "base",
        "server",
    }
    assert changed(folders={**FOLDERS, "tool": folder(FOLDERS["tool"]["dockerfile"], "other")}) == {"tool"}
    assert changed(folders={**FOLDERS, "tool": folder("FROM scratch\nCOPY tool /bin/tool")}) == {"tool"}


def test_the_order_of_packages_does_not_matter() -> None:
    one = references(definitions={**DEFINITIONS, "base": {"packages": ["a1", "b1"]}})
    assert one == references(definitions={**DEFINITIONS, "base": {"packages": ["b1", "a1"]}})


def test_an_image_from_elsewhere_needs_no_folder_and_no_parent() -> None:
    sources = {"server": {"source": "archive", "path": "/x.tar", "checksum": DIGEST}}
    images = parse_images(DEFINITIONS, sources, ["server"], {})
    assert [(image.name, image.verb) for image in images] == [("server", "load")]
    (target,) = targets(images, HOST, "voicefleet", "")
    assert target.reference.startswith("voicefleet/server:")
    other = {"server": {**sources["server"], "checksum": DIGEST[:-1] + "0"}}
    (second,) = targets(parse_images(DEFINITIONS, other, ["server"], {}), HOST, "voicefleet", "")
    assert target.reference != second.reference


@pytest.mark.parametrize(
    ("given", "pulled"),
    [
        (f"traefik@{DIGEST}", f"docker.io/library/traefik@{DIGEST}"),
        (f"traefik:v3@{DIGEST}", f"docker.io/library/traefik@{DIGEST}"),
        (f"docker.io/traefik@{DIGEST}", f"docker.io/library/traefik@{DIGEST}"),
        (f"me/tool@{DIGEST}", f"docker.io/me/tool@{DIGEST}"),
        (f"ghcr.io/me/tool@{DIGEST}", f"mirror.example.com/ghcr/me/tool@{DIGEST}"),
        (f"localhost:5000/tool@{DIGEST}", f"localhost:5000/tool@{DIGEST}"),
    ],
)
def test_registry_references_are_whole_and_go_through_mirrors(given: str, pulled: str) -> None:
    sources = {"tool": {"source": "registry", "reference": given}}
    mirrors = {"ghcr.io": "mirror.example.com/ghcr/"}
    (image,) = parse_images(DEFINITIONS, sources, ["tool"], {}, mirrors)
    assert image.reference == pulled


def test_a_tag_is_enough_when_allowed() -> None:
    sources = {"tool": {"source": "registry", "reference": "localhost:5000/tool:1"}}
    (image,) = parse_images(DEFINITIONS, sources, ["tool"], {}, {}, allow_tags=True)
    assert image.reference == "localhost:5000/tool:1"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"source": "registri"}, "unknown source 'registri'. Did you mean 'registry'?"),
        ({"source": "registry"}, "needs a reference"),
        ({"source": "registry", "reference": "traefik:v3"}, "has no digest"),
        ({"source": "registry", "reference": "traefik@sha256:abc"}, "not sha256: and 64 hex digits"),
        ({"source": "registry", "referense": "x"}, "'referense' does not belong to source 'registry'"),
        ({"source": "build", "reference": "x"}, "takes nothing else"),
        ({"source": "archive", "checksum": DIGEST}, "needs a path"),
        ({"source": "archive", "path": "/x.tar"}, "needs a checksum"),
        ({"source": "archive", "path": "/x.tar", "checksum": "md5:1"}, "'md5:1' is not one"),
        ({"source": "archive", "path": "/x", "checksum": DIGEST, "remote_src": "yes"}, "true or false"),
    ],
)
def test_refuses_sources_that_lack_something(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ImagesError) as error:
        parse_images(DEFINITIONS, {"tool": source}, ["tool"], FOLDERS)
    assert "Image tool" in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("definition", "dockerfile", "message"),
    [
        ({"packages": "python3"}, "FROM scratch", "must be a list of Debian package names"),
        ({"packages": ["rm -rf"]}, "FROM scratch", "must be a list of Debian package names"),
        ({"package": []}, "FROM scratch", "unknown key 'package'. Did you mean 'packages'?"),
        ({}, "FROM scratch\nCOPY --from=rootfs / /", "its packages are not given"),
        ({}, "FROM scratch\nCOPY --from=wheels / /", "has no requirements.txt"),
        ({}, "FROM nowhere", "there is no image 'nowhere'"),
        ({}, "FROM scratch\nRUN x", "Dockerfile of image tool, line 2: RUN"),
    ],
)
def test_refuses_definitions_that_cannot_be_built(
    definition: dict[str, Any], dockerfile: str, message: str
) -> None:
    with pytest.raises(ImagesError) as error:
        parse_images({"tool": definition}, {}, ["tool"], {"tool": folder(dockerfile)})
    assert message in str(error.value)


def test_refuses_names_nobody_knows() -> None:
    with pytest.raises(ImagesError, match=r"container_images_wanted: there is no image 'sever'\. Did"):
        parse_images(DEFINITIONS, {}, ["sever"], FOLDERS)
    with pytest.raises(ImagesError, match=r"container_images_sources: there is no image 'tol'\. Did"):
        parse_images(DEFINITIONS, {"tol": {}}, [], FOLDERS)
    with pytest.raises(ImagesError, match="Image name 'a-b'"):
        parse_images({"a-b": {}}, {}, [], FOLDERS)


def test_refuses_a_folder_that_is_not_there() -> None:
    with pytest.raises(ImagesError, match=r"needs a folder with a Dockerfile.*'tool'"):
        parse_images(DEFINITIONS, {}, ["tool"], {})


def test_refuses_images_built_from_each_other() -> None:
    folders = {"a": folder("FROM b"), "b": folder("FROM a")}
    with pytest.raises(ImagesError, match="in a circle: a -> b -> a"):
        parse_images({"a": {}, "b": {}}, {}, ["a"], folders)


def test_requirements_without_a_hash_are_named() -> None:
    locked = "# c\nnumpy==2 ; python_version > '3' \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    assert lock_state(locked) == LOCKED
    assert lock_state(locked + "flask==3\n") == "flask==3"
    bad = {"server": folder("FROM scratch\nCOPY --from=wheels / /", requirements="flask==3")}
    with pytest.raises(ImagesError, match=r"'flask==3' in requirements\.txt has no --hash"):
        parse_images({"server": {}}, {}, ["server"], bad)


TREES: dict[str, Any] = {
    "python": {"url": "https://example.com/python.tar.gz", "checksum": DIGEST},
    "code": {"git": "https://example.com/code.git", "commit": "ab" * 20},
}
MODEL = folder(
    "FROM base\nCOPY --from=python / /opt/\nCOPY --from=wheels / /lib/\nCOPY --from=code /a /a", "d", LOCKED
)


def model(host: Host = HOST, **changes: Any) -> str:
    """The reference of an image with trees."""
    definitions = {**DEFINITIONS, "server": {"trees": TREES, "build_requirements": "build.txt", **changes}}
    return references(definitions, folders={**FOLDERS, "server": MODEL}, host=host)["server"]


def test_an_image_with_trees_changes_with_what_they_are_and_not_with_where_they_are() -> None:
    moved = {
        "python": {"path": "/srv/python.tar.gz", "checksum": DIGEST, "remote_src": True},
        "code": {**TREES["code"], "git": "https://mirror.example.com/code.git"},
    }
    assert model(trees=moved, indexes=["https://mirror.example.com/simple"]) == model()
    assert model(trees={**TREES, "code": {**TREES["code"], "commit": "cd" * 20}}) != model()


def test_an_image_with_its_own_python_does_not_change_with_the_hosts() -> None:
    assert model(Host("bookworm", "x86_64", "3.13")) == model()


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"trees": {"code": TREES["code"]}}, "copies from python, which is not among its trees"),
        ({"trees": {**TREES, "code": {}}}, "Image server: Tree code: give exactly one of git"),
        ({"indexes": "https://example.com"}, "indexes must be a list of addresses"),
        ({"indexes": ["example.com/simple"]}, "not ['example.com/simple']"),
        ({"free_mib": "much"}, "free_mib must be the MiB that building it takes, not 'much'"),
    ],
)
def test_refuses_trees_and_indexes_that_cannot_be(definition: dict[str, Any], message: str) -> None:
    with pytest.raises(ImagesError) as error:
        model(**definition)
    assert message in str(error.value)
