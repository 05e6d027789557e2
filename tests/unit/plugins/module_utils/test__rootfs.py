# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._rootfs import host_sources
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import ToolError

DEB822 = """
# the distribution
Types: deb deb-src
URIs: http://mirror.example.com/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main non-free-firmware
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://mirror.example.com/security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/x.gpg

Enabled: no
Types: deb
URIs: http://off.example.com/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """
deb [arch=amd64,arm64 signed-by=/k.gpg] http://line.example.com/debian bookworm main contrib  # comment
deb-src http://source.example.com/debian bookworm main
deb http://docker.example.com bookworm stable
deb http://other.example.com trixie main
#deb http://out.example.com bookworm main
"""


def test_takes_the_distributions_own_sources_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/debian.sources.bak").write_text(DEB822)
    sources = host_sources("bookworm", tmp_path)
    assert sources.text == (
        "Types: deb\nURIs: http://line.example.com/debian\nSuites: bookworm\nComponents: main\n"
        "Architectures: amd64 arm64\nSigned-By: /k.gpg\n"
        "\n"
        "Types: deb\nURIs: http://mirror.example.com/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
        " -----END PGP PUBLIC KEY BLOCK-----\n"
        "\n"
        "Types: deb\nURIs: http://mirror.example.com/security\nSuites: bookworm-security\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/x.gpg\n"
    )
    assert sources.files == (
        str(tmp_path / "sources.list"),
        str(tmp_path / "sources.list.d/debian.sources"),
    )


def test_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    with pytest.raises(ToolError, match=r"serves 'noble' with the component main"):
        host_sources("noble", tmp_path)
