"""The arguments of commands about records: ``--store``, and RUN, which is an id, a unique prefix, or ``latest``."""

from __future__ import annotations

import argparse
import difflib
from typing import Final

from crewbus import Bus, MemoryStore, Store
from crewbus.cli.errors import one_line
from crewbus.exceptions import RunNotFoundError

_MAX_LISTED: Final = 3


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--store``."""
    parser.add_argument("--store", metavar="URL", help="the store to use (default: the one that the bus records to)")


def add_run_argument(parser: argparse.ArgumentParser, name: str = "run", *, optional: bool = False) -> None:
    """Add RUN."""
    text = "the id of a recorded run, a unique prefix of one, or 'latest'"
    parser.add_argument(name, metavar=name.upper(), nargs="?" if optional else None, help=text)


def add_json_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help=f"print {what}, and nothing else")


def open_store(args: argparse.Namespace, bus: Bus) -> Store:
    """The store that ``--store`` names, which becomes the bus's store; by default the bus's own."""
    if args.store is not None:
        bus.recording.use_store(args.store)
    return bus.store


def find_run(text: str, store: Store) -> str:
    """The id of the run that RUN names. Raises `RunNotFoundError` with suggestions."""
    if store.root_of(text) is not None:
        return text
    roots = store.roots()
    if not roots:
        raise RunNotFoundError(no_runs_message(store))
    if text == "latest":
        return roots[-1]
    found = [root for root in roots if text and root.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunNotFoundError(f"{len(found)} runs begin with {text!r}: {_list(found)}")
    close = difflib.get_close_matches(text, roots, _MAX_LISTED, 0.8)
    hint = f"did you mean {_list(close)}?" if close else f"the newest are {_list(roots[::-1])}"
    raise RunNotFoundError(f"no run {text!r} in {_name(store)}: {hint}")


def no_runs_message(store: Store) -> str:
    """What to say if nothing is recorded, and what to do then."""
    if isinstance(store, MemoryStore):
        return "No runs in memory, which is lost when the process ends. Install crewbus-sqlite, or name a `--store`."
    return f"No runs in {_name(store)}. Start one with `crewbus run`, or name another `--store`."


def _name(store: Store) -> str:
    """The store's path if it has one, else its repr."""
    return one_line(str(getattr(store, "path", None) or repr(store)))


def _list(ids: list[str]) -> str:
    more = ", ..." if len(ids) > _MAX_LISTED else ""
    return ", ".join(one_line(run_id) for run_id in ids[:_MAX_LISTED]) + more
