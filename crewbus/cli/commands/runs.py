"""``crewbus runs``: list the recorded runs."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Final

from crewbus import Bus
from crewbus.cli.formatting import examples, parse_age, parse_tag, positive_int
from crewbus.cli.record_arguments import add_json_argument, add_store_argument, open_store
from crewbus.cli.run_ids import no_runs_message
from crewbus.cli.run_table import run_as_json, run_table
from crewbus.cli.terminal import Terminal

if TYPE_CHECKING:
    from crewbus.plugins import Commands

STATES: Final = ("queued", "running", "suspended", "interrupted", "finished", "failed", "cancelled")


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "runs",
        main,
        help="list the recorded runs, newest first",
        epilog=examples(
            "crewbus runs",
            "crewbus runs --state interrupted",
            "crewbus runs --name newsroom --tag tenant=7 --since 2d",
            "crewbus runs --store sqlite:///other.db --json",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    option = parser.add_argument
    option("--limit", metavar="N", type=positive_int, default=20, help="at most N (default: %(default)s)")
    state = option("--state", metavar="STATE", choices=STATES, action="append")
    state.help = f"only runs in this state: {', '.join(STATES)} (repeatable: in one of them)"
    option("--name", help="only runs of this name")
    tag = option("--tag", metavar="KEY=VALUE", type=parse_tag, action="append", default=[])
    tag.help = "only with this tag (repeatable)"
    option("--since", metavar="AGE", type=parse_age, help="only runs started or forked since: 30d, 12h, 45m, 10s, 2w")
    option("--long", action="store_true", help="show whole ids, and times with date and zone")
    add_json_argument(parser, "one JSON array")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """List the runs."""
    store = open_store(args, bus)
    since = None if args.since is None else time.time() - args.since
    found = bus.records.list(args.limit, name=args.name, tags=dict(args.tag), since=since, state=args.state)
    terminal = Terminal()
    if args.json:
        terminal.out.write(json.dumps([run_as_json(info) for info in found], indent=2) + "\n")
    elif found:
        terminal.out.write(run_table(found, terminal.out, long=args.long))
    elif bus.records.list(1):
        terminal.note("no recorded run matches")
    else:
        terminal.note(no_runs_message(store))
    return 0
