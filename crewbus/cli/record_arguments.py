"""The arguments of commands about records: ``--store``, and RUN, which names a run."""

from __future__ import annotations

import argparse

from crewbus import Bus, Store
from crewbus.cli.completion import recent_runs


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--store``."""
    parser.add_argument("--store", metavar="URL", help="the store to use (default: the one that the bus records to)")


def add_run_argument(parser: argparse.ArgumentParser, name: str = "run", *, optional: bool = False) -> None:
    """Add RUN."""
    text = "the id of a recorded run, its beginning or end, or 'latest'"
    action = parser.add_argument(name, metavar=name.upper(), nargs="?" if optional else None, help=text)
    action.completer = recent_runs  # type: ignore[attr-defined] # where argcomplete looks


def add_json_argument(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help=f"print {what}, and nothing else")


def open_store(args: argparse.Namespace, bus: Bus) -> Store:
    """The store that ``--store`` names, which becomes the bus's store; by default the bus's own."""
    if args.store is not None:
        bus.recording.use_store(args.store)
    return bus.store
