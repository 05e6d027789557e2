# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model this process serves, told so that two replicas can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .engines.base import Engine
from .settings import Settings

_CHUNK_BYTES = 1 << 20
_DIGEST_CHARACTERS = 12  # of the digest, where it stands in for a revision


@dataclass
class Identity:
    """Model and revision as configured; a revision nobody named is the beginning of the weights' digest."""

    model: str
    revision: str
    weights_digest: str | None = None
    weights_files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, engine: Engine) -> Identity:
        """What is known before loading."""
        return cls(settings.model or engine.model, settings.revision or "unloaded")

    @property
    def model_version(self) -> str:
        """For X-Model-Version."""
        return f"{self.model}@{self.revision}"

    def weigh(self, settings: Settings, engine: Engine) -> None:
        """Read the model's files; slow for large ones, so on a worker thread."""
        self.weights_files = digests(engine.model_files())
        lines = "".join(f"{digest}  {name}\n" for name, digest in self.weights_files.items())
        self.weights_digest = hashlib.sha256(lines.encode()).hexdigest()
        self.revision = settings.revision or self.weights_digest[:_DIGEST_CHARACTERS]


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each file, by name, in the order of the names."""
    found = {}
    for name in sorted(files):
        digest = hashlib.sha256()
        with files[name].open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        found[name] = digest.hexdigest()
    return found
