# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which TCP ports of this host can be bound, and who holds the others.

This module util is private to the collection. Whether a port is free is asked of the kernel, by binding it
for a moment without listening; /proc and the engine only name the holder.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import typing as t
from dataclasses import asdict, dataclass

LISTEN = "0A"  # TCP_LISTEN in the kernel's include/net/tcp_states.h
ANY = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound


@dataclass(frozen=True)
class Wish:
    """A port somebody wants: `owner` is the container that may hold it, `variable` what sets it."""

    port: int
    address: str = "0.0.0.0"  # noqa: S104
    purpose: str = ""
    owner: str = ""
    variable: str = ""

    def __str__(self) -> str:
        for_what = f", wanted for {self.purpose}," if self.purpose else ""
        return f"Port {self.port} on {self.address}{for_what}"


@dataclass(frozen=True)
class Holder:
    """Who holds a port: a container by its name, or a process; what could not be told is None."""

    address: str
    container: str | None = None
    pid: int | None = None
    command: str | None = None

    def __str__(self) -> str:
        if self.container:
            return f"the container {self.container}"
        if self.pid:
            return f"process {self.pid} ({self.command})"
        return "a process that could not be told (another network namespace, or not this user's)"


@dataclass(frozen=True)
class Listener:
    """A listening socket as the kernel lists it."""

    address: str
    port: int
    inode: int


def overlap(one: str, other: str) -> bool:
    """Whether two sockets on these addresses, of one port, get in each other's way."""
    if ipaddress.ip_address(one) == ipaddress.ip_address(other):
        return True
    # `::` takes IPv4 too unless the socket says otherwise, which /proc does not tell.
    same_family = (":" in one) == (":" in other)
    return any(a in ANY and (same_family or a == "::") for a in (one, other))


def parse_listeners(text: str) -> list[Listener]:
    """The listening sockets in the text of /proc/net/tcp or /proc/net/tcp6."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTEN:
            address, port = fields[1].split(":")
            found.append(Listener(_address(address), int(port, 16), int(fields[9])))
    return found


def _address(hexadecimal: str) -> str:
    """`0100007F` -> `127.0.0.1`: 32-bit words as they lie in the memory of a little-endian host."""
    raw = bytes.fromhex(hexadecimal)
    words = [raw[i : i + 4][::-1] for i in range(0, len(raw), 4)]
    address = ipaddress.ip_address(b"".join(words))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


def listeners(proc: str = "/proc") -> list[Listener]:
    """All listening TCP sockets of this network namespace."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/net/{name}", encoding="ascii") as file:
                found += parse_listeners(file.read())
        except OSError:  # no IPv6 on this host
            continue
    return found


def socket_owners(inodes: t.Collection[int], proc: str = "/proc") -> dict[int, tuple[int, str]]:
    """The process (number and command line) behind each of these sockets, as far as it may be seen."""
    owners: dict[int, tuple[int, str]] = {}
    for entry in os.listdir(proc) if inodes else ():
        if not entry.isdigit():
            continue
        try:
            for fd in os.scandir(f"{proc}/{entry}/fd"):
                target = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd.path))
                if target and int(target.group(1)) in inodes:
                    owners.setdefault(int(target.group(1)), (int(entry), _command(f"{proc}/{entry}")))
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return owners


def _command(process: str) -> str:
    with open(f"{process}/cmdline", encoding="utf-8", errors="replace") as file:
        words = file.read().replace("\0", " ").strip()
    if words:
        return words[:120]
    with open(f"{process}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()


def bind_error(address: str, port: int) -> OSError | None:
    """What the kernel says to binding this port now; None when it can be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as trial:
            # As servers do: connections that wait out their time do not hold a port.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            trial.bind((address, port))
    except OSError as error:
        return error
    return None


def published_ports(containers: t.Iterable[t.Mapping[str, t.Any]]) -> list[tuple[str, int, str]]:
    """(address, port, container) of each TCP port in the engine's list of running containers."""
    return [
        (port.get("IP") or "0.0.0.0", port["PublicPort"], container["Names"][0].lstrip("/"))  # noqa: S104
        for container in containers
        for port in container.get("Ports") or ()
        if port.get("PublicPort") and port.get("Type") == "tcp"
    ]


def container_of(pid: int, containers: t.Iterable[t.Mapping[str, t.Any]], proc: str = "/proc") -> str | None:
    """The container a process belongs to: one on the host's network listens without publishing anything."""
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8") as file:
            groups = file.read()
    except OSError:
        return None
    return next((c["Names"][0].lstrip("/") for c in containers if c["Id"] in groups), None)


def find_holder(
    wish: Wish, sockets: t.Iterable[Listener], containers: t.Sequence[t.Mapping[str, t.Any]]
) -> Holder | None:
    """Who is in the way of `wish`: the container that published the port before the process that listens."""
    for address, port, container in published_ports(containers):
        if port == wish.port and overlap(address, wish.address):
            return Holder(address, container=container)
    in_the_way = [s for s in sockets if s.port == wish.port and overlap(s.address, wish.address)]
    owners = socket_owners({s.inode for s in in_the_way})
    for listener in in_the_way:
        pid, command = owners.get(listener.inode, (None, None))
        return Holder(listener.address, container_of(pid, containers) if pid else None, pid, command)
    return None


def check(wishes: list[Wish], containers: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Each wish with `free`, its `holder` (or None) and the `problem` in words (or None).

    `containers` is the engine's list of running containers (GET /containers/json); empty without an engine.
    """
    sockets = listeners()
    checked = []
    for number, wish in enumerate(wishes):
        error = bind_error(wish.address, wish.port)
        # An engine without userland proxy publishes ports that nothing listens on.
        holder = find_holder(wish, sockets if error else [], containers)
        ours = holder is not None and bool(wish.owner) and holder.container == wish.owner
        problem = None if ours else _problem(wish, error, holder)
        if problem is None:
            problem = _asked_twice(wish, wishes[:number])
        checked.append(
            {
                **asdict(wish),
                "free": error is None and holder is None,
                "holder": asdict(holder) if holder else None,
                "problem": problem,
            }
        )
    return checked


def _problem(wish: Wish, error: OSError | None, holder: Holder | None) -> str | None:
    if error is None and holder is None:
        return None
    change = f"set {wish.variable} to another port" if wish.variable else "choose another port"
    if error is not None and error.errno == errno.EADDRNOTAVAIL:
        return f"{wish} cannot be had: this host has no address {wish.address}. Choose one that it has."
    if error is not None and error.errno == errno.EACCES:
        return f"{wish} cannot be had: ports this low are for root. Set become: true, or {change}."
    if error is not None and error.errno != errno.EADDRINUSE:
        return f"{wish} cannot be had: {error.strerror}. Mend the address, or {change}."
    who = str(holder) if holder else str(Holder(wish.address))
    where = f" (on {holder.address})" if holder and holder.address != wish.address else ""
    return f"{wish} is held by {who}{where}. Stop that, or {change}."


def _asked_twice(wish: Wish, earlier: list[Wish]) -> str | None:
    for other in earlier:
        if other.port == wish.port and overlap(other.address, wish.address):
            change = f"Set {wish.variable} to another port." if wish.variable else "Choose another port."
            return f"{wish} is asked for twice, also for {other.purpose or other.address}. {change}"
    return None
