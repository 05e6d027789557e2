# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role brings is what the engine reads, and what is known beforehand covers it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_manifest import parse
from speech_server.engines import cosyvoice3_upstream

ROLES = Path(__file__).parents[2] / "roles"


def files(trt: bool) -> list[str]:
    text = yaml.safe_load((ROLES / "cosyvoice/vars/main.yml").read_text())["__cosyvoice_weights_files"]
    variables = {"cosyvoice_trt": trt}
    found: list[str] = Templar(DataLoader(), variables=variables).template(trust_as_template(text))
    return found


@pytest.mark.parametrize("trt", [False, True])
def test_the_files_brought_are_those_the_engine_reads(trt: bool) -> None:
    extra = [cosyvoice3_upstream._TRT_FILE] if trt else []
    assert sorted(files(trt)) == sorted([*cosyvoice3_upstream._FILES, *extra])


def test_all_of_the_default_revision_are_known_beforehand() -> None:
    defaults = yaml.safe_load((ROLES / "cosyvoice/defaults/main.yml").read_text())
    name, revision = (
        defaults["cosyvoice_weights_repository"].split("/")[1],
        defaults["cosyvoice_weights_revision"],
    )
    path = ROLES / f"model_weights/files/manifests/{name}/{revision}.sha256"
    assert set(parse(path.read_text(), str(path))) == set(files(trt=True))
