# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _toolkit
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._toolkit import PACKAGES, Host, Wish

WISH = Wish("1.20.0-1", repo_url="https://mirror.example.com/libnvidia-container/")
BARE = Host("Debian", "x86_64", cards=1, packages={}, sources={}, ours=False)
OURS = replace(BARE, packages=dict.fromkeys(PACKAGES, "1.20.0-1"), ours=True)


def test_a_host_without_cards_is_left_alone() -> None:
    host = replace(BARE, cards=0)
    plan = _toolkit.plan(replace(WISH, version="nonsense"), host)
    assert (plan.managed, plan.install, plan.problems) == (False, (), ())
    assert _toolkit.daemon_additions(WISH, host) == {}


def test_a_bare_host_gets_all_four_in_one_version() -> None:
    plan = _toolkit.plan(WISH, BARE)
    assert plan.managed
    assert plan.missing == PACKAGES
    assert plan.install == tuple(f"{name}=1.20.0-1" for name in PACKAGES)
    assert _toolkit.plan(WISH, replace(BARE, family="RedHat")).install[0] == "libnvidia-container1-1.20.0-1"


def test_a_version_without_a_build_is_left_to_the_pins() -> None:
    assert _toolkit.plan(replace(WISH, version="1.20.0"), BARE).install == PACKAGES
    red = _toolkit.plan(replace(WISH, version="1.20.0"), replace(BARE, family="RedHat"))
    assert red.install == tuple(f"{name}-1.20.0" for name in PACKAGES)
    assert "Pin: version 1.20.0-*\n" in _toolkit.pins("1.20.0")
    assert "Pin: version 1.20.0-1\n" in _toolkit.pins("1.20.0-1")


def test_what_is_as_wanted_stays() -> None:
    plan = _toolkit.plan(WISH, OURS)
    assert (plan.managed, plan.missing, plan.outdated, plan.install) == (True, (), (), ())
    assert not _toolkit.plan(replace(WISH, version="1.20.0"), OURS).install


def test_one_package_of_another_version_brings_all_four() -> None:
    mixed = replace(OURS, packages={**OURS.packages, "libnvidia-container1": "1.19.1-1"})
    plan = _toolkit.plan(WISH, mixed)
    assert plan.outdated == ("libnvidia-container1",)
    assert len(plan.install) == 4


def test_a_version_in_which_containers_get_at_the_host_is_refused() -> None:
    assert _toolkit.plan(replace(WISH, version="1.19.1-1"), BARE).problems == ()
    (problem,) = _toolkit.plan(replace(WISH, version="1.19.0-1"), BARE).problems
    assert "1.19.0-1" in problem
    assert "CVE-2026-24260" in problem
    assert "1.19.1 or newer" in problem


@pytest.mark.parametrize(
    ("wish", "host", "said"),
    [
        (replace(WISH, version="newest"), BARE, "'newest' and has to be such as 1.20.0-1"),
        (WISH, replace(BARE, family="Suse"), "hosts of the family Suse"),
        (WISH, replace(BARE, architecture="ppc64le"), "no container toolkit for ppc64le"),
    ],
)
def test_what_cannot_work_is_refused(wish: Wish, host: Host, said: str) -> None:
    (problem,) = _toolkit.plan(wish, host).problems
    assert said in problem


def test_a_second_entry_for_the_repository_is_refused_unless_it_is_not_added() -> None:
    line = "deb https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /"
    old = "deb https://nvidia.github.io/nvidia-docker/debian11/$(ARCH) /"
    sources = {"/etc/apt/sources.list.d/a.list": line, "/x/b.list": f"# {line}", "/x/c.list": old}
    host = replace(BARE, sources={**sources, _toolkit.SOURCES: line})
    (problem,) = _toolkit.plan(WISH, host).problems
    assert "/etc/apt/sources.list.d/a.list, /x/c.list already" in problem
    assert _toolkit.plan(replace(WISH, manage_repo=False), host).problems == ()


def test_what_was_there_before_is_kept_and_only_checked() -> None:
    there = replace(OURS, ours=False)
    plan = _toolkit.plan(replace(WISH, version="1.21.0-1"), there)
    assert (plan.managed, plan.install, plan.problems) == (False, (), ())
    old = replace(there, packages=dict.fromkeys(PACKAGES, "1.17.8-1"))
    assert "1.17.8-1 is on this host" in _toolkit.plan(WISH, old).problems[0]
    mixed = replace(there, packages={**there.packages, "libnvidia-container1": "1.19.1-1"})
    assert "libnvidia-container1 1.19.1-1" in _toolkit.plan(WISH, mixed).problems[0]


def test_what_a_removed_toolkit_left_behind_is_none() -> None:
    left = dict.fromkeys(("libnvidia-container1", "libnvidia-container-tools"), "1.17.8-1")
    plan = _toolkit.plan(WISH, replace(BARE, packages=left))
    assert (plan.managed, plan.problems) == (True, ())
    assert set(plan.outdated) == set(left)
    assert len(plan.install) == len(PACKAGES)


def test_without_management_a_missing_toolkit_is_an_error() -> None:
    (problem,) = _toolkit.plan(replace(WISH, manage=False), BARE).problems
    assert "There is no container toolkit on this host" in problem
    assert _toolkit.plan(replace(WISH, manage=False), OURS).problems == ()


def test_beside_a_toolkit_of_the_users_there_is_what_brings_containers_back() -> None:
    there = replace(OURS, ours=False)
    assert not _toolkit.plan(WISH, there).managed
    files = _toolkit.files(WISH, there, managed=False)
    assert [path for path, _content, _part in files] == [_toolkit.REFRESH_DROP_IN, _toolkit.ENGINE_DROP_IN]
    for left_alone in (replace(WISH, manage=False), replace(WISH, cdi=False)):
        assert _toolkit.files(left_alone, there, managed=False) == []
    assert _toolkit.files(WISH, replace(there, cards=0), managed=False) == []


def test_files() -> None:
    written = {path: content for path, content, _part in _toolkit.files(WISH, BARE)}
    assert list(written) == [
        _toolkit.SOURCES,
        _toolkit.PINS,
        _toolkit.REFRESH_DROP_IN,
        _toolkit.ENGINE_DROP_IN,
    ]
    assert (
        "URIs: https://mirror.example.com/libnvidia-container/stable/deb/amd64\n" in written[_toolkit.SOURCES]
    )
    assert f"Signed-By: {_toolkit.KEY}" in written[_toolkit.SOURCES]
    assert "\nBefore=docker.service\n" in written[_toolkit.REFRESH_DROP_IN]
    assert "docker start" in written[_toolkit.ENGINE_DROP_IN]
    bare = replace(WISH, manage_repo=False, cdi=False)
    assert [path for path, _content, _part in _toolkit.files(bare, BARE)] == [_toolkit.PINS]
    red = {path: content for path, content, _part in _toolkit.files(WISH, replace(BARE, family="RedHat"))}
    assert "/stable/rpm/x86_64\n" in red[_toolkit.REPOSITORY_RPM]
    assert f"\nexcludepkgs={' '.join(PACKAGES)}\n" in red[_toolkit.REPOSITORY_RPM]
    assert set(written) | set(red) <= set(_toolkit.ALL)


def test_daemon_additions() -> None:
    assert _toolkit.daemon_additions(WISH, BARE)["features"] == {"cdi": True}
    without = _toolkit.daemon_additions(replace(WISH, cdi=False), BARE)
    # An engine that has it on by itself is told so.
    assert without["features"] == {"cdi": False}
