"""``crewbus cancel``: cancel a recorded run, whichever process executes it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from crewbus import Bus
from crewbus.cli.formatting import examples, paragraph
from crewbus.cli.record_arguments import add_json_argument, add_run_argument, add_store_argument, open_store
from crewbus.cli.run_ids import find_run
from crewbus.cli.terminal import Terminal

if TYPE_CHECKING:
    from crewbus.plugins import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "cancel",
        main,
        help="cancel a run, whichever process executes it",
        description=paragraph(
            "Cancel a run: the process that executes it is asked to, and does so within a second.",
            "A run that was suspended or interrupted, or has not started, ends as cancelled; 'crewbus resume RUN' can "
            "still continue it. One that has ended is left as it is.",
        ),
        epilog=examples("crewbus cancel latest", "crewbus cancel 0192f3 --reason 'the customer left'"),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    parser.add_argument("--reason", default="cancelled", help="why, for the record (default: %(default)s)")
    add_json_argument(parser, "one JSON object: the run and the state in which it was")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Cancel the run."""
    terminal = Terminal()
    run_id = find_run(args.run, open_store(args, bus))
    state = bus.cancel(run_id, args.reason)
    if args.json:
        terminal.out.write(json.dumps({"id": run_id, "state": state}) + "\n")
    elif state == "running":
        holder = bus.records.info(run_id).holder
        terminal.note(f"asked {holder or 'its holder'} to cancel run {run_id}")
    elif state in ("finished", "failed", "cancelled"):
        terminal.note(f"run {run_id} has {'been cancelled' if state == 'cancelled' else state} already")
    else:
        terminal.note(f"cancelled run {run_id}, which was {state}")
    return 0
