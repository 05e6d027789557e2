# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at what a host has of NVIDIA's container toolkit, put together with what it takes.

This module util is private to the collection. It changes nothing.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import asdict

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _cdi,
    _driver_state,
    _nvidia_smi,
    _pci,
    _toolkit,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine_info import (
    package_sources,
    which,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import SmiError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._role_file import planned

Json = dict[str, t.Any]

_MODES = ("--query-gpu=uuid,mig.mode.current", "--format=csv,noheader")
_ANSWER_SECONDS = 60.0
_NO_SPECIFICATIONS = {"paths": [], "devices": [], "answers": False, "stale": ""}


def look(wish: _toolkit.Wish, family: str, architecture: str, sysfs: str, record: Json) -> Json:
    """What the module returns."""
    cards = len(_pci.cards(_pci.devices(sysfs)))
    states = _driver_state.package_states() if cards else {}
    host = _toolkit.Host(
        family=family,
        architecture=architecture,
        cards=cards,
        packages={name: version for name, (state, version) in states.items() if state == "installed"},
        sources={path: _driver_state.read(path) for path in package_sources()} if cards else {},
        ours=bool(record.get("packages")),
    )
    plan = _toolkit.plan(wish, host)
    return {
        "cards": cards,
        "packages": {name: host.packages[name] for name in _toolkit.PACKAGES if name in host.packages},
        "plan": asdict(plan),
        "repository": {
            "url": _toolkit.repository(wish.repo_url, host),
            "key": _toolkit.KEY_RPM if family == "RedHat" else _toolkit.KEY,
        },
        "files": [planned(*one) for one in _toolkit.files(wish, host, plan.managed)],
        "all_files": [path for path in _toolkit.ALL if os.path.exists(path)],
        "daemon_additions": _toolkit.daemon_additions(wish, host),
        "cdi": _specifications(sysfs) if cards and wish.cdi else _NO_SPECIFICATIONS,
    }


def _specifications(sysfs: str) -> Json:
    found = _cdi.look()
    driver = _driver_state.loaded_version(sysfs)
    smi = which("nvidia-smi")
    told = _told(smi) if smi and which("nvidia-ctk") else []
    # A card that is lost is no reason not to write those of the others, and makes a poor comparison.
    sound = bool(told) and all(code == 0 for code, _words in told)
    cards = _cdi.to_give(*(words for _code, words in told)) if sound else frozenset()
    return {
        "answers": any("(UUID: GPU-" in words for _code, words in told),
        "paths": list(found.paths),
        "devices": sorted(found.uuids),
        "stale": _cdi.stale(found, cards, driver, _driver_state.library_changed()),
    }


def _told(smi: str) -> list[tuple[int, str]]:
    """Exit code and words of both questions; nothing where a card hangs, which is asked no second one."""
    try:
        return [_nvidia_smi.order([smi], list(asked), _ANSWER_SECONDS) for asked in (_MODES, ("-L",))]
    except SmiError:
        return []
