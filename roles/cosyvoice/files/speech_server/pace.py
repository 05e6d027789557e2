# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a text will take to make: its length in speech times what this process has taken of late."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from .engines.base import Made
from .text import speech_seconds

# Recent: so many answers, and none older than this. What was slow for a while (a neighbour on the card) is
# forgotten even where every text is refused for it and nothing new is measured.
_ANSWERS = 20
_RECENT_SECONDS = 600.0
# A first piece that is streamed costs more than those that follow it whole. Of CosyVoice3 it has up to 280
# letters or 90 Chinese characters (prompts.py).
LONGEST_FIRST_SECONDS = 20.0
# Less than this after an answer's beginning says nothing of a long text: every piece has a cost of its own.
_LEAST_AUDIO_SECONDS = 5.0
# A refusal wants an estimate this far above the deadline: who is refused has nothing, and who is taken
# wrongly has most of it. speech_seconds has a quick speaker's letters, so it is low rather than high as well.
_MARGIN = 1.25
# Audio of a sentence. It is never refused: there is nothing to split, and the estimate of it is the roughest.
_SENTENCE_SECONDS = 5.0
_NOTHING = Made(0, 0)


class Pace:
    """What long answers cost: a beginning, once, and from there on engine seconds for each second of audio.

    Until something is known, or once it is too old, every text is taken. Used from the event loop only;
    `clock` tells seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._answers: deque[tuple[float, Made, Made]] = deque(maxlen=_ANSWERS)

    def note(self, whole: Made, beginning: Made = _NOTHING) -> None:
        """An answer, complete or not: all of it so far, and of that the part that is not like the rest."""
        rest = Made(
            whole.audio_seconds - beginning.audio_seconds, whole.engine_seconds - beginning.engine_seconds
        )
        if rest.audio_seconds >= _LEAST_AUDIO_SECONDS:
            self._answers.append((self._clock(), beginning, rest))

    def note_warm_up(self, made: Made | None) -> None:
        """What to begin with: one piece, spoken as those of a long text are after the first."""
        if made and made.audio_seconds > 0:
            self._answers.append((self._clock(), _NOTHING, made))

    def _recent(self) -> list[tuple[Made, Made]]:
        since = self._clock() - _RECENT_SECONDS
        return [(beginning, rest) for when, beginning, rest in self._answers if when >= since]

    @property
    def real_time_factor(self) -> float | None:
        """Of all but the beginnings, over all recent answers together: long ones count for more."""
        rests = [rest for _beginning, rest in self._recent()]
        audio_seconds = sum(rest.audio_seconds for rest in rests)
        return sum(rest.engine_seconds for rest in rests) / audio_seconds if rests else None

    def estimate_seconds(self, text: str, speed: float) -> float:
        """What the engine will take for it, alone; 0 while nothing is known."""
        factor = self.real_time_factor
        if factor is None:
            return 0.0
        beginnings = [beginning for beginning, _rest in self._recent()]
        more = sum(each.engine_seconds - factor * each.audio_seconds for each in beginnings)
        return factor * speech_seconds(text) / speed + max(0.0, more / len(beginnings))

    def least_seconds(self, text: str, speed: float) -> float:
        """Within less than this it is not worth beginning; 0 for a sentence."""
        if speech_seconds(text) / speed <= _SENTENCE_SECONDS:
            return 0.0
        return self.estimate_seconds(text, speed) / _MARGIN
