# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at Traefik until everything is as asked for, or the deadline passes.

This module util is private to the collection.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._certificate_checks import (
    check_certificates,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, check, summary
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._container_checks import (
    Surroundings,
    addresses,
    check_containers,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._docker_provider import Containers
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Request, ask, judge
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import (
    ApiError,
    Item,
    Snapshot,
    TraefikApi,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_checks import (
    Expectations,
    check_expectations,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_containers import (
    read_containers,
    read_networks,
    try_connect,
)

if t.TYPE_CHECKING:
    from docker import DockerClient

# A Traefik that starts may shortly show another certificate or lack its users; then it stays what it is.
FINAL_AFTER_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 0.2
# One request to the API; the last one ends at most this long after the deadline.
REQUEST_TIMEOUT_SECONDS = 10.0
# So many failed checks are spelt out in the message; all are in the checks.
NAMED_IN_MESSAGE = 10


@dataclass(frozen=True)
class Engine:
    """Where and how to look at containers."""

    client: DockerClient
    with_labels: list[str] = field(default_factory=list)
    connect: bool = True
    traefik_container: str | None = None


@dataclass(frozen=True)
class Result:
    """What was found at the last look."""

    checks: list[Check]
    snapshot: Snapshot | None = None
    # Set when the API could not be read.
    error: ApiError | None = None
    warnings: list[str] = field(default_factory=list)
    looks: int = 1
    waited_seconds: float = 0

    @property
    def ok(self) -> bool:
        return all(each.ok for each in self.checks)

    def as_dict(self) -> dict[str, t.Any]:
        """What the module returns, the same keys on success and on failure."""
        have = self.snapshot or Snapshot("")
        return {
            "ok": self.ok,
            "summary": summary(self.checks),
            "checks": [each.as_dict() for each in self.checks],
            "version": have.version,
            "entrypoints": have.entrypoints,
            "routers": have.routers,
            "services": have.services,
            "middlewares": have.middlewares,
            "looks": self.looks,
            "waited_seconds": round(self.waited_seconds, 3),
        }

    def message(self) -> str:
        """V(2 of 43 checks failed: ...), each failed one with what was found and the remedy."""
        failed = [each for each in self.checks if not each.ok]
        told = [f"{each.name}: {each.found}. Remedy: {each.remedy}" for each in failed[:NAMED_IN_MESSAGE]]
        more = len(failed) - len(told)
        rest = f"; and {more} more, see checks" if more else ""
        return f"{len(failed)} of {len(self.checks)} checks failed: {'; '.join(told)}{rest}"


class Verifier:
    """Looks at one Traefik. Times are in seconds; the clock is injected for tests."""

    def __init__(
        self,
        api: TraefikApi,
        want: Expectations,
        engine: Engine | None = None,
        probes: t.Sequence[Request] = (),
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.api, self.want, self.engine, self.probes = api, want, engine, probes
        self.clock, self.sleep = clock, sleep

    def wait(self, timeout_seconds: float, interval_seconds: float) -> Result:
        """Look again and again, stop at once when all is as wanted.

        Pauses grow from 0.2 s to C(interval_seconds). An API that does not answer is waited for until the
        deadline; a wrong password, a web page or an untrusted certificate only for 3 s.
        """
        begin = self.clock()
        deadline = begin + timeout_seconds
        pause, looks = FIRST_PAUSE_SECONDS, 0
        started = ""  # of the Traefik that answered first
        seen_at: float | None = None
        final_since: float | None = None
        while True:
            looks += 1
            self.api.timeout_seconds = max(1.0, min(REQUEST_TIMEOUT_SECONDS, deadline - self.clock()))
            result = self.look(started)
            now = self.clock()
            if result.snapshot:
                started, seen_at, final_since = started or result.snapshot.started, now, None
            elif result.error and result.error.final:
                final_since = now if final_since is None else final_since
            else:
                final_since = None
            late = now >= deadline or (final_since is not None and now - final_since >= FINAL_AFTER_SECONDS)
            if self.probes and result.snapshot and (result.ok or late):
                # They cost the service work, so they come when all else is right, or is given up.
                result.checks.extend(each for probe in self.probes for each in judge(probe, ask(probe)))
            if result.ok or late:
                break
            self.sleep(max(0.0, min(pause, interval_seconds, deadline - now)))
            pause *= 1.5
        checks = result.checks
        if result.error and seen_at is not None:
            checks = [_gone(checks[0], now - seen_at), *checks[1:]]
        return Result(checks, result.snapshot, result.error, result.warnings, looks, now - begin)

    def look(self, started_before: str = "") -> Result:
        """One look. Without an answer of the API its error is the only check."""
        try:
            have = self.api.snapshot()
        except ApiError as error:
            return Result(
                [Check("Traefik's API", False, error.found, "it answers", error.remedy)], error=error
            )
        found = f"Traefik {have.version} at {self.api.url}"
        if started_before and have.started != started_before:
            found += f", restarted meanwhile ({have.started})"
        checks, warnings = [Check("Traefik's API", True, found, "it answers")], []
        containers = None
        if self.engine:
            containers, unread = self._containers(self.engine)
            checks += unread
        checks += check_expectations(self.want, have, containers)
        if self.engine and containers:
            checks += self._check_containers(self.engine, containers, have)
        routers = self._routers(containers, have)
        if have.certificates is not None:
            checks += check_certificates(routers, have.certificates)
        elif any((router.get("tls") or {}).get("certResolver") for router in routers):
            warnings.append(
                f"Traefik {have.version} does not list its certificates (3.7 and later do): whether the "
                "certificate resolvers worked was not checked. A probe of an https URL checks a certificate."
            )
        return Result(_once(checks), have, warnings=warnings)

    @staticmethod
    def _containers(engine: Engine) -> tuple[Containers | None, list[Check]]:
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        try:
            return Containers(read_containers(engine.client, engine.with_labels)), []
        except (DockerException, RequestException) as error:
            remedy = "look at dockerd's log, and at docker_host"
            return None, [Check("Docker engine", False, str(error), "it lists its containers", remedy)]

    @staticmethod
    def _check_containers(engine: Engine, containers: Containers, have: Snapshot) -> list[Check]:
        networks, checks = None, []
        if engine.traefik_container:
            try:
                networks = read_networks(engine.client, engine.traefik_container)
            except LookupError:
                remedy = "correct traefik_container, or leave it out when Traefik runs in no container here"
                checks.append(Check("Traefik's container", False, "absent", engine.traefik_container, remedy))
        connections = try_connect(addresses(containers, have)) if engine.connect else {}
        return checks + check_containers(containers, have, Surroundings(connections, networks))

    def _routers(self, containers: Containers | None, have: Snapshot) -> list[Item]:
        """The routers this run is about: those asked for, and those of the containers."""
        names = {self.want.qualified(router["name"]) for router in self.want.routers}
        names |= {f"{name}@docker" for name in (containers.names("routers") if containers else [])}
        names |= {f"{point.get('name')}-{name}" for point in have.entrypoints for name in names}
        return [router for router in have.routers if router.get("name") in names]


def _gone(api: Check, seconds: float) -> Check:
    found = (
        f"{api.found}; it answered until {seconds:.0f} s ago, then stopped or was restarted, and is not back"
    )
    return check(api.name, False, found, api.wanted, f"look why it does not come back; {api.remedy}")


def _once(checks: t.Iterable[Check]) -> list[Check]:
    """One check of each name: a service may be asked for and be a container's at once."""
    return list({each.name: each for each in reversed(list(checks))}.values())[::-1]
