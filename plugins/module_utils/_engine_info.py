# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is of Docker Engine on this host: packages, the Docker SDK, the daemon.

This module util is private to the collection. It needs nothing but Python: the engine and the SDK are what it
looks for, so it cannot stand on them. It changes nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _engine_socket, _mounts
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import EngineError, check_sdk

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DOCKERD_PID_FILE = "/var/run/docker.pid"
PID_FILES = {
    DOCKERD_PID_FILE: "dockerd",
    "/var/run/docker/containerd/containerd.pid": "containerd",
}
Json = dict[str, t.Any]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{SYSTEM_PATH}:{os.environ.get('PATH', '')}"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def which(name: str) -> str | None:
    return shutil.which(name, path=SYSTEM_PATH)


def installed_packages() -> set[str]:
    """Names of the packages that are fully installed; empty where neither dpkg nor rpm is at work."""
    if which("dpkg-query"):
        lines = run("dpkg-query", "-W", "-f=${db:Status-Status} ${binary:Package}\n").stdout.splitlines()
        names = (line.partition(" ") for line in lines)
        return {name.partition(":")[0] for status, _unused, name in names if status == "installed"}
    if which("rpm"):
        return set(run("rpm", "-qa", "--qf", "%{NAME}\n").stdout.split())
    return set()


def package_sources() -> list[str]:
    """The files that say where this host gets its packages."""
    found = []
    for place, ending in (
        ("/etc/apt/sources.list", ""),
        ("/etc/apt/sources.list.d", (".list", ".sources")),
        ("/etc/yum.repos.d", ".repo"),
    ):
        if os.path.isfile(place):
            found.append(place)
        elif os.path.isdir(place):
            found += sorted(os.path.join(place, name) for name in os.listdir(place) if name.endswith(ending))
    return found


def stale_pid_files() -> list[str]:
    """Pid files of a dockerd or containerd that is gone, which may name a process that is another's by now.

    dockerd refuses to start beside such a file when any process has that number: what happens in a container
    that is restarted, where /var/run is no tmpfs and numbers start low again.
    """
    stale = []
    for path, program in PID_FILES.items():
        pid = _pid_in(path)
        if pid and program not in process_name(pid):
            stale.append(path)
    return stale


def _pid_in(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def process_name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def process_arguments(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\0").split("\0")
    except OSError:
        return []


def sdk() -> Json:
    """The Docker SDK of the Python that runs this: versions, and why it cannot be used (or None)."""
    try:
        import docker
        import requests
        from docker import DockerClient  # noqa: F401  a left-over empty folder "docker" imports, too
    except ImportError as error:
        return {"installed": False, "version": None, "requests_version": None, "error": str(error)}
    found: Json = {
        "installed": True,
        "version": docker.__version__,
        "requests_version": requests.__version__,
        "error": None,
    }
    try:
        check_sdk(found["version"], found["requests_version"])
    except EngineError as error:
        found["error"] = str(error)
    return found


def engine(docker_host: str, wait_seconds: float = 0, wait_for_live_restore: bool = False) -> Json:
    """The engine of this host; it gets `wait_seconds` to answer (and to have live-restore on)."""
    path = _engine_socket.socket_path(docker_host)
    dockerd = which("dockerd")
    systemd = os.path.isdir("/run/systemd/system")
    found: Json = {
        "installed": dockerd is not None,
        "dockerd": dockerd,
        "systemd": systemd,
        "enabled": systemd and run("systemctl", "is-enabled", "--quiet", "docker").returncode == 0,
        "running": False,
        "error": None,
        "version": None,
        "api_version": None,
        "pid": None,
        "arguments": [],
        "live_restore": False,
        "swarm": False,
        "containers_running": 0,
        "published_ports": {},
        "data_root": None,
        "data_root_is_mount": False,
        "stale_pid_files": [],
        "started_at": 0.0,
    }
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            version, info = _engine_socket.get(path, "/version"), _engine_socket.get(path, "/info")
            containers = _engine_socket.get(path, "/containers/json")
            waiting = wait_for_live_restore and not info.get("LiveRestoreEnabled")
        except OSError as error:
            version, info, containers, waiting = None, None, [], True
            found["error"] = str(error)
        if not waiting or time.monotonic() >= deadline:
            break
        time.sleep(0.2)
    if version is None:
        found["version"] = dockerd_version(dockerd) if dockerd else None
        found["stale_pid_files"] = stale_pid_files()
        return found
    pid = _engine_socket.listener_pid(path)
    found.update(
        running=True,
        error=None,
        version=version["Version"],
        api_version=version["ApiVersion"],
        pid=pid if pid and "dockerd" in process_name(pid) else None,
        live_restore=bool(info.get("LiveRestoreEnabled")),
        swarm=info.get("Swarm", {}).get("LocalNodeState") not in (None, "", "inactive"),
        containers_running=info.get("ContainersRunning", 0),
        published_ports={
            container["Names"][0].lstrip("/"): [
                f"{port['IP']}:{port['PublicPort']}" for port in container["Ports"] if "PublicPort" in port
            ]
            for container in containers
        },
        data_root=info.get("DockerRootDir"),
        data_root_is_mount=_mounts.is_mounted_from_elsewhere(info.get("DockerRootDir") or ""),
    )
    if found["pid"]:
        found["arguments"] = process_arguments(found["pid"])
    found["started_at"] = started_at(found["pid"] or _pid_in(DOCKERD_PID_FILE))
    return found


def programs(names: t.Sequence[str], found_engine: Json, record: Json) -> tuple[list[str], list[str]]:
    """Of programs that dockerd looks for as it starts: those that are there, and those it cannot know of.

    dockerd knows of what was there at its start. `record` has those of an earlier look (`programs`): such a
    program was replaced by a newer one since, and needs no restart.
    """
    there = {name: path for name in names if (path := which(name))}
    unseen = [
        name
        for name, path in there.items()
        if found_engine["running"]
        and name not in record.get("programs", [])
        and os.stat(path).st_ctime > found_engine["started_at"]
    ]
    return list(there), unseen


def started_at(pid: int | None) -> float:
    """When a process started, in seconds since the epoch; 0 where nobody can say."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError):
        return 0.0
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def dockerd_version(dockerd: str) -> str | None:
    """From `Docker version 20.10.24+dfsg1, build 5d6db84`."""
    words = run(dockerd, "--version").stdout.replace(",", " ").split()
    return words[words.index("version") + 1] if "version" in words[:-1] else None


def required_packages(
    found_engine: Json, found_sdk: Json, record: Json, engine_packages: list[str], sdk_packages: list[str]
) -> list[str]:
    """The packages that have to be there: the engine's where it is missing or ours, the SDK's where it is."""
    there = found_engine["installed"] or found_engine["running"]
    packages: list[str] = record.get("engine_packages") or [] if there else engine_packages
    return [*packages, *([] if found_sdk["installed"] else sdk_packages)]
