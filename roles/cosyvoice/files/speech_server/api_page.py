# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is at /: a page to try voices for browsers, and where to go from here for all others.

Nothing of a visit is kept: a recording stays in the browser and comes with each request, so it does not
matter which replica answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from .settings import Settings

_FOLDER = Path(__file__).parent / "page"
_INDEX = "index.html"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # All that the page loads is its own; nothing in it is inline, and it fits into nobody's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for anew each time, and answered by 304: after a rolling upgrade no part of an old page is left.
    "Cache-Control": "no-cache",
}


class Overview(BaseModel):
    """Where to go from here."""

    service: str
    openapi: str
    paths: list[str]


@dataclass(frozen=True)
class _File:
    """One file of the page. Its tag is made of what it holds, and so the same on every replica."""

    content: bytes
    media_type: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> _File:
        content = path.read_bytes()
        return cls(content, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def answer(self, request: Request, more: dict[str, str] | None = None) -> Response:
        headers = {**_HEADERS, **(more or {}), "ETag": self.tag}
        known = [
            tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
        ]
        if self.tag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "Content-Type": self.media_type})


def router(settings: Settings) -> APIRouter:
    """The routes. Only files that were there at the start are served, each by its name."""
    routes = APIRouter(tags=["Operations"])
    files = {path.name: _File.read(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _MEDIA_TYPES}
    index = files.pop(_INDEX)
    overview = Overview(
        service=settings.service,
        openapi="/openapi.json",
        paths=[
            "/v1/audio/speech",
            "/v1/audio/voices",
            "/v1/models",
            "/healthz",
            "/livez",
            "/version",
            "/metrics",
        ],
    )

    @routes.get(
        "/",
        response_model=Overview,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def root(request: Request) -> Response:
        """A page to try voices, for whoever accepts text/html; else where to go from here."""
        vary = {"Vary": "Accept"}
        if "text/html" in request.headers.get("accept", "").lower():
            return index.answer(request, vary)
        return JSONResponse(overview.model_dump(), headers=vary)

    @routes.get("/page/{name}", include_in_schema=False)
    async def part(name: str, request: Request) -> Response:
        """What the page is made of."""
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(request)

    return routes
