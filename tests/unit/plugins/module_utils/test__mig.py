# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layouts: what people declare, what a card is, and the orders that make one of the other."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _mig, _sharing
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._mig import LayoutError, Possible
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import Card, MigDevice

WHOLE = Card(0, "GPU-a", "NVIDIA A100-SXM4-40GB", None, mig_mode="Disabled", bus_id="00000000:01:00.0")
CUT = Card(1, "GPU-b", "NVIDIA A30", None, mig_mode="Enabled", mig_enabled=True, bus_id="00000000:C1:00.0")
PLAIN = Card(2, "GPU-c", "NVIDIA L4", None, mig_mode="N/A", bus_id="00000000:C2:00.0")
CARDS = [WHOLE, CUT, PLAIN]


@pytest.mark.parametrize(
    "name", ["GPU-b", "gpu-B", "1", 1, "00000000:C1:00.0", "0000:c1:00.0", "c1:00.0"], ids=str
)
def test_a_card_is_named_by_uuid_address_or_index(name: Any) -> None:
    assert _mig.resolve({name: ["2g.12gb", "1g.6gb"]}, CARDS) == {"GPU-b": ["1g.6gb", "2g.12gb"]}


def test_all_is_every_card_that_knows_mig_and_is_not_named() -> None:
    declared = {"all": ["1g.6gb"], "0": []}
    assert _mig.resolve(declared, CARDS) == {"GPU-a": [], "GPU-b": ["1g.6gb"]}


@pytest.mark.parametrize("word", ["off", False])
def test_off_is_a_word_that_yaml_may_have_read(word: Any) -> None:
    assert _mig.resolve({"0": word, "2": word}, CARDS) == {"GPU-a": "off", "GPU-c": "off"}


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"7": []}, "no such card on this host. It has: 0 = 00000000:01:00.0 = GPU-a"),
        ({"0": [], "GPU-a": []}, "['GPU-a'] is the card that gpu_sharing_mig['0'] names too"),
        ({"2": ["1g.5gb"]}, "NVIDIA L4 #2 does not know MIG"),
        ({"2": []}, "NVIDIA L4 #2 does not know MIG"),
        ({"0": "3g.20gb"}, "Give a list of profiles"),
        ({"0": True}, "Give a list of profiles"),
        ({"0": ["3g20gb"]}, "'3g20gb' is no GPU instance profile"),
        ({"0": [19]}, "19 is no GPU instance profile"),
        ({"0": ["3g.20gb"] * 3}, "are 9 slices, and NVIDIA A100-SXM4-40GB #0 has 7"),
        ({"all": ["2g.12gb", "2g.12gb", "1g.6gb"]}, "are 5 slices, and NVIDIA A30 #1 has 4"),
    ],
)
def test_what_means_nothing_is_refused_in_words(declared: dict[str, Any], words: str) -> None:
    with pytest.raises(LayoutError) as refused:
        _mig.resolve(declared, CARDS)
    assert words in str(refused.value)


def test_all_on_a_host_without_such_a_card() -> None:
    with pytest.raises(LayoutError, match="no card of this host knows MIG"):
        _mig.resolve({"all": ["1g.5gb"]}, [PLAIN])
    assert _mig.resolve({"all": "off"}, [PLAIN]) == {}


def test_a_card_that_fell_off_its_bus_keeps_its_declaration_and_stops_nothing() -> None:
    lost = Card(3, "GPU-d", "NVIDIA A100-SXM4-40GB", None, unknown="No devices were found")
    assert not _mig.answers(lost)
    assert all(_mig.answers(card) for card in CARDS)
    assert _mig.resolve({"3": ["3g.20gb"]}, [*CARDS, lost]) == {"GPU-d": ["3g.20gb"]}
    before: dict[str, _mig.Layout] = {"GPU-d": ["3g.20gb"], "GPU-b": "off"}
    assert _mig.resolve({"all": ["1g.5gb"]}, [WHOLE, lost], before) == {
        "GPU-a": ["1g.5gb"],
        "GPU-d": ["3g.20gb"],
    }
    assert _mig.resolve({"all": ["1g.5gb"]}, [lost], before) == {"GPU-d": ["3g.20gb"]}
    # Nor is it planned with instances that nobody can make.
    (same,) = _sharing.as_declared([lost], {"GPU-d": ["3g.20gb"]}, {"GPU-d": "off"})
    assert same is lost
    assert _sharing.mps_problems([lost]) == []


TEXT = """\
+-------------------------------------------------------+
| GPU instances:                                        |
| GPU   Name             Profile  Instance   Placement  |
|                          ID       ID       Start:Size |
|=======================================================|
|   0  MIG 1g.5gb+me        20        9          0:1     |
+-------------------------------------------------------+
|   0  MIG 3g.20gb           9        2          4:4     |
+-------------------------------------------------------+
|   1  MIG 2g.12gb           5        1          0:2     |
+-------------------------------------------------------+
"""
PROFILES = """\
|   0  MIG 1g.5gb        19     7/7        4.75       No     14     0     0   |
|                                                             1     0     0   |
|   0  MIG 3g.20gb        9     1/2       19.50       No     42     2     0   |
|   1  MIG 1g.6gb        14     0/4        5.81       No     14     0     0   |
"""


def test_instances_and_profiles_are_read_by_card() -> None:
    assert _mig.instances(TEXT, 0) == {"9": "1g.5gb+me", "2": "3g.20gb"}
    assert _mig.instances("No GPU instances found: Not Found", 0) == {}
    assert _mig.possible(PROFILES, 0) == {"1g.5gb": Possible(7, 4864), "3g.20gb": Possible(2, 19968)}


def test_profiles_that_a_card_does_not_offer() -> None:
    offer = _mig.possible(PROFILES, 0)
    assert _mig.check_possible(WHOLE, ["3g.20gb", "3g.20gb"], offer) == ""
    assert _mig.check_possible(WHOLE, ["3g.20gb"], {}) == ""
    assert "no profile 2g.10gb. It offers: 1g.5gb, 3g.20gb" in _mig.check_possible(WHOLE, ["2g.10gb"], offer)
    assert "takes 2 x 3g.20gb at most" in _mig.check_possible(WHOLE, ["3g.20gb"] * 3, offer)


def device(gpu_instance: str, name: str, compute_instance: str = "0") -> MigDevice:
    return MigDevice(0, gpu_instance, compute_instance, f"MIG-{gpu_instance}", name, None)


def test_the_layout_of_a_card_is_what_compute_instances_fill() -> None:
    there = {"1": "2g.12gb", "2": "1g.6gb"}
    cut = Card(
        0, "GPU-b", "A30", None, mig_enabled=True,
        mig_devices=(device("1", "MIG 2g.12gb"), device("2", "MIG 1g.6gb")),
    )  # fmt: skip
    assert _mig.layout_of(cut, there) == ["1g.6gb", "2g.12gb"]
    assert _mig.layout_of(WHOLE, {}) == "off"
    odd = Card(
        0, "GPU-b", "A30", None, mig_enabled=True,
        mig_devices=(device("1", "MIG 1c.2g.12gb"), device("1", "MIG 1c.2g.12gb", "1")),
    )  # fmt: skip
    assert _mig.layout_of(odd, there) == ["1g.6gb (no compute instance)", "2g.12gb (2 compute instances)"]


@pytest.mark.parametrize(
    ("have", "want", "orders"),
    [
        ("off", "off", []),
        (["a"], ["a"], []),
        ("off", [], ["-i U -mig 1"]),
        ("off", ["a", "b"], ["-i U -mig 1", "mig -i U -cgi a,b -C"]),
        ([], ["a"], ["mig -i U -cgi a -C"]),
        ([], "off", ["-i U -mig 0"]),
        (["a"], ["b"], ["mig -i U -dci", "mig -i U -dgi", "mig -i U -cgi b -C"]),
        (["a"], [], ["mig -i U -dci", "mig -i U -dgi"]),
        (["a"], "off", ["mig -i U -dci", "mig -i U -dgi", "-i U -mig 0"]),
        (["a (no compute instance)"], ["a"], ["mig -i U -dgi", "mig -i U -cgi a -C"]),
    ],
)
def test_orders(have: Any, want: Any, orders: list[str]) -> None:
    assert [" ".join(each) for each in _mig.orders("U", have, want)] == orders
