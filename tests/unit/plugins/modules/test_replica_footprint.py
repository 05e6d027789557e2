# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's own part: its options, and a host without an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.modules import replica_footprint

SPECIFICATION = {"image": "tts", "port": 80, "network": "voicefleet", "health": {"test": ["CMD", "true"]}}


def run(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    with patch_module_args({"service": "tts", **options}), pytest.raises(SystemExit):
        replica_footprint.main()
    return dict(json.loads(capsys.readouterr().out))


def test_without_an_engine_there_is_nothing_to_measure_and_nothing_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    none = f"unix://{tmp_path}/none.sock"
    assert "No Docker Engine at" in run(capsys, specification=SPECIFICATION, docker_host=none)["msg"]
    absent = run(capsys, state="absent", docker_host=none)
    assert (absent["changed"], absent["removed"]) == (False, 0)


def test_options_that_cannot_be_right() -> None:
    def mistakes(**options: Any) -> str:
        given = {"requests": [{"name": "a word", "path": "/speak"}], "at_once": [1], **options}
        return " ".join(replica_footprint.mistakes_of(given))

    assert mistakes() == ""
    assert "requests is empty" in mistakes(requests=[])
    assert "the path of 'a word' is 'speak'" in mistakes(requests=[{"name": "a word", "path": "speak"}])
    assert "at_once is [0, 2]" in mistakes(at_once=[0, 2])
    assert "at_once is []" in mistakes(at_once=[])


def test_a_request_is_sent_as_it_is_given() -> None:
    given = {"name": "a word", "path": "/speak", "method": "POST", "headers": {"X-Count": 1}}
    made = replica_footprint.request_of({**given, "body": {"input": "Hello."}}, 7)
    assert (made.url, made.body, made.timeout_seconds) == ("/speak", b'{"input": "Hello."}', 7)
    assert made.headers == {"Content-Type": "application/json", "X-Count": "1"}
