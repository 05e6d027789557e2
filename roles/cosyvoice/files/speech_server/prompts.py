# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What CosyVoice3 is told besides the text, and how its texts are cut.

The model wants a fixed sentence and a marker (token 151646) somewhere before the words to speak; without them
its thread dies of an assertion. Where they go depends on the mode. Callers send plain words; those who know
upstream's form and send it whole are understood too.
"""

from __future__ import annotations

import re

from .engines.base import WishRefused
from .text import count_spoken, count_wide, sentences, speech_seconds

SYSTEM = "You are a helpful assistant."
END = "<|endofprompt|>"
LONGEST_INSTRUCTION = 300  # characters; what is longer gets spoken aloud

_MARKER = re.compile(r"<\|[^|<>]{0,40}\|>")
# Tokens of CosyVoice3 that stand in the text itself: [breath], [laughter], pinyin such as [j][ǐ], <strong>.
_TAG = re.compile(r"\[[^\[\]\s]{1,20}\]|</?(?:strong|laughter)>")

# Upstream cuts at 60 to 80 tokens and joins what is below 20. A token is about 4 letters of an alphabet, and
# about 1.3 characters of Chinese; 80 of them are 15 to 20 s, far from the 60 s that TensorRT's profile takes.
_LONGEST, _SHORTEST = 280, 60
_LONGEST_WIDE, _SHORTEST_WIDE = 90, 20

# Nobody speaks 2.7 times as fast as ordinary speech (40 letters of an alphabet or 12 Chinese characters a
# second), not even when told to hurry: what is shorter than that was cut off.
_QUICKEST = 8 / 3


def zero_shot_prompt(transcript: str) -> str:
    """The prompt text of a recording whose words are known."""
    return f"{SYSTEM}{END}{transcript}"


def cross_lingual_text(segment: str) -> str:
    """The text to speak, for a recording whose words are not known."""
    return f"{SYSTEM}{END}{segment}"


def instruct_prompt(instruction: str) -> str:
    """The prompt text that tells how to speak."""
    return f"{SYSTEM} {instruction}{END}"


def bare_text(text: str) -> str:
    """The words to speak, without upstream's beginning; raises WishRefused for what would be read aloud."""
    return _without_markers(_after_end(text), "text")


def bare_transcript(text: str) -> str:
    """The words of the recording, without upstream's beginning; raises WishRefused."""
    transcript = _without_markers(_after_end(text), "reference_text").strip()
    if not count_spoken(transcript):
        raise WishRefused("The recording's words are missing: no letter and no digit.", "reference_text")
    return transcript


def bare_instruction(text: str) -> str:
    """The instruction without upstream's beginning and end; raises WishRefused."""
    instruction = text.strip().removesuffix(END).removeprefix(SYSTEM)
    instruction = _without_markers(instruction, "instructions").strip()
    if not count_spoken(instruction):
        raise WishRefused("The instruction is empty.", "instructions")
    if len(instruction) > LONGEST_INSTRUCTION:
        raise WishRefused(
            f"The instruction has {len(instruction)} characters; above {LONGEST_INSTRUCTION} "
            "the model speaks it aloud instead of following it.",
            "instructions",
        )
    return instruction


def pieces(text: str) -> list[str]:
    """Cut a text into what is spoken in one go: sentences, short ones joined with what follows.

    Cut before anything is added: a text with a marker in it is neither normalised nor cut by upstream.
    """
    wide = count_wide(text) * 3 > count_spoken(text)
    longest, shortest = (_LONGEST_WIDE, _SHORTEST_WIDE) if wide else (_LONGEST, _SHORTEST)
    found: list[str] = []
    for sentence in sentences(text, longest):
        if found and len(found[-1]) < shortest and len(found[-1]) + 1 + len(sentence) <= longest:
            found[-1] += ("" if wide else " ") + sentence
        else:
            found.append(sentence)
    return [piece for piece in found if count_spoken(piece)]


def has_tags(text: str) -> bool:
    """Whether it holds tokens that a normaliser of numbers and brackets must not touch."""
    return bool(_TAG.search(text))


def least_seconds(text: str) -> float:
    """How long this takes to say at the very least, in seconds."""
    return speech_seconds(_TAG.sub("", text)) / _QUICKEST


def _after_end(text: str) -> str:
    before, end, after = text.partition(END)
    return after if end and before.strip() in ("", SYSTEM) else text


def _without_markers(text: str, param: str) -> str:
    if found := _MARKER.search(text):
        marker = found[0] if found[0].isascii() and found[0].isprintable() else "<|...|>"
        raise WishRefused(
            f"It holds the marker {marker}, which CosyVoice3 would read aloud or stumble over. Language "
            "marks of earlier versions are not needed; [breath], [laughter] and pinyin may stand in a text.",
            param,
        )
    return text
