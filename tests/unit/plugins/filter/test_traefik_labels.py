# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter import traefik_labels

LABELS = traefik_labels.FilterModule().filters()["traefik_labels"]


def test_the_sample_of_the_documentation_is_what_the_filter_returns() -> None:
    route = {"name": "speech", "rule": "PathPrefix(`/v1`)", "port": 7860}
    sample = yaml.safe_load(traefik_labels.RETURN)["_value"]["sample"]
    assert LABELS(route, network="voicefleet") == sample


def test_an_error_names_the_filter_and_the_place() -> None:
    with pytest.raises(
        AnsibleFilterError, match=r"traefik_labels: route 1: unknown option 'nam'; did you mean 'name'"
    ):
        LABELS({"nam": "x"})
