# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a replica's metrics say: Prometheus' text format, and the few figures of it that a rollout needs.

This module util is private to the collection. Managed hosts have no prometheus_client, and nothing is to be
installed there to read six figures: hence a small parser of our own. The format is that of
https://prometheus.io/docs/instrumenting/exposition_formats/, with names in quotes as of version 1.0.0.
"""

from __future__ import annotations

import math
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Request, ask

# The older format is understood by every client library and has neither exemplars nor units.
ACCEPT = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
DEFAULT_TIMEOUT_SECONDS = 2.0
# What a replica answers when it is full, before any work: a caller tries another one, nothing has failed.
REFUSED = "503"
# Of the process itself, as all client libraries have it; another value is another process.
STARTED = "process_start_time_seconds"

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_LABEL = re.compile(
    rf"[ \t]*(?:([a-zA-Z_][a-zA-Z0-9_]*)|{_QUOTED})[ \t]*(?:=[ \t]*{_QUOTED})?[ \t]*(,|(?=}}))"
)
_BLANK = re.compile(r"[ \t]*")
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}


class MetricsError(ValueError):
    """The text is not in the format; the message names the line."""


@dataclass(frozen=True)
class Sample:
    """One line of the text: a figure, its name and its labels. A time stamp is not kept."""

    name: str
    labels: t.Mapping[str, str] = field(default_factory=dict)
    value: float = 0.0


# The fields of MetricNames, as modules take them.
OPTIONS: dict[str, t.Any] = {
    "path": {"type": "str", "default": "/metrics"},
    "in_flight": {"type": "list", "elements": "str", "default": []},
    "capacity": {"type": "str", "default": ""},
    "requests": {"type": "str", "default": ""},
    "status_label": {"type": "str", "default": "status"},
    "latency": {"type": "str", "default": ""},
}


@dataclass(frozen=True)
class MetricNames:
    """What a service calls its figures; an empty name is a figure that it does not have.

    C(in_flight) are gauges of requests that were accepted and are not answered yet, worked on or waiting;
    they are added up. C(capacity) is a gauge of the requests that the replica works on at once. C(requests)
    is a counter of answers with their status in C(status_label). C(latency) is a histogram or summary of
    seconds, named without its C(_sum) and C(_count).
    """

    path: str = "/metrics"
    in_flight: tuple[str, ...] = ()
    capacity: str = ""
    requests: str = ""
    status_label: str = "status"
    latency: str = ""

    @classmethod
    def of(cls, given: t.Mapping[str, t.Any]) -> MetricNames:
        """From options as C(OPTIONS) declares them."""
        return cls(**{**given, "in_flight": tuple(given["in_flight"])})


@dataclass(frozen=True)
class Reading:
    """One look at one replica. None is a gauge that it does not show; counters that have not begun are 0.

    C(requests) are answers without the refusals (503), which are C(refused); C(errors) are those of the
    answers that the replica failed (5xx). C(latency_sum) is in seconds. C(started_at) is the time its process
    began, in seconds since 1970.
    """

    in_flight: float | None = None
    capacity: float | None = None
    requests: float = 0.0
    errors: float = 0.0
    latency_sum: float = 0.0
    latency_count: float = 0.0
    refused: float = 0.0
    started_at: float | None = None


def parse(text: str) -> list[Sample]:
    """The samples of a text in Prometheus' format, in their order.

    Raises MetricsError: of a text that is wrong in one line, no other line can be trusted to be whole.
    """
    samples = []
    # Not splitlines(): a label's value may hold characters at which that would split, too.
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if line and not line.startswith("#"):
            try:
                samples.append(_sample(line))
            except ValueError as error:
                raise MetricsError(f"line {number}, {line[:80]!r}: {error}") from error
    return samples


def _sample(line: str) -> Sample:
    match = _NAME.match(line)
    name, position = (match.group(), match.end()) if match else ("", 0)
    position = _blank(line, position)
    labels: dict[str, str] = {}
    if line[position : position + 1] == "{":
        position = _blank(line, position + 1)
        while line[position : position + 1] != "}":
            found = _LABEL.match(line, position)
            if not found:
                raise ValueError(f"no label at {line[position : position + 20]!r}")
            plain, quoted, value, _end = found.groups()
            if value is not None:
                labels[plain if plain is not None else _unescape(quoted)] = _unescape(value)
            elif quoted is not None and not name:
                name = _unescape(quoted)
            else:
                raise ValueError("a label without a value")
            position = _blank(line, found.end())
        position += 1
    if not name:
        raise ValueError("no name")
    # What follows a hash is an exemplar, by servers that send OpenMetrics whatever they are asked for.
    words = line[position:].partition("#")[0].split()
    if not 1 <= len(words) <= 2:
        raise ValueError("not a value and at most a time stamp")
    if len(words) == 2:
        _number(words[1])
    return Sample(name, labels, _number(words[0]))


def _blank(line: str, position: int) -> int:
    match = _BLANK.match(line, position)
    return match.end() if match else position


def _number(word: str) -> float:
    if "_" in word:  # Python would read it
        raise ValueError(f"{word!r} is no number")
    return float(word)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match.group(1), match.group()), text)


def _finite(samples: t.Iterable[Sample], name: str) -> list[Sample]:
    return [sample for sample in samples if name and sample.name == name and math.isfinite(sample.value)]


def _gauge(samples: t.Sequence[Sample], name: str) -> float | None:
    """The sum over all labels; None if there is none, or if one of them is no number."""
    values = [sample.value for sample in samples if name and sample.name == name]
    return math.fsum(values) if values and all(map(math.isfinite, values)) else None


def _counter(samples: t.Sequence[Sample], name: str) -> float:
    return math.fsum(sample.value for sample in _finite(samples, name))


def reading(samples: t.Sequence[Sample], names: MetricNames) -> Reading:
    """The figures that C(names) stand for. If a gauge of C(in_flight) is missing, the sum is unknown."""
    gauges = [_gauge(samples, name) for name in names.in_flight]
    in_flight = [gauge for gauge in gauges if gauge is not None]
    answers = [
        (sample.labels.get(names.status_label, ""), sample.value)
        for sample in _finite(samples, names.requests)
    ]
    refused = math.fsum(value for status, value in answers if status == REFUSED)
    return Reading(
        in_flight=math.fsum(in_flight) if in_flight and len(in_flight) == len(gauges) else None,
        capacity=_gauge(samples, names.capacity),
        requests=math.fsum(value for _status, value in answers) - refused,
        errors=math.fsum(value for status, value in answers if status.startswith("5") and status != REFUSED),
        latency_sum=_counter(samples, names.latency and f"{names.latency}_sum"),
        latency_count=_counter(samples, names.latency and f"{names.latency}_count"),
        refused=refused,
        started_at=_gauge(samples, STARTED),
    )


def read(
    url_base: str, names: MetricNames, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
) -> Reading | None:
    """Ask the replica at C(url_base) (C(http://host:port)); None if no whole and readable answer came."""
    if not names.path:
        return None
    url = f"{url_base.rstrip('/')}/{names.path.lstrip('/')}"
    answer = ask(Request("metrics", url, headers={"Accept": ACCEPT}, timeout_seconds=timeout_seconds))
    if answer.status != 200:
        return None
    length = answer.headers.get("content-length", "")
    if length.isdigit() and "content-encoding" not in answer.headers and int(length) != len(answer.body):
        return None  # cut off; older versions of requests do not say so
    try:
        return reading(parse(answer.body.decode()), names)
    except ValueError:
        return None
