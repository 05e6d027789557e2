# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports as the role verify puts them together, for the tests of what is made of them."""

from __future__ import annotations

import typing as t

import pytest

CARD_1 = "GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11"
CARD_2 = "GPU-9c3d1e77-0f5e-4b0e-8f0a-2a54d0f0a7d2"
CARD_3 = "GPU-c41fd0aa-7a25-4b36-9d5c-31e0f7c2b9e8"
MIG_1 = "MIG-1f0b2c7e-55d4-5d8f-9a37-0e2d3a1b6c55"
MIG_2 = "MIG-77a9e0d1-0c2b-5f6e-8b44-93d5c6e1f0a7"
DIGEST = "sha256:3f1c0a9be7715d2466c1f09d8b7c1e0a2f5d4c3b2a190807f6e5d4c3b2a19080"


def card(index: int, uuid: str, **other: t.Any) -> dict[str, t.Any]:
    return {
        "index": index,
        "uuid": uuid,
        "name": "NVIDIA GeForce RTX 4090",
        "driver": "570.133.07",
        "total_mib": 24564,
        "reserved_mib": 354,
        "used_mib": 16900,
        "foreign_mib": 0,
        "usable_mib": 24210,
        "capacity": 2,
        "class": "24 GB",
        "reason": "24564 MiB total - 354 reserved - 0 foreign - 512 headroom = 23698 MiB for 8192 each: 2",
        "mig_devices": [],
        **other,
    }


def replica(number: int, gpu: str, index: int, **other: t.Any) -> dict[str, t.Any]:
    return {
        "name": f"cosyvoice-{number}",
        "service": "cosyvoice",
        "number": number,
        "slot": f"{gpu or 'cpu'}/{index}",
        "gpu": gpu,
        "cards": [gpu] if gpu else [],
        "image": "voicefleet/speech_server:3f1c0a9be771",
        "labelled_revision": "Fun-CosyVoice3-0.5B-2512",
        "revision": "Fun-CosyVoice3-0.5B-2512",
        "weights_digest": DIGEST,
        "version": {},
        "state": "running",
        "health": "healthy",
        "address": f"172.18.0.{number + 3}",
        "restarts": 0,
        "started_at": "2026-11-22T10:41:09.120355Z",
        **other,
    }


def checks_of(replicas: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    def passed(name: str, found: str, wanted: str) -> dict[str, t.Any]:
        return {"name": name, "ok": True, "found": found, "wanted": wanted, "remedy": ""}

    return [
        passed("Traefik: version", "3.7.15", "3.7.15"),
        passed("Traefik: provider docker", "docker, file", "docker"),
        passed("entry point web", ":80", "present"),
        passed("router cosyvoice@docker", "enabled", "enabled"),
        passed("router cosyvoice@docker: rule", "PathPrefix(`/`)", "PathPrefix(`/`)"),
        passed("service cosyvoice@docker: servers", f"{len(replicas)} UP", f"{len(replicas)} UP"),
        passed("cosyvoice: replicas", f"{len(replicas)} running", f"{len(replicas)} running"),
        passed("cosyvoice: nothing left over", "nothing", "no stopped or set-aside container"),
        *(
            passed(f"{each['name']}: health", "running, healthy, 200", "running, healthy, 200 from /healthz")
            for each in replicas
        ),
        *(passed(f"{each['name']}: version", each["revision"], each["revision"]) for each in replicas),
        passed("a sentence through Traefik: status", "200", "200"),
        passed("a sentence through Traefik: header X-Replica", "cosyvoice-2", r"matches ^cosyvoice-\d+$"),
        passed("a sentence through Traefik: audio", "2.9 s at 24000 Hz", "at least 0.5 s of sound (WAV)"),
    ]


def report(replicas: list[dict[str, t.Any]], **other: t.Any) -> dict[str, t.Any]:
    servers = [{"url": f"http://{each['address']}:7860"} for each in replicas]
    whole: dict[str, t.Any] = {
        "ok": True,
        "summary": "all checks passed",
        "generated_at": "2026-11-22T10:53:07Z",
        "host": "gpu-01.example.com",
        "checks": checks_of(replicas),
        "cards": [],
        "slots": [],
        "replicas": replicas,
        "routes": {
            "routers": [
                {
                    "name": "cosyvoice@docker",
                    "status": "enabled",
                    "rule": "PathPrefix(`/`)",
                    "entryPoints": ["web"],
                    "middlewares": ["cosyvoice@file"],
                    "service": "cosyvoice",
                },
                {
                    "name": "dashboard@file",
                    "status": "enabled",
                    "rule": "PathPrefix(`/api`) || PathPrefix(`/dashboard`)",
                    "entryPoints": ["admin"],
                    "middlewares": ["dashboard-login@file"],
                    "service": "api@internal",
                },
            ],
            "services": [
                {
                    "name": "cosyvoice@docker",
                    "status": "enabled",
                    "loadBalancer": {"strategy": "p2c", "servers": servers},
                    "serverStatus": {server["url"]: "UP" for server in servers},
                }
            ],
        },
        "answers": [
            {
                "name": "a sentence through Traefik",
                "url": "http://127.0.0.1/v1/audio/speech",
                "status": 200,
                "headers": {
                    "x-replica": "cosyvoice-2",
                    "x-model-version": "Fun-CosyVoice3-0.5B-2512",
                    "content-type": "audio/wav",
                },
                "bytes": 139308,
                "first_byte_seconds": 0.184,
                "total_seconds": 0.912,
                "dest": "/var/lib/voicefleet/verify/sentence.wav",
            }
        ],
        **other,
    }
    return whole


def slots(*gpus: str) -> list[dict[str, t.Any]]:
    return [{"gpu": gpu, "index": index, "memory_mib": 8192} for gpu in gpus for index in (0, 1)]


@pytest.fixture
def good() -> dict[str, t.Any]:
    """Two 24 GB cards with two replicas each, all well."""
    replicas = [replica(1, CARD_1, 0), replica(2, CARD_2, 0), replica(3, CARD_1, 1), replica(4, CARD_2, 1)]
    cards = [card(0, CARD_1), card(1, CARD_2, foreign_mib=612)]
    return report(replicas, cards=cards, slots=slots(CARD_1, CARD_2))


@pytest.fixture
def bad() -> dict[str, t.Any]:
    """A 24 GB card, a card cut by MIG, a lost card; failures, and names that hold markup."""
    device = {"name": "3g.20gb", "total_mib": 19968, "reserved_mib": 0}
    mig = [
        {"index": 0, "uuid": MIG_1, "foreign_mib": 0, **device},
        {"index": 1, "uuid": MIG_2, "foreign_mib": 9021, **device},
    ]
    replicas = [
        replica(1, CARD_1, 0),
        replica(2, CARD_1, 1, health="unhealthy", restarts=3),
        replica(3, MIG_1, 0, revision="Fun-CosyVoice3-0.5B-2506"),
        replica(4, MIG_1, 1, state="exited", health="none", revision="", weights_digest=""),
    ]
    whole = report(
        replicas,
        ok=False,
        host="gpu-02.example.com",
        cards=[
            card(0, CARD_1),
            card(
                1,
                CARD_2,
                name="NVIDIA A100-SXM4-40GB",
                total_mib=40960,
                reserved_mib=571,
                foreign_mib=None,
                capacity=0,
                reason="MIG is enabled: its 2 MIG device(s) count, the card itself does not",
                mig_devices=mig,
            ),
            card(
                2,
                CARD_3,
                total_mib=None,
                reserved_mib=None,
                used_mib=None,
                foreign_mib=None,
                usable_mib=None,
                capacity=0,
                reason="memory unknown: GPU is lost",
            ),
        ],
        slots=[*slots(CARD_1, MIG_1), {"gpu": MIG_2, "index": 0, "memory_mib": 8192}],
    )
    failures = [
        (
            "cosyvoice-2: health",
            "running, unhealthy, no answer within 5 s",
            "running, healthy, 200 from /healthz",
            "docker logs --tail 50 cosyvoice-2 says why.",
        ),
        (
            "cosyvoice-3: version",
            "Fun-CosyVoice3-0.5B-2506",
            "Fun-CosyVoice3-0.5B-2512",
            "Run site.yml: it replaces replicas that are out of date, one at a time.",
        ),
        (
            "card #2: memory",
            "memory unknown: GPU is lost",
            "known",
            "Drain the host and reboot it; if it comes back lost, the card or its slot is broken.",
        ),
        (
            "container <script>alert(1)</script>: labels",
            'traefik.http.routers.x.rul="Host(`a&b`)"',
            "labels that Traefik knows",
            "Did you mean traefik.http.routers.x.rule?",
        ),
    ]
    names = {name for name, *_rest in failures}
    whole["checks"] = [each for each in whole["checks"] if each["name"] not in names] + [
        {"name": name, "ok": False, "found": found, "wanted": wanted, "remedy": remedy}
        for name, found, wanted, remedy in failures
    ]
    states = whole["routes"]["services"][0]["serverStatus"]
    states["http://172.18.0.5:7860"] = "DOWN"
    whole["summary"] = f"4 of {len(whole['checks'])} checks failed"
    return whole


@pytest.fixture
def cpu() -> dict[str, t.Any]:
    """A host without cards, all well."""
    replicas = [replica(number, "", number - 1, revision="en_US-joe-medium") for number in (1, 2)]
    return report(replicas, host="localhost")


@pytest.fixture
def nothing() -> dict[str, t.Any]:
    """A host on which nothing was found at all: Traefik does not answer, no replica runs."""
    refused = {
        "name": "Traefik: API",
        "ok": False,
        "found": "connection refused",
        "wanted": "an answer from http://127.0.0.1:8080/api/version",
        "remedy": "docker logs voicefleet-traefik",
    }
    return report([], ok=False, checks=[refused], routes={}, answers=[], summary="1 of 1 checks failed")
