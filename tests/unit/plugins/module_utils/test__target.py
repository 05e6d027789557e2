# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which specification is followed, as containers' labels tell it, through rolls and their ends."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed, PlanError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._target import (
    Target,
    complete,
    current,
    gone,
    previous,
    recorded,
    to_record,
)
from made_up_fleet import container

HEALTH = {"test": ["CMD", "true"]}


def target(revision: str, **more: Any) -> Target:
    specification = {
        "image": f"speech:{revision}",
        "revision": revision,
        "port": 7860,
        "network": "voicefleet",
        "health": HEALTH,
    }
    return Target(complete({**specification, **more}), f"sha256:{revision * 12}")


A, B, C = target("a"), target("b"), target("c")


def made(
    number: int, of: Target, before: Target | None = None, created: int = 0, aside: bool = False
) -> Observed:
    labels = {spec.LABEL_SPECIFICATION: of.label}
    if before:
        labels[spec.LABEL_PREVIOUS] = before.label
    seen = container(number, f"cpu/{number}", "any", aside=aside)
    return dataclasses.replace(seen, revision=of.revision, labels=labels, created=created)


def test_what_runs_is_what_all_were_made_from() -> None:
    assert current("tts", [made(1, A), made(2, A)]) == A
    # The name of an image does not count.
    renamed = Target({**A.specification, "image": "other"}, A.image_id)
    assert current("tts", [made(1, A), made(2, renamed)]).identity == A.identity


def test_replicas_that_differ_are_told_and_not_followed() -> None:
    with pytest.raises(PlanError, match=r"tts-1: revision a, image a{12}; tts-2: revision b") as refused:
        current("tts", [made(1, A), made(2, B)])
    assert "upgrade.yml" in str(refused.value)
    assert "rollback.yml" in str(refused.value)
    with pytest.raises(PlanError, match="does not tell"):
        current("tts", [made(1, A), container(2, "cpu/1", "any")])
    with pytest.raises(PlanError, match="no replicas to go by"):
        current("tts", [])


def test_of_a_replacement_that_was_cut_off_the_newcomer_counts() -> None:
    assert current("tts", [made(1, A, aside=True), made(1, B)]) == B


def test_what_ran_before_is_what_the_newest_that_knows_has_on_record() -> None:
    assert previous("tts", [made(1, B, A, created=9), made(2, A, C, created=5), made(3, A, created=99)]) == A


def test_without_a_record_it_says_what_is_known() -> None:
    with pytest.raises(PlanError, match=r"2 replicas \(revision a, image a{12}\)") as refused:
        previous("tts", [made(1, A), made(2, A)])
    assert "upgrade.yml" in str(refused.value)
    with pytest.raises(PlanError, match="no replicas"):
        previous("tts", [])
    assert "revision a, image aaaaaaaaaaaa ran before, but that image is no longer" in gone(
        "tts", A, "previous"
    )


def test_an_upgrade_records_what_ran_and_keeps_to_it_when_it_is_resumed() -> None:
    fleet = [made(1, A, C, created=1), made(2, A, C, created=2)]
    assert to_record(fleet, B, "wanted") == A
    half = [made(1, B, A, created=3), fleet[1]]
    assert to_record(half, B, "wanted") == A
    # And when it goes on to something else: what was begun never ran as a whole.
    assert to_record(half, target("d"), "wanted") == A


def test_what_is_made_anew_without_a_change_keeps_its_record() -> None:
    fleet = [made(1, B, A, created=1), made(2, B, A, created=2)]
    assert to_record(fleet, B, "wanted") == A
    assert to_record(fleet, B, "current") == A
    assert to_record([made(1, A)], A, "wanted") is None
    assert to_record([], A, "wanted") is None


def test_a_rollback_that_is_run_again_goes_on_and_then_stays() -> None:
    fleet = [made(1, B, A, created=1), made(2, B, A, created=2)]
    assert previous("tts", fleet) == A
    record = to_record(fleet, A, "previous")
    half = [made(1, A, record, created=3), fleet[1]]
    assert previous("tts", half) == A
    done = [half[0], made(2, A, record, created=4)]
    assert previous("tts", done) == A
    # The next upgrade can be gone back from, even half way.
    assert to_record(done, B, "wanted") == A
    assert previous("tts", [made(1, B, A, created=5), done[1]]) == A


def test_a_specification_of_another_version_is_completed() -> None:
    whole = complete({"image": "x", "port": 1, "network": "n", "health": HEALTH, "gone": 1})
    assert whole.keys() == spec.ARGUMENT_SPEC.keys()
    assert repr(whole["health"]["interval_seconds"]) == "2.0"
    mounts = complete({**whole, "mounts": [{"source": "/a", "target": "/b"}]})["mounts"]
    assert mounts == [{"source": "/a", "target": "/b", "read_only": True}]


@pytest.mark.parametrize(
    "label",
    ["", "{", "[]", json.dumps({"image_id": "x"}), json.dumps({"specification": {}, "image_id": "x"})],
)
def test_a_label_that_cannot_be_read_is_none(label: str) -> None:
    seen = dataclasses.replace(made(1, A), labels={spec.LABEL_SPECIFICATION: label})
    assert recorded(seen) is None
