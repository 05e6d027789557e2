# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.modules import traefik_verify

NOWHERE = {"api_url": "http://127.0.0.1:1", "timeout_seconds": 0}


def run(capfd: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    with patch_module_args({**NOWHERE, **options}), pytest.raises(SystemExit):
        traefik_verify.main()
    return dict(json.loads(capfd.readouterr()[0]))


def test_it_fails_with_the_documented_keys(capfd: pytest.CaptureFixture[str]) -> None:
    documented = set(yaml.safe_load(traefik_verify.RETURN))
    failed = run(capfd)
    assert failed["failed"] is True
    assert failed["msg"].startswith(
        "1 of 1 checks failed: Traefik's API: connection to http://127.0.0.1:1 refused"
    )
    assert documented <= set(failed)


def test_it_does_not_fail_when_told_so(capfd: pytest.CaptureFixture[str]) -> None:
    passed = run(capfd, fail=False)
    assert (passed.get("failed"), passed["changed"], passed["ok"]) == (None, False, False)


def test_an_engine_that_is_not_there_is_a_failed_check(capfd: pytest.CaptureFixture[str]) -> None:
    failed = run(capfd, containers=True, docker_host="unix:///nonexistent.sock")
    assert failed["checks"][0]["name"] == "Docker engine"
    assert "docker_host" in failed["msg"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_url": "127.0.0.1:8080"}, "api_url '127.0.0.1:8080': an address such as"),
        ({"timeout_seconds": -1}, "timeout_seconds -1: 0 or more"),
        ({"interval_seconds": 0}, "interval_seconds 0: more than 0"),
        ({"traefik_version": "newest"}, "traefik_version 'newest'"),
        ({"ca_path": "/nonexistent"}, "ca_path '/nonexistent': there is no such file"),
        ({"probes": [{"url": "speech"}]}, "probes: url 'speech'"),
        ({"probes": [{"url": "http://x", "header": {"A": "("}}]}, "no regular expression"),
        ({"routers": [{"nam": "x"}]}, "name"),
    ],
)
def test_wrong_options(capfd: pytest.CaptureFixture[str], options: dict[str, Any], said: str) -> None:
    failed = run(capfd, **options)
    assert failed["failed"] is True
    assert said in failed["msg"]


def test_the_documentation_says_what_the_code_takes() -> None:
    def compare(documented: dict[str, Any], spec: dict[str, Any], where: str) -> None:
        assert set(documented) == set(spec), where
        for name, option in spec.items():
            told = documented[name]
            for key in ("type", "elements", "required", "choices", "aliases"):
                assert told.get(key, False if key == "required" else None) == option.get(
                    key, False if key == "required" else None
                ), f"{where}{name}: {key}"
            assert told.get("default") == option.get("default"), f"{where}{name}: default"
            compare(told.get("suboptions", {}), option.get("options", {}), f"{where}{name}: ")

    compare(yaml.safe_load(traefik_verify.DOCUMENTATION)["options"], traefik_verify.argument_spec(), "")


def test_probes_that_change_nothing_are_sent_in_check_mode() -> None:
    probe = {
        "name": None,
        "headers": {"Host": "a.example"},
        "body": {"input": "Hello."},
        "status": 200,
        "response_headers": {"X-Replica": None},
        "min_bytes": 1,
        "timeout_seconds": 5.0,
        "validate_certs": None,
    }
    probes = [{**probe, "url": "http://x", "method": method} for method in ("get", "POST")]
    params = {"probes": probes, "validate_certs": False, "ca_path": None}
    assert [request.method for request in traefik_verify.requests_of(params, check_mode=False)] == [
        "GET",
        "POST",
    ]
    (only,) = traefik_verify.requests_of(params, check_mode=True)
    assert (only.name, only.validate_certs) == ("probe GET http://x", False)
    assert only.body == b'{"input": "Hello."}'
    assert only.headers == {"Content-Type": "application/json", "Host": "a.example"}
