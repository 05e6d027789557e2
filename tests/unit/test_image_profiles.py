# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The profiles of CosyVoice3's image: what they are locked to, and which of them serves which cards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _driver_choice as driver
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import LOCKED, lock_state

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/cosyvoice"
LOCKS = {name: (ROLE / f"files/cosyvoice3/{name}.txt").read_text() for name in ("upstream_pins", "new_torch")}
GENERATIONS = sorted(
    {generation.name for _first, generation in driver._BY_DEVICE} | {driver.GRACE_HOPPER.name}
)


def trusted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: trusted(one) for key, one in value.items()}
    return trust_as_template(value) if isinstance(value, str) else value


def chosen(*generations: str, **variables: Any) -> tuple[str, list[str]]:
    """The profile for a host with such cards, and all that would do."""
    cards = [{"address": f"0000:0{n}:00.0", "generation": name} for n, name in enumerate(generations)]
    told = {
        **trusted(yaml.safe_load((ROLE / "vars/main.yml").read_text())),
        "cosyvoice_device": "gpu",
        "cosyvoice_image": "",
        "cosyvoice_profile": "auto",
        "nvidia_driver_state": {"cards": cards},
        **variables,
    }
    templar = Templar(DataLoader(), variables=told)
    profile = templar.template(trust_as_template("{{ __cosyvoice_profile }}"))
    return profile, list(templar.template(trust_as_template("{{ __cosyvoice_fitting }}")))


@pytest.mark.parametrize(
    "generation", ["Maxwell or Pascal", "Volta", "Turing", "Ampere", "Ada", "Hopper", "Grace Hopper"]
)
def test_up_to_hopper_upstreams_own_pins_are_taken(generation: str) -> None:
    assert chosen(generation)[0] == "upstream-pins"


def test_blackwell_gets_the_new_torch_and_so_do_older_cards_beside_it() -> None:
    assert chosen("Blackwell or newer") == ("new-torch", ["new-torch"])
    assert chosen("Ada", "Blackwell or newer") == ("new-torch", ["new-torch"])


def test_cards_too_far_apart_and_too_old_ones_have_no_profile() -> None:
    assert chosen("Maxwell or Pascal", "Blackwell or newer")[1] == []
    assert chosen("Kepler or older")[1] == []


def test_without_cards_upstreams_own_pins_are_taken() -> None:
    assert chosen()[0] == "upstream-pins"
    assert chosen("Blackwell or newer", cosyvoice_device="cpu")[0] == "upstream-pins"
    assert chosen(nvidia_driver_state={"skipped": True})[0] == "upstream-pins"


def test_an_image_of_ones_own_and_a_wish_count_more_than_the_cards() -> None:
    assert chosen("Ada", cosyvoice_image="mine:1")[0] == "user"
    assert chosen("Ada", cosyvoice_profile="new-torch")[0] == "new-torch"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_that_the_driver_knows_has_a_compute_capability(generation: str) -> None:
    assert generation in yaml.safe_load((ROLE / "vars/main.yml").read_text())["__cosyvoice_generations"]


@pytest.mark.parametrize("name", LOCKS)
def test_a_profile_is_locked_and_light(name: str) -> None:
    assert lock_state(LOCKS[name]) == LOCKED
    versions = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCKS[name], re.MULTILINE))
    assert versions["transformers"] == "4.51.3"
    assert versions["wetext"] >= "0.1"
    assert (
        versions["torch"] == versions["torchaudio"] == {"upstream_pins": "2.3.1", "new_torch": "2.8.0"}[name]
    )
    # What only trains, draws or serves otherwise; and what later ones of would not work.
    assert not versions.keys() & {
        "deepspeed",
        "gradio",
        "grpcio",
        "tensorboard",
        "tensorrt-cu12",
        "torchcodec",
    }
    assert int(versions["setuptools"].split(".")[0]) < 81
