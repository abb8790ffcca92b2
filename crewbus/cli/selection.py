"""``-p`` and ``--require``: the plugins that the command's bus loads, and those that it requires."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from crewbus.plugins import PLUGINS, blocked_by_environment, names_in

_BLOCK_PREFIX: Final = "no:"


@attrs.frozen
class PluginSelection:
    """The plugins that the command line names."""

    loaded: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def bus_options(self) -> Mapping[str, Any]:
        """The arguments of `crewbus.Bus`. A plugin that ``-p`` loads is required as well."""
        options = {
            "plugins": self.loaded,
            "blocked": {
                **blocked_by_environment(self.loaded),
                **{name: f"blocked by -p {_BLOCK_PREFIX}{name}" for name in self.blocked},
            },
            "requires": (*self.loaded, *self.required),
        }
        return {name: value for name, value in options.items() if value}

    def make_importable(self) -> None:
        """Make modules of the current directory importable, if any plugin is loaded by name."""
        if (self.loaded or names_in(PLUGINS)) and sys.path[:1] != [os.fspath(Path.cwd())]:
            sys.path.insert(0, os.fspath(Path.cwd()))


def add_plugin_options(parser: argparse.ArgumentParser) -> None:
    """Add ``-p`` and ``--require`` to a parser."""
    group = parser.add_argument_group("plugins")
    group.add_argument(
        "-p",
        metavar="NAME",
        dest="crewbus_plugins",
        action="append",
        type=_plugin_name,
        default=argparse.SUPPRESS,
        help="load a plugin, by its name if it is installed, or else by its module; no:NAME blocks a plugin, "
        "built-in ones included (repeatable)",
    )
    group.add_argument(
        "--require",
        metavar="PLUGIN",
        dest="crewbus_required",
        action="append",
        default=argparse.SUPPRESS,
        help="fail unless the plugin is loaded, in a version if one is given: 'sqlite>=0.1' (repeatable)",
    )


def split_plugin_options(argv: Sequence[str], parser: argparse.ArgumentParser) -> tuple[PluginSelection, list[str]]:
    """Separate these options, which may stand anywhere, from the other arguments.

    They are parsed before the command is known, since a plugin may add the command. ``parser`` reports errors.
    """
    splitter = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    splitter.error = parser.error  # type: ignore[method-assign]
    add_plugin_options(splitter)
    options, rest = splitter.parse_known_args(argv)
    wanted: dict[str, bool] = {}
    for text in getattr(options, "crewbus_plugins", ()):  # the last one wins
        wanted[text.removeprefix(_BLOCK_PREFIX)] = not text.startswith(_BLOCK_PREFIX)
    loaded = tuple(name for name, load in wanted.items() if load)
    blocked = tuple(name for name, load in wanted.items() if not load)
    return PluginSelection(loaded, blocked, tuple(getattr(options, "crewbus_required", ()))), rest


def _plugin_name(text: str) -> str:
    name = text.removeprefix(_BLOCK_PREFIX)
    if not name or not name.isprintable() or set(name) & set(" ,;<>=!~"):
        raise argparse.ArgumentTypeError(f"NAME is a plugin's name, module or module:attribute; got {text!r}")
    return text
