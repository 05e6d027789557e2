# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images are wanted, where each comes from, and by which reference it is run.

Pure: no engine, no files, no Ansible. Runs on the controller (to refuse wrong input before a host is touched)
and again on the host (which alone knows its suite and architecture).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_recipe import (
    FOLDER,
    ROOTFS,
    WHEELS,
    Recipe,
    RecipeError,
    parse_recipe,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._source_tree import (
    PYTHON,
    SourceError,
    SourceTree,
    parse_trees,
)

# Part of every built image's hash. Raise it when a change of this code changes what an image holds.
RECIPE_VERSION = 1
LABEL_MANAGED = "voicefleet.managed"
LABEL_ROLE = "voicefleet.role"
LABEL_INPUTS = "voicefleet.inputs"
LOCKED, NO_REQUIREMENTS = "locked", "none"
# What the files with an image's Python packages are called on the host, whatever they are on the controller.
REQUIREMENTS, BUILD_REQUIREMENTS = "requirements.txt", "build-requirements.txt"

# Of module container_images; its action plugin, which gets them first, checks them too.
ARGUMENT_SPEC: dict[str, dict[str, t.Any]] = {
    "state": {"choices": ["present", "planned", "exported", "absent"], "default": "present"},
    "images": {"type": "dict", "default": {}},
    "sources": {"type": "dict", "default": {}},
    "wanted": {"type": "list", "elements": "str", "default": []},
    "folders": {"type": "dict", "default": {}},
    "folders_archive": {"type": "path"},
    "archives": {"type": "dict", "default": {}},
    "repository": {"type": "str", "default": "voicefleet"},
    "revision": {"type": "str", "default": ""},
    "suite": {"type": "str", "default": ""},
    "mirrors": {"type": "dict", "default": {}},
    "allow_tags": {"type": "bool", "default": False},
    "python": {"type": "str", "default": "/usr/bin/python3"},
    "cache_dir": {"type": "path", "default": "/var/cache/voicefleet"},
    "minimum_free_mib": {"type": "int", "default": 3072},
    "dest": {"type": "path"},
    "remote_dest": {"type": "bool", "default": False},
    "names": {"type": "list", "elements": "str", "default": []},
    "compress": {"type": "bool", "default": True},
    "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
}

_DEFINITION_KEYS = (
    "folder", "dockerfile", "packages", "requirements", "build_requirements", "trees", "indexes",
    "free_mib",
)  # fmt: skip
_SOURCE_KEYS: dict[str, tuple[str, ...]] = {
    "build": (),
    "registry": ("reference",),
    "archive": ("path", "checksum", "remote_src"),
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_VERBS = {"build": "build", "registry": "pull", "archive": "load"}


class ImagesError(Exception):
    """What was asked for cannot be done; the text names the image, the value and the remedy."""


@dataclass(frozen=True)
class Host:
    """What an image built on a host depends on. `python` is the `X.Y` that chooses the wheels."""

    suite: str
    architecture: str
    python: str


@dataclass(frozen=True)
class Image:
    """One wanted image. For `build`: recipe, digest of its folder, packages of its root file system.

    A tree named `python` is the interpreter that the image brings along: it fetches the image's packages.
    `indexes` are where it looks for them; the first replaces the host's own.
    """

    name: str
    source: str
    reference: str = ""
    path: str = ""
    checksum: str = ""
    remote_src: bool = False
    recipe: Recipe | None = None
    dockerfile: str = ""
    folder_digest: str = ""
    packages: tuple[str, ...] = ()
    trees: tuple[SourceTree, ...] = ()
    indexes: tuple[str, ...] = ()
    builds_wheels: bool = False
    free_mib: int = 0

    @property
    def verb(self) -> str:
        return _VERBS[self.source]

    @property
    def parent(self) -> str | None:
        return self.recipe.parent if self.recipe else None

    @property
    def needs_rootfs(self) -> bool:
        return self.recipe is not None and self.recipe.uses(ROOTFS)

    @property
    def needs_wheels(self) -> bool:
        return self.recipe is not None and self.recipe.uses(WHEELS)

    @property
    def brings_python(self) -> bool:
        return any(tree.name == PYTHON for tree in self.trees)


@dataclass(frozen=True)
class Target:
    """An image on a certain host: the reference to run it by, and the hash of its inputs (None if pulled)."""

    image: Image
    reference: str
    inputs: str | None


def parse_images(
    definitions: t.Mapping[str, t.Any],
    sources: t.Mapping[str, t.Any],
    wanted: t.Sequence[str],
    folders: t.Mapping[str, t.Mapping[str, str]],
    mirrors: t.Mapping[str, str] | None = None,
    allow_tags: bool = False,
) -> list[Image]:
    """The wanted images and what they are built from, parents first.

    `folders` holds, for each image that may be built, `dockerfile` (its text), `digest` (of the files it
    uses) and `requirements` (`none`, `locked`, or the name of one without a hash). Raises ImagesError.
    """
    for name in definitions:
        if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name):
            raise ImagesError(f"Image name '{name}': only a-z, 0-9 and single underscores make a good name.")
    for name in sources:
        _known(name, definitions, "container_images_sources")
    images: dict[str, Image] = {}

    def add(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            raise ImagesError(f"Images are built from each other in a circle: {' -> '.join([*trail, name])}.")
        if name in images:
            return
        image = _parse_image(
            name,
            definitions[name] or {},
            sources.get(name) or {},
            folders.get(name),
            mirrors or {},
            allow_tags,
        )
        if image.parent:
            _known(image.parent, definitions, f"FROM in the Dockerfile of {name}")
            add(image.parent, (*trail, name))
        images[name] = image

    for name in wanted:
        _known(name, definitions, "container_images_wanted")
        add(name, ())
    return list(images.values())


def targets(images: t.Sequence[Image], host: Host, repository: str, revision: str) -> list[Target]:
    """References for `images` (parents first, as parse_images gives them) on this host."""
    found: dict[str, Target] = {}
    for image in images:
        if image.source == "registry":
            found[image.name] = Target(image, image.reference, None)
            continue
        inputs: list[t.Any] = [image.source, image.checksum]
        if image.source == "build":
            inputs = [
                RECIPE_VERSION,
                revision,
                host.architecture,
                image.dockerfile,
                image.folder_digest,
                found[image.parent].reference if image.parent else None,
                [host.suite, sorted(image.packages)] if image.needs_rootfs else None,
                host.python if image.needs_wheels and not image.brings_python else None,
            ]
            if image.trees:
                inputs.append([[tree.name, tree.identity] for tree in image.trees])
        full = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
        found[image.name] = Target(image, f"{repository}/{image.name}:{full[:12]}", full)
    return list(found.values())


def lock_state(requirements: str) -> str:
    """Whether a requirements file is `locked`, or else the first requirement in it without a hash."""
    for line in requirements.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line and not line.startswith(("#", "-")) and "--hash=sha256:" not in line:
            return line.split()[0]
    return LOCKED


def nearest(word: str, words: t.Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing when no word is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _known(name: str, definitions: t.Mapping[str, t.Any], where: str) -> None:
    if name not in definitions:
        raise ImagesError(
            f"{where}: there is no image '{name}'.{nearest(name, definitions)} "
            f"Images are: {', '.join(sorted(definitions))}."
        )


def _parse_image(
    name: str,
    definition: t.Mapping[str, t.Any],
    source: t.Mapping[str, t.Any],
    folder: t.Mapping[str, str] | None,
    mirrors: t.Mapping[str, str],
    allow_tags: bool,
) -> Image:
    for key in definition:
        if key not in _DEFINITION_KEYS:
            raise ImagesError(f"Image {name}: unknown key '{key}'.{nearest(key, _DEFINITION_KEYS)}")
    kind = source.get("source", "build")
    if kind not in _SOURCE_KEYS:
        raise ImagesError(
            f"Image {name}: unknown source '{kind}'.{nearest(str(kind), _SOURCE_KEYS)} "
            f"Sources are: {', '.join(_SOURCE_KEYS)}."
        )
    for key in source:
        if key != "source" and key not in _SOURCE_KEYS[kind]:
            allowed = ", ".join(_SOURCE_KEYS[kind]) or "nothing else"
            raise ImagesError(
                f"Image {name}: '{key}' does not belong to source '{kind}', which takes {allowed}."
                f"{nearest(key, _SOURCE_KEYS[kind])}"
            )
    if kind == "registry":
        return Image(name, kind, reference=_registry_reference(name, source, mirrors, allow_tags))
    if kind == "archive":
        return _archive(name, kind, source)
    return _build(name, kind, definition, folder)


def _build(
    name: str, kind: str, definition: t.Mapping[str, t.Any], folder: t.Mapping[str, str] | None
) -> Image:
    if folder is None:
        raise ImagesError(
            f"Image {name}: source 'build' needs a folder with a Dockerfile; none was found."
            f" The folder is {(definition.get('folder') or name)!r}, the file in it "
            f"{(definition.get('dockerfile') or 'Dockerfile')!r}."
        )
    try:
        recipe = parse_recipe(folder["dockerfile"], f"Dockerfile of image {name}")
    except RecipeError as error:
        raise ImagesError(str(error)) from error
    packages = definition.get("packages") or ()
    if isinstance(packages, str) or not all(
        isinstance(package, str) and re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package) for package in packages
    ):
        raise ImagesError(f"Image {name}: packages must be a list of Debian package names, not {packages!r}.")
    try:
        trees = parse_trees(definition.get("trees") or {})
    except SourceError as error:
        raise ImagesError(f"Image {name}: {error}") from error
    image = Image(
        name,
        kind,
        recipe=recipe,
        dockerfile=folder["dockerfile"],
        folder_digest=folder["digest"],
        packages=tuple(packages),
        trees=trees,
        indexes=_indexes(name, definition.get("indexes") or []),
        builds_wheels=bool(definition.get("build_requirements")),
        free_mib=_free_mib(name, definition.get("free_mib") or 0),
    )
    names = {ROOTFS, WHEELS, *(tree.name for tree in trees)}
    for origin in sorted(recipe.origins - names - {FOLDER}):
        raise ImagesError(
            f"Image {name}: its Dockerfile copies from {origin}, which is not among its trees."
            f"{nearest(origin, names)}"
        )
    if image.needs_rootfs and not packages:
        raise ImagesError(f"Image {name}: its Dockerfile copies from rootfs, but its packages are not given.")
    if image.needs_wheels:
        _check_requirements(name, folder["requirements"])
    return image


def _free_mib(name: str, given: t.Any) -> int:
    if not re.fullmatch(r"[0-9]+", str(given)):
        raise ImagesError(f"Image {name}: free_mib must be the MiB that building it takes, not {given!r}.")
    return int(given)


def _indexes(name: str, given: t.Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(
        isinstance(url, str) and re.fullmatch(r"((https?|file)://\S+)?", url) for url in given
    ):
        raise ImagesError(
            f"Image {name}: indexes must be a list of addresses of package indexes, such as "
            f"https://mirror.example.com/simple, not {given!r}."
        )
    return tuple(given)


def _check_requirements(name: str, requirements: str) -> None:
    if requirements == NO_REQUIREMENTS:
        raise ImagesError(
            f"Image {name}: its Dockerfile copies from wheels, but its folder has no requirements.txt."
        )
    if requirements != LOCKED:
        raise ImagesError(
            f"Image {name}: '{requirements}' in requirements.txt has no --hash=sha256:..., so nobody could "
            "tell whether the right file came. Lock the file with hashes."
        )


def _registry_reference(
    name: str, source: t.Mapping[str, t.Any], mirrors: t.Mapping[str, str], allow_tags: bool
) -> str:
    given = str(source.get("reference") or "")
    if not given:
        raise ImagesError(
            f"Image {name}: source 'registry' needs a reference, as docker.io/library/{name}@sha256:<digest>."
        )
    repository, _unused, digest = given.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise ImagesError(f"Image {name}: '{digest}' in '{given}' is not sha256: and 64 hex digits.")
    if not digest and not allow_tags:
        raise ImagesError(
            f"Image {name}: '{given}' has no digest, so it may be another image tomorrow. Append "
            "@sha256:<digest> (docker buildx imagetools inspect shows it), or set "
            "container_images_allow_tags: true."
        )
    first, _unused, rest = repository.partition("/")
    # The rule of docker's own reference parser for what is a registry and what is a name.
    if not rest or not ("." in first or ":" in first or first == "localhost"):
        first, rest = "docker.io", repository
    if first == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    prefix = str(mirrors.get(first, first)).rstrip("/")
    path, _unused, tag = rest.partition(":")
    return f"{prefix}/{path}@{digest}" if digest else f"{prefix}/{path}:{tag or 'latest'}"


def _archive(name: str, kind: str, source: t.Mapping[str, t.Any]) -> Image:
    path, checksum = str(source.get("path") or ""), str(source.get("checksum") or "")
    if not path:
        raise ImagesError(f"Image {name}: source 'archive' needs a path to what docker save wrote.")
    if not _DIGEST.fullmatch(checksum):
        raise ImagesError(
            f"Image {name}: source 'archive' needs a checksum, sha256: and 64 hex digits as sha256sum prints "
            f"them; '{checksum}' is not one."
        )
    remote_src = source.get("remote_src", False)
    if not isinstance(remote_src, bool):
        raise ImagesError(f"Image {name}: remote_src must be true or false, not {remote_src!r}.")
    return Image(name, kind, path=path, checksum=checksum, remote_src=remote_src)
