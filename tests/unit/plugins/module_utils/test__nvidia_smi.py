# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading nvidia-smi of every generation, and asking one that is in trouble (the stand-in plays it)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi import query
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Memory,
    Report,
    SmiError,
    decode,
    parse,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_problems import explain
from nvidia_smi_xml import Card, Host, Mig, Process, list_text, query_xml

STAND_IN = str(Path(__file__).parents[3] / "support" / "nvidia_smi")
INFOROM = "WARNING: infoROM is corrupted at gpu 0000:01:00.0\n"

# --- reading ------------------------------------------------------------------------------------------------

DRIVERS = {
    7: "352.99",
    8: "375.66",
    9: "384.111",
    10: "410.73",
    11: "460.27.04",
    12: "535.54.03",
    13: "590.44.01",
}


@pytest.mark.parametrize(("schema", "driver"), DRIVERS.items())
@pytest.mark.parametrize("dtd", [False, True])
def test_memory_of_every_schema(schema: int, driver: str, dtd: bool) -> None:
    reserved = 450 if schema >= 12 else None
    text = query_xml(Host([Card("GPU of old and new", 24576, reserved, used=7)], driver=driver, dtd=dtd))
    assert ("<!ELEMENT gpu" if dtd else f"nvsmi_device_v{schema}.dtd") in text
    report = parse(text)
    assert report.driver == driver
    assert report.cards[0].memory == Memory(24576, reserved or 0, 7, 24576 - (reserved or 0) - 7)
    assert report.problems == []


def test_everything_read_of_a_card() -> None:
    host = Host(
        [
            Card("NVIDIA L4", 23034, 556),
            Card(
                "NVIDIA GeForce RTX 4090",
                24564,
                346,
                used=3000,
                uuid="GPU-2",
                display=True,
                compute_mode="Exclusive_Process",
                processes=[
                    Process(450, "N/A", type="G"),
                    Process(451, 2900, name="python3 --key=a&b <c> \x07", gpu_instance="3"),
                ],
            ),
        ]
    )
    card = parse(query_xml(host)).cards[1]
    assert (card.index, card.uuid, card.name) == (1, "GPU-2", "NVIDIA GeForce RTX 4090")
    assert (card.display, card.compute_mode, card.mig_enabled) == ("display", "Exclusive_Process", False)
    assert [(p.pid, p.used_mib, p.gpu_instance_id) for p in card.processes] == [
        (450, None, ""),
        (451, 2900, "3"),
    ]


def test_wddm_is_told_from_a_mere_display() -> None:
    host = Host([Card("NVIDIA GeForce RTX 2080", 8192, 205, display=True, driver_model="WDDM")])
    assert parse(query_xml(host)).cards[0].display == "WDDM"


@pytest.mark.parametrize(
    "raw", ["24564", "24564MiB", "24564 MB", "-1 MiB", "24 564 MiB", "2.5 MiB", "\u0662 MiB"]
)
def test_figures_are_read_strictly(raw: str) -> None:
    card = parse(query_xml(Host([Card("x", raw)]))).cards[0]
    assert card.memory is None
    assert card.unknown == f"total is {raw!r}"


def test_missing_figure() -> None:
    text = query_xml(Host([Card("x", 24564, 346)])).replace("<free>24218 MiB</free>", "")
    assert parse(text).cards[0].unknown == "fb_memory_usage has no free"


def test_output_of_powershell_is_utf_16() -> None:
    text = query_xml(Host([Card("x", 24564, 346)]))
    assert parse(decode(text.encode("utf-16"))).cards[0].memory is not None
    assert parse(decode(b"\xef\xbb\xbf" + text.encode())).cards[0].memory is not None


def test_warning_around_the_xml_does_not_spoil_it() -> None:
    text = query_xml(Host([Card("x", 24564, 346)]))
    for report in (parse(text + INFOROM), parse(INFOROM + text)):
        assert report.cards[0].memory is not None
        (problem,) = report.problems
        assert problem.message.startswith("The infoROM of a card is corrupted")
        assert "0000:01:00.0" in problem.message


def test_cut_off_output_keeps_the_complete_cards() -> None:
    text = query_xml(Host([Card("a", 24564, 346), Card("b", 24564, 346)]))
    with pytest.raises(SmiError, match=r"is cut off .* after 1 complete card") as caught:
        parse(text[: text.rindex("<fb_memory_usage>")])
    assert [card.name for card in caught.value.report.cards] == ["a"]
    assert caught.value.report.driver == "570.148.08"


def test_fewer_cards_than_counted_is_told() -> None:
    text = query_xml(Host([Card("a", 24564, 346)])).replace("<attached_gpus>1", "<attached_gpus>2")
    report = parse(text)
    assert report.missing == 1
    assert "counts 2 cards but describes only 1" in report.problems[0].message


@pytest.mark.parametrize(
    "text", ["", "hello", "<html><body>502</body></html>", "<nvidia_smi_log></nvidia_smi_log>"]
)
def test_what_is_no_output_of_nvidia_smi(text: str) -> None:
    with pytest.raises(SmiError) as caught:
        parse(text)
    assert caught.value.report.cards == []


def test_entities_are_never_expanded() -> None:
    bomb = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    doctype = f'<!DOCTYPE nvidia_smi_log [<!ENTITY e0 "boom">{bomb}]>'
    text = (
        f'<?xml version="1.0"?>{doctype}<nvidia_smi_log><gpu id="0"><uuid>&e9;</uuid></gpu></nvidia_smi_log>'
    )
    started = time.monotonic()
    with pytest.raises(SmiError, match="undefined entity"):
        parse(text)
    assert time.monotonic() - started < 1


# --- explaining ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "meaning", "remedy"),
    [
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
            "the latest NVIDIA driver is installed and running.",
            9,
            "module is not loaded",
            "modprobe nvidia",
        ),
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.133",
            18,
            "different versions",
            "reboot",
        ),
        ("No devices were found", 6, "sees no card", "lspci"),
        ("", 6, "card that was asked for", "nvidia-smi -L"),
        ("Failed to initialize NVML: Unknown Error", 255, "cannot reach the cards", "daemon-reload"),
        (
            "Unable to determine the device handle for GPU0000:07:00.0: Unknown Error",
            255,
            "cannot open",
            "Xid",
        ),
        (
            "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to "
            "recover this GPU",
            15,
            "a card is lost",
            "Reboot the host",
        ),
        (INFOROM, 14, "infoROM", "figures are valid"),
        (
            "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.",
            12,
            "libnvidia-ml.so.1",
            "ldconfig",
        ),
        ("Insufficient Permissions", 4, "no permission to read", "as root"),
        ("", 2, "an argument is unknown", "smi_command"),
        ("", 3, "not available", "gpus"),
        ("", 4, "no permission", "become"),
        ("", 8, "power cable", "Attach"),
        ("", 9, "module is not loaded", "modprobe nvidia"),
        ("", 12, "libnvidia-ml.so.1", "ldconfig"),
        ("", 14, "infoROM", "figures are valid"),
        ("", 18, "different versions", "reload the module"),
        ("", 127, "does not exist", "smi_command"),
        ("", 10, "interrupt", "firmware"),
        ("", 13, "older than nvidia-smi", "one driver version"),
        ("", 15, "lost", "Reboot"),
        ("", 255, "internal error", "dmesg"),
        ("", -9, "killed by signal 9", "by hand"),
        ("Segmentation fault", 139, "exit code 139", "by hand"),
    ],
)
def test_every_message_and_code_has_a_remedy(text: str, code: int, meaning: str, remedy: str) -> None:
    problem = explain(text, code)
    assert meaning.lower() in problem.message.lower()
    assert remedy.lower() in problem.remedy.lower()
    if text:
        assert text.split()[0] in problem.message


def test_long_output_is_quoted_in_part() -> None:
    assert len(explain("x" * 5000).message) < 400


# --- asking -------------------------------------------------------------------------------------------------

Play = Callable[..., Path]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Sets the cards and faults of the stand-in; returns the log of its calls."""

    def set_up(*cards: dict[str, Any], faults: list[dict[str, Any]] | None = None) -> Path:
        data = {"driver": "570.148.08", "cards": cards, "faults": faults or []}
        (tmp_path / "host.json").write_text(json.dumps(data), encoding="utf-8")
        monkeypatch.setenv("NVIDIA_SMI_STAND_IN", str(tmp_path / "host.json"))
        monkeypatch.setenv("NVIDIA_SMI_STAND_IN_LOG", str(tmp_path / "log"))
        return tmp_path / "log"

    return set_up


L4 = {"name": "NVIDIA L4", "total": 23034, "reserved": 556}
A, B = {**L4, "uuid": "GPU-a"}, {**L4, "uuid": "GPU-b"}


def test_one_call_is_enough_for_healthy_cards(play: Play) -> None:
    log = play(A, B)
    report = query([STAND_IN], 20)
    assert [card.uuid for card in report.cards] == ["GPU-a", "GPU-b"]
    assert report.problems == []
    assert log.read_text(encoding="utf-8") == "-q -x LC_ALL=C\n"


def test_leading_arguments_are_passed_on(play: Play) -> None:
    play(A)
    assert len(query(["env", "X=1", STAND_IN], 20).cards) == 1


def test_bad_card_that_ends_the_query_hides_no_good_one(play: Play) -> None:
    lost = "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost. Reboot the system\n"
    fault = {"exit_code": 15, "stdout": lost}
    log = play(A, B, {**L4, "uuid": "GPU-c"}, faults=[{"on": "query", **fault}, {"on": "GPU-b", **fault}])
    report = query([STAND_IN], 20)
    assert [(card.index, card.uuid, card.memory is not None) for card in report.cards] == [
        (0, "GPU-a", True),
        (1, "GPU-b", False),
        (2, "GPU-c", True),
    ]
    assert "GPU is lost" in report.cards[1].unknown
    assert "exit code 15" in report.problems[0].message
    assert report.driver == "570.148.08"
    assert len(log.read_text(encoding="utf-8").splitlines()) == 5


def test_hang_is_left_behind_and_the_others_are_asked(play: Play) -> None:
    hang = {"hang_seconds": 60, "ignore_signals": True}
    play(A, B, faults=[{"on": "query", **hang}, {"on": "GPU-a", **hang}])
    started = time.monotonic()
    report = query([STAND_IN], 4)
    assert time.monotonic() - started < 30  # 4 for all, then the list, then 4 for the one that hangs
    assert "no answer within 4 s" in report.cards[0].unknown
    assert report.cards[1].memory is not None


def test_hang_of_all_is_an_error_in_time(play: Play) -> None:
    play(A, faults=[{"on": "any", "hang_seconds": 60}])
    started = time.monotonic()
    with pytest.raises(SmiError, match=r"no answer within 1 s.*persistence"):
        query([STAND_IN], 1)
    assert time.monotonic() - started < 20


def test_hang_of_a_child_that_keeps_the_pipe_open(tmp_path: Path) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nsleep 60 &\nexit 0\n", encoding="utf-8")
    script.chmod(0o755)
    started = time.monotonic()
    with pytest.raises(SmiError, match="no answer"):
        query([str(script)], 1)
    assert time.monotonic() - started < 20


def test_cut_off_output_is_asked_again_card_by_card(play: Play) -> None:
    play(A, B, faults=[{"on": "query", "keep": 900}])
    report = query([STAND_IN], 20)
    assert all(card.memory for card in report.cards)
    assert "is cut off" in report.problems[0].message


def test_inforom_warning_keeps_the_figures(play: Play) -> None:
    log = play(A, faults=[{"on": "query", "after": INFOROM, "exit_code": 14}])
    report = query([STAND_IN], 20)
    assert report.cards[0].memory is not None
    assert ["infoROM" in str(problem) for problem in report.problems] == [True]
    assert len(log.read_text(encoding="utf-8").splitlines()) == 1


def test_warning_on_stderr_with_an_exit_code(play: Play, tmp_path: Path) -> None:
    play(A)
    script = tmp_path / "wrapper"
    script.write_text(
        f'#!/bin/sh\n{STAND_IN} "$@"\necho "{INFOROM.strip()}" >&2\nexit 14\n', encoding="utf-8"
    )
    script.chmod(0o755)
    (problem,) = query([str(script)], 20).problems
    assert "exit code 14" in problem.message


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "not loaded"),
        (12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", "libnvidia-ml"),
        (18, "Failed to initialize NVML: Driver/library version mismatch", "different versions"),
        (6, "No devices were found", "sees no card"),
        (255, "Failed to initialize NVML: Unknown Error", "cannot reach the cards"),
    ],
)
def test_trouble_of_the_whole_host_is_told_at_once(
    play: Play, stream: str, code: int, text: str, words: str
) -> None:
    log = play(A, faults=[{"on": "any", "exit_code": code, stream: text}])
    with pytest.raises(SmiError) as caught:
        query([STAND_IN], 20)
    assert words in caught.value.problem.message
    assert text in caught.value.problem.message
    assert len(log.read_text(encoding="utf-8").splitlines()) == 1


def test_no_devices_with_exit_code_0(play: Play) -> None:
    play(A, faults=[{"on": "any", "stdout": "No devices were found\n"}])
    with pytest.raises(SmiError, match="sees no card"):
        query([STAND_IN], 20)


def test_message_that_nobody_foresaw(play: Play) -> None:
    play(A, faults=[{"on": "any", "exit_code": 77, "stdout": "brand new trouble"}])
    with pytest.raises(SmiError, match=r"'brand new trouble' \(exit code 77\)"):
        query([STAND_IN], 20)


def test_card_that_the_query_leaves_out_is_found(play: Play) -> None:
    text = query_xml(Host([Card(**A)])).replace("<attached_gpus>1", "<attached_gpus>2")
    fault = {"on": "GPU-b", "exit_code": 15, "stdout": "GPU is lost"}
    play(A, B, faults=[{"on": "query", "stdout": text}, fault])
    report = query([STAND_IN], 20)
    assert [card.memory is not None for card in report.cards] == [True, False]


def test_card_left_out_by_the_list_too(play: Play) -> None:
    text = query_xml(Host([Card(**A)])).replace("<attached_gpus>1", "<attached_gpus>2")
    play(A, B, faults=[{"on": "query", "stdout": text}, {"on": "list", "exit_code": 15, "stdout": "lost"}])
    report = query([STAND_IN], 20)
    assert len(report.cards) == 1
    assert "counts 2 cards" in report.problems[0].message


def test_command_that_does_not_exist() -> None:
    with pytest.raises(SmiError, match="'no-such-nvidia-smi' was not found"):
        query(["no-such-nvidia-smi"], 1)


def test_command_that_is_no_program(tmp_path: Path) -> None:
    broken = tmp_path / "nvidia-smi"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)
    with pytest.raises(SmiError, match="cannot be run"):
        query([str(broken)], 1)


def test_command_of_the_path_is_found(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(A)
    os.symlink(STAND_IN, tmp_path / "nvidia-smi")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert len(query(["nvidia-smi"], 20).cards) == 1


# --- MIG ----------------------------------------------------------------------------------------------------

MIG_CARD = {
    "name": "NVIDIA H100 80GB HBM3",
    "total": 81559,
    "uuid": "GPU-m",
    "mig": [
        {"gpu_instance": 9, "compute_instance": 0, "total": 9984, "uuid": "MIG-one", "profile": "1g.10gb"},
        {
            "gpu_instance": 2,
            "compute_instance": 1,
            "total": 40448,
            "uuid": "MIG-two",
            "profile": "1c.3g.40gb",
        },
    ],
}


def mig_names(report: Report) -> list[tuple[str, str]]:
    return [(device.uuid, device.name) for card in report.cards for device in card.mig_devices]


def test_mig_uuids_and_profiles_come_from_the_list(play: Play) -> None:
    play(A, MIG_CARD, B)
    assert mig_names(query([STAND_IN], 20)) == [("MIG-one", "MIG 1g.10gb"), ("MIG-two", "MIG 1c.3g.40gb")]


@pytest.mark.parametrize("listed", ["GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-m)\n", ""])
def test_mig_devices_keep_the_older_names_without_a_matching_list(play: Play, listed: str) -> None:
    play(MIG_CARD, faults=[{"on": "list", "stdout": listed}])
    report = query([STAND_IN], 20)
    assert [uuid for uuid, _name in mig_names(report)] == ["MIG-GPU-m/9/0", "MIG-GPU-m/2/1"]
    assert "lists 0 MIG devices of card #0, -q -x has 2" in report.problems[0].message


# --- the stand-in itself ------------------------------------------------------------------------------------


def test_list_looks_like_that_of_nvidia_smi() -> None:
    host = Host(
        [Card("NVIDIA L4", 23034, uuid="GPU-1", mig=[Mig(1, 0, 10, profile="1g.10gb", uuid="MIG-1")])]
    )
    assert list_text(host) == ("GPU 0: NVIDIA L4 (UUID: GPU-1)\n  MIG 1g.10gb     Device  0: (UUID: MIG-1)\n")
