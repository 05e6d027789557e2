# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be the same on all hosts."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter.fleet_checks import fleet_checks

ONE, OTHER = "1" * 64, "2" * 64


def replica(
    revision: str = "r2", weights: str = ONE, voices: str = "", service: str = "tts"
) -> dict[str, t.Any]:
    return {
        "name": f"{service}-1",
        "service": service,
        "revision": revision,
        "weights_digest": weights,
        "voices_digest": voices,
    }


def found(fleet: dict[str, t.Any]) -> dict[str, tuple[bool, str]]:
    return {check["name"]: (check["ok"], check["found"]) for check in fleet_checks(fleet)}


def test_other_weights_under_one_name_are_found_with_their_hosts() -> None:
    assert found({"gpu1": [replica()], "gpu2": [replica(), replica(weights=OTHER)], "gpu3": [replica()]}) == {
        "tts: weights of r2 on all hosts": (False, "111111111111 on gpu1, gpu2, gpu3; 222222222222 on gpu2")
    }
    assert found({"gpu1": [replica()], "gpu2": [replica()]}) == {
        "tts: weights of r2 on all hosts": (True, "111111111111 on gpu1, gpu2")
    }


def test_hosts_of_two_revisions_or_services_have_other_weights_in_their_own_right() -> None:
    assert found({"gpu1": [replica()], "gpu2": [replica("r3", OTHER)]}) == {}
    assert found({"gpu1": [replica()], "gpu2": [replica(weights=OTHER, service="other")]}) == {}


def test_voices_are_the_same_whatever_the_revision() -> None:
    assert found({"gpu1": [replica("r1", "", ONE)], "gpu2": [replica("r2", "", OTHER)]}) == {
        "tts: voices on all hosts": (False, "111111111111 on gpu1; 222222222222 on gpu2")
    }


def test_nothing_is_compared_that_nobody_tells_or_one_host_has_alone() -> None:
    assert found({"gpu1": [replica(weights="")], "gpu2": [replica()]}) == {}
    assert found({"gpu1": [replica(), replica(weights=OTHER)], "gpu2": []}) == {}


@pytest.mark.parametrize("fleet", [[], {"gpu1": [{"name": "tts-1"}]}, {"gpu1": 3}])
def test_what_is_no_fleet_is_refused(fleet: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="fleet_checks"):
        fleet_checks(fleet)
