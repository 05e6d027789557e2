# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what Traefik serves from its API, every page of it, and tells the ways apart in which that fails.

This module util is private to the collection. Works with Traefik 2.11 to 3.7: what an older one does not
have (certificates before 3.7, C(serverStatus) of some services) is None or absent, never an error.
"""

from __future__ import annotations

import base64
import json
import typing as t
from dataclasses import dataclass, field
from functools import cached_property

try:
    import requests
except ImportError:  # the module says so, with the name of the Python that lacks it
    requests = None  # type: ignore[assignment, unused-ignore]

HAS_REQUESTS = requests is not None

# Traefik's own default is 100 items a page. It sets no upper limit, and 500 routers are 200 kB.
PER_PAGE = 1000
# Far more than any Traefik has: a server that says "next page" for ever must not be believed.
MAX_PAGES = 1000

Item = dict[str, t.Any]


class ApiError(Exception):
    """The API did not answer as it should; the text says what came back.

    C(kind) is one of refused, timeout, unreachable, tls, password, forbidden, missing, html, answer.
    C(final) is true for what waiting does not heal.
    """

    FINAL = ("tls", "password", "forbidden", "html")

    def __init__(self, kind: str, found: str, remedy: str) -> None:
        super().__init__(found)
        self.kind, self.found, self.remedy = kind, found, remedy
        self.final = kind in self.FINAL


@dataclass(frozen=True)
class Snapshot:
    """What Traefik has at one moment; items are dictionaries as the API gives them."""

    version: str
    started: str = ""
    providers: list[str] = field(default_factory=list)
    entrypoints: list[Item] = field(default_factory=list)
    routers: list[Item] = field(default_factory=list)
    services: list[Item] = field(default_factory=list)
    middlewares: list[Item] = field(default_factory=list)
    # None: this Traefik does not list its certificates (before 3.7).
    certificates: list[Item] | None = None

    @cached_property
    def _index(self) -> dict[str, dict[str, Item]]:
        kinds = {"router": self.routers, "service": self.services, "middleware": self.middlewares}
        return {kind: {str(item.get("name")): item for item in items} for kind, items in kinds.items()}

    def named(self, kind: str, name: str) -> Item | None:
        """The router, service or middleware of this name, which includes the provider."""
        return self._index[kind].get(name)


class TraefikApi:
    """A client of one Traefik's API. No proxy and no .netrc is used: what is at this address counts."""

    def __init__(
        self,
        url: str,
        username: str | None = None,
        password: str | None = None,
        ca_path: str | None = None,
        validate_certs: bool = True,
        timeout_seconds: float = 10,
        per_page: int = PER_PAGE,
    ) -> None:
        # With or without /api at the end: people paste both.
        self.url = url.rstrip("/").removesuffix("/api")
        self.timeout_seconds = timeout_seconds
        self.per_page = per_page
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = (ca_path or True) if validate_certs else False
        if username:
            # Written by hand: requests would encode the two as Latin-1, browsers and Traefik take UTF-8.
            pair = base64.b64encode(f"{username}:{password or ''}".encode()).decode()
            self.session.headers["Authorization"] = f"Basic {pair}"
        self.asked_with_password = bool(username)

    def close(self) -> None:
        self.session.close()

    def snapshot(self) -> Snapshot:
        """Everything the checks need.

        :raises ApiError: one of the requests failed.
        """
        version = self._object("/api/version")
        overview = self._object("/api/overview")
        return Snapshot(
            version=str(version.get("Version", "")),
            started=str(version.get("startDate", "")),
            providers=[str(name) for name in overview.get("providers") or []],
            entrypoints=self.items("/api/entrypoints"),
            routers=self.items("/api/http/routers"),
            services=self.items("/api/http/services"),
            middlewares=self.items("/api/http/middlewares"),
            # The overview counts certificates since the version that lists them.
            certificates=self.items("/api/certificates") if "certificates" in overview else None,
        )

    def items(self, path: str) -> list[Item]:
        """All pages of a list."""
        found: list[Item] = []
        page = 1
        for _unused in range(MAX_PAGES):
            response = self._get(path, {"page": page, "per_page": self.per_page})
            part = self._json(path, response)
            if not isinstance(part, list):
                raise self._no_list(path, part)
            found += [item for item in part if isinstance(item, dict)]
            # Traefik says 1 on the last page.
            following = response.headers.get("X-Next-Page", "")
            if not following.isdigit() or int(following) <= page:
                return found
            page = int(following)
        raise ApiError("answer", f"{path}: more than {MAX_PAGES} pages", _NOT_TRAEFIK)

    def _object(self, path: str) -> Item:
        value = self._json(path, self._get(path))
        if not isinstance(value, dict):
            raise self._no_list(path, value)
        return value

    @staticmethod
    def _no_list(path: str, value: t.Any) -> ApiError:
        return ApiError("answer", f"{path}: unexpected JSON {json.dumps(value)[:100]}", _NOT_TRAEFIK)

    def _get(self, path: str, params: dict[str, int] | None = None) -> requests.Response:
        try:
            response = self.session.get(
                self.url + path, params=params, timeout=self.timeout_seconds, allow_redirects=False
            )
        except requests.exceptions.SSLError as error:
            raise ApiError("tls", f"TLS failed: {_inner(error)}", _TLS) from error
        except requests.exceptions.Timeout as error:
            found = f"no answer within {self.timeout_seconds:g} s"
            raise ApiError(
                "timeout", found, "look whether this is Traefik's address, and at its log"
            ) from error
        except requests.exceptions.ConnectionError as error:
            raise _connection(self.url, error) from error
        except (requests.exceptions.RequestException, OSError, ValueError) as error:
            raise ApiError("unreachable", str(error), "correct api_url or ca_path") from error
        self._refuse_status(path, response)
        return response

    def _refuse_status(self, path: str, response: requests.Response) -> None:
        status = response.status_code
        if status == 401:
            if self.asked_with_password:
                found, remedy = "user name or password is wrong", "correct url_username and url_password"
            else:
                found, remedy = "a password is wanted", "set url_username and url_password"
            raise ApiError("password", f"{path}: 401, {found}", remedy)
        if status == 403:
            remedy = "this host's address is refused (a middleware such as ipAllowList): allow it"
            raise ApiError("forbidden", f"{path}: 403 Forbidden", remedy)
        if status == 404:
            remedy = (
                "the API is off there (static option api), or has no router on this entry point, or a path "
                "before /api (api.basePath): correct api_url or the static configuration"
            )
            raise ApiError("missing", f"{path}: 404 page not found", remedy)
        if 300 <= status < 400:
            target = response.headers.get("Location", "")
            remedy = "give that address as api_url"
            raise ApiError("answer", f"{path}: {status}, redirected to {target}", remedy)
        if status != 200:
            found = f"{path}: {status} {' '.join(response.text.split())[:100]}".rstrip()
            raise ApiError("answer", found, "look at Traefik's log, and at what stands before it")

    @staticmethod
    def _json(path: str, response: requests.Response) -> t.Any:
        try:
            return json.loads(response.content)
        except ValueError:
            text = " ".join(response.text.split())[:80]
            if text.lower().startswith(("<!doctype", "<html")):
                raise ApiError("html", f"{path}: a web page instead of JSON: {text}", _NOT_TRAEFIK) from None
            raise ApiError("answer", f"{path}: no JSON: {text!r}", _NOT_TRAEFIK) from None


_NOT_TRAEFIK = (
    "something else than Traefik's API answers there: correct api_url "
    "(scheme, host and port of the API, without /dashboard)"
)
_TLS = (
    "give the authority that signed the certificate as ca_path, or use the name or scheme that Traefik "
    "has there"
)


def _inner(error: Exception) -> str:
    """The system's reason out of the three libraries' wrappings."""
    text = str(error)
    for start in ("[SSL: ", "SSLError("):
        if start in text:
            return text[text.index(start) + len(start) :].split(" (_ssl")[0].strip("'\")(")
    return text


def _connection(url: str, error: Exception) -> ApiError:
    text = str(error)
    if "refused" in text:
        remedy = "start Traefik, or correct api_url: nothing listens there"
        return ApiError("refused", f"connection to {url} refused", remedy)
    if "Name or service not known" in text or "NameResolution" in text or "name resolution" in text:
        return ApiError("unreachable", f"the host name of {url} is not known", "correct api_url")
    if "reset" in text or "RemoteDisconnected" in text or "aborted" in text:
        remedy = "Traefik is being restarted, or the scheme (http or https) of api_url is wrong"
        return ApiError("refused", f"{url} closed the connection before it answered", remedy)
    return ApiError("unreachable", f"{url} cannot be reached: {text}", "correct api_url or the route to it")
