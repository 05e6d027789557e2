# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another driver where the engine gives cards by CDI: specifications name the files of the driver by version.

Driver, toolkit and card are stand-ins on Debian 13. Its engine is real: it starts no container when a file
that it is to mount is gone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from gpu_host.host import CARD, HERE, SLEEPS, GpuHost, bare_variables

pytestmark = pytest.mark.slow

FIRST, NEXT = "595.71.05", "595.84"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so"


@pytest.fixture(scope="module")
def host() -> Iterator[GpuHost]:
    made = GpuHost(f"vf-cdi-{uuid.uuid4().hex[:6]}")
    try:
        made.bare({"cards": [CARD], "programs_inside": True}, suite="trixie")
        play(made, FIRST)
        made.load("base")
        device = f"--device=nvidia.com/gpu={CARD['uuid']}"
        made.docker("run", "--detach", "--name", "bystander", device, made.images["base"], *SLEEPS)
        yield made
    finally:
        made.down()


def play(host: GpuHost, driver: str, **more: Any) -> None:
    host.playbook(HERE / "card_access.yml", **bare_variables(), nvidia_driver_version=driver, **more)


def named(host: GpuHost) -> list[str]:
    """The driver's files in the specifications."""
    told = json.loads(host.run("cat", "/var/run/cdi/nvidia.yaml"))
    paths = [mount["hostPath"] for mount in told["containerEdits"]["mounts"]]
    return [path for path in paths if path.startswith(LIBRARY)]


def test_a_container_that_made_way_is_started_with_the_new_drivers_files(host: GpuHost) -> None:
    assert named(host) == [f"{LIBRARY}.{FIRST}"]
    play(host, NEXT, nvidia_driver_upgrading=True, nvidia_driver_client_containers=["bystander"])
    assert named(host) == [f"{LIBRARY}.{NEXT}"]
    inside = host.docker("exec", "bystander", "python3", "-ISc", f"print(open('{LIBRARY}.{NEXT}').read())")
    assert f"library {NEXT}:" in inside


def test_a_driver_that_site_yml_reloads_is_described_though_all_was_well_before(host: GpuHost) -> None:
    host.docker("stop", "bystander")
    play(host, FIRST, nvidia_driver_reboot_policy="if_idle")
    assert named(host) == [f"{LIBRARY}.{FIRST}"]
    host.docker("start", "bystander")
