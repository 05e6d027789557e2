# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module itself, its waiting, and the ways in which a real Traefik does not answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Request
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import ApiError, TraefikApi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_checks import Expectations
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_verify import (
    Engine,
    Result,
    Verifier,
)

H = "traefik.http."
ROOT = Path(__file__).parents[2]


def labels(name: str, **changes: str) -> dict[str, str]:
    return {
        "traefik.enable": "true",
        f"{H}routers.{name}.rule": f"PathPrefix(`/{name}`)",
        f"{H}routers.{name}.entrypoints": "web",
        f"{H}routers.{name}.service": name,
        f"{H}services.{name}.loadbalancer.server.port": "80",
        **changes,
    }


@pytest.fixture(scope="module")
def traefik(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Its API: open on 8080; with a password on 8081; by TLS with Traefik's own certificate on 443."""
    dynamic = tmp_path_factory.mktemp("dynamic")
    # The password is "correct"; the hash is SHA-1, which is quick.
    (dynamic / "api.yml").write_text(
        """
http:
  routers:
    locked: {rule: PathPrefix(`/api`), service: api@internal, entryPoints: [locked], middlewares: [password]}
    tls: {rule: PathPrefix(`/api`), service: api@internal, entryPoints: [secure], tls: {}}
    banned: {rule: PathPrefix(`/api`), service: api@internal, entryPoints: [banned], middlewares: [allow]}
  middlewares:
    password: {basicAuth: {users: ["admin:{SHA}MXmmXv8lI7veU8mbKZtxnBCjUjU="]}}
    allow: {ipAllowList: {sourceRange: [192.0.2.1]}}
""",
        encoding="utf-8",
    )
    lab.run("whoami", labels("whoami"), listen=80)
    entrypoints = {"locked": 8081, "secure": 443, "banned": 8082}
    started = lab.traefik(
        *(f"--entrypoints.{name}.address=:{port}" for name, port in entrypoints.items()),
        dynamic=dynamic,
        ports={f"{port}/tcp": ("127.0.0.1", None) for port in (80, 8080, *entrypoints.values())},
    )
    started.wait_for(lambda have: {"whoami@docker", "locked@file"} <= {item["name"] for item in have.routers})
    return started


def engine_of(lab: Any) -> Engine:
    return Engine(lab.engine, [f"vf.test={lab.id}"])


@pytest.mark.parametrize(
    ("port", "kind", "said"),
    [
        ("8081", "password", "401, a password is wanted"),
        ("8082", "forbidden", "403"),
        ("80", "missing", "404 page not found"),
        ("443", "tls", "certificate verify failed"),
    ],
)
def test_how_the_api_does_not_answer(traefik: Any, port: str, kind: str, said: str) -> None:
    scheme = "https" if port == "443" else "http"
    with pytest.raises(ApiError, match=said) as raised:
        TraefikApi(f"{scheme}://{traefik.ports[port]}").snapshot()
    assert raised.value.kind == kind
    assert raised.value.remedy


def test_a_web_page_is_not_the_api(traefik: Any) -> None:
    with pytest.raises(ApiError, match="a web page instead of JSON") as raised:
        TraefikApi(f"http://{traefik.ports['80']}/whoami").snapshot()
    assert raised.value.kind == "html"


def test_the_password_is_right_or_wrong(traefik: Any) -> None:
    url = f"http://{traefik.ports['8081']}"
    assert TraefikApi(url, "admin", "correct").snapshot().version
    with pytest.raises(ApiError, match="user name or password is wrong"):
        TraefikApi(url, "admin", "wrong").snapshot()
    url = f"https://{traefik.ports['443']}"
    assert TraefikApi(url, validate_certs=False).snapshot().version


def test_what_waiting_does_not_heal_ends_soon(traefik: Any) -> None:
    verifier = Verifier(TraefikApi(f"http://{traefik.ports['8081']}", "admin", "wrong"), Expectations())
    result = verifier.wait(timeout_seconds=60, interval_seconds=1)
    assert not result.ok
    assert 2.5 < result.waited_seconds < 10
    assert "password is wrong" in result.message()


def test_it_stops_at_once_when_all_is_well_and_waits_when_not(traefik: Any, lab: Any) -> None:
    want = Expectations(routers=[{"name": "late"}])
    verifier = Verifier(TraefikApi(traefik.api_url), want, engine_of(lab))
    timer = threading.Timer(1, lambda: lab.run("late", labels("late"), listen=80))
    timer.start()
    result = verifier.wait(timeout_seconds=30, interval_seconds=0.5)
    timer.join()
    assert result.ok, result.message()
    assert 1 < result.waited_seconds < 20
    assert result.looks > 1
    again = verifier.wait(timeout_seconds=30, interval_seconds=0.5)
    assert again.ok
    assert again.looks == 1


def test_the_docker_engine_and_traefik_agree_on_the_servers(traefik: Any, lab: Any) -> None:
    want = Expectations(services=[{"name": "whoami", "servers": 2}])
    result = Verifier(TraefikApi(traefik.api_url), want, engine_of(lab)).look()
    failed = [check for check in result.checks if not check.ok]
    assert [check.name for check in failed] == ["service whoami@docker: number of servers"]
    assert failed[0].found.startswith("1: http://")


def test_probes_go_through_traefik(traefik: Any) -> None:
    url = f"http://{traefik.ports['80']}/whoami"
    probes = [
        Request("page", url, response_headers={"Content-Type": "^text/html"}, min_bytes=10),
        Request("nothing", url, response_headers={"X-Replica": "."}, min_bytes=10_000),
    ]
    result = Verifier(TraefikApi(traefik.api_url), Expectations(), probes=probes).wait(0, 1)
    outcome = {check.name: check.ok for check in result.checks}
    assert outcome["page: status"]
    assert outcome["page: header Content-Type"]
    assert outcome["page: size"]
    assert not outcome["nothing: header X-Replica"]
    assert not outcome["nothing: size"]


def module(python: str, **options: Any) -> dict[str, Any]:
    """What the module returns when Ansible runs it with this Python."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "-c", "local"]
    command += ["-e", json.dumps({"ansible_python_interpreter": python})]
    command += ["-m", "voicefleet.cosyvoice.traefik_verify", "-a", json.dumps(options)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        said = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        pytest.fail(done.stdout + done.stderr)
    return dict(said["plays"][0]["tasks"][0]["hosts"]["localhost"])


KEYS = {"ok", "summary", "checks", "version", "entrypoints", "routers", "services", "middlewares"}


def options_of(traefik: Any, lab: Any) -> dict[str, Any]:
    return {
        "api_url": traefik.api_url,
        "containers": True,
        "container_labels": [f"vf.test={lab.id}"],
        "timeout_seconds": 0,
    }


# The host's own Python has the SDK of its distribution (5.0.3 on Debian 12), this one a newer one.
@pytest.mark.parametrize("python", [sys.executable, "/usr/bin/python3"])
def test_the_module_fails_with_all_it_found(traefik: Any, lab: Any, python: str) -> None:
    if subprocess.run([python, "-c", "import docker, requests"], capture_output=True, check=False).returncode:
        pytest.skip(f"{python} has no Docker SDK")
    lab.run("typo", labels("typo", **{f"{H}services.typo.loadbalancer.healtcheck.path": "/"}))
    try:
        failed = module(python, **options_of(traefik, lab), routers=[{"name": "typo"}])
    finally:
        lab.made.pop().remove(force=True)
    assert failed["failed"] is True
    assert failed["msg"].startswith("3 of ")
    assert set(failed) >= KEYS
    wrong = {check["name"]: check for check in failed["checks"] if not check["ok"]}
    label = wrong[f'container {lab.id}-typo: label "{H}services.typo.loadbalancer.healtcheck.path"']
    assert label["wanted"] == f"{H}services.typo.loadbalancer.healthcheck.path"
    assert f"container {lab.id}-typo" in wrong["router typo@docker"]["found"]


def test_the_module_passes_and_never_changes_anything(traefik: Any, lab: Any) -> None:
    routers = [{"name": "whoami", "rule": "PathPrefix(`/whoami`)"}]
    passed = module(sys.executable, **options_of(traefik, lab), routers=routers)
    assert (passed["ok"], passed["changed"]) == (True, False), passed["checks"]
    assert set(passed) >= KEYS


def test_a_bad_file_takes_all_of_its_directory_with_it(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "good.yml").write_text("http: {routers: {there: {rule: Path(`/`), service: api@internal}}}")
    (tmp_path / "bad.yml").write_text("http: [")
    tmp_path.chmod(0o755)
    broken = lab.traefik(dynamic=tmp_path)
    broken.wait_for(lambda have: "whoami@docker" in {item["name"] for item in have.routers})
    result = Verifier(TraefikApi(broken.api_url), Expectations(routers=[{"name": "there@file"}])).look()
    failed = [check for check in result.checks if not check.ok]
    assert [check.name for check in failed] == ["router there@file"]
    assert "one bad file there stops all of them" in failed[0].remedy


def test_a_restart_is_survived_and_a_death_is_named(lab: Any) -> None:
    """Traefik restarts while it is looked at; the second time it does not come back."""
    free = 20000 + os.getpid() % 20000  # a fixed port: the engine gives a restarted container another one
    mine = lab.traefik(ports={"8080/tcp": ("127.0.0.1", free)})
    mine.wait_for(lambda have: "whoami@docker" in {item["name"] for item in have.routers})
    api, results = TraefikApi(mine.api_url), []

    def wait(seconds: float) -> threading.Thread:
        want = Expectations(routers=[{"name": "whoami"}, {"name": "after"}])
        thread = threading.Thread(target=lambda: results.append(Verifier(api, want).wait(seconds, 0.5)))
        thread.start()
        time.sleep(1)
        return thread

    thread = wait(40)
    mine.container.restart(timeout=0)
    lab.run("after", labels("after"), listen=80)
    thread.join()
    survived: Result = results.pop()
    assert survived.ok, survived.message()
    assert "restarted meanwhile" in survived.checks[0].found
    lab.made[-1].remove(force=True)
    mine.wait_for(lambda have: "after@docker" not in {item["name"] for item in have.routers})
    thread = wait(6)
    mine.container.kill()
    thread.join()
    dead: Result = results.pop()
    assert not dead.ok
    assert 5.5 < dead.waited_seconds < 9
    assert "and is not back" in dead.checks[0].found
    assert "start Traefik" in dead.checks[0].remedy
