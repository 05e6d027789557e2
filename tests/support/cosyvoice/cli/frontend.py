# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of the stand-in: from texts and recordings to what the model takes."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Generator
from typing import Any

import numpy as np

from ..tensors import Tensor, tokens
from ..utils.file_utils import load_wav

END_OF_PROMPT = 151646
_SPECIAL = {"<|endofprompt|>": END_OF_PROMPT}


class CosyVoiceFrontEnd:
    """`spk2info` is the cache of speakers."""

    def __init__(self) -> None:
        self.spk2info: dict[str, dict[str, Any]] = {}
        self.text_frontend = "wetext"

    def _extract_text_token(self, text: str) -> tuple[Tensor, Tensor]:
        """One token a character, and one for a special token."""
        values: list[int] = []
        for part in re.split(r"(<\|endofprompt\|>)", text):
            values += [_SPECIAL[part]] if part in _SPECIAL else [ord(character) for character in part]
        return tokens(values), Tensor(np.array([len(values)], dtype=np.int32))

    def _extract_speech_token(self, prompt_wav: str) -> tuple[Tensor, Tensor]:
        speech = load_wav(prompt_wav, 16000)
        assert speech.shape[1] / 16000 <= 30, "do not support extract speech token for audio longer than 30s"
        values = [int(abs(value) * 6560) for value in speech[0, ::640]]
        return tokens(values), Tensor(np.array([len(values)], dtype=np.int32))

    def _extract_speech_feat(self, prompt_wav: str) -> tuple[Tensor, Tensor]:
        speech = load_wav(prompt_wav, 24000)
        frames = speech.shape[1] // 480
        return Tensor(np.zeros((1, frames, 80), np.float32)), Tensor(np.array([frames], dtype=np.int32))

    def _extract_spk_embedding(self, prompt_wav: str) -> Tensor:
        """The pitch of the voice, by how often it crosses zero: what a listener would tell voices by."""
        speech = load_wav(prompt_wav, 16000)[0]
        crossings = np.count_nonzero(np.diff(np.signbit(speech)))
        return Tensor(np.full((1, 192), crossings / 2 / (len(speech) / 16000), np.float32))

    def text_normalize(self, text: Any, split: bool = True, text_frontend: bool = True) -> Any:
        if isinstance(text, Generator):
            return [text]
        if "<|" in text and "|>" in text:
            text_frontend = False
        if text_frontend is False or text == "":
            return [text] if split is True else text
        text = text.strip().replace("3.5", "three point five")
        if split is False:
            return text
        parts = re.findall(r".{1,300}(?:[.!?。]|$)|.{1,300}", text, re.DOTALL)
        return [part for part in parts if any(unicodedata.category(mark)[0] in "LN" for mark in part)]

    def frontend_zero_shot(
        self, tts_text: str, prompt_text: str, prompt_wav: str, resample_rate: int, zero_shot_spk_id: str
    ) -> dict[str, Any]:
        text, text_len = self._extract_text_token(tts_text)
        if zero_shot_spk_id == "":
            prompt, prompt_len = self._extract_text_token(prompt_text)
            feat, feat_len = self._extract_speech_feat(prompt_wav)
            token, token_len = self._extract_speech_token(prompt_wav)
            embedding = self._extract_spk_embedding(prompt_wav)
            model_input = {
                "prompt_text": prompt,
                "prompt_text_len": prompt_len,
                "llm_prompt_speech_token": token,
                "llm_prompt_speech_token_len": token_len,
                "flow_prompt_speech_token": token,
                "flow_prompt_speech_token_len": token_len,
                "prompt_speech_feat": feat,
                "prompt_speech_feat_len": feat_len,
                "llm_embedding": embedding,
                "flow_embedding": embedding,
            }
        else:
            model_input = self.spk2info[zero_shot_spk_id]
        model_input["text"] = text
        model_input["text_len"] = text_len
        return model_input

    def frontend_cross_lingual(
        self, tts_text: str, prompt_wav: str, resample_rate: int, zero_shot_spk_id: str
    ) -> dict[str, Any]:
        model_input = self.frontend_zero_shot(tts_text, "", prompt_wav, resample_rate, zero_shot_spk_id)
        for name in ("prompt_text", "llm_prompt_speech_token"):
            del model_input[name], model_input[f"{name}_len"]
        return model_input

    def frontend_instruct2(
        self,
        tts_text: str,
        instruct_text: str,
        prompt_wav: str,
        resample_rate: int,
        zero_shot_spk_id: str,
    ) -> dict[str, Any]:
        model_input = self.frontend_zero_shot(
            tts_text, instruct_text, prompt_wav, resample_rate, zero_shot_spk_id
        )
        del model_input["llm_prompt_speech_token"], model_input["llm_prompt_speech_token_len"]
        return model_input

    def frontend_vc(self, source_wav: str, prompt_wav: str, resample_rate: int) -> dict[str, Any]:
        token, token_len = self._extract_speech_token(prompt_wav)
        feat, feat_len = self._extract_speech_feat(prompt_wav)
        embedding = self._extract_spk_embedding(prompt_wav)
        source, source_len = self._extract_speech_token(source_wav)
        return {
            "source_speech_token": source,
            "source_speech_token_len": source_len,
            "flow_prompt_speech_token": token,
            "flow_prompt_speech_token_len": token_len,
            "prompt_speech_feat": feat,
            "prompt_speech_feat_len": feat_len,
            "flow_embedding": embedding,
        }

    def frontend_sft(self, tts_text: str, spk_id: str) -> dict[str, Any]:
        logging.info("sft %s", tts_text)
        return {"llm_embedding": self.spk2info[spk_id]["embedding"]}
