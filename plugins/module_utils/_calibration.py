# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One replica on a card of its own, for as long as it takes to see how much of the card it needs.

This module util is private to the collection. The container is no replica: it has another role in its labels,
by which nobody plans with it, no route, and it is not started again by anybody. It is always taken away; one
that a killed run has left is known by those labels.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._idle_cards import Place
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._meter import Meter
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Answer, Request, ask
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._progress import Progress
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError

if t.TYPE_CHECKING:
    from docker import DockerClient

ROLE = "calibration"
# What is over before nvidia-smi has been asked so often is sent again, for so long. On a busy host or without
# persistence mode, one look takes a second and more, and engines give memory back after each answer.
LEAST_LOOKS = 3
AGAIN_SECONDS = 30.0
# An engine has noted by then that a container came to its end.
END_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Work:
    """What the replica is given to do; the path of each request is in its C(url)."""

    requests: t.Sequence[Request]
    at_once: t.Sequence[int]


@dataclasses.dataclass
class Measured:
    """The most there was of the card: until it was fit to serve, and with each of the waves after that."""

    start_mib: int = 0
    waves: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)

    @property
    def peak_mib(self) -> int:
        """Of all of it."""
        return max([self.start_mib, *(int(wave["peak_mib"]) for wave in self.waves)])


def name_of(service: str) -> str:
    """Its container, which bears no number."""
    return f"{service}-{ROLE}"


def left_over(client: DockerClient, service: str) -> list[str]:
    """Ids of the containers that runs have left which did not come to their end."""
    labels = [f"{spec.LABEL_SERVICE}={service}", f"{spec.LABEL_ROLE}={ROLE}"]
    return [each["Id"] for each in client.api.containers(all=True, filters={"label": labels})]


def clear(client: DockerClient, service: str, data_dir: str) -> None:
    """Take away what there is of it, the container and its directories."""
    for container_id in left_over(client, service):
        _replica.remove(client, container_id)
    shutil.rmtree(os.path.join(data_dir, service, name_of(service)), ignore_errors=True)


def config_of(
    service: str,
    place: Place,
    mps: t.Mapping[str, t.Any] | None,
    specification: dict[str, t.Any],
    image_id: str,
    data_dir: str,
) -> dict[str, t.Any]:
    """What the container is made from: a replica's own, without its routes, and without any limit on a card.

    :raises PlanError: the card is shared by MPS, and the service cannot be a client of it.
    """
    shared = {"thread_percentage": 100, "pipe_dir": mps["pipe_dir"], "uid": mps["uid"]} if mps else None
    slot = Slot(gpu=place.uuid, index=0, memory_mib=None, mps=shared)
    bare = {**specification, "labels": {}}
    config = spec.container_config(service, 0, slot, bare, image_id, data_dir, name_of(service))
    config["labels"].update({spec.LABEL_ROLE: ROLE, "traefik.enable": "false"})
    config["restart"] = "no"
    return config


class Calibration:
    """Calling it gives the figures; ReplicaError when the replica does not start, or not do what is asked."""

    def __init__(
        self,
        client: DockerClient,
        smi_command: t.Sequence[str],
        place: Place,
        start_timeout_seconds: float,
        progress: Progress,
        still_ours: t.Callable[[], None] = lambda: None,
    ) -> None:
        """C(still_ours) raises when the service's lock was lost."""
        self.client, self.smi_command, self.place = client, smi_command, place
        self.start_timeout_seconds = start_timeout_seconds
        self.progress, self.still_ours = progress, still_ours
        self.began = 0.0  # when the container was started, by the monotonic clock

    def __call__(self, service: str, config: dict[str, t.Any], data_dir: str, work: Work) -> Measured:
        """C(config) is what C(config_of) gives."""
        clear(self.client, service, data_dir)
        try:
            slot = config["labels"][spec.LABEL_SLOT]
            directories = spec.replica_directories(data_dir, service, config["name"], slot)
            _replica.make_directories(directories, config["user"])
            container_id = _replica.create(self.client, config)
            with Meter(self.smi_command, self.place, container_id) as meter:
                return self._measure(container_id, meter, work)
        finally:
            clear(self.client, service, data_dir)

    def _measure(self, container_id: str, meter: Meter, work: Work) -> Measured:
        tell = self.progress.tell
        tell(f"start: on {self.place.label}")
        self.began = time.monotonic()
        _replica.start(self.client, container_id)
        _replica.wait_healthy(self.client, container_id, self.start_timeout_seconds, tell)
        measured = Measured(start_mib=self._read(meter, container_id))
        tell(f"fit to serve: {measured.start_mib} MiB at most so far")
        for at_once in work.at_once:
            for request in work.requests:
                self.still_ours()
                began = time.monotonic()
                self._send(container_id, request, at_once)
                while meter.looks < LEAST_LOOKS and time.monotonic() - began < AGAIN_SECONDS:
                    self._send(container_id, request, at_once)
                wave = {
                    "name": request.name,
                    "at_once": at_once,
                    "peak_mib": self._read(meter, container_id),
                    "seconds": round(time.monotonic() - began, 1),
                }
                measured.waves.append(wave)
                tell(f"{at_once} x {request.name}: {wave['peak_mib']} MiB, {wave['seconds']:g} s")
        if not _replica.look(self.client, container_id).running:
            raise _replica.stopped(self.client, container_id, time.monotonic() - self.began)
        return measured

    def _read(self, meter: Meter, container_id: str) -> int:
        """The most since the last time; what cannot be read is no figure to go by."""
        most = meter.part()
        if most:
            return most
        if self._has_ended(container_id):
            raise _replica.stopped(self.client, container_id, time.monotonic() - self.began)
        seen = meter.trouble or "it does not use the card, whatever its health check says"
        raise ReplicaError(
            f"nvidia-smi shows no memory of {_replica.look(self.client, container_id).name} on "
            f"{self.place.label}: {seen}.{_replica.last_words(self.client, container_id)}"
        )

    def _send(self, container_id: str, request: Request, at_once: int) -> None:
        """The same from so many callers at once; every one has to be answered."""
        began = time.monotonic()
        now = _replica.look(self.client, container_id)
        request = dataclasses.replace(request, url=now.url + request.url)
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(ask, [request] * at_once))
        bad = [answer for answer in answers if answer.status != request.status]
        if bad:
            if bad[0].error and self._has_ended(container_id):
                waited = time.monotonic() - began
                raise _replica.stopped(self.client, container_id, waited, f"of {at_once} x {request.name}")
            raise ReplicaError(
                f"{len(bad)} of {at_once} requests at once ({request.name}) were not answered as wanted: "
                f"{_said(bad[0])}.{_replica.last_words(self.client, container_id)}"
            )

    def _has_ended(self, container_id: str) -> bool:
        """Whether it has come to its end: whoever talks to it knows that before the engine does."""
        until = time.monotonic() + END_SECONDS
        while _replica.look(self.client, container_id).running:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True


def _said(answer: Answer) -> str:
    return answer.error or f"{answer.status} {answer.text()}".strip()
