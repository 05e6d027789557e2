# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports that are free and ports that are not, on real sockets of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _ports
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._ports import Wish

# Columns: sl, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode.
TABLE = """\
 sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1 0000 100 0 0 10 0
 1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000 0 0 4243 1 0000 20 4 30 10 -1
"""
REST = "00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0"
TABLE_6 = f"""\
 sl local_address remote_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
 0: 00000000000000000000000000000000:0050 {REST} 7 1 0000 100 0 0 10 0
 1: 0000000000000000FFFF00000100007F:0051 {REST} 8 1 0000 100 0 0 10 0
 2: B80D0120000000000000000001000000:0052 {REST} 9 1 0000 100 0 0 10 0
"""


def test_the_kernels_table() -> None:
    assert _ports.parse_listeners(TABLE) == [_ports.Listener("127.0.0.1", 8080, 4242)]
    assert [(s.address, s.port, s.inode) for s in _ports.parse_listeners(TABLE_6)] == [
        ("::", 80, 7), ("127.0.0.1", 81, 8), ("2001:db8::1", 82, 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "192.0.2.1", True),
        ("192.0.2.1", "0.0.0.0", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::", "192.0.2.1", True),
        ("::1", "0.0.0.0", False),
        ("::1", "127.0.0.1", False),
        ("2001:db8::1", "2001:DB8:0::1", True),
    ],
)
def test_overlap(one: str, other: str, expected: bool) -> None:
    assert _ports.overlap(one, other) is expected


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_process_in_the_way_is_named(taken: int, address: str) -> None:
    (port,) = _ports.check([Wish(taken, address, "the entry point web", variable="traefik_web_port")], [])
    assert not port["free"]
    assert port["holder"]["pid"] == os.getpid()
    assert f"Port {taken} on {address}, wanted for the entry point web, is held by process" in port["problem"]
    assert str(os.getpid()) in port["problem"]
    assert "python" in port["holder"]["command"]
    assert "set traefik_web_port to another port" in port["problem"]


def test_the_same_port_of_another_address_is_free(taken: int) -> None:
    (port,) = _ports.check([Wish(taken, "127.0.0.2")], [])
    assert port["free"]
    assert port["problem"] is None


def containers(name: str, port: int, address: str = "0.0.0.0") -> list[dict[str, object]]:
    published = {"IP": address, "PrivatePort": 80, "PublicPort": port, "Type": "tcp"}
    return [{"Id": "f" * 64, "Names": [f"/{name}"], "Ports": [published, {"PrivatePort": 81, "Type": "tcp"}]}]


def test_the_owner_may_hold_its_port(taken: int) -> None:
    running = containers("voicefleet-traefik", taken)
    (own,) = _ports.check([Wish(taken, owner="voicefleet-traefik")], running)
    assert own["problem"] is None
    assert not own["free"]
    (other,) = _ports.check([Wish(taken, owner="somebody-else")], running)
    assert "held by the container voicefleet-traefik" in other["problem"]
    (nobodys,) = _ports.check([Wish(taken)], running)
    assert nobodys["problem"]


def test_a_port_that_is_published_without_a_listener() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    (found,) = _ports.check([Wish(port)], containers("iptables-only", port))
    assert "held by the container iptables-only" in found["problem"]


def test_an_address_that_is_not_this_hosts() -> None:
    (port,) = _ports.check([Wish(8443, "192.0.2.1")], [])
    assert "this host has no address 192.0.2.1" in port["problem"]


def test_one_port_for_two_purposes() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    first, second = _ports.check([Wish(port, purpose="web"), Wish(port, "127.0.0.1", "admin")], [])
    assert first["problem"] is None
    assert "asked for twice, also for web" in second["problem"]


def test_a_container_of_the_hosts_network(tmp_path: object) -> None:
    running = [{"Id": "0123456789ab" * 5 + "0123", "Names": ["/hostnet"]}]
    proc = f"{tmp_path}/7"
    os.mkdir(proc)
    with open(f"{proc}/cgroup", "w") as file:
        file.write(f"0::/system.slice/docker-{running[0]['Id']}.scope\n")
    assert _ports.container_of(7, running, str(tmp_path)) == "hostnet"
    assert _ports.container_of(8, running, str(tmp_path)) is None
