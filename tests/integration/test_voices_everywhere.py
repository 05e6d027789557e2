# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Voices from the controller to two hosts, taken up by the real speech server on the stand-in of upstream.

The hosts are two directories of this machine, each with a replica that reads it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from recorded_voices import start_replicas, voice

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SERVICE = "tts"
# What the role does before anything changes, what it does then, and what verify.yml asks of it afterwards.
PLAYBOOK = """
- name: Check
  hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: voicefleet.cosyvoice.cosyvoice, tasks_from: voices_preflight}
- name: Lay down
  hosts: all
  gather_facts: false
  tags: [lay_down]
  tasks:
    - ansible.builtin.import_role: {name: voicefleet.cosyvoice.cosyvoice, tasks_from: voices}
- name: Prove
  hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: voicefleet.cosyvoice.cosyvoice, tasks_from: voices_expected}
    - voicefleet.cosyvoice.service_probe:
        services:
          - name: "{{ service }}"
            port: 7860
            network: "{{ network }}"
            version_path: /version
            voices: "{{ cosyvoice_voices_expected_digest }}"
            voice_digests: "{{ cosyvoice_voices_expected }}"
      run_once: true
      register: proof
    - ansible.builtin.copy:
        content: "{{ proof.checks | to_json }}"
        dest: "{{ checks_file }}"
      run_once: true
      check_mode: false
      changed_when: false
      diff: false
"""


class Fleet:
    """Two hosts with a replica each, and the controller's directory of voices."""

    def __init__(self, lab: t.Any, path: Path) -> None:
        self.path, self.source = path, path / "source"
        self.hosts = {name: path / name for name in ("one", "two")}
        self.service = f"{lab.id}-{SERVICE}{len(lab.made)}"
        self.network = lab.network(f"voices{len(lab.made)}").name
        (path / "playbook.yml").write_text(PLAYBOOK)
        inventory = {
            "all": {
                "hosts": {name: {"cosyvoice_voices_dir": str(place)} for name, place in self.hosts.items()},
                "vars": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "cosyvoice_engine": "cosyvoice3",
                    "cosyvoice_voices": str(self.source),
                    "service": self.service,
                    "network": self.network,
                    "checks_file": str(path / "checks.json"),
                },
            }
        }
        (path / "inventory.yml").write_text(yaml.safe_dump(inventory))
        path.chmod(0o755)
        for place in self.hosts.values():
            place.mkdir(mode=0o755)

    def voice(self, name: str, pitch_hz: float, amplitude: float = 0.4, where: Path | None = None) -> None:
        voice((where or self.source) / name, pitch_hz, amplitude)

    def run(self, *arguments: str) -> tuple[int, str]:
        """The end of ansible-playbook and all that it said."""
        done = subprocess.run(
            ["ansible-playbook", "-i", self.path / "inventory.yml", self.path / "playbook.yml", *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    def prove(self, *arguments: str) -> tuple[dict[str, bool], str]:
        """Lay down; each check on voices with its outcome, and what Ansible said."""
        code, said = self.run(*arguments)
        assert code == 0, said
        checks = json.loads((self.path / "checks.json").read_text())
        names = {
            f"{self.service}-1: voices",
            f"{self.service}-2: voices",
            f"{self.service}: one set of voices",
        }
        found = {each["name"]: each["ok"] for each in checks if each["name"] in names}
        assert set(found) == names, checks
        return found, said

    def checks(self) -> str:
        return (self.path / "checks.json").read_text()


@pytest.fixture
def fleet(lab: t.Any, tmp_path: Path) -> Fleet:
    made = Fleet(lab, tmp_path)
    start_replicas(lab, made.service, made.network, tmp_path / "model", made.hosts.values())
    return made


def test_voices_come_to_every_replica_change_there_and_go(fleet: Fleet) -> None:
    fleet.voice("anna", 200)
    fleet.voice("bert", 320)
    code, said = fleet.run("--check", "--diff")
    assert code == 0, said
    assert "+" in said
    assert "anna/prompt.wav" in said
    assert not any(list(place.iterdir()) for place in fleet.hosts.values())

    found, said = fleet.prove()
    assert all(found.values()), fleet.checks()
    assert said.count("changed=1 ") == 2, said
    assert fleet.prove()[1].count("changed=0 ") == 2

    fleet.voice("anna", 250)
    shutil.rmtree(fleet.source / "bert")
    found, said = fleet.prove()
    assert all(found.values()), fleet.checks()
    assert {path.name for path in fleet.hosts["two"].iterdir()} == {"anna", ".laid"}

    # A voice that replicas would leave out comes to no host; one that was laid there by hand is told of.
    fleet.voice("carl", 200, amplitude=0)
    code, said = fleet.run()
    assert code != 0
    assert "carl/prompt.wav is silent" in " ".join(said.split())
    assert not any((place / "carl").exists() for place in fleet.hosts.values())
    shutil.rmtree(fleet.source / "carl")
    for place in fleet.hosts.values():
        fleet.voice("carl", 200, amplitude=0, where=place)
    found, _said = fleet.prove()
    assert not found[f"{fleet.service}-1: voices"]
    assert "without carl: prompt.wav is silent" in fleet.checks()
    for place in fleet.hosts.values():
        shutil.rmtree(place / "carl")

    # By hand on one host: refused before anything changes, then removed when asked for.
    fleet.voice("dora", 300)
    fleet.voice("emil", 400, where=fleet.hosts["two"])
    code, said = fleet.run()
    assert code != 0
    assert "would not be the same on all hosts" in said
    assert not (fleet.hosts["one"] / "dora").exists()
    found, _said = fleet.prove("-e", "cosyvoice_voices_exclusive=true")
    assert all(found.values()), fleet.checks()
    assert {path.name for path in fleet.hosts["two"].iterdir()} == {"anna", "dora", ".laid"}


def test_voices_that_somebody_deleted_are_named_and_come_back(fleet: Fleet) -> None:
    fleet.voice("anna", 200)
    fleet.voice("bert", 320)
    found, _said = fleet.prove()
    assert all(found.values()), fleet.checks()

    (fleet.hosts["two"] / "bert").unlink()
    found, _said = fleet.prove("--skip-tags", "lay_down")
    assert found[f"{fleet.service}-1: voices"]
    assert not found[f"{fleet.service}-2: voices"]
    assert "missing: bert" in fleet.checks()
    found, said = fleet.prove()
    assert all(found.values()), fleet.checks()
    assert said.count("changed=1 ") == 1, said


def test_a_host_whose_voices_are_laid_down_by_hand_is_refused_without_any(fleet: Fleet) -> None:
    by_hand = ("-e", "cosyvoice_voices=", "--skip-tags", "lay_down")
    for place in fleet.hosts.values():
        fleet.voice("anna", 200, where=place)
    found, _said = fleet.prove(*by_hand)
    assert all(found.values()), fleet.checks()

    shutil.rmtree(fleet.hosts["two"] / "anna")
    code, said = fleet.run(*by_hand)
    assert code != 0
    assert f"two has no voice in {fleet.hosts['two']}" in " ".join(said.split())
