# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the profiles of CosyVoice3's image are locked to is there, and fits, for the Python of each.

pip is asked for all of it and installs nothing, but reads the 3 GiB of each profile: three minutes and more.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "roles/cosyvoice/files/cosyvoice3"
PYTHONS = {"upstream_pins": "3.10", "new_torch": "3.11"}
PLATFORMS = ("2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
# Packages that have no wheel; the host builds them.
ONLY_SOURCE = {"antlr4-python3-runtime", "openai-whisper", "pyworld", "wget"}
# On purpose; requirements.in of role model_weights says why.
LEFT_OUT = {"hf-xet"}


def blocks(profile: str) -> dict[str, str]:
    """The lock's lines for each package."""
    text = (FOLDER / f"{profile}.txt").read_text()
    found = {}
    for block in re.split(r"\n(?=[a-z0-9])", text):
        name = re.match(r"([a-z0-9-]+)==", block)
        assert name, block
        found[name[1]] = block
    return found


@pytest.mark.parametrize("profile", PYTHONS)
def test_all_that_is_locked_is_there(profile: str, tmp_path: Path) -> None:
    locked = blocks(profile)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("\n".join(block for name, block in locked.items() if name not in ONLY_SOURCE))
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--require-hashes"),
        *("--only-binary=:all:", f"--python-version={PYTHONS[profile]}", "--implementation=cp"),
        *(f"--platform=manylinux_{version}_x86_64" for version in PLATFORMS),
        *("--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64", "--platform=linux_x86_64"),
        *(
            f"--target={tmp_path / 'nothing'}",
            f"--report={tmp_path / 'report.json'}",
            f"--requirement={requirements}",
        ),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    packages = [one["metadata"] for one in json.loads((tmp_path / "report.json").read_text())["install"]]
    assert {canonicalize_name(package["name"]) for package in packages} == locked.keys() - ONLY_SOURCE
    assert not (tmp_path / "nothing").exists()
    assert not list(unmet(packages, locked, PYTHONS[profile]))


def unmet(packages: list[dict[str, Any]], locked: Mapping[str, str], python: str) -> Iterator[str]:
    """What the packages want of each other and the lock has not; --no-deps had pip not ask."""
    there = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    there |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    for package in packages:
        for wanted in map(Requirement, package.get("requires_dist", [])):
            if wanted.marker and not wanted.marker.evaluate(there):
                continue
            name = canonicalize_name(wanted.name)
            version = locked.get(name, "==none").split("==")[1].split()[0]
            if name not in LEFT_OUT and (version == "none" or not wanted.specifier.contains(version, True)):
                yield f"{package['name']} wants {wanted}, and the lock has {version}"
