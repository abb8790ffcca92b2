"""``crewbus plugins``: list the plugins, and why some are not loaded."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from typing import TYPE_CHECKING, Final

import attrs

import crewbus
from crewbus import Bus, PluginInfo
from crewbus._util import one_line
from crewbus.cli.record_arguments import add_json_argument
from crewbus.cli.table import format_table
from crewbus.cli.terminal import OutputStream
from crewbus.plugins import Origin

if TYPE_CHECKING:
    from crewbus.plugins import Commands

_STYLES: Final = {"plugin": ("bold",), "loaded": ("green",), "blocked": ("yellow",), "broken": ("red", "bold")}


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "plugins",
        main,
        help="list the plugins: distribution, version and hooks, or why a plugin is blocked or broken",
        configure=lambda parser: add_json_argument(parser, "one JSON array"),
    )


def main(args: argparse.Namespace, bus: Bus) -> int:
    """List the plugins of ``bus``."""
    infos = [_with_origin(info, bus) for info in bus.plugins.infos()]
    out = OutputStream(sys.stdout)
    if args.json:
        out.write(json.dumps([attrs.asdict(info) for info in infos], indent=2) + "\n")
    else:
        out.write(_table(infos, out))
    return 0


def _with_origin(info: PluginInfo, bus: Bus) -> PluginInfo:
    """The info, with crewbus as the distribution of built-in plugins."""
    plugin = bus.plugins.get_plugin(info.name)
    module = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__module__
    if info.distribution is None and module.startswith("crewbus."):
        return attrs.evolve(info, distribution="crewbus", version=crewbus.__version__)
    return info


def _table(infos: list[PluginInfo], out: OutputStream) -> str:
    rows = [["plugin", "status", "distribution", "hooks, or the reason"]]
    for info in infos:
        origin = str(Origin(info.distribution, info.version)) or "-"
        details = info.reason if info.reason is not None else ", ".join(info.hooks)
        rows.append([one_line(info.name), info.status, origin, one_line(details)])
    return format_table(out, rows, _style)


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return _STYLES.get(cell if heading == "status" else heading, ())
