# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The paths of CosyVoice's own server: a form in, raw samples out.

The samples are signed 16-bit little-endian mono PCM, and a header tells their rate. Upstream's client sends
its form with GET, so both methods are taken.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response

from .api_openai import ADVICE_HEADER, ERRORS
from .audio import FORMATS, SAMPLE_RATE_HZ
from .checks import checked
from .engines.base import Mode, Synthesis
from .errors import SpeechError
from .speech import Desk

_RATE = {"description": "Samples a second", "schema": {"type": "integer", "enum": [SAMPLE_RATE_HZ]}}
_PCM = {
    "description": "s16le mono PCM, streamed",
    "content": {"audio/pcm": {"schema": {"type": "string", "format": "binary"}}},
    "headers": {"X-Sample-Rate": _RATE, **ADVICE_HEADER},
}
_FIELD_NAMES = {
    "text": "tts_text",
    "reference_audio": "prompt_wav",
    "reference_text": "prompt_text",
    "instructions": "instruct_text",
}
_LEAST = {"minLength": 1}  # said in the document only: the refusal in checks.py has more to say
_Text = Annotated[str, Form(json_schema_extra=_LEAST, examples=["Hello, this is a voice."])]
_PromptText = Annotated[
    str,
    Form(description="Its exact words", json_schema_extra=_LEAST, examples=["This is what is said in it."]),
]
_InstructText = Annotated[str, Form(json_schema_extra=_LEAST, examples=["Please speak quietly."])]
_Wav = Annotated[UploadFile, File(description="The recording whose voice is taken")]


def router(desk: Desk) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["CosyVoice"])
    how: dict[str, Any] = {"response_class": Response, "responses": {200: _PCM, **ERRORS}}

    async def clone(request: Request, mode: Mode, text: str, prompt: UploadFile, **more: str) -> Response:
        if mode not in desk.engine.modes:
            raise SpeechError(
                400,
                "unsupported_by_engine",
                f"The engine {desk.engine.name!r} of this replica cannot clone voices ({mode}); "
                "POST /v1/audio/speech speaks with the voices it has.",
            )
        longest = desk.settings.max_input_characters
        texts = {name: checked(value, _FIELD_NAMES[name], longest) for name, value in more.items()}
        checked(text, "tts_text", longest)
        desk.require_ready()
        recording = await prompt.read()
        if not recording:
            raise SpeechError(400, "invalid_value", "'prompt_wav' is empty.", "prompt_wav")
        wish = Synthesis(
            text,
            mode,
            voice="",
            reference_text=texts.get("reference_text"),
            instructions=texts.get("instructions"),
        )
        return await desk.answer(request, wish, FORMATS["pcm"], _FIELD_NAMES, recording)

    @routes.get("/inference_zero_shot", **how)
    @routes.post("/inference_zero_shot", **how)
    async def zero_shot(
        request: Request, tts_text: _Text, prompt_text: _PromptText, prompt_wav: _Wav
    ) -> Response:
        """Speak with the voice of a recording whose words are given."""
        return await clone(request, Mode.ZERO_SHOT, tts_text, prompt_wav, reference_text=prompt_text)

    @routes.get("/inference_cross_lingual", **how)
    @routes.post("/inference_cross_lingual", **how)
    async def cross_lingual(request: Request, tts_text: _Text, prompt_wav: _Wav) -> Response:
        """Speak with the voice of a recording in another language."""
        return await clone(request, Mode.CROSS_LINGUAL, tts_text, prompt_wav)

    @routes.get("/inference_instruct2", **how)
    @routes.post("/inference_instruct2", **how)
    async def instruct2(
        request: Request, tts_text: _Text, instruct_text: _InstructText, prompt_wav: _Wav
    ) -> Response:
        """Speak with the voice of a recording, in the manner an instruction asks for."""
        return await clone(request, Mode.INSTRUCT, tts_text, prompt_wav, instructions=instruct_text)

    return routes
