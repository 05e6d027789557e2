# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter.failure_words import failure_words

STOP = {"failed": True, "msg": "non-zero return code", "stderr": "Unit two.service not loaded.\n"}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"failed": True, "msg": "No package nvidia-driver"}, "No package nvidia-driver."),
        (STOP, "non-zero return code: Unit two.service not loaded."),
        (
            {
                "failed": True,
                "msg": "One or more items failed",
                "results": [{"msg": "one is well"}, STOP, STOP],
            },
            "non-zero return code: Unit two.service not loaded.",
        ),
        ({"failed": True, "msg": "the loop is not a list", "results": []}, "the loop is not a list."),
        ({"unreachable": True, "msg": ""}, "No reason was given."),
    ],
)
def test_the_reason_is_told_once(result: dict[str, Any], words: str) -> None:
    assert failure_words(result) == words


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="ansible_failed_result"):
        failure_words("no reason")
