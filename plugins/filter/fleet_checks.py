# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What has to be the same on all hosts of a fleet, as checks."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: fleet_checks
short_description: Check that what has one name is one thing on all hosts
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Compares what the replicas of several hosts tell of themselves. A caller is sent to any of them.
  - For each service and revision that more than one host has, one check that the weights are the same; and
    for each such service one check that the voices are. There is none where nobody tells of such.
options:
  _input:
    description: For each host the C(replicas) that M(voicefleet.cosyvoice.service_probe) returned there.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show whether the hosts have the same
  ansible.builtin.debug:
    msg: "{{ {'gpu1': one.replicas, 'gpu2': other.replicas} | voicefleet.cosyvoice.fleet_checks }}"
"""

RETURN = r"""
_value:
  description: The checks, as P(voicefleet.cosyvoice.verification_table#filter) takes them.
  type: list
  elements: dict
  sample:
    - name: "tts: weights of r2 on all hosts"
      ok: false
      found: 3f1c0a9be771 on gpu1; 77ab3c2d1e0f on gpu2
      wanted: the same on all hosts
      remedy: Bring them to every host anew, from one source.
"""

WEIGHTS_REMEDY = (
    "Hosts have different files under one name. Set cosyvoice_weights_digest to the right figure, remove the "
    "directory and the manifest where they are wrong, and run site.yml."
)
VOICES_REMEDY = (
    "A voice answers on some hosts only, or is another one there. Give all hosts the same cosyvoice_voices, "
    "set cosyvoice_voices_exclusive or remove what was laid down by hand, and run site.yml."
)

Replica = t.Mapping[str, t.Any]


def fleet_checks(fleet: t.Any) -> list[dict[str, t.Any]]:
    """A check for each thing that hosts have in common; see the documentation above."""
    if not isinstance(fleet, t.Mapping):
        raise AnsibleFilterError("fleet_checks: give a dictionary of hosts, each with its replicas")
    weights: dict[tuple[str, str], dict[str, set[str]]] = {}
    voices: dict[str, dict[str, set[str]]] = {}
    try:
        for host, replicas in fleet.items():
            for replica in replicas:
                service, revision = replica["service"], replica["revision"]
                if replica["weights_digest"]:
                    found = weights.setdefault((service, revision), {})
                    found.setdefault(replica["weights_digest"], set()).add(host)
                if replica["voices_digest"]:
                    voices.setdefault(service, {}).setdefault(replica["voices_digest"], set()).add(host)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"fleet_checks: that is no replica of service_probe: {error}") from error
    return [
        *(
            check(f"{service}: weights of {revision or 'no revision'} on all hosts", found, WEIGHTS_REMEDY)
            for (service, revision), found in weights.items()
            if several(found)
        ),
        *(
            check(f"{service}: voices on all hosts", found, VOICES_REMEDY)
            for service, found in voices.items()
            if several(found)
        ),
    ]


def several(found: t.Mapping[str, set[str]]) -> bool:
    """Whether more than one host has any."""
    return len(set().union(*found.values())) > 1


def check(name: str, found: t.Mapping[str, set[str]], remedy: str) -> dict[str, t.Any]:
    """One digest is well, each with its hosts otherwise."""
    told = "; ".join(f"{digest[:12]} on {', '.join(sorted(hosts))}" for digest, hosts in found.items())
    ok = len(found) == 1
    return {
        "name": name,
        "ok": ok,
        "found": told,
        "wanted": "the same on all hosts",
        "remedy": "" if ok else remedy,
    }


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"fleet_checks": fleet_checks}
