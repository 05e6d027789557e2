# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory of one container on one card, read over and over while something goes on.

This module util is private to the collection. What is gone before it is looked at is not seen, so the looks
follow one another closely, each at the one card.
"""

from __future__ import annotations

import threading
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._capacity import own_of
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._container_processes import owners
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._idle_cards import Place
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi import order
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Card,
    SmiError,
    parse,
)

PAUSE_SECONDS = 0.1
SMI_SECONDS = 60.0


class Meter:
    """Reads in a thread, from C(with) to its end; C(trouble) is why a look failed, if one did."""

    def __init__(self, command: t.Sequence[str], place: Place, container_id: str) -> None:
        self.command, self.place, self.container_id = list(command), place, container_id
        self.trouble = ""
        self.looks = 0  # since the last part began
        self._part_mib = 0
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, name="meter", daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def part(self) -> int:
        """The most since the last call, with one more look at this moment."""
        self._read()
        with self._guard:
            most, self._part_mib, self.looks = self._part_mib, 0, 0
        return most

    def _keep_reading(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            self._read()

    def _read(self) -> None:
        try:
            _code, words = order(self.command, ["-q", "-x", "-i", self.place.card], SMI_SECONDS)
            mib, trouble = self._of(parse(words).cards[0])
        except SmiError as error:
            mib, trouble = 0, str(error)
        with self._guard:
            self.trouble = trouble or self.trouble
            self.looks += 1
            self._part_mib = max(self._part_mib, mib)

    def _of(self, card: Card) -> tuple[int, str]:
        pids = [process.pid for process in card.processes]
        own = own_of(card.processes, owners(pids, [self.container_id]), self.place.gpu_instance_id)
        if card.processes_unknown:
            return 0, f"the card does not list its processes: {card.processes_unknown}"
        if own.unmeasured:
            return 0, "the driver does not tell the memory of its processes"
        return own.mib, ""
