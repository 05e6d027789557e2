# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica's specification, and the container that Docker makes of it.

This module util is private to the collection. The specification is the same for all replicas of a service;
what differs from one to the next is written with the placeholders V({replica}) (its name) and V({number}).

Everything a container is created from is in the dict that C(container_config) returns. Its hash is the
identity of a replica: kept as a label, compared by the plan, so that any change of the specification, of the
image's content or of the slot is seen, and nothing else is.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _mps
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._container_gpus import device_request
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import PlanError, Slot

LABEL_MANAGED = "voicefleet.managed"
LABEL_ROLE = "voicefleet.role"
LABEL_SERVICE = "voicefleet.service"
LABEL_NUMBER = "voicefleet.replica"
LABEL_SLOT = "voicefleet.slot"
LABEL_GPU = "voicefleet.gpu"
LABEL_REVISION = "voicefleet.revision"
LABEL_WEIGHTS = "voicefleet.weights"
LABEL_SPEC = "voicefleet.spec"
LABEL_CONFIG = "voicefleet.config"
# What all replicas of the service were made from, as JSON {"specification": ..., "image_id": ...}: this one,
# and the one that ran before it, which is what a rollback goes back to. Neither counts in the hash.
LABEL_SPECIFICATION = "voicefleet.specification"
LABEL_PREVIOUS = "voicefleet.previous"

# Inside every replica: the drain flag is the file "drain" in this directory.
CONTROL_DIR = "/run/voicefleet"
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)

ARGUMENT_SPEC: dict[str, Any] = {
    "image": {"type": "str", "required": True},
    "revision": {"type": "str", "default": ""},
    "weights_digest": {"type": "str", "default": ""},
    "command": {"type": "list", "elements": "str", "default": []},
    "entrypoint": {"type": "list", "elements": "str", "default": []},
    "environment": {"type": "dict", "default": {}},
    "mounts": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "source": {"type": "path", "required": True},
            "target": {"type": "str", "required": True},
            "read_only": {"type": "bool", "default": True},
        },
    },
    "outputs_target": {"type": "str", "default": "/outputs"},
    "port": {"type": "int", "required": True},
    "network": {"type": "str", "required": True},
    "labels": {"type": "dict", "default": {}},
    "health": {
        "type": "dict",
        "required": True,
        "options": {
            "test": {"type": "list", "elements": "str", "required": True},
            "interval_seconds": {"type": "float", "default": 2},
            "timeout_seconds": {"type": "float", "default": 2},
            "retries": {"type": "int", "default": 1},
            "start_period_seconds": {"type": "float", "default": 180},
        },
    },
    "user": {"type": "str", "default": ""},
    "capabilities": {"type": "list", "elements": "str", "default": []},
    "read_only": {"type": "bool", "default": True},
    "tmpfs": {"type": "dict", "default": {"/tmp": "mode=1777"}},  # noqa: S108 - a path inside the container
    "shm_size_mib": {"type": "int", "default": 64},
    "memory_mib": {"type": "int", "default": 0},
    "stop_timeout_seconds": {"type": "int", "default": 90},
    "gpu_access": {"type": "str", "choices": ["hook", "cdi"], "default": "hook"},
}

# A slot as modules take it: the fields of _plan.Slot.
SLOT_OPTIONS: dict[str, Any] = {
    "gpu": {"type": "str"},
    "index": {"type": "int", "required": True},
    "memory_mib": {"type": "int"},
    "mps": {
        "type": "dict",
        "options": {
            "thread_percentage": {"type": "int", "required": True},
            "pipe_dir": {"type": "path", "required": True},
            "uid": {"type": "str", "required": True},
        },
    },
}


def container_config(
    service: str,
    number: int,
    slot: Slot,
    specification: dict[str, Any],
    image_id: str,
    data_dir: str,
    name: str = "",
) -> dict[str, Any]:
    """Everything that the container of one replica is created from, as plain data.

    C(specification) is as C(ARGUMENT_SPEC) declares it, C(image_id) the content address of its image.
    C(name) is for a container that is no replica.

    :raises PlanError: the slot is on a card that MPS shares, and such a replica cannot be a client of it.
    """
    name = name or f"{service}-{number}"

    def fill(value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return text.replace("{replica}", name).replace("{number}", str(number))

    directories = replica_directories(data_dir, service, name, slot.key)
    mounts = [
        {"source": directories["control"], "target": CONTROL_DIR, "read_only": True},
        {"source": directories["outputs"], "target": specification["outputs_target"], "read_only": False},
        *({**mount, "source": fill(mount["source"])} for mount in specification["mounts"]),
    ]
    labels = {fill(key): fill(value) for key, value in specification["labels"].items()}
    labels.update(
        {
            LABEL_MANAGED: "true",
            LABEL_ROLE: "replica",
            LABEL_SERVICE: service,
            LABEL_NUMBER: str(number),
            LABEL_SLOT: slot.key,
            LABEL_GPU: slot.gpu or "",
            LABEL_REVISION: specification["revision"],
        }
    )
    if specification.get("weights_digest"):
        # Left out where it is not known: what ran before there was such a label is then what is wanted.
        labels[LABEL_WEIGHTS] = specification["weights_digest"]
    passed_on = (
        "command", "entrypoint", "port", "network", "health", "user", "capabilities",
        "read_only", "tmpfs", "shm_size_mib", "memory_mib", "stop_timeout_seconds",
    )  # fmt: skip
    config = {
        "name": name,
        "image": specification["image"],
        "image_id": image_id,
        "environment": {key: fill(value) for key, value in specification["environment"].items()},
        "mounts": mounts,
        "labels": labels,
        "gpu": slot.gpu,
        # Left out where it is as it was before there was CDI: what runs is then what is wanted.
        **({"gpu_access": "cdi"} if slot.gpu and specification.get("gpu_access") == "cdi" else {}),
        **{key: specification[key] for key in passed_on},
    }
    if slot.mps:
        fault = _mps.fault(service, slot.mps, specification)
        if fault:
            raise PlanError(fault)
        # Nothing of this is in the configuration of other replicas, whose hashes so stay what they were.
        config["environment"].update(_mps.environment(slot.mps, slot.memory_mib))
        mounts.append(_mps.mount(slot.mps))
        # Clients and the daemon's server meet in shared memory too.
        config["ipc"] = "host"
    return config


def spec_hash(config: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for all of a container's configuration.

    The image counts by its content, not by the name it was asked for with.
    """
    counted = {key: value for key, value in config.items() if key != "image"}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]


def replica_directories(data_dir: str, service: str, name: str, slot: str) -> dict[str, str]:
    """The directories on the host that belong to one replica and outlive its container.

    C(slot) is the slot's key. Each has a control directory of its own: while a replica moves from one slot to
    another, one of its two containers can be drained and the other not.
    """
    own = posixpath.join(data_dir, service, name)
    return {
        "outputs": posixpath.join(own, "outputs"),
        "control": posixpath.join(own, "control", slot.replace("/", "-")),
    }


def control_directory(config: dict[str, Any]) -> str:
    """Where a container of that configuration looks for its drain flag; empty for a stranger's."""
    mounts = config.get("mounts", [])
    return next((mount["source"] for mount in mounts if mount["target"] == CONTROL_DIR), "")


def origin(specification: dict[str, Any], image_id: str) -> str:
    """What all replicas of a service are made from, as a label holds it."""
    return _compact({"specification": specification, "image_id": image_id})


def origin_labels(
    specification: dict[str, Any], image_id: str, previous: dict[str, Any] | None = None
) -> dict[str, str]:
    """Labels that tell what a container was made from, and what ran before, which a rollback goes back to.

    They do not count in the replica's identity.
    """
    labels = {LABEL_SPECIFICATION: origin(specification, image_id)}
    return {**labels, LABEL_PREVIOUS: _compact(previous)} if previous else labels


def create_arguments(config: dict[str, Any], notes: dict[str, str] | None = None) -> dict[str, Any]:
    """Keyword arguments for C(create_container) of the Docker SDK's low-level client (5.0.3 to 7.2).

    C(notes) are labels that do not count in the replica's identity.
    """
    from docker.types import Healthcheck, HostConfig, Mount

    health = config["health"]
    host: dict[str, Any] = {
        "version": "1.41",
        "network_mode": config["network"],
        "restart_policy": {"Name": config.get("restart", "unless-stopped")},
        "read_only": config["read_only"],
        "tmpfs": config["tmpfs"],
        "cap_drop": ["ALL"],
        "cap_add": config["capabilities"],
        "security_opt": ["no-new-privileges"],
        "shm_size": config["shm_size_mib"] * 2**20,
        "init": True,
        "mounts": [
            Mount(mount["target"], mount["source"], type="bind", read_only=mount["read_only"])
            for mount in config["mounts"]
        ],
    }
    if config.get("ipc"):
        host["ipc_mode"] = config["ipc"]
    if config["memory_mib"]:
        host["mem_limit"] = config["memory_mib"] * 2**20
    if config["gpu"]:
        host["device_requests"] = [device_request(config["gpu"], config.get("gpu_access", "hook"))]
    return {
        "image": config["image_id"],
        "name": config["name"],
        "hostname": config["name"],
        "command": config["command"] or None,
        "entrypoint": config["entrypoint"] or None,
        # Without it Python keeps a replica's last lines to itself when it dies.
        "environment": {"PYTHONUNBUFFERED": "1", **config["environment"]},
        "labels": {
            **(notes or {}),
            **config["labels"],
            LABEL_SPEC: spec_hash(config),
            LABEL_CONFIG: _compact(config),
        },
        "user": config["user"] or None,
        "stop_timeout": config["stop_timeout_seconds"],
        "ports": [config["port"]],
        "healthcheck": Healthcheck(
            test=health["test"],
            interval=_nanoseconds(health["interval_seconds"]),
            timeout=_nanoseconds(health["timeout_seconds"]),
            retries=health["retries"],
            start_period=_nanoseconds(health["start_period_seconds"]),
        ),
        "host_config": HostConfig(**host),
    }


def readable(config: dict[str, Any] | None) -> dict[str, Any]:
    """A configuration as it may be shown in a diff: what looks like a secret is not."""
    if not config:
        return {}
    environment = {
        key: "(hidden)" if SECRET_NAME.search(key) else value for key, value in config["environment"].items()
    }
    return {**config, "environment": environment}


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
