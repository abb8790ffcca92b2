"""``-p`` and ``--require``: which plugins the command's bus loads, and which it needs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from crewbus.plugins.discovery import PLUGINS, blocked_by_environment, names_in

_OUT: Final = "no:"


@attrs.frozen
class PluginOptions:
    """What the command line says of plugins."""

    named: tuple[str, ...] = ()
    """Those to load."""
    left_out: tuple[str, ...] = ()
    """Those to leave out."""
    required: tuple[str, ...] = ()

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What they are as arguments of `crewbus.Bus`; what is named is required too."""
        wanted = {
            "plugins": self.named,
            "blocked": {
                **blocked_by_environment(self.named),
                **{name: f"left out by -p {_OUT}{name}" for name in self.left_out},
            },
            "requires": (*self.named, *self.required),
        }
        return {name: value for name, value in wanted.items() if value}

    def make_importable(self) -> None:
        """Have modules in the current directory be found, where any are to be loaded as plugins."""
        if (self.named or names_in(PLUGINS)) and sys.path[:1] != [os.fspath(Path.cwd())]:
            sys.path.insert(0, os.fspath(Path.cwd()))


def add_plugin_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    group = parser.add_argument_group("plugins")
    group.add_argument(
        "-p",
        metavar="NAME",
        dest="crewbus_plugins",
        action="append",
        type=_name,
        default=argparse.SUPPRESS,
        help="load this plugin, an installed one or a module; no:NAME leaves it out, a built-in one too (repeatable)",
    )
    group.add_argument(
        "--require",
        metavar="PLUGIN",
        dest="crewbus_required",
        action="append",
        default=argparse.SUPPRESS,
        help="fail at once unless it is loaded, in a version as in 'sqlite>=0.1' (repeatable)",
    )


def add_to_all(parsers: Iterable[argparse.ArgumentParser]) -> list[str]:
    """Add the options to each command's parser; returns what to say of those that have an option of such a name."""
    conflicts = []
    for parser in dict.fromkeys(parsers):
        try:
            add_plugin_options(parser)
        except argparse.ArgumentError:
            conflicts.append(
                f"'{parser.prog}' has a -p or --require of its own, which it never gets: both are crewbus's own, "
                "wherever they stand; the plugin should call its option otherwise"
            )
    return conflicts


def split(argv: Sequence[str], parser: argparse.ArgumentParser) -> tuple[PluginOptions, list[str]]:
    """The options, wherever they stand, and what is left; a plugin may bring the very command that is called.

    What is wrong with them is an error of ``parser``.
    """
    splitter = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    splitter.error = parser.error  # type: ignore[method-assign]
    add_plugin_options(splitter)
    found, rest = splitter.parse_known_args(argv)
    wanted: dict[str, bool] = {}
    for given in getattr(found, "crewbus_plugins", ()):  # of two that contradict each other the last holds
        wanted[given.removeprefix(_OUT)] = not given.startswith(_OUT)
    named = tuple(name for name, wants in wanted.items() if wants)
    left_out = tuple(name for name, wants in wanted.items() if not wants)
    return PluginOptions(named, left_out, tuple(getattr(found, "crewbus_required", ()))), rest


def _name(text: str) -> str:
    name = text.removeprefix(_OUT)
    if not name or not name.isprintable() or set(name) & set(" ,;<>=!~"):
        raise argparse.ArgumentTypeError(f"NAME is a plugin's name, module or module:attribute; got {text!r}")
    return text
