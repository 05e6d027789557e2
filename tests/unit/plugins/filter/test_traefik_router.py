# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter import traefik_router

ROUTER = traefik_router.FilterModule().filters()["traefik_router"]
ROUTE = {"name": "speech", "rule": "PathPrefix(`/v1`)", "service": "speech-p2c@docker"}


def test_the_sample_of_the_documentation_is_what_the_filter_returns() -> None:
    sample = yaml.safe_load(traefik_router.RETURN)["_value"]["sample"]
    assert ROUTER({**ROUTE, "tls": {"certresolver": "letsencrypt"}}) == sample


def test_a_fallback_differs_in_its_priority() -> None:
    assert ROUTER(ROUTE, fallback=True) == {**ROUTER(ROUTE), "priority": len("PathPrefix(`/v1`)") - 1}
    assert ROUTER({**ROUTE, "priority": 5}, fallback=True)["priority"] == 4


def test_an_error_names_the_filter_and_the_place() -> None:
    with pytest.raises(AnsibleFilterError, match=r"traefik_router: route 1 \(speech\): unknown option 'rul'"):
        ROUTER({**ROUTE, "rul": "x"})
