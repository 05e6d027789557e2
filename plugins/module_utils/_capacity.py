# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many instances a card may hold, and why. Pure arithmetic on what was read; every size in MiB.

    capacity = max(0, min(class cap, max_per_gpu, floor(room / need)))
    room = total - reserved - foreign - headroom - start
    need = instance + fraction x total

``total - reserved`` is what CUDA itself offers as the card's memory. ``foreign`` is what is in use by anybody
but our own instances, so that a host where they run is judged as it was before they ran. ``start`` is what an
instance takes beside its need while it starts; they do so one after another, so it counts once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._mps import share
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Card,
    Memory,
    MigDevice,
    Process,
    Report,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_problems import (
    Problem,
    explain_unknown,
)


@dataclass(frozen=True)
class ClassCap:
    """No card with a total of ``min_mib`` to ``max_mib`` gets more than ``max_instances``."""

    name: str
    min_mib: int
    max_mib: int
    max_instances: int


# Cards sold as 24 GB report 22731 (A10, driver < 510) to 24576 MiB (RTX 3090). 24576 is 3 x 8192, yet three
# instances never fit. The lower bound is below 22 GiB by the reserve of an L4 (usable: 22478), for guests
# that see only what is usable.
BUILT_IN_CLASSES = (ClassCap("24 GB", 22400, 25600, 2),)


@dataclass(frozen=True)
class Policy:
    """What an instance needs and how many are wanted at most."""

    instance_mib: int = 8192
    instance_fraction: float = 0.0  # of the card's total, beside instance_mib
    start_mib: int = 0  # more than that while it starts
    headroom_mib: int = 512
    display_headroom_mib: int | None = None
    max_per_gpu: int | None = None
    class_caps: tuple[ClassCap, ...] = BUILT_IN_CLASSES

    def class_of(self, total_mib: int) -> ClassCap | None:
        """The first class that covers ``total_mib``; the built-in ones come last, so they can be overridden
        for the cards one means and still hold for all others."""
        classes = (*self.class_caps, *BUILT_IN_CLASSES)
        return next((cap for cap in classes if cap.min_mib <= total_mib <= cap.max_mib), None)

    def headroom_for(self, display: str) -> int:
        if display and self.display_headroom_mib is not None:
            return self.display_headroom_mib
        return self.headroom_mib

    def instance_on(self, total_mib: int) -> int:
        """What one instance takes of a device of this size."""
        return self.instance_mib + math.ceil(round(self.instance_fraction * total_mib, 3))

    def mistakes(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        found = []
        if self.instance_mib <= 0:
            found.append(
                f"instance_mib is {self.instance_mib}: give the MiB one instance needs, such as 8192"
            )
        if not 0 <= self.instance_fraction < 1:
            found.append(
                f"instance_fraction is {self.instance_fraction}: give the part of a card's total that one "
                "instance takes beside instance_mib, from 0 to less than 1"
            )
        for name in ("start_mib", "headroom_mib", "display_headroom_mib", "max_per_gpu"):
            value = getattr(self, name)
            if value is not None and value < 0:
                found.append(f"{name} is {value}: it cannot be below 0")
        for cap in self.class_caps:
            if not 0 <= cap.min_mib <= cap.max_mib:
                found.append(
                    f"class_caps {cap.name!r}: min_mib {cap.min_mib} to max_mib {cap.max_mib} is no range"
                )
            if cap.max_instances < 0:
                found.append(f"class_caps {cap.name!r}: max_instances is {cap.max_instances}, below 0")
        return found


@dataclass(frozen=True)
class Own:
    """Our own instances on one card: ``mib`` they use, as far as the driver tells.

    ``unmeasured`` of the ``containers`` have a process there whose memory the driver does not tell.
    """

    mib: int = 0
    containers: int = 0
    unmeasured: int = 0


@dataclass(frozen=True)
class Fit:
    """The result of the rule for one card or MIG GPU instance."""

    capacity: int
    instance_mib: int
    usable_mib: int
    own_mib: int
    foreign_mib: int
    class_name: str | None
    limit: str  # what decided, for the summary
    reason: str


def fit(memory: Memory, policy: Policy, own: Own | None = None, display: str = "") -> Fit:
    """Applies the rule to one device's memory."""
    own = own or Own()
    headroom = policy.headroom_for(display)
    instance = policy.instance_on(memory.total_mib)
    usable = max(0, memory.total_mib - memory.reserved_mib)
    # From ``free``, for what is not free cannot be had; ``used`` differs from this by 1 or 2 MiB of rounding.
    occupied = max(0, usable - memory.free_mib)
    # Taking each unmeasured container at its full share keeps what runs, and counts no more beside it than
    # fits in what is free now: (free + n shares - headroom) / share = n + (free - headroom) / share.
    own_mib = min(occupied, own.mib + own.unmeasured * instance)
    foreign = occupied - own_mib
    room = max(0, usable - foreign - headroom)
    by_memory = max(0, room - policy.start_mib) // instance

    cap = policy.class_of(memory.total_mib)
    limits = [(by_memory, f"memory: {by_memory}")]
    if policy.max_per_gpu is not None:
        limits.insert(0, (policy.max_per_gpu, f"max_per_gpu: {policy.max_per_gpu}"))
    if cap is not None:
        limits.insert(0, (cap.max_instances, f"class cap {cap.name}: {cap.max_instances}"))
    capacity, limit = min(limits, key=lambda one: one[0])

    reason = (
        f"{memory.total_mib} MiB total - {memory.reserved_mib} reserved - {foreign} foreign "
        f"- {headroom} headroom = {room} MiB, room for {by_memory} x {instance} MiB"
    )
    if policy.instance_fraction:
        reason += f" ({policy.instance_mib} and {policy.instance_fraction:g} of the total each)"
    if policy.start_mib:
        reason += f", {policy.start_mib} of it for one that starts"
    if cap is not None:
        reason += f"; class {cap.name} allows {cap.max_instances}"
    if policy.max_per_gpu is not None:
        reason += f"; max_per_gpu allows {policy.max_per_gpu}"
    if own.containers:
        reason += f"; {own_mib} MiB of {own.containers} own container(s) not counted as foreign"
    if own.unmeasured:
        reason += (
            f"; the driver does not tell the memory of {own.unmeasured} of them, "
            f"taken as {instance} MiB each at most"
        )
    if display:
        reason += "; a desktop may use this card" + (" (WDDM)" if display == "WDDM" else " (display active)")
    return Fit(capacity, instance, usable, own_mib, foreign, cap.name if cap else None, limit, reason)


def own_of(processes: Iterable[Process], owners: Mapping[int, str], gpu_instance_id: str = "") -> Own:
    """Sums up our own processes on a card, or on one of its GPU instances.

    ``owners`` gives the container of each process of ours. A process listed twice (compute and graphics)
    counts once: counting it twice would hide foreign memory.
    """
    used: dict[int, int | None] = {}
    for process in processes:
        if process.pid in owners and process.gpu_instance_id == gpu_instance_id:
            before = used.get(process.pid)
            used[process.pid] = process.used_mib if before is None else max(before, process.used_mib or 0)
    return Own(
        mib=sum(mib or 0 for mib in used.values()),
        containers=len({owners[pid] for pid in used}),
        unmeasured=len({owners[pid] for pid, mib in used.items() if mib is None}),
    )


# --- a whole host -------------------------------------------------------------------------------------------


class NoSuchGpuError(ValueError):
    """A card was asked for that is not there."""


@dataclass
class Plan:
    """What a host holds, as the module returns it, and what could not be read."""

    gpus: list[dict[str, Any]] = field(default_factory=list)
    slots: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def capacity(self) -> int:
        return len(self.slots)

    @property
    def summary(self) -> str:
        return "\n".join(self.lines)


def select(cards: Sequence[Card], wanted: Sequence[str]) -> list[Card]:
    """The cards named in ``wanted`` by UUID or index, with only the named MIG devices where those are named.

    A MIG device is named by its UUID or as ``<card>:<device>``. Nothing wanted means all.
    """
    if not wanted:
        return list(cards)
    known = {str(card.index) for card in cards} | {card.uuid for card in cards if card.uuid}
    for card in cards:
        known |= {name for device in card.mig_devices for name in _names(card, device)}
    missing = [name for name in wanted if name not in known]
    if missing:
        there = ", ".join(
            f"{card.index} = {card.uuid or 'no UUID'} ({short_name(card.name)})" for card in cards
        )
        raise NoSuchGpuError(f"gpus: {', '.join(missing)} not found on this host. It has: {there}")
    names = frozenset(wanted)
    chosen = []
    for card in cards:
        if names & {str(card.index), card.uuid}:
            chosen.append(card)
            continue
        devices = tuple(device for device in card.mig_devices if names & _names(card, device))
        if devices:
            chosen.append(replace(card, mig_devices=devices))
    return chosen


def _names(card: Card, device: MigDevice) -> set[str]:
    return {device.uuid, f"{card.index}:{device.index}"}


def plan(
    report: Report,
    policy: Policy,
    owners: Mapping[int, str],
    own_containers: int = 0,
    mps: Mapping[str, Any] | None = None,
) -> Plan:
    """Applies the rule to every card of ``report``.

    ``owners`` maps process ids to our containers; ``own_containers`` is how many there are on the host.
    ``mps`` is what the host has declared of it (_sharing.Declaration): its cards give each slot an even
    share.
    """
    result = Plan()
    seen: dict[str, int] = {}
    for card in report.cards:
        if card.uuid and card.uuid in seen:
            result.problems.append(
                Problem(
                    f"Cards #{seen[card.uuid]} and #{card.index} have the same UUID {card.uuid}",
                    "Good enough to count, but a replica cannot be put on one of them: real cards differ, so "
                    "the output was edited or comes from a mock driver",
                )
            )
        seen[card.uuid] = card.index
        if own_containers and card.processes_unknown and not card.mig_enabled:
            result.problems.append(
                Problem(
                    f"Card #{card.index} does not list its processes: {card.processes_unknown}",
                    "Memory of own containers on it is counted as foreign; run on the host itself as root",
                )
            )
        if card.mig_enabled:
            _plan_mig(card, report.driver, policy, owners, result)
        else:
            shared = mps if mps and card.uuid in mps["cards"] else None
            _plan_card(card, report.driver, policy, owners, result, shared)
    if not result.lines:
        result.lines.append("no cards")
    return result


def _plan_card(
    card: Card,
    driver: str,
    policy: Policy,
    owners: Mapping[int, str],
    result: Plan,
    mps: Mapping[str, Any] | None,
) -> None:
    label = f"{short_name(card.name)} #{card.index}"
    entry = _entry(card, driver=driver)
    entry["mig_devices"] = []
    result.gpus.append(entry)
    if card.memory is None:
        _unknown(label, card.unknown, entry, result)
        return
    found = fit(card.memory, policy, own_of(card.processes, owners), card.display)
    capacity, reason, limit = found.capacity, found.reason, found.limit
    if not card.uuid:
        capacity, limit = 0, "no UUID"
        reason += "; but the card has no UUID by which a container could be given it"
    if card.compute_mode == "Prohibited":
        capacity, limit = 0, "compute mode Prohibited"
        reason += f"; but its compute mode forbids use: 'nvidia-smi -i {card.index} -c DEFAULT'"
    elif mps and capacity:
        reason += f"; shared by MPS: {_mps_of(mps, capacity)['thread_percentage']} % of its threads each"
    elif card.compute_mode.startswith("Exclusive"):
        if capacity > 1:
            capacity, limit = 1, f"compute mode {card.compute_mode}"
        reason += f"; compute mode {card.compute_mode}: only one process at a time unless MPS runs"
    entry.update(_figures(found), capacity=capacity, reason=reason)
    slots = _slots(card.uuid, capacity, found.instance_mib + policy.start_mib)
    # The memory limit of each is the slot's own. What MPS may save in contexts is not counted: nobody has
    # shown how much that is.
    result.slots.extend({**slot, "mps": _mps_of(mps, capacity)} if mps else slot for slot in slots)
    result.lines.append(_line(label, card.memory, found, capacity, limit))


def _plan_mig(card: Card, driver: str, policy: Policy, owners: Mapping[int, str], result: Plan) -> None:
    """The MIG devices of a card. Never the card itself: its free memory stays large when it is cut up."""
    label = f"{short_name(card.name)} #{card.index}"
    count = len(card.mig_devices)
    reason = f"MIG is enabled: its {count} MIG device(s) count, the card itself does not"
    if not count:
        reason = (
            f"MIG is enabled without a MIG device: create some ('nvidia-smi mig -i {card.index} -cgi "
            f"<profiles> -C') or disable MIG ('nvidia-smi -i {card.index} -mig 0')"
        )
    devices: list[dict[str, Any]] = []
    result.gpus.append({**_entry(card, driver=driver), "reason": reason, "mig_devices": devices})
    result.lines.append(f"{label}: {reason}")
    for together in _gpu_instances(card.mig_devices):
        first = together[0]
        memory = first.memory
        own = own_of(card.processes, owners, first.gpu_instance_id)
        found = fit(memory, policy, own) if memory else None
        for order, device in enumerate(together):
            device_label = f"  {device.name} #{card.index}:{device.index}"
            entry = _entry(device)
            devices.append(entry)
            if memory is None or found is None:
                _unknown(device_label, first.unknown, entry, result)
                continue
            # Compute instances of one GPU instance share its memory: it is counted once, and dealt out so
            # that all of its compute units get work.
            share = found.capacity // len(together) + (1 if order < found.capacity % len(together) else 0)
            reason = found.reason
            if len(together) > 1:
                reason += (
                    f"; {len(together)} compute instances share the memory of GPU instance "
                    f"{device.gpu_instance_id}: {found.capacity} in all, {share} here"
                )
            entry.update(_figures(found), capacity=share, reason=reason)
            result.slots.extend(_slots(device.uuid, share, found.instance_mib + policy.start_mib))
            result.lines.append(_line(device_label, memory, found, share, found.limit))
    devices.sort(key=lambda entry: int(entry["index"]))


def _gpu_instances(devices: Iterable[MigDevice]) -> list[list[MigDevice]]:
    """MIG devices grouped by GPU instance, in order."""
    groups: dict[str, list[MigDevice]] = {}
    for device in devices:
        groups.setdefault(device.gpu_instance_id or f"device {device.index}", []).append(device)
    return list(groups.values())


def _entry(device: Card | MigDevice, driver: str | None = None) -> dict[str, Any]:
    """A device as it is returned, before anything is decided."""
    memory = device.memory
    entry: dict[str, Any] = {"uuid": device.uuid or None, "index": device.index, "name": device.name}
    if isinstance(device, MigDevice):
        entry["gpu_instance_id"] = device.gpu_instance_id
        entry["compute_instance_id"] = device.compute_instance_id
    else:
        entry["driver"] = driver or None
    entry.update(
        total_mib=memory.total_mib if memory else None,
        reserved_mib=memory.reserved_mib if memory else None,
        used_mib=memory.used_mib if memory else None,
        free_mib=memory.free_mib if memory else None,
        usable_mib=memory.total_mib - memory.reserved_mib if memory else None,
        own_mib=None,
        foreign_mib=None,
        capacity=0,
        reason="",
    )
    entry["class"] = None
    return entry


def _figures(found: Fit) -> dict[str, Any]:
    return {
        "usable_mib": found.usable_mib,
        "own_mib": found.own_mib,
        "foreign_mib": found.foreign_mib,
        "class": found.class_name,
    }


def _unknown(label: str, unknown: str, entry: dict[str, Any], result: Plan) -> None:
    """Unknown memory holds nothing: a guess would end in a replica that dies at its first long sentence."""
    entry["reason"] = f"memory unknown: {unknown}"
    result.lines.append(f"{label}: memory unknown ({unknown}) -> 0")
    result.unknown.append(Problem(f"{label.strip()}: memory unknown: {unknown}", explain_unknown(unknown)))


def _slots(uuid: str, capacity: int, memory_mib: int) -> list[dict[str, Any]]:
    return [{"gpu": uuid, "index": index, "memory_mib": memory_mib} for index in range(capacity)]


def _mps_of(mps: Mapping[str, Any], slots: int) -> dict[str, Any]:
    """What a slot has of a card that MPS shares among so many; no client gets more than the daemon gives."""
    percentage = min(share(slots), int(mps.get("thread_percentage", 100)))
    return {"thread_percentage": percentage, "pipe_dir": mps["pipe_dir"], "uid": mps["uid"]}


def _line(label: str, memory: Memory, found: Fit, capacity: int, limit: str) -> str:
    return (
        f"{label}: {memory.total_mib} MiB, {memory.reserved_mib} reserved, {found.foreign_mib} foreign "
        f"-> {capacity} x {found.instance_mib} MiB ({limit})"
    )


def short_name(name: str) -> str:
    """A card's name as people say it: ``RTX 4090`` for ``NVIDIA GeForce RTX 4090``."""
    return re.sub(r"^(NVIDIA )?(GeForce )?", "", name)
