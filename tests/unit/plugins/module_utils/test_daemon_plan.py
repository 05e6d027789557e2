# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for daemon.json: whose it is, what is written, what a killed run leaves to the next."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _daemon_plan
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._daemon_plan import (
    ConfigWish,
    Json,
    plan_config,
)

NO_ENGINE: Json = {
    "installed": False, "running": False, "dockerd": None, "version": None, "systemd": True, "swarm": False,
}  # fmt: skip
ENGINE: Json = {**NO_ENGINE, "installed": True, "running": True}
DEFAULTS: Json = {"live-restore": True, "log-opts": {"max-file": "3"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "daemon.json"


def wish(path: Path, **other: object) -> ConfigWish:
    return ConfigWish(path=str(path), defaults=DEFAULTS, **other)  # type: ignore[arg-type]


def test_a_host_without_an_engine_gets_the_defaults(path: Path) -> None:
    plan = plan_config(wish(path), NO_ENGINE, {})
    assert plan["managed"]
    assert plan["write"]
    assert plan["wanted"] == DEFAULTS
    assert plan["original"] is None
    assert plan["problems"] == []


def test_a_misspelt_key_is_refused_before_there_is_an_engine(path: Path) -> None:
    plan = plan_config(wish(path, options={"registry-miror": []}), NO_ENGINE, {})
    assert "Did you mean registry-mirrors?" in plan["problems"][0]


def test_an_engine_that_was_there_before_is_left_alone(path: Path) -> None:
    plan = plan_config(wish(path), ENGINE, {})
    assert not plan["managed"]
    assert not plan["write"]
    assert "there before" in plan["reason"]
    assert plan["unmet"] == []


def test_options_are_not_ignored_in_silence(path: Path) -> None:
    path.write_text('{"debug": true}')
    options = {"debug": True, "mtu": 1400}
    assert plan_config(wish(path, options=options), ENGINE, {})["unmet"] == ["mtu"]
    assert plan_config(wish(path, options=options, manage="never"), ENGINE, {})["unmet"] == []


def test_what_the_owner_wrote_stays_between_defaults_and_options(path: Path) -> None:
    path.write_text('{"data-root": "/srv/docker", "live-restore": false}')
    plan = plan_config(wish(path, options={"log-opts": {"max-file": "9"}}, manage="always"), ENGINE, {})
    assert plan["wanted"] == {
        "data-root": "/srv/docker",
        "live-restore": False,
        "log-opts": {"max-file": "9"},
    }


def test_an_option_that_is_taken_back_goes(path: Path) -> None:
    record = {"engine": True, "original": None, "applied": {**DEFAULTS, "mtu": 1400}}
    path.write_text(json.dumps(record["applied"]))
    plan = plan_config(wish(path), ENGINE, record)
    assert plan["wanted"] == DEFAULTS
    assert (plan["write"], plan["action"], plan["changed_keys"]) == (True, "restart", ["mtu"])


def test_a_second_run_has_nothing_to_do(path: Path) -> None:
    path.write_text(json.dumps(DEFAULTS))
    plan = plan_config(wish(path), ENGINE, {"engine": True, "original": None, "applied": DEFAULTS})
    assert (plan["write"], plan["action"]) == (False, "none")


@pytest.mark.parametrize("record", [{"applied": {"mtu": 1400}}, {}])
def test_a_run_killed_between_writing_and_restarting_is_resumed(path: Path, record: Json) -> None:
    path.write_text(json.dumps(DEFAULTS))
    plan = plan_config(wish(path), ENGINE, {"engine": True, "original": None, **record})
    assert (plan["write"], plan["action"]) == (False, "restart")


def test_restoring_what_was_there(path: Path) -> None:
    path.write_text(json.dumps(DEFAULTS))
    record = {"engine": False, "original": {"debug": True}, "applied": DEFAULTS}
    plan = plan_config(wish(path, manage="always", restore=True), ENGINE, record)
    assert plan["wanted"] == {"debug": True}
    assert (plan["write"], plan["action"]) == (True, "restart")


def test_restoring_nothing_where_nothing_was_done(path: Path) -> None:
    path.write_text('{"debug": true}')
    plan = plan_config(wish(path, restore=True), ENGINE, {})
    assert (plan["managed"], plan["write"]) == (False, False)


@pytest.mark.parametrize(("text", "said"), [("{,", "cannot be read as JSON"), ("[1]", "holds a JSON list")])
def test_a_broken_file_is_named(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    (problem,) = plan_config(wish(path, manage="always"), ENGINE, {})["problems"]
    assert str(path) in problem
    assert said in problem
    assert "Mend it or move it away" in problem


def test_an_empty_file_is_an_empty_object(path: Path) -> None:
    path.write_text("\n")
    assert _daemon_plan.read_json(str(path)) == ({}, None)


@pytest.fixture
def dockerd(tmp_path: Path) -> Path:
    """A stand-in that answers as the real ones do: 20.10 has no --validate and stops at a wrong log level."""
    program = tmp_path / "dockerd"
    program.write_text(
        r"""#!/bin/sh
for word; do last=$word; case $word in *.json) file=$word;; --validate) validate=1;; esac; done
if grep -q nope "$file"; then
  echo "unable to configure the Docker daemon with file $file: directives don't match: nope" >&2; exit 1
fi
case $* in *--log-level*)
  if grep -q log-level "$file"; then echo "both as a flag and in the file" >&2; exit 1; fi;;
esac
if [ -n "$validate" ]; then echo "configuration OK"; exit 0; fi
echo "unable to parse logging level: $last" >&2; exit 1
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.parametrize("version", ["20.10.24+dfsg1", "23.0.1", "29.1.3"])
def test_dockerd_has_the_last_word(dockerd: Path, version: str) -> None:
    assert _daemon_plan.validate({"live-restore": True, "log-level": "debug"}, str(dockerd), version) == []
    (problem,) = _daemon_plan.validate({"nope": 1}, str(dockerd), version)
    assert problem == "dockerd says: unable to configure the Docker daemon: directives don't match: nope."


def test_what_other_roles_need_is_above_the_owners_file_and_below_the_options(path: Path) -> None:
    path.write_text(json.dumps({"features": {"cdi": False, "buildkit": True}}))
    additions = {"features": {"cdi": True}, "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}
    plan = plan_config(wish(path, manage="always", additions=additions), ENGINE, {})
    assert plan["wanted"] == {**DEFAULTS, **additions, "features": {"cdi": True, "buildkit": True}}
    options = {"features": {"cdi": False}}
    plan = plan_config(wish(path, manage="always", additions=additions, options=options), ENGINE, {})
    assert plan["wanted"]["features"]["cdi"] is False
    # Not a reason to refuse an engine whose file is left alone.
    assert plan_config(wish(path, additions=additions), ENGINE, {})["unmet"] == []
