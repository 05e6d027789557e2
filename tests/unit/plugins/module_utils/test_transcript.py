# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words that can and cannot be those of a recording."""

from __future__ import annotations

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _transcript
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._voices import VoicesError
from speech_server import prompts as server
from speech_server.engines.base import WishRefused

PATH = "/srv/recordings/anna.wav"
GOOD = [
    ("This is what is said in it.", 4, 4),
    ("收到好友从远方寄来的生日礼物。", 4, 3.5),
    ("You are a helpful assistant.<|endofprompt|>This is what is said in it.", 4, 4),
    ("[breath] This is what is said in it, [laughter] and it was <strong>good</strong>.", 4, 4),
    ("[laughter]" * 30 + " That was good.", 4, 3),  # marks are not spoken
    ("0171 23 45 67", 8, 6),  # a digit is a word
    ("Wait. What?", 20, 2),  # pauses are no sound
]
BAD = [
    ("...", 4, 4, "words of .*anna.wav are missing: '...' has no letter and no digit. Give exactly"),
    ("<|en|>This is what is said in it.", 4, 4, r"hold the marker <\|en\|>, .* Remove it"),
    ("Far too many. " * 30, 4, 4, r"has 4.0 s, and 'Far too .*\.\.\.' takes 7.5 s at least"),
    ("远方寄来的生日礼物" * 10, 4, 4, "takes 7.5 s at least"),
    ("This", 4, 3.5, "has 3.5 s of sound, and 'This' takes 1.3 s at most: words are missing"),
    ("远方", 4, 4, "takes 2.0 s at most"),
]


@pytest.mark.parametrize(("words", "seconds", "sound"), GOOD)
def test_what_can_be_said_in_it(words: str, seconds: float, sound: float) -> None:
    _transcript.check_words(PATH, words, seconds, sound)
    assert server.least_seconds(server.bare_transcript(words)) <= seconds


@pytest.mark.parametrize(("words", "seconds", "sound", "says"), BAD)
def test_what_cannot(words: str, seconds: float, sound: float, says: str) -> None:
    with pytest.raises(VoicesError, match=says):
        _transcript.check_words(PATH, words, seconds, sound)


@pytest.mark.parametrize("words", [words for words, *_ in BAD[:2]])
def test_the_server_refuses_what_is_no_transcript(words: str) -> None:
    with pytest.raises(WishRefused):
        server.bare_transcript(words)


@pytest.mark.parametrize("words", [words for words, *_ in BAD[2:4]])
def test_the_server_has_as_much_for_too_much(words: str) -> None:
    assert server.least_seconds(words) > 4


def test_the_figures_are_the_servers() -> None:
    assert (_transcript.SYSTEM, _transcript.END) == (server.SYSTEM, server.END)
    assert (_transcript._MARKER.pattern, _transcript._TAG.pattern) == (
        server._MARKER.pattern,
        server._TAG.pattern,
    )
    for fastest, letter in ((_transcript.FASTEST_LETTERS, "a"), (_transcript.FASTEST_WIDE, "雨")):
        assert server.least_seconds(letter * int(fastest)) == pytest.approx(1)
