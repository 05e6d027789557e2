# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's API over its socket with nothing but Python's own library.

This module util is private to the collection. It is for looking at a host before the Docker SDK is there;
with the SDK, use _engine. It only reads.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import typing as t

API_TIMEOUT_SECONDS = 10


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=API_TIMEOUT_SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def socket_path(docker_host: str) -> str:
    """The path in `unix:///path`. Raises ValueError for another kind of address."""
    scheme, separator, path = docker_host.partition("://")
    if scheme != "unix" or not separator or not path.startswith("/"):
        raise ValueError(
            f"docker_host is {docker_host!r}; this module looks at the engine of the host it runs on, so it "
            "has to be a socket such as unix:///var/run/docker.sock."
        )
    return path


def get(path: str, what: str) -> t.Any:
    """What the engine behind the socket `path` answers to GET `what`, from JSON. Raises OSError."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", what)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"GET {what} gave {answer.status}: {body[:200].decode(errors='replace')}")
        return json.loads(body)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"what listens at {path} is no Docker Engine: {error}") from error
    finally:
        connection.close()


def listener_pid(path: str) -> int | None:
    """The process that made the socket `path`: dockerd, or systemd where it opens the socket for dockerd."""
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(API_TIMEOUT_SECONDS)
            peer.connect(path)
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    pid: int = struct.unpack("3i", credentials)[0]
    return pid or None


def not_ours(path: str, label: str) -> list[str]:
    """Containers, images and volumes behind the socket `path` that do not bear `label`, each in words."""
    found = []
    for kind, what, key in (
        ("container", "/containers/json?all=1", None),
        ("image", "/images/json", None),
        ("volume", "/volumes", "Volumes"),
    ):
        answer = get(path, what)
        for item in (answer[key] if key else answer) or []:
            name, _unused, value = label.partition("=")
            if (item.get("Labels") or {}).get(name) != value:
                shown = item.get("Name") or next(iter(item.get("Names") or item.get("RepoTags") or []), None)
                found.append(f"{kind} {(shown or item['Id']).lstrip('/')}")
    return found
