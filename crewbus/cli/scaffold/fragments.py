"""Templates: the parts that a hook adds to a new plugin, and the imports of all parts as one block."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Final

import attrs

_TEMPLATES: Final = Path(__file__).with_name("templates")
WIDTH: Final = 120
"""How long a line of a new plugin's code may be."""
_HEADING: Final = re.compile(r"^\[([a-z ]+)\]\n", re.MULTILINE)


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template of that name, with its ``$names`` replaced."""
    return Template((_TEMPLATES / f"{template}.tmpl").read_text("utf-8")).substitute(values)


@attrs.frozen
class Fragment:
    """What one hook adds: its sections, by their headings. ``about`` says in a few words what the hookimpl does."""

    kind: str
    sections: Mapping[str, str]

    @classmethod
    def of(cls, kind: str, values: Mapping[str, str]) -> Fragment:
        """That of the hook ``crewbus_KIND``."""
        _, *parts = _HEADING.split(filled(f"hooks/{kind}", values))
        return cls(kind, {heading: text.strip() for heading, text in zip(parts[::2], parts[1::2], strict=True)})


def collected(fragments: Iterable[Fragment], section: str) -> list[str]:
    """A section of each fragment that has it, each text once."""
    return list(dict.fromkeys(f.sections[section] for f in fragments if section in f.sections))


def merged(imports: Iterable[str], own: str) -> str:
    """Import statements as one block, sorted as ruff does: the standard library's, others', the package ``own``'s."""
    named: dict[tuple[int, bool, str], set[str]] = {}
    for node in ast.parse("\n".join(imports)).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            place = (_rank(node.module, own), True, node.module)
            named.setdefault(place, set()).update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            named.update({(_rank(alias.name, own), False, alias.name): set() for alias in node.names})
    groups: dict[int, list[str]] = {}
    for (rank, _, module), names in sorted(named.items()):
        groups.setdefault(rank, []).append(_import(module, sorted(names)))
    return "\n\n".join("\n".join(lines) for lines in groups.values())


def _import(module: str, names: list[str]) -> str:
    if not names:
        return f"import {module}"
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def _rank(module: str, own: str) -> int:
    package = module.partition(".")[0]
    return 0 if package in sys.stdlib_module_names else 2 if package == own else 1
