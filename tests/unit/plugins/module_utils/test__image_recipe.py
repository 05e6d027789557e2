# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_recipe import (
    FOLDER,
    ROOTFS,
    WHEELS,
    Copy,
    RecipeError,
    files_to_copy,
    parse_recipe,
)

GOOD = """
# a comment
FROM base
COPY --from=wheels / /lib/
# a comment between
COPY one two \\
     /opt/
ENV A=1 \\
    B=2
cmd ["x"]
"""


def test_reads_what_makes_an_image() -> None:
    recipe = parse_recipe(GOOD, "here")
    assert recipe.parent == "base"
    assert recipe.copies == (Copy(WHEELS, ("/",), "/lib/"), Copy(FOLDER, ("one", "two"), "/opt/"))
    assert recipe.changes == ("ENV A=1 B=2", 'CMD ["x"]')
    assert recipe.uses(WHEELS)
    assert not recipe.uses(ROOTFS)


def test_scratch_is_no_parent() -> None:
    assert parse_recipe("FROM scratch", "here").parent is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "here: it has no FROM"),
        ("FROM scratch\nRUN make", "here, line 2: RUN is not possible"),
        ("FROM scratch\nADD x /x", "line 2: ADD is not possible"),
        ("CMD x\nFROM scratch", "line 1: an image has exactly one FROM"),
        ("FROM scratch\nFROM base", "line 2: an image has exactly one FROM"),
        ("FROM debian:12", "neither scratch nor the plain name"),
        ("FROM scratch\nCOPY /x", "at least one source"),
        ("FROM scratch\nCOPY", "at least one source"),
        ("FROM scratch\nCOPY x y", "'y' is not absolute"),
        ("FROM scratch\nCOPY ../x /y", "'..' leads out"),
        ("FROM scratch\nCOPY x /../y", "'..' leads out"),
        ("FROM scratch\nCOPY a b /y", "must end in '/'"),
        ("FROM scratch\nCOPY --from=Else:1 a /y", "only --from=rootfs, --from=wheels, and"),
        ("FROM scratch\nCOPY --chown=1 a /y", "only --from=rootfs, --from=wheels, and"),
    ],
)
def test_refuses_by_file_and_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe(text, "here")
    assert message in str(error.value)


def test_files_that_describe_an_image_are_not_in_it(tmp_path: Path) -> None:
    for name in (
        "Dockerfile", "Dockerfile.other", "requirements.txt", "requirements.in", ".hidden", "app.py",
        "sub/deep.py", "sub/__pycache__/deep.pyc", ".git/config",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = files_to_copy(parse_recipe("FROM scratch\nCOPY . /opt/", "here"), tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["app.py", "sub/deep.py"]


def test_a_pattern_copies_what_it_matches_and_must_match(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    (tmp_path / "b.txt").touch()
    assert files_to_copy(parse_recipe("FROM scratch\nCOPY *.py /opt/", "x"), tmp_path) == [tmp_path / "a.py"]
    with pytest.raises(RecipeError, match=r"COPY \*\.rs: there is no such file"):
        files_to_copy(parse_recipe("FROM scratch\nCOPY *.rs /opt/", "x"), tmp_path)
