# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be spoken at all."""

from __future__ import annotations

import re
import unicodedata

from .errors import SpeechError

# Control characters other than white space, and halves of surrogate pairs: no engine's tables have them.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


def checked(text: str, param: str, max_characters: int) -> str:
    """The text, or a SpeechError (400) that says why nothing can be spoken."""
    if len(text) > max_characters:
        raise SpeechError(
            400,
            "string_above_max_length",
            f"'{param}' has {len(text)} characters; at most {max_characters} are possible.",
            param,
        )
    if found := _CONTROL.search(text):
        raise SpeechError(
            400,
            "invalid_value",
            f"'{param}' has the control character U+{ord(found[0]):04X} at position {found.start()}.",
            param,
        )
    if not any(unicodedata.category(character)[0] in "LN" for character in text):
        raise nothing_to_speak(param)
    return text


def nothing_to_speak(param: str = "input") -> SpeechError:
    """For a text that holds nothing an engine could say."""
    return SpeechError(
        400, "nothing_to_speak", f"'{param}' has no letter and no digit that could be spoken.", param
    )
