"""``crewbus prune``: forget old records."""

from __future__ import annotations

import argparse
import json

from crewbus import Bus
from crewbus.cli.commands.runs import table
from crewbus.cli.formatting import age, count
from crewbus.cli.record_options import add_command, store_of
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import InputError

_EXAMPLES = """
    crewbus prune --keep 100 --dry-run
    crewbus prune --older-than 30d
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "prune",
        "forget the records of old runs, and name them",
        "Runs that are alive stay, and those that a fork which stays needs.",
        _EXAMPLES,
    )
    parser.add_argument("--keep", metavar="N", type=_number, help="how many of the newest stay")
    parser.add_argument(
        "--older-than", metavar="AGE", type=age, help="only those whose last event is older: 30d, 12h, 45m, 10s, 2w"
    )
    parser.add_argument("--dry-run", action="store_true", help="name them, and forget none")
    parser.add_argument("--json", action="store_true", help="print one JSON array of ids, and nothing else")
    parser.set_defaults(main=main)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number, not {text!r}")
    return int(text)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Prune the store."""
    if args.keep is None and args.older_than is None:
        raise InputError("say which records stay: --keep N, --older-than AGE, or both")
    store_of(args, bus)
    known = bus.recorded_runs()
    gone = bus.prune(keep=args.keep, older_than=args.older_than, dry_run=args.dry_run)
    terminal = Terminal()
    if args.json:
        terminal.out.write(json.dumps(gone) + "\n")
        return 0
    if gone:
        terminal.out.write(table([info for info in known if info.id in gone], terminal.out))
    terminal.note(f"{count(len(gone), 'record')} {'would be' if args.dry_run else 'were'} forgotten")
    return 0
