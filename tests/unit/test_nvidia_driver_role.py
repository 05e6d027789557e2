# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role nvidia_driver and driver_upgrade.yml work out of what was seen of a host."""

from __future__ import annotations

import typing as t
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/nvidia_driver"
IMAGE = "linux-image-6.12.118+deb13-amd64"
BUILT = "linux-modules-nvidia-580-server-open-6.8.0-50-generic"

Json = dict[str, t.Any]


def trusted(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {key: trusted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [trusted(one) for one in value]
    return trust_as_template(value) if isinstance(value, str) else value


def task(*names: str) -> Json:
    """A task of the role by its name, after those of the blocks that it is in."""
    file = ROLE / f"tasks/{names[0].partition(' ')[0]}.yml"
    found: Json = {"block": yaml.safe_load(file.read_text())}
    for name in names:
        found = next(one for one in found["block"] if one["name"] == name)
    return t.cast(Json, trusted(found))


def worked_out(template: str, variables: Json) -> t.Any:
    roles = trusted(yaml.safe_load((ROLE / "vars/main.yml").read_text()))
    return Templar(DataLoader(), variables={**roles, **variables}).template(template)


@pytest.mark.parametrize(
    ("kernels", "taken"),
    [
        # The kernel that came with the newest headers is the one that runs, or will.
        (["6.12.107+deb13-amd64", "6.12.118+deb13-amd64"], ["dkms", BUILT]),
        # A container has the kernel that came, and runs on another host's.
        (["6.12.118+deb13-amd64"], ["dkms", IMAGE, BUILT]),
    ],
)
def test_removal_leaves_a_host_its_kernels(kernels: list[str], taken: list[str]) -> None:
    names = ["dkms", IMAGE, BUILT]
    driver = {"running_kernel": "6.12.107+deb13-amd64", "kernels": kernels}
    state = {"record": {"packages": names}, "packages": dict.fromkeys(names, "1"), "driver": driver}
    variables = task("absent | See what else needs our packages")["vars"]
    found = worked_out(variables["__nvidia_driver_ours"], {**variables, "nvidia_driver_state": state})
    assert sorted(found) == sorted(taken)


@pytest.mark.parametrize(
    ("was", "earlier", "gone"),
    [
        # A kernel that was there before is broken by the driver, and stays.
        ({"packages": {IMAGE: "1"}}, True, ["dkms", "hello"]),
        # What somebody else broke is theirs.
        ({"packages": {IMAGE: "1", "hello": "2"}, "broken": ["hello"]}, True, ["dkms"]),
        # What has to go anyway is not.
        (
            {"packages": {"hello": "2"}, "broken": ["hello"], "plan": {"purge": ["hello"]}},
            True,
            [IMAGE, "dkms", "hello"],
        ),
        # A run that was killed brought one of them, which does not build, and the other; there was no driver.
        (
            {
                "packages": {IMAGE: "1", "dkms": "3", "hello": "2"},
                "broken": ["dkms"],
                "record": {"packages": ["dkms", "hello", IMAGE]},
            },
            False,
            ["dkms", "hello"],
        ),
        # It was about to replace a driver, which gets its packages back: what helps it to build may stay.
        (
            {
                "packages": {IMAGE: "1", "dkms": "3", "hello": "2"},
                "broken": ["dkms"],
                "record": {"packages": ["dkms", "hello"]},
            },
            True,
            ["dkms"],
        ),
    ],
)
def test_undoing_takes_what_is_ours_and_what_is_broken(was: Json, earlier: bool, gone: list[str]) -> None:
    was = {"broken": [], "record": {}, "plan": {"purge": []}, **was}
    now = {"packages": {IMAGE: "1", "dkms": "3", "hello": "2"}, "broken": ["dkms", IMAGE]}
    now["broken"] = [*now["broken"], *(name for name in was["broken"] if name not in now["broken"])]
    tell = task("undo | Tell what came with this role or is broken")
    variables = {
        "nvidia_driver_state": now,
        "__nvidia_driver_was": was,
        "__nvidia_driver_earlier": earlier,
        **tell["vars"],
    }
    found = worked_out(tell["ansible.builtin.set_fact"]["__nvidia_driver_gone"], variables)
    assert sorted(found) == sorted(gone)


@pytest.mark.parametrize(
    ("driver", "earlier"),
    [
        ({"installed_version": "580.159.03", "built": ["6.8.0"]}, True),
        ({"installed_version": "580.159.03", "built": []}, False),
        ({"installed_version": "", "built": []}, False),
    ],
)
def test_a_library_without_modules_is_no_driver_of_before(driver: Json, earlier: bool) -> None:
    keep = task("undo | Keep the reason, and whether there was a driver before")["ansible.builtin.set_fact"]
    assert worked_out(keep["__nvidia_driver_earlier"], {"__nvidia_driver_was": {"driver": driver}}) == earlier


@pytest.mark.parametrize(
    ("branch", "there", "let_go", "kept"),
    [
        ("595", [], [], 10),
        ("595", ["nvidia-driver*-595.*", "kmod-nvidia*-590.*", "vim-9.*"], ["kmod-nvidia*-590.*"], 9),
        ("", ["nvidia-driver*-595.*", "vim-9.*"], ["nvidia-driver*-595.*"], 0),
    ],
)
def test_dnf_keeps_one_branch_and_no_toolkit(
    branch: str, there: list[str], let_go: list[str], kept: int
) -> None:
    variables = {
        **task("dnf_locks | Keep the branch")["vars"],
        "__nvidia_driver_branch": branch,
        "__nvidia_driver_locks": {"stdout_lines": there},
    }
    assert worked_out(trusted("{{ __nvidia_driver_other }}"), variables) == let_go
    lacking = worked_out(trusted("{{ __nvidia_driver_lacking }}"), variables)
    assert len(lacking) == kept
    names = [lock.rpartition("-")[0] for lock in lacking]
    assert not [name for name in names if fnmatch("nvidia-container-toolkit", name)]
    assert not [name for name in names if fnmatch("libnvidia-container1", name)]


def test_what_an_undone_driver_took_comes_back_in_the_versions_of_before() -> None:
    kernel, pinning = "nvidia-kernel-open-dkms", "nvidia-driver-pinning-580"
    was = {
        "packages": {
            kernel: "580.159.03-1",
            "libnvidia-ml1": "1:580.159.03-1",
            "nvidia-modprobe": "580.159.03-1",
            pinning: "580.0-1",
            "dkms": "3.1.8",
            "half": "2",
        },
        "broken": ["half"],
        "driver": {"installed_version": "580.159.03"},
    }
    now = {
        "packages": {"libnvidia-ml1": "1:590.48.01-1", "nvidia-modprobe": "580.159.03-1", "dkms": "3.2.0"},
    }
    install = task(
        "put_back | Put the driver of before back", "put_back | Install what is gone or was changed"
    )
    variables = {"nvidia_driver_state": now, "__nvidia_driver_was": was, **install["vars"]}
    lost = worked_out(install["ansible.builtin.apt"]["name"], variables)
    assert sorted(lost) == ["libnvidia-ml1=1:580.159.03-1", f"{pinning}=580.0-1", f"{kernel}=580.159.03-1"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "works. The driver of before, 580.159.03, is back. No space left."),
        (
            {"__nvidia_driver_not_back": "No such version."},
            "works. The driver of before, 580.159.03, could not be put back as well: No such version. (run "
            "the role again with its branch). The new one failed with: No space left.",
        ),
    ],
)
def test_the_words_tell_what_became_of_the_driver_of_before(more: Json, said: str) -> None:
    say = task("undo | Say so")
    was = {
        "driver": {"installed_version": "580.159.03"},
        "choice": {"branch": 590, "flavour": "open", "source": "nvidia"},
    }
    seen = {"__nvidia_driver_was": was, "__nvidia_driver_gone": [], "__nvidia_driver_log": {}}
    variables = {**say["vars"], **seen, "__nvidia_driver_failure": "No space left.", **more}
    variables["__nvidia_driver_earlier"] = True
    assert said in worked_out(say["ansible.builtin.fail"]["msg"], variables)


def test_red_hats_headers_come_before_the_driver_that_is_built_with_them() -> None:
    headers = ["kernel-devel-matched", "kernel-devel-5.14.0-570.12.1.el9_6.x86_64"]
    driver = ["kmod-nvidia-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"]
    plan = {"tools": headers[:1], "missing": [*headers, *driver], "outdated": []}
    variables = {"nvidia_driver_state": {"plan": plan}}
    tools = task("install_redhat | Install what the modules are built with")
    assert sorted(worked_out(tools["vars"]["__nvidia_driver_tools"], variables)) == sorted(headers)
    last = task("install_redhat | Install the driver")["ansible.builtin.dnf"]
    assert worked_out(last["name"], variables) == driver


@pytest.mark.parametrize(
    ("manager", "said"),
    [("apt", "the newest build there is"), ("dnf", "a newer build of it is not asked of dnf")],
)
def test_the_newest_build_is_claimed_only_where_it_was_asked_for(manager: str, said: str) -> None:
    state = {
        "plan": {"managed": True, "build": "", "missing": [], "outdated": [], "purge": []},
        "driver": {"installed_version": "580.159.03"},
        "choice": {"branch": 580},
    }
    variables = task("upgrade_plan | Say what is to be done")["vars"]
    facts = {"nvidia_driver_state": state, "ansible_facts": {"pkg_mgr": manager}}
    assert said in worked_out(variables["__nvidia_driver_fine"], {**variables, **facts})


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({}, True),
        # It is there already, so nobody needs it from a mirror.
        ({"changes": []}, False),
        # Its sources are not written yet.
        ({"differs": True}, False),
        # The first driver is for site.yml.
        ({"installed": ""}, False),
        ({"unavailable": []}, False),
    ],
)
def test_a_build_that_nobody_has_is_refused_before_any_host_is_drained(more: Json, refused: bool) -> None:
    seen = {
        "changes": ["nvidia-smi"],
        "differs": False,
        "installed": "580.1",
        "unavailable": ["(none)"],
        **more,
    }
    state = {
        "plan": {"managed": True, "unavailable": seen["unavailable"]},
        "driver": {"installed_version": seen["installed"]},
        "files": [{"path": "/etc/apt/sources.list.d/voicefleet.sources", "differs": seen["differs"]}],
    }
    differ = trusted(yaml.safe_load((ROLE / "vars/main.yml").read_text()))["__nvidia_driver_sources_differ"]
    templar = Templar(
        DataLoader(),
        variables={
            "nvidia_driver_state": state,
            "__nvidia_driver_changes": seen["changes"],
            "__nvidia_driver_sources_differ": differ,
        },
    )
    refuse = task("upgrade_plan | Refuse what cannot be had")
    assert all(templar.evaluate_conditional(one) for one in refuse["when"]) == refused


def test_what_is_stopped_is_recorded_in_its_order() -> None:
    """It is started again from the last one on; a run that was killed has stopped some before."""
    units, services = [f"client-{number}" for number in range(9)], ["nvidia-persistenced", "nvlsm"]
    variables = task("release | Record what is about to be stopped")["vars"]
    running = {"exists": True, "container": {"State": {"Running": True}}}
    seen = {
        "nvidia_driver_state": {
            "record": {"stopped": {"units": units[:2], "containers": ["one"]}},
            "driver": {"client_units": units[1:], "services": services},
        },
        "__nvidia_driver_containers": {"results": [{**running, "item": name} for name in ("one", "two")]},
    }
    stopped = worked_out(variables["__nvidia_driver_news"], {**variables, **seen})["stopped"]
    assert stopped == {"units": [*units, *services], "containers": ["one", "two"]}


@pytest.mark.parametrize(
    ("state", "serves", "said"),
    [
        (
            {"driver": {"installed_version": "580.178.04", "loaded_version": "580.178.04"}},
            True,
            "Its driver now: 580.178.04 installed, 580.178.04 loaded.",
        ),
        (
            {"driver": {"installed_version": "580.178.04", "loaded_version": ""}},
            False,
            "Its driver now: 580.178.04 installed, none loaded.",
        ),
        # What a look that is let through registers of a host that is away.
        ({"unreachable": True, "changed": False, "msg": "No route"}, False, "It does not answer (No route)."),
        (
            {"failed": True, "changed": False, "msg": "No space."},
            False,
            "Its driver cannot be told: No space.",
        ),
    ],
)
def test_a_host_that_does_not_come_back_is_named_and_never_serves(
    state: Json, serves: bool, said: str
) -> None:
    path = ROOT / "playbooks/tasks/driver_upgrade.yml"
    look, serve, stop = yaml.safe_load(path.read_text())[0]["rescue"]
    assert look["ansible.builtin.include_role"]["apply"] == {
        "ignore_unreachable": True,
        "ignore_errors": True,
    }
    variables = {
        "inventory_hostname": "gpu2",
        "nvidia_driver_state": state,
        "__ours": True,
        "gpu_service_drained_before": {},
        "ansible_failed_task": {"name": "load | Reboot"},
        "said": "Timed out waiting for the reboot.",
        **trusted(stop["vars"]),
    }
    templar = Templar(DataLoader(), variables=variables)
    # As Ansible does: no further than to the first that does not hold.
    assert all(templar.evaluate_conditional(one) for one in trusted(serve["when"])) == serves
    # A Templar has no filters of ours where Python has imported the collection already.
    form = stop["ansible.builtin.fail"]["msg"]
    form = form.replace("ansible_failed_result | voicefleet.cosyvoice.failure_words", "said")
    form = form.replace("nvidia_driver_state | voicefleet.cosyvoice.failure_words", "nvidia_driver_state.msg")
    message = templar.template(trusted(form))
    assert message.startswith("gpu2 stopped the upgrade, so no other host is touched.")
    assert f"Timed out waiting for the reboot. {said} Run driver_upgrade.yml again" in message
