# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the capacity of a host with eight cards takes: reading and planning, and the whole module.

Run: .venv/bin/python tests/bench/gpu_capacity.py
The eight cards are RTX 4090 beside other processes. The output is padded to 90 kB per card, the size of real
outputs of driver 590, with the lists of clocks that make them so large.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".collections"), str(ROOT / "tests" / "support")]

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._capacity import (  # noqa: E402
    Plan,
    Policy,
    plan,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (  # noqa: E402
    parse,
)
from nvidia_smi_xml import Card, Host, Process, query_xml  # noqa: E402

FREE_MIB = (17486, 2258, 21696, 18684, 14252, 18392, 22152, 8288)
CARD_BYTES = 90_000


def output() -> str:
    """``nvidia-smi -q -x`` of the eight cards."""
    cards = [
        Card(
            "NVIDIA GeForce RTX 4090",
            24564,
            346,
            used=24218 - free,
            free=free,
            processes=[Process(1000 + index, 24218 - free)],
        )
        for index, free in enumerate(FREE_MIB)
    ]
    clock = "\t\t\t\t<supported_graphics_clock>2520 MHz</supported_graphics_clock>\n"
    clocks = f"\t\t<supported_clocks>\n{clock * (CARD_BYTES // len(clock))}\t\t</supported_clocks>\n"
    text: str = query_xml(Host(cards, driver="590.44.01"))
    return text.replace("\t</gpu>", clocks + "\t</gpu>")


def milliseconds(action: Callable[[], object], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append((time.perf_counter() - started) * 1000)
    return taken


def main() -> None:
    text = output()
    report = parse(text)
    result: Plan = plan(report, Policy(), {})
    assert [gpu["capacity"] for gpu in result.gpus] == [2, 0, 2, 2, 1, 2, 2, 0], result.summary

    with tempfile.NamedTemporaryFile("w", suffix=".xml") as saved:
        saved.write(text)
        saved.flush()
        arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {"xml_file": saved.name}})
        module = ROOT / "plugins" / "modules" / "gpu_capacity.py"
        command = [sys.executable, str(module), arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}

        def run_module() -> None:
            done = subprocess.run(command, check=True, capture_output=True, env=environment)
            assert json.loads(done.stdout)["capacity"] == result.capacity

        rows = [
            (f"read {len(text) / 1000:.0f} kB of XML", milliseconds(lambda: parse(text), 50)),
            ("plan eight cards", milliseconds(lambda: plan(report, Policy(), {}), 200)),
            ("the module as a process of its own", milliseconds(run_module, 10)),
        ]
    print(f"{'gpu_capacity, eight cards':<40}{'median ms':>10}{'worst ms':>10}")
    for name, taken in rows:
        print(f"{name:<40}{statistics.median(taken):>10.2f}{max(taken):>10.2f}")


if __name__ == "__main__":
    main()
