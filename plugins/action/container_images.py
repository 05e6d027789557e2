# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give module container_images what only the controller has: folders of images, and archives.

Wrong input is refused here, before any host is touched. Files travel only when an image is due: the module
is asked first, and gets the digests of the folders to answer.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_build import (
    check_archive,
    sha256_of,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import (
    ARGUMENT_SPEC,
    NO_REQUIREMENTS,
    Image,
    ImagesError,
    lock_state,
    parse_images,
)

MODULE = "voicefleet.cosyvoice.container_images"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Runs on the controller, in front of the module of the same name."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENT_SPEC)
        state = arguments["state"]
        try:
            if state == "exported":
                return self._export(arguments, task_vars)
            if state in ("present", "planned"):
                return self._bring(arguments, task_vars)
        except ImagesError as error:
            raise AnsibleActionFail(str(error)) from error
        return self._module(arguments, task_vars)

    def _module(self, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(MODULE, arguments, task_vars=task_vars)
        return result

    def _bring(self, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        folders = self._folders(arguments)
        arguments["folders"] = {name: _describe(path) for name, path in folders.items()}
        images = parse_images(
            arguments["images"],
            arguments["sources"],
            arguments["wanted"],
            arguments["folders"],
            arguments["mirrors"],
            arguments["allow_tags"],
        )
        archives = {image.name: self._local_archive(image) for image in images if _is_sent(image)}
        plan = self._module({**arguments, "state": "planned"}, task_vars)
        if plan.get("failed"):
            return plan
        due = {item["name"] for item in plan["due"]}
        for image in images:
            if image.name in due and image.name in archives:
                check_archive(image, archives[image.name])
        if arguments["state"] == "planned":
            return plan
        if not due or self._task.check_mode:
            return {**plan, "changed": bool(due)}
        arguments["archives"] = {name: self._send(path) for name, path in archives.items() if name in due}
        built = {image.name: folders[image.name] for image in images if image.source == "build"}
        with tempfile.TemporaryDirectory() as directory:
            packed = Path(directory) / "folders.tar.gz"
            _pack({name: path for name, path in built.items() if name in due}, packed)
            arguments["folders_archive"] = self._send(packed)
        return self._module(arguments, task_vars)

    def _folders(self, arguments: dict[str, t.Any]) -> dict[str, Path]:
        """Where the folders of images that may be built are; those of other sources need none."""
        found = {}
        for name, definition in arguments["images"].items():
            if (arguments["sources"].get(name) or {}).get("source", "build") != "build":
                continue
            try:
                place = Path(self._find_needle("files", (definition or {}).get("folder") or name))
            except AnsibleError:
                continue  # Told as a missing folder, and only if the image is wanted.
            if (place / "Dockerfile").is_file():
                found[name] = place
        return found

    def _local_archive(self, image: Image) -> Path:
        try:
            return Path(self._find_needle("files", image.path))
        except AnsibleError as error:
            raise ImagesError(
                f"Image {image.name}: there is no file {image.path} on the controller. Give its full path, "
                "or remote_src: true if it is on the host."
            ) from error

    def _send(self, path: Path) -> str:
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        remote: str = shell.join_path(shell.tmpdir, path.name)
        self._transfer_file(str(path), remote)
        self._fixup_perms2((shell.tmpdir, remote))
        return remote

    def _export(self, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        dest = arguments["dest"]
        if not dest or arguments["remote_dest"] or self._task.check_mode:
            return self._module(arguments, task_vars)
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        remote = shell.join_path(shell.tmpdir, "export")
        result = self._module({**arguments, "dest": remote}, task_vars)
        if result.get("failed"):
            return result
        local = Path(str(dest)).expanduser()
        local.mkdir(parents=True, exist_ok=True)
        files = [archive["file"] for archive in result["archives"]]
        for file in [*files, "SHA256SUMS", "container_images_sources.yml"]:
            self._connection.fetch_file(shell.join_path(remote, file), str(local / file))
        for archive in result["archives"]:
            if f"sha256:{sha256_of(local / archive['file'])}" != archive["checksum"]:
                raise ImagesError(f"{local / archive['file']} was damaged on its way here. Export again.")
        # What the module wrote as root, the connection's user may not remove with its temporary directory.
        self._execute_module("ansible.builtin.file", {"path": remote, "state": "absent"}, task_vars=task_vars)
        return {**result, "dest": str(local)}


def _is_sent(image: Image) -> bool:
    return image.source == "archive" and not image.remote_src


def _files(folder: Path) -> t.Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield path


def _describe(folder: Path) -> dict[str, str]:
    """What decides whether an image must be built again: names, modes and content of its files."""
    digest = hashlib.sha256()
    for path in _files(folder):
        executable = os.access(path, os.X_OK)
        digest.update(f"{path.relative_to(folder)} {executable} {sha256_of(path)}\n".encode())
    requirements = folder / "requirements.txt"
    locked = lock_state(requirements.read_text("utf-8")) if requirements.is_file() else NO_REQUIREMENTS
    return {
        "dockerfile": (folder / "Dockerfile").read_text(encoding="utf-8"),
        "digest": digest.hexdigest(),
        "requirements": locked,
    }


def _pack(folders: t.Mapping[str, Path], archive: Path) -> None:
    """All folders in one file, owned by root and readable to all, whatever they are here."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mode = 0o755 if member.mode & 0o111 else 0o644
        return member

    with tarfile.open(archive, "w:gz", compresslevel=1) as stream:
        for name, folder in folders.items():
            for path in _files(folder):
                stream.add(path, f"{name}/{path.relative_to(folder)}", filter=plain)
