# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module container_images does, from its parameters to its result."""

from __future__ import annotations

import platform
import typing as t
from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import EngineError, connect
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_build import (
    MIB,
    Settings,
    check_archive,
    missing_tools,
    provide,
    read_host,
    short_of_space,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_store import Store
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import (
    ImagesError,
    Target,
    nearest,
    parse_images,
    targets,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._source_tree import check_file

Params = t.Mapping[str, t.Any]

# The engine answers a commit or an import when all is written, which takes a slow disk minutes.
ENGINE_TIMEOUT_SECONDS = 900


def bring(params: Params, check_mode: bool) -> dict[str, t.Any]:
    """States `present` and `planned`."""
    images = parse_images(
        params["images"],
        params["sources"],
        params["wanted"],
        params["folders"],
        params["mirrors"],
        params["allow_tags"],
    )
    host = read_host(params["python"], params["suite"])
    wanted = targets(images, host, params["repository"], params["revision"])
    changes_something = params["state"] == "present" and not check_mode
    store, engine = None, ""
    try:
        store = _store(params)
    except EngineError as error:
        if changes_something:
            raise
        engine = str(error)
    due = [target for target in wanted if not (store and store.has(target))]
    building = [target.image for target in due if target.image.source == "build"]
    result: dict[str, t.Any] = {
        "changed": bool(due) and params["state"] == "present",
        "refs": {target.image.name: target.reference for target in wanted},
        "due": [
            {"name": target.image.name, "verb": target.image.verb, "reference": target.reference}
            for target in due
        ],
        "missing_tools": missing_tools(building, params["python"]),
        "engine": engine,
    }
    if not due:
        return result
    _check_host(params, due, store)
    result["diff"] = {
        "before": {target.image.name: store.latest(target.image.name) if store else None for target in due},
        "after": {target.image.name: target.reference for target in due},
    }
    if not (changes_something and store):
        return result
    if result["missing_tools"]:
        raise ImagesError(
            f"{', '.join(image.name for image in building)} cannot be built: this host lacks "
            f"{', '.join(result['missing_tools'])}. Install {', '.join(result['missing_tools'].values())} "
            "(Debian, Ubuntu), or take the images from a registry or an archive (container_images_sources)."
        )
    settings = Settings(
        params["python"],
        Path(params["cache_dir"]),
        Path(params["folders_archive"]) if params["folders_archive"] else None,
        {
            **{target.image.name: _archive_path(params, target) for target in due if target.image.path},
            **{name: path for target in due for name, path in _tree_archives(params, target)},
        },
    )
    result["seconds"] = provide(wanted, due, host, settings, lambda: _store(params))
    result["sizes_mib"] = {
        target.image.name: round(found["Size"] / MIB)
        for target in due
        if (found := store.inspect(target.reference))
    }
    return result


def absent(params: Params, check_mode: bool) -> dict[str, t.Any]:
    """State `absent`. A host without an engine has no images."""
    socket = params["docker_host"].partition("unix://")[2]
    if socket and not Path(socket).exists():
        return {"changed": False, "removed": [], "kept": []}
    store = _store(params)
    removed, kept = store.remove_managed(check_mode)
    diff = {"before": {"images": sorted([*removed, *kept])}, "after": {"images": kept}}
    return {"changed": bool(removed), "removed": removed, "kept": kept, "diff": diff}


def export(params: Params, check_mode: bool) -> dict[str, t.Any]:
    """State `exported`: archives, their checksums, and the variables that load them elsewhere."""
    store = _store(params)
    there = store.managed()
    for name in params["names"]:
        if name not in there:
            raise ImagesError(
                f"There is no image '{name}' of ours on this host.{nearest(name, there)} "
                f"There are: {', '.join(sorted(there)) or 'none'}."
            )
    names = sorted(params["names"] or there)
    if not names:
        raise ImagesError("There is no image of ours on this host. Run role container_images first.")
    dest = Path(params["dest"])
    if not check_mode:
        dest.mkdir(parents=True, exist_ok=True)
        _need_space([str(dest)], sum(there[name]["Size"] for name in names) // MIB)
    archives = []
    for name in names:
        reference = there[name]["reference"]
        suffix = "tar.gz" if params["compress"] else "tar"
        # The tag is the hash of the inputs, which the architecture is part of; it is here for people.
        file = dest / f"{name}-{reference.rpartition(':')[2]}-{platform.machine()}.{suffix}"
        checksum = "" if check_mode else store.save(reference, file, params["compress"])
        archives.append(
            {"name": name, "file": file.name, "checksum": f"sha256:{checksum}", "reference": reference}
        )
    if not check_mode:
        sums = "".join(f"{archive['checksum'][7:]}  {archive['file']}\n" for archive in archives)
        (dest / "SHA256SUMS").write_text(sums, encoding="utf-8")
        (dest / "container_images_sources.yml").write_text(_sources_yaml(archives), encoding="utf-8")
    return {"changed": True, "archives": archives, "dest": str(dest)}


def _sources_yaml(archives: t.Iterable[dict[str, str]]) -> str:
    """Variables for hosts that load the archives. Written by hand: the host may have no YAML library."""
    lines = [
        "---",
        "# Paste into the inventory of hosts without a network. Put the archives into the playbook's files/,",
        "# or give full paths; with `remote_src: true` the paths are on the hosts.",
        "container_images_sources:",
    ]
    for archive in archives:
        lines += [
            f"  {archive['name']}:",
            "    source: archive",
            f"    path: {archive['file']}",
            f"    checksum: {archive['checksum']}",
        ]
    return "\n".join(lines) + "\n"


def _store(params: Params) -> Store:
    return Store(connect(params["docker_host"], ENGINE_TIMEOUT_SECONDS), params["repository"])


def _archive_path(params: Params, target: Target) -> Path:
    return Path(params["archives"].get(target.image.name, target.image.path))


def _tree_archives(params: Params, target: Target) -> t.Iterator[tuple[str, Path]]:
    for tree in target.image.trees:
        if tree.path:
            name = f"{target.image.name}/{tree.name}"
            yield name, Path(params["archives"].get(name, tree.path))


def _check_host(params: Params, due: t.Sequence[Target], store: Store | None) -> None:
    """Refuse what would fail later for reasons this host shows now."""
    for target in due:
        if target.image.source == "archive" and target.image.remote_src:
            check_archive(target.image, _archive_path(params, target))
        for tree in target.image.trees:
            if tree.remote_src:
                check_file(tree, Path(tree.path))
    # An engine elsewhere has its directory elsewhere.
    local = params["docker_host"].startswith("unix://")
    docker_root = store.docker_root() if store and local else "/var/lib/docker"
    needed = max([params["minimum_free_mib"], *(target.image.free_mib for target in due)])
    _need_space([params["cache_dir"], *([docker_root] if local else [])], needed)


def _need_space(paths: t.Sequence[str], minimum_free_mib: int) -> None:
    short = short_of_space(paths, minimum_free_mib)
    if short:
        raise ImagesError(
            f"Too little room for images: {' and '.join(short)}, {minimum_free_mib} MiB are wanted "
            "(container_images_minimum_free_mib). Free some, or move container_images_cache_dir or the "
            "engine's data-root to a larger file system."
        )
