# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus' text format and the figures of a replica, read as text and from real servers on loopback."""

from __future__ import annotations

import math
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._metrics import (
    MetricNames,
    MetricsError,
    Reading,
    Sample,
    parse,
    read,
    reading,
)
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

NAMES = MetricNames(
    in_flight=("speech_in_flight", "speech_queued"),
    capacity="speech_capacity",
    requests="speech_requests_total",
    latency="speech_first_byte_seconds",
)

# --- the format ---------------------------------------------------------------------------------------------

# From the documentation of the format, with a few lines more.
DOCUMENTED = r"""
# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9

# Minimalistic line:
metric_without_timestamp_and_labels 12.47

# A weird metric from before the epoch:
something_weird{problem="division by zero"} +Inf -3982045

#a comment without a blank
rpc_duration_seconds{quantile="0.01"} NaN
no_labels{} 0
{"quoted.name",label="x"} 1
{"quoted.name","quoted.label"="y"} 2
with_exemplar_bucket{le="1"} 7 # {trace_id="a"} 0.5 1395066363.5
"""


def test_the_format_as_it_is_documented() -> None:
    samples = parse(DOCUMENTED)
    assert str(samples.pop(5).value) == "nan"
    assert samples == [
        Sample("http_requests_total", {"method": "post", "code": "200"}, 1027),
        Sample("http_requests_total", {"method": "post", "code": "400"}, 3),
        Sample(
            "msdos_file_access_time_seconds",
            {"path": r"C:\DIR\FILE.TXT", "error": 'Cannot find file:\n"FILE.TXT"'},
            1.458255915e9,
        ),
        Sample("metric_without_timestamp_and_labels", {}, 12.47),
        Sample("something_weird", {"problem": "division by zero"}, math.inf),
        Sample("no_labels", {}, 0),
        Sample("quoted.name", {"label": "x"}, 1),
        Sample("quoted.name", {"quoted.label": "y"}, 2),
        Sample("with_exemplar_bucket", {"le": "1"}, 7),
    ]


def test_blanks_are_allowed_wherever_they_do_no_harm() -> None:
    text = '\t odd  {  a = "1" ,\tb = "}{,=#" , }   -2.5E-3\t\n \n'
    assert parse(text) == [Sample("odd", {"a": "1", "b": "}{,=#"}, -0.0025)]


def test_lines_end_at_line_feeds_and_nowhere_else() -> None:
    strange = "a\x0bb\x0c\x1c\x85\u2028c"
    assert parse(f'm{{l="{strange}"}} 1\r\nn 2') == [Sample("m", {"l": strange}, 1), Sample("n", {}, 2)]


def test_an_unknown_escape_stays_as_it_is() -> None:
    assert parse(r'm{l="\d\\n"} 1')[0].labels == {"l": r"\d\n"}


@pytest.mark.parametrize(
    "line",
    [
        "m",
        "m one",
        "m 1_000",
        "m 1 2 3",
        "m 1 soon",
        "1m 2",
        'm{a="1" 2',
        'm{a="1} 2',
        "m{a=1} 2",
        'm{a="1" b="2"} 3',
        "m{a} 1",
        'm{"n"} 1',
        '{a="1"} 1',
        "{} 1",
        "<html>",
        '{"error": "not found"}',
    ],
)
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(MetricsError, match=r"^line 2, "):
        parse(f"good 1\n{line}\n")


LABEL_NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True)
SAMPLES = st.builds(
    Sample,
    name=st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]*", fullmatch=True),
    labels=st.dictionaries(LABEL_NAMES, st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
    value=st.floats(allow_nan=False),
)


def render(sample: Sample) -> str:
    """As the format's description has it."""
    escape = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
    labels = ",".join(f'{name}="{value.translate(escape)}"' for name, value in sample.labels.items())
    return f"{sample.name}{{{labels}}} {sample.value!r}\n"


@given(st.lists(SAMPLES, max_size=4))
def test_what_is_rendered_is_read_back(samples: list[Sample]) -> None:
    assert parse("".join(map(render, samples))) == samples


@given(st.text('m{}="\\#, \n1e+.aN', max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        samples = parse(text)
    except MetricsError:
        return
    assert all(sample.name for sample in samples)


def registry() -> CollectorRegistry:
    """What the real client library makes of a server's figures."""
    made = CollectorRegistry()
    Gauge("speech_in_flight", "a", registry=made).set(2)
    Gauge("speech_queued", "a", registry=made).set(1)
    Gauge("speech_capacity", "a", registry=made).set(4)
    requests = Counter("speech_requests_total", "a", ("endpoint", "status"), registry=made)
    for status, count in {"200": 90, "400": 5, "500": 2, "502": 1, "503": 7}.items():
        requests.labels("/v1/audio/speech", status).inc(count)
    requests.labels('/odd"\\\n{}', "200").inc(2)
    latency = Histogram("speech_first_byte_seconds", "with a \\ and a\nnew line", registry=made)
    for seconds in (0.25, 0.5, 30.0):
        latency.observe(seconds)
    Summary("other_seconds", "a", ("x",), registry=made).labels("y").observe(1)
    return made


@pytest.mark.parametrize("generate", [generate_latest, generate_openmetrics])
def test_what_the_client_library_writes_is_read(generate: t.Callable[[CollectorRegistry], bytes]) -> None:
    made = registry()
    text = generate(made).decode()
    expected = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in made.collect()
        for sample in metric.samples
    }
    found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in parse(text)}
    assert {key: found[key] for key in expected} == expected
    assert reading(parse(text), NAMES) == Reading(3, 4, 100, 3, 30.75, 3, 7)


# --- the figures --------------------------------------------------------------------------------------------


def figures(text: str, **names: t.Any) -> Reading:
    return reading(parse(text), MetricNames(**names))


def test_gauges_are_added_up_over_names_and_labels() -> None:
    text = 'running{model="a"} 1\nrunning{model="b"} 2\nwaiting 4\n'
    assert figures(text, in_flight=("running", "waiting")).in_flight == 7
    assert figures(text, in_flight=("running",), capacity="waiting") == Reading(in_flight=3, capacity=4)


@pytest.mark.parametrize("text", ["running 1\n", "running 1\nwaiting NaN\n", "running +Inf\nwaiting 1\n", ""])
def test_a_gauge_that_is_missing_or_no_number_makes_the_sum_unknown(text: str) -> None:
    """Half the sum would say that nobody is cut off when somebody is."""
    assert figures(text, in_flight=("running", "waiting")).in_flight is None


def test_a_service_without_names_has_no_figures() -> None:
    assert figures("running 1\n_sum 7\n_count 8\n") == Reading()


def test_counters_that_have_not_begun_are_zero() -> None:
    assert reading([], NAMES) == Reading()


def test_errors_are_what_the_replica_failed_and_refusals_are_neither() -> None:
    text = "".join(
        f'n{{code="{code}"}} 1\n' for code in ("200", "404", "500", "503", "504", "5xx", "NaN", "")
    )
    found = figures(text, requests="n", status_label="code")
    assert (found.requests, found.errors, found.refused) == (7, 3, 1)
    other = figures(text, requests="n", status_label="status")
    assert (other.requests, other.errors, other.refused) == (8, 0, 0)


def test_the_start_of_the_process_is_known() -> None:
    assert figures("process_start_time_seconds 1.79542529012e+09\n").started_at == 1795425290.12


# --- real servers -------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """A replica with every habit that matters here, chosen by the path."""

    accepted: t.ClassVar[list[str]] = []
    released: t.ClassVar[threading.Event] = threading.Event()

    def log_message(self, *_args: t.Any) -> None:
        pass

    def do_GET(self) -> None:
        self.accepted.append(self.headers["Accept"])
        body, status, length = generate_latest(registry()), 200, None
        if self.path == "/hang":
            self.released.wait(30)
            return
        if self.path == "/login":
            status = 401
        elif self.path == "/page":
            body = b"<html>hello</html>"
        elif self.path == "/binary":
            body = b"\xff\xfe 1\n"
        elif self.path == "/cut":
            body, length = b"speech_in_flight 1", 20
        elif self.path == "/no-end":
            body = b"speech_in_flight 1\nspeech_queued 0"
        elif self.path != "/metrics":
            status = 404
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def url() -> t.Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Handler.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def at(path: str) -> MetricNames:
    return MetricNames(**{**vars(NAMES), "path": path})


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_replica_is_read(url: str, slash: str) -> None:
    Handler.accepted.clear()
    assert read(url + slash, NAMES, 10) == Reading(3, 4, 100, 3, 30.75, 3, 7)
    assert Handler.accepted[0].startswith("text/plain;version=0.0.4")


def test_a_proxy_of_the_environment_is_not_used(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert read(url, NAMES, 10) is not None


@pytest.mark.parametrize("path", ["/login", "/page", "/binary", "/cut", "/missing", ""])
def test_no_whole_and_readable_answer_is_none(url: str, path: str) -> None:
    assert read(url, at(path), 10) is None


def test_a_last_line_without_its_end_counts_if_the_answer_is_whole(url: str) -> None:
    assert read(url, at("/no-end"), 10) == Reading(in_flight=1)


def test_a_replica_that_hangs_or_is_not_there_is_none(url: str) -> None:
    assert read(url, at("/hang"), 0.2) is None
    assert read("http://127.0.0.1:9", NAMES, 1) is None
