# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new container has to remember beside its own configuration: the way back.

This module util is private to the collection. There is no state file: what a rollback goes back to stands in
a label of the container that took its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed


def notes(
    observed: Sequence[Observed], number: int, specification: dict[str, Any], image_id: str
) -> dict[str, str]:
    """Labels for a new container of replica C(number), which do not count in its identity.

    Its predecessor's origin is what ran before; where nothing of that changed (another slot, a repair), what
    ran before its predecessor still is. A replica without a predecessor asks the newest of its neighbours.
    """
    own = spec.origin(specification, image_id)
    # The one set aside did serve; who came after it perhaps never did.
    predecessors = sorted(
        (each for each in observed if each.number == number), key=lambda each: not each.aside
    )
    neighbours = sorted((each for each in observed if each.number != number), key=lambda each: -each.created)
    for before in [*predecessors, *neighbours]:
        origin = before.labels.get(spec.LABEL_SPECIFICATION, "")
        previous = origin if origin != own else before.labels.get(spec.LABEL_PREVIOUS, "")
        if previous:
            return {spec.LABEL_SPECIFICATION: own, spec.LABEL_PREVIOUS: previous}
    return {spec.LABEL_SPECIFICATION: own}
