# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of what was spoken."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Live, eventually
from speech_server.outputs import Output


def kept(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "outputs").rglob("*") if path.is_file())


def test_each_answer_is_kept_under_its_request_id(start: Callable[..., Live], tmp_path: Path) -> None:
    live = start(save_outputs=True)
    with live.client() as client:
        body = {"input": "One. Two.", "response_format": "wav"}
        answer = client.post("/v1/audio/speech", json=body, headers={"X-Request-Id": "my-id"})
        eventually(lambda: live.server.frame.active == 0)
    (path,) = kept(tmp_path)
    assert path.name.endswith("-my-id.wav")
    assert path.read_bytes()[44:] == answer.content[44:]
    with wave.open(str(path)) as file:  # unlike the streamed one, its header knows the length
        assert file.getnframes() == pytest.approx(24000, abs=2)


def test_what_is_incomplete_is_not_kept(start: Callable[..., Live], tmp_path: Path) -> None:
    live = start(save_outputs=True)
    with live.client() as client:
        with client.stream("POST", "/v1/audio/speech", json={"input": "One. Step. Two."}) as answer:
            next(answer.iter_raw())
            assert [path.suffix for path in kept(tmp_path)] == [".part"]
        eventually(lambda: live.metric("callers_left_total") == 1)
        live.engine.step.release()
        eventually(lambda: live.server.admission.in_flight == 0)
    assert kept(tmp_path) == []


def test_a_directory_that_cannot_be_written_costs_nobody_his_answer(
    start: Callable[..., Live], tmp_path: Path
) -> None:
    (tmp_path / "outputs").write_text("a file where a directory should be")
    live = start(save_outputs=True)
    with live.client() as client:
        assert live.speak(client, "One. Two.").status_code == 200
    assert live.metric("outputs_failed_total") == 1


def test_a_disk_that_is_full_from_the_middle_on(tmp_path: Path) -> None:
    failures: list[int] = []
    output = Output(tmp_path, "id", "mp3", lambda: failures.append(1))
    output.write(b"begun")
    assert output._file
    output._file.close()
    output._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - the output closes it
    output.write(b"more")
    output.write(b"and more")
    output.close(complete=True)
    assert failures == [1]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
