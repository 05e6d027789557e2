# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from .admission import Admission
from .readiness import Readiness

# From a twentieth of a second (first byte, short sentence) to two minutes (long text, busy replica).
SECONDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 30, 60, 120)
RATIOS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.5, 2, 5)


class Metrics:
    """One process's figures, in a registry of their own."""

    def __init__(self, admission: Admission, readiness: Readiness):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"speech_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"speech_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"speech_{name}", text, buckets=buckets, registry=registry)

        gauge("ready", "1 when /healthz is 200").set_function(lambda: float(readiness.obstacle() is None))
        gauge("in_flight", "Requests the engine works on").set_function(lambda: admission.in_flight)
        gauge("queued", "Requests that wait for the engine").set_function(lambda: admission.queued)
        self.open_requests = gauge("open_requests", "Speech requests that are not answered to the last byte")
        gauge("capacity", "Requests the engine takes at once").set(admission.max_in_flight)
        gauge("queue_capacity", "Requests that may wait").set(admission.max_queued)
        self.info = gauge("info", "Always 1", ("service", "replica", "engine", "model", "revision"))
        self.load_seconds = gauge("load_seconds", "From the start of loading to the end of the warm-up")
        self.requests = counter("requests_total", "Answers", ("endpoint", "status"))
        self.refused = counter("refused_total", "Requests refused before any work", ("reason",))
        self.callers_left = counter("callers_left_total", "Callers who left before their answer was complete")
        self.streams_cut = counter(
            "streams_cut_total", "Answers broken off after their first byte", ("reason",)
        )
        self.engine_errors = counter("engine_errors_total", "Exceptions raised by the engine")
        self.deadlines = counter("deadline_exceeded_total", "Requests that ran into their deadline")
        self.outputs_failed = counter(
            "outputs_failed_total", "Answers that could not be kept in the outputs directory"
        )
        self.characters = counter("characters_total", "Characters of text taken on")
        self.audio_seconds = counter("audio_seconds_total", "Seconds of audio made")
        self.engine_seconds = counter("engine_seconds_total", "Seconds the engine was at work")
        self.queue_seconds = histogram("queue_seconds", "Time spent waiting for the engine")
        self.first_byte_seconds = histogram("first_byte_seconds", "From arrival to the first byte of audio")
        self.request_seconds = histogram("request_seconds", "From arrival to the last byte of audio")
        self.real_time_factor = histogram(
            "real_time_factor", "Engine seconds per second of audio, a request", RATIOS
        )
