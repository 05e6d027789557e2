# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is served at / and below /page/. How the page behaves in a browser: tests/integration/test_page.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_recipe import (
    files_to_copy,
    parse_recipe,
)
from conftest import InProcess, Live, running, settings_for
from speech_server import api_page
from speech_stand_in import StandIn

FOLDER = Path(api_page.__file__).parent / "page"
PARTS = sorted(path.name for path in FOLDER.iterdir() if path.name != "index.html")
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class Tags(HTMLParser):
    """The start tags of a page, and the text of its scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.fixture(scope="module")
def page(hum: InProcess) -> Any:
    answer = hum.client.get("/", headers=BROWSER)
    assert answer.status_code == 200
    return answer


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = settings_for(tmp_path_factory.mktemp("live"))
    with running(settings, StandIn(settings)) as live:
        yield live


def test_the_root_leads_on(hum: InProcess) -> None:
    answer = hum.client.get("/")
    assert answer.headers["vary"] == "Accept"
    for path in answer.json()["paths"]:
        assert hum.client.get(path).status_code in (200, 405), path


def test_a_browser_gets_the_page(page: Any) -> None:
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "Accept"
    assert page.headers["x-replica"] == "r-1"
    assert page.content == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in PARTS)])
def test_nothing_foreign_and_the_microphone_for_the_page_alone(hum: InProcess, path: str) -> None:
    headers = hum.client.get(path, headers=BROWSER).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "microphone=(self)" in headers["permissions-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_page_has_nothing_inline_and_all_it_names_is_here(hum: InProcess, page: Any) -> None:
    found = Tags(page.text)
    assert not found.inline
    attributes = [(tag, name, value or "") for tag, attrs in found.tags for name, value in attrs.items()]
    assert not [each for each in attributes if each[1] == "style" or each[1].startswith("on")]
    named = {value for _tag, name, value in attributes if name in ("src", "href")}
    assert len(named) >= 4
    for path in named:
        assert not re.match(r"[a-z]+:|/", path), f"{path} would miss a prefix, or be somebody else's"
        assert hum.client.get(f"/{path}").status_code == 200, path


def test_modules_import_each_other_alone() -> None:
    for path in FOLDER.glob("*.js"):
        for module in re.findall(r'(?:from|import) "([^"]+)"', path.read_text()):
            assert module.startswith("./"), (path.name, module)
            assert (FOLDER / module).is_file(), (path.name, module)


@pytest.mark.parametrize(
    ("suffix", "media_type"),
    [
        (".js", "text/javascript; charset=utf-8"),
        (".css", "text/css; charset=utf-8"),
        (".svg", "image/svg+xml"),
    ],
)
def test_types(hum: InProcess, suffix: str, media_type: str) -> None:
    names = [name for name in PARTS if name.endswith(suffix)]
    assert names
    for name in names:
        answer = hum.client.get(f"/page/{name}")
        assert answer.headers["content-type"] == media_type
        assert answer.content == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("path", ["/", "/page/app.js"])
def test_asked_for_again(hum: InProcess, path: str) -> None:
    answer = hum.client.get(path, headers=BROWSER)
    assert answer.headers["cache-control"] == "no-cache"
    tag = answer.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = hum.client.get(path, headers={**BROWSER, "If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert hum.client.get(path, headers={**BROWSER, "If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "nix.js",
        "",
        "..",
        "%2e%2e/app.py",
        "../app.py",
        "..%2fapp.py",
        "..%5capp.py",
        "%2fetc%2fpasswd",
        "app.js/",
        "app.js%00",
        "APP.JS",
    ],
)
def test_nothing_else_is_served(live: Live, name: str) -> None:
    # As it stands here: other clients would tidy up the path before they send it.
    connection = HTTPConnection(live.url.removeprefix("http://"))
    connection.request("GET", f"/page/{name}")
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["error"]["code"]) == (404, "not_found")
    connection.close()


def test_every_word_is_said_in_both_languages() -> None:
    script = (FOLDER / "strings.js").read_text()
    english, chinese = (
        set(re.findall(r"^    (\w+):", part, re.MULTILINE))
        for part in re.findall(r"^  (?:en|zh): \{\n(.*?)^  \}", script, re.MULTILINE | re.DOTALL)
    )
    markup = (FOLDER / "index.html").read_text()
    english |= set(re.findall(r'data-say(?:-\w+)?="(\w+)"', markup))
    assert english == chinese
    scripts = "".join(path.read_text() for path in FOLDER.glob("*.js"))
    asked = set(re.findall(r'words\("(\w+)"', scripts)) | set(re.findall(r'\? "(\w+)" : "\w+"[,)]', scripts))
    assert asked <= english


def test_the_image_takes_all_of_it() -> None:
    folder = FOLDER.parent
    recipe = parse_recipe((folder / "Dockerfile").read_text(), "Dockerfile")
    assert set(FOLDER.iterdir()) <= set(files_to_copy(recipe, folder))
