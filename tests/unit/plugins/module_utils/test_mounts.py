# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether something else is mounted at a folder, told from lines of /proc/self/mountinfo."""

from __future__ import annotations

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._mounts import (
    Mount,
    is_mounted_from_elsewhere,
    mounts,
)

ROOT = "22 1 8:1 / / rw - ext4 /dev/sda1 rw"
VAR = "30 22 8:2 / /var rw shared:5 - ext4 /dev/sda2 rw"
BTRFS = "22 1 0:20 /@ / rw - btrfs /dev/sda1 rw"
DATA = "/var/lib/docker"


@pytest.mark.parametrize(
    ("lines", "elsewhere"),
    [
        ([ROOT], False),
        # dockerd's own mount of the folder on itself
        ([ROOT, f"40 22 8:1 {DATA} {DATA} rw shared:9 - ext4 /dev/sda1 rw"], False),
        ([ROOT, VAR, f"40 30 8:2 /lib/docker {DATA} rw - ext4 /dev/sda2 rw"], False),
        ([BTRFS, f"40 22 0:20 /@{DATA} {DATA} rw - btrfs /dev/sda1 rw"], False),
        # a disk of its own, and a folder of the same disk
        ([ROOT, f"40 22 8:3 / {DATA} rw - ext4 /dev/sdb1 rw"], True),
        ([ROOT, f"40 22 8:1 /srv/docker {DATA} rw - ext4 /dev/sda1 rw"], True),
        # a disk of its own, which dockerd then mounted on itself
        (
            [
                ROOT,
                f"40 22 8:3 / {DATA} rw - ext4 /dev/sdb1 rw",
                f"41 40 8:3 / {DATA} rw - ext4 /dev/sdb1 rw",
            ],
            True,
        ),
        # what only begins alike
        ([ROOT, f"40 22 8:3 / {DATA}-old rw - ext4 /dev/sdb1 rw"], False),
    ],
)
def test_only_another_place_counts(lines: list[str], elsewhere: bool) -> None:
    assert is_mounted_from_elsewhere(DATA, mounts("\n".join(lines))) is elsewhere


def test_a_name_with_blanks_is_read() -> None:
    line = r"40 22 0:31 / /srv/my\040disk\134040 rw,noatime shared:1 master:2 - tmpfs tmpfs rw"
    assert mounts(line) == [Mount("0:31", "/", "/srv/my disk\\040")]


def test_this_machine_has_a_root() -> None:
    assert "/" in [mount.point for mount in mounts()]
    assert not is_mounted_from_elsewhere("/surely/not/there")
