# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Python packages for an image, fetched by the host's pip with the host's own settings.

pip runs on the host and not in the image: the host knows its package index, proxy and private CA, the image
should not. The wheels stay in a directory, which is also what a host without network can be given.
"""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import ToolError, redact, run

_EXACTLY = (
    "--no-deps",
    "--require-hashes",
    "--only-binary=:all:",
    "--disable-pip-version-check",
    "--no-input",
)


def install_wheels(python: str, requirements: Path, store: Path, target: Path) -> None:
    """Unpack what the locked `requirements` name into `target`; wheels are kept in `store`. Raises ToolError.

    The wheels are those for the interpreter `python` of this host. Nothing is downloaded when `store` has
    them all.
    """

    def install() -> None:
        _pip(
            python,
            "install",
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
        _pip(python, "download", f"--dest={store}", f"--requirement={requirements}")
    except ToolError as error:
        raise ToolError(
            f"pip could not fetch the Python packages from {_index(python)} (`{python} -m pip config list` "
            f"shows this host's settings). Without a network, put the wheels into {store}. {error}"
        ) from error
    return install()


def _index(python: str) -> str:
    """Where pip looks for packages, as its settings have it: it names no index when it fails."""
    settings = run([python, "-m", "pip", "config", "list"]).splitlines()
    found = [line for line in settings if re.search(r"[.](extra-)?index-url=", line)]
    return redact(", ".join(found)) or "its default index"


def _pip(python: str, command: str, *arguments: str) -> None:
    run([python, "-m", "pip", command, "--quiet", "--progress-bar=off", *_EXACTLY, *arguments])
