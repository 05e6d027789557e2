# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's speech API, and the two lists Open WebUI asks for next to it."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from .audio import FORMATS
from .checks import checked
from .engines.base import Mode, Synthesis
from .errors import ErrorAnswer, SpeechError, quoted
from .speech import Desk

OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
# All that OpenAI's SDK names (types/audio/speech_create_params.py).
OPENAI_VOICES = frozenset(
    (
        *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
        *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
    )
)
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "What was sent cannot be spoken; the message says why"},
    500: {"model": ErrorAnswer, "description": "The engine failed before the first byte"},
    503: {
        "model": ErrorAnswer,
        "description": "Not ready, or more than this replica can take; nothing was done yet",
        "headers": {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}},
    },
    504: {"model": ErrorAnswer, "description": "No audio before the deadline"},
}
ADVICE_HEADER: dict[str, Any] = {
    "X-Recording-Advice": {
        "description": "What could be better about the recording that came along, such as its length; absent "
        "where it is good",
        "schema": {"type": "string"},
    }
}
_AUDIO = {format_.media_type.split(";")[0] for format_ in FORMATS.values()}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
# In the words of OpenAPI 3.2, as the framework itself describes events: `itemSchema` is that of one event.
_EVENTS = {
    "itemSchema": {
        "type": "object",
        "properties": {
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {
                    "type": "object",
                    "properties": {
                        "type": {"enum": ["speech.audio.delta", "speech.audio.done", "error"]},
                        "audio": {
                            "type": "string",
                            "contentEncoding": "base64",
                            "description": "The next bytes, with speech.audio.delta",
                        },
                        "error": {"$ref": "#/components/schemas/ErrorDetail"},
                    },
                    "required": ["type"],
                },
            }
        },
        "required": ["data"],
    }
}
_FIELD_NAMES = {"text": "input", "reference_audio": "ref_audio", "reference_text": "ref_text"}
_DATA_URL = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)


class VoiceReference(BaseModel):
    """OpenAI's other way of naming a voice."""

    id: str


class SpeechBody(BaseModel):
    """As OpenAI's clients send it; unknown parameters are ignored, and named in `X-Ignored-Parameters`."""

    model_config = ConfigDict(extra="allow")

    input: Annotated[
        str,
        Field(
            description="The text", examples=["Hello, this is a voice."], json_schema_extra={"minLength": 1}
        ),
    ]
    model: Annotated[
        str | None,
        Field(
            description="The service's name, the model's own with or without its owner, or "
            f"{', '.join(OPENAI_MODELS)}; all mean the one that is here"
        ),
    ] = None
    voice: Annotated[
        str | VoiceReference | None,
        Field(
            description="See /v1/audio/voices; OpenAI's names (alloy and so on) mean `default` "
            "where no voice has them"
        ),
    ] = "default"
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = "mp3"
    speed: Annotated[float | None, Field(ge=0.25, le=4, allow_inf_nan=False, strict=True)] = 1.0
    instructions: Annotated[str | None, Field(description="Ignored by engines that follow none")] = None
    stream_format: Literal["audio", "sse"] | None = "audio"
    ref_audio: Annotated[
        str | None,
        Field(description="A recording whose voice is taken instead, as base64 or a data: URL of it"),
    ] = None
    ref_text: Annotated[str | None, Field(description="The recording's exact words")] = None
    stream: Annotated[
        bool | None,
        Field(
            description="Send parts of a sentence before it is finished, where the engine can", strict=True
        ),
    ] = None


class Model(BaseModel):
    """One name that `model` may have."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "voicefleet"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class NamedVoice(BaseModel):
    """One voice."""

    id: str
    name: str


class VoiceList(BaseModel):
    """All of them."""

    voices: list[NamedVoice]


class ModelId(BaseModel):
    """One model, as Open WebUI reads it."""

    id: str


class ModelIds(BaseModel):
    """All of them."""

    models: list[ModelId]


def router(desk: Desk) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["OpenAI"])
    own = desk.settings.model or desk.engine.model
    names = tuple(dict.fromkeys((desk.settings.service, own, *OPENAI_MODELS)))

    def require_model(asked: str) -> None:
        """Raise SpeechError (404) for none of the names; the model's own may have an owner before it."""
        if asked not in names and asked.rpartition("/")[2] != own.rpartition("/")[2]:
            raise _no_model(asked, names)

    @routes.post(
        "/v1/audio/speech",
        response_class=Response,
        responses={
            200: {
                "description": "Audio, streamed",
                "content": {**dict.fromkeys(_AUDIO, _BINARY), "text/event-stream": _EVENTS},
                "headers": ADVICE_HEADER,
            },
            **ERRORS,
        },
    )
    async def create_speech(body: SpeechBody, request: Request) -> Response:
        """Speak a text; the audio is sent sentence by sentence."""
        if body.model is not None:
            require_model(body.model)
        ignored = _ignored(body, desk)
        text = checked(body.input, "input", desk.settings.max_input_characters)
        if body.instructions:
            checked(body.instructions, "instructions", desk.settings.max_input_characters)
        recording = _recording(body, desk)
        desk.require_ready()
        instructions = body.instructions if desk.engine.follows_instructions else None
        wish = Synthesis(
            text,
            _mode(body, instructions),
            voice="" if recording else _voice(body.voice, desk),
            reference_text=body.ref_text if recording else None,
            speed=1.0 if body.speed is None else body.speed,
            instructions=instructions or None,
            stream=body.stream,
        )
        return await desk.answer(
            request,
            wish,
            FORMATS[body.response_format or "mp3"],
            _FIELD_NAMES,
            recording,
            events=body.stream_format == "sse",
            headers={"X-Ignored-Parameters": ", ".join(ignored)} if ignored else None,
        )

    @routes.get("/v1/models")
    async def list_models() -> ModelList:
        """The names `model` may have."""
        return ModelList(data=[Model(id=name) for name in names])

    @routes.get("/v1/models/{model:path}", responses={"4XX": ERRORS["4XX"]})
    async def retrieve_model(model: Annotated[str, Path(examples=["tts-1"])]) -> Model:
        """One of them."""
        require_model(model)
        return Model(id=model)

    @routes.get("/v1/audio/voices", responses={503: ERRORS[503]})
    async def list_voices() -> VoiceList:
        """The voices; `default` is always one."""
        desk.require_ready()
        return VoiceList(voices=[NamedVoice(id=voice.id, name=voice.name) for voice in desk.engine.voices()])

    @routes.get("/v1/audio/models")
    async def list_audio_models() -> ModelIds:
        """The names `model` may have, as Open WebUI reads them."""
        return ModelIds(models=[ModelId(id=name) for name in names])

    return routes


def _no_model(model: str, names: tuple[str, ...]) -> SpeechError:
    return SpeechError(
        404,
        "model_not_found",
        f"There is no model {quoted(model)} here; there is {', '.join(names)}.",
        "model",
    )


def _voice(asked: str | VoiceReference | None, desk: Desk) -> str:
    voice = asked.id if isinstance(asked, VoiceReference) else asked
    known = [known.id for known in desk.engine.voices()]
    if voice is None:
        return "default"
    if voice not in known:
        if voice in OPENAI_VOICES and "default" in known:
            return "default"
        raise SpeechError(
            400,
            "voice_not_found",
            f"There is no voice {quoted(voice)} here; there is {', '.join(known) or 'none'}.",
            "voice",
        )
    return voice


def _mode(body: SpeechBody, instructions: str | None) -> Mode:
    if body.ref_audio is None:
        return Mode.VOICE
    if instructions:
        return Mode.INSTRUCT
    return Mode.CROSS_LINGUAL if body.ref_text is None else Mode.ZERO_SHOT


def _recording(body: SpeechBody, desk: Desk) -> bytes | None:
    """The recording that came along; one that cannot be used is refused rather than ignored."""
    for name in ("ref_audio", "ref_text"):
        if getattr(body, name) is not None and Mode.ZERO_SHOT not in desk.engine.modes:
            raise SpeechError(
                400,
                "unsupported_parameter",
                f"'{name}' is not taken here: the engine {desk.engine.name!r} cannot clone voices.",
                name,
            )
    if body.ref_text is not None:
        if body.ref_audio is None:
            raise SpeechError(
                400,
                "missing_required_parameter",
                "'ref_text' wants the 'ref_audio' it is said in.",
                "ref_audio",
            )
        checked(body.ref_text, "ref_text", desk.settings.max_input_characters)
    if body.ref_audio is None:
        return None
    wrong = SpeechError(
        400,
        "invalid_value",
        "'ref_audio' is neither base64 nor a data: URL of it; nothing is fetched from elsewhere.",
        "ref_audio",
    )
    try:
        recording = base64.b64decode(_DATA_URL.sub("", body.ref_audio, count=1), validate=True)
    except (binascii.Error, ValueError):
        raise wrong from None
    if not recording:
        raise wrong
    return recording


def _ignored(body: SpeechBody, desk: Desk) -> list[str]:
    """What will have no effect."""
    extra = body.model_extra or {}
    ignored = sorted(re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:40] for name in extra)[:20]
    if body.instructions and not desk.engine.follows_instructions:
        ignored.append("instructions")
    return ignored
