# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that shows what module replica does. The shell is real, the module a stand-in."""

from __future__ import annotations

import json
import subprocess
import typing as t
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.shell.sh import ShellModule
from ansible_collections.voicefleet.cosyvoice.plugins.action import replica

CARD = "GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11"
JOB = "j123456789.42"
RUNNING = {"started": True, "finished": False, "ansible_job_id": JOB}
RESULT = {"changed": True, "action": "replace", "step": {"name": "tts-1", "soak": {"started": 1}}}


class Host:
    """A host, its shell real. C(script) is what happens between looks: lines, results, failures, calls."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.job = home / JOB
        self.progress = home / "tmp" / "progress"
        self.script: list[t.Any] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.plain: list[dict[str, t.Any]] = []
        self.looks = 0

    def next(self) -> None:
        """What happens on the host until the next look."""
        self.looks += 1
        if not self.script:
            return
        event = self.script.pop(0)
        for each in event if isinstance(event, list) else [event]:
            if isinstance(each, Exception):
                raise each
            if callable(each):
                each()
            elif isinstance(each, str):
                with self.progress.open("a") as file:
                    file.write(each)
            else:
                self.job.write_text(json.dumps(each))

    def begin(self) -> None:
        """The background: the state of the job, and a process that has the job's name as an argument."""
        self.job.write_text(json.dumps(RUNNING))
        sleeper = ["sh", "-c", "sleep 60; :", "async_wrapper", JOB.partition(".")[0]]
        self.process = subprocess.Popen(sleeper)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Action(replica.ActionModule):
    """The action in front of such a host."""

    def __init__(self, host: Host, **task: t.Any) -> None:
        arguments = {"service": "tts", "number": 1, "slot": {"gpu": CARD, "index": 0}}
        self.host = host
        self._supports_check_mode = True
        self._task = SimpleNamespace(
            **{
                "args": arguments,
                "async_val": 0,
                "check_mode": False,
                "no_log": False,
                "diff": False,
                "action": "replica",
                **task,
            }
        )
        self._connection = SimpleNamespace(
            _shell=ShellModule(), has_native_async=False, always_pipeline_modules=False, reset=lambda: None
        )
        self._connection._shell.tmpdir = None

    def _make_tmp_path(self, remote_user: str | None = None) -> str:
        self.host.progress.parent.mkdir()
        self._connection._shell.tmpdir = str(self.host.progress.parent)
        return str(self.host.progress.parent)

    def _is_become_unprivileged(self) -> bool:
        return False

    def _low_level_execute_command(self, cmd: str, sudoable: bool = True, **other: t.Any) -> dict[str, t.Any]:
        if replica.BEGIN in cmd:
            self.host.next()
        done = subprocess.run(["sh", "-c", cmd], capture_output=True, text=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def _execute_module(
        self, module_name: str, module_args: dict[str, t.Any], wrap_async: bool = False, **other: t.Any
    ) -> dict[str, t.Any]:
        if module_name == "ansible.legacy.async_status":
            found = json.loads((Path(module_args["_async_dir"]) / module_args["jid"]).read_text())
            return found if "started" in found else {**found, "finished": True, "ansible_job_id": JOB}
        assert module_name == replica.MODULE
        if not wrap_async:
            self.host.plain.append(module_args)
            return RESULT
        assert self._task.async_val == replica.LIMIT_SECONDS
        assert module_args["progress_file"] == str(self.host.progress)
        self.host.begin()
        return {"changed": True, **RUNNING, "results_file": str(self.host.job)}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Host]:
    monkeypatch.setattr(replica, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(replica, "LONGEST_PAUSE_SECONDS", 0.01)
    made = Host(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(replica.display, "display", lines.append)
    return lines


def test_lines_are_shown_once_and_whole_and_the_result_is_the_modules_own(
    host: Host, shown: list[str]
) -> None:
    host.script = [
        "  0.1 s  drain: 2 requ",
        "ests in hand\n  1.0 s  stop\n",
        "",
        "  2.0 s  serving\n",
        RESULT,
    ]
    action = Action(host)
    assert action.run(task_vars={}) == RESULT
    assert shown == [
        "tts-1 on GPU-5a0e8f21/0:   0.1 s  drain: 2 requests in hand",
        "tts-1 on GPU-5a0e8f21/0:   1.0 s  stop",
        "tts-1 on GPU-5a0e8f21/0:   2.0 s  serving",
    ]
    assert (action._task.async_val, host.plain, host.job.exists()) == (0, [], False)


def test_lines_that_come_with_the_result_are_shown_too(host: Host, shown: list[str]) -> None:
    host.script = [["  0.1 s  first\n  0.2 s  last\n", RESULT]]
    assert Action(host).run(task_vars={}) == RESULT
    assert [line.rpartition(" ")[2] for line in shown] == ["first", "last"]


def test_lines_whose_file_is_gone_come_with_the_result(host: Host, shown: list[str]) -> None:
    told = ["  0.1 s  first", "  0.2 s  second", "  0.3 s  last"]
    host.script = [f"{told[0]}\n", [host.progress.unlink, {**RESULT, "progress": told}]]
    assert Action(host).run(task_vars={}) == RESULT
    assert [line.rpartition(" ")[2] for line in shown] == ["first", "second", "last"]


@pytest.mark.parametrize(
    ("slot", "hosts", "label"),
    [
        ({"gpu": None, "index": 1}, ["a"], "tts-1 on cpu/1"),
        (None, ["a"], "tts-1"),
        ({"gpu": CARD, "index": 0}, ["a", "b"], "[a] tts-1 on GPU-5a0e8f21/0"),
    ],
)
def test_a_line_says_whose_it_is(
    host: Host, shown: list[str], slot: t.Any, hosts: list[str], label: str
) -> None:
    host.script = ["now\x1b[2J\n", RESULT]
    Action(host, args={"service": "tts", "number": 1, "slot": slot}).run(
        task_vars={"ansible_play_hosts_all": hosts, "inventory_hostname": "a"}
    )
    assert shown == [f"{label}: now?[2J"]


@pytest.mark.parametrize(
    "task", [{"check_mode": True}, {"args": {"service": "tts", "number": 1, "progress_file": "/dev/null"}}]
)
def test_where_there_is_nothing_to_show_the_module_runs_plainly(
    host: Host, shown: list[str], task: dict[str, t.Any]
) -> None:
    assert Action(host, **task).run(task_vars={}) == RESULT
    assert (len(host.plain), host.looks, shown) == (1, 0, [])
    assert not host.progress.exists()


def test_a_task_that_is_not_to_be_logged_shows_nothing(host: Host, shown: list[str]) -> None:
    host.script = ["a line\n", RESULT]
    assert Action(host, no_log=True).run(task_vars={}) == RESULT
    assert shown == []


def test_a_connection_that_drops_is_waited_for(host: Host, shown: list[str]) -> None:
    gone = AnsibleConnectionFailure("gone")
    host.script = ["one\n", gone, gone, "two\n", RESULT]
    assert Action(host).run(task_vars={}) == RESULT
    assert [line.partition(": ")[2] for line in shown] == [
        "one",
        "the host does not answer; the step goes on there",
        "two",
    ]


def test_a_host_that_stays_away_is_unreachable(
    host: Host, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "SILENCE_SECONDS", 0.1)
    host.script = [AnsibleConnectionFailure("no route") for _ in range(1000)]
    with pytest.raises(AnsibleConnectionFailure, match=r"The step goes on there.*no route"):
        Action(host).run(task_vars={})


def test_a_module_that_was_killed_is_noticed(
    host: Host, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "ALIVE_CHECK_SECONDS", 0.0)
    host.script = ["one\n", "", ""]
    real = host.next

    def next_and_kill() -> None:
        if host.looks == 3:
            host.kill()
        real()

    monkeypatch.setattr(host, "next", next_and_kill)
    result = Action(host).run(task_vars={})
    assert host.looks == 4, "the live process was taken for a dead one, or the dead one for a live one"
    assert result["failed"]
    assert "killed, or the host restarted" in result["msg"]


def test_a_background_that_never_began_is_done_without(
    host: Host, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "ALIVE_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(host, "begin", lambda: None)
    assert Action(host).run(task_vars={}) == RESULT
    assert len(host.plain) == 1


def test_a_module_without_an_answer_is_told_by_its_last_words(host: Host, shown: list[str]) -> None:
    host.script = [
        {"failed": True, "cmd": "x", "data": "", "stderr": "Traceback\nKilled\n", "msg": "Traceback"}
    ]
    assert (
        Action(host).run(task_vars={})["msg"]
        == "The module ended without an answer. The last it said: Killed"
    )


def test_a_failure_is_passed_on_as_it_is(host: Host, shown: list[str]) -> None:
    failure = {"failed": True, "changed": True, "action": "restore", "msg": "never healthy", "step": {}}
    host.script = [failure]
    assert Action(host).run(task_vars={}) == failure


def test_a_run_that_was_killed_is_not_followed_any_more(
    host: Host, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = iter([10, 10, 1])
    monkeypatch.setattr("os.getppid", lambda: next(parents))
    with pytest.raises(AnsibleError, match="ansible-playbook is gone"):
        Action(host).run(task_vars={})
    assert host.job.exists(), "the module is still at work"
