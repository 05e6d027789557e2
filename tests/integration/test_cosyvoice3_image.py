# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of CosyVoice3, built by the roles from stand-ins on a real engine, and speaking as replicas do.

Takes root, an engine, a C++ compiler, the host's package sources and package index.
"""

from __future__ import annotations

import io
import re
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import image_sources
import pytest
from image_site import ROOT, ImageSite, Run
from patience import until
from recorded_voices import model

pytestmark = pytest.mark.slow

LOCK = ROOT / "roles/cosyvoice/files/cosyvoice3/new_torch.txt"
# Of the profile's packages what the server and the stand-in import; what these need comes along.
PACKAGES = {"av", "fastapi", "numpy", "prometheus-client", "python-multipart", "pyyaml", "uvicorn"}
PLAY = """
- hosts: localhost
  gather_subset: [min]
  tasks:
    - ansible.builtin.import_role: {name: voicefleet.cosyvoice.cosyvoice, tasks_from: settings}
    - ansible.builtin.include_role: {name: voicefleet.cosyvoice.container_images}
      vars:
        container_images_wanted: "{{ cosyvoice_images.keys() }}"
        container_images_extra: "{{ cosyvoice_images }}"
    - ansible.builtin.copy:
        content: "{{ container_images_refs | to_json }}"
        dest: "{{ refs_file }}"
        mode: "0644"
      changed_when: false
      check_mode: false
"""


def locked(names: set[str]) -> str:
    """The lines of the profile's own lock for these packages and for what they need."""
    blocks = {block.partition("==")[0]: block for block in re.split(r"\n(?=[a-z0-9])", LOCK.read_text())}
    # Below its hashes stands who wants a package.
    wanted_by = {
        name: set(re.findall(r"#\s+(?:via )?([a-z0-9-]+)$", block, re.M)) for name, block in blocks.items()
    }
    found: set[str] = set()
    while new := {name for name in blocks if name in names or wanted_by[name] & found} - found:
        found |= new
    return "\n".join(blocks[name] for name in sorted(found)) + "\n"


class Site(ImageSite):
    """With what the role wants to know, and the stand-ins."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, PLAY)
        self.index, lock = image_sources.torch_index(folder / "index")
        (folder / "requirements.txt").write_text(locked(PACKAGES) + lock)
        self.variables |= {
            "cosyvoice_engine": "cosyvoice3",
            "cosyvoice_device": "cpu",
            "cosyvoice_replicas": 1,
            "cosyvoice_model_dir": str(folder / "model"),
            "cosyvoice_voices_dir": str(folder / "voices"),
            "cosyvoice_python": self.archive(image_sources.python(folder)),
            "cosyvoice_upstream": self.archive(image_sources.upstream(folder)),
            "cosyvoice_matcha": self.archive(image_sources.matcha(folder)),
            "cosyvoice_requirements": str(folder / "requirements.txt"),
            "cosyvoice_torch_index": self.index,
        }

    def archive(self, file: Path) -> dict[str, str]:
        return {"path": str(file), "checksum": f"sha256:{image_sources.sha256(file)}"}


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def site(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("image"))
    site.folder.chmod(0o755)
    yield site
    site.clear(engine)


@pytest.fixture(scope="module")
def built(site: Site) -> Run:
    planned = site.play("--check")
    assert (planned.ok, planned.changed) == (True, 1), planned.output
    run = site.play()
    assert (run.ok, run.changed) == (True, 1), run.output
    assert run.refs == planned.refs
    assert set(run.refs) == {"base", "cosyvoice3_libraries", "speech_server"}
    return run


def say(engine: docker.DockerClient, image: str, program: str) -> str:
    answer: bytes = engine.containers.run(
        image, ["python3", "-c", program], remove=True, read_only=True, cap_drop=["ALL"], network_mode="none"
    )
    return answer.decode().strip()


def test_a_second_run_changes_nothing(site: Site, built: Run) -> None:
    again = site.play()
    assert (again.ok, again.changed, again.refs) == (True, 0, built.refs), again.output


def test_where_sources_are_does_not_count(site: Site, built: Run) -> None:
    moved = shutil.copy(site.variables["cosyvoice_upstream"]["path"], site.folder / "moved.tar.gz")
    upstream = {**site.variables["cosyvoice_upstream"], "path": str(moved), "remote_src": True}
    again = site.play(cosyvoice_upstream=upstream, cosyvoice_torch_index="")
    assert (again.ok, again.changed, again.refs) == (True, 0, built.refs), again.output


def test_the_image_has_its_own_python_and_what_was_built_for_it(
    engine: docker.DockerClient, built: Run
) -> None:
    program = "import stand_in_world, sys, torch; print(sys.executable, torch.__version__, torch.__cached__)"
    executable, version, cached = say(engine, built.refs["speech_server"], program).split()
    assert executable == "/opt/python/bin/python3"
    assert version == "2.3.1"
    # Compiled for the image's own Python, for it cannot write it down.
    assert say(engine, built.refs["speech_server"], f"import os; print(os.path.exists({cached!r}))") == "True"


def test_the_image_says_how_it_is_to_be_run(engine: docker.DockerClient, built: Run) -> None:
    config = engine.images.get(built.refs["speech_server"]).attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in config["Env"]
    assert "HF_HUB_OFFLINE=1" in config["Env"]


def test_it_speaks_read_only_and_without_a_network(
    engine: docker.DockerClient, site: Site, built: Run
) -> None:
    weights, voice = site.folder / "model", site.folder / "voices/anna"
    model(weights)
    voice.mkdir(parents=True)
    (voice / "prompt.wav").write_bytes(image_sources.tone())
    (voice / "prompt.txt").write_text("This is what is said in it.\n")
    container = engine.containers.run(
        built.refs["speech_server"],
        detach=True,
        labels={"vf.test": site.repository},
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        tmpfs={"/tmp": "mode=1777"},
        volumes=[f"{weights}:/model:ro", f"{voice.parent}:/voices:ro"],
        environment={"SPEECH_ENGINE": "cosyvoice3", "SPEECH_MODEL_DIR": "/model"},
    )

    def health() -> str:
        container.reload()
        return str(container.attrs["State"]["Health"]["Status"])

    until("over with loading", lambda: health() != "starting")
    assert health() == "healthy", container.logs().decode()
    program = (
        "import sys, urllib.request as u\n"
        'body = b\'{"model": "tts-1", "voice": "anna", "input": "Good morning to you all.", \'\n'
        'body += b\'"response_format": "wav"}\'\n'
        "url, headers = 'http://127.0.0.1:7860/v1/audio/speech', {'Content-Type': 'application/json'}\n"
        "wish = u.Request(url, body, headers)\n"
        "sys.stdout.buffer.write(u.urlopen(wish).read())\n"
    )
    code, sound = container.exec_run(["python3", "-c", program], stderr=False)
    assert code == 0, container.logs().decode()
    with wave.open(io.BytesIO(sound)) as file:
        assert file.getframerate() == 24000
    assert container.exec_run(["python3", "-c", "open('/x', 'w')"])[0] == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"cosyvoice_upstream": {"git": "https://git.example.com/a.git", "commit": "main"}},
            "Image cosyvoice3_libraries: Tree cosyvoice: git needs the full commit",
        ),
        (
            {"cosyvoice_python": {"path": "no.tar", "checksum": "sha256:" + "0" * 64}},
            "there is no file no.tar",
        ),
        ({"cosyvoice_requirements": "no.txt"}, "there is no file no.txt (requirements)"),
        ({"cosyvoice_torch_index": "mirror.example.com"}, "indexes must be a list of addresses"),
        (
            {
                "cosyvoice_device": "gpu",
                "cosyvoice_vllm": True,
                "cosyvoice_requirements": "upstream_pins.txt",
            },
            "the image of profile upstream-pins has neither vLLM nor TensorRT",
        ),
        ({"cosyvoice_profile": "newest"}, "cosyvoice_profile is 'newest'"),
        ({"cosyvoice_profile": "user"}, "An image of one's own is the profile user"),
        (
            {"cosyvoice_profile": "new-torch", "cosyvoice_image": "a"},
            "An image of one's own is the profile user",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_changes(
    site: Site, variables: dict[str, Any], words: str
) -> None:
    run = site.play(**variables)
    assert (run.ok, run.changed) == (False, 0), run.output
    assert words in run.output
