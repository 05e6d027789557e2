# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter htpasswd: a line of an htpasswd file, the same in every run, with no library on the controller."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: htpasswd
short_description: A user's line in an htpasswd file
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - Makes C(user:hash) with Apache's C($apr1$) hash, which Traefik's basic authentication reads.
  - The same password, user and salt give the same line, so a file that holds it does not change in every run.
  - Cheap to verify on purpose, since every call of an API that is polled verifies it. Use it for long random
    passwords, and keep the line itself unreadable for others.
positional: user, salt
options:
  _input:
    description: The password.
    type: str
    required: true
  user:
    description: Name of the user; no colon.
    type: str
    required: true
  salt:
    description: Anything that differs from host to host, such as its name. Its digest becomes the salt.
    type: str
    required: true
seealso:
  - name: Apache's formats
    description: Where the algorithm is described.
    link: https://httpd.apache.org/docs/2.4/misc/password_encryptions.html
"""

EXAMPLES = r"""
- name: The line for a dashboard
  ansible.builtin.set_fact:
    login: "{{ password | voicefleet.cosyvoice.htpasswd('admin', inventory_hostname) }}"
  no_log: true
"""

RETURN = r"""
_value:
  description: The line, without its end.
  type: str
  sample: admin:$apr1$abcdefgh$sIQmFnT1CuEXAsyjuXjUX/
"""

_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Which bytes of the digest make each group of four characters, as in apr_md5.c.
_GROUPS = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _characters(value: int, count: int) -> str:
    return "".join(_ALPHABET[value >> 6 * position & 0x3F] for position in range(count))


def apr1(password: str, salt: str) -> str:
    """Apache's $apr1$ hash of a password; the salt is at most 8 of [./0-9A-Za-z]."""
    secret, salt_bytes = password.encode(), salt.encode()
    repeated = _md5(secret + salt_bytes + secret) * (len(secret) // 16 + 1)
    start = secret + b"$apr1$" + salt_bytes + repeated[: len(secret)]
    length = len(secret)
    while length:
        start += b"\0" if length & 1 else secret[:1]
        length >>= 1
    digest = _md5(start)
    for turn in range(1000):
        digest = _md5(
            (secret if turn % 2 else digest)
            + (salt_bytes if turn % 3 else b"")
            + (secret if turn % 7 else b"")
            + (digest if turn % 2 else secret)
        )
    text = "".join(_characters(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in _GROUPS)
    return f"$apr1${salt}${text}{_characters(digest[11], 2)}"


def htpasswd(password: str, user: str, salt: str) -> str:
    """The line ``user:hash``; raises AnsibleFilterError on what such a file cannot hold."""
    for name, value in (("the password", password), ("the user", user), ("the salt", salt)):
        if not isinstance(value, str) or not value:
            raise AnsibleFilterError(f"htpasswd: {name} must be a text that is not empty")
    if ":" in user or "\n" in user:
        raise AnsibleFilterError(f"htpasswd: the user {user!r} must not contain a colon or a line break")
    return f"{user}:{apr1(password, hashlib.sha256(salt.encode()).hexdigest()[:8])}"


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"htpasswd": htpasswd}
