# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where texts are cut, and which are refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speech_server.checks import checked
from speech_server.errors import SpeechError
from speech_server.text import sentences


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 3.5 at example.com today. Fine.", ["It costs 3.5 at example.com today.", "Fine."]),
        ("Dr. Smith met J. Doe, e.g. here. Yes.", ["Dr. Smith met J. Doe, e.g. here.", "Yes."]),
        ("So did I. Then we left.", ["So did I.", "Then we left."]),
        ('"Stop." He did.', ['"Stop."', "He did."]),
        ("A line\nanother line", ["A line", "another line"]),
        ("你好。今天天气很好！走吧", ["你好。", "今天天气很好！", "走吧"]),  # noqa: RUF001
        ("  \n ", []),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_long_sentences_are_cut_at_a_pause() -> None:
    text = "alpha beta gamma, " * 10
    parts = sentences(text, longest=100)
    assert all(len(part) <= 100 and part.endswith(",") for part in parts)
    assert " ".join(parts) == text.strip()


@given(st.text(max_size=600), st.integers(8, 100))
def test_nothing_but_white_space_is_lost_and_all_parts_are_bounded(text: str, longest: int) -> None:
    parts = sentences(text, longest)
    assert re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", text)
    assert all(0 < len(part) <= longest for part in parts)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "nothing_to_speak"),
        (" \n\t ", "nothing_to_speak"),
        ("?!... --", "nothing_to_speak"),
        ("a\x00b", "invalid_value"),
        ("a\x1b[31mb", "invalid_value"),
        ("a\ud800b", "invalid_value"),
        ("a" * 11, "string_above_max_length"),
    ],
)
def test_what_cannot_be_spoken(text: str, code: str) -> None:
    with pytest.raises(SpeechError) as raised:
        checked(text, "input", 10)
    assert (raised.value.status, raised.value.code, raised.value.param) == (400, code, "input")


def test_white_space_and_foreign_scripts_pass() -> None:
    assert checked("a\tb\r\n你好 ١٢", "input", 100)
