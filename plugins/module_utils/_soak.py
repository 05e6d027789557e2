# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first newcomer of a rollout beside its neighbours, for a while, under the callers there are.

This module util is private to the collection. What is found is judged by C(_canary).
"""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _canary, _metrics, _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import (
    ASK_SECONDS,
    POLL_SECONDS,
    Barriers,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError

if t.TYPE_CHECKING:
    from docker import DockerClient


@dataclasses.dataclass
class Soak:
    """Calling it lasts C(seconds), gives the figures, and raises ReplicaError when C(name) does worse."""

    client: DockerClient
    barriers: Barriers
    service: str
    name: str
    data_dir: str
    seconds: float
    limits: _canary.Limits

    def __call__(self) -> dict[str, t.Any]:
        """Compare; without figures to compare the newcomer is only watched for being up."""
        serving = {
            each.name: _replica.look(self.client, each.container_id).url
            for each in _replica.observe(self.client, self.service, self.data_dir)
            if each.running and each.health == "healthy"
        }
        neighbours = len(serving) - (self.name in serving)
        metrics = self.barriers.hooks.metrics
        if metrics is None or not metrics.requests or not neighbours:
            return {
                "compared": False,
                "reason": "no metrics" if metrics is None or not metrics.requests else "no neighbours",
            }
        before = self._readings(serving, metrics)
        self._watch(neighbours)
        verdict = _canary.judge_canary(before, self._readings(serving, metrics), self.name, self.limits)
        if not verdict.ok:
            raise ReplicaError(f"{self.name} does worse than its neighbours: {verdict.reason}")
        self.barriers.tell(f"soak: {verdict.reason}")
        return {"compared": True, "reason": verdict.reason, **verdict.figures}

    def _readings(
        self, serving: dict[str, str], metrics: _metrics.MetricNames
    ) -> dict[str, _metrics.Reading | None]:
        return {name: _metrics.read(url, metrics, ASK_SECONDS) for name, url in serving.items()}

    def _watch(self, neighbours: int) -> None:
        started = time.monotonic()
        self.barriers.tell(
            f"soak: {self.seconds:g} s beside {neighbours} neighbour{'s' if neighbours > 1 else ''}"
        )
        container_id = _replica.find(self.client, self.name)
        while (waited := time.monotonic() - started) < self.seconds:
            now = _replica.look(self.client, container_id) if container_id else None
            if now is None or now.restarts or not now.running:
                raise _replica.stopped(
                    self.client, self.name, waited, "while it was compared with its neighbours"
                )
            time.sleep(POLL_SECONDS)
