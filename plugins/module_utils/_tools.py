# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a program of the host, and tell in words what went wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import typing as t

# Hosts reached over SSH without a login shell often lack the sbin directories.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
TAIL_LINES = 12


class ToolError(Exception):
    """A program failed; the text has its last lines."""


def find_tool(name: str) -> str | None:
    return shutil.which(name, path=SEARCH_PATH)


def redact(text: str) -> str:
    """Take user names and passwords out of the URLs in `text`."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


def run(argv: t.Sequence[str], env: t.Mapping[str, str] | None = None, cwd: str | None = None) -> str:
    """Standard output and error of a program that must succeed. Raises ToolError with the last lines."""
    # A fixed language, so that what it says can be read here.
    environment = {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        done = subprocess.run(
            list(argv),
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise ToolError(f"{argv[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        tail = "\n".join(redact(done.stdout).strip().splitlines()[-TAIL_LINES:])
        raise ToolError(f"{os.path.basename(argv[0])} ended with code {done.returncode}:\n{tail}")
    return done.stdout
