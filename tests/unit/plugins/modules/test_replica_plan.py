# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module from arguments to result. The engine is a stand-in; replicas' metrics are asked over HTTP."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import EngineError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed, Slot
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._target import complete
from ansible_collections.voicefleet.cosyvoice.plugins.modules import replica_plan
from made_up_fleet import container

SLOTS = [{"gpu": "GPU-a", "index": 0}, {"gpu": "GPU-a", "index": 1}]
FREE = [*SLOTS, {"gpu": "GPU-b", "index": 0}]
IMAGES = {"speech:1": "sha256:" + "1" * 64, "speech:2": "sha256:" + "2" * 64}
METRICS = {"in_flight": ["in_flight"], "capacity": "capacity"}
RETURNED = {
    "changed", "steps", "todo", "summary", "count", "specification", "image_id", "revision", "previous",
    "serving", "downtime", "load", "drained", "route_service", "routes_wanted", "diff",
}  # fmt: skip


def specification(version: str, strategy: str = "aaaaaa") -> dict[str, Any]:
    return {
        "image": f"speech:{version}",
        "revision": version,
        "port": 7860,
        "network": "voicefleet",
        "environment": {"API_KEY": f"hunter{version}"},
        "labels": {f"traefik.http.services.tts-lb{strategy}.loadbalancer.server.port": "7860"},
        "health": {"test": ["CMD", "true"]},
    }


class Engine:
    """A stand-in for the engine: images by name, replicas as they were created from specifications."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir, self.images, self.replicas = data_dir, dict(IMAGES), list[Observed]()
        self.urls: dict[str, str] = {}

    def create(
        self, number: int, version: str, previous: str = "", slot: int | None = None, **state: Any
    ) -> None:
        place = Slot(**FREE[number - 1 if slot is None else slot])  # type: ignore[arg-type]
        made = complete(specification(version))
        config = spec.container_config("tts", number, place, made, IMAGES[made["image"]], str(self.data_dir))
        labels = {
            **config["labels"],
            spec.LABEL_CONFIG: json.dumps(config),
            spec.LABEL_SPECIFICATION: spec.origin(made, config["image_id"]),
        }
        if previous:
            before = complete(specification(previous))
            labels[spec.LABEL_PREVIOUS] = spec.origin(before, IMAGES[before["image"]])
        seen = container(number, place.key, spec.spec_hash(config))
        self.replicas.append(
            dataclasses.replace(seen, revision=version, labels=labels, created=len(self.replicas), **state)
        )

    def image_id(self, _client: Any, image: str, must_exist: bool = True) -> str:
        found = image if image in self.images.values() else self.images.get(image, "")
        if must_exist and not found:
            raise _replica.ReplicaError(f"The image {image} is not on this host.")
        return found


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine(tmp_path)
    monkeypatch.setattr(replica_plan, "connect", lambda _host: made)
    monkeypatch.setattr(_replica, "observe", lambda _client, _service, _data_dir: list(made.replicas))
    monkeypatch.setattr(_replica, "image_id", made.image_id)
    monkeypatch.setattr(_replica, "describe", lambda _client, each: {"url": made.urls[each.name]})
    return made


@pytest.fixture
def run(engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the module with these options and returns what it prints."""
    warned: list[str] = []
    monkeypatch.setattr(replica_plan.AnsibleModule, "warn", lambda _module, text: warned.append(text))

    def call(version: str = "", **options: Any) -> dict[str, Any]:
        wanted = {"specification": specification(version), "replicas": 2} if version else {}
        arguments = {"service": "tts", "data_dir": str(engine.data_dir), "slots": SLOTS, **wanted, **options}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            replica_plan.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert ended.value.code == (1 if result.get("failed") else 0)
        assert result.get("failed") or result.keys() >= RETURNED
        return {**result, "warnings": [warned.pop() for _each in list(warned)]}

    return call


@pytest.fixture
def busy(engine: Engine) -> Iterator[Callable[[float], None]]:
    """Lets all replicas tell that so many requests are in flight on each, of two at once."""
    text = b""

    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def tell(in_flight: float) -> None:
            nonlocal text
            text = f"in_flight {in_flight}\ncapacity 2\n".encode()
            engine.urls = {each.name: f"http://127.0.0.1:{server.server_port}" for each in engine.replicas}

        yield tell
        server.shutdown()


def test_a_replica_whose_mount_was_put_there_anew_is_replaced_and_why(engine: Engine, run: Run) -> None:
    engine.create(1, "1")
    engine.create(2, "1")
    assert run("1")["todo"] == []
    engine.replicas[1] = dataclasses.replace(engine.replicas[1], spec="", outdated_mounts=("/voices",))
    (step,) = run("1")["todo"]
    assert (step["action"], step["number"]) == ("replace", 2)
    assert step["reason"] == "what it has mounted at /voices was put there anew"


def test_an_upgrade_says_what_changes_and_shows_no_secret(run: Run, engine: Engine) -> None:
    engine.create(1, "1")
    engine.create(2, "1")
    result = run("2")
    assert [(step["action"], step["canary"], step["surge"]) for step in result["todo"]] == [
        ("replace", True, False),
        ("replace", False, False),
    ]
    assert result["todo"][0]["reason"] == (
        "image changed 111111111111 -> 222222222222, revision 1 -> 2, environment API_KEY changed"
    )
    assert result["todo"][0]["from_revision"] == "1"
    assert result["todo"][0]["to_revision"] == "2"
    assert result["serving"] == {"now": 2, "lowest": 1, "floor": 1}
    assert result["previous"]["specification"]["revision"] == "1"
    assert result["previous"]["image_id"] == IMAGES["speech:1"]
    assert result["changed"] is False
    assert run("2", _ansible_check_mode=True)["changed"] is True
    for shown in ("summary", "diff", "steps"):
        assert "hunter" not in json.dumps(result[shown])
    assert "revision 1," in result["diff"]["before"]
    assert "revision 2," in result["diff"]["after"]


def test_when_all_is_as_wanted_there_is_nothing_to_do(run: Run, engine: Engine) -> None:
    engine.create(1, "1")
    engine.create(2, "1")
    result = run("1", _ansible_check_mode=True)
    assert (result["changed"], result["todo"]) == (False, [])
    assert result["diff"]["before"] == result["diff"]["after"]


def test_current_is_followed_to_another_number(run: Run, engine: Engine) -> None:
    engine.create(1, "1", previous="2")
    result = run(follow="current", replicas="max")
    assert [(step["action"], step["name"]) for step in result["steps"]] == [
        ("keep", "tts-1"),
        ("create", "tts-2"),
    ]
    # A tag that was moved meanwhile does not matter.
    assert result["specification"]["image"] == result["image_id"] == IMAGES["speech:1"]
    assert result["previous"]["specification"]["revision"] == "2"
    assert run(follow="current")["count"] == 1


def test_previous_is_followed_by_all_and_kept_where_it_is(run: Run, engine: Engine) -> None:
    engine.create(1, "1")
    engine.create(2, "2", previous="1")
    result = run(follow="previous")
    assert [(step["action"], step["name"]) for step in result["steps"]] == [
        ("keep", "tts-1"),
        ("replace", "tts-2"),
    ]
    assert (result["revision"], result["image_id"]) == ("1", IMAGES["speech:1"])
    assert result["previous"]["image_id"] == IMAGES["speech:1"]


def test_previous_without_its_image_or_a_record_is_refused(run: Run, engine: Engine) -> None:
    engine.create(1, "2", previous="1")
    del engine.images["speech:1"]
    assert (
        "revision 1, image 111111111111 ran before, but that image is no longer"
        in run(follow="previous")["msg"]
    )
    engine.replicas.clear()
    engine.create(1, "2")
    assert "nothing is known of what ran before" in run(follow="previous")["msg"]


def test_wanted_needs_a_specification_and_a_number(run: Run) -> None:
    assert "specification, replicas" in run()["msg"]


def test_the_only_replica_is_not_taken_out_unless_that_is_accepted(run: Run, engine: Engine) -> None:
    engine.create(1, "1")
    options = {"slots": SLOTS[:1], "replicas": 1}
    refused = run("2", **options)
    assert "nobody answers from its stop" in refused["msg"]
    assert refused["todo"][0]["action"] == "replace"
    accepted = run("2", **options, downtime="accept")
    assert accepted["downtime"] is True
    assert any(line.startswith("Downtime:") for line in accepted["summary"])
    forced = run("2", **options, force=True)
    assert "nobody answers from its stop" in forced["warnings"][0]
    surged = run("2", slots=SLOTS, replicas=1)
    assert (surged["downtime"], surged["todo"][0]["surge"]) == (False, True)


def test_the_floor_is_refused_or_forced(run: Run, engine: Engine) -> None:
    engine.create(1, "1")
    engine.create(2, "1")
    assert "would leave 1, where 2 have to" in run("2", min_ready=2)["msg"]
    forced = run("2", min_ready=2, force=True)
    assert "would leave 1, where 2 have to" in forced["warnings"][0]
    assert len(forced["todo"]) == 2
    # More than fits is no matter of force.
    assert "3 replicas were asked for and 2 fit" in run("2", replicas=3, force=True)["msg"]


def test_a_load_that_the_others_cannot_take_is_refused(
    run: Run, engine: Engine, busy: Callable[[float], None]
) -> None:
    engine.create(1, "1")
    engine.create(2, "1")
    busy(1.0)
    asked = {"metrics": METRICS, "load_sample_seconds": 0.1}
    for check_mode in (True, False):
        refused = run("2", **asked, _ansible_check_mode=check_mode)
        assert "With 1 of 2 replicas out" in refused["msg"]
        assert "1.00" in refused["msg"]
        assert refused["load"]["in_flight"] == 1.0
    assert run("2", **asked, force=True)["load"] == {}
    # Where a free slot lets the successor come first, nobody has to stand in.
    assert run("2", **asked, slots=FREE)["load"] == {}
    assert run("1", **asked)["load"] == {}
    busy(0.25)
    calm = run("2", **asked)
    assert calm["load"]["on_the_rest"] == 0.25
    assert not calm.get("failed")


def test_metrics_that_do_not_tell_refuse_nothing_and_are_named(
    run: Run, engine: Engine, busy: Callable[[float], None]
) -> None:
    engine.create(1, "1")
    engine.create(2, "1")
    busy(1.0)
    result = run("2", metrics={"in_flight": ["other"]}, load_sample_seconds=0)
    assert not result.get("failed")
    assert "No replica tells how many requests" in result["warnings"][0]


def test_a_host_that_was_drained_by_hand_is_left_alone_until_that_ends(run: Run, engine: Engine) -> None:
    engine.create(1, "1", state="exited", health="none", draining=True)
    marker = engine.data_dir / "tts" / "drained"
    marker.parent.mkdir()
    marker.write_text(json.dumps({"by": "anna", "at": "now", "why": "driver"}), encoding="utf-8")
    result = run("2")
    assert result["todo"] == []
    assert result["drained"] == {"by": "anna", "at": "now", "why": "driver"}
    assert "undrain.yml" in result["summary"][1]
    assert result["diff"]["before"] == result["diff"]["after"]
    undrained = run("2", undrain=True)
    assert [step["action"] for step in undrained["todo"]] == ["replace", "create"]
    assert undrained["drained"] == {}


def test_the_router_names_what_every_replica_carries(run: Run, engine: Engine) -> None:
    engine.create(1, "1")
    engine.create(2, "1")
    result = run("1", specification=specification("1", strategy="bbbbbb"))
    assert (result["route_service"], result["routes_wanted"]) == ("tts-lbaaaaaa", "tts-lbbbbbbb")
    assert (
        "label traefik.http.services.tts-lbaaaaaa.loadbalancer.server.port removed"
        in result["todo"][0]["reason"]
    )
    same = run("1")
    assert (same["route_service"], same["routes_wanted"]) == ("tts-lbaaaaaa", "tts-lbaaaaaa")
    bare = run("1", specification={**specification("1"), "labels": {}})
    assert (bare["route_service"], bare["routes_wanted"]) == ("", "")


def test_without_an_engine_a_dry_run_plans_as_for_a_new_host(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(_host: str) -> None:
        raise EngineError("There is no engine.")

    monkeypatch.setattr(replica_plan, "connect", no_engine)
    assert run("2")["msg"] == "There is no engine."
    result = run("2", _ansible_check_mode=True)
    assert [step["action"] for step in result["todo"]] == ["create", "create"]
    assert (result["changed"], result["image_id"]) == (True, "")
    assert "There is no engine." in result["warnings"][0]


def test_a_lock_is_told_of_even_where_nothing_is_left_to_do(engine: Engine, run: Run) -> None:
    engine.create(1, "1")
    engine.create(2, "1")
    assert not run("1")["locked"]
    lock = engine.data_dir / "tts/lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("{}")
    planned = run("1")
    assert planned["locked"]
    assert planned["todo"] == []
