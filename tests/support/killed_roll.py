# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts in processes of their own, which kill themselves (SIGKILL) before the step that they are told.

    with KilledRolls() as rolls:
        order = {"service": ..., "number": 1, "data_dir": ..., "config": {...}, "surge": False,
                 "health_path": "/", "limits": {...}}
        name_of_the_step = rolls.roll(order, cut_off_before=3)

Run as a program it is the process beside the test that starts them: it has loaded the SDK once, and forks one
process for each order, which comes as a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _barriers
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import Barriers, Hooks, Limits
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rollout import Rollout


def prepare(client: Any, order: Mapping[str, Any], checkpoint: Callable[[str], None]) -> Rollout:
    """The rollout of an order, for a service without a Traefik."""
    barriers = Barriers(client, Limits(**order["limits"]), Hooks(health_path=order["health_path"]))
    service, number, data_dir = order["service"], order["number"], order["data_dir"]
    return Rollout(client, service, number, data_dir, barriers, checkpoint=checkpoint)


class KilledRolls:
    """Gives orders, one at a time; several threads each have their own."""

    def __enter__(self) -> KilledRolls:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )
        self._one = threading.Lock()
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def roll(self, order: Mapping[str, Any], cut_off_before: int) -> str:
        """The step, counted from 0, before which the process was killed; it has to have been."""
        assert self._process.stdin
        assert self._process.stdout
        with self._one:
            self._process.stdin.write(json.dumps({**order, "cut_off_before": cut_off_before}) + "\n")
            self._process.stdin.flush()
            end = json.loads(self._process.stdout.readline())
        assert end["signal"] == signal.SIGKILL, end
        return str(end["step"])


def _carry_out(order: dict[str, Any], told: int) -> None:
    import docker

    steps = 0

    def checkpoint(step: str) -> None:
        nonlocal steps
        if steps == order["cut_off_before"]:
            os.write(told, step.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

    # There is no Traefik to give a moment to.
    _barriers.UNWATCHED_SECONDS = 0
    try:
        rollout = prepare(docker.from_env(), order, checkpoint)
        rollout.carry_out(order["config"], surge=order["surge"])
    except ReplicaError as error:
        os.write(told, f"failed: {error}".encode())


def main() -> None:
    for line in sys.stdin:
        said, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(said)
                _carry_out(json.loads(line), told)
            finally:
                os._exit(0)
        os.close(told)
        with os.fdopen(said) as pipe:
            step = pipe.read()
        _pid, status = os.waitpid(child, 0)
        end = {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, "step": step}
        print(json.dumps(end), flush=True)


if __name__ == "__main__":
    import docker as docker  # for all that are forked

    main()
