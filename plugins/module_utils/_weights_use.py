# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which directories of the host replicas were made with, or would be by a rollback.

This module util is private to the collection.
"""

from __future__ import annotations

import json
import os
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import connect


def mounted(docker_host: str) -> list[str]:
    """Every directory that a container has mounted, or that what ran before it had. Raises EngineError.

    A host whose engine has no socket has no containers.
    """
    socket = docker_host.partition("unix://")[2]
    if socket and not os.path.exists(socket):
        return []
    found: list[str] = []
    for container in connect(docker_host).api.containers(all=True):
        found += [mount.get("Source") or "" for mount in container.get("Mounts") or []]
        labels: t.Mapping[str, str] = container.get("Labels") or {}
        for label in (spec.LABEL_SPECIFICATION, spec.LABEL_PREVIOUS):
            found += _sources(labels.get(label, ""))
    return [path for path in found if path]


def used(directory: str, names: t.Iterable[str], paths: t.Iterable[str]) -> set[str]:
    """Those of the names in the directory that one of the paths is, or lies in, or leads to."""
    real = [os.path.realpath(path) for path in paths]
    return {
        name
        for name in names
        if any(
            os.path.join(path, "").startswith(os.path.join(os.path.realpath(directory), name, ""))
            for path in real
        )
    }


def _sources(label: str) -> list[str]:
    """Where the mounts of a specification come from."""
    try:
        mounts = json.loads(label)["specification"]["mounts"]
        return [str(mount["source"]) for mount in mounts]
    except (ValueError, KeyError, TypeError):
        return []
