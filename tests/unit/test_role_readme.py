# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""READMEs of roles are written from their specifications."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/role_readme.py"
SPEC = """
argument_specs:
  main:
    short_description: Lamps
    description:
      - All lamps are O(lamps_colour).
      - Never touches a switch.
      - To undo, pull the plug.
    examples: |
      - hosts: all
        roles: [lamps]
    options:
      lamps_colour:
        description: A colour, V(a|b) or not.
        type: str
        choices: [red, green]
        default: red
      lamps_list:
        description: Lamps, as RV(voicefleet.cosyvoice.gpu_capacity#module:slots) or P(x.y.z#role) say.
        type: list
        elements: dict
        required: true
        options:
          watt: {type: int, description: Power., default: 60}
      lamps_path:
        description: Where.
        type: path
  absent:
    short_description: Takes all lamps away
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("role_readme", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["role_readme"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def roles(tmp_path: Path) -> Path:
    for kind, text in (
        ("meta/argument_specs.yml", SPEC),
        ("defaults/main.yml", 'lamps_colour: red\nlamps_list: []\nlamps_path: "{{ home }}/lamps"\n'),
    ):
        path = tmp_path / "lamps" / kind
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


def test_everything_specified_is_in_the_readme(script: ModuleType, roles: Path) -> None:
    assert script.main(["--roles", str(roles)]) == 0
    text = (roles / "lamps/README.md").read_text()
    assert "# lamps\n\nLamps.\n\n## What it guarantees\n\n- All lamps are `lamps_colour`.\n" in text
    assert "## What it never does\n\n- Never touches a switch.\n" in text
    assert "## How to undo it\n\nTo undo, pull the plug.\n" in text
    assert "```yaml\n- hosts: all\n  roles: [lamps]\n```" in text
    assert r"| `lamps_colour` | str | `red` | A colour, `a\|b` or not. One of `red`, `green`. |" in text
    assert "| `lamps_list` | list of dict | *required* | Lamps, as `slots` or `x.y.z` say. |" in text
    assert "| `lamps_list[].watt` | int | `60` | Power. |" in text
    assert "| `lamps_path` | path | *worked out* | Where. |" in text
    assert "- `tasks_from: absent`: Takes all lamps away" in text


def test_the_check_changes_nothing_and_fails_until_all_is_written(
    script: ModuleType, roles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--check", "--roles", str(roles)]) == 1
    assert not (roles / "lamps/README.md").exists()
    assert "lamps/README.md: not up to date" in capsys.readouterr().out
    assert script.main(["--roles", str(roles)]) == 0
    assert script.main(["--check", "--roles", str(roles)]) == 0
    specification = roles / "lamps/meta/argument_specs.yml"
    specification.write_text(specification.read_text().replace("Lamps", "Candles", 1))
    assert script.main(["--check", "--roles", str(roles)]) == 1


def test_writing_twice_gives_the_same_text(script: ModuleType, roles: Path) -> None:
    script.main(["--roles", str(roles)])
    first = (roles / "lamps/README.md").read_bytes()
    (roles / "lamps/README.md").unlink()
    script.main(["--roles", str(roles)])
    assert (roles / "lamps/README.md").read_bytes() == first
