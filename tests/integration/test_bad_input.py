# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What site.yml says to bad input: what, where, which value, what to do; and that it changed nothing before.

Every refusal runs playbooks/site.yml against this machine as inventories/demo has it, one fault a host, with
paths, ports and names of this test's own: as on a new host everything would have to be made, and a demo that
runs is not in the way. Takes root and an engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

ROOT = Path(__file__).parents[2]
# The one beside this interpreter: each virtual environment has its own.
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
NO_CHECKSUM = "sha256:" + "0" * 64
CLOSED = "http://127.0.0.1:9"  # nobody listens on the port of the discard protocol

Variables = dict[str, Any]


class Run:
    """What a run of ansible-playbook did; C(messages) of failures and numbers of C(changed) tasks by host."""

    def __init__(self, code: int, output: str) -> None:
        self.code, self.output = code, output
        self.messages = {}
        for fatal in re.finditer(r"^fatal: \[(\w+)\]: FAILED! => (?=\{)", output, re.MULTILINE):
            self.messages[fatal[1]] = json.JSONDecoder().raw_decode(output, fatal.end())[0]["msg"]
        recap = re.findall(r"^(\w+) +: ok=.* changed=(\d+) ", output, re.MULTILINE)
        self.changed = {host: int(count) for host, count in recap}


class Site:
    """A host that is this machine, with everything the roles make below C(root) or called after C(id)."""

    def __init__(self, engine: docker.DockerClient, folder: Path) -> None:
        self.engine, self.folder, self.root = engine, folder, folder / "root"
        self.id = f"vfbad-{uuid.uuid4().hex[:8]}"
        self.demo = yaml.safe_load((ROOT / "inventories/demo/hosts.yml").read_text())["speech_hosts"]
        with contextlib.ExitStack() as held:
            sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            web, websecure, admin = (one.getsockname()[1] for one in sockets)
        self.variables: Variables = {
            **self.demo["hosts"]["demo"],
            "docker_engine_record_dir": f"{self.root}/etc/docker_engine",
            "container_images_repository": self.id,
            "container_images_config_dir": f"{self.root}/etc/container_images",
            "container_images_cache_dir": f"{self.root}/cache",
            "container_images_minimum_free_mib": 500,
            "traefik_config_dir": f"{self.root}/etc/traefik",
            "traefik_data_dir": f"{self.root}/var/traefik",
            "traefik_container_name": f"{self.id}-traefik",
            "traefik_socket_proxy_container_name": f"{self.id}-socket-proxy",
            "traefik_network": self.id,
            "traefik_docker_api_network": f"{self.id}-docker-api",
            "traefik_web_port": web,
            "traefik_websecure_port": websecure,
            "traefik_admin_port": admin,
            "cosyvoice_name": self.id,
            "gpu_service_network": self.id,
            "gpu_service_traefik_dynamic_dir": f"{self.root}/etc/traefik/dynamic",
            "gpu_service_data_dir": f"{self.root}/var",
            "verify_report_dir": f"{self.root}/var/verify",
        }

    def command(self, playbook: Path, hosts: dict[str, Variables]) -> list[str]:
        """The command line, for hosts with these variables on top of the site's."""
        inventory = {
            "speech_hosts": {
                "hosts": {name: {**self.variables, **more} for name, more in hosts.items()},
                "vars": self.demo["vars"],
            }
        }
        path = self.folder / "hosts.yml"
        path.write_text(yaml.safe_dump(inventory))
        return [str(ANSIBLE_PLAYBOOK), "-i", str(path), str(playbook)]

    def start(
        self, playbook: Path, hosts: dict[str, Variables], *before: str, **environment: str
    ) -> subprocess.Popen[str]:
        """Start ansible-playbook by the command C(before), if any."""
        settings = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_NOCOWS": "1",
        }
        return subprocess.Popen(
            [*before, *self.command(playbook, hosts)],
            cwd=ROOT,
            env={**os.environ, **settings, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, playbook: Path, hosts: dict[str, Variables], **environment: str) -> Run:
        process = self.start(playbook, hosts, **environment)
        output, _ = process.communicate()
        print(output)  # shown where an assertion fails
        return Run(process.returncode, output)

    def made(self) -> list[str]:
        """Everything there is of this site on the machine: files, containers, images, networks.

        Not the lock and the empty directories of the cache: a message says to put wheels there.
        """
        files = [path for path in self.root.rglob("*") if path.is_file() or "cache" not in path.parts]
        containers = self.engine.api.containers(all=True, filters={"name": self.id})
        networks = self.engine.api.networks(names=[self.id])
        images = self.engine.api.images()
        return [
            *(str(path) for path in files if path != self.root / "cache/lock"),
            *(one["Names"][0] for one in containers),
            *(one["Name"] for one in networks),
            *(tag for one in images for tag in one["RepoTags"] or [] if tag.startswith(self.id)),
        ]


@pytest.fixture
def site(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Site]:
    made = Site(engine, tmp_path)
    yield made
    # A refusal leaves nothing; this is for what was not refused.
    for container in engine.api.containers(all=True, filters={"name": made.id}):
        engine.api.remove_container(container["Id"], force=True, v=True)
    for network in engine.api.networks(names=[made.id]):
        engine.api.remove_network(network["Id"])
    for image in engine.images.list():
        for tag in image.tags:
            if tag.startswith(made.id):
                engine.images.remove(tag)


# By host: its fault, and what has to be said about it (nothing for a host without a fault).
Faults = dict[str, tuple[Variables, list[str]]]
Refuse = Callable[..., Run]


@pytest.fixture
def refuse(site: Site) -> Refuse:
    """Run site.yml, which has to refuse with all these words, and to leave everything as it was."""

    def refuse(faults: Faults, **environment: str) -> Run:
        hosts = {name: variables for name, (variables, _) in faults.items()}
        run = site.run(ROOT / "playbooks/site.yml", hosts, **environment)
        assert run.code != 0
        assert run.messages.keys() == {host for host, (_, words) in faults.items() if words}
        for host, message in run.messages.items():
            for words in faults[host][1]:
                assert words in message
        assert run.changed == dict.fromkeys(hosts, 0)
        assert site.made() == []
        return run

    return refuse


def test_a_misspelt_variable_stops_all_hosts(refuse: Refuse) -> None:
    run = refuse(
        {
            "bad": (
                {
                    "cosyvoice_replica": 3,
                    "cosivoice_device": "cpu",
                    "traefik_web_prot": 80,
                    "docker_engine_x": 1,
                },
                [
                    "cosyvoice_replica is not a variable of this collection",
                    "did you mean cosyvoice_replicas?",
                    "did you mean cosyvoice_device?",
                    "did you mean traefik_web_port?",
                    "docker_engine_x is not a variable of this collection.",
                    "preflight_allow",
                ],
            ),
            "good": ({}, []),
        }
    )
    assert "Lay the service down" not in run.output


def test_a_user_who_is_not_root(refuse: Refuse) -> None:
    nobody = {
        "ansible_become_method": "su",
        "ansible_become_user": "nobody",
        "ansible_become_flags": "-s /bin/sh",
    }
    refuse({"bad": (nobody, ["bad is worked on as nobody, and root is needed", "Set become to true", "-K"])})


def test_a_python_that_is_too_old(refuse: Refuse, tmp_path: Path) -> None:
    """The interpreter says of itself that it is of another version."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 8, 18, 'final', 0)\n")
    interpreter = tmp_path / "python3.8"
    interpreter.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec /usr/bin/python3 "$@"\n')
    interpreter.chmod(0o755)
    said = ["bad is worked on with Python 3.8", "3.9 or newer is needed", "ansible_python_interpreter"]
    refuse({"bad": ({"ansible_python_interpreter": str(interpreter)}, said)})


def test_an_unsupported_distribution(refuse: Refuse, tmp_path: Path) -> None:
    """Each host sees another /etc/os-release: its interpreter starts in a mount namespace of its own."""

    def host(name: str, version: str) -> Variables:
        release = tmp_path / f"{name}-release"
        release.write_text(f'ID={name.lower()}\nNAME="{name}"\nVERSION_ID="{version}"\n')
        interpreter = tmp_path / f"{name}-python"
        interpreter.write_text(
            "#!/bin/sh\nexec unshare --mount sh -c "
            f"""'mount --bind {release} /etc/os-release && exec /usr/bin/python3 "$@"' sh "$@"\n"""
        )
        interpreter.chmod(0o755)
        return {"ansible_python_interpreter": str(interpreter)}

    remedies = ["Debian 12 and newer", "Ubuntu 22.04 and newer", "RHEL 9", "preflight_distribution to false"]
    refuse(
        {
            "old": (host("Ubuntu", "20.04"), ["old runs Ubuntu 20.04", *remedies]),
            "other": (host("Alpine", "3.20.1"), ["other runs Alpine 3.20.1", *remedies]),
        }
    )


@pytest.mark.slow
def test_an_engine_that_is_too_old(refuse: Refuse, engine: docker.DockerClient) -> None:
    version = engine.version()["Version"]
    refuse(
        {
            "bad": (
                {"docker_engine_minimum_version": "99.0"},
                [
                    f"Docker Engine {version}",
                    "docker_engine_minimum_version is 99.0",
                    "upgrade it, or remove it",
                ],
            )
        }
    )


@pytest.mark.slow
def test_image_sources_that_lack_what_they_need(refuse: Refuse) -> None:
    def traefik_from(**source: str) -> Variables:
        return {"container_images_sources": {"traefik": source}}

    refuse(
        {
            "checksum": (
                traefik_from(source="archive", path="traefik.tar.gz"),
                ["Image traefik: source 'archive' needs a checksum", "sha256sum"],
            ),
            "file": (
                traefik_from(source="archive", path="traefik.tar.gz", checksum=NO_CHECKSUM),
                ["Image traefik: there is no file traefik.tar.gz on the controller", "remote_src: true"],
            ),
            "digest": (
                traefik_from(source="registry", reference="docker.io/library/traefik:v3.7"),
                ["Image traefik:", "docker.io/library/traefik:v3.7", "has no digest"],
            ),
            "reference": (
                traefik_from(source="registry"),
                ["Image traefik: source 'registry' needs a reference"],
            ),
        }
    )


def test_a_weak_password_where_others_can_reach_the_dashboard(refuse: Refuse) -> None:
    weak = "Dashboard123"
    public = {"traefik_admin_address": "0.0.0.0"}
    run = refuse(
        {
            "weak": (
                {**public, "traefik_dashboard_user": "dashboard", "traefik_dashboard_password": weak},
                [
                    "traefik_dashboard_password is too weak for traefik_admin_address 0.0.0.0",
                    "12 characters or more",
                    "leave it empty and one is made",
                ],
            ),
            "none": (
                {**public, "traefik_dashboard": "insecure"},
                ["traefik_dashboard is insecure on traefik_admin_address 0.0.0.0", "use secured"],
            ),
        }
    )
    assert weak not in run.output


def test_a_port_in_use(refuse: Refuse) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [
            f"Port {port} on 127.0.0.1",
            f"process {os.getpid()}",
            "set traefik_web_port to another port",
        ]
        refuse({"bad": ({"traefik_web_port": port}, words)})


def test_more_replicas_than_fit(refuse: Refuse, site: Site, tmp_path: Path) -> None:
    """One card of 24 GB; what says so is the stand-in for nvidia-smi."""
    cards = tmp_path / "cards.json"
    cards.write_text(json.dumps({"cards": [{"name": "NVIDIA L4", "total": 23034, "reserved": 556}]}))
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        f'#!/bin/sh\nNVIDIA_SMI_STAND_IN={cards} exec /usr/bin/python3 {ROOT}/tests/support/nvidia_smi "$@"\n'
    )
    smi.chmod(0o755)
    gpu = {
        "cosyvoice_device": "gpu",
        "cosyvoice_image": "cosyvoice3-runtime",
        "cosyvoice_replicas": 3,
        "gpu_service_smi_command": str(smi),
    }
    words = [
        f"{site.id}: 3 replicas were asked for and 2 fit. Ask for at most 2, or for max.",
        "L4 #0: 23034 MiB, 556 reserved, 0 foreign -> 2 x 8192 MiB (class cap 24 GB: 2)",
    ]
    refuse({"bad": (gpu, words)})


@pytest.mark.slow
def test_a_mirror_out_of_reach(refuse: Refuse) -> None:
    """The one fault that shows only when something is fetched; nothing of what was begun stays."""
    words = [
        "Image traefik: pip could not fetch the Python packages from",
        f":env:.index-url='{CLOSED}/simple'",
        "put the wheels into",
        "Image base: No root file system of",
        "/etc/apt/",
        "apt-get update",
        "127.0.0.1:9",
    ]
    refuse(
        {"bad": ({}, words)},
        PIP_INDEX_URL=f"{CLOSED}/simple",
        PIP_RETRIES="0",
        http_proxy=CLOSED,
        https_proxy=CLOSED,
    )


class Service:
    """A service of three replicas by role gpu_service alone, on the CPU and without a Traefik of its own."""

    server = "import http.server as h, time; time.sleep(1); h.test(h.SimpleHTTPRequestHandler, port=8000)"
    client = (
        "import os, urllib.request as u; assert not os.path.exists('/run/voicefleet/drain');"
        "u.urlopen('http://127.0.0.1:8000/')"
    )

    def __init__(self, site: Site, image: str) -> None:
        self.site, self.image = site, image
        self.playbook = site.folder / "service.yml"
        play = {
            "hosts": "speech_hosts",
            "gather_subset": ["min"],
            "become": True,
            "roles": ["voicefleet.cosyvoice.gpu_service"],
        }
        self.playbook.write_text(yaml.safe_dump([play]))
        site.folder.chmod(0o755)
        (site.root / "etc/traefik/dynamic").mkdir(parents=True)

    def hosts(self, revision: str) -> dict[str, Variables]:
        return {
            "host": {
                "gpu_service_name": self.site.id,
                "gpu_service_image": self.image,
                "gpu_service_revision": revision,
                "gpu_service_command": ["python3", "-c", self.server],
                "gpu_service_port": 8000,
                "gpu_service_device": "cpu",
                "gpu_service_replicas": 3,
                "gpu_service_user": "10001",
                "gpu_service_network": "bridge",
                "gpu_service_rule": f"Host(`{self.site.id}.invalid`)",
                "gpu_service_health_test": ["CMD", "python3", "-c", self.client],
                "gpu_service_health_timeout_seconds": 10,  # other tests run beside
                "gpu_service_stop_timeout_seconds": 1,
            }
        }

    def lay_down(self, revision: str) -> int:
        """Run to the end; returns the number of tasks that changed something."""
        run = self.site.run(self.playbook, self.hosts(revision))
        assert run.code == 0
        return run.changed["host"]

    def begin(self, revision: str, *before: str) -> subprocess.Popen[str]:
        return self.site.start(self.playbook, self.hosts(revision), *before)

    def replicas(self) -> dict[str, tuple[str, str]]:
        """Every container of the service, those set aside too: name -> revision, state."""
        found = self.site.engine.api.containers(all=True, filters={"name": self.site.id})
        return {
            one["Names"][0].removeprefix(f"/{self.site.id}"): (
                one["Labels"]["voicefleet.revision"],
                one["State"],
            )
            for one in found
        }

    def wait_until(self, condition: Callable[[dict[str, tuple[str, str]]], bool]) -> None:
        deadline = (
            time.monotonic() + 300
        )  # a play that starts beside others may take a minute for its first task
        while not condition(seen := self.replicas()):
            assert time.monotonic() < deadline, seen
            time.sleep(0.05)


def all_of(revision: str) -> dict[str, tuple[str, str]]:
    return {f"-{number}": (revision, "running") for number in (1, 2, 3)}


@pytest.mark.slow
def test_a_run_that_was_killed_is_taken_up_by_the_next(site: Site, base_image: str) -> None:
    service = Service(site, base_image)

    # Everything at once, as when the host loses its power: all processes of a namespace die with its first.
    run = service.begin("1", "unshare", "--pid", "--fork", "--kill-child=KILL")
    service.wait_until(lambda seen: "-2" in seen)
    run.kill()
    run.communicate()
    assert service.replicas() != all_of("1")
    assert service.lay_down("1") > 0
    assert service.replicas() == all_of("1")

    # In an upgrade, and only ansible-playbook itself: the step that it had begun on the host goes on, and its
    # output with it. (What comes before that has ended is refused: test_killed_playbook.)
    run = service.begin("2")
    service.wait_until(lambda seen: any(revision == "2" for revision, _state in seen.values()))
    run.kill()
    assert service.replicas() != all_of("2")
    run.communicate()
    assert service.lay_down("2") > 0
    assert service.replicas() == all_of("2")
    assert service.lay_down("2") == 0
