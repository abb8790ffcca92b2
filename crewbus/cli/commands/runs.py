"""``crewbus runs``: list the recorded runs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Final

from crewbus import Bus
from crewbus.cli.formatting import examples, positive_int
from crewbus.cli.record_arguments import add_json_argument, add_store_argument, no_runs_message, open_store
from crewbus.cli.run_table import run_as_json, run_table
from crewbus.cli.terminal import Terminal

if TYPE_CHECKING:
    from crewbus.plugins import Commands

STATES: Final = ("running", "finished", "failed", "cancelled", "interrupted")


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "runs",
        main,
        help="list the recorded runs, newest first",
        epilog=examples(
            "crewbus runs",
            "crewbus runs --state interrupted",
            "crewbus runs --store sqlite:///other.db --json",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    parser.add_argument("--limit", metavar="N", type=positive_int, default=20, help="at most N (default: %(default)s)")
    parser.add_argument("--state", choices=STATES, help="only runs in this state")
    add_json_argument(parser, "one JSON array")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """List the runs."""
    store = open_store(args, bus)
    infos = bus.recorded_runs(limit=None if args.state else args.limit)
    found = [info for info in infos if args.state in (None, info.state)][: args.limit]
    terminal = Terminal()
    if args.json:
        terminal.out.write(json.dumps([run_as_json(info) for info in found], indent=2) + "\n")
    elif not infos:
        terminal.note(no_runs_message(store))
    elif not found:
        terminal.note(f"no recorded run is {args.state}")
    else:
        terminal.out.write(run_table(found, terminal.out))
    return 0
