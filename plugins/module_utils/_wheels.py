# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Python packages for an image, fetched by the host's pip with the host's own settings.

pip runs on the host and not in the image: the host knows its package index, proxy and private CA, the image
should not. The wheels stay in a directory, which is also what a host without network can be given.
"""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import ToolError, redact, run

_EXACTLY = (
    "--no-deps",
    "--require-hashes",
    "--disable-pip-version-check",
    "--no-input",
)


def install_wheels(
    python: str,
    requirements: Path,
    store: Path,
    target: Path,
    indexes: t.Sequence[str] = (),
    build_requirements: Path | None = None,
) -> None:
    """Unpack what the locked `requirements` name into `target`; wheels are kept in `store`. Raises ToolError.

    The wheels are those for the interpreter `python` of this host. Nothing is downloaded when `store` has
    them all. With `build_requirements`, locked too, packages of which there are no wheels are built with
    those; without, only wheels are taken.
    """
    how, environment = ["--only-binary=:all:"], {}
    if build_requirements:
        tools = target.with_name(f"{target.name}-build")
        install_wheels(python, build_requirements, store.with_name(f"{store.name}-build"), tools, indexes)
        # A Python from elsewhere names the compiler that it was made with.
        environment = {"PYTHONPATH": str(tools), "CC": "gcc", "CXX": "g++"}
        how = ["--no-build-isolation"]

    def install() -> None:
        _pip(
            python,
            environment,
            "install",
            *how,
            "--no-index",
            f"--find-links={store}",
            # Compiled later, all at once and for the image's paths.
            "--no-compile",
            "--no-warn-script-location",
            f"--target={target}",
            f"--requirement={requirements}",
        )

    store.mkdir(parents=True, exist_ok=True)
    if any(store.iterdir()):
        try:
            return install()
        except ToolError:
            pass  # Something is missing in the store: it is filled, and the second try tells.
    try:
        _pip(
            python,
            environment,
            "download",
            *how,
            *_where(indexes),
            f"--dest={store}",
            f"--requirement={requirements}",
        )
    except ToolError as error:
        raise ToolError(
            f"pip could not fetch the Python packages from {_index(python, indexes)} "
            f"(`{python} -m pip config list` shows this host's settings). Without a "
            f"network, put the wheels into {store}. {error}"
        ) from error
    return install()


def _where(indexes: t.Sequence[str]) -> list[str]:
    """The first index in place of the host's own, the others beside it."""
    return [
        f"--{'extra-' if number else ''}index-url={index}" for number, index in enumerate(indexes) if index
    ]


def _index(python: str, indexes: t.Sequence[str]) -> str:
    """Where pip looks for packages: it names no index when it fails."""
    named = [index for index in indexes if index]
    if indexes and indexes[0]:
        return redact(", ".join(named))
    settings = run([python, "-m", "pip", "config", "list"]).splitlines()
    found = [line for line in settings if re.search(r"[.](extra-)?index-url=", line)]
    return redact(", ".join([*(found or ["its default index"]), *named]))


def _pip(python: str, environment: t.Mapping[str, str], command: str, *arguments: str) -> None:
    run([python, "-m", "pip", command, "--quiet", "--progress-bar=off", *_EXACTLY, *arguments], environment)
