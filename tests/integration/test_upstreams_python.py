# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The speech server speaks on Python 3.10, upstream's, with what the profile of its pins is locked to.

Of that only what the server itself imports is installed, from the package index; upstream's package is the
stand-in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from patience import until
from recorded_voices import model, voice

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "roles/cosyvoice/files/cosyvoice3"
DEADLINE_SECONDS = 5  # what is spoken here takes less than one
NUMPY_AND_YAML = ("numpy", "pyyaml")  # in the image for upstream's sake
CAN_MAKE_ONE = "import sys, venv; sys.exit(sys.version_info[:2] != (3, 10))"


def python_3_10() -> str | None:
    """One that can make a virtual environment; pyenv's shim is none unless it is told to be."""
    places = [
        shutil.which("python3.10"),
        *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")),
    ]
    for place in filter(None, places):
        if subprocess.run([place, "-c", CAN_MAKE_ONE], capture_output=True).returncode == 0:
            return place
    return None


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter of that version, with the server's own libraries."""
    base = python_3_10()
    if base is None:
        pytest.skip("there is no Python 3.10 here")
    subprocess.run([base, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    found = str(tmp_path / "venv/bin/python")
    lock = (PROFILE / "upstream_pins.txt").read_text(encoding="utf-8")
    pins = tmp_path / "pins.txt"
    pins.write_text("\n".join(re.findall(r"^[a-z0-9-]+==[^ ]+", lock, re.MULTILINE)), encoding="utf-8")
    servers = (PROFILE / "common.in").read_text(encoding="utf-8").split("\n\n")[-1].split()
    assert "uvicorn" in servers, "the last paragraph of common.in is no longer what the speech server imports"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", f"--python={found}", "install", "--quiet", "--no-compile"),
            *("--retries=1", "--only-binary=:all:", f"--constraint={pins}"),
            *(*servers, "async-timeout", *NUMPY_AND_YAML),
        ],
        capture_output=True,
        text=True,
    )
    if "NameResolutionError" in done.stderr or "NewConnectionError" in done.stderr:
        pytest.skip("there is no package index to be reached")
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture
def url(python: str, tmp_path: Path) -> Iterator[str]:
    """A server with one voice."""
    voice(tmp_path / "voices/anna", 200)
    model(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "ENGINE": "cosyvoice3",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MODEL_DIR": str(tmp_path / "model"),
        "VOICES_DIR": str(tmp_path / "voices"),
        "DEADLINE_SECONDS": str(DEADLINE_SECONDS),
        "DRAIN_FILE": str(tmp_path / "drain"),
    }
    paths = [str(ROOT / place) for place in ("roles/cosyvoice/files", "tests/support")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [python, "-m", "speech_server"],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONDONTWRITEBYTECODE": "1",
                **{f"SPEECH_{name}": value for name, value in settings.items()},
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    found = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        with suppress(URLError, ConnectionError), urlopen(f"{found}/healthz") as answer:
            return bool(answer.status == 200)
        return False

    try:
        until("ready", ready)
        yield found
    finally:
        process.kill()
        process.wait()
    log_text = (tmp_path / "log").read_text()
    assert "Traceback" not in log_text, log_text


def test_the_server_speaks_on_upstreams_python(url: str) -> None:
    body = {"input": "The rain has stopped. It is quiet now.", "voice": "anna", "response_format": "mp3"}
    for kind in ({}, {"stream_format": "sse"}):
        request = Request(
            f"{url}/v1/audio/speech",
            json.dumps({**body, **kind}).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request) as answer:
            assert len(answer.read()) > 5000
    # asyncio's TimeoutError is not the built-in one there (older_python.py).
    body["input"] = "Stuck-early."
    with pytest.raises(HTTPError) as refused:
        urlopen(
            Request(f"{url}/v1/audio/speech", json.dumps(body).encode(), {"Content-Type": "application/json"})
        )
    assert refused.value.code == 504
