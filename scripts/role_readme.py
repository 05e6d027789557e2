#!/usr/bin/env python3
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the README of every role from its argument specification and defaults, or check that it is current.

What is said of a role is said once, in meta/argument_specs.yml, where ansible-doc finds it too. A paragraph
of its description that begins with "Never" tells what the role never does, one with "To undo" how to get rid
of what it did; all others tell what it guarantees. The example is the specification's own.

    scripts/role_readme.py            write
    scripts/role_readme.py --check    change nothing; exit 1 and name what is not up to date
"""

from __future__ import annotations

import argparse
import re
import sys
import typing as t
from dataclasses import dataclass
from pathlib import Path

import jinja2
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).with_name("role_readme.md.j2")
# O(option), V(value), C(code), RV(return value), M(module), P(plugin#type), U(url), B(bold), I(italic)
MARKUP = re.compile(r"\b(O|V|C|RV|M|P|U|B|I|E)\(((?:[^\\)]|\\.)*)\)")


@dataclass(frozen=True)
class Variable:
    """One line of the table."""

    name: str
    type: str
    default: str
    description: str


def markdown(text: str) -> str:
    """Ansible's semantic markup as Markdown."""

    def replace(match: re.Match[str]) -> str:
        kind, content = match.group(1), re.sub(r"\\(.)", r"\1", match.group(2))
        if kind in ("O", "RV", "M", "P"):
            # voicefleet.cosyvoice.gpu_capacity#module:slots is a return value, x.y.z#role a role.
            content = content.rpartition(":")[2].partition("#")[0].removeprefix("voicefleet.cosyvoice.")
        return {"B": f"**{content}**", "I": f"*{content}*", "U": f"<{content}>"}.get(kind, f"`{content}`")

    return MARKUP.sub(replace, text)


def paragraphs(description: str | list[str] | None) -> list[str]:
    """A description as paragraphs of one line each."""
    texts = [description] if isinstance(description, str) else description or []
    return [markdown(" ".join(text.split())) for text in texts]


def cell(text: str) -> str:
    """Text that a cell of a table can hold."""
    return " ".join(text.split()).replace("|", r"\|")


def shown_default(spec: dict[str, t.Any], value: t.Any) -> str:
    """The default as one writes it in YAML; one that is worked out, or long, is not repeated."""
    if spec.get("required"):
        return "*required*"
    if isinstance(value, str) and "{{" in value:
        return "*worked out*"
    written = (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
        .split("\n...")[0]
        .strip()
    )
    return f"`{cell(written)}`" if len(written) <= 60 else "*see defaults/main.yml*"


def variables(
    options: dict[str, dict[str, t.Any]], defaults: dict[str, t.Any], place: str = ""
) -> t.Iterator[Variable]:
    """Every option in the order of the specification, each followed by what it is made of."""
    for name, spec in options.items():
        kind = spec.get("type", "str")
        if kind == "list" and "elements" in spec:
            kind = f"list of {spec['elements']}"
        text = " ".join(paragraphs(spec.get("description")))
        if spec.get("choices"):
            text += " One of " + ", ".join(f"`{choice}`" for choice in spec["choices"]) + "."
        value = defaults.get(name, spec.get("default")) if not place else spec.get("default")
        yield Variable(place + name, kind, shown_default(spec, value), cell(text))
        inner = f"{place}{name}{'[]' if spec.get('type') == 'list' else ''}."
        yield from variables(spec.get("options") or {}, {}, inner)


def readme(role: Path, template: jinja2.Template) -> str:
    """The text of a role's README."""
    entry_points = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))[
        "argument_specs"
    ]
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8")) or {}
    main = entry_points["main"]
    told = paragraphs(main.get("description"))
    never = [text for text in told if text.startswith("Never")]
    undo = [text for text in told if text.startswith("To undo")]
    return template.render(
        name=role.name,
        title=markdown(main["short_description"]),
        guarantees=[text for text in told if text not in never + undo],
        never=never,
        undo=undo,
        example=(main.get("examples") or "").strip(),
        variables=list(variables(main.get("options") or {}, defaults)),
        entry_points={
            name: markdown(entry["short_description"])
            for name, entry in entry_points.items()
            if name != "main"
        },
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the README of every role.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing, exit 1 if one is not up to date"
    )
    parser.add_argument("--roles", type=Path, default=ROOT / "roles", help="directory of the roles")
    options = parser.parse_args(arguments)
    # Markdown, not HTML: there is nothing to escape.
    environment = jinja2.Environment(  # noqa: S701
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    outdated = []
    for specification in sorted(options.roles.glob("*/meta/argument_specs.yml")):
        role = specification.parents[1]
        path, wanted = role / "README.md", readme(role, template)
        if path.is_file() and path.read_text(encoding="utf-8") == wanted:
            continue
        outdated.append(path)
        if not options.check:
            path.write_text(wanted, encoding="utf-8")
    for path in outdated:
        sys.stdout.write(
            f"{path}: {'not up to date, run scripts/role_readme.py' if options.check else 'written'}\n"
        )
    return 1 if options.check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
