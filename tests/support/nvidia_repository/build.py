#!/usr/bin/env python3
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for NVIDIA's apt repositories: packages of the real names (packages.yml), signed.

Usage: build.py FOLDER [SET ...]       SET is toolkit, driver ...; all without one

Below FOLDER each set has the folder that it has below NVIDIA's address, with an index of its own, and the
key is FOLDER/key.asc. A host that is given FOLDER reads it as file:///... Needs dpkg-deb and gpg.
"""

from __future__ import annotations

import email.utils
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent


def packages(kind: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(name, version, what it holds) of every package of a set, in every version."""
    for name, about in kind["packages"].items():
        for version in about.get("versions", kind["versions"]):
            yield name, version, about


def fill(text: str, version: str, package: str = "") -> str:
    upstream = version.rpartition("-")[0] or version
    return text.format(version=version, upstream=upstream, branch=version.partition(".")[0], package=package)


def make(name: str, version: str, about: Mapping[str, Any], folder: Path) -> Path:
    """Build one package into ``folder``."""
    real = fill(name, version)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        root.chmod(0o755)
        for target, source in about.get("files", {}).items():
            lay(root / fill(target, version, real).lstrip("/"), source, version)
        fields = {
            "Package": real,
            "Version": version,
            "Architecture": about.get("architecture", "amd64"),
            "Maintainer": "Stand-in <nobody@example.org>",
            "Description": "Stand-in for NVIDIA's package of this name",
            **{key.title(): fill(str(about[key]).strip(), version) for key in RELATIONS if key in about},
        }
        control = root / "DEBIAN"
        control.mkdir(mode=0o755)
        (control / "control").write_text("".join(f"{key}: {text}\n" for key, text in fields.items()))
        for script, text in scripts(about, version, real).items():
            (control / script).write_text(f"#!/bin/sh\nset -e\n{text}")
            (control / script).chmod(0o755)
        package = folder / f"{real}_{version}_{fields['Architecture']}.deb"
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root), str(package))
    return package


RELATIONS = ("depends", "provides", "conflicts", "replaces", "breaks")


def scripts(about: Mapping[str, Any], version: str, package: str) -> dict[str, str]:
    """A package's own scripts by name, and what its units want of systemd.

    As NVIDIA's own, a package is installed also where its unit cannot run.
    """
    found = {name: fill(text, version, package) for name, text in about.get("scripts", {}).items()}
    if units := " ".join(about.get("enable", [])):
        there = "[ ! -d /run/systemd/system ] ||"
        found["postinst"] = found.get("postinst", "") + (
            f"{there} systemctl daemon-reload\n"
            f"{there} systemctl enable --now {units} || echo 'Warning: failed to enable {units}' >&2\n"
        )
        found["prerm"] = f'[ "$1" != remove ] || {there} systemctl disable --now {units}\n'
    return found


def lay(target: Path, source: str, version: str) -> None:
    """A file of a package: a link, or one of ours with its version in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.startswith("-> "):
        target.symlink_to(fill(source[3:], version))
        return
    text = (HERE / "files" / source).read_text(encoding="utf-8")
    target.write_text(text.replace("@UPSTREAM@", fill("{upstream}", version)), encoding="utf-8")
    target.chmod(0o755 if text.startswith("#!") else 0o644)


def index(folder: Path, made: list[Path]) -> None:
    """apt's index of a flat repository, signed."""
    stanzas = []
    for package in made:
        content = package.read_bytes()
        control = run("dpkg-deb", "--field", str(package))
        digest = hashlib.sha256(content).hexdigest()
        stanzas.append(f"{control}Filename: ./{package.name}\nSize: {len(content)}\nSHA256: {digest}\n")
    text = "\n".join(stanzas)
    (folder / "Packages").write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    release = f"Date: {email.utils.formatdate()}\nSHA256:\n {digest} {len(text.encode())} Packages\n"
    (folder / "Release").write_text(release, encoding="utf-8")
    gpg("--yes", "--armor", "--clearsign", "--output", str(folder / "InRelease"), str(folder / "Release"))


def gpg(*arguments: str) -> str:
    return run("gpg", "--homedir", KEYS.name, "--batch", "--quiet", *arguments)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


KEYS = tempfile.TemporaryDirectory()


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        sys.exit(__doc__)
    target = Path(arguments[0])
    kinds = yaml.safe_load((HERE / "packages.yml").read_text(encoding="utf-8"))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    gpg(
        "--passphrase",
        "",
        "--quick-generate-key",
        "Stand-in for NVIDIA <nobody@example.org>",
        "rsa2048",
        "sign",
    )
    (target / "key.asc").write_text(gpg("--armor", "--export"), encoding="ascii")
    for kind in arguments[1:] or kinds:
        folder = target / kinds[kind]["folder"]
        folder.mkdir(parents=True)
        index(folder, [make(*package, folder) for package in packages(kinds[kind])])
    run("gpgconf", "--homedir", KEYS.name, "--kill", "gpg-agent")
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
