# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping a copy of what was spoken, if wished. It must never cost a caller his answer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from .audio import wav_header
from .older_python import UTC

_LOG = logging.getLogger(__name__)


class Output:
    """One answer's copy: `<directory>/<date>/<time>-<request id>.<format>`, named so only when complete."""

    def __init__(self, directory: Path, request_id: str, format_name: str, on_failure: Callable[[], None]):
        now = datetime.now(UTC)
        self._path = directory / f"{now:%Y-%m-%d}" / f"{now:%Y%m%dT%H%M%S.%fZ}-{request_id}.{format_name}"
        self._part = self._path.with_name(self._path.name + ".part")
        self._on_failure = on_failure
        self._file: BinaryIO | None = None
        self._failed = False

    def write(self, data: bytes) -> None:
        """Keep more bytes."""
        if self._failed or not data:
            return
        try:
            if self._file is None:
                self._part.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._part.open("wb")
            self._file.write(data)
        except OSError as error:
            self._fail(error)

    def close(self, complete: bool) -> None:
        """Name the file if the answer is complete, remove it otherwise."""
        if self._file is None:
            return
        try:
            if complete and self._path.suffix == ".wav":  # a streamed header did not know the length
                size = self._file.tell()
                self._file.seek(0)
                self._file.write(wav_header(size - 44))
            self._file.close()
            if complete:
                self._part.rename(self._path)
            else:
                self._part.unlink()
        except OSError as error:
            self._fail(error)
        self._file = None

    def _fail(self, error: OSError) -> None:
        self._failed = True
        _LOG.warning(
            "an answer could not be kept", extra={"fields": {"path": str(self._path), "error": str(error)}}
        )
        self._on_failure()
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
