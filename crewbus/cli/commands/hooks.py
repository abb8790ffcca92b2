"""``crewbus hooks``: what each hook is for, and who implements it, in the order of calls."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Final

import attrs
import pluggy

from crewbus import Bus, hookspecs
from crewbus._util.suggest import did_you_mean
from crewbus.cli.errors import harmless, one_line
from crewbus.cli.terminal import Channel, columns
from crewbus.exceptions import InputError
from crewbus.plugins.discovery import Origin
from crewbus.plugins.isolation import CONTAINED

_PREFIX: Final = "crewbus_"
_INDENT: Final = "    "


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "hooks",
        help="list the hooks, and which plugins implement them, in the order in which they are called",
        description="List the hooks, and which plugins implement them, in the order in which they are called; "
        "of one hook, all that there is to know.",
        allow_abbrev=False,
    )
    parser.add_argument("hook", metavar="HOOK", nargs="?", help="a hook's name, with crewbus_ or without")
    parser.add_argument("--json", action="store_true", help="print one JSON array, and nothing else")
    parser.set_defaults(main=main)


@attrs.frozen
class Implementation:
    """One plugin's part in a hook."""

    plugin: str
    distribution: str | None
    version: str | None
    manner: tuple[str, ...]
    """Which of "wrapper", "tryfirst" and "trylast" it is."""

    @property
    def origin(self) -> str:
        """Name and version of the distribution, where one brings it."""
        return str(Origin(self.distribution, self.version))


@attrs.frozen
class HookInfo:
    """A hook, and who takes part in it."""

    name: str
    arguments: tuple[str, ...]
    firstresult: bool
    doc: str
    """What its hookspec says: of a list of hooks, the first line."""
    implementations: tuple[str, ...]
    """The plugins' names, in the order in which they are called."""
    details: tuple[Implementation, ...]
    """More about each of them."""


def main(args: argparse.Namespace, bus: Bus) -> int:
    """List the hooks of ``bus``, or show one."""
    out = Channel(sys.stdout)
    infos = list(hook_infos(bus))
    if args.hook is not None:
        infos = [_find(args.hook, infos)]
    else:
        infos = [attrs.evolve(info, doc=info.doc.partition("\n")[0]) for info in infos]
    if args.json:
        out.write(json.dumps([attrs.asdict(info) for info in infos], indent=2) + "\n")
    else:
        out.write(_page(infos[0], out) if args.hook else "\n".join(_paragraph(info, out) for info in infos))
    return 0


def hook_infos(bus: Bus) -> Iterator[HookInfo]:
    """The hooks of ``bus``: its own in the order of ``hookspecs.py``, then those that plugins brought."""
    callers = {name: caller for name, caller in vars(bus.plugins.hook).items() if not name.startswith("_")}
    own = [name for name in vars(hookspecs) if name in callers]
    origins = {info.name: (info.distribution, info.version) for info in bus.plugins.infos() if info.status == "loaded"}
    for name in dict.fromkeys((*own, *callers)):
        if callers[name].has_spec() or callers[name].get_hookimpls():  # others were left by a plugin that is gone
            yield _hook_info(callers[name], origins)


def _hook_info(caller: pluggy.HookCaller, origins: dict[str, tuple[str | None, str | None]]) -> HookInfo:
    spec = caller.spec
    called = [
        Implementation(impl.plugin_name, *origins.get(impl.plugin_name, (None, None)), tuple(_manner(impl)))
        for impl in reversed(caller.get_hookimpls())
    ]
    return HookInfo(
        caller.name,
        (*spec.argnames, *spec.kwargnames) if spec is not None else (),
        bool(spec is not None and spec.opts.get("firstresult")),
        (inspect.getdoc(spec.function) if spec is not None else None) or "",
        tuple(impl.plugin for impl in called),
        tuple(called),
    )


def _manner(impl: pluggy.HookImpl) -> Iterator[str]:
    if impl.wrapper or impl.hookwrapper:
        yield "wrapper"
    yield from (name for name in ("tryfirst", "trylast") if getattr(impl, name))


def _find(name: str, infos: list[HookInfo]) -> HookInfo:
    """The hook of that name; raises `InputError` that says which may be meant."""
    by_name = {info.name: info for info in infos}
    whole = name if name in by_name or name.startswith(_PREFIX) else f"{_PREFIX}{name}"
    if whole not in by_name:
        raise InputError(f"there is no hook {whole!r}{did_you_mean(whole, by_name)}")
    return by_name[whole]


def _heading(info: HookInfo, out: Channel) -> str:
    firstresult = out.paint("  firstresult", "yellow") if info.firstresult else ""
    return f"{out.paint(info.name, 'bold')}({', '.join(info.arguments)}){firstresult}"


def _paragraph(info: HookInfo, out: Channel) -> str:
    names = [_named(impl) for impl in info.details]
    who = f"implemented by {', '.join(names)}" if names else out.paint("implemented by nobody", "dim")
    return f"\n{_INDENT}".join(line for line in (_heading(info, out), info.doc, who) if line) + "\n"


def _named(impl: Implementation) -> str:
    more = ", ".join(part for part in (impl.origin, *impl.manner) if part)
    return one_line(f"{impl.plugin} ({more})" if more else impl.plugin)


def _page(info: HookInfo, out: Channel) -> str:
    rules = [
        "The first answer other than None is the hook's result; the others are not called." if info.firstresult else "",
        "An exception is contained, and reported by the plugin's name." if info.name in CONTAINED else "",
    ]
    told = [info.doc or "No hookspec is known of it.", "\n".join(rule for rule in rules if rule)]
    rows = [["plugin", "distribution", ""]]
    rows += [[one_line(impl.plugin), one_line(impl.origin) or "-", ", ".join(impl.manner)] for impl in info.details]
    who = columns(out, rows, lambda *_: ()) if info.details else "implemented by nobody\n"
    text = "\n\n".join(harmless(part) for part in told if part)
    return f"{_heading(info, out)}\n{textwrap.indent(text, _INDENT)}\n\n{textwrap.indent(who, _INDENT)}"
