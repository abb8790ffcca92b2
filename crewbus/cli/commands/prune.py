"""``crewbus prune``: delete the records of old runs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from crewbus import Bus
from crewbus._util import format_count
from crewbus.cli.formatting import examples, non_negative_int, paragraph, parse_age
from crewbus.cli.record_arguments import add_json_argument, add_store_argument, open_store
from crewbus.cli.run_table import run_table
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import InputError

if TYPE_CHECKING:
    from crewbus.plugins import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "prune",
        main,
        help="delete the records of old runs, and list them",
        description=paragraph(
            "Delete the records of old runs, and list them.",
            "Runs that are running are kept, and so are those that a remaining fork needs.",
        ),
        epilog=examples("crewbus prune --keep 100 --dry-run", "crewbus prune --older-than 30d"),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    parser.add_argument("--keep", metavar="N", type=non_negative_int, help="keep the N newest runs")
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        type=parse_age,
        help="delete only runs whose last event is older: 30d, 12h, 45m, 10s, 2w",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs, and delete none")
    add_json_argument(parser, "one JSON array of ids")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Prune the store."""
    if args.keep is None and args.older_than is None:
        raise InputError("say which runs to delete: --keep N, --older-than AGE, or both")
    open_store(args, bus)
    infos = bus.recorded_runs()
    deleted = bus.records.prune(keep=args.keep, older_than=args.older_than, dry_run=args.dry_run)
    terminal = Terminal()
    if args.json:
        terminal.out.write(json.dumps(deleted) + "\n")
        return 0
    if deleted:
        terminal.out.write(run_table([info for info in infos if info.id in deleted], terminal.out))
    terminal.note(f"{'would delete' if args.dry_run else 'deleted'} {format_count(len(deleted), 'run')}")
    return 0
