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
SUPPORT = ROOT / "tests/support"
YAML = Path(yaml.__file__).parent  # the stand-in of upstream needs it, and the image has none
STAND_IN_PLACE = "/opt/tts"  # on a stand-in host
PORT = 7860
# In the container: the image's own, then the stand-in of upstream, and what that needs.
PYTHONPATH = "/opt/speech/lib:/opt/speech:/stand-ins:/yaml"
SECOND_NS = 10**9
TRANSCRIPT = "This is what is said in it."


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


def voice(folder: Path, pitch_hz: float, amplitude: float = 0.4) -> None:
    """Make a voice of that name, or another recording of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.wav").write_bytes(tone(pitch_hz, amplitude))
    (folder / "prompt.txt").write_text(TRANSCRIPT, encoding="utf-8")


def model(folder: Path, revision: str = "") -> None:
    """Make what the stand-in takes for weights: every file that the real ones have, of one line each."""
    for manifest in (ROOT / "roles/model_weights/files/manifests").rglob("*.sha256"):
        for line in manifest.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                file = folder / line.split("  ")[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{line} {revision}", encoding="utf-8")


def bring_stand_in(host: t.Any, folder: Path, *revisions: str) -> dict[str, t.Any]:
    """Copy the stand-in of upstream, a voice and weights to a stand-in host (gpu_host.host.GpuHost).

    It is made in C(folder); the weights of a revision lie in STAND_IN_PLACE/revision on the host. Answers
    the variables with which role cosyvoice uses stand-in and voice; image and weights are the caller's.
    """
    voice(folder / "voices/default", 200)
    for revision in revisions:
        model(folder / revision, revision)
    made = {name: folder / name for name in ("voices", *revisions)}
    for name, source in {"support": SUPPORT, "yaml": YAML, **made}.items():
        host.copy(source, f"{STAND_IN_PLACE}/{name}")
    host.run("chmod", "-R", "a+rX", STAND_IN_PLACE)
    return {
        "cosyvoice_engine": "cosyvoice3",
        "cosyvoice_voices_dir": f"{STAND_IN_PLACE}/voices",
        "cosyvoice_mounts": [
            {"source": f"{STAND_IN_PLACE}/support", "target": "/stand-ins"},
            {"source": f"{STAND_IN_PLACE}/yaml", "target": "/yaml/yaml"},
        ],
        "cosyvoice_environment": {"PYTHONPATH": PYTHONPATH},
    }


def speech_server_image(engine: t.Any) -> str:
    """The tag of the image that C(make images) built in the engine of a C(docker.DockerClient)."""
    return next(
        tag
        for each in engine.images.list(filters={"reference": "voicefleet/speech_server:*"})
        for tag in each.tags
        if tag.startswith("voicefleet/speech_server:")
    )


def stand_in_volumes(weights: Path, voices: Path) -> dict[str, dict[str, str]]:
    """For docker-py: the server as it is in this checkout, the stand-in of upstream, weights and voices."""
    mounts = {
        ROOT / "roles/cosyvoice/files/speech_server": "/opt/speech/speech_server",
        SUPPORT: "/stand-ins",
        YAML: "/yaml/yaml",
        weights: "/model",
        voices: "/voices",
    }
    return {str(source): {"bind": target, "mode": "ro"} for source, target in mounts.items()}


def start_replicas(
    lab: t.Any,
    service: str,
    network: str,
    weights: Path,
    voices: t.Iterable[Path],
    labels: t.Mapping[str, str] = MappingProxyType({}),
    environment: t.Mapping[str, str] = MappingProxyType({}),
    # The image's own, with more patience: a machine that is busy with tests is no fault.
    interval_seconds: int = 5,
    retries: int = 5,
) -> list[t.Any]:
    """One for each directory of voices, as role gpu_service would label them; C(weights) is made."""
    model(weights)
    started = []
    for number, place in enumerate(voices, 1):
        container = lab.engine.containers.create(
            speech_server_image(lab.engine),
            name=f"{service}-{number}",
            labels={
                "vf.test": lab.id,
                spec.LABEL_ROLE: "replica",
                spec.LABEL_SERVICE: service,
                spec.LABEL_NUMBER: str(number),
                spec.LABEL_SLOT: f"cpu/{number - 1}",
                spec.LABEL_REVISION: "r1",
                **labels,
            },
            environment={
                "PYTHONPATH": PYTHONPATH,
                "SPEECH_ENGINE": "cosyvoice3",
                "SPEECH_SERVICE": service,
                "SPEECH_MODEL_DIR": "/model",
                "SPEECH_REVISION": "r1",
                **environment,
            },
            volumes=stand_in_volumes(weights, place),
            network=network,
            restart_policy={"Name": "unless-stopped"},
            healthcheck={
                "interval": interval_seconds * SECOND_NS,
                "timeout": 20 * SECOND_NS,
                "retries": retries,
                "start_period": 300 * SECOND_NS,
            },
        )
        lab.made.append(container)
        container.start()
        started.append(container)
    return started
