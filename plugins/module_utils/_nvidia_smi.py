# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks ``nvidia-smi`` for the cards of this host, and gets an answer from hosts in trouble too."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_output import (
    Card,
    Report,
    SmiError,
    decode,
    parse,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_problems import (
    Problem,
    explain,
    is_whole_host,
)

# WSL 2 keeps nvidia-smi where the PATH of a non-interactive shell does not look.
_EXTRA_PATH = "/usr/lib/wsl/lib"


@dataclass(frozen=True)
class _Answer:
    code: int
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        return self.stderr + "\n" + self.stdout


class _NoAnswerError(Exception):
    """nvidia-smi did not end in time."""


def query(command: list[str], timeout_seconds: float) -> Report:
    """Asks ``command`` (nvidia-smi and leading arguments) for all cards of this host.

    If it does not describe all of them at once, lists them with ``-L`` and asks for each on its own, so that
    a bad card does not hide the good ones; the bad one is then in the report with unknown memory.
    Three rounds of ``timeout_seconds`` each at most. Raises SmiError when no card can be listed.
    """
    command = [_which(command[0]), *command[1:]]
    try:
        report = _ask(command, ["-q", "-x"], timeout_seconds)
    except _HostError:
        raise
    except SmiError as error:
        report = _card_by_card(command, timeout_seconds, error)
    if report.missing:
        with contextlib.suppress(SmiError):  # -L does not list them either: keep what there is
            report = _card_by_card(command, timeout_seconds, SmiError(report.problems[-1]))
    if any(device.uuid.startswith("MIG-GPU-") for card in report.cards for device in card.mig_devices):
        _name_mig_devices(command, timeout_seconds, report)
    return report


def order(command: list[str], arguments: list[str], timeout_seconds: float) -> tuple[int, str]:
    """Has ``command`` do something; its exit code and words. Raises SmiError if it does not end in time."""
    called = [_which(command[0]), *command[1:], *arguments]
    try:
        answer = _run(called, timeout_seconds)
    except _NoAnswerError as error:
        raise SmiError(
            Problem(
                f"'nvidia-smi {' '.join(arguments)}' did not end within {timeout_seconds:g} s",
                "A card or its driver hangs: read 'dmesg | grep -i -e nvrm -e xid' and reboot the host",
            )
        ) from error
    return answer.code, answer.words.strip()


class _HostError(SmiError):
    """A problem of the whole host: asking card by card would only cost time."""


def _which(program: str) -> str:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), _EXTRA_PATH))
    found = shutil.which(program, path=path)
    if found is None:
        problem = Problem(
            f"The command {program!r} was not found or is not executable",
            "Install the NVIDIA driver, or set smi_command to the path of nvidia-smi",
        )
        raise _HostError(problem)
    return found


def _ask(command: list[str], arguments: list[str], timeout_seconds: float) -> Report:
    """One query, read. Complete output counts whatever the exit code says."""
    try:
        answer = _run([*command, *arguments], timeout_seconds)
    except _NoAnswerError as error:
        raise SmiError(
            Problem(
                f"nvidia-smi gave no answer within {timeout_seconds:g} s",
                "A card or its driver hangs: read 'dmesg | grep -i -e nvrm -e xid' and reboot the host; "
                "without persistence mode the first call can also be slow: enable nvidia-persistenced, "
                "or raise timeout_seconds",
            )
        ) from error
    try:
        report = parse(answer.stdout)
    except SmiError as error:
        if "<nvidia_smi_log" in answer.stdout:
            raise
        kind = _HostError if is_whole_host(answer.words, answer.code) else SmiError
        raise kind(explain(answer.words, answer.code)) from error
    if answer.code and not report.problems:
        report.problems.append(explain(answer.stderr, answer.code))
    return report


@dataclass(frozen=True)
class _Listed:
    """A card as ``-L`` has it, with (profile, UUID) of each MIG device."""

    index: int
    name: str
    uuid: str
    mig_devices: list[tuple[str, str]]


_LISTED_GPU = re.compile(r"^GPU ([0-9]+): (.*?) *\(UUID: ([^)\s]+)\)", re.MULTILINE)
_LISTED_MIG = re.compile(r"^\s+MIG (\S+)\s+Device\s+[0-9]+: \(UUID: (MIG-[^)\s]+)\)", re.MULTILINE)


def _list(command: list[str], timeout_seconds: float) -> list[_Listed]:
    """The cards of ``-L``, none if it fails."""
    try:
        stdout = _run([*command, "-L"], timeout_seconds).stdout
    except _NoAnswerError:
        return []
    gpus = list(_LISTED_GPU.finditer(stdout))
    listed = []
    for number, gpu in enumerate(gpus):
        end = gpus[number + 1].start() if number + 1 < len(gpus) else len(stdout)
        migs = _LISTED_MIG.findall(stdout, gpu.end(), end)
        listed.append(_Listed(int(gpu.group(1)), gpu.group(2), gpu.group(3), migs))
    return listed


def _card_by_card(command: list[str], timeout_seconds: float, first: SmiError) -> Report:
    """The cards of ``-L``, each asked on its own; raises ``first`` if there is no list."""
    listed = _list(command, timeout_seconds)
    if not listed:
        raise first

    def ask(entry: _Listed) -> Report:
        try:
            one = _ask(command, ["-q", "-x", "-i", entry.uuid], timeout_seconds)
        except SmiError as error:
            card = Card(entry.index, entry.uuid, entry.name, memory=None, unknown=error.problem.message)
            return Report(cards=[card])
        return replace(one, cards=[replace(one.cards[0], index=entry.index, uuid=entry.uuid)])

    # Side by side, so that cards that hang cost one timeout and not one each.
    with ThreadPoolExecutor(max_workers=len(listed)) as pool:
        reports = list(pool.map(ask, listed))
    return Report(
        driver=next((one.driver for one in reports if one.driver), first.report.driver),
        cards=[card for one in reports for card in one.cards],
        problems=[first.problem, *(problem for one in reports for problem in one.problems)],
    )


def _name_mig_devices(command: list[str], timeout_seconds: float, report: Report) -> None:
    """Gives MIG devices the UUID and profile that only ``-L`` knows, matched by card and order."""
    listed = {entry.uuid: entry.mig_devices for entry in _list(command, timeout_seconds)}
    for number, card in enumerate(report.cards):
        if not card.mig_devices:
            continue
        names = listed.get(card.uuid, [])
        if len(names) != len(card.mig_devices):
            report.problems.append(
                Problem(
                    f"nvidia-smi -L lists {len(names)} MIG devices of card #{card.index}, -q -x has "
                    f"{len(card.mig_devices)}: their UUIDs are unknown",
                    "They are named MIG-<card>/<GPU instance>/<compute instance>; retry after a MIG set-up",
                )
            )
            continue
        devices = tuple(
            replace(device, name=f"MIG {names[order][0]}", uuid=names[order][1])
            for order, device in enumerate(card.mig_devices)
        )
        report.cards[number] = replace(card, mig_devices=devices)


def _run(command: list[str], timeout_seconds: float) -> _Answer:
    """Runs ``command``; raises _NoAnswerError after ``timeout_seconds``.

    A process that waits for a dead card cannot be killed (state D). It is sent SIGKILL with all of its group
    and then left to init: waiting for it would hang this run too.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        problem = Problem(f"The command {command[0]!r} cannot be run: {error}", "Check smi_command")
        raise _HostError(problem) from error
    try:
        stdout, stderr = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired as error:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # just ended, or runs as another user
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
        process.poll()
        raise _NoAnswerError from error
    return _Answer(process.returncode, decode(stdout), decode(stderr))
