# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role traefik by ansible-playbook on a real engine: the proxy, the login, routes, restarts, the take-down.

The tests are chapters of one story: they share one set-up and run in the order in which they stand.
"""

from __future__ import annotations

import base64
import email.message
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_labels import labels_of

ROOT = Path(__file__).parents[2]
# A replica: GET tells its name, /slow speaks for 4 s, POST is refused with 503 where BUSY is set: after so
# many seconds, in two pieces with a pause between them, as on a busy host.
BACKEND = """
import http.server, os, time
class Answer(http.server.BaseHTTPRequestHandler):
    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "1")
        self.end_headers()
        time.sleep(0.3 if status == 503 else 0)
        self.wfile.write(body)
    def do_GET(self):
        if not self.path.endswith("/slow"):
            return self.reply(200, os.environ["NAME"].encode())
        self.send_response(200)
        self.end_headers()
        for _ in range(8):
            self.wfile.write(b"speech")
            self.wfile.flush()
            time.sleep(0.5)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        busy = os.environ.get("BUSY")
        if busy:
            time.sleep(float(busy))
            print("refused", flush=True)
        self.reply(503 if busy else 200, os.environ["NAME"].encode())
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("", 8000), Answer).serve_forever()
"""
LISTENS = "import socket; socket.create_connection(('127.0.0.1', 8000), 10)"
# Run inside the inner network, as whoever broke into Traefik would: one line "status method path" a request.
ASK = """
import http.client, sys
for method, path in (line.split() for line in sys.argv[2:]):
    connection = http.client.HTTPConnection(sys.argv[1], 2375, timeout=10)
    connection.request(method, path)
    print(connection.getresponse().status, method, path)
"""


@pytest.fixture(scope="session")
def socket_proxy_image(engine: docker.DockerClient) -> str:
    variable = "VOICEFLEET_SOCKET_PROXY_IMAGE"
    tags = [tag for image in engine.images.list("voicefleet/socket_proxy") for tag in image.tags]
    if not (os.environ.get(variable) or tags):
        pytest.fail(
            f"no image voicefleet/socket_proxy:* on this engine: build it by `make images`, or set {variable}"
        )
    return os.environ.get(variable) or str(tags[0])


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Site:
    """One Traefik of this test, set up by the role; its containers and networks begin with ``id``."""

    def __init__(self, engine: docker.DockerClient, images: dict[str, str], folder: Path) -> None:
        self.engine, self.images, self.folder = engine, images, folder
        self.id = f"vfrole{uuid.uuid4().hex[:6]}"
        self.web, self.websecure, self.admin = free_ports(3)
        self.config = folder / "etc" / "traefik"
        self.variables: dict[str, Any] = {
            "traefik_image": images["traefik"],
            "traefik_socket_proxy_image": images["socket_proxy"],
            "traefik_container_name": f"{self.id}-traefik",
            "traefik_socket_proxy_container_name": f"{self.id}-proxy",
            "traefik_network": self.id,
            "traefik_docker_api_network": f"{self.id}-api",
            "traefik_config_dir": str(self.config),
            "traefik_data_dir": str(folder / "lib" / "traefik"),
            "traefik_web_address": "127.0.0.1",
            "traefik_web_port": self.web,
            "traefik_websecure_address": "127.0.0.1",
            "traefik_websecure_port": self.websecure,
            "traefik_admin_port": self.admin,
            "traefik_docker_constraints": f"Label(`vf.test`, `{self.id}`)",
            "traefik_retry_timeout": "2s",
        }

    def play(
        self, *arguments: str, tasks_from: str = "main", **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        """ansible-playbook with the role; its output is in ``stdout``."""
        playbook = self.folder / "site.yml"
        role = {"name": "voicefleet.cosyvoice.traefik", "tasks_from": tasks_from}
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": "/usr/bin/python3", **self.variables, **variables},
            "tasks": [{"ansible.builtin.import_role": role}],
        }
        playbook.write_text(json.dumps([play]))
        return subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), str(playbook), *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def play_well(self, *arguments: str, **variables: Any) -> str:
        done = self.play(*arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def container(self, name: str) -> Any:
        return self.engine.containers.get(f"{self.id}-{name}")

    def replica(self, name: str, **environment: str) -> Any:
        return self.engine.containers.run(
            self.images["base"],
            ["python3", "-c", BACKEND],
            name=f"{self.id}-{name}",
            environment={"NAME": name, **environment},
            network=self.id,
            # Traefik lists what is healthy: what does not listen yet would be a 502.
            healthcheck={
                "test": ["CMD", "python3", "-ISc", LISTENS],
                "interval": 10**9,
                "timeout": 10 * 10**9,
            },
            labels={
                "vf.test": self.id,
                **labels_of(
                    {
                        "name": "speech",
                        "rule": "PathPrefix(`/speech`)",
                        "port": 8000,
                        "middlewares": ["security-headers@file", "retry@file"],
                        # In turn: p2c would know who is busy by requests in hand, and these have none.
                        "strategy": "wrr",
                        "flush_interval": "0",
                    }
                ),
            },
            detach=True,
        )

    def retire(self, *names: str) -> None:
        """Remove these replicas; Traefik has forgotten them then."""
        others = self.servers() - len(names)
        for name in names:
            self.container(name).remove(force=True)
        seconds_until(lambda: self.servers() == others)

    def fetch(self, path: str, body: bytes | None = None) -> tuple[int, str, email.message.Message]:
        """Status, body and headers of a request through Traefik's entry point web."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.web}{path}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, "", error.headers
        except (urllib.error.URLError, ConnectionError):
            return 0, "", email.message.Message()

    def api(self, path: str, password: str | None = None) -> tuple[int, Any]:
        """Status and content of an answer of Traefik's API."""
        password = (self.config / "dashboard_password").read_text() if password is None else password
        login = base64.b64encode(f"admin:{password}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin}{path}", headers={"Authorization": f"Basic {login}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None
        except (urllib.error.URLError, ConnectionError):
            return 0, None

    def servers(self) -> int:
        found = self.api("/api/http/services/speech@docker")[1]
        return len(found["loadBalancer"]["servers"]) if found else 0

    def remove(self) -> None:
        for container in self.engine.containers.list(all=True, filters={"name": f"^/{self.id}-"}):
            container.remove(force=True, v=True)
        for network in self.engine.networks.list(filters={"name": self.id}):
            network.remove()


def seconds_until(true: Callable[[], bool], limit: float = 60) -> float:
    """How long it took to become true."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < limit, f"not so after {limit} s"
        time.sleep(0.01)
    return time.monotonic() - begin


@pytest.fixture(scope="module")
def site(
    engine: docker.DockerClient,
    traefik_image: str,
    socket_proxy_image: str,
    base_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    images = {"traefik": traefik_image, "socket_proxy": socket_proxy_image, "base": base_image}
    site = Site(engine, images, tmp_path_factory.mktemp("traefik"))
    yield site
    site.remove()


def test_check_mode_on_a_host_without_any_of_it_changes_nothing(site: Site) -> None:
    assert re.search(r"changed=[1-9]", site.play_well("--check", "--diff"))
    assert not site.config.exists()
    assert not site.engine.networks.list(filters={"name": site.id})


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"traefik_dashboard_password": "admin-1", "traefik_admin_address": "0.0.0.0"}, "too weak"),
        ({"traefik_dashboard": "insecure", "traefik_admin_address": "0.0.0.0"}, "other hosts can reach"),
        ({"traefik_read_timeout": "5 minutes"}, "is no time"),
        ({"traefik_middlewares": ["retyr"]}, "retyr"),
        ({"traefik_static_extra": {"entrypoint": {}}}, "would ignore"),
        ({"traefik_web_port": 8123, "traefik_admin_port": 8123}, "web and admin both want port 8123"),
    ],
)
def test_bad_input_is_refused_before_any_change(site: Site, variables: dict[str, Any], said: str) -> None:
    done = site.play(tasks_from="preflight", **variables)
    assert done.returncode == 2
    assert said in " ".join(done.stdout.split())
    assert not site.config.exists()


def test_a_taken_port_is_refused_before_any_change(site: Site) -> None:
    with socket.create_server(("127.0.0.1", site.web)):
        done = site.play()
    assert done.returncode == 2
    assert str(site.web) in done.stdout
    assert not site.config.exists()


def test_the_first_run_shows_the_login_and_traefik_answers(site: Site) -> None:
    begin = time.monotonic()
    output = site.play_well()
    print(f"first run: {time.monotonic() - begin:.1f} s")
    password = (site.config / "dashboard_password").read_text()
    assert len(password) == 32
    assert password in output
    assert (site.config / "dashboard_password").stat().st_mode & 0o777 == 0o600
    assert [point["name"] for point in site.api("/api/entrypoints")[1]] == ["admin", "web", "websecure"]
    assert site.api("/api/version", password="wrong")[0] == 401


def test_a_second_run_changes_nothing_and_keeps_the_login_to_itself(site: Site) -> None:
    begin = time.monotonic()
    output = site.play_well()
    print(f"second run: {time.monotonic() - begin:.1f} s")
    assert "changed=0" in output
    assert (site.config / "dashboard_password").read_text() not in output


def test_no_warning_that_can_be_avoided(site: Site) -> None:
    lines = [json.loads(line) for line in site.container("traefik").logs().decode().splitlines()]
    loud = [line for line in lines if line.get("level") not in ("info", "debug")]
    # Bad labels on containers of others, who share this engine, are not the role's doing.
    assert [line for line in loud if not line["message"].startswith("Skip container")] == []
    assert "WARNING" not in site.container("proxy").logs().decode()


def test_both_containers_are_hardened_and_only_the_proxy_has_the_socket(site: Site) -> None:
    traefik, proxy = site.container("traefik").attrs, site.container("proxy").attrs
    for attrs in (traefik, proxy):
        host = attrs["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert not attrs["Config"]["User"].startswith(("0", "root"))
        assert attrs["Config"]["Labels"]["voicefleet.managed"] == "true"
    assert [mount["Source"] for mount in proxy["Mounts"] if "docker.sock" in mount["Source"]]
    assert not [mount["Source"] for mount in traefik["Mounts"] if "docker.sock" in mount["Source"]]
    assert list(proxy["NetworkSettings"]["Networks"]) == [f"{site.id}-api"]


def test_the_proxy_passes_what_traefik_reads_and_nothing_else(site: Site) -> None:
    name = f"{site.id}-proxy"
    passed = [
        "HEAD /_ping",
        "GET /_ping",
        "GET /version",
        "GET /v1.41/containers/json?all=1",
        f"GET /v1.41/containers/{name}/json",
    ]
    refused = [
        "POST /v1.41/containers/create",
        f"POST /containers/{name}/stop",
        f"DELETE /containers/{name}",
        "GET /images/json",
        "GET /v1.41/secrets",
        f"GET /containers/{name}/logs?stdout=1",
        f"GET /containers/{name}/archive?path=/",
        "GET /containers/../images/json",
        "GET /v1.41//images/json",
        "GET /containers/%2e%2e/json",
        "PUT /containers/json",
    ]
    command = ["python3", "-c", ASK, name, *passed, *refused]
    output = site.engine.containers.run(
        site.images["base"], command, name=f"{site.id}-ask", network=f"{site.id}-api", remove=True
    )
    answers = output.decode().splitlines()
    assert answers == [f"200 {ask}" for ask in passed] + [f"403 {ask}" for ask in refused]


def test_a_labelled_container_is_routed(site: Site) -> None:
    site.replica("one")
    print(
        f"a started container is routed after {seconds_until(lambda: site.fetch('/speech')[0] == 200):.2f} s"
    )
    status, body, headers = site.fetch("/speech")
    assert (status, body) == (200, "one")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] is None
    assert [entry["name"] for entry in site.api("/api/http/routers?search=speech")[1]] == ["speech@docker"]


def test_what_a_full_replica_refuses_another_takes(site: Site) -> None:
    site.replica("busy", BUSY="0")
    seconds_until(lambda: site.servers() == 2)
    answers = [site.fetch("/speech", b"text") for _ in range(10)]
    assert [answer[:2] for answer in answers] == [(200, "one")] * 10
    assert [answer[2]["Content-Length"] for answer in answers] == ["3"] * 10, "heads that Traefik lost"
    site.retire("busy")


def test_what_all_replicas_refuse_is_a_refusal_to_the_caller(site: Site) -> None:
    site.retire("one")
    site.replica("busy", BUSY="0")
    site.replica("busy-too", BUSY="0")
    seconds_until(lambda: site.servers() == 2)
    answers = [site.fetch("/speech", b"text") for _ in range(5)]
    assert [(status, headers["Retry-After"]) for status, _body, headers in answers] == [(503, "1")] * 5
    site.retire("busy", "busy-too")


def test_who_waited_long_for_a_refusal_waits_no_longer(site: Site) -> None:
    for name in ("busy", "busy-too"):
        site.replica(name, BUSY="1.5")
    seconds_until(lambda: site.servers() == 2)
    status, _body, headers = site.fetch("/speech", b"text")
    assert (status, headers["Retry-After"]) == (503, "1")
    refusals = [site.container(name).logs().count(b"refused") for name in ("busy", "busy-too")]
    assert sum(refusals) == 2, "three attempts are allowed, and time for two of 1.5 s"
    site.retire("busy", "busy-too")
    site.replica("one")
    seconds_until(lambda: site.fetch("/speech")[0] == 200)


def test_a_killed_replica_is_out_of_rotation_within_a_second(site: Site) -> None:
    for _ in range(3):
        victim = site.replica("victim")
        seconds_until(lambda: site.servers() == 2)
        begin = time.monotonic()
        victim.kill()
        killed = time.monotonic() - begin
        gone = seconds_until(lambda: site.servers() == 1)
        print(f"killed in {killed:.2f} s, out of rotation {gone:.2f} s later")
        assert gone < 3
        victim.remove()


def test_changed_dynamic_files_apply_without_a_restart(site: Site) -> None:
    before = site.container("traefik").attrs["State"]["StartedAt"]
    output = site.play_well(traefik_response_headers={"X-Model-Version": "3-2"})
    assert "changed=1" in output
    seconds_until(lambda: site.fetch("/speech")[2]["X-Model-Version"] == "3-2")
    assert site.container("traefik").attrs["State"]["StartedAt"] == before


def test_a_changed_static_file_replaces_traefik(site: Site) -> None:
    before = site.container("traefik").id
    output = site.play_well(traefik_log_level="WARN", traefik_response_headers={"X-Model-Version": "3-2"})
    assert "changed=2" in output
    assert site.container("traefik").id != before
    seconds_until(lambda: site.fetch("/speech")[:2] == (200, "one"))


def test_a_stop_lets_the_speech_in_hand_finish(site: Site) -> None:
    traefik = site.container("traefik")
    heard: list[tuple[int, str]] = []
    caller = threading.Thread(target=lambda: heard.append(site.fetch("/speech/slow")[:2]))
    caller.start()
    time.sleep(0.5)
    begin = time.monotonic()
    traefik.stop(timeout=traefik.attrs["Config"]["StopTimeout"])
    assert time.monotonic() - begin > 2
    caller.join()
    assert heard == [(200, "speech" * 8)]
    traefik.start()


def test_restarts_in_any_order_end_in_the_same_routes(site: Site) -> None:
    for names in (["traefik"], ["proxy"], ["one", "traefik"], ["traefik", "one"]):
        for name in names:
            site.container(name).restart(timeout=1)
        took = seconds_until(lambda: site.fetch("/speech")[:2] == (200, "one"))
        print(f"restarted {' then '.join(names)}: routed {took:.2f} s later")
    # The proxy was away, and with it the stream of events: a new container is seen all the same.
    site.replica("late")
    seconds_until(lambda: site.servers() == 2)
    site.retire("late")


def test_a_changed_password_file_is_taken_over(site: Site) -> None:
    (site.config / "dashboard_password").write_text("another-password-9")
    site.play_well(traefik_log_level="WARN", traefik_response_headers={"X-Model-Version": "3-2"})
    seconds_until(lambda: site.api("/api/version")[0] == 200)


def test_absent_removes_it_all_and_the_data_only_when_told(site: Site) -> None:
    site.play_well(tasks_from="absent")
    names = [str(container.name) for container in site.engine.containers.list(all=True)]
    names = [name for name in names if name.startswith(site.id)]
    assert names == [f"{site.id}-one"]
    # The replica's network stays while it is in use, its neighbours' is gone.
    assert [network.name for network in site.engine.networks.list(filters={"name": site.id})] == [site.id]
    assert not site.config.exists()

    site.container("one").remove(force=True)
    site.play_well(tasks_from="absent", traefik_keep_data=False)
    assert not site.engine.networks.list(filters={"name": site.id})
    assert not site.config.exists()
    assert "changed=0" in site.play_well(tasks_from="absent", traefik_keep_data=False)
