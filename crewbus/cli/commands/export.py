"""``crewbus export``: write a record as JSON Lines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from crewbus import Bus
from crewbus._util import format_count
from crewbus.cli.formatting import examples, paragraph
from crewbus.cli.record_arguments import add_run_argument, add_store_argument, open_store
from crewbus.cli.run_ids import find_run
from crewbus.cli.run_table import run_as_json
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import InputError
from crewbus.records import write_export

if TYPE_CHECKING:
    from crewbus.plugins import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "export",
        main,
        help="write the record of a run as JSON Lines",
        description=paragraph(
            "Write the record of a run as JSON Lines: the run in the first line, then one event per line.",
            "crewbus.testing.replayed() reads the file as a test fixture.",
        ),
        epilog=examples(
            "crewbus export latest -o tests/data/research.jsonl",
            "crewbus export 0192f3 | jq -r 'select(.name == \"crewbus.Chunk\").event.text'",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    parser.add_argument("--jsonl", action="store_true", help="write JSON Lines, the only format so far")
    parser.add_argument("-o", "--output", metavar="FILE", help="the file to write (default: standard output)")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Export the run."""
    terminal = Terminal()
    store = open_store(args, bus)
    run_id = find_run(args.run, store)
    if args.output is None:
        info = run_as_json(bus.records.info(run_id))
        del info["id"]  # the format has the id under another name
        write_export(terminal.out.stream, store, run_id, info)
        return 0
    try:
        events = bus.export(run_id, args.output)
    except OSError as error:
        raise InputError(f"{args.output}: {error.strerror or error}") from None
    terminal.note(f"wrote {format_count(events, 'event')} of run {run_id} to {args.output}")
    return 0
