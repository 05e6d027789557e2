# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""On which card one replica is measured, or why on none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _idle_cards
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._card_users import Holder
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._idle_cards import (
    NoIdleCardError,
    choose,
    places,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Card,
    Memory,
    MigDevice,
    Process,
)

L4 = Card(0, "GPU-l4", "NVIDIA L4", Memory(23034, 556, 0, 22478))
BIG = Card(1, "GPU-big", "NVIDIA RTX 6000 Ada Generation", Memory(49140, 630, 0, 48510))
LOST = Card(2, "GPU-lost", "NVIDIA H200", None, unknown="fb_memory_usage is 'GPU is lost'")
CUT = Card(
    3,
    "GPU-cut",
    "NVIDIA A30",
    Memory(24576, 318, 0, 24258),
    mig_enabled=True,
    mig_devices=tuple(
        MigDevice(
            number, str(number + 1), "0", f"MIG-{number}", "MIG device", Memory(11968, 0, 12, 11956), ""
        )
        for number in (0, 1)
    ),
    processes=(Process(4000001, 900, "1"),),  # nobody's container
)


def on(*devices: str, replica: bool = False) -> Holder:
    return Holder(f"id-{devices[0]}", f"c-{devices[0]}", frozenset(devices), frozenset(), replica)


def test_the_largest_that_is_idle() -> None:
    assert choose(places([L4, BIG, LOST], [])).uuid == "GPU-big"
    assert choose(places([L4, BIG, LOST], [on("GPU-big")])).uuid == "GPU-l4"
    assert choose(places([L4, BIG], [on("1")])).uuid == "GPU-l4"
    assert choose(places([L4, replace(BIG, processes=(Process(4000001, 1),))], [])).uuid == "GPU-l4"


def test_of_a_card_in_mig_mode_the_devices_count_each_for_itself() -> None:
    place = choose(places([CUT], []))
    assert (place.uuid, place.card, place.gpu_instance_id) == ("MIG-1", "GPU-cut", "2")
    with pytest.raises(NoIdleCardError, match=r"A30 #3:0 .*by process 4000001; A30 #3:1 .*container c-3:1"):
        choose(places([CUT], [on("3:1")]))
    with pytest.raises(NoIdleCardError, match=r"A30 #3:1 .*container c-GPU-cut"):
        choose(places([CUT], [on("GPU-cut")]))
    with pytest.raises(NoIdleCardError, match="there is none"):
        choose(places([replace(CUT, mig_devices=())], []))


def test_who_is_on_each_and_what_to_do() -> None:
    with pytest.raises(NoIdleCardError) as refused:
        choose(places([L4, LOST], [on("all", replica=True)]))
    words = str(refused.value)
    assert "L4 #0 (GPU-l4) is in use by replica c-all" in words
    assert "H200 #2 (GPU-lost) does not tell its memory (fb_memory_usage is 'GPU is lost')" in words
    assert "drain.yml" in words
    assert "scale.yml" in words


def test_one_that_is_named_may_be_in_use_but_has_to_be_usable() -> None:
    assert choose(places([L4], [on("GPU-l4")]), named=True).uuid == "GPU-l4"
    for card in (LOST, replace(L4, compute_mode="Prohibited"), replace(L4, uuid="")):
        with pytest.raises(NoIdleCardError):
            choose(places([card], []), named=True)


def test_what_a_killed_run_has_left_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    left = on("GPU-l4")
    assert places([L4], [left])[0].users == ("container c-GPU-l4",)
    assert places([L4], [left], [left.container_id])[0].users == ()
    # Nor is its process, by which it is found again.
    monkeypatch.setattr(
        "ansible_collections.voicefleet.cosyvoice.plugins.module_utils._card_users.container_ids_of",
        lambda pid: {left.container_id},
    )
    working = replace(L4, processes=(Process(4000001, 900),))
    assert _idle_cards.places([working], [left], [left.container_id])[0].users == ()
