# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hubs' own client libraries, as pip has them, against a stand-in that speaks both protocols.

The module is run as Ansible runs it, in a process of its own, so it can be killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_hub import Faults, ModelHub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "roles/model_weights/files/requirements.txt"
MODULE = "ansible_collections.voicefleet.cosyvoice.plugins.modules.model_weights"
MIB = 2**20
SMALL = {"cosyvoice3.yaml": b"sample_rate: 24000\n", "CosyVoice-BlankEN/config.json": b"{}"}
FILES = {**SMALL, "llm.pt": os.urandom(6 * MIB), "flow.pt": os.urandom(2 * MIB)}
both = pytest.mark.parametrize("kind", ["modelscope", "huggingface"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The libraries, fetched by the first run that needs them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, content in {**FILES, "llm.rl.pt": b"not asked for"}.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


class Host:
    """Where the files are brought to."""

    def __init__(self, path: Path, cache: Path, kind: str, hub: ModelHub) -> None:
        self.path = path
        self.progress = path / "progress"
        self.arguments: dict[str, t.Any] = {
            "dir": str(path / "models"),
            "name": "model",
            "revision": "r1",
            "source": kind,
            "repository": "owner/model",
            "ref": "main",
            "endpoint": hub.url,
            "files": list(FILES),
            "requirements": REQUIREMENTS.read_text(),
            "cache_dir": str(cache),
            "docker_host": f"unix://{path}/no-engine.sock",
            "progress_file": str(self.progress),
        }

    def run(self, check_mode: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        process = self.begin(check_mode, **arguments)
        answer, _unused = process.communicate()
        result = json.loads(answer)
        assert isinstance(result, dict)
        return result

    def begin(self, check_mode: bool = False, **arguments: t.Any) -> subprocess.Popen[str]:
        asked = {**self.arguments, **arguments, "_ansible_check_mode": check_mode}
        file = self.path / "arguments.json"
        file.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": asked}))
        return subprocess.Popen(
            [sys.executable, "-m", MODULE, str(file)],
            env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def there(self) -> Path:
        return self.path / "models/model/r1"

    def holds_everything(self) -> bool:
        found = {str(file.relative_to(self.there)): file for file in self.there.rglob("*") if file.is_file()}
        return {name: file.read_bytes() for name, file in found.items()} == FILES

    def fetched(self) -> int:
        files = (self.path / "models").rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file() and "/.hub" not in str(file))


@both
def test_a_broken_connection_is_taken_up_where_it_broke(
    tmp_path: Path, cache: Path, model: Path, kind: str
) -> None:
    with ModelHub(
        model, faults=Faults(cut={"llm.pt": [2 * MIB + 1000, MIB + 1000], "flow.pt": [MIB + 1]})
    ) as hub:
        host = Host(tmp_path, cache, kind, hub)
        planned = host.run(check_mode=True)
        assert (planned["changed"], planned["bytes"]) == (True, sum(map(len, FILES.values())))
        assert "llm.pt (6.0 MiB)" in planned["diff"]["after"]
        assert not (tmp_path / "models").exists()
        brought = host.run()
        assert brought.get("changed"), brought
        assert host.holds_everything()
        asked = hub.asked_for("llm.pt")
        # What came before the cut was kept, but for the piece that was under way.
        assert [int(part[6:-1]) // MIB for part in asked if part] == [2, 3]
        assert asked.count("") == 1
        again = host.run()
        assert (again["changed"], again["digest"]) == (False, brought["digest"])
        lines = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES))
        assert brought["digest"] == hashlib.sha256(lines.encode()).hexdigest()


@both
def test_killed_in_the_middle_the_next_run_goes_on_from_there(
    tmp_path: Path, cache: Path, model: Path, kind: str
) -> None:
    with ModelHub(model, faults=Faults(rate=MIB)) as hub:
        host = Host(tmp_path, cache, kind, hub)
        process = host.begin()
        wait_for(lambda: host.fetched() > 3 * MIB, process)
        second = host.run()
        assert "Another run is bringing files" in second["msg"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not host.there.exists()
        before = len(hub.contents)
        hub.faults.rate = 0
        # The process that fetched ended with the module, and its lock with it.
        assert host.run().get("changed")
        assert host.holds_everything()
        ranges = [
            asked for method, name, asked in hub.contents[before:] if method == "GET" and name == "llm.pt"
        ]
        assert len(ranges) == 1
        assert int(ranges[0][6:-1]) >= MIB
        assert "of 8.0 MiB" in host.progress.read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The models' directory, a file system of its own that just holds them."""
    models = tmp_path / "models"
    models.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={12 * MIB}", "tmpfs", models], check=True)
    yield models
    subprocess.run(["umount", "--lazy", models], check=True)


@both
def test_a_disk_that_fills_meanwhile_is_told_and_what_came_is_kept(
    tmp_path: Path, cache: Path, model: Path, small_disk: Path, kind: str
) -> None:
    with ModelHub(model, faults=Faults(rate=MIB)) as hub:
        host = Host(tmp_path, cache, kind, hub)
        process = host.begin(minimum_free_mib=0)
        wait_for(lambda: host.fetched() > 2 * MIB, process)
        heap = small_disk / "heap"
        with contextlib.suppress(OSError), heap.open("wb", buffering=0) as file:
            while file.write(bytes(MIB // 16)):
                pass
        answer, _unused = process.communicate()
        assert "no space left on the device. Make room" in json.loads(answer)["msg"]
        assert not host.there.exists()
        heap.unlink()
        hub.faults.rate = 0
        assert host.run(minimum_free_mib=0).get("changed")
        assert host.holds_everything()


@both
def test_wrong_bytes_are_refused_and_once_more_is_tried(
    tmp_path: Path, cache: Path, model: Path, kind: str
) -> None:
    with ModelHub(model, faults=Faults(wrong={"llm.pt": 1})) as hub:
        host = Host(tmp_path, cache, kind, hub)
        assert host.run().get("changed")
        assert host.holds_everything()
        hub.faults.wrong = {"flow.pt": 99}
        refused = host.run(revision="r2")
        assert refused["failed"]
        assert "flow.pt: sha256" in refused["msg"]
        assert "nothing that replicas see was touched" in refused["msg"]
        assert not (tmp_path / "models/model/r2").exists()
        hub.faults.wrong = {}
        assert host.run(revision="r2")["changed"]


@both
def test_a_hub_that_has_something_else_is_refused_before_anything_is_fetched(
    tmp_path: Path, cache: Path, model: Path, kind: str
) -> None:
    manifest = "".join(
        f"# size {len(content)} {name}\n{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in {**FILES, "llm.pt": b"\0" * len(FILES["llm.pt"])}.items()
    )
    with ModelHub(model) as hub:
        refused = Host(tmp_path, cache, kind, hub).run(manifest=manifest, manifest_name="known.sha256")
        assert "llm.pt: owner/model at main on http" in refused["msg"]
        assert "known.sha256 says" in refused["msg"]
        assert hub.contents == []


@both
def test_a_hub_that_is_busy_or_fails_is_asked_again(
    tmp_path: Path, cache: Path, model: Path, kind: str
) -> None:
    with ModelHub(model, faults=Faults(answers=[503, 429])) as hub:
        host = Host(tmp_path, cache, kind, hub)
        assert host.run().get("changed")
        assert host.holds_everything()


@both
@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(missing=["owner/model"]), "answered 404"),
        (Faults(missing=["main"]), "answered 404"),
        (Faults(token="hub-secret"), "wants a token"),
    ],
    ids=["no model", "no revision", "not public"],
)
def test_what_is_not_there_or_not_public_is_told(
    tmp_path: Path, cache: Path, model: Path, kind: str, faults: Faults, said: str
) -> None:
    with ModelHub(model, faults=faults) as hub:
        started = time.monotonic()
        refused = Host(tmp_path, cache, kind, hub).run()
        assert said in refused["msg"]
        assert "owner/model at main" in refused["msg"]
        assert time.monotonic() - started < 20


@both
def test_a_token_opens_what_is_not_public(tmp_path: Path, cache: Path, model: Path, kind: str) -> None:
    with ModelHub(model, faults=Faults(token="hub-secret")) as hub:
        host = Host(tmp_path, cache, kind, hub)
        result = host.run(token="hub-secret")
        assert result.get("changed"), result
        assert host.holds_everything()
        kept = [file.read_bytes() for file in (tmp_path / "models").rglob("*") if file.is_file()]
        assert not any(b"hub-secret" in content for content in kept)


def wait_for(condition: t.Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
