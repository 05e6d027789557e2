# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints of keys that vendors publish, which gpg tells too."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter.openpgp_fingerprint import openpgp_fingerprint

ROLES = Path(__file__).parents[4] / "roles"
DOCKER = ROLES / "docker_engine/files/docker.asc"
NVIDIA = ROLES / "nvidia_container_toolkit/files/libnvidia-container.asc"
# As their makers' pages and gpg --show-keys have them.
KNOWN = {
    DOCKER: "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
    NVIDIA: "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
}


def told(content: bytes) -> str:
    return openpgp_fingerprint(base64.b64encode(content).decode())


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.name)
def test_an_armoured_key(path: Path) -> None:
    assert told(path.read_bytes()) == KNOWN[path]
    assert told(path.read_bytes().replace(b"\n", b"\r\n")) == KNOWN[path]


@pytest.mark.parametrize("head", [b"\x99\x00\x05", b"\xc6\x05", b"\xc6\xff\x00\x00\x00\x05", b"\x98\x05"])
def test_a_bare_one_in_every_form_of_a_length(head: bytes) -> None:
    # printf '\x99\x00\x05\x04\x00\x00\x00\x01' | sha1sum
    assert told(head + b"\x04\x00\x00\x00\x01") == "C955EE71836C1085104C9CBA5375EE994816E35C"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>Please log in</html>",
        b"\xc6\x05\x04\x00",
        b"\xc6\x05\x05\x00\x00\x00\x01",
        b"\xb4\x01a",
        b"\x99",
    ],
)
def test_what_is_no_such_key(content: bytes) -> None:
    assert told(content) == ""


def test_what_is_no_file_in_base64() -> None:
    with pytest.raises(AnsibleFilterError, match="has to be in Base64"):
        openpgp_fingerprint("-----BEGIN")
