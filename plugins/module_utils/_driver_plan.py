# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done about the driver of a host: what is ours to change, what is missing, what forbids it.

This module util is private to the collection. It decides; it neither looks nor changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _driver_choice, _driver_packages
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_choice import Card, Choice, Wish
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_packages import Packages
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_state import Driver


@dataclass(frozen=True)
class Plan:
    """``managed``: whether the driver is ours to change, with the ``reason``. The rest counts where it is.

    ``missing`` in the order of installation, ``tools`` among them; ``outdated``: there in another build;
    ``purge``: has to go first. ``changes_library``: whether the library that programs meet becomes another
    one. ``build``: the one that is or will be there, such as 580.178.04; "" while nobody knows."""

    managed: bool
    reason: str
    build: str = ""
    tools: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    purge: tuple[str, ...] = ()
    changes_library: bool = False
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What the user allows. ``ours``: an earlier run of the role installed the driver that is there.

    ``upgrading``: playbook driver_upgrade.yml asks. It drains the host before anything changes, so what uses
    the cards now does not count, and a driver of which there is a newer build is outdated."""

    manage: bool = True
    replace: bool = False
    reboot_policy: str = "never"
    ours: bool = False
    upgrading: bool = False


@dataclass(frozen=True)
class Seen:
    """What a host has: its driver, packages (state and version by name), and what apt would install."""

    driver: Driver
    states: Mapping[str, tuple[str, str]]
    candidates: Mapping[str, str] = field(default_factory=dict)


def plan(
    cards: Sequence[Card], wish: Wish, rules: Rules, choice: Choice, packages: Packages, seen: Seen
) -> Plan:
    """See the classes."""
    if not cards:
        return Plan(False, "this host has no NVIDIA card")
    # A library by itself, as tools that watch cards bring one, is none.
    complete = bool(
        seen.driver.built
        or seen.driver.loaded_version
        or seen.driver.installer
        or _driver_packages.with_modules(seen.states)
    )
    foreign = bool(seen.driver.installed_version) and complete and not rules.ours
    if not rules.manage:
        return _only_checked(cards, choice, seen.driver, "nvidia_driver_manage is false")
    if foreign and not rules.replace:
        return _only_checked(
            cards,
            choice,
            seen.driver,
            "it was there before this role, and nvidia_driver_replace is false",
        )
    if choice.problems:
        return Plan(True, _reason(foreign), problems=choice.problems, warnings=choice.warnings)
    installed = {name: version for name, (state, version) in seen.states.items() if state == "installed"}
    present = {name: version for name, (_state, version) in seen.states.items()}
    tools = tuple(name for name in packages.tools if name not in installed)
    later = (*packages.driver, *packages.aside)
    missing = (
        *(name for name in packages.tools if name not in installed),
        *(name for name in packages.if_there if name not in installed and name in seen.candidates),
        *(name for name in later if name not in installed),
    )
    outdated = tuple(_driver_packages.outdated(packages, installed, choice.branch, wish.version))
    if rules.upgrading and not wish.version:
        outdated += tuple(
            name
            for name in _driver_packages.superseded(packages, installed, seen.candidates, choice.branch)
            if name not in outdated
        )
    if outdated and choice.precompiled:
        # Canonical's modules of a kernel fit one build of the driver.
        outdated += tuple(
            name
            for name in packages.aside
            if name in installed and seen.candidates.get(name, installed[name]) != installed[name]
        )
    purge = tuple(_driver_packages.to_purge(present, packages, choice.branch))
    replaced = any(
        _driver_packages.upstream_of(seen.candidates.get(name, "")) != seen.driver.installed_version
        for name in missing
        if name in packages.driver
    )
    changes = bool(outdated or purge or replaced) and bool(seen.driver.installed_version)
    build = _build(wish, packages, seen, {} if outdated else installed)
    return Plan(
        managed=True,
        reason=_reason(foreign),
        build=build,
        tools=tools,
        missing=missing,
        outdated=outdated,
        purge=purge,
        changes_library=changes,
        problems=_change_problems(foreign, changes, rules, seen.driver),
        warnings=(
            *choice.warnings,
            *_driver_choice.version_warnings(build),
        ),
    )


def _reason(foreign: bool) -> str:
    return "nvidia_driver_replace is true" if foreign else "this role installs the driver"


def _build(wish: Wish, packages: Packages, seen: Seen, installed: Mapping[str, str]) -> str:
    """See Plan. ``installed``: what stays."""
    if wish.version:
        return wish.version
    name = packages.driver[0] if packages.driver else ""
    return _driver_packages.upstream_of(installed.get(name) or seen.candidates.get(name, ""))


def _only_checked(cards: Sequence[Card], choice: Choice, driver: Driver, reason: str) -> Plan:
    version = driver.installed_version
    if not version:
        names = ", ".join(str(card) for card in cards)
        problem = f"There is no driver of NVIDIA's for {names}, and this role installs none: {reason}."
        return Plan(False, reason, problems=(problem,))
    # A driver that works proves that it fits its cards; what is not loaded is told by the table.
    flavour = driver.loaded_flavour or choice.flavour
    problems = (
        ()
        if driver.loaded_version or not flavour
        else _driver_choice.card_problems(cards, _driver_choice.branch_of(version), flavour)
    )
    warnings = (
        *_driver_choice.branch_warnings(_driver_choice.branch_of(version)),
        *_driver_choice.version_warnings(version),
    )
    return Plan(False, reason, problems=problems, warnings=warnings)


def _change_problems(foreign: bool, changes: bool, rules: Rules, driver: Driver) -> tuple[str, ...]:
    """What stands against touching the driver that is there."""
    if foreign and driver.installer:
        return (
            "The driver on this host came from NVIDIA's .run installer, which packages cannot replace: run "
            "nvidia-uninstall first.",
        )
    if not changes or not driver.loaded_version or rules.upgrading or rules.reboot_policy == "reboot":
        return ()
    if rules.reboot_policy in ("never", "drain"):
        return (
            f"Another driver than {driver.installed_version} is wanted, and module "
            f"{driver.loaded_version} is loaded: with a new library beside it no program would get at a "
            "card until a reboot. Run driver_upgrade.yml, which drains one host after the other for it; or "
            "set nvidia_driver_reboot_policy to if_idle (reload, or reboot, while no program uses a card) or "
            "to reboot.",
        )
    if driver.clients:
        return (
            f"Another driver than {driver.installed_version} is wanted, and the card is in use by "
            f"{', '.join(driver.clients)}. Stop these first, or set nvidia_driver_reboot_policy to reboot.",
        )
    return ()
