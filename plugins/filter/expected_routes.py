# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service's routes as what Traefik's API then has to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

DOCUMENTATION = r"""
name: expected_routes
short_description: What Traefik has to serve when so many replicas bear labels of these routes
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Takes the routes that P(voicefleet.cosyvoice.traefik_labels#filter) makes labels of, and tells the routers
    and services that Traefik's API then has, as M(voicefleet.cosyvoice.traefik_verify) takes them.
  - A route with C({replica}) or C({number}) in its name is one router and one service for each replica; any
    other is one for all. One without a rule is a service only, one that names a C(service) a router only.
positional: _input, service, count
options:
  _input:
    description: The routes.
    type: list
    elements: dict
    required: true
  service:
    description: Name of the service; its replicas are C(<service>-1), C(<service>-2) and so on.
    type: str
    required: true
  count:
    description: How many replicas there are.
    type: int
    required: true
  in_file:
    description:
      - Routes of which P(voicefleet.cosyvoice.traefik_router#filter) makes routers in a file.
      - Without replicas Traefik serves none that uses a service of theirs.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Prove that both replicas are served
  voicefleet.cosyvoice.traefik_verify:
    api_url: http://127.0.0.1:8080
    routers: "{{ expected.routers }}"
    services: "{{ expected.services }}"
  vars:
    expected: "{{ routes | voicefleet.cosyvoice.expected_routes('cosyvoice', 2, in_file=[shared]) }}"
    routes:
      - {name: cosyvoice-lb, port: 7860}
    shared: {name: cosyvoice, rule: PathPrefix(`/`), entrypoints: [web], service: cosyvoice-lb@docker}
"""

RETURN = r"""
_value:
  description: A dictionary with the lists C(routers) and C(services).
  type: dict
  sample:
    routers:
      - name: cosyvoice@file
        rule: PathPrefix(`/`)
        service: cosyvoice-lb@docker
        entrypoints: [web]
        middlewares: []
        tls: false
    services:
      - {name: cosyvoice-lb@docker, servers: 2, strategy: p2c}
"""


Listed = list[dict[str, Any]]


def expected_routes(
    routes: Listed, service: str, count: int, in_file: Sequence[dict[str, Any]] = ()
) -> dict[str, Listed]:
    """Routers and services that Traefik has of C(count) replicas which bear C(routes), and of the files."""
    routers = [
        _router(route, route["name"], "file", service, 0)
        for route in in_file
        if count or not str(route.get("service", "")).endswith("@docker")
    ]
    services = []
    for route in routes:
        each = "{replica}" in route["name"] or "{number}" in route["name"]
        for number in range(1, (count if each else min(count, 1)) + 1):
            name = _filled(route["name"], service, number)
            if route.get("rule"):
                routers.append(_router(route, name, "docker", service, number))
            if not route.get("service"):
                services.append(
                    {
                        "name": f"{name}@docker",
                        "servers": 1 if each else count,
                        "strategy": route.get("strategy", "p2c"),
                    }
                )
    return {"routers": routers, "services": services}


def _router(route: dict[str, Any], name: str, provider: str, service: str, number: int) -> dict[str, Any]:
    return {
        "name": f"{name}@{provider}",
        "rule": _filled(route["rule"], service, number),
        "service": _filled(route.get("service") or name, service, number),
        "entrypoints": list(route.get("entrypoints", ["web"])),
        "middlewares": list(route.get("middlewares", [])),
        "tls": route.get("tls", False) not in (None, False),
    }


def _filled(text: str, service: str, number: int) -> str:
    return text.replace("{replica}", f"{service}-{number}").replace("{number}", str(number))


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"expected_routes": expected_routes}
