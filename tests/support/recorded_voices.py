# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas of the real speech server with engine cosyvoice3, on the stand-in of upstream, and recordings."""

from __future__ import annotations

import io
import math
import struct
import typing as t
import wave
from pathlib import Path
from types import MappingProxyType

import yaml
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec

ROOT = Path(__file__).parents[2]
PORT = 7860
SECOND_NS = 10**9


def tone(pitch_hz: float, amplitude: float = 0.4, seconds: float = 4, rate_hz: int = 24000) -> bytes:
    """A wav file that the stand-in takes for a voice."""
    samples = [
        int(32767 * amplitude * math.sin(2 * math.pi * pitch_hz * at / rate_hz))
        for at in range(int(rate_hz * seconds))
    ]
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return out.getvalue()


def start_replicas(
    lab: t.Any,
    service: str,
    network: str,
    model: Path,
    voices: t.Iterable[Path],
    labels: t.Mapping[str, str] = MappingProxyType({}),
) -> list[t.Any]:
    """One for each directory of voices, as role gpu_service would label them; C(model) is made."""
    (model / "CosyVoice-BlankEN").mkdir(parents=True)
    for manifest in (ROOT / "roles/model_weights/files/manifests").rglob("*.sha256"):
        for line in manifest.read_text().splitlines():
            if not line.startswith("#"):
                (model / line.split("  ")[1]).write_text(line)
    image = next(
        tag
        for each in lab.engine.images.list(filters={"reference": "voicefleet/speech_server:*"})
        for tag in each.tags
        if tag.startswith("voicefleet/speech_server:")
    )
    started = []
    for number, place in enumerate(voices, 1):
        mounts = {
            ROOT / "roles/cosyvoice/files/speech_server": "/opt/speech/speech_server",
            ROOT / "tests/support": "/stand-ins",
            Path(yaml.__file__).parent: "/yaml/yaml",
            model: "/model",
            place: "/voices",
        }
        container = lab.engine.containers.create(
            image,
            name=f"{service}-{number}",
            labels={
                "vf.test": lab.id,
                spec.LABEL_ROLE: "replica",
                spec.LABEL_SERVICE: service,
                spec.LABEL_NUMBER: str(number),
                **labels,
            },
            environment={
                "PYTHONPATH": "/opt/speech/lib:/opt/speech:/stand-ins:/yaml",
                "SPEECH_ENGINE": "cosyvoice3",
                "SPEECH_SERVICE": service,
                "SPEECH_MODEL_DIR": "/model",
                "SPEECH_REVISION": "r1",
            },
            volumes={str(source): {"bind": target, "mode": "ro"} for source, target in mounts.items()},
            network=network,
            restart_policy={"Name": "unless-stopped"},
            # The image's own, with more patience: a machine that is busy with tests is no fault.
            healthcheck={"interval": 5 * SECOND_NS, "timeout": 20 * SECOND_NS, "retries": 5},
        )
        lab.made.append(container)
        container.start()
        started.append(container)
    return started
