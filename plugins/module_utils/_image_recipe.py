# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image is made of, read from a Dockerfile that runs nothing.

Images here are put together without a builder: a tree of files goes to the engine as one stream, by `import`
or by `commit` of a container that is never started. Measured on 2 cores with Engine 20.10 for the 373 MB of
the speech server: 6 s, against 18 s with the engine's own builder, which copies the tree three times, has
been deprecated since Engine 23 and is all that the Docker SDK for Python can reach. Import and commit take
the instructions of a Dockerfile that only describe the image, so nothing but FROM and COPY is read here.
The files stay good Dockerfiles: `docker buildx build --build-context rootfs=DIR` makes the same image.
"""

from __future__ import annotations

import fnmatch
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

# The engine accepts these for `docker import --change` and `docker commit --change`.
CHANGES = (
    "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
ROOTFS = "rootfs"
WHEELS = "wheels"
FOLDER = ""
# Files of an image's folder that describe the image and are not in it.
NOT_IN_IMAGES = ("Dockerfile*", "requirements.*", "__pycache__", "*.pyc", ".*")


class RecipeError(Exception):
    """The Dockerfile asks for something that cannot be done here; the text names file and line."""


@dataclass(frozen=True)
class Copy:
    """One COPY: from the image's own folder, or from a tree that was made on the host, by its name."""

    origin: str
    sources: tuple[str, ...]
    destination: str


@dataclass(frozen=True)
class Recipe:
    """`parent` is the name of another image of the set, or None for `FROM scratch`."""

    parent: str | None
    copies: tuple[Copy, ...]
    changes: tuple[str, ...]

    def uses(self, origin: str) -> bool:
        return origin in self.origins

    @property
    def origins(self) -> frozenset[str]:
        """Where files come from; the image's own folder is the empty one."""
        return frozenset(copy.origin for copy in self.copies)


def parse_recipe(text: str, where: str) -> Recipe:
    """Read a Dockerfile; `where` names it in errors. Raises RecipeError."""
    parent: str | None = None
    begun = False
    copies: list[Copy] = []
    changes: list[str] = []
    for number, line in _logical_lines(text):
        place = f"{where}, line {number}"
        instruction, _unused, rest = line.partition(" ")
        instruction, rest = instruction.upper(), rest.strip()
        if begun == (instruction == "FROM"):
            raise RecipeError(f"{place}: an image has exactly one FROM, and it comes first.")
        if instruction == "FROM":
            begun = True
            if not re.fullmatch(r"[a-z0-9_]+", rest):
                raise RecipeError(
                    f"{place}: 'FROM {rest}' is neither scratch nor the plain name of an image of this set."
                )
            parent = None if rest == "scratch" else rest
        elif instruction == "COPY":
            copies.append(_parse_copy(rest, place))
        elif instruction in CHANGES:
            changes.append(f"{instruction} {rest}")
        else:
            raise RecipeError(
                f"{place}: {instruction} is not possible, nothing is run while an image is made. "
                f"Possible are FROM, COPY, {', '.join(CHANGES)}."
            )
    if not begun:
        raise RecipeError(f"{where}: it has no FROM.")
    return Recipe(parent, tuple(copies), tuple(changes))


def files_to_copy(recipe: Recipe, folder: Path) -> list[Path]:
    """The files below `folder` that end up in the image, sorted."""
    found: set[Path] = set()
    for copy in recipe.copies:
        if copy.origin == FOLDER:
            for source in matches(copy, folder):
                found.update(path for path in [source, *source.rglob("*")] if path.is_file())
    return sorted(
        path
        for path in found
        if not any(
            fnmatch.fnmatch(part, pattern)
            for part in path.relative_to(folder).parts
            for pattern in NOT_IN_IMAGES
        )
    )


def matches(copy: Copy, origin: Path) -> list[Path]:
    """What the sources of one COPY are below `origin`; raises RecipeError for one that is not there."""
    found: list[Path] = []
    for source in copy.sources:
        relative = source.strip("/")
        these = [origin] if relative in ("", ".") else sorted(origin.glob(relative))
        if not these:
            raise RecipeError(f"COPY {source}: there is no such file in {copy.origin or origin}.")
        found += these
    return found


def _logical_lines(text: str) -> t.Iterator[tuple[int, str]]:
    """Instructions with the number of their first line; comments out, continued lines joined."""
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        first = first or number
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        yield first, pending + line
        pending, first = "", 0
    if pending:
        yield first, pending.strip()


def _parse_copy(rest: str, place: str) -> Copy:
    origin = FOLDER
    *words, destination = rest.split() or [""]
    while words and words[0].startswith("--"):
        option, _unused, value = words.pop(0).partition("=")
        if option != "--from" or not re.fullmatch(r"[a-z0-9_]+", value):
            raise RecipeError(
                f"{place}: COPY knows only --from={ROOTFS}, --from={WHEELS}, and --from= the name of a tree."
            )
        origin = value
    if not words:
        raise RecipeError(f"{place}: COPY wants at least one source and a destination.")
    if not destination.startswith("/"):
        raise RecipeError(f"{place}: the destination '{destination}' is not absolute.")
    if ".." in destination.split("/") or any(".." in word.split("/") for word in words):
        raise RecipeError(f"{place}: '..' leads out of the image's own files.")
    if len(words) > 1 and not destination.endswith("/"):
        raise RecipeError(f"{place}: with several sources the destination must end in '/'.")
    return Copy(origin, tuple(words), destination)
