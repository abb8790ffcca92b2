"""Which record a command is about: ``--store``, and RUN, an id, the beginning of one, or ``latest``."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from typing import Final

from crewbus import Bus, MemoryStore, Store
from crewbus.cli.errors import one_line
from crewbus.exceptions import RunNotFoundError

STATE_STYLES: Final = {
    "running": ("bold",),
    "open": ("bold",),
    "finished": ("green",),
    "failed": ("red", "bold"),
    "cancelled": ("yellow",),
    "interrupted": ("yellow",),
    "retracted": ("dim",),
    "void": ("dim",),
}
"""How the states of runs, and of what goes on in them, are painted."""
_NAMED: Final = 3  # how many runs an error names


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, more: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command about records, with the options that all of them take."""
    parser = commands.add_parser(
        name,
        help=text,
        description=textwrap.fill(f"{text[0].upper()}{text[1:]}. {more}", 80),
        epilog=f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--store", metavar="URL", help="where the runs are recorded (default: where the bus records)")
    return parser


def add_run(parser: argparse.ArgumentParser, name: str = "run", *, optional: bool = False) -> None:
    """Add the argument RUN."""
    text = "the id of a recorded run, the beginning of one, or 'latest': the newest"
    parser.add_argument(name, metavar=name.upper(), nargs="?" if optional else None, help=text)


def store_of(args: argparse.Namespace, bus: Bus) -> Store:
    """The store that ``--store`` names, which is the bus's from now on, or the bus's own."""
    if args.store is not None:
        bus.use_store(args.store)
    return bus.store


def run_of(text: str, store: Store) -> str:
    """The id of the run that RUN means; raises `RunNotFoundError`, naming those that may be meant."""
    if store.root_of(text) is not None:
        return text
    roots = store.roots()
    if not roots:
        raise RunNotFoundError(nothing_in(store))
    if text == "latest":
        return roots[-1]
    found = [root for root in roots if text and root.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunNotFoundError(f"{len(found)} runs begin with {text!r}: {_listed(found)}")
    near = difflib.get_close_matches(text, roots, _NAMED, 0.8)
    hint = f"did you mean {_listed(near)}?" if near else f"the newest are {_listed(roots[::-1])}"
    raise RunNotFoundError(f"no run {text!r} is recorded in {store!r}: {hint}")


def nothing_in(store: Store) -> str:
    """What to say where nothing is recorded."""
    if isinstance(store, MemoryStore):
        return "nothing is recorded in memory, which ends with the process: install crewbus-sqlite, or name a --store"
    return one_line(f"nothing is recorded in {store!r}")


def _listed(ids: list[str]) -> str:
    more = ", ..." if len(ids) > _NAMED else ""
    return ", ".join(one_line(run_id) for run_id in ids[:_NAMED]) + more
