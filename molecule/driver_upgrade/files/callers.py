# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callers, four a second, until there is a certain file; fails if one of them was not answered whole.

python callers.py URL FILE
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tests/support"))

from open_load import OpenLoad


def main(url: str, enough: Path) -> None:
    with OpenLoad(url, 4, retry_seconds=10) as load:
        load.wait_for_more(10)
        while not enough.exists():
            time.sleep(0.2)
        load.wait_for_more(10)
    sys.stdout.write(f"{load.report()}\n")
    load.report().assert_lossless(at_least=100)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
