# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action refuses on the controller, before a host has any of it."""

from __future__ import annotations

import shutil
import typing as t
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.voicefleet.cosyvoice.plugins.action import voice_set
from recorded_voices import tone, voice


class Host(voice_set.ActionModule):  # type: ignore[misc]  # Ansible has no types
    """The action, with a host that has no voice and tells what it is asked to do."""

    def __init__(self, source: Path, state: str) -> None:
        arguments = {"source": str(source), "dir": "/voices", "state": state}
        self._task = SimpleNamespace(args=arguments, check_mode=False)
        self.asked: list[str] = []

    def _find_needle(self, dirname: str, needle: str) -> str:
        return needle

    def _send(self, place: str, voices: t.Any) -> t.Any:
        return {}

    def _module(self, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        self.asked.append(arguments["state"])
        return {"bring": sorted(arguments["voices"]), "digest": "", "changed": True}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(voice_set.ActionBase, "run", lambda *_given: {})  # which wants a connection
    voice(tmp_path / "voices/anna", 200)
    return tmp_path / "voices"


@pytest.mark.parametrize("state", ["planned", "present"])
def test_a_voice_that_replicas_would_leave_out_reaches_no_host(source: Path, state: str) -> None:
    assert Host(source, state).run()["bring"] == ["anna"]
    wav = source / "anna/prompt.wav"
    for content, words in (
        (tone(200, rate_hz=8000), "8000 samples a second"),
        (tone(200, seconds=0.5), "1 s are the least"),
        (tone(200, amplitude=0), "is silent"),
    ):
        wav.write_bytes(content)
        host = Host(source, state)
        with pytest.raises(AnsibleActionFail, match=words):
            host.run()
        assert host.asked == ["planned"]
    shutil.rmtree(source / "anna")
    voice(source / "anna", 200)
    (source / "anna/prompt.txt").write_text("much more than can be said in such a time " * 9)
    with pytest.raises(AnsibleActionFail, match="not its exact words"):
        Host(source, state).run()
