# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rule: on every card known, on hosts of every kind, and as properties that hold for any figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._capacity import (
    ClassCap,
    NoSuchGpuError,
    Own,
    Plan,
    Policy,
    fit,
    own_of,
    plan,
    select,
    short_name,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Memory,
    Process,
    parse,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from nvidia_smi_xml import Card, Host, Mig, query_xml
from nvidia_smi_xml import Process as ProcessData

FIXTURES = Path(__file__).parents[2] / "fixtures" / "nvidia_smi"
CARDS = [
    line.split("\t")
    for line in (FIXTURES / "cards.tsv").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith(("#", "card\t"))
]
# What other processes left free on one real host with eight RTX 4090, and what fits beside them.
FREE_ON_EIGHT_4090 = (17486, 2258, 21696, 18684, 14252, 18392, 22152, 8288)
FIT_ON_EIGHT_4090 = (2, 0, 2, 2, 1, 2, 2, 0)


def planned(*cards: Card, driver: str = "570.148.08", policy: Policy | None = None, **kwargs: object) -> Plan:
    report = parse(query_xml(Host(list(cards), driver=driver)))
    owners = kwargs.pop("owners", {})
    assert isinstance(owners, dict)
    return plan(report, policy or Policy(), owners, own_containers=len(set(owners.values())))


def capacities(result: Plan) -> list[int]:
    return [gpu["capacity"] for gpu in result.gpus]


# --- every card ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "total", "reserved", "expected"), CARDS, ids=[row[0] for row in CARDS])
def test_idle_card_of_the_table(name: str, total: str, reserved: str, expected: str) -> None:
    if not total.isdigit():
        card = Card(name, total, reserved)
    else:
        card = Card(name, int(total), None if reserved == "-" else int(reserved))
    result = planned(card, driver="470.256.02" if reserved == "-" else "570.148.08")
    assert result.capacity == int(expected), result.summary


def test_table_has_all_24_gb_cards_at_two() -> None:
    totals = {int(row[1]): row[3] for row in CARDS if row[1].isdigit() and 22000 <= int(row[1]) <= 26000}
    assert len(totals) > 15
    assert set(totals.values()) == {"2"}


def test_three_times_8192_is_not_three() -> None:
    """An RTX 3090 has 3 x 8192 MiB, and would hold three if nothing were reserved and no headroom wanted."""
    policy = Policy(headroom_mib=0)
    assert fit(Memory(24576, 0, 0, 24576), policy).capacity == 2
    assert fit(Memory(26624, 0, 0, 26624), policy).capacity == 3  # just above the class: memory decides


def test_eight_4090_beside_other_processes() -> None:
    cards = [
        Card("NVIDIA GeForce RTX 4090", 24564, 346, used=24564 - 346 - free, free=free)
        for free in FREE_ON_EIGHT_4090
    ]
    result = planned(*cards, driver="535.154.05")
    assert tuple(capacities(result)) == FIT_ON_EIGHT_4090
    assert len(result.slots) == sum(FIT_ON_EIGHT_4090)


# --- the account --------------------------------------------------------------------------------------------


def test_summary_and_reason_say_every_figure() -> None:
    result = planned(Card("NVIDIA GeForce RTX 4090", 24564, 346))
    assert result.summary == (
        "RTX 4090 #0: 24564 MiB, 346 reserved, 0 foreign -> 2 x 8192 MiB (class cap 24 GB: 2)"
    )
    assert result.gpus[0]["reason"] == (
        "24564 MiB total - 346 reserved - 0 foreign - 512 headroom = 23706 MiB, room for 2 x 8192 MiB; "
        "class 24 GB allows 2"
    )
    uuid = result.gpus[0]["uuid"]
    assert result.slots == [{"gpu": uuid, "index": index, "memory_mib": 8192} for index in (0, 1)]
    assert result.gpus[0]["class"] == "24 GB"


def test_summary_names_what_decided() -> None:
    h100 = Card("NVIDIA H100 80GB HBM3", 81559, 551)
    assert planned(h100).summary.endswith("-> 9 x 8192 MiB (memory: 9)")
    assert planned(h100, policy=Policy(max_per_gpu=4)).summary.endswith("-> 4 x 8192 MiB (max_per_gpu: 4)")
    assert planned(Card("NVIDIA L4", 23034, 556, used=20000)).summary.endswith("-> 0 x 8192 MiB (memory: 0)")


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("GeForce GTX 1080", "GTX 1080"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("Tesla T4", "Tesla T4"),
    ],
)
def test_short_name(full: str, short: str) -> None:
    assert short_name(full) == short


# --- caps ---------------------------------------------------------------------------------------------------

L4 = Memory(23034, 556, 0, 22478)


def test_class_cap_holds_for_smaller_instances_too() -> None:
    assert fit(L4, Policy(instance_mib=4000)).capacity == 2


def test_built_in_class_stays_when_other_classes_are_given() -> None:
    other = ClassCap("80 GB", 80000, 82000, 5)
    policy = Policy(instance_mib=4000, class_caps=(other,))
    assert fit(L4, policy).capacity == 2
    assert fit(Memory(81559, 551, 0, 81008), policy).capacity == 5


def test_own_class_overrides_the_built_in_one() -> None:
    policy = Policy(instance_mib=6000, class_caps=(ClassCap("24 GB", 22400, 25600, 3),))
    assert fit(L4, policy).capacity == 3
    assert fit(L4, Policy(class_caps=(ClassCap("spare", 22400, 25600, 0),))).capacity == 0


@pytest.mark.parametrize(("total", "expected"), [(22399, 5), (22400, 2), (25600, 2), (25601, 6)])
def test_bounds_of_the_24_gb_class_are_part_of_it(total: int, expected: int) -> None:
    assert fit(Memory(total, 0, 0, total), Policy(instance_mib=4000)).capacity == expected


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy(instance_mib=0), "instance_mib is 0"),
        (Policy(instance_fraction=1), "instance_fraction is 1: give the part of a card's total"),
        (Policy(instance_fraction=-0.1), "instance_fraction is -0.1"),
        (Policy(start_mib=-1), "start_mib is -1"),
        (Policy(headroom_mib=-1), "headroom_mib is -1"),
        (Policy(display_headroom_mib=-1), "display_headroom_mib is -1"),
        (Policy(max_per_gpu=-2), "max_per_gpu is -2"),
        (Policy(class_caps=(ClassCap("x", 9, 8, 1),)), "min_mib 9 to max_mib 8"),
        (Policy(class_caps=(ClassCap("x", 8, 9, -1),)), "max_instances is -1"),
    ],
)
def test_mistakes_name_the_option_and_the_value(policy: Policy, words: str) -> None:
    (mistake,) = policy.mistakes()
    assert words in mistake


def test_no_mistakes_in_the_defaults() -> None:
    assert Policy().mistakes() == []


# --- instances that take a part of the card -----------------------------------------------------------------

VLLM = Policy(instance_mib=4096, instance_fraction=0.2, start_mib=6144)


@pytest.mark.parametrize(
    ("total", "reserved", "need", "expected"),
    [
        (12288, 240, 6554, 0),  # one would fit, but for what it takes to start
        (16380, 340, 7372, 1),
        (24564, 346, 9009, 1),  # the class allows two
        (49140, 600, 13924, 3),
        (81559, 551, 20408, 3),
        (143771, 614, 32851, 4),
    ],
)
def test_what_an_instance_takes_grows_with_the_card(
    total: int, reserved: int, need: int, expected: int
) -> None:
    found = fit(Memory(total, reserved, 0, total - reserved), VLLM)
    assert (found.instance_mib, found.capacity) == (need, expected)


def test_cards_of_two_sizes_have_slots_of_two_sizes() -> None:
    small, large = Card("NVIDIA A10G", 23028, 298), Card("NVIDIA A100-SXM4-80GB", 81920, 869)
    result = planned(small, large, policy=VLLM)
    # What it takes to start is what it may use, too: MPS would end it otherwise.
    assert [slot["memory_mib"] for slot in result.slots] == [4096 + 4606 + 6144] + [4096 + 16384 + 6144] * 3
    assert result.summary.splitlines()[0].endswith("-> 1 x 8702 MiB (memory: 1)")
    assert (
        "room for 1 x 8702 MiB (4096 and 0.2 of the total each), 6144 of it for one that starts"
        in (result.gpus[0]["reason"])
    )


def test_a_part_is_of_the_mig_device() -> None:
    card = Card("NVIDIA A100-SXM4-80GB", 81920, 869, mig=[Mig(1, 0, 40192), Mig(3, 0, 19968)])
    assert [device["capacity"] for device in planned(card, policy=VLLM).gpus[0]["mig_devices"]] == [2, 1]


def test_unmeasured_own_instances_are_taken_at_their_part() -> None:
    in_use = 9000
    result = planned(busy("N/A", in_use=in_use), owners={100: "a" * 64}, policy=VLLM)
    assert result.gpus[0]["own_mib"] == in_use
    assert result.capacity == planned(busy(), policy=VLLM).capacity


# --- a desktop on the card ----------------------------------------------------------------------------------


def test_desktop_is_mentioned_and_gets_more_headroom_only_if_asked() -> None:
    card = Card("NVIDIA GeForce RTX 3080", 10240, 173, used=1128, display=True, driver_model="WDDM")
    assert planned(card).capacity == 1
    assert "a desktop may use this card (WDDM)" in planned(card).gpus[0]["reason"]
    with_more = planned(card, policy=Policy(display_headroom_mib=1024))
    assert with_more.capacity == 0
    assert "- 1024 headroom" in with_more.gpus[0]["reason"]


@pytest.mark.parametrize("headroom", [0, 512, 1024, 2048])
def test_24_gb_with_a_desktop_still_holds_two(headroom: int) -> None:
    card = Card("NVIDIA GeForce RTX 4090", 24564, 408, used=2000, display=True, driver_model="WDDM")
    assert planned(card, policy=Policy(display_headroom_mib=headroom)).capacity == 2


# --- our own instances --------------------------------------------------------------------------------------


def busy(*used: int | str, reserved: int = 346, in_use: int | None = None) -> Card:
    """A 4090 with processes 100, 101, ... that use this much."""
    total_used = sum(mib for mib in used if isinstance(mib, int)) if in_use is None else in_use
    processes = [ProcessData(100 + order, mib) for order, mib in enumerate(used)]
    return Card("NVIDIA GeForce RTX 4090", 24564, reserved, used=total_used, processes=processes)


def test_own_processes_are_not_foreign() -> None:
    card = busy(7900, 7900)
    assert planned(card).capacity == 0
    result = planned(card, owners={100: "a" * 64, 101: "b" * 64})
    assert result.capacity == 2
    assert result.gpus[0]["foreign_mib"] == 0
    assert result.gpus[0]["own_mib"] == 15800
    assert "15800 MiB of 2 own container(s) not counted" in result.gpus[0]["reason"]


def test_foreign_process_beside_own_ones_counts() -> None:
    result = planned(busy(7900, 9000), owners={100: "a" * 64})
    assert result.gpus[0]["foreign_mib"] == 9000
    assert result.capacity == 1


def test_process_listed_twice_counts_once() -> None:
    """As compute and as graphics process. Counted twice it would hide 7000 MiB of somebody else."""
    twice = (Process(1, 7000), Process(1, 7000))
    assert own_of(twice, {1: "a"}) == Own(mib=7000, containers=1)


def test_several_processes_of_one_container_are_summed() -> None:
    assert own_of((Process(1, 3000), Process(2, 4000)), {1: "a", 2: "a"}) == Own(7000, containers=1)


def test_own_memory_never_makes_foreign_negative() -> None:
    assert fit(Memory(24564, 346, 100, 24118), Policy(), Own(mib=5000, containers=1)).foreign_mib == 0


def test_unmeasured_own_containers_decide_as_without_them() -> None:
    result = planned(busy("N/A", "N/A", in_use=12000), owners={100: "a" * 64, 101: "b" * 64})
    assert result.capacity == 2
    assert "does not tell the memory of 2 of them, taken as 8192 MiB each at most" in result.gpus[0]["reason"]


def test_estimate_promises_no_more_than_is_free() -> None:
    """One own container and a stranger, both unmeasured: 22000 MiB are in use, so nothing fits beside it."""
    assert planned(busy("N/A", "N/A", in_use=22000), owners={100: "a" * 64}).capacity == 1


def test_hidden_list_of_processes_is_told() -> None:
    card = Card("NVIDIA L4", 23034, 556, used=16000, processes="Insufficient Permissions")
    report = parse(query_xml(Host([card])))
    result = plan(report, Policy(), {}, own_containers=2)
    assert result.capacity == 0
    assert "does not list its processes: processes is 'Insufficient Permissions'" in str(result.problems[0])
    assert plan(report, Policy(), {}).problems == []


# --- MIG ----------------------------------------------------------------------------------------------------

H200_MIG = [
    Mig(2, 0, 71424, used=34, profile="1c.3g.71gb"),
    Mig(2, 1, 71424, used=34, profile="2c.3g.71gb"),
    Mig(3, 0, 33280, used=17, profile="2g.35gb"),
    Mig(9, 0, 16384, used=9, profile="1g.18gb"),
    Mig(10, 0, 16384, used=9, profile="1g.18gb"),
]


def test_compute_instances_share_the_memory_of_their_gpu_instance() -> None:
    result = planned(Card("NVIDIA H200", 143771, 614, used=90, mig=H200_MIG), driver="590.48.01")
    devices = result.gpus[0]["mig_devices"]
    assert [device["capacity"] for device in devices] == [4, 4, 3, 1, 1]
    assert result.capacity == 13
    assert result.gpus[0]["capacity"] == 0
    assert "2 compute instances share the memory of GPU instance 2: 8 in all, 4 here" in devices[0]["reason"]


def test_parent_of_mig_devices_never_counts() -> None:
    """Its free memory stays large although all of it is cut up."""
    mig = [Mig(instance, 0, 19968, used=12, profile="1g.20gb") for instance in (3, 4, 5, 6)]
    card = Card("NVIDIA A100-SXM4-80GB", 81920, 869, used=50, mig=mig)
    result = planned(card, driver="535.54.03")
    assert result.capacity == 8
    assert not any(slot["gpu"] == card.uuid for slot in result.slots)
    assert result.slots[0]["gpu"] == f"MIG-{card.uuid}/3/0"


def test_mig_without_devices_holds_nothing() -> None:
    result = planned(Card("NVIDIA A100-SXM4-80GB", 81920, 869, mig=[]))
    assert result.capacity == 0
    assert "MIG is enabled without a MIG device" in result.gpus[0]["reason"]
    assert result.unknown == []


def test_mig_devices_count_when_the_parent_may_not_be_read() -> None:
    mig = [Mig(1, 0, 19968, profile="2g.20gb")]
    result = planned(Card("NVIDIA A100-SXM4-80GB", 81920, fb_text="Insufficient Permissions", mig=mig))
    assert result.capacity == 2
    assert result.unknown == []


def test_unknown_memory_of_one_mig_device_is_only_its_own() -> None:
    mig = [Mig(1, 0, "N/A"), Mig(2, 0, 19968)]
    result = planned(Card("NVIDIA A100-SXM4-80GB", 81920, 869, mig=mig))
    assert [device["capacity"] for device in result.gpus[0]["mig_devices"]] == [0, 2]
    assert "total is 'N/A'" in str(result.unknown[0])


def test_processes_belong_to_their_gpu_instance() -> None:
    mig = [Mig(1, 0, 19968, used=15800), Mig(2, 0, 19968, used=15800)]
    processes = [
        ProcessData(1, 15800, gpu_instance="1", compute_instance="0"),
        ProcessData(2, 15800, gpu_instance="2", compute_instance="0"),
    ]
    card = Card("NVIDIA A100-SXM4-80GB", 81920, 869, mig=mig, processes=processes)
    result = planned(card, owners={1: "a" * 64})
    assert [device["capacity"] for device in result.gpus[0]["mig_devices"]] == [2, 0]


# --- cards that hold nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "words", "remedy"),
    [
        (Card("NVIDIA GB200", 189471, 742, lost=True), "total is 'GPU is lost'", "Reboot the host"),
        (Card("NVIDIA GB10", "N/A", "N/A", "N/A"), "total is 'N/A'", "shares the host's memory"),
        (Card("NVIDIA GB10", 1, fb_text="N/A"), "fb_memory_usage is 'N/A'", "shares the host's memory"),
        (Card("GeForce GT 730", None), "no fb_memory_usage element", "too old for this driver"),
        (Card("NVIDIA L4", 23034, 556, used="[Unknown Error]"), "used is '[Unknown Error]'", "dmesg"),
        (Card("NVIDIA L4", "ERR!", 556), "total is 'ERR!'", "dmesg"),
        (Card("NVIDIA L4", 23034, "Insufficient Permissions"), "reserved is 'Insufficient", "as root"),
    ],
)
def test_unknown_memory_is_zero_with_the_raw_text_and_a_remedy(card: Card, words: str, remedy: str) -> None:
    good = Card("NVIDIA L4", 23034, 556)
    result = planned(good, card)
    assert capacities(result) == [2, 0]
    assert words in result.gpus[1]["reason"]
    assert words in result.summary.splitlines()[1]
    (unknown,) = result.unknown
    assert words in unknown.message
    assert remedy in unknown.remedy


def test_card_without_a_uuid_gets_no_slot() -> None:
    result = planned(Card("NVIDIA L4", 23034, 556, uuid="N/A"))
    assert result.slots == []
    assert "no UUID" in result.gpus[0]["reason"]
    assert result.gpus[0]["uuid"] is None


def test_prohibited_compute_mode_holds_nothing() -> None:
    result = planned(Card("NVIDIA L4", 23034, 556, compute_mode="Prohibited"))
    assert result.capacity == 0
    assert "-c DEFAULT" in result.gpus[0]["reason"]


def test_exclusive_compute_mode_leaves_room_for_one() -> None:
    result = planned(Card("NVIDIA L4", 23034, 556, compute_mode="Exclusive_Process"))
    assert result.capacity == 1
    assert "only one process at a time unless MPS runs" in result.gpus[0]["reason"]


def test_same_uuid_twice_is_told() -> None:
    result = planned(*(Card("NVIDIA L4", 23034, 556, uuid="GPU-0") for _ in range(2)))
    assert result.capacity == 4
    assert "Cards #0 and #1 have the same UUID GPU-0" in str(result.problems[0])


# --- choosing cards -----------------------------------------------------------------------------------------


def test_select_by_uuid_index_and_mig_device() -> None:
    host = Host([Card("a", 1), Card("b", 1), Card("c", 1, mig=[Mig(1, 0, 1), Mig(2, 0, 1)])])
    cards = parse(query_xml(host)).cards
    assert select(cards, []) == cards
    assert select(cards, ["1", host.cards[0].uuid]) == cards[:2]
    (only,) = select(cards, ["2:1"])
    assert [device.gpu_instance_id for device in only.mig_devices] == ["2"]
    (only,) = select(cards, [cards[2].mig_devices[0].uuid])
    assert [device.gpu_instance_id for device in only.mig_devices] == ["1"]
    assert select(cards, ["2"]) == [cards[2]]


def test_select_names_what_is_missing_and_what_is_there() -> None:
    cards = parse(query_xml(Host([Card("NVIDIA L4", 1, uuid="GPU-1")]))).cards
    with pytest.raises(
        NoSuchGpuError, match=r"gpus: 7, GPU-x not found on this host. It has: 0 = GPU-1 \(L4\)"
    ):
        select(cards, ["7", "0", "GPU-x"])


# --- for any figures ----------------------------------------------------------------------------------------

# No deadline: these run beside other work, and it is the figures that count.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
mib = st.integers(0, 300_000)
sizes = st.integers(1, 100_000)


@st.composite
def memories(draw: st.DrawFn, smallest: int = 0, largest: int = 300_000) -> Memory:
    total = draw(st.integers(smallest, largest))
    reserved = draw(st.integers(0, min(total, 2000)))
    used = draw(st.integers(0, total - reserved))
    return Memory(total, reserved, used, total - reserved - used)


@st.composite
def owns(draw: st.DrawFn, most: int) -> Own:
    containers = draw(st.integers(0, 8))
    return Own(draw(st.integers(0, most)), containers, draw(st.integers(0, containers)))


policies = st.builds(
    Policy,
    instance_mib=sizes,
    headroom_mib=st.integers(0, 4096),
    max_per_gpu=st.none() | st.integers(0, 10),
)


@steady
@given(st.data(), memories(), policies)
def test_capacity_never_exceeds_memory(data: st.DataObject, memory: Memory, policy: Policy) -> None:
    found = fit(memory, policy, data.draw(owns(memory.used_mib)))
    assert found.capacity >= 0
    assert 0 <= found.foreign_mib <= memory.used_mib
    if found.capacity:
        taken = found.capacity * policy.instance_mib + policy.headroom_mib
        assert taken + found.foreign_mib + memory.reserved_mib <= memory.total_mib


@steady
@given(memories(), policies, mib)
def test_capacity_never_grows_with_foreign_memory(memory: Memory, policy: Policy, more: int) -> None:
    more = min(more, memory.free_mib)
    fuller = Memory(memory.total_mib, memory.reserved_mib, memory.used_mib + more, memory.free_mib - more)
    assert fit(fuller, policy).capacity <= fit(memory, policy).capacity


@steady
@given(memories(22 * 1024, 25 * 1024), sizes, st.integers(0, 4096), st.none() | st.integers(0, 99))
def test_a_card_of_22_to_25_gib_never_gets_more_than_two(
    memory: Memory, instance: int, headroom: int, max_per_gpu: int | None
) -> None:
    policy = Policy(instance_mib=instance, headroom_mib=headroom, max_per_gpu=max_per_gpu)
    assert fit(memory, policy).capacity <= 2


percents = st.lists(st.integers(0, 100), min_size=40, max_size=40)


def started(before: Memory, policy: Policy, shares: list[int]) -> tuple[int, int, Memory]:
    """How many fit, what they use when each has that percentage of its share, and the memory then."""
    first = fit(before, policy).capacity
    assume(0 < first <= len(shares))
    used = sum(policy.instance_mib * share // 100 for share in shares[:first])
    after = Memory(before.total_mib, before.reserved_mib, before.used_mib + used, before.free_mib - used)
    return first, used, after


@steady
@given(memories(), policies, percents)
def test_second_run_decides_as_the_first(before: Memory, policy: Policy, shares: list[int]) -> None:
    first, used, after = started(before, policy, shares)
    again = fit(after, policy, Own(used, first))
    assert again.capacity == first
    assert again.foreign_mib == fit(before, policy).foreign_mib


@steady
@given(memories(), policies, percents)
def test_second_run_without_figures_keeps_what_runs(
    before: Memory, policy: Policy, shares: list[int]
) -> None:
    """Where the driver does not tell the memory of processes, what runs may stay, and more must be free."""
    first, _used, after = started(before, policy, shares)
    again = fit(after, policy, Own(0, first, unmeasured=first))
    assert again.capacity >= first
    more = again.capacity - first
    assert more == 0 or more * policy.instance_mib + policy.headroom_mib <= after.free_mib


@steady
@given(memories(), st.integers(1, 5), st.integers(2000, 20_000))
def test_slots_are_numbered_per_device_and_match_the_capacity(
    memory: Memory, count: int, instance: int
) -> None:
    cards = [
        Card(f"card {order}", memory.total_mib, memory.reserved_mib, memory.used_mib, memory.free_mib)
        for order in range(count)
    ]
    result = planned(*cards, policy=Policy(instance_mib=instance))
    for gpu in result.gpus:
        indexes = [slot["index"] for slot in result.slots if slot["gpu"] == gpu["uuid"]]
        assert indexes == list(range(gpu["capacity"]))
    assert result.capacity == sum(capacities(result))
