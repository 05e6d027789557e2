# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that a role keeps on a host, against what is there.

This module util is private to the collection. It changes nothing.
"""

from __future__ import annotations

import os
import typing as t


def planned(path: str, content: str, part: str) -> dict[str, t.Any]:
    """What a role's task needs to write it: whether it ``differs``, and whether its ``folder`` is there.

    ``part``: before (packages are chosen by it), or after.
    """
    return {
        "path": path,
        "content": content,
        "part": part,
        "differs": content_of(path) != content,
        "folder": os.path.isdir(os.path.dirname(path)),
    }


def content_of(path: str) -> str:
    """The text of a file; empty where there is none, or no text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""
