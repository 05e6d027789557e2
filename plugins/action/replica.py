# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run module replica in the background of its host, and show what it does while it does it.

A step drains, stops, starts and watches for minutes, and a module can only speak when it is done. So it is
started as Ansible starts asynchronous tasks, and the lines that it writes to a file are read about once a
second. In the background, because then neither a broken connection nor the end of ansible-playbook can cut
the step off half way: it finishes on the host, and the next run finds what it did.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import typing as t
from dataclasses import dataclass, field

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

MODULE = "voicefleet.cosyvoice.replica"
# A step has limits of its own for all that it waits for; this one is for a step that hangs.
LIMIT_SECONDS = 6 * 3600
# The first looks come quickly, for steps that have nothing to do.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 1.0
# How often to see whether the module's process is still there, as one that was killed leaves no result.
ALIVE_CHECK_SECONDS = 10.0
# So long a host may not answer, as while its network restarts.
SILENCE_SECONDS = 300.0
BEGIN, END = "--voicefleet-progress--", "--voicefleet-result--"
GONE = "--voicefleet-gone--"
# What tells of the background, and not of the replica.
ASYNC_KEYS = ("ansible_job_id", "started", "finished", "results_file")
# Display writes to standard output, where these callbacks write something that programs read.
SILENT_CALLBACKS = ("json", "jsonl", "null")

display = Display()


@dataclass
class Job:
    """The module in the background of the host. C(shown) counts the complete lines that were read."""

    id: str
    results_file: str
    progress_file: str
    tmpdir: str
    shown: int = 0
    heard_at: float = field(default_factory=time.monotonic)
    checked_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Seen:
    """What one look at the host brought: new lines, the text of the result, whether the process is gone."""

    lines: list[str]
    result: str
    gone: bool

    @property
    def finished(self) -> bool:
        """While the module runs, the text is the wrapper's, with a key that no result of the module has."""
        try:
            result = json.loads(self.result)
        except ValueError:
            return False
        return isinstance(result, dict) and "started" not in result


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Runs on the controller, in front of the module of the same name."""

    _supports_async = True
    # Other modules that take minutes are run the same way.
    module_name = MODULE
    what_remains = "What it did stands in the containers."

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        if self._task.async_val:  # The task says so itself, and looks after it itself.
            return self._module(arguments, task_vars, wrap_async=not self._connection.has_native_async)
        # Connections that pipeline every module are those to Windows, whose background is another.
        if (
            self._task.check_mode
            or "progress_file" in arguments
            or getattr(self._connection, "always_pipeline_modules", False)
        ):
            return self._module(arguments, task_vars)
        progress_file = self._make_progress_file()
        if not progress_file:
            return self._module(arguments, task_vars)
        tmpdir = self._connection._shell.tmpdir
        started = self._start({**arguments, "progress_file": progress_file}, task_vars)
        if "ansible_job_id" not in started:
            self._remove_directory(tmpdir)
            # The background has no directory, as with a home that is read-only. Nothing has been done yet.
            if "could not create directory" in str(started.get("msg")):
                return self._module(arguments, task_vars)
            return started
        job = Job(
            id=started["ansible_job_id"],
            results_file=started["results_file"],
            progress_file=progress_file,
            tmpdir=tmpdir,
        )
        label = self._label(arguments, task_vars)
        result = self._follow(job, label, task_vars)
        self._clean_up(job)
        if result is None:
            return self._module(arguments, task_vars)
        # Lines that came after the last look: their file is gone by then.
        for line in result.pop("progress", [])[job.shown :]:
            self._show(label, line)
        return result

    def _module(
        self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any], wrap_async: bool = False
    ) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(
            self.module_name, arguments, task_vars=task_vars, wrap_async=wrap_async
        )
        return result

    def _start(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        # Ansible takes the limit from the task, and after this action would wait for a task that has one.
        self._task.async_val = LIMIT_SECONDS
        try:
            return self._module(arguments, task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0

    def _make_progress_file(self) -> str:
        """A file in the temporary directory of this task, which the background removes when it ends.

        The directory is of the connection's user alone. The module may run as another, so the file is for
        all that get as far as it. Empty if the host has no place: then the module's own failure says why.
        """
        shell = self._connection._shell
        try:
            if shell.tmpdir is None:
                self._make_tmp_path()
            path: str = shell.join_path(shell.tmpdir, "progress")
            quoted = shell.quote(path)
            made = self._low_level_execute_command(f": > {quoted} && chmod 666 {quoted}", sudoable=False)
        except AnsibleError:
            return ""
        return path if made["rc"] == 0 else ""

    def _follow(self, job: Job, label: str, task_vars: dict[str, t.Any]) -> dict[str, t.Any] | None:
        """Show what the module says until it has its result. None if it never began."""
        parent, pause, lost = os.getppid(), FIRST_PAUSE_SECONDS, False
        while True:
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
            if os.getppid() != parent:
                raise AnsibleError("ansible-playbook is gone. The step goes on without it, on the host.")
            try:
                seen = self._look(job)
                for line in seen.lines:
                    self._show(label, line)
                if seen.finished or seen.gone:
                    return self._result(job, seen, task_vars)
                job.heard_at, lost = time.monotonic(), False
            except Exception as error:
                # Connection plugins raise what they like; Ansible's own wait for a task catches as much.
                if time.monotonic() - job.heard_at > SILENCE_SECONDS:
                    raise AnsibleConnectionFailure(
                        f"{label}: the host has not answered for {SILENCE_SECONDS:.0f} s. The step goes on "
                        f"there. When the host is back, run the same again. Last error: {error}"
                    ) from error
                if not lost:
                    self._show(label, "the host does not answer; the step goes on there")
                lost = True
                self._reconnect()

    def _look(self, job: Job) -> Seen:
        """One command, for all there is to know. Lines are counted, as their bytes may not be readable."""
        quote = self._connection._shell.quote
        questions = [
            f"echo {BEGIN}",
            f"tail -n +{job.shown + 1} {quote(job.progress_file)} 2>/dev/null",
            f"echo {END}",
            f"cat {quote(job.results_file)} 2>/dev/null",
        ]
        if time.monotonic() - job.checked_at > ALIVE_CHECK_SECONDS:
            job.checked_at = time.monotonic()
            # Before the result is read: what is not there after the process has gone will never be. The
            # wrapper's processes have the job's name as an argument, and the brackets keep grep's from it.
            name = job.id.partition(".")[0]
            questions.insert(
                0,
                f"if [ -r /proc/self/cmdline ]; then cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\000' '\\n' "
                f"| grep -qx '[{name[0]}]{name[1:]}'; [ $? -ne 1 ] || echo {GONE}; fi",
            )
        answer = self._low_level_execute_command("; ".join(questions))
        before, begun, rest = answer["stdout"].partition(BEGIN)
        progress, ended, result = rest.partition(END)
        if not (begun and ended):
            raise AnsibleConnectionFailure(f"no answer: {answer['stderr'].strip() or answer['rc']}")
        # The last line may be half written; it is read again.
        *lines, _half = progress.lstrip("\r\n").split("\n")
        job.shown += len(lines)
        return Seen([line.rstrip("\r") for line in lines], result.strip(), GONE in before)

    def _result(self, job: Job, seen: Seen, task_vars: dict[str, t.Any]) -> dict[str, t.Any] | None:
        """The module's own, read by Ansible's module for it, which knows how results are written."""
        if not seen.result and not job.shown:
            return None
        arguments = {
            "jid": job.id,
            "mode": "status",
            "_async_dir": self._connection._shell.join_path(os.path.dirname(job.results_file)),
        }
        result: dict[str, t.Any] = self._execute_module(
            "ansible.legacy.async_status", arguments, task_vars=task_vars
        )
        if not result.get("finished"):
            return {
                "failed": True,
                "msg": "The module was ended from outside and left no result: it was killed, or the host "
                f"restarted. {self.what_remains} Run the same again.",
            }
        if result.get("failed") and "data" in result and "cmd" in result:
            # So the background tells of a module whose answer is none.
            said = f"{result['data']}\n{result.get('stderr', '')}".split("\n")
            last = next((line for line in reversed(said) if line.strip()), "nothing")
            result["msg"] = f"The module ended without an answer. The last it said: {last}"
        for key in ASYNC_KEYS:
            result.pop(key, None)
        return result

    def _reconnect(self) -> None:
        with contextlib.suppress(Exception):  # Not every connection can, and the next look tells.
            self._connection.reset()

    def _clean_up(self, job: Job) -> None:
        quoted = self._connection._shell.quote(job.results_file)
        with contextlib.suppress(AnsibleError):  # The result is here; what is left over does no harm.
            self._low_level_execute_command(f"rm -f {quoted}")
            if self._is_become_unprivileged():
                # The background runs as a user who may not remove a directory of the connection's.
                self._remove_directory(job.tmpdir)

    def _remove_directory(self, tmpdir: str) -> None:
        if not constants.DEFAULT_KEEP_REMOTE_FILES:
            remove = self._connection._shell.remove(tmpdir, recurse=True)
            self._low_level_execute_command(remove, sudoable=False)

    def _label(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any]) -> str:
        """What the lines are about, and its host if there are several in this play."""
        label = self._subject(arguments)
        if len(task_vars.get("ansible_play_hosts_all") or []) > 1:
            label = f"[{task_vars.get('inventory_hostname')}] {label}"
        return label

    def _subject(self, arguments: dict[str, t.Any]) -> str:
        label = f"{arguments.get('service')}-{arguments.get('number')}"
        slot = arguments.get("slot")
        if isinstance(slot, t.Mapping):
            # The first block of a UUID, as nvidia-smi -L prints it: GPU-5a0e12f3.
            label += f" on {(slot.get('gpu') or 'cpu')[:12]}/{slot.get('index')}"
        return label

    def _show(self, label: str, line: str) -> None:
        callback = str(constants.DEFAULT_STDOUT_CALLBACK).rpartition(".")[2]
        if self._task.no_log or callback in SILENT_CALLBACKS:
            return
        # A line may hold the last words of a container, and those anything.
        display.display(f"{label}: {''.join(c if c.isprintable() else '?' for c in line)}")
