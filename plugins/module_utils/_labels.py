# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""What Traefik makes of a container's labels, and what it silently does not.

Traefik reads only keys below a few prefixes and ignores every other one without a word. One key or value
below those prefixes that it cannot read drops the whole container. Both were observed on Traefik 3.7.15;
the keys are in _traefik_keys.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import NamedTuple

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_keys import KEYS, TRAEFIK_VERSION

STRATEGIES = ("wrr", "p2c", "hrw", "leasttime")

# The effects of a label that is wrong.
DROPPED = "dropped"  # the whole container: no router, no service
IGNORED = "ignored"  # the label, silently
BROKEN = "broken"  # read, but the service cannot work with it

_BOOL = re.compile(r"1|t|T|TRUE|true|True|0|f|F|FALSE|false|False")  # Go: strconv.ParseBool
_INT = re.compile(r"[+-]?[0-9]+")
_DURATION = re.compile(r"[+-]?[0-9]+|[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+")
_KINDS = {
    "bool": (_BOOL, 'not a bool: write "true" or "false"'),
    "int": (_INT, "not an integer: write digits only"),
    "duration": (
        _DURATION,
        'not a duration: write a number with its unit, such as "10s", "500ms" or "1m30s"',
    ),
}
# Keys whose end is the user's own (a header, an option of a plugin).
_OPEN_KEYS = {
    key[: key.index("<", key.index("<name>") + 6)]: KEYS[key] for key in KEYS if key.endswith("<key>")
}
# Traefik hands keys with these prefixes (in any case) to its reader; every other key is ignored.
_READ_PREFIXES = (
    "traefik.http",
    "traefik.tcp",
    "traefik.udp",
    "traefik.tls.stores.default",
    "traefik.docker.",
    "traefik.enable",
)
_SECTIONS = ("http", "tcp", "udp", "tls", "docker", "enable")
# Parts of Traefik's configuration that exist, but not as labels.
_FILE_ONLY = re.compile(
    r"traefik\.(?:(?:http|tcp)\.serverstransports\.|http\.models\.|http\.routers\.[^.]+\.parentrefs"
    r"|(?:http|tcp|udp)\.services\.[^.]+\.(?:weighted|mirroring|failover|highestrandomweight)"
    r"|tls\.(?:options|certificates|stores\.(?!default\b)))",
    re.IGNORECASE,
)
_BARE_NAME = re.compile(r"traefik\.(?:http|tcp|udp)\.(?:routers|services|middlewares)\.[^.]+", re.IGNORECASE)
_VERSION_1 = re.compile(r"traefik\.(?:frontend|backend|port|protocol|weight|tags|domain)\b")


class LabelProblem(NamedTuple):
    """One label that does not do what it seems to do."""

    key: str
    value: str
    effect: str  # DROPPED, IGNORED or BROKEN
    reason: str
    nearest: str  # the nearest valid key; empty where none is near or the key itself is right
    remedy: str


def is_bool(value: str) -> bool:
    """Whether Go reads the value as a bool."""
    return _BOOL.fullmatch(value) is not None


def as_bool(value: str) -> bool:
    """The bool that Go reads; False also for what it cannot read."""
    return value in ("1", "t", "T", "TRUE", "true", "True")


def generic(key: str) -> str:
    """The key as _traefik_keys.py spells it: lower case, the user's names replaced by placeholders."""
    parts = key.lower().split(".")
    if len(parts) > 3 and parts[1] in ("http", "tcp", "udp"):
        parts[3] = "<name>"
    return re.sub(r"(?<=\.domains)(?:\[[^\].]*\])?(?=\.)", "[n]", ".".join(parts))


def kind_of(key: str) -> str | None:
    """Kind of the key's value (bool, int, duration, text), or None for a key that Traefik does not know."""
    known = generic(key)
    if known in KEYS:
        return KEYS[known]
    return next((kind for start, kind in _OPEN_KEYS.items() if known.startswith(start)), None)


def nearest_key(key: str) -> str:
    """The valid key nearest to this one, with its own names in place; empty when none is near."""
    parts = ["traefik", *key.split(".")[1:]]
    if len(parts) > 1 and parts[1].lower() not in _SECTIONS:
        parts[1] = next(iter(difflib.get_close_matches(parts[1].lower(), _SECTIONS, n=1)), parts[1])
    wanted = ".".join(parts)
    if kind_of(wanted):
        return wanted
    # A name with dots in it (traefik.http.routers.my.app.rule), or none (traefik.http.routers.rule).
    spelt = [[*parts[:3], "-".join(parts[3:end]), *parts[end:]] for end in range(5, len(parts))]
    for other in [*spelt, [*parts[:3], "<name>", *parts[3:]]]:
        if len(parts) > 3 and kind_of(".".join(other)):
            return ".".join(other)
    given = generic(wanted)
    known_here = [known for known in KEYS if known.split(".")[1] == parts[1].lower()] or list(KEYS)
    best = difflib.get_close_matches(given, known_here, n=5, cutoff=0.7)
    best = [known for known in best if _tail_ratio(given, known) >= 0.5]
    if not best:
        return ""
    index = re.search(r"\[\d+\]", wanted)
    name = parts[3] if len(parts) > 3 else "<name>"
    return best[0].replace("<name>", name).replace("[n]", index[0] if index else "[0]")


def _tail_ratio(given: str, known: str) -> float:
    """Likeness of what follows the elements both have in common: a long common prefix proves nothing."""
    left, right = given.split("."), known.split(".")
    while left and right and left[0] == right[0]:
        left, right = left[1:], right[1:]
    return difflib.SequenceMatcher(None, ".".join(left), ".".join(right)).ratio()


def siblings(key: str) -> list[str]:
    """What may stand in the place of the first element of the key that Traefik does not know."""
    parts = generic(key).split(".")
    for depth in range(len(parts) - 1, 1, -1):
        start = ".".join(parts[:depth]) + "."
        found = {known[len(start) :].split(".")[0] for known in KEYS if known.startswith(start)}
        if found:
            return sorted(found)
    return []


def check_label(key: str, value: str) -> LabelProblem | None:
    """The problem with one label of a container, or None; labels that are not Traefik's are none."""
    root, _unused, rest = key.partition(".")
    if root != "traefik":
        return _check_root(key, value, root, rest)
    if _FILE_ONLY.match(key):
        remedy = "move it to a file of Traefik's file provider"
        return LabelProblem(key, value, IGNORED, "cannot be set by labels", "", remedy)
    if not key.lower().startswith(_READ_PREFIXES):
        reason = "Traefik ignores it without a word"
        if _VERSION_1.match(key):
            reason = "a label of Traefik 1, which later versions ignore without a word"
        elif key.lower().startswith("traefik.swarm."):
            reason = "read by the Swarm provider only; the Docker provider ignores it without a word"
        near = nearest_key(key)
        return LabelProblem(key, value, IGNORED, reason, near, _rename(key, near))
    kind = kind_of(key)
    if kind is None:
        near = nearest_key(key)
        if _BARE_NAME.fullmatch(key):
            reason = "a name without an option: Traefik ignores the value"
            return LabelProblem(key, value, IGNORED, reason, near, _rename(key, near))
        reason = f"unknown to Traefik {TRAEFIK_VERSION}, which drops the whole container for it"
        if near and near.count(".") < key.count(".") and "-" in near:
            reason = "a name must not contain a dot; Traefik drops the whole container for it"
        return LabelProblem(key, value, DROPPED, reason, near, _rename(key, near))
    return _check_value(key, value, kind)


def _check_root(key: str, value: str, root: str, rest: str) -> LabelProblem | None:
    if root.lower() == "traefik" and rest:
        right = f"traefik.{rest}"
        if right.lower().startswith(_READ_PREFIXES):
            reason = (
                f'the root must be exactly "traefik", not "{root}"; Traefik drops the whole container for it'
            )
            return LabelProblem(key, value, DROPPED, reason, right, _rename(key, right))
        return LabelProblem(
            key, value, IGNORED, "Traefik ignores it without a word", right, _rename(key, right)
        )
    if rest and _resembles_traefik(root.lower()):
        near = nearest_key(key)
        reason = f'"{root}" is not "traefik": Traefik ignores it without a word'
        return LabelProblem(key, value, IGNORED, reason, near, _rename(key, near))
    return None


def _rename(key: str, near: str) -> str:
    if near:
        return f'write "{near}" instead of "{key}"'
    places = siblings(key)
    return f'remove "{key}"; valid in its place: {", ".join(places)}' if places else f'remove "{key}"'


def _check_value(key: str, value: str, kind: str) -> LabelProblem | None:
    if kind in _KINDS and not _KINDS[kind][0].fullmatch(value):
        wanted = _KINDS[kind][1]
        reason = f'the value "{value}" is {wanted.split(":")[0]}; Traefik drops the whole container for it'
        return LabelProblem(
            key, value, DROPPED, reason, "", f'{wanted.split(": ")[1]} as the value of "{key}"'
        )
    if kind == "switch" and value.lower() not in ("true", "false", ""):
        reason = f'Traefik reads the value "{value}" as off, without a word'
        return LabelProblem(
            key, value, IGNORED, reason, "", f'write "true" or "false" as the value of "{key}"'
        )
    lower = key.lower()
    if lower.endswith(".loadbalancer.server.port") and not is_port(value):
        reason = f'the value "{value}" is not a port'
        return LabelProblem(
            key, value, BROKEN, reason, "", f'write a number from 1 to 65535 as the value of "{key}"'
        )
    if (
        lower.startswith("traefik.http.")
        and lower.endswith(".loadbalancer.strategy")
        and value not in STRATEGIES
    ):
        near = difflib.get_close_matches(value.lower(), STRATEGIES, n=1)
        choices = f"{near[0]}" if near else ", ".join(STRATEGIES)
        reason = f'the strategy "{value}" does not exist; Traefik disables the service and its routers for it'
        return LabelProblem(key, value, BROKEN, reason, "", f'write {choices} as the value of "{key}"')
    return None


def is_duration(value: str) -> bool:
    """Whether Traefik reads it as a duration: seconds, or numbers with their units."""
    return bool(_DURATION.fullmatch(value))


def is_port(value: str) -> bool:
    """Whether the value is a TCP port."""
    return _INT.fullmatch(value) is not None and 1 <= int(value) <= 65535


def check_labels(labels: Mapping[str, str]) -> list[LabelProblem]:
    """Problems of all labels of one container, those that drop it first."""
    problems = [problem for key, value in sorted(labels.items()) if (problem := check_label(key, value))]
    return sorted(problems, key=lambda problem: problem.effect != DROPPED)


def is_traefiks(key: str) -> bool:
    """Whether the label is meant for Traefik, rightly spelt or not."""
    root = key.split(".")[0].lower()
    return root == "traefik" or ("." in key and _resembles_traefik(root))


def _resembles_traefik(root: str) -> bool:
    return difflib.SequenceMatcher(None, root, "traefik").ratio() >= 0.75
