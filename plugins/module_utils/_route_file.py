# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""A router for Traefik's file provider from a route.

A router in a file belongs to no container, so that its rule, entry points, TLS and priority change for all
replicas at once, by one file that is replaced.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_labels import (
    SERVICE_OPTIONS,
    RouteError,
    place_of,
    router_of,
)


def file_router(route: Any) -> dict[str, Any]:
    """The body of C(http.routers.<name>) in a dynamic file, in Traefik's spelling.

    :raises RouteError: the route has an unknown option, a bad value, or one that only a service has.
    """
    where = place_of(1, route)
    for option in (*SERVICE_OPTIONS, "extra"):
        if route.get(option) is not None:
            raise RouteError(f"{where}: {option}: a router in a file has none; give it to the service")
    router = router_of(where, route)
    body: dict[str, Any] = {
        "rule": router.rule,
        "entryPoints": router.entrypoints,
        "service": router.service,
    }
    if router.middlewares:
        body["middlewares"] = router.middlewares
    if router.priority is not None:
        body["priority"] = router.priority
    if router.tls is not None:
        body["tls"] = {
            spelt: router.tls[option]
            for option, spelt in (
                ("certresolver", "certResolver"),
                ("options", "options"),
                ("domains", "domains"),
            )
            if option in router.tls
        }
    return body


def fallback_priority(rule: str, priority: int | None) -> int:
    """The priority just below that of a router, of the same rule, which is to serve while that one cannot.

    Without a priority Traefik takes the length of the rule, and takes 0 for none.
    """
    return ((priority or len(rule.encode())) - 1) or -1
