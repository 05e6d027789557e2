# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role nvidia_driver and driver_upgrade.yml work out of what was seen of a host."""

from __future__ import annotations

import typing as t
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


def test_undoing_leaves_a_kernel_that_the_driver_broke() -> None:
    was = {"packages": {IMAGE: "1"}, "broken": []}
    now = {"packages": {IMAGE: "1", "dkms": "3", "hello": "2"}, "broken": [IMAGE, "dkms"]}
    template = task("undo | Tell what came with this run or is broken")["ansible.builtin.set_fact"]
    variables = {"nvidia_driver_state": now, "__nvidia_driver_was": was}
    assert sorted(worked_out(template["__nvidia_driver_gone"], variables)) == ["dkms", "hello"]


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
    ],
)
def test_a_host_that_does_not_come_back_is_named_and_never_serves(
    state: Json, serves: bool, said: str
) -> None:
    path = ROOT / "playbooks/tasks/driver_upgrade.yml"
    look, serve, stop = yaml.safe_load(path.read_text())[0]["rescue"]
    assert look["ansible.builtin.include_role"]["apply"] == {"ignore_unreachable": True}
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
    message = templar.template(trusted(form))
    assert message.startswith("gpu2 stopped the upgrade, so no other host is touched.")
    assert f"Timed out waiting for the reboot. {said} Run driver_upgrade.yml again" in message
