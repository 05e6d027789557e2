# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of the stand-in: the model, with a thread for its language model as upstream has it.

Words in a text that make it misbehave:
Clip-once, Clip-always: four tokens, the first time or every time. Explode: the thread dies after some tokens.
Explode-early: before the first. Stuck: the thread waits after a second until `release` is set; Stuck-early:
after three. Slowly: it takes its time, 40 times as quick as speech. Mute: silence. Broken: NaN.
Flow-dies: an exception in the second chunk, outside the thread. Rambles: it goes on for as long as it may.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid as uuids
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from ..tensors import Tensor
from ..utils.common import SAMPLING
from .frontend import END_OF_PROMPT

RATE_HZ = 24000
TOKENS_PER_SECOND = 25
SAMPLES_PER_TOKEN = RATE_HZ // TOKENS_PER_SECOND
SPEECH_TOKENS = 6561
MEL_BINS, MEL_FRAMES_PER_TOKEN = 80, 2
LETTERS_PER_SECOND = 15
WIDE_PER_SECOND = 4.5
CLIPPED_TOKENS = 4
MOST_TOKENS_PER_TEXT_TOKEN = 20
POLL_SECONDS = 0.002  # upstream: 0.1
THREAD = "llm-stand-in"
PRE_LOOKAHEAD = 3
NO_TOKENS = Tensor(np.zeros((1, 0), np.int32))


class CosyVoice3Model:
    """`spoken` is the stand-in's own: what was asked of it, for tests to look at."""

    def __init__(self, fp16: bool = False, device: str = "cpu"):
        self.fp16 = fp16
        self.device = device
        self.broken = False  # fp16 with TensorRT
        self.token_hop_len = 25
        self.token_max_hop_len = 4 * 25
        self.stream_scale_factor = 2
        self.lock = threading.Lock()
        self.tts_speech_token_dict: dict[str, list[int]] = {}
        self.llm_end_dict: dict[str, bool] = {}
        self.hift_cache_dict: dict[str, Any] = {}
        self.spoken: list[dict[str, Any]] = []
        self.release = threading.Event()
        self.clipped: set[str] = set()

    def llm_job(
        self,
        text: Tensor,
        prompt_text: Tensor,
        llm_prompt_speech_token: Tensor,
        llm_embedding: Tensor,
        uuid: str,
    ) -> None:
        # So that who looks at the process from outside can count these threads.
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(THREAD, encoding="ascii")
        ids = [*prompt_text.numpy()[0], *text.numpy()[0]]
        assert END_OF_PROMPT in ids, "<|endofprompt|> not detected in CosyVoice3 text or prompt_text"
        words = spelled(text).partition("<|endofprompt|>")
        most = MOST_TOKENS_PER_TEXT_TOKEN * text.shape[1]
        for number in range(min(most, self._count(words[2] or words[0]))):
            if number == 3 and "Stuck-early" in words[0] + words[2]:
                self.release.wait()
            if number == 40 and "Stuck" in words[0] + words[2]:
                self.release.wait()
            if "Explode-early" in words[0] + words[2]:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if number == 40 and "Explode" in words[0] + words[2]:
                raise RuntimeError("CUDA out of memory")
            if "Slowly" in words[0] + words[2]:
                time.sleep(1 / 40 / TOKENS_PER_SECOND)
            self.tts_speech_token_dict[uuid].append(SAMPLING.randrange(SPEECH_TOKENS))
        self.llm_end_dict[uuid] = True

    def vc_job(self, source_speech_token: Tensor, uuid: str) -> None:
        self.tts_speech_token_dict[uuid] = source_speech_token.flatten().tolist()
        self.llm_end_dict[uuid] = True

    def _count(self, text: str) -> int:
        if "Clip-always" in text or ("Clip-once" in text and text not in self.clipped):
            self.clipped.add(text)
            return CLIPPED_TOKENS
        if "Rambles" in text:
            return sys.maxsize
        wide = sum(ord(character) > 0x2E80 for character in text)
        seconds = wide / WIDE_PER_SECOND + (len(text) - wide) / LETTERS_PER_SECOND
        return max(5, round(seconds * TOKENS_PER_SECOND))

    def token2wav(
        self,
        token: list[int],
        pitch_hz: float,
        first: int,
        speed: float,
        final: bool,
        streamed: bool,
        words: str,
    ) -> Tensor:
        if not token:
            raise RuntimeError("Calculated padded input size per channel: (2). Kernel size can't be greater")
        if "Flow-dies" in words and first:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if speed != 1.0:
            assert final, "speed change only support non-stream inference mode"
            assert not streamed, "speed change only support non-stream inference mode"
        count = int((len(token) - first) * SAMPLES_PER_TOKEN / speed)
        times = (np.arange(count) + first * SAMPLES_PER_TOKEN) / RATE_HZ
        level = 0.3 + 0.02 * np.array(token[first:]) / SPEECH_TOKENS  # what of a token can be heard
        at = np.minimum(np.arange(count) * speed // SAMPLES_PER_TOKEN, len(level) - 1).astype(int)
        speech = level[at] * np.sin(2 * np.pi * pitch_hz * times)
        if "Mute" in words:
            speech *= 0
        if self.broken or "Broken" in words:
            speech += np.nan
        return Tensor(speech.astype(np.float32).reshape(1, -1))

    def tts(
        self,
        text: Tensor = NO_TOKENS,
        flow_embedding: Tensor = NO_TOKENS,
        llm_embedding: Tensor = NO_TOKENS,
        prompt_text: Tensor = NO_TOKENS,
        llm_prompt_speech_token: Tensor = NO_TOKENS,
        source_speech_token: Tensor = NO_TOKENS,
        stream: bool = False,
        speed: float = 1.0,
        **_more: Any,
    ) -> Generator[dict[str, Tensor]]:
        words, prompt = spelled(text), spelled(prompt_text)
        hops: list[int] = []
        self.spoken.append(
            {
                "text": words,
                "prompt_text": prompt,
                "prompt_tokens": llm_prompt_speech_token.shape[1],
                "stream": stream,
                "speed": speed,
                "first_hop": self.token_hop_len,
                "hops": hops,
            }
        )
        # The voice, and what an instruction makes of it: only one without the recording's own words is one.
        pitch_hz = float(flow_embedding.numpy()[0, 0])
        if prompt and not llm_prompt_speech_token.shape[1]:
            pitch_hz *= 1 + (sum(map(ord, prompt)) % 7 + 1) / 10
        this_uuid = str(uuids.uuid1())
        with self.lock:
            self.tts_speech_token_dict[this_uuid], self.llm_end_dict[this_uuid] = [], False
            self.hift_cache_dict[this_uuid] = None
        job: Callable[..., None] = self.llm_job
        arguments: tuple[Any, ...] = (text, prompt_text, llm_prompt_speech_token, llm_embedding, this_uuid)
        if source_speech_token.shape[1]:
            job, arguments = self.vc_job, (source_speech_token, this_uuid)
        thread = threading.Thread(
            target=job,
            args=arguments,
            name=THREAD,
            daemon=True,  # upstream's is not; a test that leaves one hanging must end all the same
        )
        thread.start()
        offset = 0
        if stream is True:
            while True:
                time.sleep(POLL_SECONDS)
                hop, made = self.token_hop_len, self.tts_speech_token_dict[this_uuid]
                if len(made) - offset >= hop + PRE_LOOKAHEAD:
                    speech = self.token2wav(made[: offset + hop], pitch_hz, offset, speed, False, True, words)
                    offset += hop
                    hops.append(hop)
                    mel = np.full((1, MEL_BINS, offset * MEL_FRAMES_PER_TOKEN), -1, np.float32)
                    self.hift_cache_dict[this_uuid] = {"mel": Tensor(mel)}  # all there is so far
                    self.token_hop_len = min(
                        self.token_max_hop_len, self.token_hop_len * self.stream_scale_factor
                    )
                    yield {"tts_speech": speech}
                if self.llm_end_dict[this_uuid] is True and len(made) - offset < hop + PRE_LOOKAHEAD:
                    break
        thread.join()
        made = self.tts_speech_token_dict[this_uuid]
        yield {"tts_speech": self.token2wav(made, pitch_hz, offset, speed, True, offset > 0, words)}
        with self.lock:
            self.tts_speech_token_dict.pop(this_uuid)
            self.llm_end_dict.pop(this_uuid)
            self.hift_cache_dict.pop(this_uuid)


def spelled(tokens: Tensor) -> str:
    """The text again."""
    return "".join("<|endofprompt|>" if value == END_OF_PROMPT else chr(value) for value in tokens.numpy()[0])
