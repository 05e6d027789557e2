# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""From one set of load-balancer options to another, replica by replica, without a request lost.

Two containers that give one Traefik service different options make Traefik drop it for both, which is a 404
for every caller. So the name of a service changes with its options (C(<service>-lb<hash6>)), and the router,
which lives in a file, names one of them. While replicas are replaced, the new ones carry the labels of the
service that they are wanted to be and those of the one that the router uses now; when all carry the wanted
one, the router is pointed at it. What a container carries stands in its labels, so a change that was cut off
anywhere is carried on by the next run, whatever that wants.

Everything here is pure: labels of containers in, names and labels out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Labels = Mapping[str, str]

# A container's label with the name of the service that it carries for the sake of the others.
LABEL_CARRIED = "voicefleet.carried"

_SERVICE = re.compile(r"traefik\.http\.services\.([^.]+)\.(.+)", re.IGNORECASE)
_PORT = "loadbalancer.server.port"


def carried(labels: Labels, service: str) -> set[str]:
    """Names of the load-balancer services of C(service) that a container's labels define.

    The service's bare name counts: so was it called before names changed with the options.
    """
    pattern = re.compile(rf"{re.escape(service)}(-lb[0-9a-f]{{6}})?")
    names = {match[1] for match in map(_SERVICE.fullmatch, labels) if match}
    return {name for name in names if pattern.fullmatch(name)}


def live(replicas: Sequence[Labels], service: str, wanted: str) -> str:
    """The service that the shared router can name now so that no replica is left out.

    C(replicas) are the labels of all containers that serve or may come back to do so. The answer is C(wanted)
    if every one of them carries it, or if there is none. Otherwise it is a service that every one carries,
    of several the one that most bear as their own, which is the latest; and where none is common to all,
    which no roll of ours leaves behind, the one that most of them carry.
    """
    seen = [(labels, carried(labels, service)) for labels in replicas]
    if all(wanted in names for _labels, names in seen):
        return wanted

    def rank(name: str) -> tuple[int, int, bool, str]:
        bearers = [labels for labels, names in seen if name in names]
        own = sum(labels.get(LABEL_CARRIED) != name for labels in bearers)
        return len(bearers), own, name == wanted, name

    return max({name for _labels, names in seen for name in names}, key=rank, default=wanted)


def to_carry(labels_of_all: Sequence[Labels], live: str, wanted: str, port: int) -> dict[str, str]:
    """Further labels for a new container, which has those of C(wanted) already.

    They are those of the service C(live), word for word from a container that has it (its options are only
    known from there), but for the server: C(port) is the new container's own. Empty when there is nothing to
    carry.
    """
    if live == wanted:
        return {}
    for labels in labels_of_all:
        found = {
            key: value
            for key, value in labels.items()
            if (match := _SERVICE.fullmatch(key))
            and match[1] == live
            and not match[2].lower().startswith("loadbalancer.server.")
        }
        of_server = f"traefik.http.services.{live}.{_PORT}"
        if found or any(key.lower() == of_server.lower() for key in labels):
            return {**found, of_server: str(port), LABEL_CARRIED: live}
    return {}
