# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of the stand-in: the random seed."""

from __future__ import annotations

import random

import numpy as np


def set_all_random_seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
