# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollout waits for between its steps, each of it observed.

This module util is private to the collection. A replica has two doors. Docker's health check is the one to
Traefik, and the drain flag keeps it shut. Behind it, at the replica's own address, everything can be looked
at beforehand: whether the model is loaded, whether version and weights are the wanted ones, whether it
stays up.
"""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _metrics, _nvidia_smi, _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Card,
    MigDevice,
    SmiError,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Answer, Request, ask
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._progress import Progress
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import ApiError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_watch import (
    TraefikWatch,
    services_in,
)

if t.TYPE_CHECKING:
    from docker import DockerClient

POLL_SECONDS = 0.2
ASK_SECONDS = 5.0
# A replica that says nothing for so long, while its health check fails too, hangs; its callers are lost
# already.
HUNG_SECONDS = 10.0
# Traefik is not asked: its Docker provider acts within its throttle, 2 s unless set otherwise.
UNWATCHED_SECONDS = 4.0
# The driver counts the memory of a process for a moment after its end.
MEMORY_TIMEOUT_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long each thing may take, in seconds, and what happens when a caller will not end."""

    start_timeout_seconds: float = 180
    drain_timeout_seconds: float = 130
    drain_policy: t.Literal["abort", "cut"] = "abort"
    # For a service that cannot tell how many requests it has in hand.
    drain_seconds: float = 0
    route_timeout_seconds: float = 30
    bake_seconds: float = 5


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Where a service tells how it is; an empty path is not asked."""

    health_path: str = ""
    version_path: str = ""
    revision_key: str = "revision"
    digest_key: str = "weights_digest"
    metrics: _metrics.MetricNames | None = None


@dataclasses.dataclass(frozen=True)
class Drained:
    """What was in hand at the end of a drain; None when the service cannot tell."""

    in_flight: int | None
    hung: bool = False


class Barriers:
    """Waits, for the containers of one service."""

    def __init__(
        self,
        client: DockerClient,
        limits: Limits,
        hooks: Hooks,
        watch: TraefikWatch | None = None,
        probe_url: str = "",
        login: tuple[str, str] | None = None,
        smi_command: t.Sequence[str] = ("nvidia-smi",),
        progress: Progress | None = None,
    ) -> None:
        """Without C(watch), Traefik is not asked; without C(probe_url), no request is sent through it.

        C(login) is the user and password of Traefik's dashboard, which guards the probe's route too.
        """
        self.client, self.limits, self.hooks = client, limits, hooks
        self.watch, self.probe_url, self.login = watch, probe_url.rstrip("/"), login or ("", "")
        self.smi_command = list(smi_command)
        self.progress = progress or Progress()

    def tell(self, text: str) -> None:
        self.progress.tell(text)

    def unlisted(self, container_id: str) -> None:
        """Wait until neither Docker calls the container healthy nor Traefik sends callers to it."""
        seen = _replica.look(self.client, container_id)
        deadline = time.monotonic() + self.limits.route_timeout_seconds
        shut_since: float | None = None
        pulse = _replica.Pulse(self.client, container_id)
        while True:
            state = _replica.look(self.client, container_id)
            if state.serving:
                pulse.feel(state, self.tell)
                shut_since, left = None, "its health check has not noticed the drain flag"
            else:
                shut_since = shut_since or time.monotonic()
                left = self._still_listed(seen.url, shut_since)
            if not left:
                return
            if time.monotonic() > deadline:
                raise ReplicaError(
                    f"{seen.name} cannot be taken out of Traefik within "
                    f"{self.limits.route_timeout_seconds:g} s: {left}. It stays as it is."
                )
            self.tell(f"drain: {left}")
            time.sleep(POLL_SECONDS)

    def _still_listed(self, url: str, shut_since: float) -> str:
        if self.watch is None:
            left = UNWATCHED_SECONDS - (time.monotonic() - shut_since)
            return "Traefik is given a moment, as its API is not to be asked" if left > 0 else ""
        try:
            services = self.watch.listing(url) if url else {}
        except ApiError as error:
            return f"Traefik's API does not answer: {error}"
        return f"{', '.join(sorted(services))} of Traefik still lists {url}" if services else ""

    def idle(self, container_id: str) -> Drained:
        """Wait until the replica has no request in hand, or the drain limit has passed."""
        seen = _replica.look(self.client, container_id)
        if not seen.running:
            return Drained(0)
        metrics, started = self.hooks.metrics, time.monotonic()
        if metrics is None or not metrics.in_flight:
            return self._in_its_time(container_id)
        quiet, silent_since = 0, None
        while True:
            now = time.monotonic()
            reading = _metrics.read(seen.url, metrics, ASK_SECONDS)
            if reading is not None and reading.in_flight is None:
                # It answers, and knows no such figure: an older revision, perhaps.
                return self._in_its_time(container_id)
            count = reading.in_flight if reading else None
            if count is None:
                quiet, silent_since = 0, silent_since or now
                if not _replica.look(self.client, container_id).running:
                    return Drained(0)
                if now - silent_since > HUNG_SECONDS:
                    self.tell(f"drain: no word from it for {HUNG_SECONDS:g} s, it hangs")
                    return Drained(None, hung=True)
            else:
                silent_since = None
                quiet = quiet + 1 if count == 0 else 0
                # Twice: what Traefik had chosen just before it let go is still on its way.
                if quiet == 2:
                    return Drained(0)
                if count:
                    self.tell(f"drain: {count:g} request{'s' if count > 1 else ''} in hand")
            if now - started > self.limits.drain_timeout_seconds:
                return Drained(None if count is None else int(count))
            time.sleep(POLL_SECONDS)

    def _in_its_time(self, container_id: str) -> Drained:
        """For a service that cannot tell what it has in hand."""
        started, seconds = time.monotonic(), self.limits.drain_seconds
        self.tell(f"drain: {seconds:g} s for what it has in hand, which it cannot tell")
        while time.monotonic() - started < seconds and _replica.look(self.client, container_id).running:
            time.sleep(POLL_SECONDS)
        return Drained(None)

    def card_is_free(self, gpu: str | None, memory_mib: int | None) -> None:
        """Wait until the driver has taken back what the slot's last replica had."""
        if not gpu or not memory_mib:
            return
        deadline = time.monotonic() + MEMORY_TIMEOUT_SECONDS
        while True:
            free, why = self._free_mib(gpu)
            if free is not None and free >= memory_mib:
                return
            if time.monotonic() > deadline:
                raise ReplicaError(
                    f"There is no room on {gpu}: "
                    f"{why or f'{free} MiB are free and {memory_mib} MiB are needed'}. "
                    "nvidia-smi tells which processes hold it."
                )
            self.tell(f"start: waiting for {memory_mib} MiB of {gpu}, {why or f'{free} MiB are free'}")
            time.sleep(POLL_SECONDS)

    def _free_mib(self, gpu: str) -> tuple[int | None, str]:
        try:
            report = _nvidia_smi.query(self.smi_command, 20)
        except SmiError as error:
            return None, str(error)
        devices: list[Card | MigDevice] = [*report.cards]
        devices += [device for card in report.cards for device in card.mig_devices]
        for device in devices:
            if device.uuid == gpu:
                return (device.memory.free_mib, "") if device.memory else (None, device.unknown)
        return None, "nvidia-smi does not list it any more"

    def loaded(self, container_id: str, revision: str, weights: str = "") -> None:
        """Wait, behind the closed door, until the service says it is fit to serve, and what version it is."""
        seen = _replica.look(self.client, container_id)
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            now = _replica.look(self.client, container_id)
            if now.restarts or not now.running:
                raise _replica.stopped(self.client, container_id, waited)
            answer = ask(Request("health", now.url + self.hooks.health_path, timeout_seconds=ASK_SECONDS))
            if _is_fit(answer):
                break
            if waited > self.limits.start_timeout_seconds:
                said = answer.error or f"{answer.status} {answer.text()}"
                raise ReplicaError(
                    f"{seen.name} is not ready after {self.limits.start_timeout_seconds:g} s; "
                    f"{self.hooks.health_path} says: {said}.{_replica.last_words(self.client, container_id)}"
                )
            self.tell(f"start: {answer.text(80) or answer.error}")
            time.sleep(POLL_SECONDS)
        self.version(seen.name, _replica.look(self.client, container_id).url, revision, weights)

    def version(self, name: str, url: str, revision: str, weights: str = "") -> None:
        """Ask the replica what it is, until it answers; anything but what is wanted is an error.

        C(weights) is the digest of the weights that it has to have loaded, any if empty.
        """
        if not self.hooks.version_path:
            return
        asked = Request("version", url + self.hooks.version_path, timeout_seconds=ASK_SECONDS)
        deadline = time.monotonic() + self.limits.route_timeout_seconds
        while (answer := ask(asked)).status != 200 and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if answer.status != 200:
            raise ReplicaError(
                f"{name} does not tell its version at {self.hooks.version_path}: "
                f"{answer.error or f'{answer.status} {answer.text()}'}."
            )
        said = self._revision(answer)
        if revision and said != revision:
            raise ReplicaError(
                f"{name} is revision {said or 'unknown'}, and {revision} was wanted. "
                "Its image or its settings are those of another revision."
            )
        loaded = self._told(answer, self.hooks.digest_key)
        if weights and loaded != weights:
            raise ReplicaError(
                f"{name} is revision {said or 'unknown'}, but "
                + (f"has loaded weights {loaded}" if loaded else "does not tell which weights it has loaded")
                + f", and {weights} were wanted: other files under one name. Look at the host's disk and at "
                "what is mounted in the replica."
            )

    def _revision(self, answer: Answer) -> str:
        key = self.hooks.revision_key
        return self._told(answer, key) if isinstance(answer.json(), dict) else answer.text()

    def _told(self, answer: Answer, key: str) -> str:
        said = answer.json()
        return str(said.get(key) or "") if isinstance(said, dict) else ""

    def bake(self, container_id: str) -> None:
        """Watch it for a while: what dies of its first minute shall not take callers with it."""
        started = time.monotonic()
        if self.limits.bake_seconds:
            self.tell(f"bake: watching it for {self.limits.bake_seconds:g} s")
        while time.monotonic() - started < self.limits.bake_seconds:
            now = _replica.look(self.client, container_id)
            if now.restarts or not now.running:
                raise _replica.stopped(
                    self.client, container_id, time.monotonic() - started, "in its bake time"
                )
            time.sleep(POLL_SECONDS)

    def listed(self, container_id: str, revision: str) -> None:
        """Wait until Traefik sends callers to it, and a request through Traefik has come back from it."""
        seen = _replica.look(self.client, container_id)
        wanted = services_in(seen.labels)
        watch = self.watch
        if watch is None or not wanted:
            return
        deadline = time.monotonic() + self.limits.route_timeout_seconds
        while True:
            left = _not_yet_listed(watch, seen.url, wanted) or self._not_yet_reached(seen.name, revision)
            if not left:
                return
            now = _replica.look(self.client, container_id)
            if now.restarts or not now.running:
                raise _replica.stopped(self.client, container_id, self.limits.route_timeout_seconds)
            if time.monotonic() > deadline:
                raise ReplicaError(
                    f"{seen.name} is healthy, and after {self.limits.route_timeout_seconds:g} s Traefik does "
                    f"not "
                    f"send callers to it: {left}."
                )
            self.tell(f"route: {left}")
            time.sleep(POLL_SECONDS)

    def _not_yet_reached(self, name: str, revision: str) -> str:
        """A request that Traefik can only give to this replica; the host's name says so."""
        if not self.probe_url:
            return ""
        path = self.hooks.version_path or self.hooks.health_path or "/"
        answer = ask(
            Request(
                "probe",
                self.probe_url + path,
                headers={"Host": f"{name.removesuffix(_replica.ASIDE)}.replica.internal"},
                timeout_seconds=ASK_SECONDS,
                validate_certs=False,
                username=self.login[0],
                password=self.login[1],
            )
        )
        if answer.status is None or answer.status >= 500 or answer.status in (401, 403, 404):
            return f"a request through Traefik got {answer.status or answer.error}"
        if self.hooks.version_path and revision and self._revision(answer) != revision:
            return f"a request through Traefik was answered by revision {self._revision(answer)}"
        return ""


def _is_fit(answer: Answer) -> bool:
    """Fit to serve, or it would be without its drain flag, which a service that reads the flag says."""
    if answer.status is None:
        return False
    said = answer.json() if answer.status == 503 else None
    return 200 <= answer.status < 400 or (isinstance(said, dict) and said.get("status") == "draining")


def _not_yet_listed(watch: TraefikWatch, url: str, wanted: set[str]) -> str:
    try:
        listing = watch.listing(url)
    except ApiError as error:
        return f"Traefik's API does not answer: {error}"
    missing = sorted(name for name in wanted if listing.get(name) != "UP")
    return f"waiting for {', '.join(missing)} of Traefik to list {url}" if missing else ""
