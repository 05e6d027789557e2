# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for what the image of CosyVoice3 is built from.

Torch is two gigabytes, and neither upstream's code nor a Python that runs anywhere is to be had here. Instead
there is a copy of the host's Python, an index with small packages of the right names, archives
of tests/support/cosyvoice, and a bare package matcha.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import struct
import subprocess
import tarfile
import wave
import zipfile
from pathlib import Path

import pip

SUPPORT = Path(__file__).parent
# Its library is part of it, which a Python that was built on the machine may have elsewhere.
PYTHON = "/usr/bin/python3"
UNWANTED = ("test", "idlelib", "tkinter", "ensurepip", "__pycache__", "EXTERNALLY-MANAGED")
TORCH = '"""A stand-in for torch, and no more."""\n__version__ = "2.3.1"\n'
# Built from source as pyworld is: C++, with the headers of the Python that it is for.
WORLD = {
    "setup.py": (
        "import numpy, setuptools\n"
        'module = setuptools.Extension("stand_in_world", ["world.cpp"], language="c++")\n'
        'setuptools.setup(name="stand-in-world", version="0.3.4", ext_modules=[module])\n'
    ),
    "world.cpp": (
        "#include <Python.h>\n"
        'static PyModuleDef about = {PyModuleDef_HEAD_INIT, "stand_in_world"};\n'
        "PyMODINIT_FUNC PyInit_stand_in_world() { return PyModule_Create(&about); }\n"
    ),
}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _pack(file: Path, top: str, folders: dict[str, Path], texts: dict[str, str] | None = None) -> Path:
    """An archive with one directory, as forges make them of a commit."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in member.name else member

    with tarfile.open(file, "w:gz", compresslevel=1) as stream:
        for name, folder in folders.items():
            stream.add(folder, f"{top}/{name}", filter=plain)
        for name, text in (texts or {}).items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(text.encode())
            stream.addfile(member, io.BytesIO(text.encode()))
    return file


def python(folder: Path) -> Path:
    """The host's Python, with pip, laid out as those that run anywhere are."""
    tell = "import json, sys, sysconfig as s; print(json.dumps([sys.version_info[:2], s.get_paths()]))"
    version, paths = json.loads(subprocess.run([PYTHON, "-c", tell], check=True, capture_output=True).stdout)
    name = f"python{version[0]}.{version[1]}"
    parts = [part for part in Path(paths["stdlib"]).iterdir() if part.name not in UNWANTED]
    link = folder / "python3"
    link.symlink_to(name)
    return _pack(
        folder / "python.tar.gz",
        "python",
        {
            **{f"lib/{name}/{part.name}": part for part in parts},
            f"bin/{name}": Path(PYTHON).resolve(),
            "bin/python3": link,
            f"include/{name}": Path(paths["include"]),
            # Debian's looks there for packages.
            "lib/python3/dist-packages/pip": Path(pip.__file__).parent,
        },
    )


def upstream(folder: Path) -> Path:
    return _pack(
        folder / "CosyVoice.tar.gz",
        "CosyVoice-stand-in",
        {"cosyvoice": SUPPORT / "cosyvoice"},
        {"LICENSE": "a stand-in\n"},
    )


def matcha(folder: Path) -> Path:
    texts = {"LICENSE": "a stand-in\n", "matcha/__init__.py": '"""A stand-in."""\n'}
    return _pack(folder / "Matcha-TTS.tar.gz", "Matcha-TTS-stand-in", {}, texts)


def torch_index(folder: Path) -> tuple[str, str]:
    """An index with stand-ins for torch (a wheel) and pyworld (source only): address, locked lines."""
    wheel = folder / "torch/torch-2.3.1-py3-none-any.whl"
    source = folder / "stand-in-world/stand_in_world-0.3.4.tar.gz"
    for file in (wheel, source):
        file.parent.mkdir(parents=True)
    texts = {
        "torch/__init__.py": TORCH,
        "torch-2.3.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 2.3.1\n",
        "torch-2.3.1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={_record(text)},{len(text)}\n" for name, text in texts.items()]
    texts["torch-2.3.1.dist-info/RECORD"] = "".join([*record, "torch-2.3.1.dist-info/RECORD,,\n"])
    with zipfile.ZipFile(wheel, "w") as stream:
        for name, text in texts.items():
            stream.writestr(name, text)
    about = "Metadata-Version: 2.1\nName: stand-in-world\nVersion: 0.3.4\n"
    _pack(source, "stand_in_world-0.3.4", {}, {**WORLD, "PKG-INFO": about})
    for file in (wheel, source):
        # With the hash pip passes over the torch of other indexes.
        link = f'<a href="{file.name}#sha256={sha256(file)}">{file.name}</a>'
        (file.parent / "index.html").write_text(link)
    lock = (
        f"torch==2.3.1 --hash=sha256:{sha256(wheel)}\nstand-in-world==0.3.4 --hash=sha256:{sha256(source)}\n"
    )
    return folder.as_uri(), lock


def _record(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def tone() -> bytes:
    """Four seconds that a recording is checked for."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        samples = (int(13000 * math.sin(2 * math.pi * 200 * at / 24000)) for at in range(4 * 24000))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return out.getvalue()
