# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to result, with real files."""

from __future__ import annotations

import json
import threading
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._lock import LockFile, path_of
from ansible_collections.voicefleet.cosyvoice.plugins.modules import rollout_lock

Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the module on C(tmp_path), and returns what it prints after the checks that always hold."""
    warned: list[str] = []
    # Ansible shows a warning once in a process, and all tests are one process.
    monkeypatch.setattr(rollout_lock.AnsibleModule, "warn", lambda _module, text: warned.append(text))
    documented = yaml.safe_load(rollout_lock.RETURN)

    def call(**options: t.Any) -> dict[str, t.Any]:
        args = {"service": "cosyvoice", "data_dir": str(tmp_path / "fleet"), **options}
        with patch_module_args(args), pytest.raises(SystemExit):
            rollout_lock.main()
        result: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        assert not result.get("changed")
        if "lock" in result:
            assert set(documented) <= set(result)
            assert result["lock"] is None or set(result["lock"]) == set(documented["lock"]["contains"])
        return {**result, "warnings": [warned.pop() for _each in list(warned)]}

    return call


@pytest.fixture
def file(tmp_path: Path) -> LockFile:
    return LockFile(path_of(str(tmp_path / "fleet"), "cosyvoice"))


def test_taken_renewed_and_given_back(run: Run, file: LockFile) -> None:
    taken = run(owner="ada@control", purpose="upgrade")
    assert taken["warnings"] == []
    assert (taken["taken_over"], taken["released"], len(taken["token"])) == ("", False, 32)
    assert (taken["lock"]["owner"], taken["lock"]["purpose"]) == ("ada@control", "upgrade")
    renewed = run(token=taken["token"], expiry_seconds=600)
    assert renewed["token"] == taken["token"]
    assert renewed["lock"]["acquired_at"] == taken["lock"]["acquired_at"]
    assert renewed["lock"]["expires_at"] > taken["lock"]["expires_at"]
    given_back = run(state="absent", token=taken["token"])
    assert (given_back["token"], given_back["released"], given_back["lock"]) == ("", True, None)
    again = run(state="absent", token=taken["token"])
    assert (again["released"], again["warnings"]) == (False, [])
    assert file.read() is None


def test_a_silent_run_is_taken_over_with_a_warning(run: Run, file: LockFile) -> None:
    LockFile(file.path, 0.2).acquire("ada@control", "upgrade")
    result = run(owner="bob@laptop")
    assert result["taken_over"] == "ada@control"
    (warning,) = result["warnings"]
    assert "it was killed or cut off" in warning
    assert result["lock"]["owner"] == "bob@laptop"


def test_a_run_that_lives_is_left_alone_and_named(run: Run, file: LockFile) -> None:
    held, ended = LockFile(file.path, 3600).acquire("ada@control", "upgrade"), threading.Event()

    def live() -> None:
        while not ended.wait(0.05):
            LockFile(file.path, 3600).renew(held.token)

    thread = threading.Thread(target=live)
    thread.start()
    result = run(owner="bob@laptop")
    ended.set()
    thread.join()
    assert result["failed"]
    assert "is held by ada@control (upgrade), since" in result["msg"]
    assert "It is alive" in result["msg"]
    assert (result["token"], result["lock"]["owner"]) == ("", "ada@control")


def test_force_takes_and_removes_at_once_with_a_warning(run: Run, file: LockFile) -> None:
    held = LockFile(file.path, 3600).acquire("ada@control")
    result = run(owner="bob@laptop", force=True)
    assert result["taken_over"] == "ada@control"
    assert "taken by force" in result["warnings"][0]
    lost = run(token=held.token)
    assert "was taken over by bob@laptop" in lost["msg"]
    assert lost["failed"]
    removed = run(state="absent", force=True)
    assert (removed["released"], removed["lock"]) == (True, None)
    assert "of bob@laptop, since" in removed["warnings"][0]
    assert run(state="absent", force=True)["released"] is False


def test_the_lock_of_another_run_is_not_given_back(run: Run, file: LockFile) -> None:
    file.acquire("ada@control")
    result = run(state="absent", token="0" * 32)
    assert not result.get("failed")
    assert (result["released"], result["lock"]["owner"]) == (False, "ada@control")
    assert result["warnings"][0].startswith(
        f"It was not given back. The lock {file.path} was taken over by ada@control, since"
    )


def test_check_mode_takes_and_gives_back_nothing(run: Run, file: LockFile, tmp_path: Path) -> None:
    result = run(owner="bob", _ansible_check_mode=True)
    assert (result["token"], result["lock"], result["warnings"]) == ("", None, [])
    assert not (tmp_path / "fleet").exists()
    held = file.acquire("ada@control")
    result = run(owner="bob", _ansible_check_mode=True)
    assert (result["token"], result["lock"]["owner"]) == ("", "ada@control")
    assert "is held by ada@control" in result["warnings"][0]
    for args in ({"state": "absent", "force": True}, {"state": "absent", "token": held.token}):
        assert run(_ansible_check_mode=True, **args)["released"] is False
    assert file.read() == held.lock
    LockFile(file.path, 1, lambda: 1000.0).acquire("dead", force=True)
    assert run(owner="bob", _ansible_check_mode=True)["warnings"] == []


def test_a_damaged_lock_is_no_obstacle_and_is_said(run: Run, file: LockFile) -> None:
    Path(file.path).parent.mkdir(parents=True)
    Path(file.path).write_text("")
    result = run(owner="ada")
    assert "was empty, as a host leaves it that crashes" in result["warnings"][0]
    assert result["token"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "owner is empty. Say who takes the lock"),
        ({"state": "absent"}, "token is empty. Give the one"),
        ({"owner": "ada", "expiry_seconds": 0}, "expiry_seconds is 0.0; give more than 0"),
        (
            {"owner": "ada", "data_dir": "/dev/null"},
            "The lock /dev/null/cosyvoice/lock cannot be used: Not a dir",
        ),
    ],
)
def test_wrong_options_are_named_with_the_remedy(run: Run, options: dict[str, t.Any], words: str) -> None:
    result = run(**options)
    assert result["failed"]
    assert words in result["msg"]
