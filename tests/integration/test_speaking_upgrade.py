# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo goes to another revision and back while it speaks to callers, by the playbooks people type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest
from invariants import Watch
from open_load import OpenLoad

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:9080"  # inventories/demo
MODEL = "en_US-joe-medium"
NEXT = "1.0.1"  # in name only: the weights are the same, and every answer says which replica spoke
# A sentence takes a replica half a second on an idle machine, and one of the two is away most of the time.
RATE_PER_SECOND = 0.5
PATIENCE_SECONDS = 120.0


def play(playbook: str, *arguments: str) -> str:
    """The output of a playbook of the root, which has to succeed."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            "inventories/demo",
            playbook,
            # The load is known, and of this test's own making.
            "-e",
            "gpu_service_force=true",
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def revisions() -> dict[str, str]:
    """The label of every replica there is, stopped and set-aside ones too."""
    client = docker.from_env()
    try:
        listed = client.api.containers(all=True, filters={"label": "voicefleet.service=cosyvoice"})
    finally:
        client.close()
    return {seen["Names"][0].lstrip("/"): seen["Labels"]["voicefleet.revision"] for seen in listed}


def test_it_goes_on_speaking_through_an_upgrade_and_the_way_back() -> None:
    before = revisions()
    if len(before) != 2:
        pytest.fail(f"the demo has to be up with its two replicas; there are {sorted(before)}")
    old = f"{MODEL}@{before['cosyvoice-1']}"
    new = f"{MODEL}@{NEXT}"
    with (
        Watch("cosyvoice", floor=1, slots=2, versions=[old]) as watch,
        OpenLoad(
            URL, RATE_PER_SECOND, kind="speech", new_connections=1.0, patience_seconds=PATIENCE_SECONDS
        ) as load,
    ):
        load.wait_for_more(5)
        dry = play("upgrade.yml", "--check", "--diff", "-e", f"cosyvoice_revision={NEXT}")
        assert "2 to replace" in dry
        assert revisions() == before

        watch.expect(old, new)
        told = play("upgrade.yml", "-e", f"cosyvoice_revision={NEXT}")
        assert "0 requests cut off" in told
        assert set(revisions().values()) == {NEXT}
        watch.expect(new)
        load.wait_for_more(10)

        watch.expect(old, new)
        play("rollback.yml")
        assert revisions() == before
        watch.expect(old)
        load.wait_for_more(5)
    report = load.report()
    # What is more than the replicas can take they refuse, before any audio: that is no loss.
    report.assert_lossless(at_least=20, refused_at_most=len(report.outcomes) // 4)
    watch.assert_held(load.outcomes())
    assert {version for (version,) in report.count_by("version")} == {old, new}


def test_what_was_done_stands_on_the_host() -> None:
    records = sorted(Path("/var/lib/voicefleet/cosyvoice/rollouts").glob("*-rollback.json"))
    assert records, "the test before leaves one"
    record = json.loads(records[-1].read_text("utf-8"))
    assert record["ok"]
    assert record["totals"]["in_flight_cut"] == 0
    assert [step["action"] for step in record["steps"]] == ["replace", "replace"]
    assert {step["from"]["revision"] for step in record["steps"]} == {NEXT}


def test_a_service_behind_a_host_name_is_asked_by_that_name() -> None:
    """The dry run of the proof renders the request; that route is not there, so nothing is expected of it."""
    told = play("verify.yml", "--check", "-e", json.dumps({"cosyvoice_rule": "Host(`speech.example.org`)"}))
    assert "router cosyvoice@file: rule" in told
    assert "Host(`speech.example.org`)" in told
