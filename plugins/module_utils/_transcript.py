# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether these can be the exact words of a recording.

This module util is private to the collection. What is in the words and not in the recording, or the other way
round, is heard in every answer of the voice. The speech server refuses too many words. Here too few are
refused as well: a quotation mark that is missing in a shell leaves one of ten.
"""

from __future__ import annotations

import re
import unicodedata

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._voices import VoicesError

# A second. Ordinary speech has about 15 letters of an alphabet or 4.5 Chinese characters; the fastest as the
# server has it.
FASTEST_LETTERS, FASTEST_WIDE = 40.0, 12.0
SLOWEST_LETTERS, SLOWEST_WIDE = (
    3.0,
    1.0,
)  # of sound, without pauses; a digit takes as long as a wide character

# Upstream's beginning, for those who know it; its markers; and its tokens, such as [breath] and pinyin.
SYSTEM, END = "You are a helpful assistant.", "<|endofprompt|>"
_MARKER = re.compile(r"<\|[^|<>]{0,40}\|>")
_TAG = re.compile(r"\[[^\[\]\s]{1,20}\]|</?(?:strong|laughter)>")


def check_words(path: str, words: str, seconds: float, sound_seconds: float) -> None:
    """Raise VoicesError unless C(path) can say them in so many seconds, so many of which are not silent."""
    bare = _bare(words)
    if found := _MARKER.search(bare):
        raise VoicesError(
            f"The words of {path} hold the marker {found[0]}, which the model would read aloud. Remove "
            "it; marks of languages are not needed."
        )
    letters, wide, digits = _counts(bare)
    if not letters + wide + digits:
        raise VoicesError(
            f"The words of {path} are missing: '{_short(bare)}' has no letter and no digit. Give exactly "
            "what is said in it, in voice_transcript."
        )
    least = wide / FASTEST_WIDE + (letters + digits) / FASTEST_LETTERS
    if least > seconds:
        raise VoicesError(
            f"{path} has {seconds:.1f} s, and '{_short(bare)}' takes {least:.1f} s at least: these are not "
            "its exact words. Leave out what is not said in it, as that would be heard in every answer."
        )
    most = (wide + digits) / SLOWEST_WIDE + letters / SLOWEST_LETTERS
    if most < sound_seconds:
        raise VoicesError(
            f"{path} has {sound_seconds:.1f} s of sound, and '{_short(bare)}' takes {most:.1f} s at most: "
            "words are missing, and they would be heard in every answer. Give them all, or cut it."
        )


def _bare(words: str) -> str:
    before, end, after = words.partition(END)
    return after if end and before.strip() in ("", SYSTEM) else words


def _short(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= 40 else f"{words[:40]}..."


def _counts(words: str) -> tuple[int, int, int]:
    """Letters of an alphabet, characters that stand for a syllable or a word, and digits."""
    letters = wide = digits = 0
    for character in _TAG.sub("", words):
        kind = unicodedata.category(character)[0]
        if kind in "LN" and unicodedata.east_asian_width(character) in "WF":
            wide += 1
        elif kind == "N":
            digits += 1
        elif kind == "L":
            letters += 1
    return letters, wide, digits
