# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which specification a plan follows: one that is given, the one that runs, or the one that ran before.

This module util is private to the collection. There is no state file: every container bears the specification
that it was made from, and the one that ran before it, as labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import (
    Observed,
    PlanError,
    replicas_of,
)


@dataclass(frozen=True)
class Target:
    """What replicas are made from: a specification (see _specification) and the content of its image."""

    specification: dict[str, Any]
    image_id: str

    @property
    def revision(self) -> str:
        """What the service calls it."""
        return str(self.specification.get("revision", ""))

    @property
    def identity(self) -> str:
        """Equal for two that make the same replicas. Of the image, its content counts and not its name."""
        counted = {key: value for key, value in self.specification.items() if key != "image"}
        return spec.origin(counted, self.image_id)

    @property
    def label(self) -> str:
        """As a container's label holds it."""
        return spec.origin(self.specification, self.image_id)

    def __str__(self) -> str:
        revision = f"revision {self.revision}" if self.revision else "no named revision"
        return f"{revision}, image {short_id(self.image_id)}"


def short_id(image_id: str) -> str:
    """Twelve digits of an image's content address, as docker shows it."""
    return image_id.rpartition(":")[2][:12] or "unknown"


def recorded(container: Observed, label: str = spec.LABEL_SPECIFICATION) -> Target | None:
    """What the label of a container tells, None where it has none that can be read."""
    try:
        told = json.loads(container.labels.get(label, ""))
        return Target(complete(told["specification"]), str(told["image_id"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def complete(specification: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A specification as C(options) have it today, though another version of this collection wrote it.

    They are those of the module replica unless others are given.
    """
    whole: dict[str, Any] = {}
    for name, option in (spec.ARGUMENT_SPEC if options is None else options).items():
        if name in specification:
            value = specification[name]
        elif option.get("required"):
            raise KeyError(name)
        else:
            value = option.get("default")
        if option["type"] == "float" and value is not None:
            # As Ansible reads it: 2 and 2.0 are not the same text, and so not the same hash.
            value = float(value)
        if "options" in option and isinstance(value, list):
            value = [complete(each, option["options"]) for each in value]
        elif "options" in option and isinstance(value, dict):
            value = complete(value, option["options"])
        whole[name] = value
    return whole


def current(service: str, observed: Sequence[Observed]) -> Target:
    """What all replicas were made from.

    Of one whose replacement was cut off, the newcomer counts.

    :raises PlanError: there is none, one does not tell, or they differ.
    """
    replicas = [replica.here for replica in replicas_of(observed).values()]
    if not replicas:
        raise PlanError(f"{service}: there are no replicas to go by on this host. site.yml lays them down.")
    targets: dict[str, Target] = {}
    of: dict[str, list[str]] = {}
    for container in replicas:
        target = recorded(container)
        if target is None:
            raise PlanError(
                f"{service}: {container.name} does not tell what it was made from: an earlier version of "
                "this collection made it. Run upgrade.yml once; what that makes does."
            )
        targets[target.identity] = target
        of.setdefault(target.identity, []).append(container.name)
    if len(targets) > 1:
        told = "; ".join(f"{', '.join(of[key])}: {target}" for key, target in targets.items())
        raise PlanError(
            f"{service}: the replicas were not all made from the same ({told}). Finish the roll with "
            "upgrade.yml, or go back with rollback.yml, and run this again."
        )
    return next(iter(targets.values()))


def previous(service: str, observed: Sequence[Observed]) -> Target:
    """What ran before, as the newest container that knows tells.

    :raises PlanError: none does.
    """
    target = _newest_record(observed)
    if target:
        return target
    there = {str(recorded(each) or f"revision {each.revision or 'unknown'}") for each in observed}
    what = f"{len(replicas_of(observed))} replicas ({'; '.join(sorted(there))})" if there else "no replicas"
    raise PlanError(
        f"{service}: nothing is known of what ran before. This host has {what}, and none was made in the "
        "place of another version. Give upgrade.yml the version that is wanted."
    )


def gone(service: str, target: Target, follow: str) -> str:
    """The words for a target whose image is no longer on the host."""
    when = "ran before" if follow == "previous" else "runs"
    return (
        f"{service}: {target} {when}, but that image is no longer on this host. Bring it back by its digest "
        "(role container_images), or give upgrade.yml the version that is wanted."
    )


def to_record(observed: Sequence[Observed], target: Target, follow: str) -> Target | None:
    """What new containers have to record as what ran before them; None when nothing did.

    That is what all replicas were made from before this roll. One that was cut off has begun already, and its
    newcomers know. What is already the target is not what ran before; then their own record stays.

    Who goes back records the very thing that it goes back to. So a rollback that was cut off and is run again
    goes on in the same direction, and one that is done stays done; the version it left is not come back to.
    """
    if follow == "previous":
        return target
    made = {known.identity: known for known in map(recorded, observed) if known}
    if len(made) == 1 and target.identity not in made:
        return next(iter(made.values()))
    return _newest_record(observed)


def _newest_record(observed: Sequence[Observed]) -> Target | None:
    for container in sorted(observed, key=lambda each: (-each.created, each.aside, -each.number)):
        target = recorded(container, spec.LABEL_PREVIOUS)
        if target:
            return target
    return None
