# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API client against a small HTTP server that answers as older Traefiks, and as none of them."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import ApiError, TraefikApi

OVERVIEW = {"http": {"routers": {"total": 1, "warnings": 0, "errors": 0}}, "providers": ["Docker"]}
ROUTER = {
    "entryPoints": ["web"],
    "service": "tts",
    "rule": "PathPrefix(`/`)",
    "priority": 15,
    "status": "enabled",
    "using": ["web"],
    "name": "tts@docker",
    "provider": "docker",
}
SERVICE: dict[str, Any] = {
    "loadBalancer": {"servers": [{"url": "http://172.18.0.2:80"}], "passHostHeader": True},
    "status": "enabled",
    "usedBy": ["tts@docker"],
    "serverStatus": {"http://172.18.0.2:80": "UP"},
    "name": "tts@docker",
    "provider": "docker",
    "type": "loadbalancer",
}
# What differs by version: 3.4 names the strategy, 3.6 adds priorityStr, 3.7 lists certificates.
VERSIONS: dict[str, dict[str, Any]] = {
    "2.11.31": {},
    "3.0.4": {},
    "3.3.7": {},
    "3.6.1": {"router": {"priorityStr": "15"}, "strategy": "wrr"},
    "3.7.15": {"router": {"priorityStr": "15"}, "strategy": "wrr", "certificates": []},
}


def recorded(version: str) -> dict[str, Any]:
    """Answers of that version by path; a path that it does not have is absent."""
    new = VERSIONS[version]
    balancer = {**SERVICE["loadBalancer"], **({"strategy": new["strategy"]} if "strategy" in new else {})}
    answers: dict[str, Any] = {
        "/api/version": {"Version": version, "Codename": "x", "startDate": "2026-01-01T00:00:00Z"},
        "/api/overview": dict(OVERVIEW),
        "/api/entrypoints": [{"name": "web", "address": ":80"}],
        "/api/http/routers": [{**ROUTER, **new.get("router", {})}],
        "/api/http/services": [{**SERVICE, "loadBalancer": balancer}],
        "/api/http/middlewares": [],
    }
    if "certificates" in new:
        answers["/api/certificates"] = new["certificates"]
        answers["/api/overview"]["certificates"] = {"total": 0, "warnings": 0, "errors": 0}
    return answers


class Server:
    """Answers by path: a value as JSON in pages, or (status, headers, text) as it is."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                outer.asked.append(self.path)
                outer.headers = dict(self.headers)
                status, headers, text = outer.answer(url.path, parse_qs(url.query))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, str], str]:
        value = self.answers.get(path, (404, {}, "404 page not found\n"))
        if isinstance(value, tuple):
            return value
        if not isinstance(value, list):
            return 200, {}, json.dumps(value)
        # Paging as Traefik does it: page beyond the end is 400, the last page says that 1 is next.
        page, size = int(query.get("page", ["1"])[0]), int(query.get("per_page", ["100"])[0])
        start = (page - 1) * size
        if start and start >= len(value):
            return 400, {}, json.dumps({"message": f"invalid request: page: {page}, per_page: {size}"})
        following = page + 1 if start + size < len(value) else 1
        return 200, {"X-Next-Page": str(following)}, json.dumps(value[start : start + size])


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_read(server: Server, version: str) -> None:
    server.answers = recorded(version)
    have = TraefikApi(server.url).snapshot()
    assert have.version == version
    assert have.providers == ["Docker"]
    assert [item["name"] for item in have.routers] == ["tts@docker"]
    assert (have.certificates is None) == (version != "3.7.15")


def test_all_pages_are_read(server: Server) -> None:
    server.answers = recorded("3.7.15")
    server.answers["/api/http/routers"] = [{**ROUTER, "name": f"r{number}@docker"} for number in range(250)]
    for per_page in (1, 100, 125, 250, 1000):
        names = [item["name"] for item in TraefikApi(server.url, per_page=per_page).snapshot().routers]
        assert names == [f"r{number}@docker" for number in range(250)]


def test_an_endless_list_is_not_believed(server: Server) -> None:
    server.answers = recorded("3.7.15")
    server.answer = lambda path, query: (  # type: ignore[method-assign]
        200,
        {"X-Next-Page": str(int(query.get("page", ["1"])[0]) + 1)},
        "[{}]" if path.endswith("s") else "{}",
    )
    with pytest.raises(ApiError, match="more than 1000 pages"):
        TraefikApi(server.url).items("/api/http/routers")


def test_the_url_may_end_in_api(server: Server) -> None:
    server.answers = recorded("3.7.15")
    for end in ("", "/", "/api", "/api/"):
        assert TraefikApi(server.url + end).snapshot().version == "3.7.15"


def test_the_password_is_sent_as_utf8(server: Server) -> None:
    server.answers = recorded("3.7.15")
    TraefikApi(server.url, "admin", "pässword").snapshot()
    sent = server.headers["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == "admin:pässword"


def test_environment_and_netrc_are_left_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = recorded("3.7.15")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert TraefikApi(server.url).snapshot().version


@pytest.mark.parametrize(
    ("answer", "kind", "final", "said"),
    [
        ((401, {}, ""), "password", True, "a password is wanted"),
        ((403, {}, "Forbidden"), "forbidden", True, "403"),
        ((404, {}, "404 page not found"), "missing", False, "404 page not found"),
        ((200, {}, "<!DOCTYPE html><html>"), "html", True, "a web page instead of JSON"),
        ((200, {}, "hello"), "answer", False, "no JSON: 'hello'"),
        ((200, {}, "[1]"), "answer", False, "unexpected JSON"),
        ((301, {"Location": "https://x/"}, ""), "answer", False, "redirected to https://x/"),
        ((503, {}, "no available server"), "answer", False, "503 no available server"),
    ],
)
def test_answers_that_are_none(server: Server, answer: Any, kind: str, final: bool, said: str) -> None:
    server.answers = {"/api/version": answer}
    with pytest.raises(ApiError) as raised:
        TraefikApi(server.url).snapshot()
    assert (raised.value.kind, raised.value.final) == (kind, final)
    assert said in raised.value.found
    assert raised.value.remedy


def test_a_wrong_password_is_not_a_missing_one(server: Server) -> None:
    server.answers = {"/api/version": (401, {}, "")}
    with pytest.raises(ApiError, match="user name or password is wrong"):
        TraefikApi(server.url, "admin", "x").snapshot()


def test_nothing_listens_and_no_such_host() -> None:
    with pytest.raises(ApiError, match="refused") as raised:
        TraefikApi("http://127.0.0.1:1").snapshot()
    assert raised.value.kind == "refused"
    with pytest.raises(ApiError, match="not known") as raised:
        TraefikApi("http://no.such.host.invalid").snapshot()
    assert raised.value.kind == "unreachable"


def test_a_missing_authority_is_an_error_and_no_traceback(server: Server) -> None:
    with pytest.raises(ApiError) as raised:
        TraefikApi(server.url.replace("http:", "https:"), ca_path="/nonexistent").snapshot()
    assert "ca_path" in raised.value.remedy
