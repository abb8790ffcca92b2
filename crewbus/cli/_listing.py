"""``crewbus plugins`` and ``crewbus hooks``: what is loaded, and what it takes part in."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Final

import attrs
import pluggy

import crewbus
from crewbus import Bus, PluginInfo, hookspecs
from crewbus.cli._faults import one_line
from crewbus.cli._terminal import Channel, columns

_STYLES: Final = {"plugin": ("bold",), "loaded": ("green",), "blocked": ("yellow",), "broken": ("red", "bold")}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    for name, main, text in [
        ("plugins", plugins, "list the plugins: distribution, version, hooks; blocked and broken ones with the reason"),
        ("hooks", hooks, "list the hooks, and which plugins implement them, in the order in which they are called"),
    ]:
        parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        parser.add_argument("--json", action="store_true", help="print one JSON array, and nothing else")
        parser.set_defaults(main=main)


# Plugins


def plugins(args: argparse.Namespace, bus: Bus) -> int:
    """List the plugins of ``bus``."""
    infos = [_with_origin(info, bus) for info in bus.plugins.infos()]
    out = Channel(sys.stdout)
    out.write(_as_json(infos) if args.json else _table(infos, out))
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
        origin = " ".join(part for part in (info.distribution, info.version) if part) or "-"
        what = info.reason if info.reason is not None else ", ".join(info.hooks)
        rows.append([info.name, info.status, origin, one_line(what)])
    return columns(out, rows, lambda heading, cell: _STYLES.get(cell if heading == "status" else heading, ()))


# Hooks


@attrs.frozen
class HookInfo:
    """A hook, and who takes part in it."""

    name: str
    arguments: tuple[str, ...]
    firstresult: bool
    doc: str
    """The first line of what its hookspec says."""
    implementations: tuple[str, ...]
    """The plugins' names, in the order in which they are called."""
    wrappers: tuple[str, ...]
    """Those of them that wrap the others."""


def hooks(args: argparse.Namespace, bus: Bus) -> int:
    """List the hooks of ``bus``."""
    infos = list(hook_infos(bus))
    out = Channel(sys.stdout)
    out.write(_as_json(infos) if args.json else "\n".join(_paragraph(info, out) for info in infos))
    return 0


def hook_infos(bus: Bus) -> Iterator[HookInfo]:
    """The hooks of ``bus``: its own in the order of ``hookspecs.py``, then those that plugins brought."""
    callers = {name: caller for name, caller in vars(bus.plugins.hook).items() if not name.startswith("_")}
    own = [name for name in vars(hookspecs) if name in callers]
    for name in dict.fromkeys((*own, *callers)):
        yield _hook_info(callers[name])


def _hook_info(caller: pluggy.HookCaller) -> HookInfo:
    spec = caller.spec
    called = list(reversed(caller.get_hookimpls()))
    return HookInfo(
        caller.name,
        (*spec.argnames, *spec.kwargnames) if spec is not None else (),
        bool(spec is not None and spec.opts.get("firstresult")),
        ((spec.function.__doc__ if spec is not None else None) or "").strip().partition("\n")[0],
        tuple(impl.plugin_name for impl in called),
        tuple(impl.plugin_name for impl in called if impl.wrapper or impl.hookwrapper),
    )


def _paragraph(info: HookInfo, out: Channel) -> str:
    heading = f"{out.paint(info.name, 'bold')}({', '.join(info.arguments)})"
    names = [f"{name} (wrapper)" if name in info.wrappers else name for name in info.implementations]
    who = f"implemented by {', '.join(names)}" if names else out.paint("implemented by nobody", "dim")
    firstresult = out.paint("  firstresult", "yellow") if info.firstresult else ""
    lines = [f"{heading}{firstresult}", info.doc, who]
    return "\n    ".join(line for line in lines if line) + "\n"


def _as_json(infos: Iterable[PluginInfo | HookInfo]) -> str:
    return json.dumps([attrs.asdict(info) for info in infos], indent=2) + "\n"
