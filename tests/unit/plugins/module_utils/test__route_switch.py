# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fleets in the middle of a change of load-balancer options, and what each new replica has to carry."""

from __future__ import annotations

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._labels import check_labels
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_labels import labels_of
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_switch import (
    LABEL_CARRIED,
    carried,
    live,
    to_carry,
)

A, B, C = "tts-lbaaaaaa", "tts-lbbbbbbb", "tts-lbcccccc"
STRATEGY = {A: "p2c", B: "wrr", C: "hrw", "tts": "p2c"}
Labels = dict[str, str]


def own(service: str, port: int = 7860) -> Labels:
    """Labels of a replica as its specification says them."""
    return labels_of(
        [
            {"name": service, "port": port, "strategy": STRATEGY[service]},
            {"name": "tts-1", "port": port, "strategy": "wrr"},
            {"name": "tts-1-probe", "rule": "Host(`x`)", "service": "tts-1"},
        ]
    )


def made(fleet: list[Labels], wanted: str, port: int = 7860) -> Labels:
    """A new replica in that fleet."""
    now = live(fleet, "tts", wanted)
    return {**to_carry(fleet, now, wanted, port), **own(wanted, port)}


def test_what_a_container_carries() -> None:
    labels = {**own(A), **own(B)}
    assert carried(labels, "tts") == {A, B}
    assert carried(labels, "tt") == set()
    assert carried(own("tts"), "tts") == {"tts"}
    assert carried({}, "tts") == set()
    # What only looks like one: a replica's own service, another's, a router of that name.
    strangers = {
        "traefik.http.services.tts-1.loadbalancer.server.port": "80",
        "traefik.http.services.tts-lb12345.loadbalancer.server.port": "80",
        "traefik.http.services.other-lbaaaaaa.loadbalancer.server.port": "80",
        f"traefik.http.routers.{B}.rule": "Path(`/`)",
        f"traefik.tcp.services.{B}.loadbalancer.server.port": "80",
    }
    assert carried(strangers, "tts") == set()


@pytest.mark.parametrize(
    ("fleet", "wanted", "answer"),
    [
        ([], A, A),
        ([own(A), own(A)], A, A),
        ([own(A), own(A)], B, A),
        ([{}, {}], B, B),  # replicas without routes: there is nothing to keep
        ([own("tts"), own("tts")], A, "tts"),  # from before names changed with the options
        ([{**own(A), **own(B)}, own(A)], B, A),
        ([{**own(A), **own(B)}, own(B)], B, B),
        ([own(A), own(B), own(B)], C, B),  # none is common: the one that most carry
        ([own(A), own(B)], A, A),
    ],
)
def test_the_service_that_the_router_can_name(fleet: list[Labels], wanted: str, answer: str) -> None:
    assert live(fleet, "tts", wanted) == answer
    assert live(fleet[::-1], "tts", wanted) == answer


def test_of_several_that_all_carry_the_latest_is_taken() -> None:
    fleet = [own(A), own(A)]
    fleet[0] = made(fleet, B)
    fleet[1] = made(fleet, B)
    # Killed before the router was pointed at B; and now C is wanted.
    assert [carried(labels, "tts") for labels in fleet] == [{A, B}, {A, B}]
    assert live(fleet, "tts", C) == B


def test_what_is_carried_is_word_for_word_but_for_the_port() -> None:
    old = {**own(A), f"traefik.http.services.{A}.loadbalancer.sticky.cookie": "true"}
    assert to_carry([{}, own(C), old], A, B, 8000) == {
        f"traefik.http.services.{A}.loadbalancer.server.port": "8000",
        f"traefik.http.services.{A}.loadbalancer.strategy": "p2c",
        f"traefik.http.services.{A}.loadbalancer.sticky.cookie": "true",
        LABEL_CARRIED: A,
    }


def test_a_server_of_its_own_takes_nothing_of_anothers_server() -> None:
    old = {**own(A), f"traefik.http.services.{A}.loadbalancer.server.scheme": "https"}
    assert f"traefik.http.services.{A}.loadbalancer.server.scheme" not in to_carry([old], A, B, 8000)


def test_nothing_is_carried_where_there_is_nothing_to_carry() -> None:
    assert to_carry([own(A)], A, A, 7860) == {}
    assert to_carry([], A, B, 7860) == {}
    assert to_carry([own(C)], A, B, 7860) == {}


def test_new_labels_are_ones_that_traefik_reads() -> None:
    labels = made([own(A)], B, 8000)
    assert check_labels(labels) == []
    assert carried(labels, "tts") == {A, B}


@pytest.mark.parametrize("first", ["tts", A])
@pytest.mark.parametrize("cut_after", range(4))
@pytest.mark.parametrize("then", [A, B, C])
def test_cut_off_anywhere_every_replica_is_behind_the_router_all_the_way(
    first: str, cut_after: int, then: str
) -> None:
    """Three replicas from A (or the bare name) to B, cut off, then on to any: the router never loses one."""
    fleet = [own(first) for _unused in range(3)]
    router = first

    def roll(wanted: str, steps: int) -> None:
        nonlocal router
        router = live(fleet, "tts", wanted)  # the file is written before the steps
        assert all(router in carried(labels, "tts") for labels in fleet)
        for number in [each for each in range(3) if not own(wanted).items() <= fleet[each].items()][:steps]:
            fleet[number] = made(fleet, wanted)
            assert all(router in carried(labels, "tts") for labels in fleet), number

    roll(B, cut_after)
    roll(then, 3)
    assert live(fleet, "tts", then) == then
