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
from dataclasses import dataclass
from pathlib import Path

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_build import (
    check_archive,
    sha256_of,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_recipe import (
    WHEELS,
    RecipeError,
    files_to_copy,
    parse_recipe,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import (
    ARGUMENT_SPEC,
    BUILD_REQUIREMENTS,
    LOCKED,
    NO_REQUIREMENTS,
    REQUIREMENTS,
    Image,
    ImagesError,
    lock_state,
    parse_images,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._source_tree import (
    SourceError,
    SourceTree,
    check_file,
)

MODULE = "voicefleet.cosyvoice.container_images"


@dataclass(frozen=True)
class Folder:
    """The folder of an image on the controller, the text of its Dockerfile, its files of Python packages."""

    path: Path
    dockerfile: str
    requirements: t.Mapping[str, Path]

    def files(self) -> dict[str, Path]:
        """All that goes into the image or decides what does, by the names they have on the host."""
        recipe = parse_recipe(self.dockerfile, f"Dockerfile in {self.path}")
        found = {str(file.relative_to(self.path)): file for file in files_to_copy(recipe, self.path)}
        return {**found, **(self.requirements if recipe.uses(WHEELS) else {})}

    def describe(self) -> dict[str, str]:
        """What decides whether the image must be built again: names, modes and content of its files."""
        digest = hashlib.sha256()
        for name, file in self.files().items():
            executable = os.access(file, os.X_OK)
            digest.update(f"{name} {executable} {sha256_of(file)}\n".encode())
        states = [lock_state(file.read_text("utf-8")) for file in self.requirements.values()]
        locked = next((state for state in states if state != LOCKED), LOCKED) if states else NO_REQUIREMENTS
        return {"dockerfile": self.dockerfile, "digest": digest.hexdigest(), "requirements": locked}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Runs on the controller, in front of the module of the same name."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        _unused, arguments = self.validate_argument_spec(ARGUMENT_SPEC)
        state = arguments["state"]
        try:
            if state == "exported":
                return self._export(arguments, task_vars)
            if state in ("present", "planned"):
                return self._bring(arguments, task_vars)
        except (ImagesError, RecipeError, SourceError) as error:
            # Ansible would append the messages of all causes, which says the same thing again.
            raise AnsibleActionFail(str(error)) from None
        return self._module(arguments, task_vars)

    def _module(self, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(MODULE, arguments, task_vars=task_vars)
        return result

    def _bring(self, arguments: dict[str, t.Any], task_vars: t.Any) -> dict[str, t.Any]:
        folders = self._folders(arguments)
        arguments["folders"] = {name: folder.describe() for name, folder in folders.items()}
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
        trees = {
            f"{image.name}/{tree.name}": self._local_tree(image, tree)
            for image in images
            for tree in image.trees
            if image.name in due and tree.is_sent
        }
        for image in images:
            if image.name in due and image.name in archives:
                check_archive(image, archives[image.name])
        if arguments["state"] == "planned":
            return plan
        if not due or self._task.check_mode:
            return {**plan, "changed": bool(due)}
        sent = {name: path for name, path in archives.items() if name in due}
        arguments["archives"] = {name: self._send(path) for name, path in {**sent, **trees}.items()}
        built = {image.name: folders[image.name] for image in images if image.source == "build"}
        with tempfile.TemporaryDirectory() as directory:
            packed = Path(directory) / "folders.tar.gz"
            _pack({name: path for name, path in built.items() if name in due}, packed)
            arguments["folders_archive"] = self._send(packed)
        return self._module(arguments, task_vars)

    def _folders(self, arguments: dict[str, t.Any]) -> dict[str, Folder]:
        """The folders of images that may be built; those of other sources need none."""
        found = {}
        for name, definition in arguments["images"].items():
            if (arguments["sources"].get(name) or {}).get("source", "build") != "build":
                continue
            definition = definition or {}
            try:
                place = Path(self._find_needle("files", definition.get("folder") or name))
            except AnsibleError:
                continue  # Told as a missing folder, and only if the image is wanted.
            dockerfile = place / (definition.get("dockerfile") or "Dockerfile")
            if dockerfile.is_file():
                requirements = self._requirements(name, place, definition)
                found[name] = Folder(place, dockerfile.read_text("utf-8"), requirements)
        return found

    def _requirements(self, name: str, folder: Path, definition: t.Mapping[str, t.Any]) -> dict[str, Path]:
        """The files of Python packages, in the folder or anywhere; the one that is not named need not be."""
        found = {}
        for key, called in (("requirements", REQUIREMENTS), ("build_requirements", BUILD_REQUIREMENTS)):
            given = definition.get(key) or ""
            file = folder / (given or called)
            if file.is_file() and (given or key == "requirements"):
                found[called] = file
            elif given:
                try:
                    found[called] = Path(self._find_needle("files", given))
                except AnsibleError as error:
                    raise ImagesError(
                        f"Image {name}: there is no file {given} ({key}), neither in {folder} nor where "
                        "files are looked for. Give its full path."
                    ) from error
        return found

    def _local_tree(self, image: Image, tree: SourceTree) -> Path:
        try:
            file = Path(self._find_needle("files", tree.path))
        except AnsibleError as error:
            raise ImagesError(
                f"Image {image.name}: there is no file {tree.path} on the controller for its tree "
                f"{tree.name}. Give its full path, or remote_src: true if it is on the host."
            ) from error
        check_file(tree, file)
        return file

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


def _pack(folders: t.Mapping[str, Folder], archive: Path) -> None:
    """All folders in one file, owned by root and readable to all, whatever they are here."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mode = 0o755 if member.mode & 0o111 else 0o644
        return member

    with tarfile.open(archive, "w:gz", compresslevel=1) as stream:
        for name, folder in folders.items():
            for called, file in folder.files().items():
                stream.add(file, f"{name}/{called}", filter=plain)
