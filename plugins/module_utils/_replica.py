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
        directories = spec.replica_directories(data_dir, service, name.removesuffix(ASIDE))
        found.append(
            Observed(
                number=int(labels[spec.LABEL_NUMBER]),
                name=name,
                aside=name.endswith(ASIDE),
                draining=os.path.exists(_drain_flag(directories["control"])),
                container_id=summary["Id"],
                slot=labels[spec.LABEL_SLOT],
                spec=labels.get(spec.LABEL_SPEC, ""),
                revision=labels.get(spec.LABEL_REVISION, ""),
                state=summary["State"],
                health=_health_of(summary["Status"]),
                image_id=summary["ImageID"],
                created=summary["Created"],
                labels=labels,
            )
        )
    return sorted(found, key=lambda replica: (replica.number, replica.aside))


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
    networks = seen["NetworkSettings"]["Networks"] or {}
    chosen = networks.get(network, {}) if network else next(iter(networks.values()), {})
    address = chosen.get("IPAddress")
    return {
        **{key: value for key, value in dataclasses.asdict(replica).items() if key != "labels"},
        "gpu": labels[spec.LABEL_GPU],
        "image": config.get("image", seen["Config"]["Image"]),
        "image_id": seen["Image"],
        "url": f"http://{address}:{config['port']}" if address and config else "",
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
    for purpose, path in directories.items():
        os.makedirs(path, mode=0o755, exist_ok=True)
        if purpose == "outputs" and uid.isdigit():
            os.chown(path, int(uid), int(gid) if gid.isdigit() else int(uid))


def create(client: DockerClient, config: dict[str, t.Any]) -> str:
    """Create the container; answers its id."""
    from docker.errors import APIError

    try:
        return t.cast("str", client.api.create_container(**spec.create_arguments(config))["Id"])
    except APIError as error:
        raise ReplicaError(f"{config['name']} cannot be created: {error.explanation or error}") from error


def start(client: DockerClient, container_id: str) -> None:
    """Start the container; one that runs already is left as it is."""
    from docker.errors import APIError

    try:
        client.api.start(container_id)
    except APIError as error:
        raise ReplicaError(f"The replica cannot be started: {error.explanation or error}") from error


def wait_healthy(client: DockerClient, container_id: str, timeout_seconds: float) -> float:
    """Wait until Docker calls the container healthy; answers the seconds it took.

    A container that stops, starts over or turns unhealthy meanwhile is not waited for any longer. One that
    was unhealthy before, because it was draining, is.
    """
    started = time.monotonic()
    starting = False
    while True:
        seen = client.api.inspect_container(container_id)
        state, name = seen["State"], seen["Name"].lstrip("/")
        health = (state.get("Health") or {}).get("Status", "none")
        waited = time.monotonic() - started
        starting = starting or health == "starting"
        if health == "healthy" and state["Running"]:
            return waited
        if seen["RestartCount"] > 0 or not state["Running"]:
            failure = f"{name} stopped with exit code {state['ExitCode']} after {waited:.0f} s"
            if state.get("OOMKilled"):
                failure += ", killed for lack of memory on the host"
        elif health == "unhealthy" and starting:
            failure = f"{name} is unhealthy after {waited:.0f} s"
        elif waited > timeout_seconds:
            failure = f"{name} is still {health} after {timeout_seconds:.0f} s"
        else:
            time.sleep(POLL_SECONDS)
            continue
        raise ReplicaError(f"{failure}.{_last_words(client, container_id, state)}")


def drain(client: DockerClient, container_id: str, control_dir: str, timeout_seconds: float) -> bool:
    """Raise the drain flag and wait until Docker's health check has seen it, which takes it out of Traefik.

    Answers whether it was seen in time; a container without a working health check never shows it.
    """
    if os.path.isdir(control_dir):
        with open(_drain_flag(control_dir), "w", encoding="utf-8"):
            pass
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        state = client.api.inspect_container(container_id)["State"]
        if not state["Running"] or (state.get("Health") or {}).get("Status") != "healthy":
            return True
        time.sleep(POLL_SECONDS)
    return False


def lower_drain_flag(control_dir: str) -> None:
    """Without this a new container in the place of a drained one would never turn healthy."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_drain_flag(control_dir))


def stop(client: DockerClient, container_id: str) -> None:
    """Stop a container the polite way: SIGTERM, then its own stop timeout to finish what it has in hand."""
    patience = client.api.inspect_container(container_id)["Config"].get("StopTimeout") or 10
    client.api.stop(container_id, timeout=patience)


def rename(client: DockerClient, container_id: str, name: str) -> None:
    """Call the container by another name; its labels still tell whose it is."""
    client.api.rename(container_id, name)


def remove(client: DockerClient, container_id: str) -> None:
    """Remove the container with its anonymous volumes. One that has to be asked first is stopped before."""
    client.api.remove_container(container_id, v=True, force=True)


def _drain_flag(control_dir: str) -> str:
    return os.path.join(control_dir, "drain")


def _health_of(status: str) -> str:
    """Docker's list of containers tells the health only inside a text: V(Up 3 minutes (health: starting))."""
    for word in ("unhealthy", "healthy", "starting"):
        if word in status:
            return word
    return "none"


def _last_words(client: DockerClient, container_id: str, state: dict[str, t.Any]) -> str:
    checks = (state.get("Health") or {}).get("Log") or []
    log = client.api.logs(container_id, tail=LOG_LINES).decode(errors="replace").strip()
    words = f" Its last health check said: {checks[-1]['Output'].strip()}." if checks else ""
    return words + (f" Its log ends:\n{log}" if log else " Its log is empty.")
