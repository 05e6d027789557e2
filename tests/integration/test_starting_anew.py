# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas that end by themselves, and are started anew by the engine's restart policy.

The speech server with the stand-in of upstream, and a real Traefik where callers are not to notice; nobody
rolls anything.
"""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import Snapshot
from invariants import Watch
from open_load import OpenLoad
from patience import until
from recorded_voices import PORT, start_replicas, voice

# With two replicas each is due after 10 s or so, both at about the same moment.
RATE_PER_SECOND = 6.0
MAX_REQUESTS = 40
PATIENCE_SECONDS = 300.0


def servers(have: Snapshot, service: str) -> set[str]:
    found = [each for each in have.services if each["name"] == f"{service}@docker"]
    return {server["url"] for each in found for server in each["loadBalancer"].get("servers", [])}


def addresses(containers: list[Any]) -> dict[str, str]:
    """Where Traefik reaches each, by its id."""
    found = {}
    for container in containers:
        container.reload()
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        found[container.id] = f"http://{network['IPAddress']}:{PORT}"
    return found


@pytest.mark.slow
def test_replicas_start_anew_one_at_a_time_and_nobody_is_lost(lab: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    service = f"{lab.id}-tts"
    voice(tmp_path / "voices/default", 200)
    network = lab.network("anew").name
    traefik = lab.traefik(network=network)
    containers = start_replicas(
        lab,
        service,
        network,
        tmp_path / "model",
        [tmp_path / "voices"] * 2,
        {
            "traefik.enable": "true",
            f"traefik.http.routers.{service}.rule": "Host(`tts.test`)",
            f"traefik.http.services.{service}.loadbalancer.server.port": str(PORT),
        },
        {"SPEECH_MAX_REQUESTS_PER_PROCESS": str(MAX_REQUESTS), "SPEECH_MAX_QUEUED": "50"},
        interval_seconds=2,
        retries=1,
    )
    traefik.wait_for(lambda have: len(servers(have, service)) == 2, seconds=PATIENCE_SECONDS)
    where = addresses(containers)
    begun = time.time()
    # As they come: the engine remembers the last 256 of everybody's.
    events = lab.engine.events(decode=True, filters={"event": "die", "label": f"vf.test={lab.id}"})
    died: list[Any] = []
    Thread(target=died.extend, args=(events,), daemon=True).start()
    listed: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    url = f"http://{traefik.ports['80']}"
    with (
        Watch(service, floor=1, slots=2, versions=["model@r1"]) as watch,
        # Kept-alive connections lose some behind Traefik, with nothing replaced: see SpeechKind.
        OpenLoad(
            url,
            RATE_PER_SECOND,
            kind="speech",
            host="tts.test",
            new_connections=1.0,
            patience_seconds=PATIENCE_SECONDS,
        ) as load,
    ):
        while not all(container.attrs["RestartCount"] for container in containers):
            have = servers(traefik.wait_for(lambda _snapshot: True), service)
            for container in containers:
                container.reload()
                listed[container.id].append((time.time(), where[container.id] in have))
            assert time.time() < begun + PATIENCE_SECONDS, [each.logs(tail=5) for each in containers]
        traefik.wait_for(lambda have: len(servers(have, service)) == 2, seconds=PATIENCE_SECONDS)
        load.wait_for_more(10)
    events.close()

    report = load.report()
    print(report, watch, *watch.story(), sep="\n")
    report.assert_lossless(at_least=60, refused_at_most=len(report.outcomes) // 10)
    watch.assert_held(report.outcomes)
    assert {replica for (replica,) in report.count_by("replica")} == {each.short_id for each in containers}
    for container in containers:
        ends = [each for each in died if each["id"] == container.id]
        assert {each["Actor"]["Attributes"]["exitCode"] for each in ends} == {"0"}, ends
        moment = ends[0]["timeNano"] / 1e9
        before = [there for at, there in listed[container.id] if at < moment]
        assert before[-1] is False, "Traefik still sent callers to it when it ended"
        assert (True, False) in pairwise(before)


def test_a_replica_whose_model_hangs_is_started_anew_and_speaks(lab: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    voice(tmp_path / "voices/default", 200)
    (container,) = start_replicas(
        lab,
        f"{lab.id}-hangs",
        lab.network("hangs").name,
        tmp_path / "model",
        [tmp_path / "voices"],
        environment={"SPEECH_DEADLINE_SECONDS": "10", "SPEECH_GRACE_SECONDS": "1"},
        interval_seconds=1,
    )

    def healthy() -> bool:
        container.reload()
        return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

    def speak(text: str) -> requests.Response:
        url = f"{addresses([container])[container.id]}/v1/audio/speech"
        return requests.post(url, json={"input": text}, timeout=PATIENCE_SECONDS)

    until("ready", healthy)
    assert speak("Stuck-early. Nobody will ever hear this.").status_code == 504
    until("started anew", lambda: (container.reload(), container.attrs["RestartCount"])[1] == 1)
    until("ready again", healthy)
    answer = speak("The rain has stopped.")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "audio/mpeg")
    assert b"has not come back" in container.logs()
