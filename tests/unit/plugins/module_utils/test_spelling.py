# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names of variables are taken for misspelt ones, and which are left alone."""

from __future__ import annotations

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._spelling import misspellings

ROLES = ("cosyvoice", "docker_engine", "gpu_service", "traefik", "verify")
KNOWN = (
    "cosyvoice_replicas",
    "cosyvoice_model",
    "docker_engine_source",
    "gpu_service_image",
    "gpu_service_tls",
    "traefik_web_port",
    "verify_requests",
)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cosyvoice_replica", "cosyvoice_replicas"),
        ("cosyvoice_repliacs", "cosyvoice_replicas"),
        ("cosivoice_replicas", "cosyvoice_replicas"),
        ("cosyvoicereplicas", "cosyvoice_replicas"),
        ("Cosyvoice_Replicas", "cosyvoice_replicas"),
        ("COSYVOICE_REPLICAS", "cosyvoice_replicas"),
        ("traefic_web_port", "traefik_web_port"),
        ("gpu_servic_image", "gpu_service_image"),
        ("docker_engin_source", "docker_engine_source"),
        ("verify_reqests", "verify_requests"),
        ("traefik_http_flavour", ""),
        ("gpu_service_xyz", ""),
    ],
)
def test_what_looks_like_ours_is_named_with_what_was_meant(name: str, nearest: str) -> None:
    assert misspellings([name], KNOWN, ROLES, ["verify"]) == [(name, nearest)]


@pytest.mark.parametrize(
    "name",
    [
        *KNOWN,
        "__cosyvoice_replica",
        "ansible_cosyvoice_replica",
        "docker_edition",
        "docker_users",
        "verify_ssl",
        "verify",
        "service_image",
        "gpu_driver_branch",
        "nginx_web_port",
        "inventory_hostname",
        "group_names",
        "voice_replicas",
    ],
)
def test_what_is_known_or_somebody_elses_is_left_alone(name: str) -> None:
    assert misspellings([name], KNOWN, ROLES, ["verify"]) == []


def test_a_role_with_an_everyday_name_is_strict_when_it_is_not_said_to_be_one() -> None:
    assert misspellings(["verify_ssl"], KNOWN, ROLES) == [("verify_ssl", "")]


def test_all_are_found_once_and_in_order() -> None:
    found = misspellings(["traefik_x_y_z", "cosyvoice_modle", "cosyvoice_modle"], KNOWN, ROLES)
    assert [each.name for each in found] == ["cosyvoice_modle", "traefik_x_y_z"]
