# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is ours to change, what is missing, and what forbids it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_choice import Card, Choice, Wish
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_packages import Packages
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_plan import Plan, Rules, Seen, plan
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_state import Driver

CARD = Card("0000:01:00.0", 0x2684)
BARE = Driver("", "", "", False, "6.1", ("6.1",), (), (), (), False)
RUNNING = replace(BARE, loaded_version="535.261.03", loaded_flavour="open", installed_version="535.261.03",
                  built=("6.1",))  # fmt: skip
CHOICE = Choice("distribution", 535, "open", precompiled=False)
PACKAGES = Packages(tools=("dkms",), driver=("nvidia-open-kernel-dkms", "nvidia-smi"),
                    aside=("nvidia-persistenced",), if_there=("linux-headers-6.1",),
                    exclude=("nvidia-kernel-dkms",))  # fmt: skip
NAMES = ("dkms", "nvidia-open-kernel-dkms", "nvidia-smi", "nvidia-persistenced")
STATES = dict.fromkeys(NAMES, ("installed", "535.261.03-1"))
OURS = Rules(ours=True)
ANY = Wish()


def made(
    rules: Rules = OURS,
    driver: Driver = RUNNING,
    states: dict[str, tuple[str, str]] = STATES,
    wish: Wish = ANY,
    candidates: dict[str, str] | None = None,
    choice: Choice = CHOICE,
) -> Plan:
    return plan([CARD], wish, rules, choice, PACKAGES, Seen(driver, states, candidates or {}))


def test_a_host_without_cards_is_left_alone() -> None:
    found = plan([], Wish(), Rules(), CHOICE, PACKAGES, Seen(BARE, {}))
    assert (found.managed, found.reason, found.problems) == (False, "this host has no NVIDIA card", ())


def test_a_bare_host_gets_everything_tools_first() -> None:
    found = made(Rules(), BARE, {}, candidates={"linux-headers-6.1": "6.1.1"})
    assert found.managed
    assert found.missing == ("dkms", "linux-headers-6.1", *NAMES[1:])
    assert not found.changes_library


def test_a_host_that_has_it_all_gets_nothing() -> None:
    found = made()
    assert found.managed
    assert (found.missing, found.outdated, found.purge, found.problems) == ((), (), (), ())
    assert "below 535.309.01" in found.warnings[0]


def test_a_package_that_is_half_configured_is_missing() -> None:
    states = {**STATES, "nvidia-open-kernel-dkms": ("half-configured", "535.261.03-1")}
    assert made(states=states).missing == ("nvidia-open-kernel-dkms",)


LIBRARY = replace(BARE, installed_version="535.261.03")


def test_a_library_alone_is_no_driver() -> None:
    found = made(Rules(), LIBRARY, {"libnvidia-ml1": ("installed", "535.261.03-1")})
    assert found.managed
    assert set(NAMES) <= set(found.missing)


@pytest.mark.parametrize(
    "package",
    [
        "nvidia-kernel-dkms",
        "nvidia-dkms-580-server",
        "kmod-nvidia-open-dkms",
        "linux-modules-nvidia-580-server-generic",
        "nvidia-driver-550",
    ],
)
def test_a_driver_whose_modules_are_not_built_is_one(package: str) -> None:
    assert not made(Rules(), LIBRARY, {package: ("installed", "535.261.03-1")}).managed


def test_a_driver_that_was_there_before_is_kept() -> None:
    found = made(Rules())
    assert not found.managed
    assert "it was there before this role" in found.reason
    assert found.problems == ()


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("535.261.03", ["gets no fixes any more", "below 535.309.01"]),
        ("535.309.01", ["gets no fixes any more"]),
        ("570.211.01", ["gets no fixes any more"]),
        ("580.105.08", ["below 580.159.03"]),
        ("580.178.04", []),
    ],
)
def test_a_kept_driver_is_warned_of_by_its_branch_and_its_build(version: str, said: list[str]) -> None:
    found = made(Rules(), replace(RUNNING, loaded_version=version, installed_version=version))
    assert len(found.warnings) == len(said)
    assert all(words in warning for words, warning in zip(said, found.warnings, strict=True))


def test_a_kept_driver_that_cannot_drive_the_card_is_refused() -> None:
    blackwell = Card("0000:01:00.0", 0x2B85)
    seen = Seen(replace(RUNNING, loaded_version=""), STATES)
    found = plan([blackwell], Wish(), Rules(), CHOICE, PACKAGES, seen)
    assert "branch 535 does not know it" in " ".join(found.problems)


def test_managing_nothing_where_there_is_nothing_is_refused() -> None:
    assert "nvidia_driver_manage is false" in made(Rules(manage=False), BARE, {}).problems[0]


def test_the_run_installers_driver_is_not_replaced() -> None:
    found = made(Rules(replace=True), replace(RUNNING, installer=True), {})
    assert "nvidia-uninstall" in found.problems[0]


def test_nothing_is_planned_where_nothing_fits() -> None:
    found = made(choice=replace(CHOICE, problems=("It does not fit.",)))
    assert (found.problems, found.missing) == (("It does not fit.",), ())


@pytest.mark.parametrize(
    ("policy", "driver", "said"),
    [
        ("never", RUNNING, "nvidia_driver_reboot_policy to if_idle"),
        ("drain", RUNNING, "Run driver_upgrade.yml"),
        ("never", replace(RUNNING, loaded_version=""), ""),
        ("if_idle", RUNNING, ""),
        ("if_idle", replace(RUNNING, clients=("python3 (process 7)",)), "in use by python3 (process 7)"),
        ("reboot", replace(RUNNING, clients=("python3 (process 7)",)), ""),
    ],
)
def test_the_library_of_a_loaded_driver_changes_only_where_that_is_allowed(
    policy: str, driver: Driver, said: str
) -> None:
    found = made(Rules(ours=True, reboot_policy=policy), driver, wish=Wish(version="535.309.01"))
    assert found.outdated == ("nvidia-open-kernel-dkms", "nvidia-smi")
    assert found.changes_library
    assert bool(found.problems) == bool(said)
    assert said in " ".join(found.problems)


@pytest.mark.parametrize("policy", ["never", "if_idle", "drain", "reboot"])
def test_an_upgrade_drains_first_whatever_uses_the_card_now(policy: str) -> None:
    driver = replace(RUNNING, clients=("python3 (process 7)",))
    rules = Rules(ours=True, reboot_policy=policy, upgrading=True)
    found = made(rules, driver, wish=Wish(version="535.309.01"))
    assert (found.outdated, found.problems, found.build) == (
        ("nvidia-open-kernel-dkms", "nvidia-smi"), (), "535.309.01",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("candidate", "changes"), [("535.261.03-1", False), ("535.309.01-1", True), ("", True)]
)
def test_another_package_of_the_driver_may_change_its_library(candidate: str, changes: bool) -> None:
    """As where one of the same branch is there under other names; what nobody knows yet counts as that."""
    states = {name: state for name, state in STATES.items() if name != "nvidia-smi"}
    found = made(states=states, candidates={"nvidia-smi": candidate} if candidate else None)
    assert found.missing == ("nvidia-smi",)
    assert found.changes_library == changes
    assert bool(found.problems) == changes


def test_modules_that_come_built_go_with_their_driver() -> None:
    built = Packages(
        driver=("nvidia-headless-no-dkms-580-server",),
        aside=("linux-modules-nvidia-580-server-generic", "nvlsm"),
    )
    installed = dict.fromkeys(built.wanted, ("installed", "580.159.03-1"))
    newer = {"linux-modules-nvidia-580-server-generic": "6.8.0-51.52"}
    choice = Choice("distribution", 580, "proprietary", precompiled=True)
    driver = replace(RUNNING, installed_version="580.159.03", loaded_version="580.159.03")
    rules = Rules(ours=True, upgrading=True)

    def outdated(candidates: dict[str, str]) -> tuple[str, ...]:
        return plan([CARD], ANY, rules, choice, built, Seen(driver, installed, candidates)).outdated

    # Those of a new kernel alone are no reason to drain a host.
    assert outdated(newer) == ()
    assert outdated({**newer, built.driver[0]: "580.178.04-1"}) == (built.driver[0], built.aside[0])


def test_only_an_upgrade_takes_the_newest_build_of_the_branch() -> None:
    newer = dict.fromkeys(NAMES, "535.309.01-1")
    upgrading = made(Rules(ours=True, upgrading=True), candidates=newer)
    assert (upgrading.outdated, upgrading.build) == (("nvidia-open-kernel-dkms", "nvidia-smi"), "535.309.01")
    otherwise = made(OURS, candidates=newer)
    assert (otherwise.outdated, otherwise.build) == ((), "535.261.03")
    # A wish, and a source that only has another branch.
    assert (
        made(Rules(ours=True, upgrading=True), wish=Wish(version="535.261.03"), candidates=newer).outdated
        == ()
    )
    # A mirror that lags behind.
    older = dict.fromkeys(NAMES, "535.230.02-1")
    assert made(Rules(ours=True, upgrading=True), candidates=older).outdated == ()
    other = dict.fromkeys(NAMES, "580.178.04-1")
    assert made(Rules(ours=True, upgrading=True), candidates=other).outdated == ()
