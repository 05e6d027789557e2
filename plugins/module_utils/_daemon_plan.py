# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for dockerd's daemon.json: what to write, and how a running dockerd gets to follow it.

This module util is private to the collection. It reads the file and asks dockerd to check a draft of it; it
changes nothing.
"""

from __future__ import annotations

import json
import tempfile
import typing as t
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _daemon_config
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import version_tuple
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine_info import run

# `dockerd --validate` came with 23.0.
FIRST_WITH_VALIDATE = (23,)
Json = dict[str, t.Any]


@dataclass(frozen=True)
class ConfigWish:
    """What daemon.json is asked to hold. `manage` is auto, always or never."""

    path: str
    manage: str = "auto"
    defaults: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    # What other roles need in it: below the options, above everything else.
    additions: Json = field(default_factory=dict)
    # Plan the way back: the file as it was before the first run.
    restore: bool = False


def read_json(path: str) -> tuple[Json | None, str | None]:
    """The JSON object in the file `path` and what is wrong with it; (None, None) without a file."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError) as error:
        return None, f"{path} cannot be read as JSON: {error}. Mend it or move it away."
    if not isinstance(found, dict):
        return (
            None,
            f"{path} holds a JSON {type(found).__name__} and should hold an object. Mend it or move it away.",
        )
    return found, None


def plan_config(wish: ConfigWish, found_engine: Json, record: Json) -> Json:
    """What to do about daemon.json: what it should hold, whether to write it, what dockerd needs then.

    `record` is what earlier runs left: `engine` (we installed it), `original` (the file before our first
    write, null for none), `applied` (what dockerd was last started or reloaded with). A run that was killed
    between writing and restarting is told by `applied`, not by the file.
    """
    ours = bool(record.get("engine"))
    there = found_engine["installed"] or found_engine["running"]
    managed = wish.manage == "always" or (wish.manage == "auto" and (ours or not there))
    if wish.restore:
        managed = "applied" in record or "original" in record
    found, error = read_json(wish.path)
    plan: Json = {
        "path": wish.path,
        "options": wish.options,
        "additions": wish.additions,
        "managed": managed,
        "reason": _reason(wish.manage, ours, there),
        "found": found,
        "original": record.get("original", found),
        "wanted": None,
        "write": False,
        "action": "none",
        "changed_keys": [],
        "unmet": [],
        "problems": [],
    }
    if not managed:
        plan["unmet"] = [] if wish.manage == "never" else _daemon_config.unmet(wish.options, found or {})
        return plan
    if error and not wish.restore:
        plan["problems"] = [error]
        return plan
    # What the owner of the host had written stays, unless the inventory says otherwise.
    wanted = (
        plan["original"]
        if wish.restore
        else _daemon_config.merge(wish.defaults, plan["original"] or {}, wish.additions, wish.options)
    )
    plan["wanted"] = wanted
    plan["write"] = found != wanted
    running_with = record.get("applied", plan["original"])
    plan["action"], plan["changed_keys"] = _daemon_config.action(running_with or {}, wanted or {})
    if plan["write"] and wanted:
        plan["problems"] = [
            *_daemon_config.check_surroundings(wanted, found_engine["systemd"], found_engine["swarm"]),
            *_check(wanted, found_engine["dockerd"], found_engine["version"]),
        ]
    return plan


def _reason(manage: str, ours: bool, there: bool) -> str:
    if manage != "auto":
        return f"docker_engine_manage_config is {manage}"
    if ours:
        return "this role installed the engine"
    if there:
        return "the engine was there before this role, and docker_engine_manage_config is auto"
    return "this role installs the engine"


def _check(wanted: Json, dockerd: str | None, version: str | None) -> list[str]:
    by_name = _daemon_config.check_keys(wanted)
    if not dockerd:
        return by_name
    said = validate(wanted, dockerd, version)
    # The last word is dockerd's; it does not say which key was meant.
    return [*said, *(line for line in by_name if "Did you mean" in line)] if said else []


def validate(config: Json, dockerd: str, version: str | None) -> list[str]:
    """What the host's own dockerd finds wrong with `config`.

    From 23.0 on it has --validate. Before, it is started with a log level that does not exist: it reads and
    checks its file first, then stops at the level, before it opens or makes anything (dockerd 20.10, the only
    such series this collection works with).
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        if version and version_tuple(version) >= FIRST_WITH_VALIDATE:
            answer = run(dockerd, "--validate", "--config-file", file.name)
            return [] if answer.returncode == 0 else [_last_line(answer.stderr, file.name)]
        without_level = {key: value for key, value in config.items() if key != "log-level"}
        file.seek(0)
        file.truncate()
        json.dump(without_level, file)
        file.flush()
        said = _last_line(
            run(dockerd, "--config-file", file.name, "--log-level", "stop-here").stderr, file.name
        )
        return [] if "stop-here" in said else [said]


def _last_line(text: str, file: str) -> str:
    lines = text.strip().splitlines() or ["nothing"]
    return f"dockerd says: {lines[-1].replace(f' with file {file}', '').replace(file, 'daemon.json')}."
