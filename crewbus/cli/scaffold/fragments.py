"""Templates, and the fragments of code that each hook adds to a new plugin."""

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
_MAX_LINE: Final = 120
_HEADING: Final = re.compile(r"^\[([a-z ]+)\]\n", re.MULTILINE)


def render(template: str, values: Mapping[str, str]) -> str:
    """A template with its ``$names`` replaced."""
    return Template((_TEMPLATES / f"{template}.tmpl").read_text("utf-8")).substitute(values)


@attrs.frozen
class Fragment:
    """What one hook adds: sections by heading. The section ``about`` describes the hookimpl in a few words."""

    kind: str
    sections: Mapping[str, str]

    @classmethod
    def of(cls, kind: str, values: Mapping[str, str]) -> Fragment:
        """The fragment of the hook ``crewbus_KIND``."""
        _, *parts = _HEADING.split(render(f"hooks/{kind}", values))
        return cls(kind, {heading: text.strip() for heading, text in zip(parts[::2], parts[1::2], strict=True)})


def collect(fragments: Iterable[Fragment], section: str) -> list[str]:
    """A section of all fragments that have it, without duplicates."""
    return list(dict.fromkeys(f.sections[section] for f in fragments if section in f.sections))


def merge_imports(imports: Iterable[str], own: str) -> str:
    """Import statements as one block, sorted as ruff does: standard library, third parties, the package ``own``."""
    names_by_module: dict[tuple[int, bool, str], set[str]] = {}
    for node in ast.parse("\n".join(imports)).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            key = (_rank(node.module, own), True, node.module)
            names_by_module.setdefault(key, set()).update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            names_by_module.update({(_rank(alias.name, own), False, alias.name): set() for alias in node.names})
    groups: dict[int, list[str]] = {}
    for (rank, _, module), names in sorted(names_by_module.items()):
        groups.setdefault(rank, []).append(_import_statement(module, sorted(names)))
    return "\n\n".join("\n".join(lines) for lines in groups.values())


def _import_statement(module: str, names: list[str]) -> str:
    if not names:
        return f"import {module}"
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _MAX_LINE:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def _rank(module: str, own: str) -> int:
    package = module.partition(".")[0]
    return 0 if package in sys.stdlib_module_names else 2 if package == own else 1
