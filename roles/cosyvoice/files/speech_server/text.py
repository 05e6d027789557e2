# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a text may be cut, and how long it takes to say."""

from __future__ import annotations

import re
import unicodedata

# Ordinary speech, not counting spaces and marks: 15 letters of an alphabet a second (190 English words a
# minute, a quick speaker's), 4.5 characters of Chinese (270 a minute).
_LETTERS_PER_SECOND = 15.0
_WIDE_PER_SECOND = 4.5
# A full stop after one of these ends no sentence.
_ABBREVIATIONS = frozenset(
    ["mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "capt", "rev", "e.g", "i.e", "cf"]
)
_LONGEST_ABBREVIATION = 8
# ruff: noqa: RUF001 - the marks of other scripts are the point here
# CJK marks need no space after them; Latin ones do, or "3.5" and "example.com" would be cut.
_END = re.compile(r"[。！？；]+[」』\u201d\u2019）]*|[.!?…]+[\"'\u201d\u2019)\]]*(?=\s)|\n+")
_PAUSE = re.compile(r"[,;:—–]\s+|[，、：]|\s")
_NEXT = re.compile(r"\s*(\S?)")


def sentences(text: str, longest: int = 300) -> list[str]:
    """Cut a text into sentences, each of at most `longest` characters; nothing but white space is lost.

    Longer ones are cut at a pause, then at a space, then anywhere: what one inference takes is bounded.
    """
    parts, start = [], 0
    for end in _END.finditer(text):
        if _ends_sentence(text, start, end):
            parts.append(text[start : end.end()])
            start = end.end()
    parts.append(text[start:])
    return [piece for part in parts if part.strip() for piece in _bounded(part.strip(), longest)]


def _ends_sentence(text: str, start: int, end: re.Match[str]) -> bool:
    if not end[0].startswith("."):
        return True
    following = _NEXT.match(text, end.end())
    words = text[max(start, end.start() - _LONGEST_ABBREVIATION) : end.start()].split()
    last = words[-1].strip("\"'(\u201c\u2018").lower() if words else ""
    initial = len(last) == 1 and last.isalpha() and last != "i"
    return not ((following and following[1].islower()) or last in _ABBREVIATIONS or initial)


def _bounded(part: str, longest: int) -> list[str]:
    pieces = []
    while len(part) > longest:
        pauses = [match.end() for match in _PAUSE.finditer(part, longest // 4, longest)]
        commas = [at for at in pauses if not part[:at].rstrip()[-1:].isalnum()]
        cut = (commas or pauses or [longest])[-1]
        pieces.append(part[:cut].strip())
        part = part[cut:].strip()
    return [*pieces, part] if part else pieces


def speech_seconds(text: str) -> float:
    """How long it takes to say at an ordinary pace, in seconds of audio."""
    wide = count_wide(text)
    return wide / _WIDE_PER_SECOND + (count_spoken(text) - wide) / _LETTERS_PER_SECOND


def count_spoken(text: str) -> int:
    """Letters and digits of whatever script."""
    return sum(unicodedata.category(character)[0] in "LN" for character in text)


def count_wide(text: str) -> int:
    """Characters that stand for a syllable or a word."""
    return sum(
        unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character)[0] in "LN"
        for character in text
    )
