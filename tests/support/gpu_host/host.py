# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A GPU host for tests on a machine without one: systemd, a real Docker Engine inside, made-up cards.

It is a container on this machine's engine (tests/support/systemd_host, and the packages and stand-ins of the
Dockerfile here), so the engine of this machine needs no runtime hook and is not touched. From Python:

    host = GpuHost("vf-gpuhost-mine")
    host.up(data, images=["base", "traefik", "socket_proxy"], traefik=True)

or the fixture ``gpu_host`` of tests/integration, which brings one up for all tests that use it; from a shell,
as molecule/gpu_host does:

    python host.py up NAME CARDS.json [--images base traefik ...] [--traefik]
    python host.py bare NAME CARDS.json [--suite trixie]
    python host.py variables         as JSON
    python host.py report NAME       {starts, samples: how many, overfilled: which}
    python host.py down NAME

``data`` is what card_memory.py describes. Ansible reaches the host by ``community.docker.docker``.

``bare()`` brings one up that site.yml has never seen, with any suite of Debian: no engine, no driver, no
toolkit. Its cards are in a made-up sysfs, NVIDIA's stand-in repository (tests/support/nvidia_repository) is
at /opt/nvidia, images of this machine are archives in /opt/images, and ``bare_variables()`` tells Ansible of
all that. It can be rebooted.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LABEL = "voicefleet.test"
REPOSITORY = "voicefleet-test/gpu-host"
# For a host of one card.
CARD = {
    "uuid": "GPU-10000000-0000-4000-8000-000000000001",
    "name": "NVIDIA GeForce RTX 4090",
    "total": 24564,
    "reserved": 346,
}
# For a container that waits until it is told to end.
SLEEPS = ("python3", "-ISc", "import signal; signal.signal(15, lambda *_: exit()); signal.pause()")
DATA = "/etc/nvidia-smi-stand-in.json"
LOGS = "/var/log/gpu-stand-in"
TRAEFIK = ("voicefleet-traefik", "voicefleet-socket-proxy")
DYNAMIC = "/etc/voicefleet/traefik/dynamic"
DATA_DIR = "/var/lib/voicefleet"
MARK = "/etc/voicefleet/traefik-is-up"
SYSFS = "/opt/sysfs"
# PCI ids of cards by their names.
PCI_DEVICES = {
    "NVIDIA GeForce RTX 4090": "0x2684",
    "NVIDIA L40S": "0x26b9",
    "NVIDIA GeForce RTX 3060": "0x2503",
    "NVIDIA A30": "0x20b7",
    "NVIDIA GeForce RTX 3090": "0x2204",
}
CLEAR = f"""
[ ! -e {DATA_DIR} ] || find {DATA_DIR} -mindepth 1 -maxdepth 1 ! -name traefik -exec rm -rf {{}} +
[ ! -e {MARK} ] || find {DYNAMIC} -newer {MARK} -type f -delete
find {LOGS} -type f -exec truncate --size 0 {{}} +
"""
IMAGES = ("traefik", "socket_proxy", "base")
BARE = """
cd /usr/local/bin
ln -sf ../lib/gpu-stand-in/gpu_host/gpu-samples .
for name in modprobe rmmod; do ln -sf ../lib/gpu-stand-in/gpu_host/kernel_module $name; done
mkdir -p /lib/modules/$(uname -r) /var/lib/prometheus/node-exporter
touch /lib/modules/$(uname -r)/modules.dep
cp ../lib/gpu-stand-in/gpu_host/*.service /etc/systemd/system
systemctl enable --quiet --now boot-id gpu-samples
"""
PASSWORD = "stand-in-host"  # of Traefik's dashboard, user admin


class HostError(Exception):
    """What was asked of the host did not go well; the message holds its words."""


def build() -> str:
    """The host's image; what did not change is not built again."""
    bare = _bare_image()
    command = ["docker", "build", "--quiet", "--build-arg", f"BASE={bare}", "--tag", REPOSITORY]
    # The builder that an engine of 20.10 has without plugins.
    _run([*command, "--file", str(HERE / "Dockerfile"), str(HERE.parent)], {"DOCKER_BUILDKIT": "0"})
    return REPOSITORY


def repository() -> Path:
    """The folder with NVIDIA's stand-in repository. Hosts have it mounted: nothing there is changed."""
    source = HERE.parent / "nvidia_repository"
    parts = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()[:12]
    folder = ROOT / f".work/nvidia-repository-{digest}"
    if not folder.exists():
        _run([sys.executable, str(source / "build.py"), str(folder)])
    return folder


def archives(names: Sequence[str] = IMAGES) -> Path:
    """The folder with this machine's images as archives; those that are there already are left."""
    folder = ROOT / ".work/images"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        image = reference(name)
        path = folder / f"{image.replace('/', '_').replace(':', '_')}.tar"
        if not path.exists():
            beside = path.with_suffix(".new")
            _run(["docker", "save", "--output", str(beside), image])
            beside.rename(path)
        link = folder / f"{name}.tar"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
    return folder


def bare_variables(images: Sequence[str] = IMAGES) -> dict[str, Any]:
    """What Ansible has to know of bare hosts: where what comes from the network elsewhere is here."""
    folder, sources = archives(images), {}
    for name in images:
        with (folder / f"{name}.tar").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sources[name] = {
            "source": "archive",
            "path": f"/opt/images/{name}.tar",
            "checksum": f"sha256:{digest}",
            "remote_src": True,
        }
    roles = {
        f"{role}_{option}": value
        for role in ("nvidia_driver", "nvidia_container_toolkit")
        for option, value in (
            ("sysfs", SYSFS),
            ("repo_url", "file:///opt/nvidia"),
        )
    }
    key = repository() / "key.asc"
    told = _run(["gpg", "--show-keys", "--with-colons", str(key)])
    fingerprint = next(line for line in told.splitlines() if line.startswith("fpr:")).split(":")[9]
    return {
        **roles,
        "nvidia_container_toolkit_repo_key_file": str(key),
        # On the host, as on a mirror that signs with a key of its own.
        "nvidia_driver_repo_key_url": "file:///opt/nvidia/key.asc",
        "nvidia_driver_repo_key_fingerprint": fingerprint,
        "container_images_sources": sources,
        "ansible_become": False,  # it is root, and the hosts have no sudo
        "traefik_dashboard_password": PASSWORD,
    }


def hard_service() -> dict[str, Any]:
    """The hard service (tests/support/hard_service) for role cosyvoice, as an image of one's own."""
    return {
        "cosyvoice_image": reference("base"),
        "cosyvoice_images": {"base": {}},
        "cosyvoice_revision": "1",
        "cosyvoice_command": ["python3", "-I", "-S", "/server.py"],
        "cosyvoice_mounts": [
            {"source": "/usr/local/lib/gpu-stand-in/hard_service/server.py", "target": "/server.py"}
        ],
        "cosyvoice_environment": {
            "SERVICE": "cosyvoice",
            "REPLICA": "{replica}",
            "REVISION": "1",
            "START_SECONDS": "1",
            "LINGER_SECONDS": "0.5",
        },
        "cosyvoice_port": 8000,
        "cosyvoice_health_test": ["CMD", "python3", "-I", "-S", "/server.py", "healthcheck"],
        "cosyvoice_version_path": "/version",
        "cosyvoice_metrics": {
            "path": "/metrics",
            "in_flight": ["hard_in_flight", "hard_queued"],
            "capacity": "hard_capacity",
            "requests": "hard_requests_total",
            "latency": "hard_first_byte_seconds",
        },
    }


class GpuHost:
    """One host, up or not. ``seconds`` tells how long each part of bringing it up took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds: dict[str, float] = {}
        self.images: dict[str, str] = {}  # base: voicefleet/base:<tag>

    # --- up and down ---

    def up(self, data: Mapping[str, Any], images: Sequence[str] = (), traefik: bool = False) -> GpuHost:
        """Start it, with these cards, these images of this machine (``base`` for voicefleet/base, or a full
        reference) and, if asked for, role traefik on it. One that is up is brought to this state."""
        self._timed("image", build)
        self._timed(
            "boot", lambda: _run([str(HERE.parent / "systemd_host/start"), self.name, REPOSITORY, "systemd"])
        )
        self.cards(data)
        self._timed("load", lambda: self.load(*images))
        if traefik:
            self._timed("traefik", self.traefik)
        return self

    def bare(self, data: Mapping[str, Any], suite: str = "") -> GpuHost:
        """Start it with these cards and nothing on it. Its suite is this machine's own if none is named."""
        image = _bare_image(suite)
        folders = {
            HERE.parent: "/usr/local/lib/gpu-stand-in",
            repository(): "/opt/nvidia",
            archives(): "/opt/images",
        }
        mounts = [f"--volume={path}:{target}:ro" for path, target in folders.items()]
        # A host that reboots comes back by itself.
        options = ["--restart=always", *mounts]
        _run([str(HERE.parent / "systemd_host/start"), self.name, image, "systemd", *options])
        self.cards({"sysfs": SYSFS, **data})
        places = [
            f"d={SYSFS}/bus/pci/devices/0000:{number:02x}:00.0; mkdir -p $d; echo 0x10de > $d/vendor;"
            f"echo {PCI_DEVICES[card['name']]} > $d/device; echo 0x030000 > $d/class"
            for number, card in enumerate(data["cards"], 1)
        ]
        self.run("sh", "-ec", "\n".join([*places, BARE]))
        return self

    def down(self) -> None:
        """Remove it, with the volume of its engine."""
        found = _run(["docker", "ps", "--all", "--quiet", "--filter", f"name=^/{self.name}$"]).split()
        if found:
            _run(["docker", "rm", "--force", "--volumes", *found])

    def load(self, *images: str) -> None:
        """Bring images of this machine's engine into the host's; those that are there already are left."""
        for image in images:
            self.images[image.removeprefix("voicefleet/").partition(":")[0]] = reference(image)
        there = self.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
        missing = sorted(set(self.images.values()) - set(there))
        if missing:
            load = f"docker save {' '.join(missing)} | docker exec -i {self.name} docker load --quiet"
            _run(["bash", "-o", "pipefail", "-c", load])

    def traefik(self, **variables: Any) -> None:
        """Role traefik: web on port 80 of ``address``, the API on 8080 with the login admin, PASSWORD."""
        self.load("traefik", "socket_proxy")
        self.playbook(
            HERE / "traefik.yml",
            traefik_image=self.images["traefik"],
            traefik_socket_proxy_image=self.images["socket_proxy"],
            traefik_dashboard_password=PASSWORD,
            **variables,
        )
        self.run("touch", MARK)  # files that are newer belong to services

    # --- cards ---

    def cards(self, data: Mapping[str, Any]) -> None:
        """Other cards and faults, from this moment on."""
        script = f"cat > {DATA}.new && mv {DATA}.new {DATA} && rm -f /run/gpu-stand-in/fault-*"
        self.run("sh", "-c", script, text=json.dumps(data))

    def starts(self, since: float = 0) -> list[dict[str, Any]]:
        """Every start of a container with a card, also those that the hook refused."""
        return self._log("starts", since)

    def modules(self, since: float = 0) -> list[dict[str, Any]]:
        """Every module of the driver that was loaded or unloaded."""
        return self._log("modules", since)

    def samples(self, since: float = 0) -> list[dict[str, Any]]:
        """What the cards held, ten times a second: {time, cards: {UUID: [used, usable]}}."""
        return self._log("samples", since)

    def overfilled(self, since: float = 0) -> list[dict[str, Any]]:
        """Starts that a card had no room for, samples beyond what is usable: none, when all is well."""
        found = [start for start in self.starts(since) if start.get("overfill")]
        return found + [
            sample
            for sample in self.samples(since)
            if any(figures and figures[0] > figures[1] for figures in sample["cards"].values())
        ]

    # --- what runs ---

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a command on the host; what it prints."""
        return _run(["docker", "exec", "--interactive", self.name, *command], text=text)

    def copy(self, path: Path, target: str) -> None:
        """A file or folder of this machine, to be there as ``target``."""
        self.run("mkdir", "-p", str(Path(target).parent))
        _run(["docker", "cp", str(path), f"{self.name}:{target}"])

    def docker(self, *arguments: str) -> str:
        return self.run("docker", *arguments)

    def containers(self, *filters: str) -> list[dict[str, Any]]:
        """All containers of the host's engine, as ``docker inspect`` has them."""
        ids = self.docker("ps", "--all", "--quiet", *(word for one in filters for word in ("--filter", one)))
        return json.loads(self.docker("inspect", *ids.split())) if ids.split() else []

    def clear(self) -> None:
        """For the next test: take away containers but Traefik's, what services laid down, and the logs."""
        gone = [one["Id"] for one in self.containers() if one["Name"].lstrip("/") not in TRAEFIK]
        if gone:
            self.docker("rm", "--force", "--volumes", *gone)
        self.run("sh", "-ec", CLEAR)

    @property
    def address(self) -> str:
        """Where this machine reaches the host."""
        inspected = json.loads(_run(["docker", "inspect", self.name]))
        return str(inspected[0]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])

    # --- Ansible ---

    @property
    def inventory(self) -> dict[str, Any]:
        variables = {
            "ansible_connection": "community.docker.docker",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        # Playbooks of the collection are for speech_hosts.
        return {
            "gpu_hosts": {"hosts": {self.name: variables}},
            "speech_hosts": {"children": {"gpu_hosts": {}}},
        }

    def playbook(self, path: Path, *options: str, **variables: Any) -> str:
        """Run a playbook on group gpu_hosts, which is this host; what it printed. HostError if it failed."""
        folder = ROOT / ".work" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.json").write_text(json.dumps(self.inventory), encoding="utf-8")
        (folder / "vars.json").write_text(json.dumps(variables), encoding="utf-8")
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [str(program), "-i", str(folder / "hosts.json"), "-e", f"@{folder / 'vars.json'}"]
        return _run([*command, *options, str(path)], {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")})

    def _log(self, name: str, since: float) -> list[dict[str, Any]]:
        lines = self.run("sh", "-c", f"cat {LOGS}/{name}.jsonl 2>/dev/null || true").splitlines()
        entries = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # the last one may be half written
                entries.append(json.loads(line))
        return [entry for entry in entries if entry["time"] >= since]

    def _timed(self, what: str, do: Callable[[], Any]) -> None:
        began = time.monotonic()
        do()
        self.seconds[what] = round(time.monotonic() - began, 1)


def _bare_image(suite: str = "") -> str:
    """The image of a host with systemd and Python alone."""
    command = [str(HERE.parent / "systemd_host/build"), "voicefleet-test/systemd-host"]
    return _run([*command, suite] if suite else command).strip()


def reference(image: str) -> str:
    """An image of this machine by its full reference: ``base`` is the newest voicefleet/base."""
    if ":" in image:
        return image
    variable = os.environ.get(f"VOICEFLEET_{image.upper()}_IMAGE")
    command = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"voicefleet/{image}"]
    found = [variable] if variable else _run(command).split()
    if not found:
        raise HostError(f"no image voicefleet/{image} on this machine's engine: build it by `make images`")
    return found[0]


def _run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, text: str | None = None
) -> str:
    done = subprocess.run(
        command,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise HostError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="A GPU host for tests on a machine without one.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up")
    up.add_argument("name")
    up.add_argument("data", type=Path)
    up.add_argument("--images", nargs="*", default=[])
    up.add_argument("--traefik", action="store_true")
    bare = commands.add_parser("bare")
    bare.add_argument("name")
    bare.add_argument("data", type=Path)
    bare.add_argument("--suite", default="")
    commands.add_parser("variables")
    for command in ("report", "down"):
        commands.add_parser(command).add_argument("name")
    given = parser.parse_args()
    if given.command == "variables":
        print(json.dumps({**bare_variables(), **hard_service()}))
        return
    host = GpuHost(given.name)
    if given.command == "down":
        host.down()
    elif given.command == "bare":
        host.bare(json.loads(given.data.read_text(encoding="utf-8")), given.suite)
    elif given.command == "report":
        counts = {"starts": len(host.starts()), "samples": len(host.samples())}
        print(json.dumps({**counts, "overfilled": host.overfilled()}))
    else:
        host.up(json.loads(given.data.read_text(encoding="utf-8")), given.images, given.traefik)
        print(json.dumps({"address": host.address, "images": host.images, "seconds": host.seconds}))


if __name__ == "__main__":
    main()
