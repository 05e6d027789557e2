# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a wish to an answer: readiness, admission, engine, encoder, and a caller who may leave at any time."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from .admission import Admission
from .audio import SAMPLE_RATE_HZ, Encoder, Format
from .checks import nothing_to_speak
from .engines.base import Engine, Made, Synthesis, WishRefused
from .errors import SpeechError
from .frame import Record, record_of
from .metrics import Metrics
from .older_python import timeout, timeout_at
from .outputs import Output
from .pace import LONGEST_FIRST_SECONDS, Pace
from .readiness import Readiness
from .runner import Job, Runner, WorkFailed
from .settings import Settings
from .text import sentences

_LOG = logging.getLogger(__name__)
_NOT_READY_RETRY_SECONDS = 5
_LAST_EVENT_SECONDS = 1.0  # for the event that says why the audio ends; a caller who does not read gets none


class Desk:
    """Where wishes are handed in. One for the process, used from the event loop."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        readiness: Readiness,
        admission: Admission,
        runner: Runner,
        metrics: Metrics,
        after_each: Callable[[], None] = lambda: None,
    ):
        self.settings = settings
        self.engine = engine
        self.readiness = readiness
        self.admission = admission
        self.runner = runner
        self.metrics = metrics
        self.pace = Pace()
        self._after_each = after_each  # whenever the engine has come back
        self._supervised: set[asyncio.Task[None]] = set()

    def require_ready(self) -> None:
        """Raise SpeechError (503) while nothing can be spoken."""
        if found := self.readiness.cannot_speak():
            self.metrics.refused.labels("not_ready").inc()
            raise SpeechError(
                503,
                "not_ready",
                f"This replica cannot speak now: {found.reason}.",
                retry_after_seconds=_NOT_READY_RETRY_SECONDS,
            )

    async def answer(
        self,
        request: Request,
        wish: Synthesis,
        format_: Format,
        field_names: dict[str, str],
        recording: bytes | None = None,
        events: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Speak. Returns once the first bytes are there; raises SpeechError for all that goes wrong before.

        `field_names` maps the wish's fields to what the caller calls them. `recording` becomes the file
        the wish refers to. With `events` the audio comes as server-sent events.
        """
        record = record_of(request.scope)
        record.notes.update(voice=wish.voice, mode=wish.mode, format=format_.name, characters=len(wish.text))
        if self.settings.log_texts:
            record.notes["text"] = wish.text
        least_seconds = self._require_time(wish, field_names)
        deadline = asyncio.get_running_loop().time() + self.settings.deadline_seconds
        beginning = asyncio.ensure_future(
            self._begin(wish, recording, format_, record, deadline, least_seconds, field_names)
        )
        caller_left = asyncio.ensure_future(_left(request.receive))
        try:
            await asyncio.wait({beginning, caller_left}, return_when=asyncio.FIRST_COMPLETED)
            if not beginning.done():
                self.metrics.callers_left.inc()
                record.notes["outcome"] = "caller left"
                return Response(status_code=499)  # nobody reads it; the log and the metrics do
            work, job, first = beginning.result()
        except BaseException:
            caller_left.cancel()
            raise
        finally:
            beginning.cancel()
        all_headers = {"X-Sample-Rate": str(SAMPLE_RATE_HZ), "Cache-Control": "no-store", **(headers or {})}
        if work.advice:
            all_headers["X-Recording-Advice"] = work.advice
        return Stream(self, work, job, first, deadline, caller_left, format_.media_type, all_headers, events)

    def _require_time(self, wish: Synthesis, field_names: dict[str, str]) -> float:
        """The seconds within less than which this is not worth beginning.

        Raises SpeechError (400) for a text that the deadline would cut even if nobody else were here.
        """
        deadline = self.settings.deadline_seconds
        least_seconds = self.pace.least_seconds(wish.text, wish.speed)
        if least_seconds > deadline:
            param = field_names["text"]
            seconds = self.pace.estimate_seconds(wish.text, wish.speed)
            raise SpeechError(
                400,
                "text_exceeds_deadline",
                f"'{param}' would take about {seconds:.0f} s to speak here; a request has {deadline:g} s. "
                "Split the text into several requests, or have SPEECH_DEADLINE_SECONDS raised.",
                param,
            )
        return least_seconds

    async def _begin(
        self,
        wish: Synthesis,
        recording: bytes | None,
        format_: Format,
        record: Record,
        deadline: float,
        least_seconds: float,
        field_names: dict[str, str],
    ) -> tuple[_Work, Job, bytes]:
        loop = asyncio.get_running_loop()
        came = loop.time()
        try:
            # No longer than leaves time to speak: what is begun later than that would be cut.
            await self.admission.enter(deadline - came - least_seconds)
        except SpeechError as error:
            self.metrics.refused.labels(error.code).inc()
            raise
        self.metrics.queue_seconds.observe(loop.time() - came)
        record.notes["queue_seconds"] = round(loop.time() - came, 4)
        self.metrics.characters.inc(len(wish.text))
        work = _Work(self.engine, wish, recording, format_, self._output(record, format_))
        job = self._start(work, record)
        try:
            first = await job.read(deadline)
        except (WorkFailed, TimeoutError) as error:
            job.abandon()
            raise self._told(error, record, field_names) from error
        except asyncio.CancelledError:
            job.abandon()
            raise
        if first is None:
            raise nothing_to_speak(field_names["text"])
        return work, job, first

    def _start(self, work: _Work, record: Record) -> Job:
        """Hand it to a worker thread; the slot is free again when the engine has come back, not earlier."""
        job = Job(work.parts)
        task = asyncio.ensure_future(self._supervise(job, work, record))
        self._supervised.add(task)
        task.add_done_callback(self._supervised.discard)
        return job

    async def _supervise(self, job: Job, work: _Work, record: Record) -> None:
        try:
            what = f"the engine (request {record.request_id})"
            await self.runner.run(what, self.settings.deadline_seconds, job.run)
        except WishRefused:
            pass
        except Exception:
            self.metrics.engine_errors.inc()
            _LOG.exception("the engine failed", extra={"fields": {"request_id": record.request_id}})
        finally:
            self.admission.leave(work.engine_seconds if work.complete else None)
            self.metrics.engine_seconds.inc(work.engine_seconds)
            self.metrics.audio_seconds.inc(work.audio_seconds)
            if work.beginning and work.newest:
                self.pace.note(work.newest, work.beginning)
            if work.complete and work.audio_seconds:
                self.metrics.real_time_factor.observe(work.engine_seconds / work.audio_seconds)
            self._after_each()

    def _output(self, record: Record, format_: Format) -> Output | None:
        if not self.settings.save_outputs:
            return None
        failed: Callable[[], None] = self.metrics.outputs_failed.inc
        return Output(self.settings.outputs_dir, record.request_id, format_.name, failed)

    def _told(self, error: Exception, record: Record, field_names: dict[str, str]) -> SpeechError:
        """What the caller hears of an error before the first byte."""
        if isinstance(refused := error.__cause__, WishRefused):
            param = field_names.get(refused.param, refused.param)
            return SpeechError(400, "invalid_value", refused.message, param)
        if isinstance(error, TimeoutError):
            self.metrics.deadlines.inc()
            return SpeechError(
                504,
                "deadline_exceeded",
                f"No audio within {self.settings.deadline_seconds:g} s. Shorter texts are quicker.",
            )
        return SpeechError(
            500, "engine_error", f"The engine failed; the log has request {record.request_id}."
        )


@dataclass
class _Work:
    """What a worker thread does for one answer."""

    engine: Engine
    wish: Synthesis
    recording: bytes | None
    format_: Format
    output: Output | None
    audio_seconds: float = 0.0
    beginning: Made | None = None  # up to the end of a first piece that is not made as the others are
    newest: Made | None = None  # up to the newest part
    engine_seconds: float = 0.0
    complete: bool = False
    advice: str = ""  # on the recording

    def parts(self) -> Generator[bytes]:
        """Check, synthesize, encode, keep a copy."""
        started = time.monotonic()
        with ExitStack() as at_the_end:
            at_the_end.callback(lambda: setattr(self, "engine_seconds", time.monotonic() - started))
            wish = self.wish
            if self.recording is not None:
                # Models read a recording several times, by its path.
                file = at_the_end.enter_context(NamedTemporaryFile(prefix="recording-", suffix=".wav"))
                file.write(self.recording)
                file.flush()
                wish = replace(wish, reference_audio=Path(file.name), advise=self._note_advice)
            at_the_end.callback(self._close_output)
            self.engine.check(wish)
            chunks = self.engine.synthesize(wish)
            at_the_end.callback(chunks.close)
            one_piece = len(sentences(wish.text)) == 1 and not self.engine.streams_within_sentences(wish)
            # What is streamed costs more, and often only the first piece of a text is.
            least_seconds = LONGEST_FIRST_SECONDS if self.engine.streams_within_sentences(wish) else 0.0
            encoder = Encoder(self.format_, self.engine.sample_rate_hz, whole=one_piece)
            at_the_end.callback(encoder.close)
            for samples in chunks:
                data = encoder.encode(samples)
                self.audio_seconds = encoder.audio_seconds
                if len(samples):
                    self.newest = Made(self.audio_seconds, time.monotonic() - started)
                    if self.audio_seconds >= least_seconds:
                        self.beginning = self.beginning or self.newest
                yield self._kept(data)
            yield self._kept(encoder.finish())
            self.audio_seconds = encoder.audio_seconds
            self.complete = True

    def _note_advice(self, advice: str) -> None:
        self.advice = advice

    def _close_output(self) -> None:
        if self.output:
            self.output.close(self.complete)

    def _kept(self, data: bytes) -> bytes:
        if self.output:
            self.output.write(data)
        return data


class Stream(Response):
    """An answer whose first bytes are there.

    What goes wrong from here on breaks the connection off: the caller sees a truncated stream and never
    takes half an answer for a whole one.
    """

    def __init__(
        self,
        desk: Desk,
        work: _Work,
        job: Job,
        first: bytes,
        deadline: float,
        caller_left: asyncio.Future[None],
        media_type: str,
        headers: dict[str, str],
        events: bool,
    ):
        self.status_code = 200
        self.background = None
        self.media_type = "text/event-stream" if events else media_type
        self.init_headers(headers)
        del self.headers["content-length"]  # not known; the server then sends chunks
        self._desk = desk
        self._work = work
        self._job = job
        self._first = first
        self._deadline = deadline
        self._caller_left = caller_left
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.notes["outcome"] = "cut"
        sending = asyncio.ensure_future(self._send(send, record))
        try:
            await asyncio.wait({sending, self._caller_left}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                record.notes["outcome"] = "caller left"
                self._desk.metrics.callers_left.inc()
        finally:
            self._job.abandon()
            for task in (sending, self._caller_left):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            record.notes["audio_seconds"] = round(self._work.audio_seconds, 3)
            record.notes["engine_seconds"] = round(self._work.engine_seconds, 4)

    async def _send(self, send: Send, record: Record) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        part: bytes | None = self._first
        try:
            while part is not None:
                # A caller who does not read is cut at the deadline too: he must not hold up a shutdown.
                async with timeout_at(self._deadline):
                    await self._body(send, self._event("speech.audio.delta", part) if self._events else part)
                part = await self._job.read(self._deadline)
            async with timeout_at(self._deadline):
                if self._events:
                    await self._body(send, _event_bytes({"type": "speech.audio.done"}))
                await self._body(send, b"", more=False)
        except (WorkFailed, TimeoutError) as error:
            reason = "deadline" if isinstance(error, TimeoutError) else "engine_error"
            self._desk.metrics.streams_cut.labels(reason).inc()
            record.notes["outcome"] = f"cut: {reason}"
            if reason == "deadline":
                self._desk.metrics.deadlines.inc()
            if self._events:
                fault = SpeechError(500, reason, "The audio ends here: it could not be completed.")
                with suppress(TimeoutError):
                    async with timeout(_LAST_EVENT_SECONDS):
                        await self._body(send, _event_bytes({"type": "error", **fault.body()}))
            return  # without the last message: the server closes the connection
        record.notes["outcome"] = "complete"

    @staticmethod
    def _event(kind: str, audio: bytes) -> bytes:
        return _event_bytes({"type": kind, "audio": base64.b64encode(audio).decode()})

    @staticmethod
    async def _body(send: Send, data: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})


def _event_bytes(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
