# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every role of the collection."""

from __future__ import annotations

import functools
import re
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/meta/main.yml"))
# Keywords of a task or block that say what kind of entry it is.
TASK_LISTS = ("block", "rescue", "always")

Tasks = list[dict[str, t.Any]]
each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


@functools.cache
def load(path: Path) -> t.Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def defaults(role: Path) -> dict[str, t.Any]:
    return load(role / "defaults/main.yml") or {}


def entry_points(role: Path) -> dict[str, dict[str, t.Any]]:
    return t.cast(dict[str, dict[str, t.Any]], load(role / "meta/argument_specs.yml")["argument_specs"])


def options(role: Path) -> dict[str, dict[str, t.Any]]:
    return entry_points(role)["main"].get("options") or {}


def task_files(role: Path) -> list[Path]:
    return sorted((role / "tasks").rglob("*.yml")) + sorted((role / "handlers").rglob("*.yml"))


def flatten(tasks: Tasks) -> t.Iterator[dict[str, t.Any]]:
    for task in tasks:
        yield task
        for kind in TASK_LISTS:
            yield from flatten(task.get(kind) or [])


def all_tasks(role: Path) -> t.Iterator[tuple[Path, dict[str, t.Any]]]:
    for path in task_files(role):
        for task in flatten(load(path) or []):
            yield path, task


def is_templated(value: t.Any) -> bool:
    return isinstance(value, str) and "{{" in value


def undescribed(specs: dict[str, dict[str, t.Any]], place: str = "") -> t.Iterator[str]:
    """Options, at any depth, without a description or a type."""
    for name, spec in specs.items():
        if not spec.get("description") or not spec.get("type"):
            yield f"{place}{name}"
        yield from undescribed(spec.get("options") or {}, f"{place}{name}.")


def test_there_are_roles() -> None:
    assert {role.name for role in ROLES} >= {"preflight", "verify"}
    assert {path.name for path in ROOT.glob("roles/*") if path.is_dir()} == {role.name for role in ROLES}


@each_role
def test_every_default_is_specified_and_every_option_has_its_default(role: Path) -> None:
    required = {name for name, spec in options(role).items() if spec.get("required")}
    assert set(options(role)) - required == set(defaults(role)) - required


@each_role
def test_the_specified_defaults_are_the_defaults(role: Path) -> None:
    differing = {}
    for name, value in defaults(role).items():
        spec = options(role).get(name, {})
        if is_templated(value) and "default" not in spec:
            continue  # worked out from other variables: the specification tells how in words
        if value is None and "default" not in spec:
            continue
        if spec.get("required"):
            continue  # an empty value that stands for none
        if spec.get("default") != value or type(spec.get("default")) is not type(value):
            differing[name] = (value, spec.get("default", "not given"))
    assert differing == {}


@each_role
def test_every_entry_point_and_option_is_described(role: Path) -> None:
    for name, entry in entry_points(role).items():
        assert entry.get("short_description"), name
        assert entry.get("description"), name
        assert list(undescribed(entry.get("options") or {})) == []


@each_role
def test_every_public_variable_begins_with_the_roles_name(role: Path) -> None:
    names = {
        *defaults(role),
        *(option for entry in entry_points(role).values() for option in entry.get("options") or {}),
    }
    assert [name for name in names if not name.startswith(f"{role.name}_")] == []


@each_role
def test_every_default_stands_below_a_comment(role: Path) -> None:
    text = (role / "defaults/main.yml").read_text(encoding="utf-8")
    comments = [line for line in text.splitlines() if "#" in line and "SPDX" not in line]
    assert comments or not defaults(role)


@each_role
def test_internal_variables_begin_with_two_underscores_and_the_roles_name(role: Path) -> None:
    facts = load(ROOT / "roles/preflight/vars/main.yml")["__preflight_facts"]
    strange = set()
    for path in sorted((role / "vars").glob("*.yml")):
        strange |= {name for name in load(path) or {} if not name.startswith(f"__{role.name}_")}
    for _path, task in all_tasks(role):
        named = [task["register"]] if "register" in task else []
        named += [*(task.get("ansible.builtin.set_fact") or {})]
        strange |= {
            name
            for name in named
            if name not in facts and name != "cacheable" and not name.startswith(f"__{role.name}_")
        }
    assert strange == set(), "a fact for others belongs in __preflight_facts of role preflight"


@each_role
def test_preflight_can_be_run_alone(role: Path) -> None:
    preflight = role / "tasks/preflight.yml"
    assert preflight.is_file()
    # What preflight is made of will do: a role that hands over to another lets that one check its own part.
    parts = re.findall(r"[a-z_]+\.yml", preflight.read_text("utf-8"))
    imported = str(load(role / "tasks/main.yml"))
    assert any(part in imported for part in ["preflight.yml", *parts])


@each_role
def test_names_of_tasks_begin_with_the_name_of_their_file(role: Path) -> None:
    unnamed, strange = [], []
    for path, task in all_tasks(role):
        if "name" not in task:
            unnamed.append(f"{path.name}: {task}")
        elif path.name == "main.yml":
            strange += [task["name"]] * (not re.match("[A-Z]", task["name"]))
        elif not re.match(f"{path.stem.split('_')[0]}[a-z_]* \\| [A-Z{{]", task["name"]):
            strange.append(f"{path.name}: {task['name']}")
    assert (unnamed, strange) == ([], [])


@each_role
def test_no_failure_is_swallowed(role: Path) -> None:
    swallowed = [
        f"{path.name}: {task['name']}"
        for path, task in all_tasks(role)
        if task.get("ignore_errors") or task.get("failed_when") is False or task.get("ignore_unreachable")
    ]
    assert swallowed == []


@each_role
def test_facts_are_read_as_facts(role: Path) -> None:
    """Injected facts are off, so `ansible_distribution` would be undefined."""
    injected = re.compile(
        r"\bansible_(distribution\w*|os_family|architecture|hostname|fqdn|service_mgr|pkg_mgr|user_id|user_uid"
        r"|default_ipv4|kernel|memtotal_mb|processor_\w+|python|system|virtualization_\w+|date_time|env)\b"
    )
    found = [
        f"{path.relative_to(role)}: {match.group(0)}"
        for path in sorted(role.rglob("*"))
        if path.suffix in (".yml", ".j2")
        for match in injected.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@each_role
def test_meta_tells_what_galaxy_wants(role: Path) -> None:
    info = load(role / "meta/main.yml")["galaxy_info"]
    assert info["license"] == "GPL-3.0-or-later"
    assert info["min_ansible_version"] == "2.19"
    assert info["author"]
    assert info["description"]
    assert info["platforms"]
