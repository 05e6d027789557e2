# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors as callers see them, all in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException


class ErrorDetail(BaseModel):
    """What is wrong, which field, and a word for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


class SpeechError(Exception):
    """An answer that is not a success. 4xx: the caller's; 5xx: ours."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_seconds: int | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        headers = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return JSONResponse(self.body(), self.status, headers)


def quoted(value: object) -> str:
    """A caller's value, fit to be repeated in a message: short, and valid UTF-8 whatever it held."""
    text = str(value)
    return (
        "'"
        + (text if len(text) <= 64 else text[:61] + "...").encode("ascii", "backslashreplace").decode()
        + "'"
    )


def _from_validation(error: RequestValidationError, request: Request) -> SpeechError:
    first = error.errors()[0]
    location = [part for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = ".".join(quoted(part)[1:-1] for part in location) or None
    kind = first["type"]
    if kind == "json_invalid":
        return SpeechError(400, "invalid_json", f"The body is not valid JSON: {first['ctx']['error']}.")
    sent = request.headers.get("content-type", "")
    wanted = "multipart/form-data" if request.url.path.startswith("/inference_") else "application/json"
    if not sent.lower().startswith(wanted) and not (
        wanted.startswith("multi") and "x-www-form" in sent.lower()
    ):
        return SpeechError(
            415, "unsupported_media_type", f"Send this as Content-Type: {wanted}; it came as {quoted(sent)}."
        )
    if kind == "missing":
        return SpeechError(
            400, "missing_required_parameter", f"Missing required parameter: '{param}'.", param
        )
    if param is None:
        return SpeechError(400, "invalid_body", 'The body must be a JSON object such as {"input": "Hello."}.')
    return SpeechError(400, "invalid_value", f"Invalid '{param}': {first['msg']}.", param)


def _from_http(error: HTTPException, request: Request) -> SpeechError:
    path = quoted(request.url.path)
    known = {
        400: ("invalid_body", "The body could not be read: it is neither valid JSON nor a valid form."),
        404: ("not_found", f"There is nothing at {path}. GET / lists what there is."),
        405: ("method_not_allowed", f"{request.method} is not possible at {path}."),
        413: ("body_too_large", "The body is too large."),
    }
    code, message = known.get(error.status_code, ("http_error", quoted(error.detail)))
    return SpeechError(error.status_code, code, message)


def install(app: FastAPI) -> None:
    """Answer every kind of failure in the one shape."""

    @app.exception_handler(SpeechError)
    async def speech(_request: Request, error: SpeechError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        return _from_validation(error, request).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        response = _from_http(error, request).response()
        response.headers.update(error.headers or {})
        if error.status_code == 405 and (methods := app.openapi()["paths"].get(request.url.path)):
            # The framework names the methods of one route only, and a path may have a route for each.
            response.headers["Allow"] = ", ".join(sorted(method.upper() for method in methods))
        return response

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> Response:
        return SpeechError(
            500, "internal_error", "A fault of this server; its log has the details."
        ).response()
