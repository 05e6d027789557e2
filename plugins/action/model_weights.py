# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run module model_weights in the background of its host, and show how far it is.

Five gigabytes take minutes to hours: as long as module replica, and it is run the same way.
"""

from __future__ import annotations

import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.action import replica


class ActionModule(replica.ActionModule):
    """Runs on the controller, in front of the module of the same name."""

    module_name = "voicefleet.cosyvoice.model_weights"
    what_remains = "What it brought is kept."

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        if self._task.args.get("state", "present") == "present":
            return super().run(tmp, task_vars)
        return self._module(dict(self._task.args), task_vars or {})

    def _subject(self, arguments: dict[str, t.Any]) -> str:
        return f"{arguments.get('name')} {arguments.get('revision')}"
