# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of Traefik's services send callers to a server at this moment.

This module util is private to the collection. Traefik's own health check is no gate: it calls every server UP
at each change of its configuration and asks only an interval later. Docker's health check is: a container
that is not healthy is left out of the configuration itself, and that is what the API shows.
"""

from __future__ import annotations

import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import TraefikApi


def services_in(labels: t.Mapping[str, str]) -> set[str]:
    """Names of Traefik's services that a container with these labels is a server of, as its API has them."""
    prefix = "traefik.http.services."
    if labels.get("traefik.enable", "").lower() != "true":
        return set()
    return {f"{key[len(prefix) :].split('.')[0]}@docker" for key in labels if key.startswith(prefix)}


class TraefikWatch:
    """Looks at one Traefik."""

    def __init__(self, api: TraefikApi) -> None:
        self.api = api

    def listing(self, url: str) -> dict[str, str]:
        """Name of each enabled service that lists C(url), with V(UP) or V(DOWN). Raises ApiError."""
        found = {}
        for item in self.api.items("/api/http/services"):
            servers = (item.get("loadBalancer") or {}).get("servers") or []
            if item.get("status") == "enabled" and any(server.get("url") == url for server in servers):
                found[str(item["name"])] = str((item.get("serverStatus") or {}).get(url, "UP"))
        return found
