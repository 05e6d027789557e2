# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""Labels for a container from its routes.

The labels stay few and the same whatever the revision: two containers that give one router or service
different options make Traefik drop it for all of them. What changes in an upgrade belongs into the file
provider (_route_file.py), or bears a name that changes with it (_route_switch.py).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._labels import (
    STRATEGIES,
    check_label,
    is_duration,
    is_port,
)

_ROUTER_OPTIONS = ("entrypoints", "middlewares", "tls", "priority", "service")
SERVICE_OPTIONS = ("port", "strategy", "flush_interval")
_OPTIONS = ("name", "rule", *SERVICE_OPTIONS, "extra", *_ROUTER_OPTIONS)
_TLS_OPTIONS = ("certresolver", "options", "domains")
_DOMAIN_OPTIONS = ("main", "sans")
# The placeholders are those of a replica's specification: every replica fills in its own name or number.
_NAME = re.compile(r"(\{replica\}|\{number\}|[A-Za-z0-9])(\{replica\}|\{number\}|[A-Za-z0-9_-])*")
_SERVICE = re.compile(_NAME.pattern + r"(@[a-z]+)?")


class RouteError(ValueError):
    """A route that cannot become labels; the message says where, which value and what to do."""


@dataclass(frozen=True)
class Router:
    """The router of a route, every value checked; what labels and files spell differently."""

    name: str
    rule: str
    service: str
    entrypoints: list[str]
    middlewares: list[str] = field(default_factory=list)
    priority: int | None = None
    # None: no TLS; else certresolver, options (texts) and domains, each with main and sans, where given.
    tls: dict[str, Any] | None = None


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
    routers: list[tuple[str, Router]] = []
    for number, route in enumerate(listed, 1):
        where = place_of(number, route)
        built = {}
        if route.get("rule") is not None:
            routers.append((where, router_of(where, route)))
            built.update(_router_labels(routers[-1][1]))
        built.update(_service_labels(where, route))
        if route["name"] in seen:
            raise RouteError(f"{where}: an earlier route has this name; give every route its own")
        seen.add(route["name"])
        labels.update(built)
        for key, value in _extra(where, route.get("extra") or {}).items():
            if labels.get(key, value) != value:
                raise RouteError(f'{where}: extra label "{key}" is already "{labels[key]}"; leave it out')
            labels[key] = value
    if not routers:
        raise RouteError(
            "no route has a rule, and for a container without a router Traefik makes one of its own on every "
            "default entry point; give one of them a rule"
        )
    for where, router in routers:
        own = f"traefik.http.services.{router.service}."
        if "@" not in router.service and not any(key.startswith(own) for key in labels):
            raise RouteError(
                f"{where}: service: no route is called '{router.service}'; name one of these routes, or a "
                "service elsewhere with its provider, such as speech@file"
            )
    return labels


def place_of(number: int, route: Any) -> str:
    """How messages call a route, whose options are known ones then.

    :raises RouteError: it is no dictionary, or has an option that routes do not have.
    """
    where = f"route {number}"
    if not isinstance(route, Mapping):
        raise RouteError(f"{where}: a dictionary is wanted, not {route!r}")
    if route.get("name"):
        where = f"{where} ({route['name']})"
    _refuse_unknown(where, route, _OPTIONS)
    return where


def router_of(where: str, route: Mapping[str, Any]) -> Router:
    """The router of a route.

    :raises RouteError: one of its values is none that Traefik can use.
    """
    name = _name_of(where, route)
    rule = route.get("rule")
    if not isinstance(rule, str) or not rule.strip():
        raise RouteError(f"{where}: rule: a rule such as PathPrefix(`/`) is wanted, not {rule!r}")
    service = name if route.get("service") is None else route["service"]
    if not isinstance(service, str) or not _SERVICE.fullmatch(service):
        raise RouteError(
            f"{where}: service: the name of a service is wanted, such as speech or speech@file, not "
            f"{service!r}"
        )
    entrypoints = _names(where, "entrypoints", route.get("entrypoints", ["web"]))
    if not entrypoints:
        raise RouteError(f"{where}: entrypoints: at least one is wanted; else all of them would serve it")
    priority = route.get("priority")
    if priority is not None and (isinstance(priority, bool) or not re.fullmatch(r"-?\d+", str(priority))):
        raise RouteError(f"{where}: priority: an integer is wanted, not {priority!r}")
    return Router(
        name=name,
        rule=rule,
        service=service,
        entrypoints=entrypoints,
        middlewares=_names(where, "middlewares", route.get("middlewares", [])),
        priority=None if priority is None else int(str(priority)),
        tls=_tls(f"{where}: tls", route.get("tls", False)),
    )


def _name_of(where: str, route: Mapping[str, Any]) -> str:
    name = route.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RouteError(f"{where}: name: letters, digits, - and _ are wanted, not {name!r}")
    return name


def _router_labels(router: Router) -> dict[str, str]:
    start = f"traefik.http.routers.{router.name}"
    labels = {
        f"{start}.rule": router.rule,
        f"{start}.entrypoints": ",".join(router.entrypoints),
        f"{start}.service": router.service,
    }
    if router.middlewares:
        labels[f"{start}.middlewares"] = ",".join(router.middlewares)
    if router.priority is not None:
        labels[f"{start}.priority"] = str(router.priority)
    if router.tls is None:
        return labels
    labels[f"{start}.tls"] = "true"
    for option in ("certresolver", "options"):
        if option in router.tls:
            labels[f"{start}.tls.{option}"] = router.tls[option]
    for index, domain in enumerate(router.tls.get("domains", [])):
        labels[f"{start}.tls.domains[{index}].main"] = domain["main"]
        if domain["sans"]:
            labels[f"{start}.tls.domains[{index}].sans"] = ",".join(domain["sans"])
    return labels


def _service_labels(where: str, route: Mapping[str, Any]) -> dict[str, str]:
    """Labels of the service that a route defines: none where its router uses another's."""
    name = _name_of(where, route)
    ruled = route.get("rule") is not None
    if not ruled:
        useless = [option for option in _ROUTER_OPTIONS if route.get(option) is not None]
        if useless:
            raise RouteError(
                f"{where}: {useless[0]}: without a rule there is no router to have it; give a rule, or leave "
                "it out"
            )
    elif route.get("service") is not None:
        for option in SERVICE_OPTIONS:
            if route.get(option) is not None:
                raise RouteError(
                    f"{where}: {option}: it belongs to the service {route['service']}; leave it out here"
                )
        return {}
    port = route.get("port", "")
    if isinstance(port, bool) or not is_port(str(port)):
        raise RouteError(f"{where}: port: a number from 1 to 65535 is wanted, not {port!r}")
    strategy = route.get("strategy", "p2c")
    if strategy not in STRATEGIES:
        raise RouteError(f"{where}: strategy: one of {', '.join(STRATEGIES)} is wanted, not {strategy!r}")
    service = f"traefik.http.services.{name}.loadbalancer"
    labels = {f"{service}.server.port": str(int(str(port))), f"{service}.strategy": strategy}
    if route.get("flush_interval") is not None:
        interval = str(route["flush_interval"])
        if not is_duration(interval):
            raise RouteError(
                f"{where}: flush_interval: a duration such as 100ms is wanted, or 0 for no flush before the "
                f"end, not {interval!r}"
            )
        labels[f"{service}.responseforwarding.flushinterval"] = interval
    return labels


def _tls(where: str, tls: Any) -> dict[str, Any] | None:
    if tls is None or tls is False:
        return None
    if tls is True:
        return {}
    if not isinstance(tls, Mapping):
        raise RouteError(f"{where}: true, false or a dictionary is wanted, not {tls!r}")
    _refuse_unknown(where, tls, _TLS_OPTIONS)
    checked: dict[str, Any] = {
        option: _text(f"{where}: {option}", tls[option]) for option in _TLS_OPTIONS[:2] if option in tls
    }
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
        sans = _names(place, "sans", domain.get("sans", []))
        checked.setdefault("domains", []).append(
            {"main": _text(f"{place}: main", domain["main"]), "sans": sans}
        )
    return checked


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
