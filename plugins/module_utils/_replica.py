# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One replica on the engine: seen, made, waited for, drained, taken away.

This module util is private to the collection. The host itself is the record: what a replica is stands in its
container's labels, so there is no state file to lose and an interrupted run is simply run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed

if t.TYPE_CHECKING:
    from docker import DockerClient

# An inspect call takes about 2 ms; this is how late a change of state may be noticed.
POLL_SECONDS = 0.1
# How the container is called that was set aside while its successor starts. No service's name has a dot.
ASIDE = ".old"
LOG_LINES = 20
LAST_WORDS_SECONDS = 3.0
# For what no longer hears: its callers are lost already.
HUNG_STOP_SECONDS = 5
# What an engine without a figure for it takes between two health checks, and for one.
DEFAULT_CHECK_SECONDS = 30.0
# By how much a health check may be overdue on a busy machine.
LATE_CHECK_SECONDS = 5.0


class ReplicaError(Exception):
    """The replica did not become what it was to be; the message holds what was seen."""


def observe(client: DockerClient, service: str, data_dir: str) -> list[Observed]:
    """The service's replicas as the engine has them, running or not, ordered by number."""
    found = []
    for summary in client.api.containers(
        all=True, filters={"label": [f"{spec.LABEL_SERVICE}={service}", f"{spec.LABEL_ROLE}=replica"]}
    ):
        labels = summary["Labels"]
        name = summary["Names"][0].lstrip("/")
        outdated = outdated_mounts(client, summary)
        found.append(
            Observed(
                number=int(labels[spec.LABEL_NUMBER]),
                name=name,
                aside=name.endswith(ASIDE),
                draining=os.path.exists(_drain_flag(control_dir(labels))),
                container_id=summary["Id"],
                slot=labels[spec.LABEL_SLOT],
                spec="" if outdated else labels.get(spec.LABEL_SPEC, ""),
                outdated_mounts=outdated,
                revision=labels.get(spec.LABEL_REVISION, ""),
                state=summary["State"],
                health=_health_of(summary["Status"]),
                image_id=summary["ImageID"],
                created=summary["Created"],
                labels=labels,
            )
        )
    return sorted(found, key=lambda replica: (replica.number, replica.aside))


def outdated_mounts(client: DockerClient, summary: dict[str, t.Any]) -> tuple[str, ...]:
    """Where a running container has mounted another directory or file than its host has in that place.

    A mount holds on to what was removed, and sees nothing of what was put in its place. One that cannot be
    looked at, as from another namespace of processes, is taken for what it was; so is one of nothing.
    """
    from docker.errors import NotFound

    if summary["State"] != "running":
        return ()
    config = json.loads(summary["Labels"].get(spec.LABEL_CONFIG, "{}"))
    read = [
        mount
        for mount in config.get("mounts", [])
        if mount["read_only"] and mount["target"] != spec.CONTROL_DIR
    ]
    if not read:
        return ()
    found = []
    with contextlib.suppress(NotFound, OSError):
        process = f"/proc/{client.api.inspect_container(summary['Id'])['State']['Pid']}"
        with open(f"{process}/cgroup", encoding="utf-8") as file:
            if summary["Id"] not in file.read():
                return ()
        for mount in read:
            with contextlib.suppress(OSError):
                if not os.path.samefile(mount["source"], f"{process}/root{mount['target']}"):
                    found.append(mount["target"])
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Look:
    """One container at one moment; C(url) is where Traefik reaches it, empty while it has no address."""

    name: str
    running: bool
    restarts: int
    health: str
    url: str
    labels: t.Mapping[str, str]
    # When its health check last began, as the engine writes it, and how long the next may take to end.
    checked_at: str = ""
    check_seconds: float = 2 * DEFAULT_CHECK_SECONDS

    @property
    def serving(self) -> bool:
        """Whether the Docker provider of Traefik takes it in."""
        return self.running and self.health == "healthy"


def look(client: DockerClient, container_id: str) -> Look:
    """The container as it is now."""
    seen = client.api.inspect_container(container_id)
    state, labels = seen["State"], seen["Config"]["Labels"] or {}
    check = seen["Config"].get("Healthcheck") or {}
    checks = (state.get("Health") or {}).get("Log") or []
    return Look(
        name=seen["Name"].lstrip("/"),
        running=state["Running"],
        restarts=seen["RestartCount"],
        health=(state.get("Health") or {}).get("Status", "none"),
        url=_url(seen, json.loads(labels.get(spec.LABEL_CONFIG, "{}"))),
        labels=labels,
        checked_at=checks[-1]["Start"] if checks else "",
        check_seconds=sum(
            (check.get(part) or 0) / 1e9 or DEFAULT_CHECK_SECONDS for part in ("Interval", "Timeout")
        ),
    )


class Pulse:
    """Keeps the health check of a container going while it is waited for.

    An engine before 23.0 that restarts with live-restore checks none of the containers that lived on, and
    calls them for ever what it called them last: https://github.com/moby/moby/issues/41871. Such a replica
    would never leave Traefik, nor come back to it. To be paused for a moment gets it checked again.
    """

    def __init__(self, client: DockerClient, container_id: str) -> None:
        self.client, self.container_id = client, container_id
        self.checked_at: str | None = None
        self.since = 0.0

    def feel(self, now: Look, tell: t.Callable[[str], None]) -> None:
        """With every look at it."""
        from docker.errors import APIError

        if now.checked_at != self.checked_at:
            self.checked_at, self.since = now.checked_at, time.monotonic()
        elif now.running and time.monotonic() - self.since > now.check_seconds + LATE_CHECK_SECONDS:
            tell("the engine does not check its health any more, as after a restart: pausing it for a moment")
            self.since = time.monotonic()
            # It may have ended meanwhile, which whoever waits sees by himself.
            with contextlib.suppress(APIError):
                self.client.api.pause(self.container_id)
            with contextlib.suppress(APIError):
                self.client.api.unpause(self.container_id)


def _url(seen: dict[str, t.Any], config: dict[str, t.Any], network: str | None = None) -> str:
    networks: dict[str, t.Any] = seen["NetworkSettings"]["Networks"] or {}
    own: dict[str, t.Any] = networks.get(config.get("network", "")) or next(iter(networks.values()), {})
    chosen = networks.get(network, {}) if network else own
    address = chosen.get("IPAddress")
    return f"http://{address}:{config['port']}" if address and config else ""


def control_dir(labels: t.Mapping[str, str]) -> str:
    """The directory of the host in which a container with these labels looks for its drain flag."""
    return spec.control_directory(json.loads(labels.get(spec.LABEL_CONFIG, "{}")))


def find(client: DockerClient, name: str) -> str | None:
    """The id of the container of that name, if there is one."""
    from docker.errors import NotFound

    try:
        return t.cast("str", client.api.inspect_container(name)["Id"])
    except NotFound:
        return None


def describe(client: DockerClient, replica: Observed, network: str | None = None) -> dict[str, t.Any]:
    """All that is worth telling of a replica, as plain data; C(url) is how Traefik reaches it."""
    seen = client.api.inspect_container(replica.container_id)
    labels = seen["Config"]["Labels"]
    config = json.loads(labels.get(spec.LABEL_CONFIG, "{}"))
    return {
        **{key: value for key, value in dataclasses.asdict(replica).items() if key != "labels"},
        "gpu": labels[spec.LABEL_GPU],
        "image": config.get("image", seen["Config"]["Image"]),
        "image_id": seen["Image"],
        "url": _url(seen, config, network),
    }


def image_id(client: DockerClient, image: str, must_exist: bool = True) -> str:
    """The content address of an image on this host; a name without its image is an error, or empty."""
    from docker.errors import ImageNotFound

    try:
        return t.cast("str", client.images.get(image).id)
    except ImageNotFound:
        if not must_exist:
            return ""
        raise ReplicaError(
            f"The image {image} is not on this host. Role container_images brings images there; "
            "run site.yml, or correct the name."
        ) from None


def recorded_config(client: DockerClient, container_id: str) -> dict[str, t.Any]:
    """The configuration that a container was created from, as its label keeps it; empty for a stranger."""
    labels = client.api.inspect_container(container_id)["Config"]["Labels"] or {}
    return t.cast("dict[str, t.Any]", json.loads(labels.get(spec.LABEL_CONFIG, "{}")))


def make_directories(directories: dict[str, str], user: str) -> None:
    """The replica's own directories. Its user (numeric, C(uid[:gid])) may write its outputs, no other may."""
    uid, _colon, gid = user.partition(":")
    try:
        for purpose, path in directories.items():
            os.makedirs(path, mode=0o755, exist_ok=True)
            if purpose == "outputs" and uid.isdigit():
                os.chown(path, int(uid), int(gid) if gid.isdigit() else int(uid))
    except OSError as error:
        raise ReplicaError(f"The replica's directories cannot be made: {error}") from error


def create(client: DockerClient, config: dict[str, t.Any], notes: dict[str, str] | None = None) -> str:
    """Create the container, with labels C(notes) that do not count in its identity; answers its id."""
    from docker.errors import APIError

    try:
        return t.cast("str", client.api.create_container(**spec.create_arguments(config, notes))["Id"])
    except APIError as error:
        # The engine went away after it had created it and before it could say so.
        made = find(client, config["name"]) if error.status_code == 409 else None
        if made and look(client, made).labels.get(spec.LABEL_SPEC) == spec.spec_hash(config):
            return made
        raise ReplicaError(f"{config['name']} cannot be created: {error.explanation or error}") from error


def start(client: DockerClient, container_id: str) -> None:
    """Start the container; one that runs already is left as it is."""
    from docker.errors import APIError

    try:
        client.api.start(container_id)
    except APIError as error:
        raise ReplicaError(f"The replica cannot be started: {error.explanation or error}") from error


def wake_up(client: DockerClient, replica: Observed) -> None:
    """Make what runs and does not serve ready to be started: it is paused, or it hangs."""
    if replica.state == "paused":
        client.api.unpause(replica.container_id)
    elif replica.running and replica.health == "unhealthy" and not replica.draining:
        stop(client, replica.container_id, HUNG_STOP_SECONDS)


def wait_healthy(
    client: DockerClient,
    container_id: str,
    timeout_seconds: float,
    tell: t.Callable[[str], None] = lambda text: None,
) -> float:
    """Wait until Docker calls the container healthy; answers the seconds it took.

    A container that stops, starts over or turns unhealthy meanwhile is not waited for any longer. One that
    was unhealthy before, because it was draining, is.
    """
    started = time.monotonic()
    starting = False
    pulse = Pulse(client, container_id)
    while True:
        now = look(client, container_id)
        pulse.feel(now, tell)
        waited = time.monotonic() - started
        starting = starting or now.health == "starting"
        if now.serving:
            return waited
        if now.restarts > 0 or not now.running:
            raise stopped(client, container_id, waited)
        if now.health == "unhealthy" and starting:
            failure = f"{now.name} is unhealthy after {waited:.0f} s"
        elif waited > timeout_seconds:
            failure = f"{now.name} is still {now.health} after {timeout_seconds:.0f} s"
        else:
            tell(f"start: Docker calls it {now.health}")
            time.sleep(POLL_SECONDS)
            continue
        raise ReplicaError(f"{failure}.{last_words(client, container_id)}")


def raise_drain_flag(control_dir: str) -> None:
    """Make the health check fail, which is what takes the replica out of Traefik."""
    try:
        os.makedirs(control_dir, mode=0o755, exist_ok=True)
        with open(_drain_flag(control_dir), "w", encoding="utf-8"):
            pass
    except OSError as error:
        raise ReplicaError(f"The drain flag cannot be raised: {error}") from error


def lower_drain_flag(control_dir: str) -> None:
    """Without this a new container in the place of a drained one would never turn healthy."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_drain_flag(control_dir))


def stop(client: DockerClient, container_id: str, patience_seconds: float | None = None) -> None:
    """Stop a container the polite way: SIGTERM, then its own stop timeout to finish what it has in hand."""
    own = client.api.inspect_container(container_id)["Config"].get("StopTimeout") or 10
    client.api.stop(container_id, timeout=int(own if patience_seconds is None else patience_seconds))


def rename(client: DockerClient, container_id: str, name: str) -> None:
    """Call the container by another name; its labels still tell whose it is."""
    if look(client, container_id).name != name:
        client.api.rename(container_id, name)


def remove(client: DockerClient, container_id: str) -> None:
    """Remove the container with its anonymous volumes. One that has to be asked first is stopped before."""
    from docker.errors import NotFound

    with contextlib.suppress(NotFound):
        client.api.remove_container(container_id, v=True, force=True)


def _drain_flag(control_dir: str) -> str:
    return os.path.join(control_dir, "drain")


def _health_of(status: str) -> str:
    """Docker's list of containers tells the health only inside a text: V(Up 3 minutes (health: starting))."""
    for word in ("unhealthy", "healthy", "starting"):
        if word in status:
            return word
    return "none"


def last_words(client: DockerClient, container_id: str) -> str:
    """What its health check said last and how its log ends, as sentences to append to an error."""
    state = client.api.inspect_container(container_id)["State"]
    checks = (state.get("Health") or {}).get("Log") or []
    log = client.api.logs(container_id, tail=LOG_LINES).decode(errors="replace").strip()
    words = f" Its last health check said: {checks[-1]['Output'].strip()}." if checks else ""
    return words + (f" Its log ends:\n{log}" if log else " Its log is empty.")


def stopped(client: DockerClient, container_id: str, waited_seconds: float, when: str = "") -> ReplicaError:
    """The error for a container that ended when it should not have."""
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    while True:
        seen = client.api.inspect_container(container_id)
        state, name = seen["State"], seen["Name"].lstrip("/")
        # One that was started over shows how it ended only until the engine has started it again.
        if not state["Running"] or state["ExitCode"] or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    code = f"stopped with exit code {state['ExitCode']}"
    text = f"{name} {'started over' if state['Running'] and not state['ExitCode'] else code}"
    text += f" after {waited_seconds:.0f} s" + (f" {when}" if when else "")
    if state.get("OOMKilled"):
        text += ", killed for lack of memory on the host"
    return ReplicaError(f"{text}.{last_words(client, container_id)}")
