# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The htpasswd filter against hashes that `openssl passwd -apr1` made."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter.htpasswd import apr1, htpasswd


@pytest.mark.parametrize(
    ("password", "salt", "wanted"),
    [
        ("correct horse", "abcdefgh", "$apr1$abcdefgh$sIQmFnT1CuEXAsyjuXjUX/"),
        ("a", "01234567", "$apr1$01234567$g8MDXtsijtq.bdIMGYMnV1"),
        ("0123456789abcdef0123456789abcdef0", "x", "$apr1$x$bEBQOM0uR.V1PbZ0uK4M91"),
        ("Zürich-ƒ-16byte!", "./AZaz09", "$apr1$./AZaz09$N2Wk/mNh7cB3AeC52qVTN."),
    ],
)
def test_the_hash_is_the_one_openssl_makes(password: str, salt: str, wanted: str) -> None:
    assert apr1(password, salt) == wanted


def test_a_line_is_the_same_in_every_run_and_another_on_another_host() -> None:
    line = htpasswd("correct horse", "admin", "host-1")
    assert line.startswith("admin:$apr1$")
    assert line == htpasswd("correct horse", "admin", "host-1")
    assert line != htpasswd("correct horse", "admin", "host-2")
    assert line != htpasswd("correct horsf", "admin", "host-1")


@pytest.mark.parametrize(
    ("password", "user", "salt", "named"),
    [
        ("", "admin", "x", "password"),
        ("x", "ad:min", "x", "colon"),
        ("x", "", "x", "user"),
        ("x", "a", "", "salt"),
    ],
)
def test_what_such_a_file_cannot_hold_is_refused(password: str, user: str, salt: str, named: str) -> None:
    with pytest.raises(AnsibleFilterError, match=named):
        htpasswd(password, user, salt)
