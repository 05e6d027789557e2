# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A route as the router of Traefik's file provider, unknown keys refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_file import (
    fallback_priority,
    file_router,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_labels import RouteError

DOCUMENTATION = r"""
name: traefik_router
short_description: Build a router for a dynamic file of Traefik
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Turns a route, as P(voicefleet.cosyvoice.traefik_labels#filter) takes it, into the body of a router in a
    file of Traefik's file provider.
  - >-
    A router in labels is the same on all containers of a service, or Traefik drops it for all of them. One
    in a file belongs to none of them: its rule, entry points, TLS and priority change for all at once.
  - One file that Traefik cannot read takes the whole directory with it, so every value is checked.
positional: _input
options:
  _input:
    description: >-
      The route. Its C(port), C(strategy) and C(extra) belong to the service, which containers define, and are
      refused.
    type: dict
    required: true
  fallback:
    description: >-
      Give the router the priority just below its own, for one that answers while the service of the first
      does not exist. Traefik serves nothing by a router whose service is missing.
    type: bool
    default: false
seealso:
  - plugin: voicefleet.cosyvoice.traefik_labels
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Route to whatever containers define the service speech-p2c
  ansible.builtin.copy:
    dest: /etc/traefik/dynamic/speech.yml
    content: "{{ {'http': {'routers': {'speech': router}}} | to_nice_yaml }}"
    mode: "0644"
  vars:
    router: "{{ route | voicefleet.cosyvoice.traefik_router }}"
    route:
      name: speech
      rule: PathPrefix(`/v1`)
      service: speech-p2c@docker
      tls: {certresolver: letsencrypt}
"""

RETURN = r"""
_value:
  description: The router's body, in Traefik's spelling.
  type: dict
  sample:
    rule: PathPrefix(`/v1`)
    entryPoints: [web]
    service: speech-p2c@docker
    tls: {certResolver: letsencrypt}
"""


def traefik_router(route: Any, fallback: bool = False) -> dict[str, Any]:
    """The route's router; a route that cannot become one is an error of the filter."""
    try:
        body = file_router(route)
    except RouteError as error:
        raise AnsibleFilterError(f"traefik_router: {error}") from error
    if fallback:
        body["priority"] = fallback_priority(body["rule"], body.get("priority"))
    return body


class FilterModule:
    """Ansible's entry to the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"traefik_router": traefik_router}
