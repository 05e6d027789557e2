# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: all parts put together, and the model brought up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from . import api_openai, api_page, api_upstream, errors, operations
from .admission import Admission
from .engines.base import Engine, Made
from .errors import SpeechError
from .frame import Frame
from .identity import Identity
from .metrics import Metrics
from .process import EXIT_HUNG, EXIT_LOAD_FAILED, Process
from .readiness import Readiness
from .recycling import Recycling
from .runner import Runner
from .settings import Settings
from .speech import Desk
from .turn import Turn
from .watchdog import Watchdog

_LOG = logging.getLogger(__name__)
_REFRESH_SECONDS = 2.0  # between two looks at what lies beside the model; a few stat calls each
_LAST_WORDS_SECONDS = 0.5  # for the answers of those who waited, and a health check that asks why


class Server:
    """One process's parts."""

    def __init__(self, settings: Settings, engine: Engine, process: Process):
        self.settings = settings
        self.engine = engine
        self.identity = Identity.of(settings, engine)
        self._process = process
        watchdog = Watchdog(settings.grace_seconds, self._hung, process)
        self.readiness = Readiness(settings.drain_file, watchdog)
        self.admission = Admission(settings.max_in_flight, settings.max_queued)
        self.metrics = Metrics(self.admission, self.readiness)
        self.runner = Runner(settings.max_in_flight, watchdog)
        self.recycling = Recycling(settings.max_requests_per_process, engine)
        self.turn = Turn(settings.voices_dir)
        self.turn.away(True)
        self.end: Callable[[], None] = lambda: None  # ends the process as SIGTERM does
        self.desk = Desk(
            settings,
            engine,
            self.readiness,
            self.admission,
            self.runner,
            self.metrics,
            after_each=self._consider_end,
        )
        self.api = self._api()
        self.frame = Frame(
            self.api,
            self.metrics,
            settings.max_body_bytes,
            headers=lambda: {"X-Replica": settings.replica, "X-Model-Version": self.identity.model_version},
            stopping=lambda: self.readiness.stopping,
        )
        self.metrics.open_requests.set_function(lambda: self.frame.active)

    def _api(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
            loading = asyncio.create_task(self._load())  # meanwhile /livez and /healthz answer
            refreshing = asyncio.create_task(self._refresh())
            yield
            loading.cancel()
            refreshing.cancel()

        # No /docs: its page would load scripts from elsewhere, and many of these hosts have no elsewhere.
        api = FastAPI(
            title="Speech server",
            version="1",
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
        )
        errors.install(api)
        api.include_router(api_openai.router(self.desk))
        api.include_router(api_upstream.router(self.desk))
        api.include_router(operations.router(self.desk, self.identity))
        api.include_router(api_page.router(self.settings))
        return api

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()

        warm: list[Made | None] = []

        def load() -> None:
            self.engine.load()
            warm.append(self.engine.warm_up())
            self.identity.weigh(self.settings, self.engine)

        try:
            await self.runner.run("loading the model", self.settings.load_seconds, load)
        except Exception as error:
            self.readiness.failure = f"the model could not be loaded: {error}"
            _LOG.critical("the model could not be loaded", exc_info=True)
            loop.call_later(_LAST_WORDS_SECONDS, self._process.exit, EXIT_LOAD_FAILED)
            return
        settings, identity = self.settings, self.identity
        seconds = loop.time() - started
        self.metrics.load_seconds.set(seconds)
        self.metrics.info.labels(
            settings.service, settings.replica, self.engine.name, identity.model, identity.revision
        ).set(1)
        self.desk.pace.note_warm_up(warm[0])
        self.readiness.loaded = True
        factor = self.desk.pace.real_time_factor
        fields = {
            "seconds": round(seconds, 3),
            "real_time_factor": factor and round(factor, 3),
            "model": identity.model,
            "revision": identity.revision,
        }
        _LOG.info("ready", extra={"fields": fields})

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            if not self.readiness.stopping:  # then it may have the turn
                self.turn.away(self.readiness.obstacle() is not None)
            if not self.readiness.loaded:
                continue
            try:
                await asyncio.to_thread(self.engine.refresh)
            except Exception:
                _LOG.exception("the look at what lies beside the model failed")

    def _consider_end(self) -> None:
        reason = self.recycling.reason()
        if not reason or self.readiness.stopping:
            return
        if not self.recycling.worn_out and not self.turn.taken():
            return
        self.readiness.stopping_reason = f"the process ends and starts anew: {reason}"
        _LOG.warning("the process ends and starts anew", extra={"fields": {"reason": reason}})
        self.end()

    def _hung(self, reason: str) -> None:
        self.readiness.failure = f"the process is ending: {reason}"
        self.admission.close(
            SpeechError(
                503, "not_ready", f"This replica is being restarted: {reason}.", retry_after_seconds=5
            )
        )
        _LOG.critical("the engine hangs, the process ends", extra={"fields": {"reason": reason}})
        self._process.dump_stacks()
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._process.exit, EXIT_HUNG)
