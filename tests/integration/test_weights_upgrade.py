# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another revision of the weights by upgrade.yml, and back by rollback.yml, on replicas of the speech server.

The host is a bare one without cards (tests/support/gpu_host) on which site.yml did everything. The code of
upstream and the weights are stand-ins.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from gpu_host.host import IMAGES, ROOT, GpuHost, HostError, bare_variables, reference
from recorded_voices import STAND_IN_PLACE as PLACE
from recorded_voices import bring_stand_in

pytestmark = pytest.mark.slow

MODELS = "/var/lib/voicefleet/models/Fun-CosyVoice3-0.5B-2512"


class Site:
    """One host with two replicas."""

    def __init__(self, host: GpuHost, folder: Path) -> None:
        self.host = host
        host.bare({"cards": []})
        stand_in = bring_stand_in(host, folder, "r1", "r2")
        images = (*IMAGES, "speech_server")
        self.variables = {
            **bare_variables(images),
            **stand_in,
            "cosyvoice_device": "cpu",
            "cosyvoice_replicas": 2,
            "cosyvoice_image": reference("speech_server"),
            "cosyvoice_images": {"speech_server": {}},
            "cosyvoice_weights_source": "directory",
            "gpu_service_soak_seconds": 0,
            "gpu_service_bake_seconds": 1,
        }

    def play(self, name: str, revision: str, *options: str, **variables: Any) -> str:
        weights = {"cosyvoice_weights_revision": revision, "cosyvoice_weights_path": f"{PLACE}/{revision}"}
        return self.host.playbook(
            ROOT / f"{name}.yml", *options, **{**self.variables, **weights, **variables}
        )

    def refused(self, revision: str) -> str:
        """What upgrade.yml said; no replica was touched."""
        before = self.replicas()
        with pytest.raises(HostError) as failed:
            self.play("upgrade", revision)
        assert self.replicas() == before
        return " ".join(str(failed.value).split())

    def replicas(self) -> list[str]:
        return sorted(self.host.docker("ps", "--quiet", "--filter", "label=voicefleet.role=replica").split())

    def versions(self) -> list[dict[str, Any]]:
        """What each replica says of itself."""
        program = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:7860/version').read().decode())"
        )
        return [
            json.loads(self.host.docker("exec", replica, "python3", "-c", program))
            for replica in self.replicas()
        ]

    def revisions(self) -> list[str]:
        return [version["revision"] for version in self.versions()]

    def digests(self) -> set[str]:
        return {version["weights_digest"] for version in self.versions()}

    def speaks(self) -> bool:
        wish = {
            "model": "tts-1",
            "voice": "default",
            "input": "Good morning to you all.",
            "response_format": "wav",
        }
        answer = requests.post(f"http://{self.host.address}/v1/audio/speech", json=wish, timeout=60)
        return answer.ok and answer.content.startswith(b"RIFF")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    host = GpuHost(f"vf-weights-{uuid.uuid4().hex[:6]}")
    try:
        yield Site(host, tmp_path_factory.mktemp("weights"))
    finally:
        host.down()


def test_forward_and_back(site: Site) -> None:
    site.play("site", "r1")
    assert site.revisions() == ["r1", "r1"]
    (first,) = site.digests()
    assert site.speaks()

    site.play("upgrade", "r2")
    assert site.revisions() == ["r2", "r2"]
    (second,) = site.digests()
    assert second != first
    assert site.speaks()
    # What a rollback needs stays.
    assert {"r1", "r2"} <= set(site.host.run("ls", MODELS).split())

    site.play("rollback", "r2")
    assert site.revisions() == ["r1", "r1"]
    assert site.digests() == {first}
    assert site.speaks()


def test_a_newcomer_with_other_weights_than_its_name_says_gets_no_callers(site: Site) -> None:
    """The inventory names the directory of the former revision, and only the revision was raised."""
    with pytest.raises(HostError) as failed:
        site.play("upgrade", "r2", cosyvoice_model_dir=f"{MODELS}/r1")
    said = " ".join(str(failed.value).split())
    assert "is revision r2, but has loaded weights" in said
    assert "Its predecessor is back in its place" in said
    assert site.revisions() == ["r1", "r1"]
    assert site.speaks()


def test_weights_that_are_not_whole_reach_no_replica(site: Site) -> None:
    site.host.run("cp", "-r", f"{PLACE}/r2", f"{PLACE}/r3")
    site.host.run("rm", f"{PLACE}/r3/llm.pt")
    assert "llm.pt" in site.refused("r3")
    site.host.run("cp", "-r", f"{PLACE}/r2", f"{PLACE}/r4")
    site.host.run("mv", f"{PLACE}/r4/cosyvoice3.yaml", f"{PLACE}/r4/cosyvoice2.yaml")
    assert "CosyVoice2" in site.refused("r4")


def test_a_byte_that_turned_on_the_disk_is_found_before_a_replica_reads_it(site: Site) -> None:
    """In the revision that an upgrade would go to, and right when it came; size and time still are."""
    turn = "touch -r $0 /tmp/stamp; printf X | dd of=$0 bs=1 conv=notrunc status=none; touch -r /tmp/stamp $0"
    site.host.run("sh", "-c", f"chmod u+w $0; {turn}", f"{MODELS}/r2/llm.pt")
    assert "llm.pt" in site.refused("r2")
