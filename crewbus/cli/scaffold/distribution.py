"""A new plugin's distribution: which files it has, and what is in them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from textwrap import indent
from typing import Final

import attrs

import crewbus
from crewbus.cli.scaffold.fragments import Fragment, collected, filled, merged

_FILES: Final = {
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
"""The files of every distribution, and the templates that they are made from."""
_STORE_FILES: Final = {"$module/_store.py": "store.py", "tests/test_store.py": "test_store.py"}


@attrs.frozen
class Distribution:
    """A plugin's distribution, as it is asked for."""

    name: str
    """As in ``crewbus-NAME``, normalised."""
    hooks: tuple[str, ...]
    """The hooks that it implements, without ``crewbus_``."""
    author: str
    scheme: str
    """Of its store's URLs, where it has a store."""

    @property
    def project(self) -> str:
        """What it is called where packages are published, and its folder."""
        return f"crewbus-{self.name}"

    def files(self) -> dict[str, str]:
        """The text of each file, by its path in the folder."""
        values = self._values()
        fragments = [Fragment.of(kind, values) for kind in self.hooks]
        values |= _metadata(fragments) | _exports(fragments, values)
        code = {"plugin.py": _plugin(fragments, values), "test_plugin.py": _tests(fragments, values)}
        templates = _FILES | (_STORE_FILES if "open_store" in self.hooks else {})
        texts = {
            path.replace("$module", values["module"]): filled(f"project/{name}", values | code.get(name, {}))
            for path, name in templates.items()
        }
        return {**texts, f"{values['module']}/py.typed": ""}

    def _values(self) -> dict[str, str]:
        plugin = self.name.replace("-", "_")
        cls = "".join(part.capitalize() for part in self.name.split("-"))
        return {
            "author": self.author,
            "cls": f"Crewbus{cls}" if cls.startswith("Test") else cls,  # pytest takes Test… for a class of tests
            "module": f"crewbus_{plugin}",
            "name": self.name,
            "plugin": plugin,
            "scheme": self.scheme,
            "setting": f"CREWBUS_{plugin.upper()}_MODE",  # CREWBUS_STORE is crewbus's, whoever calls a plugin "store"
            "year": str(dt.datetime.now(dt.UTC).year),
        }


def _metadata(fragments: list[Fragment]) -> dict[str, str]:
    about = {f"crewbus_{fragment.kind}": fragment.sections["about"] for fragment in fragments}
    requires = {f"crewbus>={crewbus.__version__}", *collected(fragments, "requires")}
    return {
        "added": "\n".join(f"- `{hook}`: {text}." for hook, text in about.items()),
        "implemented": "\n".join(sorted(about)),
        "requires": "\n    ".join(sorted(requires)),
        "system": "".join(collected(fragments, "system")) or "OS Independent",
        "table": "\n".join(f"| `{hook}` | {text} |" for hook, text in about.items()),
    }


def _exports(fragments: list[Fragment], values: Mapping[str, str]) -> dict[str, str]:
    imports = [f"from {values['module']}._plugin import {values['cls']}Plugin", *collected(fragments, "exports")]
    names = sorted(line.rpartition(" ")[2] for line in imports)
    return {"exporting": merged(imports, values["module"]), "exports": ", ".join(f'"{name}"' for name in names)}


def _plugin(fragments: list[Fragment], values: Mapping[str, str]) -> dict[str, str]:
    imports = merged(["import crewbus", *collected(fragments, "imports")], values["module"])
    states = "\n".join(collected(fragments, "state"))
    methods = [f"def __init__(self) -> None:\n{indent(states, '    ')}"] if states else []
    methods += collected(fragments, "hook")
    return {
        "head": _head(imports, collected(fragments, "constants"), collected(fragments, "definitions")),
        "body": "".join(f"\n{indent(method, '    ')}\n" for method in methods).rstrip(),
    }


def _tests(fragments: list[Fragment], values: Mapping[str, str]) -> dict[str, str]:
    always = ["import pytest", f"from {values['module']} import {values['cls']}Plugin"]
    imports = merged([*always, *collected(fragments, "test imports")], values["module"])
    return {
        "head": _head(imports, collected(fragments, "test constants"), collected(fragments, "test definitions")),
        "tests": _apart(*collected(fragments, "test")),
    }


def _head(imports: str, constants: list[str], definitions: list[str]) -> str:
    return _apart("\n".join([f"{imports}\n", *constants]), *definitions)


def _apart(*blocks: str) -> str:
    return "\n\n\n".join(block.strip() for block in blocks)
