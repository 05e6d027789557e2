# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of the stand-in: the random numbers, which are torch's and so one row for the whole process."""

from __future__ import annotations

import random

SAMPLING = random.Random()  # noqa: S311 - no secret


def set_all_random_seed(seed: int) -> None:
    SAMPLING.seed(seed)
