# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at a host's cards and driver, put together with what they take.

This module util is private to the collection. It changes nothing.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _driver_choice,
    _driver_files,
    _driver_packages,
    _driver_plan,
    _driver_state,
    _pci,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_choice import (
    Card,
    Choice,
    Host,
    Wish,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_files import Archive
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine_info import (
    package_sources,
    run,
    which,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._role_file import content_of, planned

Json = dict[str, t.Any]


@dataclass(frozen=True)
class Request:
    """What the module was asked, by the names of its options."""

    wish: Wish
    distribution: str
    release: str
    codename: str
    family: str
    architecture: str
    manage: bool
    replace: bool
    reboot_policy: str
    upgrading: bool
    client_units: Sequence[str]
    manage_repo: bool
    manage_components: bool
    repo_url: str
    ask_sources: bool
    persistence: bool
    sysfs: str


def look(request: Request, record: Json) -> Json:
    """What the module returns, with ``plan`` as a Plan still."""
    found = _pci.devices(request.sysfs)
    cards = [Card(device.address, device.device) for device in _pci.cards(found)]
    nvswitches = len(_pci.nvswitches(found))
    nvlink5 = bool(cards) and _pci.has_nvlink5(request.sysfs)
    secure_boot = _driver_state.secure_boot(request.sysfs)
    host = Host(
        request.distribution,
        request.release,
        request.family,
        request.architecture,
        secure_boot,
        _driver_state.signing_key_enrolled() if secure_boot else None,
        nvswitches > 0 or nvlink5,
    )
    driver = _driver_state.look(request.sysfs)
    states = _driver_state.package_states() if cards else {}
    choice = _driver_choice.choose(cards, request.wish, host)
    wanted = (
        _driver_packages.Packages()
        if not cards or not choice.branch
        else _driver_packages.packages(
            choice,
            host,
            driver.kernels,
            _driver_packages.kernel_metas(states),
            nvlink5,
        )
    )
    wanted = _driver_packages.with_mps(wanted, choice, host, states)
    candidates = _driver_state.candidates(wanted.wanted)
    if request.ask_sources and host.kind == "RedHat":
        candidates = _driver_state.dnf_candidates(wanted.if_there)
    if request.upgrading:
        # The pins of the build that is there would hide the newer ones.
        offered = _driver_state.offered(wanted.driver)
        candidates.update(_driver_packages.newest(offered, choice.branch, request.wish.version))
    plan = _driver_plan.plan(
        cards,
        request.wish,
        _driver_plan.Rules(
            request.manage,
            request.replace,
            request.reboot_policy,
            bool(record.get("driver")),
            request.upgrading,
        ),
        choice,
        wanted,
        _driver_plan.Seen(driver, states, candidates),
    )
    if plan.managed and choice.source == "nvidia" and request.manage_repo:
        plan = replace(plan, problems=(*plan.problems, *_source_problems()))
    repository = _driver_files.repository(request.repo_url, host)
    reasons = _driver_state.reboot_reasons(driver, choice.flavour if plan.managed else "")
    return {
        "wsl": not cards and os.path.exists("/dev/dxg"),
        "cards": [
            {"address": card.address, "device": f"{card.device:04x}", "generation": card.generation.name}
            for card in cards
        ],
        "nvswitches": nvswitches,
        "nvlink5": nvlink5,
        "secure_boot": secure_boot,
        "choice": {
            "source": choice.source,
            "branch": choice.branch,
            "flavour": choice.flavour,
            "precompiled": choice.precompiled,
        },
        "driver": {
            **asdict(driver),
            "unbuilt": _driver_state.unbuilt_kernels("/"),
            "services": _driver_state.active_services() if cards else [],
            "client_units": _driver_state.active_services(request.client_units) if cards else [],
            "persistence_unit": bool(_driver_state.service_unit("nvidia-persistenced")),
            "initramfs": bool(_driver_state.initramfs_images("/")),
            "stale_initramfs": _driver_state.stale_initramfs("/", _driver_files.NOUVEAU),
        },
        "plan": plan,
        "unavailable": (
            _driver_packages.unavailable(wanted, candidates, choice.branch, request.wish.version)
            if request.ask_sources and which("apt-cache")
            else []
        ),
        "stream": wanted.stream,
        "install": [
            f"{name}={candidates[name]}"
            if name in candidates and name in (*wanted.driver, *plan.outdated)
            else name
            for name in (*plan.missing, *plan.outdated)
        ],
        "packages": {name: version for name, (_state, version) in states.items()},
        "broken": sorted(name for name, (state, _version) in states.items() if state != "installed"),
        "repository": {
            **asdict(repository),
            "key": _driver_files.KEY_RPM if host.kind == "RedHat" else _driver_files.KEY,
        },
        "files": files(request, host, choice, repository, nvlink5) if plan.managed and choice.branch else [],
        "all_files": [path for path in _driver_files.ALL if os.path.exists(path)],
        "mismatch": _driver_state.mismatch(driver),
        "reboot": {"due": bool(reasons), "reasons": reasons, "loadable": _driver_state.loadable(driver)},
        "pending": plan.managed and (not driver.loaded_version or bool(reasons)),
    }


def files(
    request: Request, host: Host, choice: Choice, repository: _driver_files.Repository, nvlink5: bool
) -> list[Json]:
    """The files that keep the driver as chosen. ``part``: before (packages are installed), or after."""
    nvidia = choice.source == "nvidia" and request.manage_repo
    listed = [(_driver_files.NOUVEAU, _driver_files.nouveau(), "after")]
    if host.kind == "RedHat":
        listed.append(
            (
                _driver_files.REPOSITORY_RPM,
                _driver_files.yum_repository(repository) if nvidia else "",
                "before",
            )
        )
    else:
        components = request.manage_components and host.kind == "Debian"
        archives = _archives(request.codename) if components else []
        texts = _driver_files.sources(archives, components, repository.url if nvidia else "")
        if components and not archives:
            # Without an index apt names no folders: what an earlier run wrote of them stays.
            texts = content_of(_driver_files.SOURCES) or texts
        listed += [
            (_driver_files.PINS, _driver_files.pins(choice, request.wish.version), "before"),
            (_driver_files.UNATTENDED, _driver_files.unattended(choice), "before"),
            (_driver_files.SOURCES, texts, "before"),
        ]
    unit = _driver_state.service_unit("nvidia-persistenced") if request.persistence else ""
    listed.append((_driver_files.PERSISTENCE, _driver_files.persistence(unit), "after"))
    listed.append((_driver_files.NVLINK5, _driver_files.nvlink5() if nvlink5 else "", "after"))
    return [planned(path, content, part) for path, content, part in listed if content]


def _source_problems() -> tuple[str, ...]:
    there = _driver_files.foreign_sources({path: _driver_state.read(path) for path in package_sources()})
    if not there:
        return ()
    return (
        f"NVIDIA's repository is named in {', '.join(there)} already, and a second entry with another key "
        "or without our exclusions gets in the way: remove it there (and what brought it, such as package "
        "cuda-keyring), or set nvidia_driver_manage_repo to false.",
    )


def _archives(codename: str) -> list[Archive]:
    """Debian's folders that apt gets packages from, as the host's own entries have them."""
    if not which("apt-get"):
        return []
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)|$(ORIGIN)"
    shown = run("apt-get", "indextargets", "--format", form, "Created-By: Packages").stdout
    keys: dict[str, dict[str, str]] = {}
    found = []
    for line in sorted(set(shown.splitlines())):
        uri, suite, component, entry, origin = line.split("|")
        path = entry.rpartition(":")[0]
        # Without an index yet apt leaves the origin as it stands in the format.
        ours = path == _driver_files.SOURCES
        if ours or not suite.startswith(codename) or origin not in ("Debian", "$(ORIGIN)"):
            continue
        if path not in keys:
            keys[path] = _driver_files.signed_by(_driver_state.read(path))
        found.append(Archive(uri, suite, component, keys[path].get(uri.rstrip("/"), "")))
    return found
