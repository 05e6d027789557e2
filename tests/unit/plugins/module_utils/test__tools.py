# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import sys

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import ToolError, redact, run


def test_a_failure_shows_the_end_of_what_was_said_without_passwords() -> None:
    code = (
        "for i in range(40): print(i)\nprint('https://me:secret@mirror.example.com/x')\nraise SystemExit(3)"
    )
    with pytest.raises(ToolError) as error:
        run([sys.executable, "-c", code])
    text = str(error.value)
    assert "ended with code 3" in text
    assert "https://***@mirror.example.com/x" in text
    assert "secret" not in text
    assert "\n29\n" in text
    assert "\n28\n" not in text


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ToolError, match="no-such-program cannot be run"):
        run(["no-such-program"])


def test_redact_leaves_plain_urls() -> None:
    assert redact("http://a.example.com/b@c") == "http://a.example.com/b@c"
