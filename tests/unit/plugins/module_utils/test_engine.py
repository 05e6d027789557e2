# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the Docker Engine API: which SDKs work, and what is said when the engine cannot be used."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _engine
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import EngineError


@pytest.mark.parametrize(
    ("sdk", "requests"),
    [("5.0.3", "2.28.1"), ("7.0.0", "2.31.0"), ("7.1.0", "2.32.3"), ("7.2.0", "2.32.5"), ("8.0.0", "3.0.0")],
)
def test_pairs_that_work(sdk: str, requests: str) -> None:
    _engine.check_sdk(sdk, requests)


@pytest.mark.parametrize(("sdk", "requests"), [("7.0.0", "2.32.0"), ("5.0.3-1ubuntu1.1", "2.32.3")])
def test_the_broken_pair_is_named(sdk: str, requests: str) -> None:
    with pytest.raises(EngineError, match=r"http\+docker") as error:
        _engine.check_sdk(sdk, requests)
    assert sdk in str(error.value)
    assert requests in str(error.value)
    assert "7.1.0" in str(error.value), "the remedy"


def test_an_old_sdk_is_refused() -> None:
    with pytest.raises(EngineError, match=r"4\.1\.0 .* too old, 5\.0\.3"):
        _engine.check_sdk("4.1.0", "2.28.1")


def test_a_missing_sdk_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(EngineError, match=r"cannot be imported.*python3-docker.*EPEL"):
        _engine.connect()


def test_nothing_listens(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"No Docker Engine at unix:///.*/none\.sock.*Nothing listens there"
    ):
        _engine.connect(f"unix://{tmp_path}/none.sock", timeout=1)


@pytest.fixture
def silent_socket(tmp_path: Path) -> Iterator[Path]:
    """A socket that takes connections and never says a word, as a hung dockerd does."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: held.append(server.accept()[0]), daemon=True)
        thread.start()
        yield path
        thread.join(timeout=5)
        for connection in held:
            connection.close()


def test_a_hung_engine(silent_socket: Path) -> None:
    with pytest.raises(EngineError, match="does not answer"):
        _engine.connect(f"unix://{silent_socket}", timeout=0.2)


@pytest.mark.parametrize(
    ("version", "figures"),
    [
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("29.1.3-0ubuntu3", (29, 1, 3)),
        ("28.0.0-rc.1", (28, 0, 0)),
        ("dev", ()),
    ],
)
def test_version_tuple(version: str, figures: tuple[int, ...]) -> None:
    assert _engine.version_tuple(version) == figures
