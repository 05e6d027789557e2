# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module model_weights does, from its parameters to its result.

This module util is private to the collection.
"""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import os
import shutil
import tempfile
import time
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _weights_hub as hubs
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _weights_local as local
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import EngineError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_manifest import (
    Entry,
    Manifest,
    WeightsError,
    agree,
    check_digest,
    choose,
    digest_of,
    gib,
    parse,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_store import (
    REVISION,
    Look,
    Store,
    check_space,
    read_through,
    size_below,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_use import mounted, used

Params = t.Mapping[str, t.Any]
Say = t.Callable[[str], None]

# How often progress is shown: soon at first, then as a reader wants it.
FIRST_LINE_SECONDS, LONGEST_LINE_SECONDS = 2.0, 15.0
RATE_SECONDS = 20.0
# A file that is not what it should be is fetched once more before it is refused.
TRIES = 2


class Meter:
    """Says now and then how far it is, and how long it will take."""

    def __init__(self, say: Say) -> None:
        self.say, self.pause = say, FIRST_LINE_SECONDS
        self.next = time.monotonic() + self.pause
        self.seen: list[tuple[float, int]] = []

    def due(self) -> bool:
        """Whether it is time for a line."""
        now = time.monotonic()
        if now < self.next:
            return False
        self.pause = min(self.pause * 1.5, LONGEST_LINE_SECONDS)
        self.next = now + self.pause
        return True

    def line(self, text: str) -> None:
        """A line, if it is time for one."""
        if self.due():
            self.say(text)

    def bytes(self, directory: str, total: int) -> None:
        """How much of it is in the directory."""
        if not self.due():
            return
        now, size = time.monotonic(), min(size_below(directory), total)
        self.seen = [(at, then) for at, then in self.seen if now - at < RATE_SECONDS + self.pause] + [
            (now, size)
        ]
        rate = (size - self.seen[0][1]) / max(now - self.seen[0][0], 1e-9)
        left = f", {gib(rate)}/s, about {(total - size) / rate / 60:.0f} min left" if rate > 0 else ""
        self.say(f"{gib(size)} of {gib(total)}{left}")


def planned(params: Params, _check_mode: bool, _say: Say, _warn: Say) -> dict[str, t.Any]:
    """State C(planned): what is there, without asking anybody."""
    store = Store(params["dir"], params["name"])
    look = store.look(_revision(params))
    due = not look.there or bool(look.faults) or _lacks(look, params["files"])
    return {"changed": False, "due": due, "pip": _has_pip(), **_result(store, params, look.manifest, look)}


def bring(params: Params, check_mode: bool, say: Say, warn: Say) -> dict[str, t.Any]:
    """State C(present)."""
    revision, pinned = _revision(params), check_digest(params["digest"], "digest")
    store = Store(params["dir"], params["name"])
    known, known_from = _known(store, params)
    if check_mode:
        return _bring(store, params, revision, pinned, known, known_from, check_mode, say, warn)
    with store.locked():
        result = _bring(store, params, revision, pinned, known, known_from, check_mode, say, warn)
        store.forget(revision)
        return result


def absent(params: Params, check_mode: bool, _say: Say, _warn: Say) -> dict[str, t.Any]:
    """State C(absent): every revision of the model, and the libraries that fetched it."""
    store = Store(params["dir"], params["name"])
    revisions = store.revisions()
    if in_use := sorted(used(store.path, revisions, mounted(params["docker_host"]))):
        raise WeightsError(
            "Containers of this host still use "
            f"{', '.join(store.directory(revision) for revision in in_use)}. Remove the service first."
        )
    paths = [path for path in (store.path, params["cache_dir"]) if path and os.path.exists(path)]
    for path in [] if check_mode else paths:
        shutil.rmtree(path)
    return {
        "changed": bool(paths),
        "removed": revisions,
        "diff": {"before": {"paths": paths}, "after": {"paths": []}},
    }


def _bring(
    store: Store,
    params: Params,
    revision: str,
    pinned: str,
    known: Manifest,
    known_from: str,
    check_mode: bool,
    say: Say,
    warn: Say,
) -> dict[str, t.Any]:
    look = store.look(revision, params["verify"] == "full", Meter(say).line)
    _refuse_damage(store, revision, look, params["repair"])
    good = {name: entry for name, entry in look.manifest.items() if look.there and name not in look.faults}
    result: dict[str, t.Any] = {"changed": False, "brought": [], "recorded": False}
    if not look.there or look.faults or _lacks(look, params["files"]):
        with _source(params, check_mode, say, warn) as source:
            if source is None:
                return {**result, "changed": True, "bytes": None, **_result(store, params, known, look)}
            wanted = agree(source.wanted(params), known, source.where, known_from)
            due = [entry for name, entry in sorted(wanted.items()) if name not in good]
            incoming, total = store.incoming(revision), sum(entry.size for entry in due)
            check_space(store.path, max(total - size_below(incoming), 0), params["minimum_free_mib"])
            result.update(changed=True, brought=[entry.name for entry in due], bytes=total)
            result["recorded"] = any(entry.name not in known for entry in due)
            result["diff"] = _diff(store.directory(revision), good, due)
            if check_mode:
                return {**result, **_result(store, params, {**known, **wanted}, look), "removed": []}
            say(f"{len(due)} files, {gib(total)}, from {source.where}")
            brought = _fetch_and_check(source, due, incoming, total, known_from, say, warn)
        whole = {**{name: good[name] for name in good}, **brought}
        try:
            _check_pin(whole, params, pinned, source.where)
        except WeightsError:  # Nobody knows which of the files it is.
            shutil.rmtree(incoming)
            raise
        store.publish(revision, whole, f"{params['name']} {revision}", f"from {source.where}")
        look = Look(True, whole)
    else:
        _check_family(look.manifest, params["family"], store.directory(revision))
        _check_pin(look.manifest, params, pinned, store.directory(revision))
    removed = _prune(store, revision, params, check_mode, warn)
    return {
        **result,
        "changed": result["changed"] or bool(removed),
        "removed": removed,
        **_result(store, params, look.manifest, look),
    }


class _Source(abc.ABC):
    """Where files come from. Subclasses list them, and bring some of them into a directory."""

    where = ""

    @abc.abstractmethod
    def list(self) -> list[Entry]: ...

    @abc.abstractmethod
    def fetch(
        self, entries: t.Sequence[Entry], directory: str, tell: t.Callable[[], None], warn: Say
    ) -> None: ...

    def wanted(self, params: Params) -> Manifest:
        """Those of its files that are asked for. Raises WeightsError."""
        listed = {entry.name: entry for entry in self.list()}
        _check_family(listed, params["family"], self.where)
        return choose(listed.values(), params["files"], self.where)


class _FromHub(_Source):
    def __init__(self, params: Params, libraries: str) -> None:
        kind = params["source"]
        self.libraries = libraries
        self.hub = hubs.Hub(
            kind,
            params["repository"],
            params["ref"] or params["revision"],
            (params["endpoint"] or hubs.ENDPOINTS[kind]).rstrip("/"),
            params["token"],
        )
        self.where = self.hub.where

    def list(self) -> list[Entry]:
        return hubs.list_files(self.libraries, self.hub)

    def fetch(
        self, entries: t.Sequence[Entry], directory: str, tell: t.Callable[[], None], warn: Say
    ) -> None:
        hubs.fetch(self.libraries, self.hub, entries, directory, tell, warn)


class _FromHost(_Source):
    def __init__(self, params: Params) -> None:
        self.where = params["path"]
        archive = params["source"] == "archive"
        self._list = local.list_archive if archive else local.list_directory
        self._copy = local.copy_archive if archive else local.copy_directory

    def list(self) -> list[Entry]:
        return self._list(self.where)

    def fetch(
        self, entries: t.Sequence[Entry], directory: str, tell: t.Callable[[], None], _warn: Say
    ) -> None:
        self._copy(self.where, entries, directory, tell)


@contextlib.contextmanager
def _source(params: Params, check_mode: bool, say: Say, warn: Say) -> t.Iterator[_Source | None]:
    """The source. In check mode missing libraries are had for the moment; None if they cannot be."""
    if params["source"] in ("archive", "directory"):
        yield _FromHost(params)
    elif check_mode and not _has_pip():
        warn(
            "pip, which fetches the hub's client library, is not on this host yet: what is to be brought "
            "is not known."
        )
        yield None
    elif libraries := hubs.installed(params["requirements"], params["cache_dir"]):
        yield _FromHub(params, libraries)
    elif check_mode:
        with tempfile.TemporaryDirectory() as cache:
            yield _FromHub(params, hubs.install(params["requirements"], cache))
    elif _has_pip():
        say("fetching the hub's client library")
        yield _FromHub(params, hubs.install(params["requirements"], params["cache_dir"]))
    else:
        raise WeightsError(
            "pip, which fetches the hub's client library, is not on this host. Install it (python3-pip), "
            "or bring the files as an archive or a directory."
        )


def _fetch_and_check(
    source: _Source,
    due: t.Sequence[Entry],
    incoming: str,
    total: int,
    known_from: str,
    say: Say,
    warn: Say,
) -> Manifest:
    """Bring files and read them through. Raises WeightsError, and leaves what is good for the next time."""
    os.makedirs(os.path.dirname(incoming), mode=0o700, exist_ok=True)
    os.makedirs(incoming, exist_ok=True)
    brought: Manifest = {}
    faults: dict[str, str] = {}
    for attempt in range(TRIES):
        meter = Meter(say)
        missing = [entry for entry in due if entry.name not in brought]
        source.fetch(missing, incoming, lambda meter=meter: meter.bytes(incoming, total), warn)  # type: ignore[misc]
        good, faults = read_through(incoming, missing, Meter(say).line)
        brought.update((name, entry) for name, entry in good.items() if name not in faults)
        for name in faults:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(incoming, name))
        if not faults:
            return brought
        if attempt + 1 < TRIES:
            say(f"{', '.join(faults)}: not what was announced, fetched once more")
    told = "; ".join(f"{name}: {fault}" for name, fault in sorted(faults.items()))
    raise WeightsError(
        f"{source.where} gave {told}. Digests are those of {known_from or 'the hub itself'}. What is wrong "
        "was thrown away, nothing that replicas see was touched. A proxy or mirror in between may have "
        "damaged it: take another."
    )


def _known(store: Store, params: Params) -> tuple[Manifest, str]:
    """What is known beforehand of the files, and from where: what came along, and what was recorded."""
    recorded_file = store.manifest_file(params["revision"])
    recorded = store.recorded(params["revision"])
    if not params["manifest"].strip():
        return recorded, recorded_file if recorded else ""
    name = params["manifest_name"] or "the manifest"
    given = parse(params["manifest"], name)
    shared = {file: entry for file, entry in recorded.items() if file in given}
    agree(shared, given, recorded_file, name)
    return {**recorded, **given}, name


def _lacks(look: Look, patterns: t.Sequence[str]) -> bool:
    """Whether a file that is asked for is not among those that were brought, as after it was asked for."""
    try:
        choose(look.manifest.values(), patterns, "")
    except WeightsError:
        return True
    return False


def _refuse_damage(store: Store, revision: str, look: Look, repair: bool) -> None:
    if not look.there or not look.faults or (repair and look.manifest):
        return
    told = "; ".join(f"{name}: {fault}" if name else fault for name, fault in sorted(look.faults.items()))
    remedy = (
        "set repair, which fetches these files again and puts them in their place"
        if look.manifest
        else "move it away and let it be brought again"
    )
    raise WeightsError(
        f"{store.directory(revision)} is not what was brought there: {told}. A replica that starts now "
        f"would load it. Look at the disk (dmesg, smartctl), then {remedy}."
    )


def _check_family(entries: Manifest, family: t.Mapping[str, t.Any] | None, where: str) -> None:
    """Raises WeightsError for files of another kind of model."""
    if not family or family["file"] in entries:
        return
    others = [name for file, name in (family["others"] or {}).items() if file in entries]
    found = f"It is {' and '.join(others)}" if others else "It is no model of this family"
    raise WeightsError(
        f"{where} has no {family['file']}, by which {family['name']} is known. {found}, which this service "
        "cannot run: correct the repository, the revision or the path."
    )


def _check_pin(manifest: Manifest, params: Params, pinned: str, where: str) -> None:
    found = digest_of(manifest, params["digest_files"])
    if pinned and found != pinned:
        raise WeightsError(
            f"The files of {params['name']} {params['revision']} from {where} have the digest {found}, and "
            f"{pinned} is asked for. Nothing that replicas see was touched. Correct the digest, or the "
            "source."
        )


def _prune(store: Store, revision: str, params: Params, check_mode: bool, warn: Say) -> list[str]:
    """Remove what neither a container nor a rollback needs."""
    revisions = store.revisions()
    if len(revisions) <= params["keep"] + 1:
        return []
    try:
        needed = used(store.path, revisions, mounted(params["docker_host"])) | {revision}
    except EngineError as error:
        warn(f"Old revisions of {params['name']} stay, as nobody can tell whether they are in use: {error}")
        return []
    removed = store.unneeded(needed, params["keep"])
    for old in [] if check_mode else removed:
        store.remove(old)
    return removed


def _revision(params: Params) -> str:
    for key in ("name", "revision"):
        if not REVISION.match(params[key]):
            raise WeightsError(
                f"{key} is '{params[key]}'. It names a directory: letters, digits, dots, dashes, a letter "
                "or digit first. What a hub calls it goes into ref."
            )
    return str(params["revision"])


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _diff(directory: str, good: Manifest, due: t.Sequence[Entry]) -> dict[str, str]:
    def line(entry: Entry) -> str:
        return f"{entry.sha256 or 'digest not known yet'}  {entry.name} ({gib(entry.size)})\n"

    before = "".join(line(entry) for _name, entry in sorted(good.items()))
    after = "".join(line(entry) for entry in sorted([*good.values(), *due], key=lambda entry: entry.name))
    return {"before_header": directory, "after_header": directory, "before": before, "after": after}


def _result(store: Store, params: Params, manifest: Manifest, look: Look) -> dict[str, t.Any]:
    whole = bool(manifest) and all(entry.sha256 for entry in manifest.values())
    return {
        "path": store.directory(params["revision"]),
        "manifest_file": store.manifest_file(params["revision"]),
        "there": look.there,
        "faults": look.faults,
        "digest": digest_of(manifest, params["digest_files"]) if whole else "",
    }
