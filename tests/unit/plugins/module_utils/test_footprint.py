# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the most that one replica took to the figure that is counted with."""

from __future__ import annotations

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._footprint import instance_mib, with_margin
from hypothesis import given
from hypothesis import strategies as st

sizes = st.integers(1, 300_000)


@pytest.mark.parametrize(
    ("peak", "figure"),
    [
        (1, 320),  # 1 + 256
        (64, 320),  # no more than a whole step
        (65, 384),
        (2560, 2816),  # from here a tenth is more than 256
        (2561, 2880),
        (7400, 8192),
        (8192, 9024),
    ],
)
def test_known(peak: int, figure: int) -> None:
    assert instance_mib(peak) == figure


@pytest.mark.parametrize(
    ("standing", "figure"),
    [
        (5059, 5120),  # 4600 + 460 = 5060: one too few
        (5060, 5060),  # somebody's own, and it will do
        (5120, 5120),
        (5184, 5184),  # one step too large
        (5185, 5120),
        (8192, 5120),
    ],
)
def test_what_stands_stays_if_it_will_do(standing: int, figure: int) -> None:
    assert instance_mib(4600, standing) == figure


@given(sizes, sizes)
def test_it_always_suffices_and_a_second_time_nothing_changes(peak: int, standing: int) -> None:
    figure = instance_mib(peak, standing)
    assert figure >= with_margin(peak) >= peak + max(256, peak / 10)
    assert figure < with_margin(peak) + 2 * 64
    assert instance_mib(peak, figure) == figure


@given(sizes, st.integers(0, 50))
def test_a_second_peak_that_is_a_little_smaller_changes_nothing(peak: int, less: int) -> None:
    figure = instance_mib(peak)
    assert instance_mib(max(1, peak - less), figure) == figure
