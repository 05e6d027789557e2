# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One voice added, replaced, put back and removed by playbooks/voice.yml, and heard through Traefik.

The hosts are two directories of this machine, each with a replica of the real speech server that reads it, on
the stand-in of upstream: what it speaks has the pitch of the recording.
"""

from __future__ import annotations

import array
import itertools
import os
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _voices
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._wave import read_channels
from recorded_voices import PORT, start_replicas, tone

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
WORDS = "This is what is said in it."
# What site.yml does with voices.
SITE = """
- name: Lay down
  hosts: speech_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: voicefleet.cosyvoice.cosyvoice, tasks_from: voices_preflight}
    - ansible.builtin.import_role: {name: voicefleet.cosyvoice.cosyvoice, tasks_from: bring}
"""


class Fleet:
    """Two hosts with a replica each, one Traefik in front, and the controller's directory of voices."""

    def __init__(self, lab: t.Any, path: Path) -> None:
        self.path, self.source = path, path / "voices"
        self.hosts = {name: path / name for name in ("one", "two")}
        self.replicas: dict[str, t.Any] = {}
        network = lab.network("voice").name
        path.chmod(0o755)
        variables = {}
        for name, place in self.hosts.items():
            place.mkdir(mode=0o755)
            service, rule = f"{lab.id}-{name}", f"Host(`{name}.test`)"
            labels = {
                "traefik.enable": "true",
                f"traefik.http.routers.{service}.rule": rule,
                f"traefik.http.services.{service}.loadbalancer.server.port": str(PORT),
            }
            (self.replicas[name],) = start_replicas(
                lab, service, network, path / f"model-{name}", [place], labels
            )
            variables[name] = {
                "cosyvoice_name": service,
                "cosyvoice_rule": rule,
                "cosyvoice_voices_dir": str(place),
                "verify_report_dir": str(path / f"verify-{name}"),
            }
        traefik = lab.traefik(network=network)
        routers = {f"{lab.id}-{name}@docker" for name in self.hosts}
        traefik.wait_for(lambda have: {each["name"] for each in have.routers} >= routers, seconds=300)
        inventory = {
            "speech_hosts": {
                "hosts": variables,
                "vars": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "cosyvoice_engine": "cosyvoice3",
                    "cosyvoice_image": "registry.example.org/cosyvoice3",
                    "cosyvoice_model_dir": "/model",
                    "cosyvoice_voices": "{{ inventory_dir }}/../voices",
                    "cosyvoice_url": f"http://{traefik.ports['80']}",
                    "gpu_service_network": network,
                },
            }
        }
        (path / "inventory").mkdir()
        (path / "inventory/hosts.yml").write_text(yaml.safe_dump(inventory))
        (path / "site.yml").write_text(SITE)

    def run(self, *arguments: str, playbook: Path = ROOT / "voice.yml") -> tuple[int, str]:
        """The end of ansible-playbook and all that it said, on one line."""
        done = subprocess.run(
            [ANSIBLE_PLAYBOOK, "-i", "inventory", playbook, *arguments],
            cwd=self.path,
            env={
                **os.environ,
                "PWD": str(self.path),
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def voice(self, name: str, *arguments: str, changed: bool = True, unasked: int = 0) -> None:
        """Run it for this voice; it has to end well, and to leave no more hosts unasked than that."""
        code, said = self.run("-e", f"voice_name={name}", *arguments)
        assert code == 0, said
        assert ("changed=0" not in said) == changed, said
        assert said.count("No replica was asked: none runs here.") == unasked, said

    def refused(self, *arguments: str) -> str:
        """Run it; it has to refuse, and to change nothing."""
        before = self.everything()
        code, said = self.run(*arguments)
        assert code != 0, said
        assert self.everything() == before
        return said

    def everything(self) -> list[_voices.Voices]:
        return [_voices.look(str(place)) for place in (self.source, *self.hosts.values())]

    def pitch_hz(self, host: str, name: str) -> float:
        """Of the sample on the controller."""
        content = (self.path / "voice_samples" / host / f"{name}.wav").read_bytes()
        (samples,) = t.cast("list[array.array[float]]", read_channels(content))
        ups = sum(before < 0 <= after for before, after in itertools.pairwise(samples))
        return ups / (len(samples) / 24000)


@pytest.fixture
def fleet(lab: t.Any, tmp_path: Path) -> Fleet:
    return Fleet(lab, tmp_path)


def test_a_voice_comes_changes_goes_back_and_goes(fleet: Fleet) -> None:
    (fleet.path / "anna.wav").write_bytes(tone(200))
    # The shell takes the quotes away.
    anna = ("-e", "voice_name=anna", "-e", "voice_recording=anna.wav")
    assert "has 'is what is said in it.' left over" in fleet.refused(*anna, "-e", f"voice_transcript={WORDS}")
    (fleet.path / "anna.txt").write_text(WORDS)

    code, said = fleet.run(*anna, "--check", "--diff")
    assert code == 0, said
    assert said.count("anna/prompt.wav") >= 3  # on the controller and on two hosts
    assert fleet.everything() == [{}, {}, {}]

    # What a replica will not speak; here it is the sentence that it has something against.
    said = fleet.refused(*anna, "-e", "voice_sentence='<|en|>'")
    assert (
        "anna was tried on one and does not speak. Nothing was changed. the voice anna: status: 400" in said
    )

    fleet.voice("anna", "-e", "voice_recording=anna.wav")
    assert all(set(voices) == {"anna"} for voices in fleet.everything())
    for host in fleet.hosts:
        assert fleet.pitch_hz(host, "anna") == pytest.approx(200, rel=0.05)
    fleet.voice("anna", "-e", "voice_recording=anna.wav", changed=False)

    (fleet.path / "bert.wav").write_bytes(tone(320))
    spoken = ("-e", f"voice_transcript='{WORDS}'", "-e", "voice_recording=bert.wav")
    fleet.voice("bert", *spoken)
    first = fleet.everything()
    assert "anna is the default voice" in fleet.refused("-e", "voice_name=anna", "-e", "voice_state=absent")

    (fleet.path / "bert.wav").write_bytes(tone(400))
    fleet.voice("bert", *spoken)
    assert fleet.pitch_hz("two", "bert") == pytest.approx(400, rel=0.05)
    fleet.voice("bert", "-e", "voice_state=former")
    assert fleet.everything() == first
    assert fleet.pitch_hz("two", "bert") == pytest.approx(320, rel=0.05)

    # It lives on.
    code, said = fleet.run(playbook=fleet.path / "site.yml")
    assert code == 0, said
    assert said.count("changed=0 ") == 2, said

    # By hand on one host.
    shutil.copytree(fleet.source / "bert", fleet.hosts["two"] / "carl")
    assert "not be the same on all hosts" in fleet.refused("-e", "voice_name=dora", *spoken)
    shutil.rmtree(fleet.hosts["two"] / "carl")

    # A host that is drained gets it too.
    fleet.replicas["two"].stop(timeout=1)
    fleet.voice("bert", "-e", "voice_state=absent", unasked=1)
    assert all(set(voices) == {"anna"} for voices in fleet.everything())
