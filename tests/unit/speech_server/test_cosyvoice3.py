# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine cosyvoice3 against a stand-in of upstream's package that has all of its faults."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import eventually
from cosyvoice.cli import cosyvoice as upstream_cosyvoice
from cosyvoice.cli import model as upstream_model
from cosyvoice3_support import (
    ANNA_HZ,
    BERT_HZ,
    TRANSCRIPT,
    cosyvoice3_settings,
    inner,
    lay_down_voice,
    loaded,
    pitch,
    recording,
    spoken,
)
from speech_server import prompts
from speech_server.engines import cosyvoice3_upstream
from speech_server.engines.base import Made, Mode, Synthesis, WishRefused
from speech_server.engines.cosyvoice3 import CosyVoice3Engine
from speech_server.engines.cosyvoice3_upstream import ModelError
from speech_server.settings import Settings, SettingsError

END = "<|endofprompt|>"
SENTENCE = "The rain has stopped, and the street is quiet again this evening."
LONG = "This sentence was made so long that a stream of it has to come in more than just one or two parts."


@pytest.fixture
def engine(tmp_path: Path) -> CosyVoice3Engine:
    return loaded(cosyvoice3_settings(tmp_path))


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(recording(260))
    return path


def left_behind(engine: CosyVoice3Engine) -> list[str]:
    """What a request leaves in the model or the process if nobody looks after it."""
    model = inner(engine)
    state = [*model.tts_speech_token_dict, *model.llm_end_dict, *model.hift_cache_dict]
    threads = [thread.name for thread in threading.enumerate() if thread.name == "llm-stand-in"]
    return state + threads + list(engine._upstream._model.frontend.spk2info)


# Modes


def test_a_named_voice_is_zero_shot_with_its_transcript(engine: CosyVoice3Engine) -> None:
    samples = spoken(engine, SENTENCE, voice="bert")
    (call,) = inner(engine).spoken
    assert call["prompt_text"] == f"You are a helpful assistant.{END}{TRANSCRIPT}"
    assert call["prompt_tokens"] > 0
    assert len(samples) / 24000 == pytest.approx(len(SENTENCE) / 15, abs=0.05)
    assert pitch(samples) == pytest.approx(BERT_HZ, rel=0.05)
    assert pitch(spoken(engine, SENTENCE)) == pytest.approx(ANNA_HZ, rel=0.05)
    assert (samples.dtype, samples.ndim) == (np.float32, 1)


def test_a_recording_whose_words_are_known(engine: CosyVoice3Engine, prompt: Path) -> None:
    samples = spoken(
        engine, SENTENCE, mode=Mode.ZERO_SHOT, reference_audio=prompt, reference_text="Words of it."
    )
    assert inner(engine).spoken[-1]["prompt_text"] == f"You are a helpful assistant.{END}Words of it."
    assert pitch(samples) == pytest.approx(260, rel=0.05)


def test_a_recording_in_another_language(engine: CosyVoice3Engine, prompt: Path) -> None:
    samples = spoken(engine, SENTENCE, mode=Mode.CROSS_LINGUAL, reference_audio=prompt)
    call = inner(engine).spoken[-1]
    assert call["text"] == f"You are a helpful assistant.{END}{SENTENCE}"
    assert (call["prompt_text"], call["prompt_tokens"]) == ("", 0)
    assert pitch(samples) == pytest.approx(260, rel=0.05)


def test_a_recording_and_an_instruction(engine: CosyVoice3Engine, prompt: Path) -> None:
    samples = spoken(
        engine, SENTENCE, mode=Mode.INSTRUCT, reference_audio=prompt, instructions="Speak slowly."
    )
    call = inner(engine).spoken[-1]
    assert call["prompt_text"] == f"You are a helpful assistant. Speak slowly.{END}"
    assert call["prompt_tokens"] == 0
    assert pitch(samples) > 280  # the instruction can be heard


def test_a_named_voice_follows_an_instruction_every_time(engine: CosyVoice3Engine) -> None:
    """Upstream ignores it with a cached voice, and deletes from the voice what the next request needs."""
    for _ in range(3):
        assert pitch(spoken(engine, SENTENCE, instructions="Be loud.")) > ANNA_HZ * 1.08
    assert pitch(spoken(engine, SENTENCE)) == pytest.approx(ANNA_HZ, rel=0.05)
    assert inner(engine).spoken[-1]["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("mode", "more", "param"),
    [
        (Mode.ZERO_SHOT, {"reference_text": f"You are a helpful assistant.{END}Words of it."}, "prompt_text"),
        (Mode.INSTRUCT, {"instructions": f"You are a helpful assistant. Be loud.{END}"}, "prompt_text"),
        (Mode.INSTRUCT, {"instructions": f"Be loud.{END}"}, "prompt_text"),
        (Mode.CROSS_LINGUAL, {"text": f"You are a helpful assistant.{END}{SENTENCE}"}, "text"),
    ],
)
def test_upstreams_own_form_is_understood(
    engine: CosyVoice3Engine, prompt: Path, mode: Mode, more: dict[str, str], param: str
) -> None:
    text = more.pop("text", SENTENCE)
    assert len(spoken(engine, text, mode=mode, reference_audio=prompt, **more))
    assert inner(engine).spoken[-1][param].count(END) == 1
    assert inner(engine).spoken[-1][param].count("You are a helpful assistant.") == 1


# Texts


def test_a_long_text_is_cut_before_the_prompt_is_added(engine: CosyVoice3Engine, prompt: Path) -> None:
    text = " ".join(
        f"This is the sentence with the number {number}, neither short nor long." for number in range(12)
    )
    spoken(engine, text, mode=Mode.CROSS_LINGUAL, reference_audio=prompt)
    calls = [call["text"] for call in inner(engine).spoken]
    assert len(calls) >= 10
    assert all(call.startswith(f"You are a helpful assistant.{END}This is the sentence") for call in calls)


def test_numbers_are_normalised_although_a_marker_would_prevent_it(
    engine: CosyVoice3Engine, prompt: Path
) -> None:
    spoken(engine, "It costs 3.5 francs at least.", mode=Mode.CROSS_LINGUAL, reference_audio=prompt)
    assert "three point five" in inner(engine).spoken[-1]["text"]


def test_tags_reach_the_model_as_they_are(engine: CosyVoice3Engine) -> None:
    text = "[breath] It costs 3.5 francs, <strong>at least</strong>."
    spoken(engine, text)
    assert inner(engine).spoken[-1]["text"] == text


@pytest.mark.parametrize(
    ("wish", "param", "says"),
    [
        ({"text": "<|en|>Hello there."}, "text", "<|en|>"),
        ({"text": f"Before. {END} After."}, "text", END),
        ({"instructions": "?!"}, "instructions", "empty"),
        ({"instructions": "louder " * 60}, "instructions", "speaks it aloud"),
        ({"instructions": "<|zh|> louder"}, "instructions", "<|zh|>"),
        ({"stream": True, "speed": 2.0}, "speed", "leave one out"),
        ({"voice": "nobody"}, "voice", "there is anna, bert"),
        ({"mode": Mode.ZERO_SHOT, "reference_text": "..."}, "reference_text", "no letter"),
        ({"mode": Mode.ZERO_SHOT, "reference_text": "Words."}, "reference_audio", "missing"),
    ],
)
def test_refusals_before_the_model_sees_anything(
    engine: CosyVoice3Engine, wish: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(WishRefused) as refused:
        spoken(engine, wish.pop("text", SENTENCE), **wish)
    assert refused.value.param == param
    assert says in refused.value.message
    assert inner(engine).spoken == []
    assert engine.worn_out() == ""


def test_a_transcript_that_cannot_be_the_recordings(engine: CosyVoice3Engine, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(recording(seconds=1.5))
    with pytest.raises(WishRefused, match="cannot be the recording's words"):
        spoken(
            engine, SENTENCE, mode=Mode.ZERO_SHOT, reference_audio=short, reference_text="Many words. " * 20
        )


# Streaming


def test_the_first_piece_is_streamed_and_the_rest_is_not(engine: CosyVoice3Engine) -> None:
    parts = list(engine.synthesize(Synthesis(f"{LONG} {LONG}")))
    assert len(parts) >= 4
    assert len(parts[0]) == 24000  # a second
    assert [call["stream"] for call in inner(engine).spoken] == [True, False]


@pytest.mark.parametrize(("policy", "streamed"), [("none", [False, False]), ("all", [True, True])])
def test_the_other_policies(tmp_path: Path, policy: str, streamed: list[bool]) -> None:
    engine = loaded(cosyvoice3_settings(tmp_path, stream=policy))
    spoken(engine, f"{LONG} {LONG}")
    assert [call["stream"] for call in inner(engine).spoken] == streamed


def test_the_callers_word_counts_more(engine: CosyVoice3Engine) -> None:
    spoken(engine, LONG, stream=False)
    assert not inner(engine).spoken[-1]["stream"]


def test_the_first_part_is_as_short_in_every_stream(engine: CosyVoice3Engine) -> None:
    """Upstream: 25, then 50, then 100 tokens, until the first sound takes four seconds of audio."""
    for _ in range(3):
        assert len(next(iter(list(engine.synthesize(Synthesis(LONG)))))) == 24000
    assert {call["first_hop"] for call in inner(engine).spoken} == {25}


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_speed_never_meets_a_stream(engine: CosyVoice3Engine, speed: float) -> None:
    samples = spoken(engine, LONG, speed=speed)
    assert len(samples) / 24000 == pytest.approx(len(LONG) / 15 / speed, rel=0.05)
    assert not inner(engine).spoken[-1]["stream"]
    assert not engine.streams_within_sentences(Synthesis(LONG, speed=speed))


# What goes wrong inside


@pytest.mark.parametrize("word", ["Explode", "Explode-early"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_exception_in_the_models_thread_ends_the_request(
    engine: CosyVoice3Engine, word: str, stream: bool
) -> None:
    """Upstream waits for ever (streamed), or blames a convolution."""
    with pytest.raises(ModelError) as failed:
        spoken(engine, f"{word}: {LONG}", stream=stream)
    assert "CUDA" in str(failed.value.__cause__)
    assert left_behind(engine) == []
    assert len(spoken(engine, SENTENCE))


def test_an_exception_outside_the_thread(engine: CosyVoice3Engine) -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        spoken(engine, f"Flow-dies: {LONG} {LONG}", stream=True)
    eventually(lambda: left_behind(engine) == [])
    assert len(spoken(engine, SENTENCE))


def test_failures_in_a_row_ask_for_a_new_process(engine: CosyVoice3Engine) -> None:
    for number in range(3):
        assert engine.worn_out() == "", number
        with pytest.raises(ModelError):
            spoken(engine, f"Explode: {LONG}")
    assert "3 requests failed one after another" in engine.worn_out()
    spoken(engine, SENTENCE)
    assert engine.worn_out() == ""


@pytest.mark.parametrize("word", ["Clip-always", "Mute"])
def test_a_text_that_fails_again_and_again_is_no_worn_out_model(engine: CosyVoice3Engine, word: str) -> None:
    """The clients of OpenAI ask three times."""
    for _ in range(3):
        with pytest.raises(ModelError, match="twice made"):
            spoken(engine, f"{word} {SENTENCE}")
    assert engine.worn_out() == ""


@pytest.mark.parametrize(
    ("says", "worn_out"),
    [("a strange voice", False), ("CUDA error: an illegal memory access", True), ("CUDNN failure 4", True)],
)
@pytest.mark.parametrize(
    "more", [{"mode": Mode.CROSS_LINGUAL}, {"mode": Mode.ZERO_SHOT, "reference_text": "a"}]
)
def test_only_the_card_counts_when_a_callers_recording_fails(
    engine: CosyVoice3Engine,
    prompt: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    says: str,
    worn_out: bool,
) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError(says)

    monkeypatch.setattr(engine._upstream._model, "add_zero_shot_spk", refuse)
    for _ in range(3):
        with pytest.raises(RuntimeError, match=says):
            spoken(engine, SENTENCE, reference_audio=prompt, **more)
    assert bool(engine.worn_out()) == worn_out


def test_a_generator_closed_early_leaves_nothing_behind(engine: CosyVoice3Engine) -> None:
    parts = engine.synthesize(Synthesis(f"{LONG} {LONG} {LONG}"))
    next(parts)
    parts.close()
    assert left_behind(engine) == []
    assert len(inner(engine).spoken) == 1  # the piece in hand is run to its end, the others are not begun


def test_closing_waits_for_the_models_thread(engine: CosyVoice3Engine) -> None:
    """Or the next request would meet it on the card, and its state would stay for ever."""
    parts = engine.synthesize(Synthesis(f"Stuck, {LONG}"))
    next(parts)
    closing = threading.Thread(target=parts.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    inner(engine).release.set()
    closing.join(60)
    assert left_behind(engine) == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_text_that_was_cut_off_is_tried_once_more(
    engine: CosyVoice3Engine, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    samples = spoken(engine, f"Clip-once {SENTENCE}", stream=stream)
    assert len(samples) / 24000 > 3
    assert len(inner(engine).spoken) == 2
    assert "the model stopped too early" in caplog.text
    assert left_behind(engine) == []


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_tried_once_more_for_who_has_left(engine: CosyVoice3Engine, stream: bool) -> None:
    parts = engine.synthesize(Synthesis(f"Clip-once {SENTENCE}", stream=stream))
    assert not len(next(parts))
    parts.close()
    assert len(inner(engine).spoken) == 1
    assert left_behind(engine) == []


def test_the_grace_is_long_enough_for_the_longest_piece() -> None:
    seconds = max(prompts._LONGEST / 15, prompts._LONGEST_WIDE / 4.5)
    slowest_real_time_factor = 0.93  # eager and streamed, on an RTX 3090
    assert Settings().grace_seconds > 2 * seconds * slowest_real_time_factor


@pytest.mark.parametrize("word", ["Clip-always", "Mute"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_text_that_stays_cut_off_or_silent_is_a_failure(
    engine: CosyVoice3Engine, stream: bool, word: str
) -> None:
    with pytest.raises(ModelError, match="twice made"):
        spoken(engine, f"{word} {SENTENCE}", stream=stream)
    assert len(inner(engine).spoken) == 2


def test_no_numbers_are_no_sound(engine: CosyVoice3Engine) -> None:
    with pytest.raises(ModelError, match="no numbers"):
        spoken(engine, f"Broken {SENTENCE}")
    assert left_behind(engine) == []


@pytest.mark.parametrize("text", ["A.", "Yes!", "No", "嗯。", "3", "Hm, no."])
def test_short_words_are_not_taken_for_cut_off(engine: CosyVoice3Engine, text: str) -> None:
    assert len(spoken(engine, text))
    assert len(inner(engine).spoken) == 1


def test_texts_do_not_reach_the_log(
    engine: CosyVoice3Engine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    spoken(engine, "My secret is short.")  # shorter than the prompt: upstream warns, with both texts
    assert "secret" not in caplog.text
    assert TRANSCRIPT not in caplog.text
    assert "100%" not in capfd.readouterr().err


def test_a_seed_is_set_before_each_call_and_another_for_the_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr("cosyvoice.utils.common.set_all_random_seed", seeds.append)
    engine = loaded(cosyvoice3_settings(tmp_path, seed=7))
    spoken(engine, f"Clip-once {SENTENCE}")
    spoken(engine, SENTENCE)
    assert seeds == [7, 8, 7]


# Loading


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_stand_in_hangs_where_upstream_does(tmp_path: Path) -> None:
    """Or the tests above would prove nothing."""
    settings = cosyvoice3_settings(tmp_path)
    model = upstream_cosyvoice.AutoModel(model_dir=str(settings.model_dir))
    wav = str(settings.voices_dir / "anna/prompt.wav")
    ended = threading.Event()

    def forgets_the_prompt() -> None:
        list(model.inference_zero_shot(LONG, "no marker", wav, stream=True))
        ended.set()

    thread = threading.Thread(target=forgets_the_prompt, daemon=True)
    thread.start()
    assert not ended.wait(0.5)
    model.model.llm_end_dict.update(dict.fromkeys(model.model.llm_end_dict, True))  # let it go
    thread.join(60)
    assert not thread.is_alive()
    stream = model.inference_zero_shot(LONG, f"{END}a", wav, stream=True)
    next(stream)
    stream.close()
    assert model.model.llm_end_dict
    assert model.model.token_hop_len == 50
    with pytest.raises(TypeError, match="Invalid file"):
        list(model.inference_zero_shot(LONG, f"{END}a", np.zeros(9), stream=True))
    model.add_zero_shot_spk(f"{END}a", wav, "anna")
    list(model.inference_instruct2(LONG, f"Be loud.{END}", "", "anna"))
    assert model.model.spoken[-1]["prompt_text"] == f"{END}a"
    with pytest.raises(KeyError):
        list(model.inference_instruct2(LONG, f"Be loud.{END}", "", "anna"))


@pytest.mark.parametrize("stream", [True, False])
def test_the_stand_in_speaks_no_longer_than_upstream(tmp_path: Path, stream: bool) -> None:
    """20 tokens for each of the text: of an empty one nothing, which it does not survive."""
    settings = cosyvoice3_settings(tmp_path)
    model = upstream_cosyvoice.AutoModel(model_dir=str(settings.model_dir))
    voice = (
        "You are a helpful assistant.<|endofprompt|>Words.",
        str(settings.voices_dir / "anna/prompt.wav"),
    )
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        list(model.inference_zero_shot("", *voice, stream=stream))
    text = "Rambles on."
    parts = list(model.inference_zero_shot(text, *voice, stream=stream))
    assert sum(part["tts_speech"].shape[1] for part in parts) == 20 * len(text) * 24000 // 25


def test_the_stand_in_gives_a_recording_another_voice(tmp_path: Path) -> None:
    """Nothing here asks upstream for it; signature and order are upstream's."""
    settings = cosyvoice3_settings(tmp_path)
    model = upstream_cosyvoice.AutoModel(model_dir=str(settings.model_dir))
    source = tmp_path / "source.wav"
    source.write_bytes(recording(seconds=6))
    bert = str(settings.voices_dir / "bert/prompt.wav")
    for stream, speed in ((False, 1.0), (True, 1.0), (False, 2.0)):
        parts = list(model.inference_vc(str(source), bert, stream=stream, speed=speed))
        samples = np.concatenate([part["tts_speech"].numpy()[0] for part in parts])
        assert len(parts) == (3 if stream else 1)
        assert len(samples) / 24000 == pytest.approx(6 / speed, abs=0.05)
        assert pitch(samples) == pytest.approx(BERT_HZ, rel=0.05)
    with pytest.raises(AssertionError, match="speed change"):
        list(model.inference_vc(str(source), bert, stream=True, speed=2.0))


def test_a_directory_that_is_missing_is_not_downloaded(tmp_path: Path) -> None:
    settings = cosyvoice3_settings(tmp_path)
    (tmp_path / "model/llm.pt").unlink()
    (tmp_path / "model/CosyVoice-BlankEN/vocab.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks llm.pt, CosyVoice-BlankEN/vocab.json"):
        loaded(settings)
    (tmp_path / "model/cosyvoice3.yaml").rename(tmp_path / "model/cosyvoice2.yaml")
    with pytest.raises(FileNotFoundError, match="the weights of another version"):
        loaded(settings)


def test_the_digest_covers_what_decides_the_sound(engine: CosyVoice3Engine) -> None:
    files = engine.model_files()
    assert {"llm.pt", "flow.pt", "hift.pt", "cosyvoice3.yaml", "CosyVoice-BlankEN/model.safetensors"} <= set(
        files
    )
    assert all(path.is_file() for path in files.values())


@pytest.mark.parametrize("option", ["fp16", "trt", "vllm"])
def test_options_that_need_a_card_are_not_dropped_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(cosyvoice3_upstream, "card", lambda: "cpu")
    monkeypatch.setattr(cosyvoice3_upstream, "_register_vllm", lambda: None)
    settings = cosyvoice3_settings(tmp_path, cache_dir=tmp_path / "cache", **{option: True})
    with pytest.raises(RuntimeError, match="sees no card"):
        loaded(settings)


def test_fp16_with_tensorrt_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    settings = cosyvoice3_settings(tmp_path, cache_dir=tmp_path / "cache", fp16=True, trt=True)
    with pytest.raises(SettingsError, match="silence instead of speech"):
        CosyVoice3Engine(settings)


@pytest.fixture
def a_card(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for a card, torch and vLLM; the registered models."""
    registered: list[str] = []
    registry = SimpleNamespace(register_model=lambda name, _model: registered.append(name))
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_name=lambda _index: "NVIDIA A10 (24 GB)",
        get_device_capability=lambda _index: (8, 6),
    )
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(upstream_cosyvoice, "CUDA", True)
    return registered


def test_what_is_built_goes_into_the_cache_and_not_into_the_weights(
    tmp_path: Path, a_card: list[str]
) -> None:
    settings = cosyvoice3_settings(tmp_path, cache_dir=tmp_path / "cache", vllm=True, trt=True)
    before = sorted(tmp_path.glob("model/**/*"))
    assert len(spoken(loaded(settings), SENTENCE))
    assert sorted(tmp_path.glob("model/**/*")) == before
    assert a_card == ["CosyVoice2ForCausalLM"]
    (view,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert view.name.startswith("NVIDIA-A10-24-GB-sm86-trt-vllm-")
    plan = view / "flow.decoder.estimator.fp32.mygpu.plan"
    plan.write_text("kept")
    loaded(settings)
    assert plan.read_text() == "kept"  # built once


def test_half_of_an_export_is_built_anew(tmp_path: Path, a_card: list[str]) -> None:
    """Upstream takes a directory vllm/ for complete, whatever is in it."""
    settings = cosyvoice3_settings(tmp_path, cache_dir=tmp_path / "cache", vllm=True)
    loaded(settings)
    (view,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    (view / "complete").unlink()
    (view / "vllm/model.safetensors").write_text("half")
    loaded(settings)
    assert (view / "vllm/model.safetensors").read_text() == "exported"
    assert (view / "complete").exists()


def test_another_card_or_other_weights_get_a_cache_of_their_own(
    tmp_path: Path, a_card: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = cosyvoice3_settings(tmp_path, cache_dir=tmp_path / "cache", trt=True)
    loaded(settings)
    monkeypatch.setattr(cosyvoice3_upstream, "card", lambda: "other")
    loaded(settings)
    (tmp_path / "model/flow.pt").write_text("a new revision")
    loaded(settings)
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 3


# Voices


def test_voices_and_the_default(engine: CosyVoice3Engine) -> None:
    assert [(voice.id, voice.name) for voice in engine.voices()] == [
        ("default", "default (anna)"),
        ("anna", "anna"),
        ("bert", "Bert from next door"),
    ]
    assert len(engine._features) == 2  # taken at the start


def test_a_voice_that_comes_or_changes_is_heard_without_a_restart(
    engine: CosyVoice3Engine, tmp_path: Path
) -> None:
    digest = engine.voices_digest
    lay_down_voice(tmp_path / "voices", "clara", 400)
    lay_down_voice(tmp_path / "voices", "anna", 150)
    engine.refresh()
    assert engine.voices_digest != digest
    assert pitch(spoken(engine, SENTENCE, voice="clara")) == pytest.approx(400, rel=0.05)
    assert pitch(spoken(engine, SENTENCE, voice="anna")) == pytest.approx(150, rel=0.05)
    assert len(engine._features) == 3  # the former anna is forgotten


def test_without_a_voice_it_starts_and_says_what_is_missing(tmp_path: Path, prompt: Path) -> None:
    settings = cosyvoice3_settings(tmp_path)
    engine = loaded(settings.__class__(**{**settings.__dict__, "voices_dir": tmp_path / "nowhere"}))
    engine.warm_up()
    assert list(engine.voices()) == []
    with pytest.raises(WishRefused, match="there is none"):
        spoken(engine, SENTENCE)
    assert len(spoken(engine, SENTENCE, mode=Mode.CROSS_LINGUAL, reference_audio=prompt))


def test_a_voice_the_model_cannot_take_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    highest_hz = [BERT_HZ - 20.0]
    add = upstream_cosyvoice.CosyVoice3.add_zero_shot_spk

    def picky(self: Any, prompt_text: str, prompt_wav: str, zero_shot_spk_id: str) -> Any:
        if self.frontend._extract_spk_embedding(prompt_wav).numpy()[0, 0] > highest_hz[0]:
            raise RuntimeError("a strange voice")
        return add(self, prompt_text, prompt_wav, zero_shot_spk_id)

    monkeypatch.setattr(upstream_cosyvoice.CosyVoice3, "add_zero_shot_spk", picky)
    engine = loaded(cosyvoice3_settings(tmp_path))
    assert [voice.id for voice in engine.voices()] == ["default", "anna"]
    assert dict(engine.voices_refused) == {"bert": "the model cannot take it: a strange voice"}
    engine.refresh()
    assert len(spoken(engine, SENTENCE))
    highest_hz[0] = 0
    with pytest.raises(RuntimeError, match="a strange voice"):  # every one: then it is the model
        loaded(cosyvoice3_settings(tmp_path))


@pytest.mark.parametrize(("stream", "later"), [("none", False), ("first", False), ("all", True)])
def test_the_warm_up_does_both_ways_and_ends_with_that_of_long_texts(
    tmp_path: Path, stream: str, later: bool
) -> None:
    engine = loaded(cosyvoice3_settings(tmp_path, stream=stream))
    made = engine.warm_up()
    assert [call["stream"] for call in inner(engine).spoken] == [not later, later, later]
    assert made
    assert 3 < made.audio_seconds < 10
    assert 0 < made.engine_seconds < made.audio_seconds


def test_what_was_cut_off_and_tried_once_more_is_not_the_pace_to_begin_with(
    engine: CosyVoice3Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([Made(5, 60), Made(5, 5), Made(5, 3)])
    monkeypatch.setattr(engine, "made", lambda _wish: next(times))
    assert engine.warm_up() == Made(5, 3)


def test_its_sample_rate(engine: CosyVoice3Engine) -> None:
    assert upstream_model.RATE_HZ == engine.sample_rate_hz == 24000
