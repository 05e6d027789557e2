# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role container_images on a real engine: build, export, remove, load, pull, and what can go wrong.

Takes root, the host's package sources and package index. All images have names of this run alone.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
import yaml
from image_site import ROOT, ImageSite, Run

NO_CHECKSUM = "sha256:" + "0" * 64
PLAY = """
- hosts: localhost
  gather_subset: [min]
  tasks:
    - ansible.builtin.include_role:
        name: voicefleet.cosyvoice.container_images
        tasks_from: "{{ entry_point }}"
    - ansible.builtin.copy:
        content: "{{ container_images_refs | default({}) | to_json }}"
        dest: "{{ refs_file }}"
      changed_when: false
      check_mode: false
"""


class Site(ImageSite):
    """With the role's entry points, and its variables without their prefix."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, PLAY)

    def run(
        self,
        entry_point: str = "main",
        *arguments: str,
        environment: dict[str, str] | None = None,
        **variables: Any,
    ) -> Run:
        named = {
            name if name.startswith("ansible_") else f"container_images_{name}": value
            for name, value in variables.items()
        }
        return self.play(*arguments, environment=environment, entry_point=entry_point, **named)

    def good(self, *arguments: Any, **options: Any) -> Run:
        run = self.run(*arguments, **options)
        assert run.ok, run.output
        return run

    def bad(self, *messages: str, **options: Any) -> None:
        run = self.run(**options)
        assert not run.ok, run.output
        for message in messages:
            assert message in run.output


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def site(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("images"))
    yield site
    site.clear(engine)


@pytest.fixture(scope="module")
def built(site: Site) -> Run:
    run = site.good(wanted=["traefik", "socket_proxy", "base"])
    assert run.changed == 1
    return run


def say(engine: docker.DockerClient, image: str, *command: str) -> str:
    """What a container of an image says, hardened as the roles run it."""
    answer: bytes = engine.containers.run(
        image, list(command), remove=True, read_only=True, user="99:99", cap_drop=["ALL"], network_mode="none"
    )
    return answer.decode()


def tags(engine: docker.DockerClient, site: Site) -> set[str]:
    found = {tag for image in engine.images.list() for tag in image.tags}
    return {tag for tag in found if tag.startswith(f"{site.repository}/")}


def test_check_mode_on_a_host_without_an_engine_tells_what_is_due(
    engine: docker.DockerClient, site: Site
) -> None:
    # The socket of an engine that is not there yet.
    run = site.good("main", "--check", "--diff", docker_host=f"unix://{site.folder}/docker.sock")
    assert run.changed == 1
    assert run.refs.keys() == {"traefik", "socket_proxy"}
    assert f"{site.repository}/traefik:" in run.output
    assert tags(engine, site) == set()
    assert not (site.folder / "cache").exists()


def test_without_an_engine_the_run_fails_with_the_remedy(site: Site) -> None:
    site.bad("No Docker Engine at", docker_host=f"unix://{site.folder}/docker.sock")


def test_images_are_built_once(engine: docker.DockerClient, site: Site, built: Run) -> None:
    assert built.refs.keys() == {"traefik", "socket_proxy", "base"}
    assert tags(engine, site) == set(built.refs.values())
    again = site.good(wanted=["traefik", "socket_proxy", "base"])
    assert again.changed == 0
    assert again.refs == built.refs
    assert not (site.folder / "cache/work").exists()


def test_images_run_hardened_and_hold_no_shell(engine: docker.DockerClient, built: Run) -> None:
    assert "Version:      3.7.15" in say(engine, built.refs["traefik"], "version")
    assert "HAProxy version" in say(engine, built.refs["socket_proxy"], "haproxy", "-v")
    code = "import ctypes, json, sqlite3, ssl; ctypes.CDLL('libstdc++.so.6'); print(json.__cached__)"
    assert "__pycache__" in say(engine, built.refs["base"], "python3", "-c", code)
    for reference in built.refs.values():
        container = engine.containers.create(reference, entrypoint="/bin/sh")
        try:
            with pytest.raises(docker.errors.APIError, match=r"/bin/sh.*no such file"):
                container.start()
        finally:
            container.remove()


def test_images_tell_what_they_are(engine: docker.DockerClient, built: Run) -> None:
    for name, reference in built.refs.items():
        image = engine.images.get(reference)
        assert image.labels["voicefleet.managed"] == "true"
        assert image.labels["voicefleet.role"] == name.replace("_", "-")
        assert image.labels["voicefleet.inputs"].startswith(reference.rpartition(":")[2])
        assert image.attrs["Size"] < 200 << 20
    config = engine.images.get(built.refs["traefik"]).attrs["Config"]
    assert config["Entrypoint"] == ["/traefik"]
    assert len(engine.images.get(built.refs["traefik"]).attrs["RootFS"]["Layers"]) == 1


def test_root_file_systems_name_their_packages_and_nothing_else_of_the_host(
    engine: docker.DockerClient, built: Run
) -> None:
    code = (
        "import os; d = '/var/lib/dpkg/status.d/'; print(sorted(os.listdir(d)));"
        "print(open(d + 'libc6').read()); print(os.listdir('/etc/'), os.path.exists('/var/lib/dpkg/status'))"
    )
    said = say(engine, built.refs["base"], "python3", "-c", code)
    names = said.splitlines()[0]
    assert "'python3'" in names
    assert "'libstdc++6'" in names
    assert "'perl" not in names
    assert "Version: " in said
    assert "'apt'" not in said
    assert said.rstrip().endswith("False")


def test_only_what_changed_is_built_again_and_wheels_are_kept(
    engine: docker.DockerClient, site: Site, built: Run
) -> None:
    # Neither the package index nor a mirror can be reached: all that is needed is there already.
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "http_proxy": "http://127.0.0.1:9"}
    run = site.good(wanted=["traefik"], revision="2", environment=nowhere)
    assert run.changed == 1
    assert run.refs["traefik"] != built.refs["traefik"]
    # The former one stays, to go back to.
    assert built.refs["traefik"] in tags(engine, site)
    engine.images.remove(run.refs["traefik"], force=True)


@pytest.mark.slow
def test_what_an_interrupted_run_left_is_cleaned_up(
    engine: docker.DockerClient, site: Site, built: Run
) -> None:
    labels = {"voicefleet.managed": "true", "voicefleet.role": "build", "vf.test": site.repository}
    container = engine.containers.create(built.refs["base"], labels=labels)
    half = site.folder / "cache/work/traefik/tree"
    half.mkdir(parents=True)
    (half / "traefik").write_text("half")
    engine.images.remove(built.refs["traefik"], force=True)
    run = site.good(wanted=["traefik"])
    assert run.refs["traefik"] == built.refs["traefik"]
    assert "3.7.15" in say(engine, run.refs["traefik"], "version")
    with pytest.raises(docker.errors.NotFound):
        container.reload()


@pytest.mark.slow
def test_an_image_of_ones_own_on_top_of_the_base(
    engine: docker.DockerClient, site: Site, built: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "greeter"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        'FROM base\nCOPY greet.py /opt/\nENV GREETING="good day"\nUSER 10001:10001\n'
        'CMD ["python3", "/opt/greet.py"]\n'
    )
    (folder / "greet.py").write_text("import os; print(os.environ['GREETING'], os.getuid())")
    extra = {"greeter": {"folder": str(folder)}}
    run = site.good(wanted=["greeter"], extra=extra)
    assert run.changed == 1
    assert run.refs["base"] == built.refs["base"]
    assert engine.containers.run(run.refs["greeter"], remove=True) == b"good day 10001\n"
    base, greeter = (
        engine.images.get(run.refs[name]).attrs["RootFS"]["Layers"] for name in ("base", "greeter")
    )
    assert greeter[:-1] == base
    assert site.good(wanted=["greeter"], extra=extra).changed == 0
    (folder / "greet.py").write_text("print('bye')")
    second = site.good(wanted=["greeter"], extra=extra)
    assert second.changed == 1
    assert engine.containers.run(second.refs["greeter"], remove=True) == b"bye\n"
    for reference in (run.refs["greeter"], second.refs["greeter"]):
        engine.images.remove(reference)


@pytest.mark.slow
def test_wheels_for_another_python_are_refused(
    engine: docker.DockerClient, site: Site, built: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "wrong"
    folder.mkdir()
    shutil.copy(ROOT / "roles/container_images/files/traefik/requirements.txt", folder)
    (folder / "Dockerfile").write_text("FROM base\nCOPY --from=wheels /certifi /opt/certifi\n")
    python = tmp_path / "python3"
    # A host whose Python says it is another one than the base's.
    python.write_text(
        '#!/bin/sh\ncase "$*" in *version_info*) echo 3.99 ;; *) exec /usr/bin/python3 "$@" ;; esac\n'
    )
    python.chmod(0o755)
    site.bad(
        "Image wrong: its base",
        "fetches packages for Python 3.99",
        wanted=["wrong"],
        extra={"wrong": {"folder": str(folder)}},
        python=str(python),
    )
    assert not any("/wrong:" in tag for tag in tags(engine, site))


@pytest.mark.parametrize(
    ("variables", "messages"),
    [
        ({"wanted": ["traefk"]}, ["there is no image 'traefk'. Did you mean 'traefik'?"]),
        ({"sources": {"traefik": {"source": "registry", "reference": "traefik:v3"}}}, ["has no digest"]),
        (
            {"sources": {"traefik": {"source": "archive", "path": "no.tar", "checksum": NO_CHECKSUM}}},
            ["Image traefik: there is no file no.tar on the controller", "remote_src"],
        ),
        (
            {
                "sources": {
                    "traefik": {
                        "source": "archive",
                        "path": "/no.tar",
                        "remote_src": True,
                        "checksum": NO_CHECKSUM,
                    }
                }
            },
            ["Image traefik: there is no file /no.tar"],
        ),
        (
            {"minimum_free_mib": 1 << 30, "revision": "other"},
            ["Too little room for images", "container_images_minimum_free_mib"],
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(
    engine: docker.DockerClient, site: Site, built: Run, variables: dict[str, Any], messages: list[str]
) -> None:
    before = tags(engine, site)
    site.bad(*messages, entry_point="preflight", **variables)
    assert tags(engine, site) == before


@pytest.mark.slow
def test_a_mirror_out_of_reach_is_told_with_the_files_that_name_it(
    engine: docker.DockerClient, site: Site, built: Run
) -> None:
    before = tags(engine, site)
    site.bad(
        "Image base: No root file system of",
        "/etc/apt/",
        "apt-get update",
        wanted=["base"],
        revision="nowhere",
        environment={"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
    )
    site.bad(
        "Image traefik: pip could not fetch",
        "pip config list",
        wanted=["traefik"],
        revision="nowhere",
        cache_dir=str(site.folder / "empty"),
        environment={"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"},
    )
    assert tags(engine, site) == before


@pytest.mark.slow
def test_exported_images_load_on_a_host_without_a_network(
    engine: docker.DockerClient, site: Site, built: Run, tmp_path: Path
) -> None:
    dest = tmp_path / "archives"
    site.good("export", export_dir=str(dest), export_names=["socket_proxy", "traefik"])
    names = sorted(path.name for path in dest.iterdir())
    assert len(names) == 4
    assert f"socket_proxy-{built.refs['socket_proxy'].rpartition(':')[2]}-" in " ".join(names)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dest, check=True)

    sources = yaml.safe_load((dest / "container_images_sources.yml").read_text())["container_images_sources"]
    for source in sources.values():
        source["path"] = str(dest / source["path"])
    # A second host: same engine, names of its own, and nothing of the first.
    other = Site(tmp_path)
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "http_proxy": "http://127.0.0.1:9"}
    try:
        for name in ("socket_proxy", "traefik"):
            engine.images.remove(built.refs[name], force=True)
        run = other.good(sources=sources, environment=nowhere)
        assert run.changed == 1
        assert run.refs["traefik"].startswith(f"{other.repository}/traefik:")
        assert "HAProxy version" in say(engine, run.refs["socket_proxy"], "haproxy", "-v")
        assert "3.7.15" in say(engine, run.refs["traefik"], "version")
        assert other.good(sources=sources, environment=nowhere).changed == 0

        (dest / Path(sources["traefik"]["path"]).name).write_bytes(b"damaged")
        assert other.good(sources=sources).changed == 0, "a loaded image needs its archive no more"
        engine.images.remove(run.refs["traefik"], force=True)
        other.bad("Image traefik:", "has the checksum sha256:", "It is not loaded", sources=sources)
        sources["traefik"]["remote_src"] = True
        other.bad("Image traefik:", "has the checksum sha256:", "It is not loaded", sources=sources)
        assert tags(engine, other) == {run.refs["socket_proxy"]}
    finally:
        other.good("absent")
    assert tags(engine, other) == set()
    # Loading gave back the first site's names too; they are what the archives hold.
    site.good(wanted=["traefik", "socket_proxy", "base"])


@pytest.mark.slow
def test_the_same_image_gives_the_same_archive(site: Site, built: Run, tmp_path: Path) -> None:
    for number in ("1", "2"):
        site.good(
            "export", export_dir=str(tmp_path / number), export_names=["socket_proxy"], export_on_host=True
        )
    sums = [(tmp_path / number / "SHA256SUMS").read_text() for number in ("1", "2")]
    assert sums[0] == sums[1]
    site.bad(
        "There is no image 'socket_prox'", entry_point="export", export_names=["socket_prox"],
        export_dir=str(tmp_path),
    )  # fmt: skip


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry, Debian's package docker-registry, unpacked and not installed."""
    folder = tmp_path_factory.mktemp("registry")
    subprocess.run(["apt-get", "-q", "download", "docker-registry"], cwd=folder, check=True)
    subprocess.run(["dpkg-deb", "-x", *map(str, folder.glob("*.deb")), "."], cwd=folder, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
    }
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(folder / "usr/bin/docker-registry"), "serve", str(folder / "config.yml")],
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(100):
            try:
                requests.get(f"http://{address}/v2/", timeout=1)
                break
            except requests.ConnectionError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_a_registrys_image_is_pulled_by_digest_through_a_mirror(
    engine: docker.DockerClient, site: Site, built: Run, registry: str
) -> None:
    pushed = f"{registry}/library/proxy"
    engine.images.get(built.refs["socket_proxy"]).tag(pushed, "1")
    answers = engine.images.push(pushed, tag="1", stream=True, decode=True)
    digest = next(answer["aux"]["Digest"] for answer in answers if "aux" in answer)
    engine.images.remove(f"{pushed}:1")
    mirrors = {"registry.example.com": registry}
    source = {"source": "registry", "reference": f"registry.example.com/library/proxy:1@{digest}"}
    sources = {"socket_proxy": source}
    other = Site(site.folder)
    try:
        engine.images.remove(built.refs["socket_proxy"], force=True)
        run = other.good(wanted=["socket_proxy"], sources=sources, registry_mirrors=mirrors)
        assert run.changed == 1
        assert run.refs["socket_proxy"] == f"{pushed}@{digest}"
        assert "HAProxy version" in say(engine, run.refs["socket_proxy"], "haproxy", "-v")
        assert other.good(wanted=["socket_proxy"], sources=sources, registry_mirrors=mirrors).changed == 0

        missing = f"registry.example.com/library/proxy@sha256:{'0' * 64}"
        other.bad(
            "cannot be pulled",
            "container_images_registry_mirrors",
            wanted=["socket_proxy"],
            sources={"socket_proxy": {**source, "reference": missing}},
            registry_mirrors=mirrors,
        )
    finally:
        other.good("absent")
    with pytest.raises(docker.errors.ImageNotFound):
        engine.images.get(f"{pushed}@{digest}")


@pytest.mark.slow
def test_absent_takes_what_is_ours_and_nothing_else(engine: docker.DockerClient, tmp_path: Path) -> None:
    site = Site(tmp_path)
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "Dockerfile").write_text('FROM scratch\nCOPY it /it\nCMD ["/it"]\n')
    (folder / "it").write_text("it")
    shutil.copytree(folder, tmp_path / "used")
    (tmp_path / "used/it").write_text("used")
    extra = {"small": {"folder": str(folder)}, "used": {"folder": str(tmp_path / "used")}}
    run = site.good(wanted=["small", "used"], extra=extra)
    theirs = f"vf-theirs-{uuid.uuid4().hex[:8]}"
    engine.images.get(run.refs["small"]).tag(theirs, "1")
    container = engine.containers.create(run.refs["used"], labels={"vf.test": site.repository})
    try:
        check = site.good("absent", "--check")
        assert check.changed >= 1
        assert tags(engine, site) == set(run.refs.values())
        assert site.good("absent").changed >= 1
        assert tags(engine, site) == {run.refs["used"]}
        assert engine.images.get(f"{theirs}:1").labels["voicefleet.managed"] == "true"
        assert not (tmp_path / "cache").exists()
    finally:
        container.remove()
        engine.images.remove(f"{theirs}:1")
    site.good("absent")
    assert tags(engine, site) == set()
    assert site.good("absent").changed == 0
