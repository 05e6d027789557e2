# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small root file system of Debian packages, made with the host's own package sources.

mmdebstrap, not debootstrap: it reads the host's deb822 sources with their keys and security updates, and its
variant `extract` unpacks packages without running their scripts. Measured for Python on Debian 12, 2 cores:
4 s and 45 MB, against 36 s and 280 MB with debootstrap (minbase), 28 s and 180 MB with mmdebstrap's variant
`essential`. What is lost is a shell and a package manager inside, which an image that runs one program should
not have. What the scripts would have made and a program needs is made here: the linker's cache.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import typing as t
from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import (
    ToolError,
    find_tool,
    run,
)

# Other packages depend on these only for their maintainer scripts, which are not run. Telling apt that they
# are there keeps perl, dpkg and a shell's worth of tools out: 107 MB become 32 MB for HAProxy.
ONLY_FOR_SCRIPTS = (
    "adduser", "awk", "debconf", "dpkg", "init-system-helpers", "lsb-base", "mawk", "mount", "passwd", "perl",
    "perl-base", "sysvinit-utils", "tar", "usr-is-merged", "usrmerge",
)  # fmt: skip

# Settings of the host's apt that decide whether and how a mirror is reached; mmdebstrap starts from none.
_ACQUIRE = re.compile(
    r"Acquire::(?:Retries|Check-Date|Check-Valid-Until|ForceIPv[46]|(?:http|https|ftp|tor)\b.*) "
)

_UNWANTED = (
    "dev/*", "etc/apt", "etc/hostname", "etc/resolv.conf", "var/cache/*", "var/lib/apt", "var/lib/dpkg/*",
    "var/log/*", "usr/share/bug", "usr/share/doc-base", "usr/share/info", "usr/share/lintian",
    "usr/share/locale", "usr/share/man",
)  # fmt: skip


class Sources(t.NamedTuple):
    """Package sources as one deb822 text, and the files they were found in."""

    text: str
    files: tuple[str, ...]


def host_sources(suite: str, etc_apt: Path = Path("/etc/apt")) -> Sources:
    """The host's own sources of the distribution `suite`, its updates and its security updates.

    Third parties' repositories are left out by their suite or for lack of the component `main`. Raises
    ToolError when nothing is left.
    """
    suites = {suite, f"{suite}-updates", f"{suite}-security"}
    files = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]
    stanzas: list[str] = []
    used: list[str] = []
    for file in files:
        if file.suffix not in (".list", ".sources") or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        entries = _deb822(text) if file.suffix == ".sources" else _one_line(text)
        for entry in entries:
            found = [name for name in entry.get("suites", "").split() if name in suites]
            if (
                not found
                or "main" not in entry.get("components", "").split()
                or "deb" not in entry.get("types", "").split()
                or entry.get("enabled", "yes").lower() in ("no", "false", "0", "off", "without", "disable")
            ):
                continue
            entry = {**entry, "types": "deb", "suites": " ".join(found), "components": "main"}
            stanzas.append("".join(f"{_title(key)}: {value}\n" for key, value in entry.items()))
            used.append(str(file))
    if not stanzas:
        raise ToolError(
            f"No package source of this host ({etc_apt}/sources.list, {etc_apt}/sources.list.d/) serves "
            f"'{suite}' with the component main, so no root file system can be built. Add one, or let the "
            "images come from a registry or an archive (container_images_sources)."
        )
    return Sources("\n".join(stanzas), tuple(dict.fromkeys(used)))


def make_rootfs(target: Path, packages: t.Sequence[str], suite: str, work: Path) -> None:
    """Unpack `packages` with all they need into the new directory `target`. Raises ToolError."""
    mmdebstrap = find_tool("mmdebstrap")
    if not mmdebstrap:
        raise ToolError("mmdebstrap is not installed on this host; it comes with Debian and Ubuntu.")
    sources = host_sources(suite)
    work.mkdir(parents=True, exist_ok=True)
    # Everybody may pass through: apt downloads as its own user.
    work.chmod(0o755)
    sources_file, options_file = work / "host.sources", work / "apt.conf"
    sources_file.write_text(sources.text, encoding="utf-8")
    options = [line for line in run(["apt-config", "dump"]).splitlines() if _ACQUIRE.match(line)]
    options_file.write_text("\n".join([*options, 'Acquire::Languages "none";', ""]), encoding="utf-8")
    options_file.chmod(0o600)
    hook = work / "setup-hook"
    hook.write_text(_setup_hook(), encoding="utf-8")
    try:
        run(
            [
                mmdebstrap,
                "--mode=root",
                "--format=directory",
                "--variant=extract",
                f"--include={','.join(['base-files', *packages])}",
                f"--aptopt={options_file}",
                f'--setup-hook=sh {hook} "$1"',
                # The packages' own files are read below, for the list of what the image holds.
                "--skip=cleanup/apt",
                suite,
                str(target),
                str(sources_file),
            ],
            env={"TMPDIR": str(work)},
        )
    except ToolError as error:
        raise ToolError(
            f"No root file system of {suite} with {', '.join(packages)} could be made from this host's "
            f"package sources ({', '.join(sources.files)}). Check that `apt-get update` works here. {error}"
        ) from error
    _record_packages(target)
    _prune(target)
    # Without it every start searches the directories, and the NVIDIA container toolkit has no cache to renew.
    run(["ldconfig", "-r", str(target)])


def _setup_hook() -> str:
    """Shell for mmdebstrap, before its first download: merged /usr, credentials, what apt need not fetch."""
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    status = "".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nMulti-Arch: foreign\n"
        "Version: 99:0\nMaintainer: nobody\nDescription: left out, only maintainer scripts need it\n\n"
        for name in ONLY_FOR_SCRIPTS
    )
    return f"""set -eu
for directory in bin sbin lib lib64; do
    mkdir -p "$1/usr/$directory"
    ln -sfn "usr/$directory" "$1/$directory"
done
mkdir -p "$1/etc/apt"
for file in /etc/apt/auth.conf /etc/apt/auth.conf.d; do
    test ! -e "$file" || cp -a "$file" "$1/etc/apt/"
done
cat >> "$1/var/lib/dpkg/status" <<'END'
{status}END
"""


def _record_packages(root: Path) -> None:
    """Leave the control data of what is inside where scanners look in images without a package manager."""
    directory = root / "var/lib/dpkg/status.d"
    records = {}
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        records[package.name.split("_")[0]] = run(["dpkg-deb", "--field", str(package)])
    if not records:
        raise ToolError("mmdebstrap unpacked no package at all.")
    # The list apt worked with names packages that are not there.
    shutil.rmtree(root / "var/lib/dpkg")
    directory.mkdir(parents=True)
    for name, record in records.items():
        (directory / name).write_text(record, encoding="utf-8")


def _prune(root: Path) -> None:
    """Take out what nobody reads in a container; the copyright files stay."""
    for pattern in _UNWANTED:
        for path in root.glob(pattern):
            if path == root / "var/lib/dpkg/status.d":
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in (root / "usr/share/doc").rglob("*"):
        if path.name != "copyright" and not path.is_dir():
            path.unlink()


def _deb822(text: str) -> list[dict[str, str]]:
    """The stanzas of a .sources file, keys in lower case, continuation lines kept (inline keys need them)."""
    entries: list[dict[str, str]] = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        entry: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t" and key:
                entry[key] += "\n" + line
            else:
                key, _unused, value = line.partition(":")
                key = key.strip().lower()
                entry[key] = value.strip()
        if entry:
            entries.append(entry)
    return entries


def _one_line(text: str) -> list[dict[str, str]]:
    """`deb [signed-by=KEY arch=amd64] URI SUITE COMPONENT...` as the fields of a deb822 stanza."""
    renamed = {"arch": "architectures", "lang": "languages", "target": "targets"}
    entries: list[dict[str, str]] = []
    for line in text.splitlines():
        parts = re.match(r"\s*(deb)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if not parts:
            continue
        kind, options, uri, suite, components = parts.groups()
        entry = {"types": kind, "uris": uri, "suites": suite, "components": components.strip()}
        for option in (options or "").split():
            key, _unused, value = option.partition("=")
            entry[renamed.get(key, key)] = value.replace(",", " ")
        entries.append(entry)
    return entries


def _title(key: str) -> str:
    return {"uris": "URIs"}.get(key, "-".join(part.capitalize() for part in key.split("-")))
