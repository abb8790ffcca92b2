"""``crewbus hooks``: list the hooks and the plugins that implement them."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import attrs
import pluggy

from crewbus import Bus, hookspecs
from crewbus._util import did_you_mean, escape_control, one_line
from crewbus.cli.formatting import paragraph
from crewbus.cli.record_arguments import add_json_argument
from crewbus.cli.table import format_table
from crewbus.cli.terminal import OutputStream
from crewbus.exceptions import InputError
from crewbus.plugins import CONTAINED, Origin

if TYPE_CHECKING:
    from crewbus.plugins import Commands

_PREFIX: Final = "crewbus_"
_INDENT: Final = "    "
_NOT_IMPLEMENTED: Final = "not implemented"


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "hooks",
        main,
        help="list the hooks, and the plugins that implement them, in the order of calls",
        description=paragraph(
            "List the hooks, and the plugins that implement them, in the order in which these are called.",
            "Of a single hook, show the whole documentation.",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hook", metavar="HOOK", nargs="?", help="the name of a hook, with or without crewbus_")
    add_json_argument(parser, "one JSON array")


@attrs.frozen
class Implementation:
    """A plugin's implementation of a hook."""

    plugin: str
    distribution: str | None
    version: str | None
    manner: tuple[str, ...]
    """Which of "wrapper", "tryfirst" and "trylast" it is."""

    @property
    def origin(self) -> str:
        """The distribution's name and version, or an empty string."""
        return str(Origin(self.distribution, self.version))


@attrs.frozen
class HookInfo:
    """A hook and its implementations."""

    name: str
    arguments: tuple[str, ...]
    firstresult: bool
    doc: str
    """The documentation of its hookspec; only the first line if all hooks are listed."""
    implementations: tuple[str, ...]
    """The plugins' names, in the order of calls."""
    details: tuple[Implementation, ...]
    """The same, with details."""


def main(args: argparse.Namespace, bus: Bus) -> int:
    """List the hooks of ``bus``, or show one."""
    out = OutputStream(sys.stdout)
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
    """The hooks of ``bus``: crewbus's own in the order of ``hookspecs.py``, then those of plugins."""
    callers = {name: caller for name, caller in vars(bus.plugins.hook).items() if not name.startswith("_")}
    own = [name for name in vars(hookspecs) if name in callers]
    origins = {info.name: (info.distribution, info.version) for info in bus.plugins.infos() if info.status == "loaded"}
    for name in dict.fromkeys((*own, *callers)):
        if callers[name].has_spec() or callers[name].get_hookimpls():  # the others belonged to unregistered plugins
            yield _hook_info(callers[name], origins)


def _hook_info(caller: pluggy.HookCaller, origins: dict[str, tuple[str | None, str | None]]) -> HookInfo:
    spec = caller.spec
    implementations = tuple(
        Implementation(impl.plugin_name, *origins.get(impl.plugin_name, (None, None)), tuple(_manner(impl)))
        for impl in reversed(caller.get_hookimpls())
    )
    return HookInfo(
        caller.name,
        (*spec.argnames, *spec.kwargnames) if spec is not None else (),
        bool(spec is not None and spec.opts.get("firstresult")),
        (inspect.getdoc(spec.function) if spec is not None else None) or "",
        tuple(implementation.plugin for implementation in implementations),
        implementations,
    )


def _manner(impl: pluggy.HookImpl) -> Iterator[str]:
    if impl.wrapper or impl.hookwrapper:
        yield "wrapper"
    yield from (name for name in ("tryfirst", "trylast") if getattr(impl, name))


def _find(name: str, infos: list[HookInfo]) -> HookInfo:
    """The hook with this name, with or without the prefix. Raises `InputError` with a suggestion."""
    by_name = {info.name: info for info in infos}
    full_name = name if name in by_name or name.startswith(_PREFIX) else f"{_PREFIX}{name}"
    if full_name not in by_name:
        raise InputError(f"there is no hook {full_name!r}{did_you_mean(full_name, by_name)}")
    return by_name[full_name]


def _heading(info: HookInfo, out: OutputStream) -> str:
    firstresult = out.styled("  firstresult", "yellow") if info.firstresult else ""
    return f"{out.styled(info.name, 'bold')}({', '.join(info.arguments)}){firstresult}"


def _paragraph(info: HookInfo, out: OutputStream) -> str:
    names = [_describe(implementation) for implementation in info.details]
    implemented = f"implemented by {', '.join(names)}" if names else out.styled(_NOT_IMPLEMENTED, "dim")
    return f"\n{_INDENT}".join(line for line in (_heading(info, out), info.doc, implemented) if line) + "\n"


def _describe(implementation: Implementation) -> str:
    details = ", ".join(part for part in (implementation.origin, *implementation.manner) if part)
    return one_line(f"{implementation.plugin} ({details})" if details else implementation.plugin)


def _page(info: HookInfo, out: OutputStream) -> str:
    sections = [escape_control(section) for section in (info.doc or "It has no hookspec.", _rules(info)) if section]
    text = textwrap.indent("\n\n".join(sections), _INDENT)
    return f"{_heading(info, out)}\n{text}\n\n{textwrap.indent(_implementation_table(info, out), _INDENT)}"


def _rules(info: HookInfo) -> str:
    rules = []
    if info.firstresult:
        rules.append("The first result other than None is the result of the hook; no further plugin is called.")
    if info.name in CONTAINED:
        rules.append("An exception is contained, and reported with the plugin's name.")
    return "\n".join(rules)


def _implementation_table(info: HookInfo, out: OutputStream) -> str:
    if not info.details:
        return f"{_NOT_IMPLEMENTED}\n"
    rows = [["plugin", "distribution", ""]]
    rows += [[one_line(impl.plugin), one_line(impl.origin) or "-", ", ".join(impl.manner)] for impl in info.details]
    return format_table(out, rows, lambda *_: ())
