"""``crewbus export``: a record as JSON Lines."""

from __future__ import annotations

import argparse

from crewbus import Bus
from crewbus.cli.commands.runs import as_json
from crewbus.cli.formatting import count
from crewbus.cli.record_options import add_command, add_run, run_of, store_of
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import InputError
from crewbus.records.export import write_export

_EXAMPLES = """
    crewbus export latest -o tests/data/research.jsonl
    crewbus export 0192f3 | jq -r 'select(.name == "crewbus.Chunk").event.text'
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "export",
        "write the record of a run as JSON Lines: first the run, then its events, one in each line",
        "crewbus.testing.replayed() makes a test fixture of it.",
        _EXAMPLES,
    )
    add_run(parser)
    parser.add_argument("--jsonl", action="store_true", help="as JSON Lines, which is the only format so far")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to (default: standard output)")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Export the run."""
    terminal = Terminal()
    store = store_of(args, bus)
    run_id = run_of(args.run, store)
    if args.output is None:
        info = as_json(bus.recorded_run(run_id))
        del info["id"]  # which the format calls the run
        write_export(terminal.out.stream, store, run_id, info)
        return 0
    try:
        written = bus.export(run_id, args.output)
    except OSError as error:
        raise InputError(f"{args.output}: {error.strerror or error}") from None
    terminal.note(f"wrote {count(written, 'event')} of run {run_id} to {args.output}")
    return 0
