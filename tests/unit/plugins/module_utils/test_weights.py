# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a model from a directory or an archive: what is laid down, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _weights_job,
    _weights_manifest,
    _weights_store,
    _weights_use,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_manifest import WeightsError
from ansible_collections.voicefleet.cosyvoice.plugins.modules.model_weights import ARGUMENT_SPEC

FILES = {"cosyvoice3.yaml": b"sample_rate: 24000\n", "llm.pt": os.urandom(70_000), "Blank/config.json": b"{}"}
FAMILY = {"name": "CosyVoice3", "file": "cosyvoice3.yaml", "others": {"cosyvoice2.yaml": "CosyVoice2"}}
DEFAULTS = {name: option.get("default") for name, option in ARGUMENT_SPEC.items()}


class Site:
    """A host, its directory of models, and a directory of a model's files."""

    def __init__(self, path: Path) -> None:
        self.source, self.models = path / "source", path / "models"
        self.said: list[str] = []
        self.warned: list[str] = []
        self.params: dict[str, t.Any] = {
            **DEFAULTS,
            "dir": str(self.models),
            "name": "model",
            "revision": "r1",
            "source": "directory",
            "path": str(self.source),
            "family": FAMILY,
            "files": list(FILES),
            "minimum_free_mib": 0,
            "docker_host": f"unix://{path}/no-engine.sock",
            "cache_dir": str(path / "cache"),
        }
        lay(self.source, FILES)

    def bring(self, check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
        self.params.update(params)
        return _weights_job.bring(self.params, check_mode, self.said.append, self.warned.append)

    @property
    def there(self) -> Path:
        return self.models / "model" / str(self.params["revision"])

    def visible(self) -> dict[str, bytes]:
        """All that replicas could be given, as names and content."""
        found = {}
        for file in self.models.rglob("*"):
            name = file.relative_to(self.models / "model")
            if file.is_file() and not str(name).startswith("."):
                found[str(name)] = file.read_bytes()
        return found


def lay(directory: Path, files: t.Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def pack(path: Path, files: t.Mapping[str, bytes], *members: tarfile.TarInfo) -> str:
    with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return str(path)


def manifest_of(files: t.Mapping[str, bytes]) -> str:
    entries = {
        name: _weights_manifest.Entry(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    }
    return _weights_manifest.dump(entries)


def set_digest(files: t.Mapping[str, bytes]) -> str:
    """As the speech server makes it."""
    lines = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_it_appears_whole_read_only_and_recorded_and_a_second_run_changes_nothing(site: Site) -> None:
    lay(site.source, {".git/HEAD": b"ref", "llm.rl.pt": b"not asked for"})
    assert site.bring(check_mode=True)["changed"]
    assert not site.models.exists()
    first = site.bring()
    assert (first["changed"], first["recorded"], first["brought"]) == (True, True, sorted(FILES))
    assert {name: (site.there / name).read_bytes() for name in FILES} == FILES
    assert sorted(
        str(file.relative_to(site.there)) for file in site.there.rglob("*") if file.is_file()
    ) == sorted(FILES)
    assert {oct(file.stat().st_mode & 0o777) for file in site.there.rglob("*") if file.is_file()} == {"0o444"}
    assert {oct(path.stat().st_mode & 0o777) for path in (site.there, site.there / "Blank")} == {"0o755"}
    assert not list((site.models / "model/.incoming").iterdir())
    subprocess.run(["sha256sum", "--check", "--strict", first["manifest_file"]], cwd=site.there, check=True)
    second = site.bring()
    assert (second["changed"], second["digest"]) == (False, first["digest"])


def test_the_digest_is_the_one_that_the_speech_server_tells(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speech_server.identity import digests

    served = {name: site.source / name for name in ("cosyvoice3.yaml", "llm.pt")}
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests(served).items())
    told = site.bring(digest_files=[*served, "flow.decoder.estimator.fp32.onnx"])["digest"]
    assert told == hashlib.sha256(lines.encode()).hexdigest()


def test_a_directory_is_copied_once_and_not_read_again_while_its_files_are_as_they_were(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.bring()
    shutil.rmtree(site.source)
    read: list[str] = []
    hash_file = _weights_store.hash_file
    monkeypatch.setattr(
        _weights_store, "hash_file", lambda path, *rest: (read.append(path), hash_file(path, *rest))[1]
    )
    assert not site.bring()["changed"]
    assert read == []
    os.utime(site.there / "llm.pt")
    assert not site.bring()["changed"]
    assert read == [str(site.there / "llm.pt")]
    assert not site.bring(verify="full")["changed"]
    assert len(read) == 1 + len(FILES)


@pytest.mark.parametrize("compared", ["manifest", "digest"])
def test_a_flipped_byte_is_refused_and_nothing_is_to_be_seen_of_it(site: Site, compared: str) -> None:
    lay(site.source, {"llm.pt": FILES["llm.pt"][:-1] + bytes([FILES["llm.pt"][-1] ^ 1])})
    known = {"manifest": {"manifest": manifest_of(FILES)}, "digest": {"digest": set_digest(FILES)}}[compared]
    with pytest.raises(WeightsError, match=r"llm.pt: sha256|have the digest"):
        site.bring(**known)
    assert site.visible() == {}
    lay(site.source, FILES)
    assert site.bring()["digest"] == set_digest(FILES)


def test_a_missing_file_is_refused_with_what_there_is(site: Site) -> None:
    (site.source / "llm.pt").unlink()
    with pytest.raises(WeightsError, match=r"has no llm\.pt\. It has: Blank/config.json, cosyvoice3.yaml\."):
        site.bring()
    assert not (site.models / "model").is_dir() or site.visible() == {}


def test_another_family_is_refused_by_its_name(site: Site) -> None:
    (site.source / "cosyvoice3.yaml").rename(site.source / "cosyvoice2.yaml")
    with pytest.raises(WeightsError, match=r"no cosyvoice3.yaml.*It is CosyVoice2"):
        site.bring(files=["*"])
    assert site.visible() == {}


def test_too_little_room_is_refused_before_anything_is_copied(site: Site) -> None:
    with pytest.raises(WeightsError, match=r"Too little room in .*have to stay free"):
        site.bring(minimum_free_mib=10**9)
    assert site.visible() == {}
    assert not (site.models / "model/.incoming").exists()


def test_a_file_that_changes_on_the_disk_is_refused_and_repaired_in_its_place(site: Site) -> None:
    site.bring()
    directory = site.there.stat().st_ino
    os.chmod(site.there / "llm.pt", 0o644)
    content = bytearray(FILES["llm.pt"])
    content[100] ^= 1
    (site.there / "llm.pt").write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"llm\.pt: sha256 .* instead of .*A replica that starts now would load it"
    ):
        site.bring()
    (site.there / "cosyvoice3.yaml").unlink()
    with pytest.raises(WeightsError, match=r"cosyvoice3.yaml: missing"):
        site.bring()
    repaired = site.bring(repair=True)
    assert repaired["brought"] == ["cosyvoice3.yaml", "llm.pt"]
    assert {name: (site.there / name).read_bytes() for name in FILES} == FILES
    assert site.there.stat().st_ino == directory  # Replicas have it mounted.
    assert not site.bring(repair=False)["changed"]


def test_a_bad_byte_that_kept_its_time_is_found_when_everything_is_read_through(site: Site) -> None:
    site.bring()
    seen = (site.there / "llm.pt").stat()
    os.chmod(site.there / "llm.pt", 0o644)
    (site.there / "llm.pt").write_bytes(b"\0" + FILES["llm.pt"][1:])
    os.utime(site.there / "llm.pt", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert not site.bring()["changed"]
    with pytest.raises(WeightsError, match=r"llm.pt: sha256"):
        site.bring(verify="full")


def test_a_file_that_is_asked_for_later_is_added_to_the_revision(site: Site) -> None:
    site.bring()
    lay(site.source, {"flow.onnx": b"for TensorRT"})
    added = site.bring(files=[*FILES, "flow.onnx"])
    assert (added["brought"], added["digest"]) == (
        ["flow.onnx"],
        set_digest({**FILES, "flow.onnx": b"for TensorRT"}),
    )
    assert (site.there / "flow.onnx").read_bytes() == b"for TensorRT"


def test_what_was_recorded_holds_even_after_the_revision_is_gone(site: Site) -> None:
    site.bring()
    shutil.rmtree(site.there)
    lay(site.source, {"llm.pt": os.urandom(70_000)})
    with pytest.raises(WeightsError, match=r"llm\.pt: sha256 .*r1\.sha256"):
        site.bring()
    lay(site.source, {"llm.pt": b"shorter"})
    with pytest.raises(WeightsError, match=r"llm\.pt: .* has 7 bytes, and .*r1\.sha256 says 70000"):
        site.bring()
    lay(site.source, FILES)
    assert not site.bring()["recorded"]


def test_a_recorded_manifest_that_another_contradicts_is_refused(site: Site) -> None:
    site.bring()
    other = manifest_of({**FILES, "Blank/config.json": b"[]"})
    with pytest.raises(WeightsError, match=r"Blank/config.json: .*ours.sha256 says"):
        site.bring(manifest=other, manifest_name="ours.sha256")


def test_two_at_once_are_refused(site: Site) -> None:
    with (
        _weights_store.Store(str(site.models), "model").locked(),
        pytest.raises(WeightsError, match=r"Another run"),
    ):
        site.bring()
    assert site.bring()["changed"]


def test_an_archive_is_unpacked_without_the_directory_that_holds_it_all(site: Site, tmp_path: Path) -> None:
    path = pack(
        tmp_path / "model.tar.gz", {f"Fun-CosyVoice3/{name}": content for name, content in FILES.items()}
    )
    assert site.bring(source="archive", path=path)["digest"] == set_digest(FILES)
    assert {name: (site.there / name).read_bytes() for name in FILES} == FILES


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"files": {"../outside": b"x"}}, id="a name above"),
        pytest.param({"files": {"a/../../outside": b"x"}}, id="a name above from below"),
        pytest.param({"files": {"/etc/voicefleet-outside": b"x"}}, id="an absolute name"),
        pytest.param({"member": link("llm.pt", "/etc/shadow")}, id="a link to a file"),
        pytest.param({"member": link("Blank", "/etc")}, id="a link to a directory"),
        pytest.param({"member": link("llm.pt", "cosyvoice3.yaml", tarfile.LNKTYPE)}, id="a hard link"),
        pytest.param({"member": link("pipe", "", tarfile.FIFOTYPE)}, id="a pipe"),
        pytest.param({"member": link("disk", "", tarfile.BLKTYPE)}, id="a device"),
    ],
)
def test_an_archive_that_reaches_outside_is_refused_as_a_whole(
    site: Site, tmp_path: Path, bad: dict[str, t.Any]
) -> None:
    members = [bad["member"]] if "member" in bad else []
    path = pack(tmp_path / "model.tar.gz", {**FILES, **bad.get("files", {})}, *members)
    with pytest.raises(WeightsError, match=r"does not lie inside|neither a file nor a directory"):
        site.bring(source="archive", path=path)
    assert site.visible() == {}
    assert not (site.models / "model/.incoming").exists()
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("compression", ["gz", "xz", "bz2"])
def test_an_archive_that_was_altered_on_its_way_is_refused(
    site: Site, tmp_path: Path, compression: str
) -> None:
    """Each compression has an error of its own for that."""
    large = " ".join(map(str, range(200_000))).encode()
    path = Path(pack(tmp_path / f"model.tar.{compression}", {**FILES, "large": large}))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :: 1000] = bytes(len(content[len(content) // 2 :: 1000]))
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"no tar archive|cannot be read|is broken within"):
        site.bring(source="archive", path=str(path))
    assert site.visible() == {}


def test_a_torn_archive_is_refused(site: Site, tmp_path: Path) -> None:
    path = Path(pack(tmp_path / "model.tar.gz", FILES))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"cannot be read to its end|is broken within"):
        site.bring(source="archive", path=str(path))
    path.write_text("no archive")
    with pytest.raises(WeightsError, match=r"is no tar archive"):
        site.bring(source="archive", path=str(path))
    with pytest.raises(WeightsError, match=r"There is no file .*rsync"):
        site.bring(source="archive", path=str(tmp_path / "none"))
    assert site.visible() == {}


def test_old_revisions_go_unless_a_container_or_a_rollback_needs_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts: list[str] = []
    monkeypatch.setattr(_weights_job, "mounted", lambda _docker_host: mounts)
    for number in range(1, 6):
        site.bring(revision=f"r{number}", keep=9)
        os.utime(site.there, (number, number))
    mounts[:] = [str(site.models / "model/r1"), str(site.models / "model/r2/"), str(site.models / "model")]
    assert site.bring(check_mode=True, revision="r5", keep=1)["removed"] == ["r3"]
    assert site.bring(revision="r5", keep=1)["removed"] == ["r3"]
    assert sorted(path.name for path in (site.models / "model").glob("r?")) == ["r1", "r2", "r4", "r5"]
    assert (site.models / "model/r3.sha256").exists()
    assert not site.bring()["changed"]
    with pytest.raises(WeightsError, match=r"still use"):
        _weights_job.absent(site.params, False, print, print)
    mounts.clear()
    assert _weights_job.absent(site.params, False, print, print)["changed"]
    assert not (site.models / "model").exists()
    assert not _weights_job.absent(site.params, False, print, print)["changed"]


def test_what_a_rollback_would_mount_is_read_from_the_labels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    socket = tmp_path / "docker.sock"
    socket.touch()

    class Api:
        def containers(self, **asked: bool) -> list[dict[str, t.Any]]:
            def label(path: str) -> str:
                return f'{{"specification": {{"mounts": [{{"source": "{path}"}}]}}, "image_id": "x"}}'

            assert asked == {"all": True}
            return [
                {"Mounts": [{"Source": "/models/m/now"}], "Labels": None},
                {
                    "Labels": {
                        "voicefleet.specification": label("/models/m/wanted"),
                        "voicefleet.previous": label("/models/m/before"),
                    }
                },
                {"Labels": {"voicefleet.previous": "{torn"}},
            ]

    class Client:
        api = Api()

    monkeypatch.setattr(_weights_use, "connect", lambda _host: Client())
    paths = _weights_use.mounted(f"unix://{socket}")
    assert _weights_use.used("/models/m", ["now", "wanted", "before", "be", "other"], paths) == {
        "now", "wanted", "before",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# size 1 a\n",
        "0" * 64 + "  a\n",
        "# size 1 ../a\n" + "0" * 64 + "  ../a\n",
        "# size 1 a\nabc  a\n",
    ],
)
def test_a_manifest_that_is_none_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(WeightsError, match=r"given.sha256"):
        _weights_manifest.parse(text, "given.sha256")


def test_progress_tells_how_much_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(_weights_job.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_weights_job, "size_below", lambda _path: int(clock[0]) * 2**20)
    said: list[str] = []
    meter = _weights_job.Meter(said.append)
    for second in range(120):
        clock[0] = float(second)
        meter.bytes("incoming", 2**30)
    assert 8 <= len(said) <= 14
    assert said[-1].endswith(" of 1.00 GiB, 1.0 MiB/s, about 15 min left")
