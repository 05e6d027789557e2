# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CosyVoice3 as callers meet it: through the HTTP APIs, with callers who leave, and for a long time."""

from __future__ import annotations

import base64
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from conftest import PATIENCE_SECONDS, Live, Spawned, eventually, running
from cosyvoice3_support import (
    ANNA_HZ,
    BERT_HZ,
    cosyvoice3_settings,
    inner,
    lay_down_voice,
    pitch,
    recording,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from speech_server.audio import FORMATS
from speech_server.engines.cosyvoice3 import CosyVoice3Engine
from speech_server.turn import Turn
from test_audio import decode

SENTENCE = "The rain has stopped, and the street is quiet again this evening."
SECONDS = len(SENTENCE) / 15
UPLOAD = recording(260)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Live]]:
    """A live server with the engine; keyword arguments are settings."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with ExitStack() as stack:

        def begin(**changes: Any) -> Live:
            settings = cosyvoice3_settings(tmp_path, **changes)
            return stack.enter_context(running(settings, CosyVoice3Engine(settings)))

        yield begin


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = cosyvoice3_settings(tmp_path_factory.mktemp("served"), max_queued=20)
    with running(settings, CosyVoice3Engine(settings)) as live:
        yield live


def heard(answer: httpx.Response) -> tuple[float, float]:
    """Seconds and pitch of an answer in raw samples."""
    assert answer.status_code == 200, answer.text
    samples, rate = decode(answer.content, "pcm")
    return len(samples) / rate, pitch(samples, rate)


def idle(live: Live) -> bool:
    return (live.server.admission.in_flight, live.server.frame.active) == (0, 0)


def left_behind(engine: CosyVoice3Engine) -> list[str]:
    model = inner(engine)
    state = [*model.tts_speech_token_dict, *model.llm_end_dict, *model.hift_cache_dict]
    state += list(engine._upstream._model.frontend.spk2info)
    state += [thread.name for thread in threading.enumerate() if thread.name == "llm-stand-in"]
    return state + [str(path) for path in Path(tempfile.gettempdir()).iterdir()]


# What existing clients send


def test_named_voices(live: Live) -> None:
    with live.client() as client:
        listed = client.get("/v1/audio/voices").json()["voices"]
        assert {"id": "bert", "name": "Bert from next door"} in listed
        for voice, hertz in (("default", ANNA_HZ), ("anna", ANNA_HZ), ("bert", BERT_HZ)):
            seconds, found = heard(live.speak(client, SENTENCE, voice=voice))
            assert seconds == pytest.approx(SECONDS, abs=0.1)
            assert found == pytest.approx(hertz, rel=0.05)


def sdk(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("speed", [1, 2])
@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streaming"])
@pytest.mark.parametrize("name", FORMATS)
def test_openai_sdk(live: Live, name: Any, streaming: bool, speed: float) -> None:
    wish: dict[str, Any] = {
        "model": "tts-1",
        "voice": "bert",
        "input": SENTENCE,
        "response_format": name,
        "instructions": "Be loud.",
        "speed": speed,
    }
    with sdk(live) as client:
        if streaming:
            with client.audio.speech.with_streaming_response.create(**wish) as answer:
                content, headers = b"".join(answer.iter_bytes(1024)), answer.headers
        else:
            whole = client.audio.speech.create(**wish)
            content, headers = whole.content, whole.response.headers
    assert headers["content-type"] == FORMATS[name].media_type
    assert "x-ignored-parameters" not in headers
    samples, rate = decode(content, name)
    assert len(samples) / rate == pytest.approx(SECONDS / speed, abs=0.2)
    assert pitch(samples, rate) > BERT_HZ * 1.05


@pytest.mark.parametrize("name", FORMATS)
def test_openai_sdk_hears_the_beginning_while_the_model_is_at_work(
    serve: Callable[..., Live], name: Any
) -> None:
    live = serve()
    text = f"{SENTENCE[:-1]} Stuck."  # at the second second
    with (
        sdk(live) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="bert", input=text, response_format=name
        ) as answer,
    ):
        parts = answer.iter_bytes()
        first = next(parts)
        assert live.server.admission.in_flight == 1
        inner(live.engine).release.set()
        samples, rate = decode(first + b"".join(parts), name)
    assert len(samples) / rate == pytest.approx(len(text) / 15, abs=0.2)


def test_openai_sdk_with_events(live: Live) -> None:
    with (
        sdk(live) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="bert", input=SENTENCE, response_format="pcm", stream_format="sse"
        ) as answer,
    ):
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert [event["type"] for event in events[-2:]] == ["speech.audio.delta", "speech.audio.done"]
    audio = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert len(audio) / 48000 == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("speed", [0.5, 2])
def test_speed(live: Live, speed: float) -> None:
    with live.client() as client:
        seconds, found = heard(live.speak(client, SENTENCE, speed=speed))
    assert seconds == pytest.approx(SECONDS / speed, rel=0.05)
    assert found == pytest.approx(ANNA_HZ, rel=0.05)


@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        ("/inference_zero_shot", {"prompt_text": "What is said."}, 260),
        (
            "/inference_zero_shot",
            {"prompt_text": "You are a helpful assistant.<|endofprompt|>What is said."},
            260,
        ),
        ("/inference_cross_lingual", {}, 260),
        (
            "/inference_instruct2",
            {"instruct_text": "You are a helpful assistant. Loud.<|endofprompt|>"},
            None,
        ),
    ],
)
def test_upstreams_clients(live: Live, path: str, more: dict[str, str], expected: float | None) -> None:
    form = {"tts_text": SENTENCE, **more}
    with live.client() as client:
        answer = client.post(path, data=form, files={"prompt_wav": ("a.wav", UPLOAD)})
    seconds, found = heard(answer)
    assert answer.headers["x-sample-rate"] == "24000"
    assert seconds == pytest.approx(SECONDS, abs=0.1)
    assert found == pytest.approx(expected, rel=0.05) if expected else found > 270


@pytest.mark.parametrize("more", [{"ref_text": "What is said."}, {}])
def test_vllm_omnis_clients(live: Live, more: dict[str, str]) -> None:
    audio = "data:audio/wav;base64," + base64.b64encode(UPLOAD).decode()
    with live.client() as client:
        answer = live.speak(client, SENTENCE, ref_audio=audio, stream=True, **more)
    assert heard(answer)[1] == pytest.approx(260, rel=0.05)
    assert answer.headers.get("x-ignored-parameters") is None


@pytest.mark.parametrize(("seconds", "advised"), [(2, True), (3, False), (15, False), (20, True)])
def test_advice_on_a_recording_of_ones_own(live: Live, seconds: float, advised: bool) -> None:
    wav = recording(seconds=seconds)
    body = {"ref_audio": base64.b64encode(wav).decode()}
    forms = {
        "/inference_zero_shot": {"prompt_text": "What is said."},
        "/inference_cross_lingual": {},
        "/inference_instruct2": {"instruct_text": "Be loud."},
    }
    with live.client() as client:
        answers = [live.speak(client, SENTENCE, **body, stream_format=how) for how in ("audio", "sse")]
        for method in ("GET", "POST"):
            for path, more in forms.items():
                form = {"tts_text": SENTENCE, **more}
                answers.append(client.request(method, path, data=form, files={"prompt_wav": wav}))
        assert "x-recording-advice" not in live.speak(client, SENTENCE).headers
    said = f"it has {seconds:.1f} s; 3 to 15 s give the best voices" if advised else None
    assert [answer.status_code for answer in answers] == [200] * 8
    assert [answer.headers.get("x-recording-advice") for answer in answers] == [said] * 8


def test_sound_comes_before_the_sentence_is_finished(serve: Callable[..., Live]) -> None:
    live = serve()
    body = {"input": f"{SENTENCE[:-1]} Stuck.", "response_format": "pcm"}
    with live.client() as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        parts = answer.iter_bytes(24000)
        first = [next(parts), next(parts)]  # a second
        inner(live.engine).release.set()  # until then the model is at its second one
        assert len(b"".join([*first, *parts])) / 48000 == pytest.approx(SECONDS + 0.4, abs=0.3)


def test_one_sentence_made_whole_knows_its_length(live: Live) -> None:
    with live.client() as client:
        body = {"input": SENTENCE, "response_format": "wav", "stream": False}
        content = client.post("/v1/audio/speech", json=body).content
    assert int.from_bytes(content[40:44], "little") == len(content) - 44


# What is refused


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": "<|en|>Hello."}, "input", "<|en|>"),
        ({"voice": "nobody"}, "voice", "there is default, anna, bert"),
        ({"instructions": "louder " * 60}, "instructions", "speaks it aloud"),
        ({"stream": True, "speed": 2}, "speed", "leave one out"),
        ({"ref_audio": "UklGRg=="}, "ref_audio", "cannot be read"),
        ({"ref_audio": base64.b64encode(recording(rate_hz=8000)).decode()}, "ref_audio", "16000"),
        ({"ref_audio": base64.b64encode(recording(seconds=0.4)).decode()}, "ref_audio", "1 s are the least"),
        ({"ref_audio": base64.b64encode(recording(seconds=40)).decode()}, "ref_audio", "longer than 30 s"),
        (
            {"ref_audio": base64.b64encode(UPLOAD).decode(), "ref_text": "Too many words. " * 30},
            "ref_text",
            "cannot be the recording's words",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_refusals(live: Live, body: dict[str, Any], param: str, says: str) -> None:
    with live.client() as client:
        answer = client.post("/v1/audio/speech", json={"input": SENTENCE, **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert says in error["message"]


@pytest.mark.parametrize("field", ["prompt_text", "tts_text", "prompt_wav"])
def test_refusals_in_upstreams_words(live: Live, field: str) -> None:
    form = {"tts_text": SENTENCE, "prompt_text": "What is said."}
    wav = b"nonsense" if field == "prompt_wav" else UPLOAD
    if field != "prompt_wav":
        form[field] = "<|en|>Hello."
    with live.client() as client:
        answer = client.post("/inference_zero_shot", data=form, files={"prompt_wav": ("a.wav", wav)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


WORDS = st.sampled_from(
    ["Hello there.", "你好。", "[breath]", "<|", "|>", "<|en|>", "<|endofprompt|>", "3.5", "\n"]
)


@trials(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.fixed_dictionaries(
        {"input": st.lists(WORDS | st.text(max_size=6), max_size=8).map("".join)},
        optional={
            "voice": st.sampled_from(["default", "bert", "nobody"]),
            "instructions": st.lists(WORDS, max_size=3).map("".join),
            "ref_audio": st.sampled_from([base64.b64encode(UPLOAD).decode(), "UklGRg==", "?"]),
            "ref_text": st.lists(WORDS, max_size=3).map("".join),
            "stream": st.sampled_from([True, False, None]),
            "speed": st.sampled_from([0.25, 1, 4]),
        },
    )
)
def test_no_wish_is_a_fault_of_ours(live: Live, body: dict[str, Any]) -> None:
    with live.client() as client:
        answer = client.post("/v1/audio/speech", json={**body, "response_format": "pcm"})
    assert answer.status_code in (200, 400), answer.text
    assert live.metric("engine_errors_total") == 0


# What the machinery asks


def test_version_tells_the_voices_and_those_left_out(live: Live) -> None:
    settings = live.server.settings
    with live.client() as client:
        before = client.get("/version").json()
        assert before["voices_refused"] == {}
        assert before["modes"] == ["cross_lingual", "instruct", "voice", "zero_shot"]
        assert before["weights_files"]["llm.pt"]
        lay_down_voice(settings.voices_dir, "clara", 400)
        lay_down_voice(settings.voices_dir, "dora", rate_hz=8000)
        eventually(lambda: client.get("/version").json()["voices_digest"] != before["voices_digest"])
        assert "16000 are the least" in client.get("/version").json()["voices_refused"]["dora"]
        assert heard(live.speak(client, SENTENCE, voice="clara"))[1] == pytest.approx(400, rel=0.05)
        assert live.speak(client, SENTENCE, voice="dora").status_code == 400


# Trouble


def test_a_dead_thread_is_a_500_at_once_and_not_a_hang(serve: Callable[..., Live]) -> None:
    live = serve()
    with live.client() as client:
        answer = live.speak(client, f"Explode-early. {SENTENCE}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            live.speak(client, f"{SENTENCE} Explode, {SENTENCE}")
        eventually(lambda: idle(live))
        assert left_behind(live.engine) == []
        assert live.speak(client, SENTENCE).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_a_model_that_hangs_ends_the_process(serve: Callable[..., Live]) -> None:
    live = serve(deadline_seconds=0.5, grace_seconds=0.3)
    with live.client() as client:
        answer = live.speak(client, f"Stuck-early. {SENTENCE}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        eventually(lambda: live.exits == [70])
        assert "has not come back" in client.get("/healthz").json()["reason"]
    inner(live.engine).release.set()


def test_a_deadline_ends_a_cut_off_text_without_another_try(serve: Callable[..., Live]) -> None:
    live = serve(deadline_seconds=0.5)
    before = len(inner(live.engine).spoken)  # to warm up
    with live.client() as client:
        answer = live.speak(client, f"Clip-once Stuck-early. {SENTENCE}")
        assert answer.status_code == 504
        inner(live.engine).release.set()
        eventually(lambda: idle(live))
    assert len(inner(live.engine).spoken) == before + 1


def test_three_failures_in_a_row_start_the_process_anew(serve: Callable[..., Live]) -> None:
    live = serve()
    ended = threading.Event()
    live.server.end = ended.set
    with live.client() as client:
        for _ in range(3):
            assert not ended.is_set()
            live.speak(client, f"Explode-early. {SENTENCE}")
            eventually(lambda: idle(live))
        eventually(ended.is_set)


@pytest.mark.slow
def test_a_process_that_has_served_enough_drains_and_ends_well(
    spawn: Callable[..., Spawned], tmp_path: Path
) -> None:
    settings = cosyvoice3_settings(tmp_path)
    process = spawn(
        engine="cosyvoice3",
        model_dir=settings.model_dir,
        voices_dir=settings.voices_dir,
        max_requests_per_process=4,
        linger_seconds=1,
    )
    process.wait_ready()
    served = 0
    with suppress(httpx.TransportError):
        while process.health()[1] == "ready":
            answer = process.client.post(
                "/v1/audio/speech", json={"input": "My secret. " + SENTENCE, "response_format": "pcm"}
            )
            served += answer.status_code == 200
            time.sleep(0.5)  # it has to have seen for a while that all others serve
    assert served >= 3
    assert process.wait() == 0
    log = process.log.read_text()
    assert "requests served" in log
    assert "secret" not in log


def test_a_process_waits_with_starting_anew_until_its_neighbour_serves(
    serve: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speech_server.turn.QUIET_SECONDS", 0.0)
    live = serve(max_requests_per_process=1)
    ended = threading.Event()
    live.server.end = ended.set
    neighbour = Turn(live.server.settings.voices_dir)  # whatever its weights
    eventually(neighbour.taken, "it serves, and the neighbour may not start anew")
    with live.client() as client:
        assert live.speak(client, SENTENCE).status_code == 200
        eventually(lambda: idle(live))
        assert not ended.is_set()
        neighbour.close()
        live.speak(client, SENTENCE)
        eventually(ended.is_set)


@pytest.mark.slow
def test_hundreds_of_requests_with_callers_who_leave(serve: Callable[..., Live]) -> None:
    """Nothing hangs, nothing leaks: no thread, no state in the model, no file."""
    live = serve(max_queued=8, deadline_seconds=60)
    threads = threading.active_count()
    chance = random.Random(1)  # noqa: S311
    texts = [SENTENCE, f"{SENTENCE} {SENTENCE}", "Yes.", f"Clip-once {SENTENCE}", f"Explode, {SENTENCE}"]
    wishes = [
        (
            chance.choice(["speech", "upload", "instruct"]),
            chance.choices(texts, [6, 4, 2, 1, 1])[0],
            chance.choice(["stay", "stay", "leave early", "leave in the middle"]),
        )
        for _ in range(300)
    ]
    counts: dict[str, int] = {}
    lock = threading.Lock()

    def call(wish: tuple[str, str, str]) -> None:
        kind, text, manner = wish
        outcome = "broken off"
        with suppress(httpx.TransportError), live.client() as client:
            if kind == "speech":
                request = client.build_request(
                    "POST", "/v1/audio/speech", json={"input": text, "response_format": "pcm"}
                )
            elif kind == "upload":
                form = {"tts_text": text, "prompt_text": "What is said."}
                request = client.build_request(
                    "POST", "/inference_zero_shot", data=form, files={"prompt_wav": UPLOAD}
                )
            else:
                body = {"input": text, "response_format": "pcm", "voice": "bert", "instructions": "Be loud."}
                request = client.build_request("POST", "/v1/audio/speech", json=body)
            if manner == "leave early":
                request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), 0.05)
            answer = client.send(request, stream=True)
            outcome = str(answer.status_code)
            parts = answer.iter_raw()
            if manner == "leave in the middle":
                next(parts, None)
            else:
                for _part in parts:
                    pass
            answer.close()
        with lock:
            counts[outcome] = counts.get(outcome, 0) + 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(call, wishes, timeout=PATIENCE_SECONDS * 5))
    eventually(lambda: idle(live))
    eventually(lambda: left_behind(live.engine) == [], f"left behind: {left_behind(live.engine)}")
    eventually(lambda: threading.active_count() <= threads + 2)
    assert set(counts) <= {"200", "500", "503", "broken off"}, counts
    assert counts["200"] > 100, counts
    with live.client() as client:
        assert client.get("/healthz").status_code == 200
        seconds, found = heard(live.speak(client, SENTENCE))
    assert seconds == pytest.approx(SECONDS, abs=0.1)
    assert found == pytest.approx(ANNA_HZ, rel=0.05)
    assert {call["first_hop"] for call in inner(live.engine).spoken if call["stream"]} == {25}


def test_two_at_once_do_not_mix(serve: Callable[..., Live]) -> None:
    live = serve(max_in_flight=2, max_queued=50)
    with live.client() as client, ThreadPoolExecutor(6) as pool:
        voices = ["anna", "bert"] * 15
        answers = list(pool.map(lambda voice: live.speak(client, SENTENCE, voice=voice), voices))
    for voice, answer in zip(voices, answers, strict=True):
        seconds, found = heard(answer)
        assert found == pytest.approx({"anna": ANNA_HZ, "bert": BERT_HZ}[voice], rel=0.05)
        assert seconds == pytest.approx(SECONDS, abs=0.1)
    assert left_behind(live.engine) == []


@pytest.mark.parametrize("at_once", [1, 2])
def test_one_at_a_time_is_what_protects(serve: Callable[..., Live], at_once: int) -> None:
    """Of two in the model at once the first gets the other's length of parts, and other random numbers."""
    live = serve(max_in_flight=at_once, seed=7)
    model = inner(live.engine)
    text = f"Stuck-early: {SENTENCE[:-1]}, and so it will be until the morning, one would like to think."

    def speak(text: str) -> bytes:
        with live.client() as client:
            answer = live.speak(client, text, stream=True)
        assert answer.status_code == 200
        return answer.content

    model.release.set()
    alone = speak(text)
    hops = model.spoken[-1]["hops"]
    assert hops[0] == 25
    assert speak(text) == alone
    model.release.clear()
    model.spoken.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(speak, text)
        eventually(lambda: model.spoken)
        second = pool.submit(speak, text.partition(": ")[2])
        eventually(second.done if at_once == 2 else lambda: live.server.admission.queued == 1)
        assert len(model.spoken) == at_once
        model.release.set()
        undisturbed = (first.result() == alone, model.spoken[0]["hops"] == hops)
    assert undisturbed == ((True, True) if at_once == 1 else (False, False))


def test_replicas_draw_different_limits() -> None:
    from speech_server.recycling import Recycling
    from speech_server.settings import Settings

    engine = CosyVoice3Engine(replace(Settings(), engine="cosyvoice3", model_dir=Path("m")))
    limits = {Recycling(1000, engine).limit for _ in range(50)}
    assert len(limits) > 20
    assert 750 <= min(limits) <= max(limits) <= 1000
    assert Recycling(0, engine).limit == 0
    assert Recycling(1, engine).limit == 1
    never = Recycling(0, engine)
    assert [never.reason() for _ in range(3)] == [""] * 3
