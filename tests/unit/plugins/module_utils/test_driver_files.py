# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts that keep the driver as it was chosen."""

from __future__ import annotations

import re
from fnmatch import fnmatch

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _driver_files
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_choice import Choice, Host
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._driver_files import Archive
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._toolkit import PACKAGES

BASE = "https://packages.example.com/repos/"
SOURCES = """\
Types: deb
# a comment
URIs: http://mirror.example.com/debian http://other.example.com/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://inline.example.com/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 xyz
"""


def test_the_repository_of_each_distribution() -> None:
    def url(host: Host) -> str:
        return _driver_files.repository(BASE, host).url

    assert url(Host("Debian", "12", "Debian")) == BASE + "debian12/x86_64/"
    assert url(Host("Ubuntu", "24.04", "Debian", "aarch64")) == BASE + "ubuntu2404/sbsa/"
    assert url(Host("Rocky", "9", "RedHat")) == BASE + "rhel9/x86_64/"
    for host, key in (
        (Host("Debian", "12", "Debian"), "3bf863cc.pub"),
        (Host("Debian", "13", "Debian"), "8793F200.pub"),
        (Host("Ubuntu", "24.04", "Debian"), "3bf863cc.pub"),
        (Host("Rocky", "9", "RedHat"), "D42D0685.pub"),
    ):
        found = _driver_files.repository(BASE, host)
        assert found.key_url == found.url + key
        # A file is named by the end of its key's fingerprint.
        assert found.key_fingerprint.endswith(key.partition(".")[0].upper())


def test_components_come_from_the_hosts_own_mirrors_with_their_own_keys() -> None:
    archives = [
        Archive("http://mirror.example.com/debian/", "bookworm", "main", "/k.gpg"),
        Archive("http://mirror.example.com/debian/", "bookworm", "contrib", "/k.gpg"),
        Archive("http://mirror.example.com/debian/", "bookworm-updates", "main"),
    ]
    text = _driver_files.sources(archives, components=True, nvidia_url="")
    first, second = text.split("\n\n")
    assert "Suites: bookworm\nComponents: non-free non-free-firmware\nSigned-By: /k.gpg" in first
    assert second.endswith("Suites: bookworm-updates\nComponents: contrib non-free non-free-firmware\n")
    assert _driver_files.sources(archives, components=False, nvidia_url="") == ""


def test_nvidias_repository_is_signed_by_our_key_file() -> None:
    text = _driver_files.sources([], components=True, nvidia_url=BASE + "debian12/x86_64/")
    assert f"URIs: {BASE}debian12/x86_64/\nSuites: /\nSigned-By: {_driver_files.KEY}\n" in text
    assert "Components" not in text


def test_what_each_address_is_signed_with() -> None:
    found = _driver_files.signed_by(SOURCES)
    assert found["http://mirror.example.com/debian"] == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found["http://other.example.com/debian"] == found["http://mirror.example.com/debian"]
    assert found["http://inline.example.com/debian"].endswith("\n .\n xyz")
    listed = (
        "deb [arch=amd64 signed-by=/k.gpg] http://a.example.com/debian x main\ndeb http://b.example.com x y\n"
    )
    assert _driver_files.signed_by(listed) == {
        "http://a.example.com/debian": "/k.gpg",
        "http://b.example.com": "",
    }


def test_pins_hold_a_branch_or_a_build() -> None:
    choice = Choice("nvidia", 580, "open", precompiled=False)
    assert "Pin: version 580.*\nPin-Priority: 1001\n" in _driver_files.pins(choice, "")
    assert "Pin: version 580.178.04*\n" in _driver_files.pins(choice, "580.178.04")


def test_pins_leave_out_what_has_versions_of_its_own() -> None:
    text = _driver_files.pins(Choice("distribution", 580, "open", precompiled=True), "")
    names = text.partition("Package: ")[2].partition("\n")[0].split()
    for other in ("linux-modules-nvidia-580-server-open-generic", "nvlsm"):
        assert not any(fnmatch(other, name) for name in names)


def test_nouveau_and_unattended_upgrades_are_kept_away() -> None:
    assert "blacklist nouveau\n" in _driver_files.nouveau()
    text = _driver_files.unattended(Choice("nvidia", 580, "open", precompiled=False))
    assert 'Package-Blacklist {\n    "nvidia-";\n' in text
    assert not any(line.startswith("#") for line in text.splitlines()), "apt.conf has other comments"


@pytest.mark.parametrize("precompiled", [False, True])
def test_a_kernel_without_a_driver_does_not_come_unattended(precompiled: bool) -> None:
    text = _driver_files.unattended(Choice("distribution", 580, "open", precompiled))
    kept_away = [re.compile(name) for name in re.findall('"(.+)";', text)]
    kernels = ("linux-image-generic-hwe-24.04", "linux-image-6.14.0-37-generic")
    # unattended-upgrades matches its expressions at the beginning of a name.
    assert [any(name.match(kernel) for name in kept_away) for kernel in kernels] == [precompiled] * 2


def test_dnf_automatic_leaves_driver_and_toolkit_alone() -> None:
    repository = _driver_files.repository(BASE, Host("Rocky", "9", "RedHat"))
    _rest, patterns = _driver_files.yum_repository(repository).strip().split("excludepkgs=")

    def kept(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns.split())

    driver = ["kmod-nvidia-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced", "nvidia-fabricmanager"]
    assert all(kept(name) for name in [*driver, *PACKAGES])
    assert not kept("dkms")


def test_a_unit_that_keeps_persistence_mode_off_gets_it_on() -> None:
    program = "/usr/bin/nvidia-persistenced --user nvpd"
    text = _driver_files.persistence(f"[Service]\nExecStart={program} --no-persistence-mode --verbose\n")
    assert f"ExecStart=\nExecStart={program} --persistence-mode --verbose\n" in text
    assert _driver_files.persistence(f"[Service]\nExecStart={program}\n") == ""


def test_a_second_entry_for_nvidias_repository_is_found() -> None:
    texts = {
        _driver_files.SOURCES: f"URIs: {BASE}compute/cuda/repos/x\n",
        "/etc/apt/sources.list.d/cuda.list": "deb "
        "https://x.example.com/compute/cuda/repos/debian12/x86_64/ /\n",
        "/etc/apt/sources.list.d/off.list": "#deb "
        "https://x.example.com/compute/cuda/repos/debian12/x86_64/ /\n",
    }
    assert _driver_files.foreign_sources(texts) == ["/etc/apt/sources.list.d/cuda.list"]
