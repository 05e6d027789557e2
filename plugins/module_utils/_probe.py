# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP request, what came back, and whether that is what was wanted.

This module util is private to the collection. C(requests) is what the Docker SDK stands on, so a host that
can run replicas has it; it is imported only when something is asked.
"""

from __future__ import annotations

import json
import re
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._wave import WaveError, read_wave

# A proof needs no more; a body without end must not fill the host's memory.
MAX_BODY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """What to ask, and what the answer has to be like. Times are in seconds."""

    name: str
    url: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    status: int = 200
    # Header names with the regular expression their value has to match; empty: any value will do.
    response_headers: dict[str, str] = field(default_factory=dict)
    min_bytes: int = 0
    # More than 0: the body has to be a WAV file with at least so much sound in it.
    min_audio_seconds: float = 0
    timeout_seconds: float = 10
    validate_certs: bool = True
    ca_path: str | None = None
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came back; C(status) is None and C(error) says why when nothing did."""

    status: int | None = None
    # Names in lower case.
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    first_byte_seconds: float = 0
    total_seconds: float = 0
    error: str = ""

    def text(self, limit: int = 200) -> str:
        """The beginning of the body on one line, for messages."""
        return " ".join(self.body[: limit * 4].decode(errors="replace").split())[:limit]

    def json(self) -> t.Any:
        """The body as JSON, None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def encode_body(body: t.Any, headers: t.Mapping[str, str]) -> tuple[bytes | None, dict[str, str]]:
    """Bytes to send and the headers to send them with: text as it is, anything else as JSON."""
    if body is None or body == "":
        return None, dict(headers)
    if isinstance(body, str):
        return body.encode(), dict(headers)
    named = {name.lower() for name in headers}
    return json.dumps(body).encode(), {
        **({} if "content-type" in named else {"Content-Type": "application/json"}),
        **headers,
    }


def ask(request: Request) -> Answer:
    """Send the request, read the whole answer, never raise for what the network or the server does.

    No proxy, no .netrc and no redirect is followed: what is at this very address is what counts.
    C(timeout_seconds) holds for the whole exchange, so a body that trickles for ever ends too.
    """
    import requests

    started = time.monotonic()
    deadline = started + request.timeout_seconds
    session = requests.Session()
    session.trust_env = False
    body, first_byte = bytearray(), 0.0
    try:
        with session.request(
            request.method,
            request.url,
            data=request.body,
            headers=request.headers,
            auth=(request.username, request.password or "") if request.username else None,
            verify=(request.ca_path or True) if request.validate_certs else False,
            timeout=request.timeout_seconds,
            allow_redirects=False,
            stream=True,
        ) as response:
            for chunk in response.iter_content(4096):
                first_byte = first_byte or time.monotonic() - started
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return Answer(error=f"more than {MAX_BODY_BYTES} bytes came, and no end")
                if time.monotonic() > deadline:
                    return Answer(error=f"no end after {request.timeout_seconds:g} s, {len(body)} bytes came")
    except (requests.exceptions.RequestException, OSError, ValueError) as error:
        return Answer(error=explain(error, request))
    finally:
        session.close()
    total = time.monotonic() - started
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, bytes(body), first_byte or total, total)


def explain(error: Exception, request: Request) -> str:
    """A short reason; the libraries' own texts wrap the system's error three times over."""
    text = str(error)
    if "timed out" in text or "Timeout" in type(error).__name__:
        return f"no answer within {request.timeout_seconds:g} s"
    if "refused" in text:
        return "connection refused"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = re.search(r"certificate verify failed: ([^(]+)", text)
        return f"certificate not trusted: {reason.group(1).strip() if reason else text}"
    if "Name or service not known" in text or "name resolution" in text or "NameResolution" in text:
        return "the host name is not known"
    if "without response" in text or "RemoteDisconnected" in text or "reset by peer" in text:
        return "the connection was closed before an answer came"
    return text


def judge(request: Request, answer: Answer) -> list[Check]:
    """What of the answer is as wanted. With another status, or no answer, the rest is not looked at."""
    remedy = (
        "Ask it by hand: curl -v "
        + ("" if request.method == "GET" else f"-X {request.method} ")
        + request.url
    )
    status = check(
        f"{request.name}: status",
        answer.status == request.status,
        answer.error
        if answer.status is None
        else f"{answer.status} {answer.text()}".strip()
        if answer.status != request.status
        else answer.status,
        request.status,
        remedy,
    )
    if not status.ok:
        return [status]
    checks = [status]
    for name, pattern in request.response_headers.items():
        value = answer.headers.get(name.lower())
        checks.append(
            check(
                f"{request.name}: header {name}",
                value is not None and re.search(pattern, value) is not None,
                "none" if value is None else value,
                f"matches {pattern}" if pattern else "any value",
                "A header that is missing was not set by the service, or was removed by a middleware.",
            )
        )
    if request.min_bytes:
        checks.append(
            check(
                f"{request.name}: size",
                len(answer.body) >= request.min_bytes,
                f"{len(answer.body)} bytes",
                f"at least {request.min_bytes} bytes",
                remedy,
            )
        )
    if request.min_audio_seconds:
        checks.append(_judge_audio(request, answer))
    return checks


def _judge_audio(request: Request, answer: Answer) -> Check:
    name, wanted = f"{request.name}: audio", f"at least {request.min_audio_seconds:g} s of sound (WAV)"
    try:
        sound = read_wave(answer.body)
    except WaveError as error:
        return Check(name, False, str(error), wanted, "Look at what the service logged for this request.")
    found = f"{sound.seconds:.1f} s at {sound.rate_hz} Hz"
    if sound.peak == 0:
        return Check(
            name, False, f"{found}, all of it silent", wanted, "The model gives zeros: check its precision."
        )
    return check(
        name,
        sound.seconds >= request.min_audio_seconds,
        found,
        wanted,
        "The audio ends early: look at what the service logged for this request.",
    )
