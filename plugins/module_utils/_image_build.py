# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the images that are due onto the host, several at a time.

What images are made of is fetched side by side (one waits for the package mirror while another unpacks);
only the last step of an image waits for its parent.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import time
import typing as t
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_recipe import (
    FOLDER,
    NOT_IN_IMAGES,
    ROOTFS,
    WHEELS,
    Copy,
    RecipeError,
    matches,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_store import CHUNK_BYTES, Store
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import (
    BUILD_REQUIREMENTS,
    REQUIREMENTS,
    Host,
    Image,
    ImagesError,
    Target,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rootfs import make_rootfs
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._source_tree import PYTHON, make_tree
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import ToolError, find_tool, run
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._wheels import install_wheels

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Paths on this host. `python` has pip and chooses the wheels.

    `archives` is by name of the image, or `<image>/<tree>` for one of its trees.

    `folders` is an archive with one folder for each image that is built.
    """

    python: str
    cache: Path
    folders: Path | None
    archives: t.Mapping[str, Path]


class ParentFailedError(Exception):
    """The image below could not be made; its own error is the one to tell."""


def read_host(python: str, suite: str | None) -> Host:
    """What this host builds for. The suite is that of the host unless given."""
    release: dict[str, str] = {}
    with open("/etc/os-release", encoding="utf-8") as lines:
        for line in lines:
            key, _unused, value = line.strip().partition("=")
            release[key] = value.strip("\"'")
    version = ""
    if find_tool(python):
        version = run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    return Host(suite or release.get("VERSION_CODENAME", ""), platform.machine(), version)


def missing_tools(images: t.Iterable[Image], python: str) -> dict[str, str]:
    """Programs that building these images takes and this host lacks -> the Debian package that has them."""
    images = list(images)
    missing = {}
    if any(tree.git for image in images for tree in image.trees) and not find_tool("git"):
        missing["git"] = "git"
    if any(image.builds_wheels for image in images) and not find_tool("g++"):
        missing["g++"] = "g++"
    if any(image.needs_rootfs for image in images) and not find_tool("mmdebstrap"):
        missing["mmdebstrap"] = "mmdebstrap"
    if any(image.needs_wheels and not image.brings_python for image in images):
        try:
            run([python, "-c", "import pip"])
        except ToolError:
            missing["pip"] = "python3-pip"
    return missing


def short_of_space(paths: t.Iterable[str], minimum_free_mib: int) -> list[str]:
    """Sentences about file systems of this host with less than `minimum_free_mib` free."""
    found = {}
    for path in paths:
        place = Path(path)
        # A directory that will be made counts as where it will be.
        while not place.exists() and place != place.parent:
            place = place.parent
        free_mib = shutil.disk_usage(place).free // MIB
        if free_mib < minimum_free_mib:
            found[os.stat(place).st_dev] = f"{path} has {free_mib} MiB free"
    return list(found.values())


def sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def provide(
    targets: t.Sequence[Target],
    due: t.Sequence[Target],
    host: Host,
    settings: Settings,
    new_store: t.Callable[[], Store],
) -> dict[str, float]:
    """Make, pull or load the images in `due`, a part of `targets`; seconds taken, by name.

    When one fails, those that do not need it are finished all the same, so the next run finds them done.
    Raises ImagesError with all that went wrong.
    """
    settings.cache.mkdir(parents=True, exist_ok=True)
    with open(settings.cache / "lock", "w", encoding="utf-8") as lock:
        # Two runs at once would tread on each other's files; the second then finds its images there.
        fcntl.flock(lock, fcntl.LOCK_EX)
        work = settings.cache / "work"
        # What a killed run has left.
        shutil.rmtree(work, ignore_errors=True)
        new_store().remove_leftovers()
        (work / "folders").mkdir(parents=True)
        try:
            if settings.folders:
                run(["tar", "-x", "-f", str(settings.folders), "-C", str(work / "folders")])
            return _provide(targets, due, host, settings, new_store, work)
        finally:
            shutil.rmtree(work)


def _provide(
    targets: t.Sequence[Target],
    due: t.Sequence[Target],
    host: Host,
    settings: Settings,
    new_store: t.Callable[[], Store],
    work: Path,
) -> dict[str, float]:
    references = {target.image.name: target.reference for target in targets}
    futures: dict[str, Future[None]] = {}
    seconds: dict[str, float] = {}

    def bring(target: Target) -> None:
        begin = time.monotonic()
        image = target.image
        # A connection for each thread: the SDK's is not made to be shared.
        store = new_store()
        if store.has(target):
            return
        if image.source == "registry":
            store.pull(target)
        elif image.source == "archive":
            _load(store, target, settings)
        else:
            tree, python = _stage(image, host, settings, work)
            if image.parent in futures and futures[image.parent].exception() is not None:
                raise ParentFailedError(image.parent)
            parent = references[image.parent] if image.parent else None
            store.create(target, tree, parent, python)
        seconds[image.name] = round(time.monotonic() - begin, 1)

    with ThreadPoolExecutor(max_workers=max(len(due), 1)) as pool:
        # Parents come first in `due`, so a child always finds the future it waits for.
        for target in due:
            futures[target.image.name] = pool.submit(bring, target)
    problems = []
    for name, future in futures.items():
        error = future.exception()
        if isinstance(error, ToolError):
            problems.append(f"Image {name}: {error}")
        elif isinstance(error, ImagesError):
            problems.append(str(error))
        elif error is not None and not isinstance(error, ParentFailedError):
            raise error
    if problems:
        raise ImagesError("\n".join(problems))
    return seconds


def check_archive(image: Image, archive: Path) -> None:
    """Raise ImagesError unless the file is there and is the wanted one."""
    if not archive.is_file():
        raise ImagesError(
            f"Image {image.name}: there is no file {archive}. Paths of archives are on the controller unless "
            "remote_src is true."
        )
    found = f"sha256:{sha256_of(archive)}"
    if found != image.checksum:
        raise ImagesError(
            f"Image {image.name}: {image.path} has the checksum {found}, but {image.checksum} is wanted. It "
            "is not loaded. Copy the file again, or correct the checksum."
        )


def _load(store: Store, target: Target, settings: Settings) -> None:
    archive = settings.archives[target.image.name]
    # Again here, on the very file that is loaded next.
    check_archive(target.image, archive)
    store.load(target, archive)


def _stage(image: Image, host: Host, settings: Settings, work: Path) -> tuple[Path, str]:
    """Make the tree of files an image adds; with the Python version it is bound to, or empty."""
    if image.recipe is None:
        raise AssertionError(f"{image.name} is not built")
    own = work / image.name
    origins = {FOLDER: work / "folders" / image.name, ROOTFS: own / ROOTFS, WHEELS: own / WHEELS}
    tree = own / "tree"
    tree.mkdir(parents=True)
    if image.needs_rootfs:
        make_rootfs(origins[ROOTFS], image.packages, host.suite, own / "apt")
    for source in image.trees:
        origins[source.name] = own / "trees" / source.name
        archive = settings.archives.get(f"{image.name}/{source.name}")
        make_tree(source, settings.cache / "trees", archive, origins[source.name])
    python = str(origins[PYTHON] / "bin/python3") if image.brings_python else settings.python
    if image.needs_wheels:
        install_wheels(
            python,
            origins[FOLDER] / REQUIREMENTS,
            settings.cache / "wheels" / image.name,
            origins[WHEELS],
            image.indexes,
            origins[FOLDER] / BUILD_REQUIREMENTS if image.builds_wheels else None,
        )
    for copy in image.recipe.copies:
        _place(image, copy, origins[copy.origin], tree)
    if any(tree.rglob("*.py")):
        _compile(python, tree)
    return tree, host.python if image.needs_wheels and not image.brings_python else ""


def _place(image: Image, copy: Copy, origin: Path, tree: Path) -> None:
    """Do one COPY as Docker does: a directory gives its content, a file itself. Files are linked."""
    destination = tree / copy.destination.lstrip("/")
    ignore = shutil.ignore_patterns(*NOT_IN_IMAGES) if copy.origin == FOLDER else None
    try:
        sources = matches(copy, origin)
    except RecipeError as error:
        raise ImagesError(f"Image {image.name}: {error}") from error
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, destination, True, ignore, os.link, dirs_exist_ok=True)
        elif copy.destination.endswith("/"):
            destination.mkdir(parents=True, exist_ok=True)
            os.link(source, destination / source.name)
        else:
            destination.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, destination)


def _compile(python: str, tree: Path) -> None:
    """Compile all Python in the tree once, for containers that cannot write it down.

    Byte code is named after the Python it is for; another one in the image would just not look at it.
    Measured for http.client, json and urllib.request: 0.33 s to import without, 0.20 s with it.
    """
    try:
        # The images' files never change, so their byte code need not be compared with them at each start.
        mode = ["--invalidation-mode", "unchecked-hash"]
        run([python, "-m", "compileall", "-q", "-j", "0", *mode, "-s", str(tree), "-p", "/", str(tree)])
    except ToolError:
        # Packages carry files for other Pythons; they are not an error until somebody imports them.
        return
