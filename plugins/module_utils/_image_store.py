# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in a Docker Engine: look, pull, load, put together, save, remove. No container is ever started."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import typing as t
import zlib
from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import (
    LABEL_INPUTS,
    LABEL_MANAGED,
    LABEL_ROLE,
    ImagesError,
    Target,
)

if t.TYPE_CHECKING:
    from docker import DockerClient

CHUNK_BYTES = 1 << 20


class Store:
    """The images of one engine; `repository` is the first part of the names of all we make."""

    def __init__(self, client: DockerClient, repository: str) -> None:
        # The SDK is only partly typed.
        self._api: t.Any = client.api
        self._repository = repository

    def docker_root(self) -> str:
        return str(self._api.info().get("DockerRootDir", ""))

    def inspect(self, reference: str) -> dict[str, t.Any] | None:
        from docker.errors import ImageNotFound

        try:
            found: dict[str, t.Any] = self._api.inspect_image(reference)
        except ImageNotFound:
            return None
        return found

    def has(self, target: Target) -> bool:
        """Whether the image is there, and is the one that these inputs give."""
        found = self.inspect(target.reference)
        if found is None or target.image.source != "build":
            return found is not None
        labels = found.get("Config", {}).get("Labels") or {}
        return labels.get(LABEL_INPUTS) == target.inputs

    def latest(self, name: str) -> str | None:
        """The newest reference of ours for an image, whatever its inputs were."""
        found = sorted(
            (image["Created"], tag)
            for image in self._api.images(name=f"{self._repository}/{name}")
            for tag in image.get("RepoTags") or []
            if tag.startswith(f"{self._repository}/{name}:")
        )
        return found[-1][1] if found else None

    def pull(self, target: Target) -> None:
        from docker.errors import DockerException

        repository, _unused, digest = target.reference.partition("@")
        tag = digest
        if not digest:
            repository, _unused, tag = target.reference.rpartition(":")
        try:
            self._api.pull(repository, tag=tag)
        except DockerException as error:
            raise ImagesError(
                f"Image {target.image.name}: {target.reference} cannot be pulled: {error}. Check that this "
                "host reaches the registry (or its mirror, container_images_registry_mirrors), that it is "
                "logged in if it must be (docker login), and that the registry has this image."
            ) from error
        self._tag(target.reference, f"{self._repository}/{target.image.name}", tag.split(":")[-1][:12])

    def load(self, target: Target, archive: Path) -> None:
        """Load what `docker save` wrote and give it our name. Exactly one image must be in it."""
        with archive.open("rb") as stream:
            answers = list(self._json_lines(self._api.load_image(stream)))
        loaded = [
            line.partition(": ")[2].strip()
            for answer in answers
            for line in str(answer.get("stream", "")).splitlines()
            if line.startswith("Loaded image")
        ]
        ids = {image["Id"] for image in map(self.inspect, loaded) if image}
        if len(ids) != 1:
            raise ImagesError(
                f"Image {target.image.name}: {archive.name} holds {len(ids)} images "
                f"({', '.join(loaded) or 'none'}), exactly one is wanted. Save them one by one."
            )
        repository, _unused, tag = target.reference.rpartition(":")
        self._tag(ids.pop(), repository, tag)

    def create(self, target: Target, tree: Path, parent: str | None, python: str) -> None:
        """Make an image of the files below `tree`, on top of `parent` or of nothing.

        `python` is the version (`X.Y`) that compiled modules in the tree are for, or empty. The name is given
        by the engine as the last step, so an interrupted run leaves no half image under it.
        """
        repository, _unused, tag = target.reference.rpartition(":")
        recipe = target.image.recipe
        if recipe is None:
            raise AssertionError(f"{target.image.name} is not built")
        changes = [
            *recipe.changes,
            f"LABEL {LABEL_MANAGED}=true {LABEL_ROLE}={target.image.name.replace('_', '-')} "
            f"{LABEL_INPUTS}={target.inputs}",
        ]
        if parent is None:
            answers = self._api.import_image_from_stream(
                _tar(tree), repository=repository, tag=tag, changes=changes
            )
            for answer in map(json.loads, str(answers).splitlines()):
                if "error" in answer:
                    raise ImagesError(f"Image {target.image.name}: the engine refused it: {answer['error']}")
            return
        labels = {LABEL_MANAGED: "true", LABEL_ROLE: "build"}
        config = self._api.inspect_image(parent).get("Config") or {}
        # What a container is made with stays in its image: the parent's own command, unless it has none.
        command = None if config.get("Cmd") or config.get("Entrypoint") else ["/"]
        container = self._api.create_container(parent, command=command, labels=labels)["Id"]
        try:
            if python:
                self._check_python(target, container, parent, python)
            self._api.put_archive(container, "/", _tar(tree))
            note = f"Files of {target.image.name}"
            self._api.commit(container, repository=repository, tag=tag, changes=changes, message=note)
        finally:
            self._api.remove_container(container, force=True, v=True)

    def save(self, reference: str, file: Path, compress: bool) -> str:
        """Write an image as `docker save` does; the sha256 of the file, in hex."""
        digest = hashlib.sha256()
        # Fastest level and no time stamp: the same image gives the same file.
        packer = zlib.compressobj(level=1, wbits=31) if compress else None
        part = file.with_name(file.name + ".part")
        with part.open("wb") as stream:

            def write(data: bytes) -> None:
                digest.update(data)
                stream.write(data)

            for chunk in self._api.get_image(reference, chunk_size=CHUNK_BYTES):
                write(packer.compress(chunk) if packer else chunk)
            if packer:
                write(packer.flush())
        part.replace(file)
        return digest.hexdigest()

    def managed(self) -> dict[str, dict[str, t.Any]]:
        """The newest image of ours for each name, as the engine lists it; the tag is under `reference`."""
        found: dict[str, dict[str, t.Any]] = {}
        for image in sorted(self._api.images(), key=lambda image: image["Created"]):
            for tag in self._our_tags(image):
                found[tag.partition(":")[0].partition("/")[2]] = {**image, "reference": tag}
        return found

    def remove_managed(self, check_mode: bool) -> tuple[list[str], list[str]]:
        """Remove all images of ours; which went, and which are kept because containers use them.

        Ours is what bears our name, or our label and no name at all (left by an interrupted run). An image
        that somebody built on ours inherits the label, but has a name of its own.
        """
        from docker.errors import APIError, ImageNotFound

        removed: list[str] = []
        kept: list[str] = []
        for image in self._api.images(all=False):
            ours = self._our_tags(image)
            tags = [tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>"]
            digests = [name for name in image.get("RepoDigests") or [] if name != "<none>@<none>"]
            names = ours
            if not tags and not digests and (image.get("Labels") or {}).get(LABEL_MANAGED) == "true":
                names = [str(image["Id"])]
            elif ours and set(ours) == set(tags):
                # Nobody else has named it: what it was pulled as goes too, and with its last name the image.
                names = [*ours, *digests]
            for name in names:
                try:
                    if not check_mode:
                        self._api.remove_image(name)
                except ImageNotFound:
                    continue  # Went with the name before.
                except APIError as error:
                    if error.status_code != 409:
                        raise
                    kept.append(name)
                    continue
                removed.append(name)
        return sorted(removed), sorted(kept)

    def remove_leftovers(self) -> None:
        """Containers of interrupted builds; they were never started."""
        ours = {"label": [f"{LABEL_MANAGED}=true", f"{LABEL_ROLE}=build"], "status": ["created"]}
        for container in self._api.containers(all=True, filters=ours):
            self._api.remove_container(container["Id"], v=True)

    def _our_tags(self, image: dict[str, t.Any]) -> list[str]:
        return sorted(tag for tag in image.get("RepoTags") or [] if tag.startswith(f"{self._repository}/"))

    def _tag(self, reference: str, repository: str, tag: str) -> None:
        """Our name marks what we brought, so that it can be taken away again."""
        self._api.tag(reference, repository, tag)

    def _check_python(self, target: Target, container: str, parent: str, python: str) -> None:
        """Compiled modules load only in the Python they are for; a link in the image tells which it has."""
        from docker.errors import NotFound

        for path in ("/usr/local/bin/python3", "/usr/bin/python3"):
            try:
                _unused, status = self._api.get_archive(container, path)
            except NotFound:
                continue
            version = os.path.basename(status.get("linkTarget") or "").partition("python")[2]
            if version and version != python:
                raise ImagesError(
                    f"Image {target.image.name}: its base {parent} has Python {version}, but this host's pip "
                    f"fetches packages for Python {python}. Build on a host of the base's release, or let "
                    "the image come from a registry or an archive (container_images_sources)."
                )
            return

    def _json_lines(self, answers: t.Iterable[dict[str, t.Any]]) -> t.Iterator[dict[str, t.Any]]:
        for answer in answers:
            if "error" in answer:
                raise ImagesError(f"The engine refused the archive: {answer['error']}")
            yield answer


def _tar(tree: Path) -> t.Iterator[bytes]:
    """The tree as a tar stream that depends on nothing but its content. Owners are kept as numbers."""
    argv = ["tar", "--create", "--sort=name", "--numeric-owner", "--mtime=@0", "--directory", str(tree), "."]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise AssertionError("a pipe was asked for")
        while chunk := process.stdout.read(CHUNK_BYTES):
            yield chunk
        if process.wait() != 0:
            # The stream breaks off here, and the engine drops what it has got.
            raise ImagesError(f"tar of {tree} ended with code {process.returncode}")
