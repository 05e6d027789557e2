# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter openpgp_fingerprint: whose key a file holds, on hosts that have no gpg."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: openpgp_fingerprint
short_description: The fingerprint of the OpenPGP key in a file
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - Tells the fingerprint of the first public key, of version 4, in a file of keys, armoured or not.
  - With it a key that was fetched is known to be the right one, whatever it was fetched from.
options:
  _input:
    description: The file's content in Base64, as M(ansible.builtin.slurp) gives it.
    type: str
    required: true
seealso:
  - name: RFC 4880, sections 4.2, 6.2 and 12.2
    description: The format of packets, the armour, and how a fingerprint is made.
    link: https://www.rfc-editor.org/rfc/rfc4880
"""

EXAMPLES = r"""
- name: Read a key
  ansible.builtin.slurp:
    path: /etc/apt/keyrings/theirs.asc
  register: key

- name: Refuse another one
  ansible.builtin.assert:
    that: (key.content | voicefleet.cosyvoice.openpgp_fingerprint) == theirs
"""

RETURN = r"""
_value:
  description: 40 hexadecimal digits in upper case; empty for what is no such key.
  type: str
  sample: EB693B3035CD5710E231E123A4B469963BF863CC
"""

_PUBLIC_KEY = 6
_ARMOUR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*?\n(?:[^\n]*:[^\n]*\n)*\s*\n(.*?)^(?:=|-----END)",
    re.DOTALL | re.MULTILINE,
)


def _first_packet(data: bytes) -> tuple[int, bytes]:
    """(tag, body); IndexError for what ends too soon, ValueError for what is no packet."""
    head = data[0]
    if not head & 0x80:
        raise ValueError("no packet")
    if head & 0x40:
        tag, first = head & 0x3F, data[1]
        if first < 192:
            size, begin = first, 2
        elif first < 224:
            size, begin = ((first - 192) << 8) + data[2] + 192, 3
        else:
            size, begin = int.from_bytes(data[2:6], "big"), 6
    else:
        tag, count = head >> 2 & 0x0F, 1 << (head & 0x03)
        size, begin = int.from_bytes(data[1 : 1 + count], "big"), 1 + count
    body = data[begin : begin + size]
    if len(body) < size:
        raise ValueError("cut off")
    return tag, body


def openpgp_fingerprint(content: str) -> str:
    """The fingerprint of the first key in ``content``, a file in Base64; "" if it holds none."""
    try:
        data = base64.b64decode(content, validate=True)
    except (TypeError, binascii.Error) as error:
        raise AnsibleFilterError(f"openpgp_fingerprint: the content has to be in Base64: {error}") from error
    armour = _ARMOUR.search(data.replace(b"\r\n", b"\n"))
    try:
        tag, body = _first_packet(base64.b64decode(armour.group(1)) if armour else data)
    except (IndexError, ValueError):
        return ""
    if tag != _PUBLIC_KEY or not body or body[0] != 4:
        return ""
    return (
        hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
    )


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"openpgp_fingerprint": openpgp_fingerprint}
