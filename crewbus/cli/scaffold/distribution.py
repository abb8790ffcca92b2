"""The distribution of a new plugin: its files and their contents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from textwrap import indent
from typing import Final

import attrs

import crewbus
from crewbus.cli.scaffold.fragments import Fragment, collect, merge_imports, render

FILES: Final = {
    ".github/dependabot.yml": "dependabot.yml",
    ".github/workflows/test.yml": "workflow.yml",
    ".gitignore": "gitignore",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE",
    "README.md": "README.md",
    "$module/__init__.py": "init.py",
    "$module/_plugin.py": "plugin.py",
    "pyproject.toml": "pyproject.toml",
    "setup.cfg": "setup.cfg",
    "tests/test_docs.py": "test_docs.py",
    "tests/test_installed.py": "test_installed.py",
    "tests/test_plugin.py": "test_plugin.py",
    "tox.ini": "tox.ini",
}
"""The files of every distribution, and their templates."""
STORE_FILES: Final = {"$module/_store.py": "store.py", "tests/test_store.py": "test_store.py"}
"""The additional files of a plugin with a store."""


@attrs.frozen
class Distribution:
    """The distribution of a plugin."""

    name: str
    """The normalised name, without ``crewbus-``."""
    hooks: tuple[str, ...]
    """The hooks that the plugin implements, without ``crewbus_``."""
    author: str
    scheme: str
    """The scheme of its store's URLs, if it has a store."""

    @property
    def project(self) -> str:
        """The name of the distribution and of its directory."""
        return f"crewbus-{self.name}"

    def files(self) -> dict[str, str]:
        """The text of each file, by its path in the directory."""
        values = self._values()
        fragments = [Fragment.of(kind, values) for kind in self.hooks]
        values |= _metadata(fragments) | _exports(fragments, values)
        code = {"plugin.py": _plugin(fragments, values), "test_plugin.py": _tests(fragments, values)}
        templates = FILES | (STORE_FILES if "open_store" in self.hooks else {})
        texts = {
            path.replace("$module", values["module"]): render(f"project/{name}", values | code.get(name, {}))
            for path, name in templates.items()
        }
        return {**texts, f"{values['module']}/py.typed": ""}

    def _values(self) -> dict[str, str]:
        plugin = self.name.replace("-", "_")
        cls = "".join(part.capitalize() for part in self.name.split("-"))
        return {
            "author": self.author,
            "cls": f"Crewbus{cls}" if cls.startswith("Test") else cls,  # pytest collects classes named Test…
            "module": f"crewbus_{plugin}",
            "name": self.name,
            "plugin": plugin,
            "scheme": self.scheme,
            "setting": f"CREWBUS_{plugin.upper()}_MODE",  # CREWBUS_STORE would be crewbus's own
            "year": str(dt.datetime.now(dt.UTC).year),
        }


def _metadata(fragments: list[Fragment]) -> dict[str, str]:
    about = {f"crewbus_{fragment.kind}": fragment.sections["about"] for fragment in fragments}
    requires = {f"crewbus>={crewbus.__version__}", *collect(fragments, "requires")}
    return {
        "added": "\n".join(f"- `{hook}`: {text}." for hook, text in about.items()),
        "implemented": "\n".join(sorted(about)),
        "requires": "\n    ".join(sorted(requires)),
        "system": "".join(collect(fragments, "system")) or "OS Independent",
        "table": "\n".join(f"| `{hook}` | {text} |" for hook, text in about.items()),
    }


def _exports(fragments: list[Fragment], values: Mapping[str, str]) -> dict[str, str]:
    imports = [f"from {values['module']}._plugin import {values['cls']}Plugin", *collect(fragments, "exports")]
    names = sorted(line.rpartition(" ")[2] for line in imports)
    return {"exporting": merge_imports(imports, values["module"]), "exports": ", ".join(f'"{name}"' for name in names)}


def _plugin(fragments: list[Fragment], values: Mapping[str, str]) -> dict[str, str]:
    imports = merge_imports(["import crewbus", *collect(fragments, "imports")], values["module"])
    states = "\n".join(collect(fragments, "state"))
    methods = [f"def __init__(self) -> None:\n{indent(states, '    ')}"] if states else []
    methods += collect(fragments, "hook")
    return {
        "head": _head(imports, collect(fragments, "constants"), collect(fragments, "definitions")),
        "body": "".join(f"\n{indent(method, '    ')}\n" for method in methods).rstrip(),
    }


def _tests(fragments: list[Fragment], values: Mapping[str, str]) -> dict[str, str]:
    base = ["import pytest", f"from {values['module']} import {values['cls']}Plugin"]
    imports = merge_imports([*base, *collect(fragments, "test imports")], values["module"])
    return {
        "head": _head(imports, collect(fragments, "test constants"), collect(fragments, "test definitions")),
        "tests": _blocks(*collect(fragments, "test")),
    }


def _head(imports: str, constants: list[str], definitions: list[str]) -> str:
    return _blocks("\n".join([f"{imports}\n", *constants]), *definitions)


def _blocks(*blocks: str) -> str:
    return "\n\n\n".join(block.strip() for block in blocks)
