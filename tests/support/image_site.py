# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine as a host that builds images, with a cache, a configuration and image names of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """What became of a playbook, and the references that it told."""

    ok: bool
    changed: int
    output: str
    refs: dict[str, str]


class ImageSite:
    """Runs a play that leaves ``container_images_refs`` as JSON in ``refs_file``."""

    def __init__(self, folder: Path, play: str) -> None:
        self.folder = folder
        self.repository = f"vf-images-{uuid.uuid4().hex[:8]}"
        (folder / "play.yml").write_text(play)
        self.variables: dict[str, Any] = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "container_images_repository": self.repository,
            "container_images_cache_dir": str(folder / "cache"),
            "container_images_config_dir": str(folder / "etc"),
            "container_images_minimum_free_mib": 500,
            "refs_file": str(folder / "refs.json"),
        }

    def play(self, *arguments: str, environment: Mapping[str, str] | None = None, **variables: Any) -> Run:
        refs = self.folder / "refs.json"
        refs.unlink(missing_ok=True)
        done = subprocess.run(
            [
                "ansible-playbook",
                "--inventory=localhost,",
                "--connection=local",
                f"--extra-vars={json.dumps({**self.variables, **variables})}",
                *arguments,
                str(self.folder / "play.yml"),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
                "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
                **(environment or {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        changed = re.search(r"changed=(\d+)", output)
        return Run(
            done.returncode == 0,
            int(changed[1]) if changed else -1,
            output,
            json.loads(refs.read_text()) if refs.exists() else {},
        )

    def clear(self, engine: docker.DockerClient) -> None:
        """Take away its images, and the containers that bear its name as label ``vf.test``."""
        for container in engine.containers.list(all=True, filters={"label": f"vf.test={self.repository}"}):
            container.remove(force=True)
        for image in engine.images.list():
            for tag in image.tags:
                if tag.startswith(f"{self.repository}/"):
                    engine.images.remove(tag, force=True)
