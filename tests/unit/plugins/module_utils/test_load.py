# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the others carry the load: the rule, its words, and looks at real servers on loopback."""

from __future__ import annotations

import contextlib
import threading
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _load
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._load import Load, load_refusal, measure
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._metrics import MetricNames, Reading


def looks(
    *in_flight: float | None, capacity: float | None = 10, times: int = 3
) -> list[dict[str, Reading | None]]:
    """The same look several times: a replica for each figure."""
    look: dict[str, Reading | None] = {
        f"tts-{number}": Reading(in_flight=figure, capacity=capacity)
        for number, figure in enumerate(in_flight, 1)
    }
    return [look] * times


# --- the rule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("replicas", "bearable"), [(2, 0.3), (3, 0.5), (4, 0.6), (8, 0.7)])
def test_steady_loads_that_were_simulated_are_borne_and_a_little_more_is_not(
    replicas: int, bearable: float
) -> None:
    assert load_refusal(looks(*[bearable * 10] * replicas), replicas) == ""
    assert load_refusal(looks(*[bearable * 10 + 0.1] * replicas), replicas) != ""


def test_more_replicas_never_bear_less() -> None:
    """Steady load that is borne, as a share of all capacity: 0.3, 0.5, 0.6, then ever closer to 0.8."""
    borne = [_load.limit(replicas - 1) * (replicas - 1) / replicas for replicas in range(2, 40)]
    assert borne == sorted(borne)
    assert borne[-1] < 0.8


def test_the_load_of_all_goes_to_the_rest() -> None:
    measured = measure(looks(1, 3, 2), ready=3)
    assert (measured.in_flight, measured.capacity, measured.limit) == (2, 10, 0.75)
    assert measured.on_the_rest == pytest.approx(6 / 20)
    assert (measured.refusal, measured.unknown) == ("", "")
    assert measure(looks(1, 3, 2), ready=3, out=2).on_the_rest == pytest.approx(6 / 10)


def test_a_mean_is_taken_over_time() -> None:
    series = looks(9, 9, times=1) + looks(0, 0, times=2)
    assert measure(series, ready=2).in_flight == 3


def test_the_refusal_has_all_figures_and_what_to_do() -> None:
    assert load_refusal(looks(5, 4, times=10), ready=2) == (
        "With 1 of 2 replicas out, the load would be 0.90 of the capacity that is left; above 0.60 callers "
        "wait longer than a second for the first sound. Measured in 10 looks: 4.50 requests in flight on a "
        "replica, which works on 10 at once. Wait for a quieter hour, add a replica, or set "
        "gpu_service_force: true to go on regardless."
    )


@pytest.mark.parametrize(("ready", "out"), [(2, 0), (1, 1), (0, 0), (1, 2)])
def test_where_none_goes_out_or_none_stays_it_is_no_question_of_load(ready: int, out: int) -> None:
    measured = measure(looks(9), ready, out)
    assert (measured.refusal, measured.unknown, measured.on_the_rest) == ("", "", None)


# --- what is not known --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("series", "words"),
    [
        ([], "No replica was asked for its load, so it is not known whether 1 of 2 replicas carry"),
        ([{"tts-1": None, "tts-2": None}], "No replica tells how many requests it has in flight"),
        (looks(None, None), "No replica tells how many requests it has in flight"),
        (looks(9, 9, capacity=None), "No replica tells how many requests it works on at once"),
        (looks(9, 9, capacity=0), "No replica tells how many requests it works on at once"),
        (looks(float("nan"), float("nan")), "No replica tells how many requests it has in flight"),
    ],
)
def test_what_is_not_known_is_said_and_refuses_nothing(series: t.Any, words: str) -> None:
    measured = measure(series, ready=2)
    assert measured.refusal == ""
    assert words in measured.unknown
    assert "gpu_service_metrics" in measured.unknown


def test_a_silent_replica_counts_as_being_as_busy_as_the_others() -> None:
    series = [{"tts-1": Reading(5, 10), "tts-2": None, "tts-3": Reading(None, 10)}]
    measured = measure(series, ready=3)
    assert measured.on_the_rest == pytest.approx(15 / 20)
    assert measured.unknown.startswith("tts-2, tts-3 did not tell how many requests are in flight")
    assert measured.refusal == ""
    assert measure([{**series[0], "tts-1": Reading(6, 10)}], ready=3).refusal


def test_a_replica_that_misses_a_look_is_known_by_its_others() -> None:
    series = [{"tts-1": Reading(2, 10), "tts-2": None}, {"tts-1": None, "tts-2": Reading(4, 10)}]
    assert measure(series, ready=2) == Load(2, 1, 2, in_flight=3, capacity=10, on_the_rest=0.6, limit=0.6)


# --- looks at servers ---------------------------------------------------------------------------------------


class Replica(BaseHTTPRequestHandler):
    """Answers with its own port, or hangs, until the test ends."""

    hang = threading.Event()
    ended = threading.Event()
    together: t.ClassVar[threading.Barrier]

    def log_message(self, *_args: t.Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/hang":
            self.ended.wait(60)
        elif self.path == "/together":
            self.together.wait(60)
        body = f"in_flight {t.cast(ThreadingHTTPServer, self.server).server_port}\n".encode()
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@pytest.fixture
def ports() -> t.Iterator[list[int]]:
    Replica.ended.clear()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Replica) for _each in range(3)]
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}) for server in servers
    ]
    for thread in threads:
        thread.start()
    yield [server.server_port for server in servers]
    Replica.ended.set()
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def names(path: str = "/metrics") -> MetricNames:
    return MetricNames(path=path, in_flight=("in_flight",))


def urls(ports: list[int]) -> dict[str, str]:
    return {f"tts-{number}": f"http://127.0.0.1:{port}" for number, port in enumerate(ports, 1)}


def test_every_replica_is_looked_at_in_every_look(ports: list[int]) -> None:
    series = _load.sample(urls(ports), names(), seconds=0.3, every=0.1, timeout_seconds=30)
    assert len(series) >= 1
    expected = {f"tts-{number}": Reading(in_flight=port) for number, port in enumerate(ports, 1)}
    assert series == [expected] * len(series)


def test_a_series_lasts_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that only sleep moves."""
    now = [100.0]
    monkeypatch.setattr(_load.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(_load.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(_load, "read", lambda *_args: None)
    assert len(_load.sample({"tts-1": "http://x"}, names(), seconds=5, every=0.5)) == 11
    assert now[0] == 105
    assert len(_load.sample({"tts-1": "http://x"}, names(), seconds=0, every=0.5)) == 1


def test_replicas_are_asked_at_once(ports: list[int]) -> None:
    """No server answers before all three have been asked."""
    Replica.together = threading.Barrier(3)
    (look,) = _load.sample(urls(ports), names("/together"), seconds=0, timeout_seconds=60)
    assert None not in look.values()


def test_one_that_hangs_hides_no_other(ports: list[int]) -> None:
    replicas = urls(ports)
    began = time.monotonic()
    (look,) = _load.sample({**replicas, "dead": "http://127.0.0.1:9"}, names("/hang"), 0, timeout_seconds=0.3)
    assert set(look.values()) == {None}
    assert time.monotonic() - began < 30


def test_nobody_to_ask_is_no_look() -> None:
    assert _load.sample({}, names(), seconds=5) == []
