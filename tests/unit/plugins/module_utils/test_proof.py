# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine and the replicas say, held against what was asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing as t

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _proof
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Answer, Request
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._proof import Replica, Service

GPU = "GPU-5a0e8f21-6a0b-4a4f-a3c1-6f8f8f5b7c11"
SERVICE = Service("tts", 7860, "voicefleet", "/healthz", "/version", replicas=2)


def replica(number: int, **other: t.Any) -> Replica:
    given: dict[str, t.Any] = {
        "name": f"tts-{number}",
        "service": "tts",
        "number": number,
        "slot": f"{GPU}/{number - 1}",
        "gpu": GPU,
        "image": "x",
        "image_id": "sha256:77",
        "labelled_revision": "r2",
        "state": "running",
        "health": "healthy",
        "address": "172.18.0.9",
        "cards": [GPU],
    }
    return Replica(**{**given, **other})


def said(revision: str = "r2", digest: str = "sha256:aa") -> Answer:
    return Answer(200, {}, json.dumps({"revision": revision, "weights_digest": digest}).encode())


WELL = {
    ("tts-1", "health"): Answer(200, {}, b"ok"),
    ("tts-2", "health"): Answer(200, {}, b"ok"),
    ("tts-1", "version"): said(),
    ("tts-2", "version"): said(),
}
SLOTS = [f"{GPU}/0", f"{GPU}/1"]


def judged(
    replicas: list[Replica],
    answers: t.Mapping[tuple[str, str], Answer] = WELL,
    service: Service = SERVICE,
    slots: t.Sequence[str] | None = SLOTS,
) -> dict[str, tuple[bool, str]]:
    _proof.learn_versions(replicas, [service], answers)
    checks = _proof.judge_service(service, replicas, answers, slots)
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert all(bool(check.remedy) != check.ok for check in checks)
    return {check.name: (check.ok, check.found) for check in checks}


def failures(*args: t.Any, **kwargs: t.Any) -> dict[str, str]:
    return {name: found for name, (ok, found) in judged(*args, **kwargs).items() if not ok}


def test_when_all_is_well_every_check_passes_and_every_replica_is_checked() -> None:
    checks = judged([replica(1), replica(2)])
    assert all(ok for ok, _found in checks.values())
    assert set(checks) == {
        "tts: replicas",
        "tts: nothing left over",
        "tts: slots",
        "tts: one version",
        *(f"tts-{number}: {topic}" for number in (1, 2) for topic in ("health", "version", "card")),
    }


def test_a_replica_too_few_or_too_many_is_counted() -> None:
    assert failures([replica(1)]) == {"tts: replicas": "1 running"}
    assert failures([replica(1), replica(2, state="exited")])["tts: replicas"] == "1 running"
    assert failures([], {})["tts: replicas"] == "0 running"


def test_what_an_interrupted_run_leaves_is_found() -> None:
    stopped = failures([replica(1), replica(2, state="exited")])
    assert stopped["tts: nothing left over"] == "tts-2 (exited)"
    aside = replica(2, name="tts-2-old", state="exited")
    assert failures([replica(1), replica(2), aside]) == {"tts: nothing left over": "tts-2-old (exited)"}


def test_two_on_one_slot_and_a_slot_that_is_gone_are_found() -> None:
    found = failures([replica(1), replica(2, slot=f"{GPU}/0")])
    assert found == {"tts: slots": f"{GPU}/0 holds 2"}
    assert failures([replica(1), replica(2, slot=f"{GPU}/7")]) == {"tts: slots": f"{GPU}/7 is not there"}


def test_on_a_host_without_cards_slots_are_not_compared() -> None:
    cpu = [replica(number, slot=f"cpu/{number - 1}", gpu="", cards=[]) for number in (1, 2)]
    assert failures(cpu, slots=None) == {}


@pytest.mark.parametrize("cards", [[], ["GPU-other"], [GPU, "GPU-other"]])
def test_a_replica_has_its_slots_card_and_no_other(cards: list[str]) -> None:
    assert failures([replica(1), replica(2, cards=cards)]) == {"tts-2: card": ", ".join(cards) or "none"}


def test_health_is_what_docker_says_and_what_the_replica_says() -> None:
    assert failures([replica(1), replica(2, health="unhealthy")]) == {
        "tts-2: health": "running, unhealthy, 200"
    }
    refusing = {**WELL, ("tts-2", "health"): Answer(503, {}, b"draining")}
    assert failures([replica(1), replica(2)], refusing) == {"tts-2: health": "running, healthy, 503 draining"}
    hung = {**WELL, ("tts-2", "health"): Answer(error="no answer within 5 s")}
    assert failures([replica(1), replica(2)], hung) == {
        "tts-2: health": "running, healthy, no answer within 5 s"
    }


def test_a_replica_off_the_network_is_told() -> None:
    answers = {key: answer for key, answer in WELL.items() if key[0] != "tts-2"}
    found = failures([replica(1), replica(2, address="")], answers)
    assert "no address on network voicefleet" in found["tts-2: health"]
    assert found["tts-2: version"] == "could not be asked"


def test_versions_are_compared_with_what_was_asked_for_and_with_each_other() -> None:
    mixed = {**WELL, ("tts-2", "version"): said("r1")}
    assert failures([replica(1), replica(2)], mixed) == {
        "tts-2: version": "r1",
        "tts: one version": "r2, weights aa, image 77 on tts-1; r1, weights aa, image 77 on tts-2",
    }


def test_other_weights_under_the_same_revision_are_found() -> None:
    mixed = {**WELL, ("tts-2", "version"): said(digest="sha256:bb")}
    assert failures([replica(1), replica(2)], mixed) == {
        "tts: one version": "r2, weights aa, image 77 on tts-1; r2, weights bb, image 77 on tts-2"
    }


def test_two_images_under_the_same_revision_are_found() -> None:
    assert failures([replica(1), replica(2, image_id="sha256:78")]) == {
        "tts: one version": "r2, weights aa, image 77 on tts-1; r2, weights aa, image 78 on tts-2"
    }


def test_the_asked_for_revision_wins_over_the_label() -> None:
    service = Service("tts", 7860, "voicefleet", "/healthz", "/version", revision="r3")
    assert set(failures([replica(1), replica(2)], service=service)) == {"tts-1: version", "tts-2: version"}


def test_a_digest_that_was_asked_for_is_compared_with_what_each_replica_tells() -> None:
    asked = dataclasses.replace(SERVICE, digest="sha256:aa")
    assert failures([replica(1), replica(2)], service=asked) == {}
    other = dataclasses.replace(SERVICE, digest="0" * 64)
    assert set(failures([replica(1), replica(2)], service=other)) == {"tts-1: weights", "tts-2: weights"}
    silent = {**WELL, ("tts-1", "version"): Answer(200, {}, b'{"revision": "r2"}')}
    found = failures([replica(1), replica(2)], silent, asked)
    assert found["tts-1: weights"] == "it does not tell"


def with_voices(
    digest: str | None, refused: dict[str, str] | None = None, voices: dict[str, str] | None = None
) -> Answer:
    told = {
        "revision": "r2",
        "voices_digest": digest,
        "voices": voices or {},
        "voices_refused": refused or {},
    }
    return Answer(200, {}, json.dumps(told).encode())


def voices_told(one: Answer, other: Answer) -> dict[tuple[str, str], Answer]:
    return {**WELL, ("tts-1", "version"): one, ("tts-2", "version"): other}


def test_voices_are_compared_with_those_asked_for_and_with_each_other() -> None:
    both = [replica(1), replica(2)]
    asked = dataclasses.replace(SERVICE, voices="aa")
    same, other = voices_told(with_voices("aa"), with_voices("aa")), with_voices("bb")
    assert failures(both, same, asked) == {}
    assert {"tts-1: voices", "tts-2: voices", "tts: one set of voices"} <= set(judged(both, same))
    assert failures(both, voices_told(with_voices("aa"), other), asked) == {
        "tts-2: voices": "bb",
        "tts: one set of voices": "aa on tts-1; bb on tts-2",
    }
    assert failures(both, voices_told(other, other), asked) == {"tts-1: voices": "bb", "tts-2: voices": "bb"}
    assert set(failures(both, voices_told(with_voices("aa"), other))) == {"tts: one set of voices"}


def test_a_replica_that_takes_no_voices_is_asked_for_none_unless_some_are_wanted() -> None:
    silent = voices_told(with_voices(None), with_voices(None))
    assert not any("voices" in name for name in judged([replica(1), replica(2)], silent))
    asked = dataclasses.replace(SERVICE, voices="aa")
    found = failures([replica(1), replica(2)], silent, asked)
    assert found == {"tts-1: voices": "it does not tell", "tts-2: voices": "it does not tell"}


def test_voices_that_differ_are_named() -> None:
    asked = dataclasses.replace(SERVICE, voices="aa", voice_digests={"anna": "1", "bert": "2", "carl": "3"})
    other = with_voices("bb", {"carl": "prompt.wav is silent"}, {"bert": "4", "emil": "5"})
    found = failures([replica(1), replica(2)], voices_told(with_voices("aa"), other), asked)
    assert found["tts-2: voices"] == (
        "bb, without carl: prompt.wav is silent; missing: anna; not as wanted: bert; not wanted: emil"
    )


def test_a_host_without_any_voice_is_no_success() -> None:
    nothing = hashlib.sha256().hexdigest()
    asked = dataclasses.replace(SERVICE, voices=nothing, voice_digests={})
    found = failures([replica(1), replica(2)], voices_told(with_voices(nothing), with_voices(nothing)), asked)
    assert set(found) == {"tts-1: voices", "tts-2: voices"}
    assert "its host has no voice" in found["tts-1: voices"]


def test_a_voice_that_is_left_out_is_named() -> None:
    refusing = with_voices("aa", {"carl": "prompt.wav is silent"})
    found = failures([replica(1), replica(2)], voices_told(with_voices("aa"), refusing))
    assert found == {"tts-2: voices": "aa, without carl: prompt.wav is silent"}


def test_replicas_are_asked_again_until_they_have_taken_up_the_voices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"tts-1": ["aa"], "tts-2": ["old", "old", "aa"]}
    asked: list[str] = []

    def ask(request: Request) -> Answer:
        asked.append(request.name)
        answers = told[request.name]
        return with_voices(answers.pop(0) if len(answers) > 1 else answers[0])

    monkeypatch.setattr(_proof, "ask", ask)
    monkeypatch.setattr(_proof, "VOICES_PAUSE_SECONDS", 0.0)
    service = dataclasses.replace(SERVICE, health_path="", voices="aa")
    replicas = [replica(1), replica(2)]
    _proof.ask_until_settled(replicas, [service], 5, settle_seconds=60)
    assert [each.voices_digest for each in replicas] == ["aa", "aa"]
    assert (asked.count("tts-1"), asked.count("tts-2")) == (1, 3)
    told["tts-2"] = ["old"]
    asked.clear()
    _proof.ask_until_settled(replicas, [service], 5, settle_seconds=0)
    assert replicas[1].voices_digest == "old"


def test_a_replica_that_does_not_tell_its_version_is_not_taken_for_one_that_does() -> None:
    silent = {
        **WELL,
        ("tts-1", "version"): Answer(200, {}, b"{}"),
        ("tts-2", "version"): Answer(200, {}, b"{}"),
    }
    found = failures([replica(1), replica(2)], silent)
    assert found["tts-1: version"] == "nothing under revision"
    assert "unknown" in found["tts: one version"]


def test_a_version_in_plain_text_is_the_revision() -> None:
    plain = {
        **WELL,
        ("tts-1", "version"): Answer(200, {}, b"r2\n"),
        ("tts-2", "version"): Answer(200, {}, b"r2"),
    }
    assert failures([replica(1), replica(2)], plain) == {}


def test_a_service_without_version_and_health_paths_goes_by_the_engine() -> None:
    service = Service("tts", 8000, "voicefleet", "", "", replicas=2)
    checks = judged([replica(1), replica(2, health="none")], {}, service)
    assert all(ok for ok, _found in checks.values())
    assert checks["tts-2: health"] == (True, "running")
    assert not any("version" in name for name in checks)


def test_only_running_replicas_with_an_address_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(request: Request) -> Answer:
        asked.append(request.url)
        return Answer(200)

    monkeypatch.setattr(_proof, "ask", ask)
    replicas = [replica(1), replica(2, state="exited"), replica(3, address="")]
    answers = _proof.ask_replicas(replicas, [SERVICE], 5)
    assert sorted(asked) == ["http://172.18.0.9:7860/healthz", "http://172.18.0.9:7860/version"]
    assert set(answers) == {("tts-1", "health"), ("tts-1", "version")}


def test_a_lost_card_and_a_mig_device_without_memory_are_failures() -> None:
    cards: list[dict[str, t.Any]] = [
        {"index": 0, "total_mib": 24564, "mig_devices": []},
        {"index": 1, "total_mib": None, "reason": "memory unknown: GPU is lost", "mig_devices": []},
        {
            "index": 2,
            "total_mib": None,
            "mig_devices": [{"index": 0, "total_mib": 19968}, {"index": 1, "total_mib": None}],
        },
    ]
    assert [(check.name, check.ok, check.found) for check in _proof.judge_cards(cards)] == [
        ("card #0: memory", True, "24564 MiB"),
        ("card #1: memory", False, "memory unknown: GPU is lost"),
        ("MIG device #2:0: memory", True, "19968 MiB"),
        ("MIG device #2:1: memory", False, "unknown"),
    ]


INSPECTED: dict[str, t.Any] = {
    "Name": "/tts-1",
    "Image": "sha256:3f1c",
    "RestartCount": 2,
    "State": {"Status": "running", "StartedAt": "2026-11-22T10:41:09Z", "Health": {"Status": "healthy"}},
    "Config": {
        "Image": "sha256:3f1c",
        "Labels": {
            "voicefleet.service": "tts",
            "voicefleet.replica": "1",
            "voicefleet.slot": f"{GPU}/0",
            "voicefleet.gpu": GPU,
            "voicefleet.revision": "r2",
            "voicefleet.config": '{"image": "voicefleet/tts:1"}',
        },
    },
    "HostConfig": {"DeviceRequests": [{"DeviceIDs": [GPU]}]},
    "NetworkSettings": {
        "Networks": {"voicefleet": {"IPAddress": "172.18.0.4"}, "other": {"IPAddress": "10.0.0.1"}}
    },
}


@pytest.mark.parametrize("device", [GPU, f"nvidia.com/gpu={GPU}"])  # by the hook, and by CDI
def test_a_container_is_read_as_the_engine_describes_it(device: str) -> None:
    asked = {"HostConfig": {"DeviceRequests": [{"DeviceIDs": [device]}]}}
    seen = _proof.replica_of({**INSPECTED, **asked}, {"tts": "voicefleet"})
    assert seen == Replica(
        name="tts-1",
        service="tts",
        number=1,
        slot=f"{GPU}/0",
        gpu=GPU,
        image="voicefleet/tts:1",
        image_id="sha256:3f1c",
        labelled_revision="r2",
        state="running",
        health="healthy",
        address="172.18.0.4",
        cards=[GPU],
        restarts=2,
        started_at="2026-11-22T10:41:09Z",
    )


def test_a_bare_container_is_read_too() -> None:
    bare = {
        **INSPECTED,
        "State": {"Status": "created"},
        "Config": {"Image": "mine:latest", "Labels": {"voicefleet.service": "tts"}},
        "HostConfig": {"DeviceRequests": None},
        "NetworkSettings": {"Networks": {}},
    }
    seen = _proof.replica_of(bare, {"tts": "voicefleet"})
    assert (seen.number, seen.health, seen.address, seen.cards, seen.image) == (
        0,
        "none",
        "",
        [],
        "mine:latest",
    )


def test_a_container_on_the_hosts_network_is_asked_on_loopback() -> None:
    host = {**INSPECTED, "NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}}}
    assert _proof.replica_of(host, {"tts": "voicefleet"}).address == "127.0.0.1"
