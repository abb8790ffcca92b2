"""``crewbus plugins``: what is loaded, what is not, and why."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from typing import Final

import attrs

import crewbus
from crewbus import Bus, PluginInfo
from crewbus.cli.errors import one_line
from crewbus.cli.terminal import Channel, columns
from crewbus.plugins.discovery import Origin

_STYLES: Final = {"plugin": ("bold",), "loaded": ("green",), "blocked": ("yellow",), "broken": ("red", "bold")}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "list the plugins: distribution, version, hooks; blocked and broken ones with the reason"
    parser = commands.add_parser("plugins", help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON array, and nothing else")
    parser.set_defaults(main=plugins)


def plugins(args: argparse.Namespace, bus: Bus) -> int:
    """List the plugins of ``bus``."""
    infos = [_with_origin(info, bus) for info in bus.plugins.infos()]
    out = Channel(sys.stdout)
    as_json = json.dumps([attrs.asdict(info) for info in infos], indent=2) + "\n"
    out.write(as_json if args.json else _table(infos, out))
    return 0


def _with_origin(info: PluginInfo, bus: Bus) -> PluginInfo:
    plugin = bus.plugins.get_plugin(info.name)
    module = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__module__
    if info.distribution is None and module.startswith("crewbus."):
        return attrs.evolve(info, distribution="crewbus", version=crewbus.__version__)
    return info


def _table(infos: list[PluginInfo], out: Channel) -> str:
    rows = [["plugin", "status", "distribution", "hooks, or the reason"]]
    for info in infos:
        origin = str(Origin(info.distribution, info.version)) or "-"
        what = info.reason if info.reason is not None else ", ".join(info.hooks)
        rows.append([one_line(info.name), info.status, origin, one_line(what)])
    return columns(out, rows, lambda heading, cell: _STYLES.get(cell if heading == "status" else heading, ()))
