# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for the collection as a whole."""

from __future__ import annotations

import ast
import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path for path in ROOT.glob("plugins/*/*.py") if path.name != "__init__.py")
MODULES = [path for path in PLUGINS if path.parent.name == "modules"]
WITH_DOCUMENTATION = [path for path in PLUGINS if path.parent.name in ("modules", "filter", "lookup", "test")]
LICENSED = {".css", ".html", ".js", ".py", ".sh", ".svg", ".toml", ".yaml", ".yml"}
COPYRIGHT = "SPDX-FileCopyrightText: Voicefleet contributors"
LICENSE = "SPDX-License-Identifier: GPL-3.0-or-later"
GPL_LINE = "# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)"


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    """The files of the project: what git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for each in listed.stdout.split("\0") if each and (path := ROOT / each).is_file()]


def load(path: str) -> dict[str, t.Any]:
    return t.cast(dict[str, t.Any], yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def strings(path: Path) -> dict[str, str]:
    """The module-level names of a file that hold a plain string, such as DOCUMENTATION."""
    found = {}
    for node in ast.parse(text_of(path)).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            found.update(
                {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
            )
    return found


def test_the_action_group_lists_exactly_the_modules_there_are() -> None:
    assert load("meta/runtime.yml")["action_groups"]["cosyvoice"] == [path.stem for path in MODULES]


def test_galaxy_metadata_fits_the_place() -> None:
    galaxy = load("galaxy.yml")
    assert (galaxy["namespace"], galaxy["name"]) == ("voicefleet", "cosyvoice")
    assert galaxy["license"] == ["GPL-3.0-or-later"]
    assert (ROOT / ".collections/ansible_collections/voicefleet/cosyvoice/galaxy.yml").is_file()


def test_every_dependency_that_is_used_is_declared_and_the_other_way_round() -> None:
    used: set[str] = set()
    for path in tracked():
        if path.suffix == ".yml" and path.parts[len(ROOT.parts)] in ("roles", "playbooks"):
            used |= set(
                re.findall(r"\b((?:ansible|community)\.(?!builtin\b)[a-z]+)\.[a-z_]+:?", text_of(path))
            )
    assert used <= set(load("galaxy.yml")["dependencies"]), "declare what roles and playbooks use"


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_every_plugin_is_licensed_and_modern(path: Path) -> None:
    text = text_of(path)
    head = text.splitlines()[:20]
    assert f"# {COPYRIGHT}" in head
    assert f"# {LICENSE}" in head
    assert "from __future__ import annotations" in text
    if path in MODULES:
        assert GPL_LINE in head
        assert head[0] == "#!/usr/bin/python"


@pytest.mark.parametrize("path", WITH_DOCUMENTATION, ids=name)
def test_every_plugin_is_documented_with_examples_and_return_values(path: Path) -> None:
    found = strings(path)
    documentation = yaml.safe_load(found["DOCUMENTATION"])
    assert documentation.get("module", documentation.get("name")) == path.stem
    assert documentation["author"] in (
        "Voicefleet contributors (@voicefleet)",
        ["Voicefleet contributors (@voicefleet)"],
    )
    assert documentation["version_added"] == "0.1.0"
    assert yaml.safe_load(found["RETURN"])
    examples = yaml.safe_load(found["EXAMPLES"])
    assert all("name" in example for example in examples)
    if path in MODULES:
        if (
            "voicefleet.cosyvoice.attributes.info_module"
            not in documentation["extends_documentation_fragment"]
        ):
            assert set(documentation["attributes"]) >= {"check_mode", "diff_mode", "idempotent"}
        called = {key for example in examples for key in example}
        assert f"voicefleet.cosyvoice.{path.stem}" in called


@pytest.mark.parametrize("path", [path for path in PLUGINS if path.parent.name == "module_utils"], ids=name)
def test_logic_knows_nothing_of_modules_and_is_private(path: Path) -> None:
    assert path.name.startswith("_")
    assert "AnsibleModule" not in re.sub(r'"""(.|\n)*?"""', "", text_of(path))


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_nothing_that_python_3_9_cannot_run(path: Path) -> None:
    """Managed hosts may have a Python that old: RHEL 9 has 3.9."""
    ast.parse(text_of(path), feature_version=(3, 9))


def test_every_file_that_can_bear_a_license_line_does() -> None:
    unlicensed = [
        name(path)
        for path in tracked()
        if path.suffix in LICENSED
        and not (COPYRIGHT in text_of(path)[:400] and LICENSE in text_of(path)[:400])
        and path.parts[len(ROOT.parts)] in ("plugins", "roles", "playbooks", "scripts", "tests", "molecule")
    ]
    assert unlicensed == []


def test_no_file_names_a_machine_or_a_package_mirror() -> None:
    # Written so that no pattern finds itself in this file.
    machine = re.compile(r"/(?:home|Users)/(?!\{)\w+/|/opt/p[y]pi")
    found = [
        f"{name(path)}: {match.group(0)}" for path in tracked() for match in machine.finditer(text_of(path))
    ]
    assert found == []


def test_every_changelog_fragment_is_of_a_known_kind() -> None:
    kinds = {
        "release_summary", "breaking_changes", "major_changes", "minor_changes", "removed_features",
        "deprecated_features", "security_fixes", "bugfixes", "known_issues", "trivial",
    }  # fmt: skip
    for path in sorted((ROOT / "changelogs/fragments").glob("*.yml")):
        fragment = yaml.safe_load(text_of(path))
        assert set(fragment) <= kinds, path
        assert all(isinstance(entry, str) for kind in fragment.values() for entry in kind), path
