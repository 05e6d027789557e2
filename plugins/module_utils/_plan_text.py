# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as people read it: lines that are aligned, and what will be different afterwards.

This module util is private to the collection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import (
    Action,
    Observed,
    Slot,
    Step,
    card_of,
    replicas_of,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan_rules import Outlook
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._target import short_id

# The first block of a UUID, which tells the cards of a host apart: GPU-5a0e8f21.
CARD_LENGTH = 12
ACTIONS: tuple[Action, ...] = ("create", "start", "replace", "remove", "keep")


def summary(
    service: str,
    count: int,
    steps: Sequence[Step],
    observed: Sequence[Observed],
    outlook: Outlook,
    drained: Mapping[str, str],
    overridden: Sequence[str] = (),
) -> list[str]:
    """A heading with the counts, the steps in their order, and what is out of the ordinary."""
    counts = Counter(step.action for step in steps)
    doing = ", ".join(f"{counts[action]} to {action}" for action in ACTIONS if counts[action])
    heading = (
        f"{service}: {count} wanted, {len(replicas_of(observed))} there, {outlook.serving} serving; "
        f"{doing or 'nothing to do'}"
    )
    if any(step.takes_out for step in steps):
        heading += f"; {outlook.lowest} serving at the worst moment"
    lines = [heading]
    if drained:
        said = ", ".join(text for text in (drained.get("by"), drained.get("at"), drained.get("why")) if text)
        lines.append(
            f"This host was drained by hand{f' ({said})' if said else ''}, so nothing is started on it. "
            "undrain.yml brings it back."
        )
    if outlook.downtime:
        lines.append("Downtime: nobody answers from a replica's stop until its successor has loaded.")
    lines += [f"Forced: {refusal}" for refusal in overridden]
    table = [(step.action, step.name, _where(step), _revisions(step), _reason(step)) for step in steps]
    widths = [max((len(row[column]) for row in table), default=0) for column in range(5)]
    for row in table:
        cells = [cell.ljust(widths[column]) for column, cell in enumerate(row) if widths[column]]
        lines.append("  ".join(cells).rstrip())
    return lines


def diff(
    steps: Sequence[Step],
    observed: Sequence[Observed],
    spec_of: Callable[[int, Slot], str],
    image_id: str,
) -> dict[str, str]:
    """Each replica before and after."""
    before = {each.name: _line(each) for each in observed}
    after = {}
    for step in steps:
        if step.action == "keep":
            after.update({each.name: _line(each) for each in observed if each.number == step.number})
        elif step.slot:
            spec = spec_of(step.number, step.slot)
            after[step.name] = _told(step.name, step.slot.key, step.to_revision, image_id, spec)
    return {
        when: "".join(f"{lines[name]}\n" for name in sorted(lines, key=lambda name: (len(name), name)))
        for when, lines in (("before", before), ("after", after))
    }


def short(key: str) -> str:
    """A slot's key with the card's UUID cut short."""
    card = card_of(key)
    return key if len(card) <= CARD_LENGTH else f"{card[:CARD_LENGTH]}{key[len(card) :]}"


def _where(step: Step) -> str:
    here = short(step.from_slot)
    if step.slot is None or step.slot.key == step.from_slot:
        return here
    there = short(step.slot.key)
    return f"{here} -> {there}" if here else there


def _revisions(step: Step) -> str:
    one, other = step.from_revision, step.to_revision
    if one == other or not (one and other):
        return one or other
    return f"{one} -> {other}"


def _reason(step: Step) -> str:
    how = [
        "canary" if step.canary else "",
        "successor first, on a free slot" if step.surge else "",
    ]
    said = ", ".join(text for text in how if text)
    return f"{step.reason} ({said})" if said else step.reason


def _line(container: Observed) -> str:
    told = _told(container.name, container.slot, container.revision, container.image_id, container.spec)
    return f"{told} ({container.idle})" if container.idle else told


def _told(name: str, slot: str, revision: str, image_id: str, spec: str) -> str:
    return (
        f"{name} on {slot}: revision {revision or 'none'}, image {short_id(image_id)}, "
        f"specification {spec or 'none'}"
    )
