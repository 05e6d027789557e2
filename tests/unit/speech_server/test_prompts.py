# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What CosyVoice3 is told, and how its texts are cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speech_server import prompts
from speech_server.engines.base import WishRefused


def test_short_sentences_are_joined_and_long_ones_are_not() -> None:
    assert prompts.pieces(
        "Yes. No. Perhaps. " + "A sentence that has some more words in it than those. " * 2
    ) == [
        "Yes. No. Perhaps. A sentence that has some more words in it than those.",
        "A sentence that has some more words in it than those.",
    ]
    chinese = prompts.pieces("你好。今天天气很好，我们去公园散步吧。" * 6)  # noqa: RUF001
    assert all(20 <= len(piece) <= 90 for piece in chinese)
    assert len(chinese) >= 2


@given(st.text(max_size=900))
def test_pieces_are_bounded_and_lose_nothing_that_can_be_spoken(text: str) -> None:
    found = prompts.pieces(text)
    assert all(len(piece) <= 280 for piece in found)
    letters = [character for character in text if character.isalnum()]
    assert [character for character in "".join(found) if character.isalnum()] == letters


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("?!", 0), ("a" * 40, 1), ("你" * 12, 1), ("[breath]你好", 2 / 12), ("こんにちは", 5 / 12)],
)
def test_the_least_time_a_text_takes(text: str, seconds: float) -> None:
    assert prompts.least_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Hello.", "Hello."),
        ("You are a helpful assistant.<|endofprompt|>Hello.", "Hello."),
        ("<|endofprompt|>Hello.", "Hello."),
        ("You are a helpful assistant. Hello.", "You are a helpful assistant. Hello."),
        ("a <| b |> c", "a <| b |> c"),
    ],
)
def test_upstreams_beginning_is_taken_off(text: str, bare: str) -> None:
    if "<| b" in text:
        with pytest.raises(WishRefused):
            prompts.bare_text(text)
    else:
        assert prompts.bare_text(text) == bare


@pytest.mark.parametrize(
    "text", ["<|en|>Hi", "Hi <|endofprompt|> there", "<|endofprompt|>a<|endofprompt|>", "x<|é\n|>y"]
)
def test_markers_are_refused(text: str) -> None:
    with pytest.raises(WishRefused, match="marker") as refused:
        prompts.bare_text(text)
    assert re.fullmatch(r"[ -~]+", refused.value.message)
