# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether routers with a certificate resolver have a certificate.

Traefik says nothing when a resolver does not exist or was skipped at its start: the router is enabled, and
callers get Traefik's own self-signed certificate. This module util is private to the collection.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import Item

_HOSTS = re.compile(r"Host\(([^)]*)\)")


def hosts_of(router: Item) -> list[str]:
    """Names that a router's certificate has to be good for: its tls.domains, else the hosts of its rule."""
    tls = router.get("tls") or {}
    domains = [
        name for domain in tls.get("domains") or [] for name in (domain.get("main"), *domain.get("sans", []))
    ]
    if not domains:
        domains = [
            name
            for arguments in _HOSTS.findall(router.get("rule", ""))
            for name in re.findall(r"[`\"]([^`\"]+)", arguments)
        ]
    return sorted({name.lower() for name in domains if name and "." in name})


def covers(pattern: str, host: str) -> bool:
    """Whether a name in a certificate is good for a host; a wildcard stands for one label."""
    pattern, host = pattern.lower(), host.lower()
    return pattern == host or (pattern.startswith("*.") and host.partition(".")[2] == pattern[2:])


def check_certificates(routers: t.Iterable[Item], certificates: list[Item]) -> list[Check]:
    """One check for each host of each router that has a certificate resolver."""
    wanted: dict[tuple[str, str], str] = {}
    checks = []
    for router in routers:
        resolver = str((router.get("tls") or {}).get("certResolver") or "")
        hosts = hosts_of(router)
        if resolver and not hosts:
            name = f"certificate of router {router.get('name')}"
            remedy = "name the host in the rule (Host(`...`)) or in tls.domains"
            checks.append(
                Check(name, False, "no host to ask a certificate for", f"by resolver {resolver}", remedy)
            )
        for host in hosts if resolver else []:
            wanted.setdefault((host, resolver), str(router.get("name")))
    return checks + [_check(host, resolver, name, certificates) for (host, resolver), name in wanted.items()]


def _check(host: str, resolver: str, router: str, certificates: list[Item]) -> Check:
    what, want = f"certificate for {host}", f"a valid certificate by resolver {resolver}"
    good = [c for c in certificates if any(covers(str(name), host) for name in _names(c))]
    if not good:
        remedy = (
            f"look in Traefik's log for the resolver {resolver}: it does not exist, was skipped at the start "
            "(acme.json must have mode 0600 and be writable by Traefik), or the authority refused"
        )
        return Check(
            what, False, f"none: {router} serves Traefik's own self-signed certificate", want, remedy
        )
    best = max(good, key=lambda certificate: str(certificate.get("notAfter", "")))
    issuer = best.get("issuerCN") or best.get("issuerOrg") or "unknown"
    found = f"issued by {issuer}, until {best.get('notAfter')}"
    remedy = f"look in Traefik's log why the resolver {resolver} did not renew it"
    return check(what, best.get("status") != "expired", found, want, remedy)


def _names(certificate: Item) -> list[str]:
    return [*(certificate.get("sans") or []), str(certificate.get("commonName", ""))]
