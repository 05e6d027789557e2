# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between two configurations of a replica, in words that may be shown.

This module util is private to the collection. Configurations are as _specification.container_config makes
them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._target import short_id

NAMED = 3
LONGEST = 40
# Labels of Traefik's that hold users and their passwords.
_SECRET_LABEL = re.compile(r"auth", re.IGNORECASE)
# The slot is told apart, and the name of an image is not its content.
_UNCOUNTED = ("name", "image", "image_id", "gpu")
_OF_THE_SLOT = (spec.LABEL_SLOT, spec.LABEL_GPU)
# Their values are commands, in which anything may stand.
_UNSAID = ("command", "entrypoint", "test")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Each difference, the weightiest first. Values that look like secrets are not shown."""
    found = []
    if old.get("image_id") != new.get("image_id"):
        found.append(
            f"image changed {short_id(old.get('image_id') or '')} -> {short_id(new.get('image_id') or '')}"
        )
    before, after = dict(old.get("labels") or {}), dict(new.get("labels") or {})
    found += _difference(
        "revision", before.pop(spec.LABEL_REVISION, None), after.pop(spec.LABEL_REVISION, None)
    )
    one, other = (labels.pop(spec.LABEL_WEIGHTS, "")[:12] or "unknown" for labels in (before, after))
    found += _difference("weights", one, other)
    found += _differences("environment", old.get("environment"), new.get("environment"))
    for key in _OF_THE_SLOT:
        before.pop(key, None)
        after.pop(key, None)
    found += _differences("label", before, after)
    found += _differences("mount", _by_target(old.get("mounts")), _by_target(new.get("mounts")))
    for key in sorted({*old, *new} - {*_UNCOUNTED, "environment", "labels", "mounts"}):
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _differences(key, one, other)
        else:
            found += _difference(key, one, other)
    return found


def told(found: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _by_target(mounts: list[dict[str, Any]] | None) -> dict[str, str]:
    # The directory of the drain flag follows the slot.
    return {
        mount["target"]: mount["source"] + ("" if mount["read_only"] else " (writable)")
        for mount in mounts or []
        if mount["target"] != spec.CONTROL_DIR
    }


def _differences(what: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[str]:
    found = []
    old, new = old or {}, new or {}
    for key in sorted({*old, *new}):
        name = f"{what} {key}"
        if key not in new:
            found.append(f"{name} removed")
        elif key not in old:
            found.append(f"{name} added")
        else:
            secret = what == "label" and bool(_SECRET_LABEL.search(key))
            found += _difference(name, old[key], new[key], secret)
    return found


def _difference(name: str, old: Any, new: Any, secret: bool = False) -> list[str]:
    if old == new:
        return []
    one, other = _text(old), _text(new)
    secret = secret or bool(spec.SECRET_NAME.search(name)) or name.split()[-1] in _UNSAID
    if secret or max(len(one), len(other)) > LONGEST:
        return [f"{name} changed"]
    return [f"{name} {one} -> {other}"]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or "(empty)"
    return "none" if value is None else json.dumps(value, sort_keys=True)


def reason(old: str, new: Mapping[str, Any]) -> str:
    """Why a container is not as C(new) wants it; C(old) is its own configuration, as its label holds it."""
    try:
        found = changes(json.loads(old), new)
    except (ValueError, AttributeError, KeyError, TypeError):
        return "it does not tell what it was made from"
    return told(found) if found else "another version of this collection made it"
