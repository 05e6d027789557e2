# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give module voice_set what only the controller has: the recordings.

Wrong input is refused here, before any host is touched. Only voices that a host does not have travel.
"""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._recording import examine, load_words
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._transcript import check_words
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._voices import (
    TEXT,
    WAV,
    Voices,
    VoicesError,
    read_source,
)

MODULE = "voicefleet.cosyvoice.voice_set"
ON_THE_CONTROLLER = ("source", "voices", "incoming")


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Runs on the controller, in front of the module of the same name."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        arguments = {key: value for key, value in self._task.args.items() if key not in ON_THE_CONTROLLER}
        source, state = self._task.args.get("source"), arguments.get("state", "present")
        if state == "absent":
            return self._module(arguments, task_vars)
        voices = self._task.args.get("voices")
        if voices and (state == "planned" or self._task.check_mode):
            return self._module({**arguments, "voices": voices}, task_vars)
        if not source and state == "planned":
            return self._module(arguments, task_vars)
        if not source:
            raise AnsibleActionFail("source is missing. Name the directory of the voices on the controller.")
        try:
            place = self._find_needle("files", str(source))
            voices = read_source(place)
        except VoicesError as error:
            raise AnsibleActionFail(str(error)) from None
        except (AnsibleError, NotADirectoryError):
            raise AnsibleActionFail(
                f"There is no directory {source} on the controller. Each voice is a directory in it."
            ) from None
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename} cannot be read: {error.strerror}.") from None
        arguments["voices"] = voices
        planned = self._module({**arguments, "state": "planned"}, task_vars)
        if planned.get("failed"):
            return planned
        try:
            for name in planned["bring"]:
                check_voice(os.path.join(place, name))
        except VoicesError as error:
            raise AnsibleActionFail(str(error)) from None
        if state == "planned":
            return planned
        if not self._task.check_mode:
            arguments["incoming"] = self._send(place, {name: voices[name] for name in planned["bring"]})
        return self._module(arguments, task_vars)

    def _module(self, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(MODULE, arguments, task_vars=task_vars)
        return result

    def _send(self, place: str, voices: Voices) -> dict[str, dict[str, str]]:
        """Where each file of each voice lies on the host now, in a directory that goes with this task."""
        shell = self._connection._shell
        if voices and shell.tmpdir is None:
            self._make_tmp_path()
        sent: dict[str, dict[str, str]] = {}
        for name, voice in voices.items():
            sent[name] = {file: shell.join_path(shell.tmpdir, f"{name}.{file}") for file in voice}
            for file, remote in sent[name].items():
                self._transfer_file(os.path.join(place, name, file), remote)
            self._fixup_perms2((shell.tmpdir, *sent[name].values()))
        return sent


def check_voice(path: str) -> None:
    """Raise VoicesError if replicas would leave this voice out: those that speak with it would lose it."""
    wav = os.path.join(path, WAV)
    with open(wav, "rb") as file:
        recording = examine(wav, file.read())
    words = load_words(os.path.join(path, TEXT))
    check_words(wav, words, recording.seconds, recording.sound_seconds)
