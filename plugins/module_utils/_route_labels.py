# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""Labels for a container from its routes.

The labels stay few and the same whatever the revision: two containers that give one router or service
different options make Traefik drop it for all of them. What changes in an upgrade belongs into the file
provider.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._labels import (
    STRATEGIES,
    check_label,
    is_port,
)

_OPTIONS = ("name", "rule", "port", "entrypoints", "middlewares", "strategy", "tls", "priority", "extra")
_TLS_OPTIONS = ("certresolver", "options", "domains")
_DOMAIN_OPTIONS = ("main", "sans")
# The placeholders are those of a replica's specification: every replica fills in its own name or number.
_NAME = re.compile(r"(\{replica\}|\{number\}|[A-Za-z0-9])(\{replica\}|\{number\}|[A-Za-z0-9_-])*")


class RouteError(ValueError):
    """A route that cannot become labels; the message says where, which value and what to do."""


def labels_of(routes: Any, network: str | None = None) -> dict[str, str]:
    """Labels of a container that serves one route or several, in a stable order.

    :raises RouteError: a route has an unknown option, a bad value, or a label that Traefik does not know.
    """
    listed = [routes] if isinstance(routes, Mapping) else routes
    if not _is_list(listed) or not listed:
        raise RouteError(f"a route or a list of routes is wanted, not {routes!r}")
    if network is not None and not (isinstance(network, str) and network):
        raise RouteError(f"network: the name of a Docker network is wanted, not {network!r}")
    labels = {"traefik.enable": "true"}
    if network:
        labels["traefik.docker.network"] = network
    seen: set[str] = set()
    for number, route in enumerate(listed, 1):
        where = f"route {number}"
        if not isinstance(route, Mapping):
            raise RouteError(f"{where}: a dictionary is wanted, not {route!r}")
        if route.get("name"):
            where = f"{where} ({route['name']})"
        _refuse_unknown(where, route, _OPTIONS)
        built = _route(where, route)
        if route["name"] in seen:
            raise RouteError(f"{where}: an earlier route has this name; give every route its own")
        seen.add(route["name"])
        labels.update(built)
        for key, value in _extra(where, route.get("extra") or {}).items():
            if labels.get(key, value) != value:
                raise RouteError(f'{where}: extra label "{key}" is already "{labels[key]}"; leave it out')
            labels[key] = value
    return labels


def _route(where: str, route: Mapping[str, Any]) -> dict[str, str]:
    name = route.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RouteError(f"{where}: name: letters, digits, - and _ are wanted, not {name!r}")
    rule = route.get("rule")
    if not isinstance(rule, str) or not rule.strip():
        raise RouteError(f"{where}: rule: a rule such as PathPrefix(`/`) is wanted, not {rule!r}")
    port = route.get("port", "")
    if isinstance(port, bool) or not is_port(str(port)):
        raise RouteError(f"{where}: port: a number from 1 to 65535 is wanted, not {port!r}")
    strategy = route.get("strategy", "p2c")
    if strategy not in STRATEGIES:
        raise RouteError(f"{where}: strategy: one of {', '.join(STRATEGIES)} is wanted, not {strategy!r}")
    router, service = f"traefik.http.routers.{name}", f"traefik.http.services.{name}.loadbalancer"
    entrypoints = _names(where, "entrypoints", route.get("entrypoints", ["web"]))
    if not entrypoints:
        raise RouteError(f"{where}: entrypoints: at least one is wanted; else all of them would serve it")
    middlewares = _names(where, "middlewares", route.get("middlewares", []))
    labels = {
        f"{router}.rule": rule,
        f"{router}.entrypoints": ",".join(entrypoints),
        f"{router}.service": name,
    }
    if middlewares:
        labels[f"{router}.middlewares"] = ",".join(middlewares)
    if route.get("priority") is not None:
        priority = route["priority"]
        if isinstance(priority, bool) or not re.fullmatch(r"-?\d+", str(priority)):
            raise RouteError(f"{where}: priority: an integer is wanted, not {priority!r}")
        labels[f"{router}.priority"] = str(priority)
    labels.update(_tls(f"{where}: tls", router, route.get("tls", False)))
    return {**labels, f"{service}.server.port": str(int(str(port))), f"{service}.strategy": strategy}


def _tls(where: str, router: str, tls: Any) -> dict[str, str]:
    if tls is None or tls is False:
        return {}
    labels = {f"{router}.tls": "true"}
    if tls is True:
        return labels
    if not isinstance(tls, Mapping):
        raise RouteError(f"{where}: true, false or a dictionary is wanted, not {tls!r}")
    _refuse_unknown(where, tls, _TLS_OPTIONS)
    for option in ("certresolver", "options"):
        if option in tls:
            labels[f"{router}.tls.{option}"] = _text(f"{where}: {option}", tls[option])
    domains = tls.get("domains") or []
    if not _is_list(domains):
        raise RouteError(
            f"{where}: domains: a list of dictionaries with main and sans is wanted, not {domains!r}"
        )
    for index, domain in enumerate(domains):
        place = f"{where}: domains[{index}]"
        if not isinstance(domain, Mapping) or not domain.get("main"):
            raise RouteError(f"{place}: a dictionary with main, and sans if any, is wanted, not {domain!r}")
        _refuse_unknown(place, domain, _DOMAIN_OPTIONS)
        labels[f"{router}.tls.domains[{index}].main"] = _text(f"{place}: main", domain["main"])
        sans = _names(place, "sans", domain.get("sans", []))
        if sans:
            labels[f"{router}.tls.domains[{index}].sans"] = ",".join(sans)
    return labels


def _extra(where: str, extra: Any) -> dict[str, str]:
    if not isinstance(extra, Mapping):
        raise RouteError(f"{where}: extra: a dictionary of labels is wanted, not {extra!r}")
    labels = {}
    for key, value in extra.items():
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, (int, float)):
            value = str(value)
        problem = check_label(str(key), _text(f"{where}: extra: {key}", value))
        if problem:
            raise RouteError(f'{where}: extra label "{key}": {problem.reason}; {problem.remedy}')
        if not str(key).startswith("traefik."):
            raise RouteError(
                f'{where}: extra label "{key}" is not Traefik\'s; give it to the container beside these'
            )
        labels[str(key)] = value
    return labels


def _refuse_unknown(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise RouteError(f"{where}: unknown option '{option}'; {hint}Options are: {', '.join(known)}")


def _names(where: str, option: str, value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not _is_list(names) or not all(isinstance(name, str) and name and "," not in name for name in names):
        raise RouteError(f"{where}: {option}: a list of names is wanted, not {value!r}")
    return list(names)


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise RouteError(f"{where}: a text is wanted, not {value!r}")
    return str(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
