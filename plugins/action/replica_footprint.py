# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run module replica_footprint in the background of its host, and show what it measures while it does.

It takes minutes, like module replica, and is run the same way. So it takes its container away also when
ansible-playbook is gone.
"""

from __future__ import annotations

import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.action import replica


class ActionModule(replica.ActionModule):
    """Runs on the controller, in front of the module of the same name."""

    module_name = "voicefleet.cosyvoice.replica_footprint"
    what_remains = "Its container is removed by the next run."

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        if self._task.args.get("state", "measured") == "measured":
            return super().run(tmp, task_vars)
        return self._module(dict(self._task.args), task_vars or {})

    def _subject(self, arguments: dict[str, t.Any]) -> str:
        return f"{arguments.get('service')}-calibration"
