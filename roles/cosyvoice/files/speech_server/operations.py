# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machinery round a replica asks: is it alive, is it ready, what is it, how is it doing."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from .engines.base import Mode
from .identity import Identity
from .speech import Desk


class Health(BaseModel):
    """Whether new requests should be sent here."""

    status: Literal["ready", "loading", "failed", "late", "stopping", "draining"]
    reason: str


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Version(BaseModel):
    """What this replica is. `weights_digest` is the SHA-256 over one line `<sha256>  <name>\\n` for each of
    `weights_files`, in the order of their names (as `sha256sum` prints them); null until loaded.

    `voices_digest` is the same over the files of the voices laid down for it; null for an engine that takes
    none, and `voices` the same of each of them alone. `voices_refused` names those that cannot be used, and
    why."""

    service: str
    replica: str
    engine: str
    model: str
    revision: str
    weights_digest: str | None
    weights_files: dict[str, str]
    modes: list[Mode]
    voices_digest: str | None
    voices: dict[str, str]
    voices_refused: dict[str, str]


def router(desk: Desk, identity: Identity) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Operations"])

    @routes.get(
        "/healthz", responses={200: {"model": Health}, 503: {"model": Health}}, response_class=JSONResponse
    )
    async def healthz() -> Response:
        """200 when loaded, warmed up, not draining and not hung; else 503 with the reason."""
        found = desk.readiness.obstacle()
        health = (
            {"status": found.status, "reason": found.reason} if found else {"status": "ready", "reason": ""}
        )
        return JSONResponse(health, 503 if found else 200)

    @routes.get("/livez")
    async def livez() -> Alive:
        """200 while the process answers at all."""
        return Alive()

    @routes.get("/version")
    async def version() -> Version:
        """What this replica is."""
        return Version(
            service=desk.settings.service,
            replica=desk.settings.replica,
            engine=desk.engine.name,
            model=identity.model,
            revision=identity.revision,
            weights_digest=identity.weights_digest,
            weights_files=identity.weights_files,
            modes=sorted(desk.engine.modes),
            voices_digest=desk.engine.voices_digest,
            voices=dict(desk.engine.voice_digests),
            voices_refused=dict(desk.engine.voices_refused),
        )

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """For Prometheus."""
        # The type goes out as it is: the framework would append a second charset.
        return Response(generate_latest(desk.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return routes
