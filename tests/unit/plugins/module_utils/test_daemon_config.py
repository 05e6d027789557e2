# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What daemon.json should hold, and what makes a running dockerd follow it."""

from __future__ import annotations

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _daemon_config as c


def test_merge_is_deep_replaces_lists_and_takes_nulls_out() -> None:
    merged = c.merge(
        {"log-opts": {"max-size": "10m", "max-file": "3"}, "dns": ["192.0.2.1"], "icc": True},
        {"log-opts": {"max-file": "5"}, "dns": ["192.0.2.2"]},
        {"icc": None, "log-opts": {"max-size": None}},
    )
    assert merged == {"log-opts": {"max-file": "5"}, "dns": ["192.0.2.2"]}


def test_merge_leaves_its_layers_alone() -> None:
    defaults = {"log-opts": {"max-file": "3"}}
    c.merge(defaults, {"log-opts": {"max-file": "5"}})
    assert defaults == {"log-opts": {"max-file": "3"}}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"live-restor": True}, "Did you mean live-restore?"),
        ({"live-restore": "true"}, "live-restore is 'true', a str; dockerd wants a bool."),
        ({"mtu": True}, "mtu is True, a bool; dockerd wants a int."),
        ({"registry-mirrors": "https://mirror.example.com"}, "dockerd wants a list"),
        ({"something-else-entirely": 1}, "something-else-entirely is no key of daemon.json."),
    ],
)
def test_wrong_keys_and_types(config: c.Config, said: str) -> None:
    (problem,) = c.check_keys(config)
    assert said in problem


def test_right_keys_and_types() -> None:
    assert c.check_keys({"live-restore": True, "mtu": 1450, "dns": [], "runtimes": {}, "proxies": {}}) == []


@pytest.mark.parametrize(
    ("applied", "wanted", "action", "keys"),
    [
        ({"debug": True}, {"debug": True}, "none", []),
        ({}, {}, "none", []),
        ({"debug": True}, {"debug": False}, "reload", ["debug"]),
        ({}, {"runtimes": {"nvidia": {"path": "x"}}}, "reload", ["runtimes"]),
        ({"debug": True}, {}, "restart", ["debug"]),  # dockerd does not look for keys that are gone
        ({}, {"debug": True, "mtu": 1400}, "restart", ["debug", "mtu"]),
        ({}, {"features": {"cdi": True}}, "restart", ["features"]),
    ],
)
def test_action(applied: c.Config, wanted: c.Config, action: str, keys: list[str]) -> None:
    assert c.action(applied, wanted) == (action, keys)


def test_hosts_and_systemd_exclude_each_other() -> None:
    config = {"hosts": ["tcp://127.0.0.1:2375"]}
    assert "fd://" in c.check_surroundings(config, systemd=True, swarm=False)[0]
    assert c.check_surroundings(config, systemd=False, swarm=False) == []


def test_live_restore_and_swarm_exclude_each_other() -> None:
    assert "swarm" in c.check_surroundings({"live-restore": True}, systemd=True, swarm=True)[0]
    assert c.check_surroundings({"live-restore": False}, systemd=True, swarm=True) == []


def test_unmet() -> None:
    found = {"log-opts": {"max-file": "3", "max-size": "1m"}, "debug": True}
    assert c.unmet({"log-opts": {"max-file": "3"}, "debug": True}, found) == []
    assert c.unmet({"log-opts": {"max-file": "5"}, "icc": False, "debug": None}, found) == [
        "debug",
        "icc",
        "log-opts",
    ]
