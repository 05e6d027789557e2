# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container's HEALTHCHECK: exits 0 if this replica should get requests, else 1; prints the reason.

Runs alone as `python3 -I -S -E healthcheck.py`, every second or two on every replica: it imports next to
nothing.
A drain flag makes it false whatever the server answers, and also when it does not answer at all.
"""

import os
import socket
import sys

TIMEOUT_SECONDS = 2.0
LONGEST_ANSWER_BYTES = 65536


def main() -> int:
    """Ask, print, and return the exit code."""
    drain_file = os.environ.get("SPEECH_DRAIN_FILE") or "/run/voicefleet/drain"
    if os.path.exists(drain_file):
        return _say(1, "draining: " + drain_file + " exists")
    host = os.environ.get("SPEECH_HOST") or "0.0.0.0"  # noqa: S104
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    port = os.environ.get("SPEECH_PORT") or "7860"
    answer = b""
    try:
        with socket.create_connection((host, int(port)), TIMEOUT_SECONDS) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while len(answer) < LONGEST_ANSWER_BYTES:
                part = connection.recv(4096)
                if not part:
                    break
                answer += part
    except (OSError, ValueError) as error:
        return _say(1, "no answer from " + host + ":" + port + ": " + str(error))
    head, _unused, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    return _say(
        0 if status == [b"200"] else 1, body.decode("utf-8", "replace") or "an answer that is not HTTP"
    )


def _say(code: int, reason: str) -> int:
    sys.stdout.write(reason + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
