# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that makes a client of the Docker Engine API.

Works with the Docker SDK for Python 5.0.3 (Debian 12) to 7.2. The SDK is imported only when a client is
asked for, so that a host without it gets a sentence and not a traceback.
"""

from __future__ import annotations

import re
import sys
import time
import typing as t

if t.TYPE_CHECKING:
    from docker import DockerClient

DEFAULT_DOCKER_HOST = "unix:///var/run/docker.sock"
DEFAULT_TIMEOUT_SECONDS = 60
MINIMUM_SDK = "5.0.3"

# requests 2.32 changed how adapters are chosen; the SDK follows since 7.1.0. Any older SDK with a newer
# requests fails on its first call with "Not supported URL scheme http+docker". Distributions ship matching
# pairs; `pip install -U requests` for the system's Python breaks them.
REQUESTS_THAT_BREAKS_OLD_SDKS = "2.32.0"
FIRST_SDK_FOR_THAT_REQUESTS = "7.1.0"

# An engine with live-restore is back within a few seconds; one that has many containers to look at takes
# longer.
RESTART_SECONDS = 90.0
RESTART_POLL_SECONDS = 0.5


class EngineError(Exception):
    """The engine cannot be used from here; the text says why and what to do about it."""


def version_tuple(version: str) -> tuple[int, ...]:
    """`20.10.24+dfsg1` -> (20, 10, 24); what follows the leading figures is not part of the order."""
    figures = re.match(r"\d+(?:\.\d+)*", version.strip())
    return tuple(int(figure) for figure in figures.group().split(".")) if figures else ()


def check_sdk(sdk: str, requests: str) -> None:
    """Raise EngineError when these versions of the Docker SDK and of requests cannot work."""
    if version_tuple(sdk) < version_tuple(MINIMUM_SDK):
        raise EngineError(
            f"The Docker SDK for Python {sdk} of {sys.executable} is too old, {MINIMUM_SDK} is the minimum. "
            "Upgrade the package python3-docker."
        )
    if version_tuple(sdk) < version_tuple(FIRST_SDK_FOR_THAT_REQUESTS) and version_tuple(
        requests
    ) >= version_tuple(REQUESTS_THAT_BREAKS_OLD_SDKS):
        raise EngineError(
            f"The Docker SDK for Python {sdk} and requests {requests} of {sys.executable} do not work "
            "together: every call fails with 'Not supported URL scheme http+docker'. "
            f"Either upgrade the SDK to {FIRST_SDK_FOR_THAT_REQUESTS} or newer, or go back to a requests "
            f"below 2.32. A 'pip install' beside the distribution's packages is the usual cause; "
            "'pip uninstall requests' brings back the distribution's own."
        )


def connect(docker_host: str = DEFAULT_DOCKER_HOST, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> DockerClient:
    """A client of the engine at `docker_host`, speaking the newest API version both sides know.

    `timeout` is in seconds and holds for each call. Raises EngineError.
    """
    try:
        import docker
        import requests
        from docker.errors import DockerException
    except ImportError as error:
        raise EngineError(
            f"The Docker SDK for Python cannot be imported by {sys.executable}: {error}. Install the package "
            "python3-docker (on RHEL and its relatives it is in EPEL), or let ansible_python_interpreter "
            "point to a Python that has it."
        ) from error
    check_sdk(getattr(docker, "__version__", "0"), requests.__version__)
    try:
        return docker.DockerClient(base_url=docker_host, version="auto", timeout=t.cast(int, timeout))
    except (DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(_explain(docker_host, str(error))) from error


def outlast_restarts(client: DockerClient, seconds: float = RESTART_SECONDS) -> None:
    """Let every call of C(client) wait, up to C(seconds), for an engine that is being restarted.

    A call whose answer was lost is made again, so it may find done what it asks for: whoever uses this has to
    take that for success.
    """
    import requests

    send = client.api.send

    def patient_send(request: t.Any, **options: t.Any) -> t.Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return send(request, **options)
            except requests.exceptions.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RESTART_POLL_SECONDS)

    setattr(client.api, "send", patient_send)  # noqa: B010 - of this one client, not of its class


def _explain(docker_host: str, error: str) -> str:
    """What to do about a failed first call, told from the SDK's text (it wraps the system's errors)."""
    if "FileNotFoundError" in error or "ConnectionRefusedError" in error or "Connection refused" in error:
        remedy = "Nothing listens there: start the engine (role docker_engine) or correct docker_host."
    elif "PermissionError" in error or "Permission denied" in error:
        remedy = "This user may not use it: run as root (become: true), or as a member of the group docker."
    elif "timed out" in error:
        remedy = "It does not answer: look at the log of dockerd on that host."
    else:
        remedy = "Check docker_host and the log of dockerd on that host."
    return f"No Docker Engine at {docker_host}: {error}. {remedy}"
