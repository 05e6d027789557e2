# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of packages, by source, distribution, branch and flavour."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _driver_packages
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_choice import Choice, Host
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_packages import Packages, packages

DEBIAN = Host("Debian", "12", "Debian")
UBUNTU = Host("Ubuntu", "24.04", "Debian")
RHEL9, RHEL10 = Host("RedHat", "9", "RedHat"), Host("AlmaLinux", "10", "RedHat")


def choice(source: str, branch: int, flavour: str = "open") -> Choice:
    return Choice(source, branch, flavour, precompiled=False)


def test_debians_own_with_headers_for_every_kernel_that_may_boot() -> None:
    wanted = packages(choice("distribution", 535), DEBIAN, ["6.1.0-50-amd64", "6.1.0-56-amd64"], ["amd64"])
    assert wanted.tools == ("dkms", "gcc", "make", "openssl", "linux-headers-amd64")
    assert wanted.driver[0] == "nvidia-open-kernel-dkms"
    assert {"nvidia-smi", "libcuda1", "libnvidia-ml1"} < set(wanted.driver)
    assert wanted.if_there == ("linux-headers-6.1.0-50-amd64", "linux-headers-6.1.0-56-amd64")
    assert "nvidia-kernel-dkms" in wanted.exclude


def test_a_cloud_kernel_has_headers_of_its_own() -> None:
    wanted = packages(choice("distribution", 535), DEBIAN, [], ["cloud-amd64"])
    assert "linux-headers-cloud-amd64" in wanted.tools
    assert "linux-headers-amd64" not in wanted.tools
    arm = replace(DEBIAN, architecture="aarch64")
    assert "linux-headers-arm64" in packages(choice("distribution", 535), arm, [], []).tools


def test_ubuntus_own_are_built_and_signed_and_follow_each_kernel() -> None:
    metas = ["generic", "generic-hwe-24.04"]
    wanted = packages(choice("distribution", 580), UBUNTU, ["6.8.0-50-generic"], metas)
    assert wanted.tools == ()
    assert wanted.driver == ("nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server")
    assert wanted.aside == (
        "linux-modules-nvidia-580-server-open-generic",
        "linux-modules-nvidia-580-server-open-generic-hwe-24.04",
    )


def test_ubuntus_modules_bear_the_version_of_their_kernel() -> None:
    wanted = packages(choice("distribution", 580), UBUNTU, [], ["generic-hwe-24.04"])
    there = dict.fromkeys(wanted.wanted, "580.159.03-0ubuntu0.24.04.1")
    there["linux-modules-nvidia-580-server-open-generic-hwe-24.04"] = "6.14.0-37.37~24.04.1"
    for version in ("", "580.159.03"):
        assert _driver_packages.unavailable(wanted, there, 580, version) == []
        assert _driver_packages.outdated(wanted, there, 580, version) == []
    assert _driver_packages.to_purge(there, wanted, 580) == []


def test_nvidias_names_for_ubuntu_lost_their_branch() -> None:
    old = packages(choice("nvidia", 580, "proprietary"), UBUNTU, [], [])
    assert old.driver == ("nvidia-dkms-580", "libnvidia-compute-580", "nvidia-utils-580")
    assert old.exclude == ("nvidia-dkms-580-open",)
    new = packages(choice("nvidia", 595), UBUNTU, [], [])
    assert new.driver == ("nvidia-dkms-open", "libnvidia-compute")
    assert new.aside == ("nvidia-driver-pinning-595",)


def test_nvidias_for_debian_are_pinned_too() -> None:
    wanted = packages(choice("nvidia", 580), DEBIAN, [], [])
    assert wanted.driver == ("nvidia-kernel-open-dkms", "nvidia-driver-cuda")
    assert "nvidia-driver-pinning-580" in wanted.aside
    assert "nvidia-open-kernel-dkms" in wanted.exclude


def test_streams_and_headers_of_red_hat() -> None:
    nine = packages(choice("nvidia", 580), RHEL9, [], [])
    assert (nine.stream, nine.driver[0]) == ("nvidia-driver:580-open", "kmod-nvidia-open-dkms")
    assert "kernel-devel-matched" in nine.tools
    kernels = ["5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.12.1.el9_6.x86_64"]
    assert packages(choice("nvidia", 580), RHEL9, kernels, []).if_there == (
        "kernel-devel-5.14.0-503.11.1.el9_5.x86_64",
        "kernel-devel-5.14.0-570.12.1.el9_6.x86_64",
        "nvidia-persistenced",
    )
    assert packages(choice("nvidia", 580, "proprietary"), RHEL9, [], []).stream == "nvidia-driver:580-dkms"
    assert packages(choice("nvidia", 595), RHEL10, [], []).stream == ""


@pytest.mark.parametrize(
    ("host", "branch", "nvlink5", "names"),
    [
        (UBUNTU, 580, False, ["nvidia-fabricmanager-580"]),
        (UBUNTU, 595, True, ["nvidia-fabricmanager"]),
        (UBUNTU, 580, True, ["nvidia-fabricmanager-580"]),
        (DEBIAN, 580, True, ["nvidia-fabricmanager-580"]),
        (RHEL9, 580, True, ["nvidia-fabricmanager"]),
    ],
)
def test_fabric_manager_comes_with_nvswitches(
    host: Host, branch: int, nvlink5: bool, names: list[str]
) -> None:
    wanted = packages(choice("nvidia", branch), replace(host, nvswitch=True), [], [], nvlink5)
    assert [name for name in wanted.driver if "fabric" in name] == names
    # Its versions are dates.
    assert [name for name in wanted.aside if name == "nvlsm"] == ["nvlsm"] * nvlink5
    assert "nvlsm" not in wanted.driver


def test_debians_mps_daemon_goes_with_debians_driver() -> None:
    there = ["nvidia-cuda-mps", "bash"]

    def driver(source: str, host: Host, names: list[str]) -> tuple[str, ...]:
        wanted = packages(choice(source, 535), host, [], [])
        return _driver_packages.with_mps(wanted, choice(source, 535), host, names).driver

    assert driver("distribution", DEBIAN, there)[-1] == "nvidia-cuda-mps"
    for source, host, names in (
        ("distribution", DEBIAN, ["bash"]),
        ("nvidia", DEBIAN, there),
        ("distribution", UBUNTU, there),
    ):
        assert "nvidia-cuda-mps" not in driver(source, host, names)


def test_kernels_that_follow_new_releases() -> None:
    installed = ["linux-image-amd64", "linux-image-6.1.0-56-amd64", "linux-image-unsigned-6.8.0-1-generic",
                 "linux-image-generic-hwe-24.04", "linux-image-amd64-dbg", "bash"]  # fmt: skip
    assert _driver_packages.kernel_metas(installed) == ["amd64", "generic-hwe-24.04"]
    # Ubuntu's virtual machines have the generic kernel, by another name.
    virtual = ["linux-image-virtual", "linux-image-virtual-hwe-24.04", "linux-image-generic"]
    assert _driver_packages.kernel_metas(virtual) == ["generic", "generic-hwe-24.04"]


@pytest.mark.parametrize(
    ("version", "upstream"),
    [("535.261.03-1", "535.261.03"), ("3:580.178.04-1.el9", "580.178.04"), ("570.211.01-0ubuntu1",
     "570.211.01"), ("20220217+3~deb12u1", ""), ("6.1.192-2", "6.1.192")],
)  # fmt: skip
def test_the_build_in_a_packages_version(version: str, upstream: str) -> None:
    assert _driver_packages.upstream_of(version) == upstream


MIXED = "one build of all, as there are 535.261.03, 535.274.02 (nvidia_driver_version chooses one)"
WANTED = Packages(tools=("dkms",), driver=("nvidia-open-kernel-dkms", "nvidia-smi"),
                  aside=("nvidia-persistenced",), exclude=("nvidia-kernel-dkms",))  # fmt: skip
CANDIDATES = {"dkms": "3.0.10-8", "nvidia-open-kernel-dkms": "535.261.03-1", "nvidia-smi": "535.261.03-1",
              "nvidia-persistenced": "535.171.04-1"}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "version", "said"),
    [
        ({}, "", []),
        ({}, "535.261.03", []),
        ({"dkms": ""}, "", ["dkms (none)"]),
        ({"nvidia-smi": "550.163.01-2"}, "", ["nvidia-smi (550.163.01-2, wanted 535.*)"]),
        ({"nvidia-smi": "535.274.02-1"}, "", [MIXED]),
        ({}, "535.309.01", ["nvidia-open-kernel-dkms (535.261.03-1, wanted 535.309.01)",
                            "nvidia-smi (535.261.03-1, wanted 535.309.01)"]),
    ],
)  # fmt: skip
def test_what_the_sources_lack_is_named(changed: dict[str, str], version: str, said: list[str]) -> None:
    assert _driver_packages.unavailable(WANTED, {**CANDIDATES, **changed}, 535, version) == said


def test_the_other_flavour_and_other_branches_have_to_go_and_nothing_else() -> None:
    present = {
        "nvidia-kernel-dkms": "535.261.03-1",
        "nvidia-smi": "550.163.01-2",
        "libcuda1": "550.163.01-2",
        "libnvidia-compute-570": "570.211.01-0ubuntu1",
        "nvidia-container-toolkit": "1.20.0-1",
        "libnvidia-container1": "1.20.0-1",
        "nvidia-kernel-common": "20220217+3~deb12u1",
        "linux-modules-nvidia-580-server-open-6.8.0-50-generic": "6.8.0-50.51",
    }
    purged = ["libcuda1", "libnvidia-compute-570", "nvidia-kernel-dkms"]
    assert _driver_packages.to_purge(present, WANTED, 535) == purged
    assert _driver_packages.outdated(WANTED, present, 535, "") == ["nvidia-smi"]


def test_the_newest_of_a_branch_or_a_build_of_it() -> None:
    offered = {"nvidia-smi": ["595.84-1", "580.178.04-1", "580.159.03-1"], "libcuda1": ["535.309.01-1"]}
    assert _driver_packages.newest(offered, 580, "") == {"nvidia-smi": "580.178.04-1"}
    assert _driver_packages.newest(offered, 580, "580.159.03") == {"nvidia-smi": "580.159.03-1"}
