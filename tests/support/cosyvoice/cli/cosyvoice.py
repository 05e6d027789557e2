# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of the stand-in: the classes that callers of upstream use, with upstream's signatures."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from ..tensors import Tensor
from ..utils.file_utils import bar
from .frontend import CosyVoiceFrontEnd
from .model import RATE_HZ, CosyVoice3Model

CUDA = False  # whether there is a card; a test may say so
Output = dict[str, Tensor]


def AutoModel(**kwargs: Any) -> CosyVoice3:  # noqa: N802 - upstream's name
    directory = kwargs["model_dir"]
    if not os.path.exists(directory):
        raise ConnectionError(f"snapshot_download({directory!r}) from www.modelscope.cn")
    if os.path.exists(f"{directory}/cosyvoice3.yaml"):
        return CosyVoice3(**kwargs)
    raise TypeError("No valid model type found!")


class CosyVoice3:
    def __init__(
        self,
        model_dir: str,
        load_trt: bool = False,
        load_vllm: bool = False,
        fp16: bool = False,
        trt_concurrent: int = 1,
    ):
        self.model_dir = model_dir
        self.fp16 = fp16
        self.frontend = CosyVoiceFrontEnd()
        self.sample_rate = RATE_HZ
        if not CUDA and (load_trt is True or fp16 is True):
            load_trt, fp16 = False, False
            logging.warning("no cuda device, set load_trt/fp16 to False")
        self.model = CosyVoice3Model(fp16, "cuda" if CUDA else "cpu")
        if load_vllm and not (export := Path(model_dir, "vllm")).exists():
            export.mkdir()
            (export / "model.safetensors").write_text("exported")
        if load_trt:
            plan = Path(model_dir, f"flow.decoder.estimator.{'fp16' if fp16 else 'fp32'}.mygpu.plan")
            if not plan.exists():
                plan.write_text("built for this card")
            self.model.broken = fp16

    def list_available_spks(self) -> list[str]:
        return list(self.frontend.spk2info)

    def add_zero_shot_spk(self, prompt_text: str, prompt_wav: str, zero_shot_spk_id: str) -> bool:
        assert zero_shot_spk_id != "", "do not use empty zero_shot_spk_id"
        model_input = self.frontend.frontend_zero_shot("", prompt_text, prompt_wav, self.sample_rate, "")
        del model_input["text"], model_input["text_len"]
        self.frontend.spk2info[zero_shot_spk_id] = model_input
        return True

    def save_spkinfo(self) -> None:
        Path(self.model_dir, "spk2info.pt").write_text("speakers")

    def inference_sft(
        self, tts_text: str, spk_id: str, stream: bool = False, speed: float = 1.0, text_frontend: bool = True
    ) -> Generator[Output]:
        for text in self._texts(tts_text, text_frontend):
            yield from self._speak(text, self.frontend.frontend_sft(text, spk_id), stream, speed)

    def inference_zero_shot(
        self,
        tts_text: str,
        prompt_text: str,
        prompt_wav: str,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Generator[Output]:
        prompt_text = self.frontend.text_normalize(prompt_text, split=False, text_frontend=text_frontend)
        for text in self._texts(tts_text, text_frontend):
            if len(text) < 0.5 * len(prompt_text):
                logging.warning("synthesis text %s too short than prompt text %s", text, prompt_text)
            model_input = self.frontend.frontend_zero_shot(
                text, prompt_text, prompt_wav, self.sample_rate, zero_shot_spk_id
            )
            yield from self._speak(text, model_input, stream, speed)

    def inference_cross_lingual(
        self,
        tts_text: str,
        prompt_wav: str,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Generator[Output]:
        for text in self._texts(tts_text, text_frontend):
            model_input = self.frontend.frontend_cross_lingual(
                text, prompt_wav, self.sample_rate, zero_shot_spk_id
            )
            yield from self._speak(text, model_input, stream, speed)

    def inference_instruct(
        self,
        tts_text: str,
        spk_id: str,
        instruct_text: str,
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Generator[Output]:
        raise AssertionError("inference_instruct is only implemented for CosyVoice!")
        yield {}

    def inference_instruct2(
        self,
        tts_text: str,
        instruct_text: str,
        prompt_wav: str,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Generator[Output]:
        for text in self._texts(tts_text, text_frontend):
            model_input = self.frontend.frontend_instruct2(
                text, instruct_text, prompt_wav, self.sample_rate, zero_shot_spk_id
            )
            yield from self._speak(text, model_input, stream, speed)

    def inference_vc(
        self, source_wav: str, prompt_wav: str, stream: bool = False, speed: float = 1.0
    ) -> Generator[Output]:
        model_input = self.frontend.frontend_vc(source_wav, prompt_wav, self.sample_rate)
        yield from self._outputs(model_input, stream, speed)

    def _texts(self, tts_text: str, text_frontend: bool) -> Iterator[str]:
        texts = self.frontend.text_normalize(tts_text, split=True, text_frontend=text_frontend)
        yield from texts
        bar(len(texts))

    def _speak(self, text: str, model_input: dict[str, Any], stream: bool, speed: float) -> Generator[Output]:
        logging.info("synthesis text %s", text)
        yield from self._outputs(model_input, stream, speed)

    def _outputs(self, model_input: dict[str, Any], stream: bool, speed: float) -> Generator[Output]:
        for output in self.model.tts(**model_input, stream=stream, speed=speed):
            logging.info("yield speech len %s", output["tts_speech"].shape[1] / self.sample_rate)
            yield output
