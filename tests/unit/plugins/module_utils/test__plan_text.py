# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as people read it."""

from __future__ import annotations

import dataclasses

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_rules import Outlook, look_ahead
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_steps import plan
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_text import diff, short, summary
from made_up_fleet import container

CARD = "GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11"
SLOTS = [Slot(CARD, index) for index in range(3)]
OBSERVED = [
    dataclasses.replace(container(1, f"{CARD}/0", "old"), revision="2511", image_id="sha256:3f1c0a9be771ff"),
    dataclasses.replace(container(2, f"{CARD}/1", "new"), revision="2512", image_id="sha256:77ab3c2d1e0fff"),
    dataclasses.replace(container(10, f"{CARD}/2", "old", "exited", "none"), revision="2511"),
]


def test_a_heading_with_the_counts_and_aligned_lines() -> None:
    steps = plan("tts", 2, SLOTS, OBSERVED, lambda _n, _s: "new", revision="2512", canary=True)
    outlook = look_ahead("tts", 2, steps, OBSERVED)
    changed = "its specification changed (old -> new)"
    assert summary("tts", 2, steps, OBSERVED, outlook, {}) == [
        "tts: 2 wanted, 3 there, 2 serving; 1 to replace, 1 to remove, 1 to keep",
        "keep     tts-2   GPU-5a0e8f21/1                    2512          as wanted",
        "remove   tts-10  GPU-5a0e8f21/2                    2511          2 wanted",
        "replace  tts-1   GPU-5a0e8f21/0 -> GPU-5a0e8f21/2  2511 -> 2512  "
        f"{changed} (canary, successor first, on a free slot)",
    ]


def test_what_is_out_of_the_ordinary_is_said_first() -> None:
    outlook = Outlook(serving=1, lowest=0, floor=1, downtime=True)
    steps = plan("tts", 1, SLOTS[:1], OBSERVED[:1], lambda _n, _s: "new")
    drained = {"by": "anna", "at": "", "why": "new driver"}
    lines = summary("tts", 1, steps, OBSERVED[:1], outlook, drained, ["tts: too few"])
    assert lines[0].endswith("1 serving; 1 to replace; 0 serving at the worst moment")
    assert lines[1:4] == [
        "This host was drained by hand (anna, new driver), so nothing is started on it. "
        "undrain.yml brings it back.",
        "Downtime: nobody answers from a replica's stop until its successor has loaded.",
        "Forced: tts: too few",
    ]
    assert summary("tts", 0, [], [], Outlook(0, 0, 0), {}) == [
        "tts: 0 wanted, 0 there, 0 serving; nothing to do"
    ]


def test_each_replica_before_and_after() -> None:
    steps = plan("tts", 2, SLOTS, OBSERVED, lambda _n, _s: "new", revision="2512", surge=False)
    shown = diff(steps, OBSERVED, lambda _n, _s: "new", "sha256:77ab3c2d1e0fff")
    two = f"tts-2 on {CARD}/1: revision 2512, image 77ab3c2d1e0f, specification new"
    assert shown["before"].splitlines() == [
        f"tts-1 on {CARD}/0: revision 2511, image 3f1c0a9be771, specification old",
        two,
        f"tts-10 on {CARD}/2: revision 2511, image unknown, specification old (it is exited)",
    ]
    assert shown["after"].splitlines() == [
        f"tts-1 on {CARD}/0: revision 2512, image 77ab3c2d1e0f, specification new",
        two,
    ]


def test_a_card_is_cut_short_and_the_cpu_is_not() -> None:
    assert short(f"{CARD}/1") == "GPU-5a0e8f21/1"
    assert (short("cpu/1"), short("")) == ("cpu/1", "")
