# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What dockerd's daemon.json should hold, and what makes a running dockerd follow it.

This module util is private to the collection. Pure functions; nothing here reads a file or asks an engine.
"""

from __future__ import annotations

import difflib
import typing as t

Config = dict[str, t.Any]
Action = t.Literal["none", "reload", "restart"]


def _keys(kind: type, names: str) -> dict[str, type]:
    return dict.fromkeys(names.split(), kind)


# dockerd checks its file itself (_daemon_plan.validate). This table is for the host that has none yet, so
# that a misspelt key is refused before anything is installed. Names and types of 20.10.24, each tried
# on the real one.
KEYS: dict[str, type] = {
    **_keys(
        list,
        """allow-nondistributable-artifacts authorization-plugins default-address-pools dns dns-opts
        dns-search exec-opts hosts insecure-registries labels node-generic-resources registry-mirrors
        storage-opts""",
    ),
    **_keys(
        str,
        """api-cors-header bip bridge cgroup-parent cluster-advertise cluster-store containerd
        containerd-namespace data-root default-cgroupns-mode default-gateway default-gateway-v6
        default-ipc-mode default-runtime default-shm-size exec-root fixed-cidr fixed-cidr-v6 group
        host-gateway-ip init-path ip log-driver log-level metrics-addr pidfile seccomp-profile storage-driver
        swarm-default-advertise-addr tlscacert tlscert tlskey userland-proxy-path userns-remap""",
    ),
    **_keys(
        bool,
        """cri-containerd debug experimental icc init ip-forward ip-masq ip6tables iptables ipv6 live-restore
        no-new-privileges raw-logs rootless selinux-enabled tls tlsverify userland-proxy""",
    ),
    **_keys(
        int,
        """cpu-rt-period cpu-rt-runtime max-concurrent-downloads max-concurrent-uploads max-download-attempts
        mtu network-control-plane-mtu network-diagnostic-port oom-score-adjust shutdown-timeout""",
    ),
    **_keys(dict, "builder cluster-store-opts default-ulimits features log-opts runtimes"),
    # Engines after 20.10: the documentation's names, types left to dockerd.
    **_keys(
        object,
        """allow-direct-routing bip6 bridge-accept-fwmark cdi-spec-dirs default-network-opts firewall-backend
        host-gateway-ips http-proxy https-proxy ip-forward-no-drop log-format min-api-version no-proxy
        proxies""",
    ),
}

# What dockerd takes over on SIGHUP (moby daemon/reload.go, 20.10 to 29). `features` is on upstream's list
# and left out here: features.cdi is read at the start only. A reload looks only at keys that are in the
# file, so a key that was taken out needs a restart.
RELOADABLE = frozenset(
    _keys(
        object,
        """allow-nondistributable-artifacts authorization-plugins debug default-runtime insecure-registries
        labels live-restore max-concurrent-downloads max-concurrent-uploads max-download-attempts
        registry-mirrors runtimes shutdown-timeout""",
    )
)


def merge(*layers: Config) -> Config:
    """The layers, later ones winning, dicts merged at every depth, lists replaced. A null takes a key out."""
    merged: Config = {}
    for layer in layers:
        for key, value in layer.items():
            if value is None:
                merged.pop(key, None)
            elif isinstance(value, dict):
                below = merged.get(key)
                merged[key] = merge(below if isinstance(below, dict) else {}, value)
            else:
                merged[key] = value
    return merged


def check_keys(config: Config) -> list[str]:
    """What is wrong with the names and types in `config`, a sentence each."""
    found = []
    for key, value in sorted(config.items()):
        if key not in KEYS:
            nearest = difflib.get_close_matches(key, KEYS, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            found.append(f"{key} is no key of daemon.json.{hint}")
        elif not _is_a(value, KEYS[key]):
            found.append(
                f"{key} is {value!r}, a {type(value).__name__}; dockerd wants a {KEYS[key].__name__}."
            )
    return found


def _is_a(value: object, wanted: type) -> bool:
    # To Python a bool is an int; to dockerd it is not.
    return isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))


def check_surroundings(config: Config, systemd: bool, swarm: bool) -> list[str]:
    """What in `config` cannot work on this host although each key is right by itself, a sentence each."""
    found = []
    if systemd and "hosts" in config:
        found.append(
            "hosts cannot be set on a host with systemd: docker.service passes -H fd:// to dockerd, which "
            "then refuses to start. Leave it out, and add addresses in a drop-in for docker.service."
        )
    if swarm and config.get("live-restore"):
        found.append(
            "live-restore is true, but this engine is a member of a swarm and dockerd refuses the two "
            "together. Set live-restore to false."
        )
    return found


def action(applied: Config, wanted: Config) -> tuple[Action, list[str]]:
    """What makes a dockerd that runs with `applied` run with `wanted`, and the keys that differ."""
    changed = sorted(key for key in {*applied, *wanted} if applied.get(key) != wanted.get(key))
    if not changed:
        return "none", []
    if all(key in RELOADABLE and key in wanted for key in changed):
        return "reload", changed
    return "restart", changed


def unmet(options: Config, found: Config) -> list[str]:
    """The keys of `options` that `found` does not fulfil (a dict in `found` may hold more than was asked)."""
    return sorted(key for key, value in options.items() if merge(found, {key: value}) != found)
