# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the words and exit codes of nvidia-smi mean, and what to do about each."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something that is wrong on the host, and what to do about it."""

    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}"


# Words are more exact than exit codes and come on stdout as often as on stderr. First match wins.
_MEANINGS_OF_WORDS: tuple[tuple[str, str, str], ...] = (
    (
        r"Driver/library version mismatch",
        "the loaded NVIDIA kernel module and the installed driver library have different versions",
        "A driver upgrade was installed but not loaded: stop what uses the cards and reload the module "
        "(rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; modprobe nvidia), or reboot the host",
    ),
    (
        r"couldn't communicate with the NVIDIA driver|NVIDIA driver is not loaded",
        "the NVIDIA kernel module is not loaded",
        "Run 'modprobe nvidia' and read 'dmesg'; usual causes are a new kernel without a built module "
        "('dkms status'), Secure Boot refusing an unsigned module, or nouveau holding the card",
    ),
    (
        r"No devices were found",
        "the NVIDIA driver sees no card",
        "Check 'lspci -d 10de:' and 'dmesg | grep -i nvrm': the card may have failed to start, be too new or "
        "too old for this driver, need the open kernel module, or be handed to a virtual machine (vfio)",
    ),
    (
        r"infoROM is corrupted",
        "the infoROM of a card is corrupted",
        "The figures are valid and the card works; plan a look at its firmware or its replacement",
    ),
    (
        r"GPU is lost|fallen off the bus|GPU requires reset",
        "a card is lost: it no longer answers on the PCI bus",
        "Reboot the host (or reset the card: 'nvidia-smi -r -i <uuid>'); if it comes back, check power, "
        "seating, cooling and 'dmesg | grep Xid'",
    ),
    (
        r"libnvidia-ml|NVML [Ss]hared [Ll]ibrary|NVIDIA Management Library",
        "the driver library libnvidia-ml.so.1 was not found",
        "Install the driver's library of the same version as the module (libnvidia-ml1 on Debian), "
        "then run 'ldconfig'",
    ),
    (
        r"Insufficient Permissions",
        "no permission to read the cards",
        "Run on the host itself and as root (become: true); inside a container MIG needs CAP_SYS_ADMIN and "
        "NVIDIA_MIG_MONITOR_DEVICES=all",
    ),
    (
        r"Unable to determine the device handle",
        "the driver lists a card that it cannot open",
        "Read 'dmesg | grep -i -e nvrm -e xid'; reboot the host; if it stays, check power and seating",
    ),
    (
        r"Failed to initialize NVML: Unknown Error",
        "the driver library cannot reach the cards",
        "In a container this follows 'systemctl daemon-reload' on the host: restart the container, or run on "
        "the host; on the host, check the device files /dev/nvidia* and reboot",
    ),
)

# nvidia-smi(1), section RETURN VALUE; 18 is what a version mismatch gives in practice.
_MEANINGS_OF_CODES: dict[int, tuple[str, str]] = {
    2: (
        "an argument is unknown to the command",
        "Check smi_command: it must be nvidia-smi itself, or a command that passes all arguments on to it",
    ),
    3: ("the operation is not available on a card", "Update the driver, or leave the card out with 'gpus'"),
    4: ("no permission for the cards", "Run as root (become: true) on the host itself"),
    6: (
        "the card that was asked for was not found",
        "Check 'nvidia-smi -L' and 'dmesg | grep -i nvrm'",
    ),
    8: ("a card's external power cable is not attached", "Attach the power cables of all cards"),
    9: _MEANINGS_OF_WORDS[1][1:],
    10: (
        "the kernel found an interrupt problem with a card",
        "Read 'dmesg | grep -i nvrm'; update the firmware of the board, or try another slot",
    ),
    12: _MEANINGS_OF_WORDS[5][1:],
    13: (
        "the driver library is older than nvidia-smi and lacks a function it needs",
        "Install library and tools of one driver version",
    ),
    14: _MEANINGS_OF_WORDS[3][1:],
    15: _MEANINGS_OF_WORDS[4][1:],
    18: _MEANINGS_OF_WORDS[0][1:],
    127: (
        "the command does not exist",
        "Install the NVIDIA driver, or set smi_command to the path of nvidia-smi",
    ),
    255: (
        "an internal error of the driver",
        "Read 'dmesg | grep -i -e nvrm -e xid'; reload the driver or reboot",
    ),
}

_WHOLE_HOST = re.compile(
    r"Driver/library version mismatch|couldn't communicate|driver is not loaded|No devices were found"
    r"|libnvidia-ml|NVML [Ss]hared [Ll]ibrary|Failed to initialize NVML"
)
_WHOLE_HOST_CODES = frozenset((9, 12, 13, 18, 127))


def explain(text: str, code: int = 0) -> Problem:
    """What a message and exit code of nvidia-smi mean. The raw text is always part of the message."""
    raw = _one_line(text)
    said = f"nvidia-smi said {raw!r}" if raw else "nvidia-smi said nothing"
    if code:
        said += f" (exit code {code})" if code > 0 else f" (killed by signal {-code})"
    for pattern, meaning, remedy in _MEANINGS_OF_WORDS:
        if re.search(pattern, text):
            return Problem(f"{meaning[0].upper()}{meaning[1:]}: {said}", remedy)
    if code in _MEANINGS_OF_CODES:
        meaning, remedy = _MEANINGS_OF_CODES[code]
        return Problem(f"{meaning[0].upper()}{meaning[1:]}: {said}", remedy)
    return Problem(
        f"No usable output: {said}",
        "Run 'nvidia-smi -q -x' by hand on the host and read 'dmesg | grep -i nvrm'",
    )


def is_whole_host(text: str, code: int) -> bool:
    """Whether no card of the host can be read, so that asking card by card is of no use."""
    return code in _WHOLE_HOST_CODES or _WHOLE_HOST.search(text) is not None


def explain_unknown(unknown: str) -> str:
    """The remedy for a memory figure that is words."""
    for pattern, _meaning, remedy in _MEANINGS_OF_WORDS:
        if re.search(pattern, unknown):
            return remedy
    if "no answer" in unknown:
        return "The card or its driver hangs: read 'dmesg | grep -i -e nvrm -e xid' and reboot the host"
    if re.search(r"N/A|Not Supported", unknown):
        return (
            "A card that shares the host's memory (GB10, Jetson, N1X) has no memory of its own to report; "
            "set the number of instances on such a host by hand"
        )
    if "fb_memory_usage" in unknown:
        return "The card is too old for this driver to report its memory; leave it out with 'gpus'"
    return "Read 'dmesg | grep -i -e nvrm -e xid'; reset the card or reboot the host"


def _one_line(text: str, limit: int = 300) -> str:
    """``text`` on one line, without XML, cut to ``limit`` characters."""
    line = " ".join(re.sub(r"<[^>]*>?", " ", text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
