# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The record of a rollout as lines of text with aligned columns."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: rollout_table
short_description: Show the record of a rollout as a table of text
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Turns the record that M(voicefleet.cosyvoice.rollout_record) returns into lines with aligned columns, one
    for each step. Below them a sentence says what it came to, and what went wrong if anything did.
  - C(cut off) is how many requests were in hand when the replica was stopped. C(?) stands for a replica that
    cannot tell.
options:
  _input:
    description: The record.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what was done
  ansible.builtin.debug:
    msg: "{{ written.record | voicefleet.cosyvoice.rollout_table }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
  sample:
    - "replica      card            from  to    drained in  started in  cut off  result"
    - "cosyvoice-1  GPU-5a0e8f21/0  2511  2512       3.2 s      14.1 s        0  replaced"
    - "cosyvoice-2  GPU-5a0e8f21/1  2511  2512       1.1 s      13.8 s        0  replaced"
    - "upgrade of cosyvoice on gpu1: 2 replicas in 41.7 s, 0 requests cut off."
"""

GAP = "  "
HEAD = ("replica", "card", "from", "to", "drained in", "started in", "cut off", "result")
# Numbers are read from their last digit.
RIGHT = ("drained in", "started in", "cut off")
RESULTS = {
    "none": "left as it was",
    "start": "started",
    "create": "created",
    "replace": "replaced",
    "drain": "drained",
    "remove": "removed",
    "restore": "failed, old one back",
}
# The first block of a UUID, as in GPU-5a0e8f21.
CARD_LENGTH = 12
REVISION_LENGTH = 32


def rollout_table(record: t.Any) -> list[str]:
    """A heading, one line for each step, and a sentence; see the documentation above."""
    if not isinstance(record, t.Mapping) or not isinstance(record.get("steps"), (list, tuple)):
        raise AnsibleFilterError("rollout_table: give a record, as rollout_record returns it")
    steps = record["steps"]
    if not all(isinstance(step, t.Mapping) and "name" in step for step in steps):
        raise AnsibleFilterError("rollout_table: every step of a record is a dictionary with a name")
    rows = [HEAD, *(row(step) for step in steps)] if steps else []
    widths = [max(len(each[column]) for each in rows) for column in range(len(HEAD))] if rows else []
    lines = [
        GAP.join(
            f"{cell:>{width}}" if head in RIGHT else f"{cell:<{width}}"
            for cell, width, head in zip(each, widths, HEAD, strict=True)
        ).rstrip()
        for each in rows
    ]
    error = str(record.get("error") or "").strip()
    return [*lines, sentence(record, steps), *(f"Failed: {error}".splitlines() if error else [])]


def row(step: t.Mapping[str, t.Any]) -> tuple[str, ...]:
    """The cells of one step, in the order of the heading."""
    action = str(step.get("action") or "none")
    # A step may fail although its action is what was meant, as when nothing was there to come back.
    result = RESULTS.get(action, action)
    if step.get("error") and action != "restore":
        result = f"failed to {action}" if action != "none" else "failed"
    return (
        str(step["name"]),
        card(step),
        version(step.get("from")),
        version(step.get("to")) if action != "remove" else "-",
        seconds(step.get("drained_seconds")),
        seconds(step.get("started_seconds")),
        cut(step),
        result,
    )


def card(step: t.Mapping[str, t.Any]) -> str:
    """The slot, with the card's UUID shortened: V(GPU-5a0e8f21/0), or V(cpu/0) where there is no card."""
    slot = step.get("slot")
    if isinstance(slot, t.Mapping):
        slot = f"{slot.get('gpu') or 'cpu'}/{slot.get('index')}"
    uuid, _slash, index = str(slot or step.get("gpu") or "-").rpartition("/")
    return f"{uuid[:CARD_LENGTH]}/{index}" if uuid else index[:CARD_LENGTH]


def version(side: t.Any) -> str:
    """What a replica calls its version; where it has no name for it, the beginning of its image's digest."""
    if not isinstance(side, t.Mapping):
        return "-"
    image = str(side.get("image") or "").rpartition(":")[2][:CARD_LENGTH]
    name = str(side.get("revision") or "") or image or "?"
    return name if len(name) <= REVISION_LENGTH else f"{name[: REVISION_LENGTH - 1]}…"


def seconds(value: t.Any) -> str:
    """V(3.2 s), or a dash for what did not come up."""
    return "-" if value is None else f"{float(value):.1f} s"


def stopped(step: t.Mapping[str, t.Any]) -> bool:
    """Whether a container was taken from its callers and stopped."""
    observed = ("drained_seconds", "stopped_seconds", "in_flight_at_stop")
    return any(step.get(key) is not None for key in observed)


def cut(step: t.Mapping[str, t.Any]) -> str:
    """How many requests the stop cut off; V(?) if the service cannot tell, a dash if nothing was stopped."""
    if not stopped(step):
        return "-"
    known = step.get("in_flight_at_stop")
    return "?" if known is None else str(int(known))


def sentence(record: t.Mapping[str, t.Any], steps: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    """What it came to."""
    what = f"{record.get('verb')} of {record.get('service')} on {record.get('host')}"
    took = seconds(record.get("seconds") or 0)
    touched = {str(step["name"]) for step in steps if step.get("action") not in (None, "none")}
    if not touched:
        return f"{what}: nothing to do, in {took}."
    replicas = f"{len(touched)} {'replica' if len(touched) == 1 else 'replicas'} in {took}"
    stops = [step for step in steps if stopped(step)]
    unknown = sum(step.get("in_flight_at_stop") is None for step in stops)
    lost = sum(int(step.get("in_flight_at_stop") or 0) for step in stops)
    requests = f"{lost} {'request' if lost == 1 else 'requests'} cut off"
    if unknown and unknown == len(stops):
        requests = "requests cut off unknown, as the service cannot tell what it has in hand"
    elif unknown:
        requests += f", and an unknown number at {unknown} of {len(stops)} stops"
    return f"{what}: {replicas}, {requests}{'' if record.get('ok', True) else '; it FAILED'}."


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"rollout_table": rollout_table}
