"""``crewbus tail``: print the events of a record, also while it is written."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from crewbus import Bus, Store
from crewbus.cli.event_lines import EventLines
from crewbus.cli.formatting import examples, paragraph
from crewbus.cli.record_arguments import add_json_argument, add_run_argument, add_store_argument, find_run, open_store
from crewbus.cli.terminal import Terminal
from crewbus.cli.timeline import RESUMING
from crewbus.records import Branch, as_json
from crewbus.stores import ENDS, SUSPENDED, StoredEvent

if TYPE_CHECKING:
    from crewbus.plugins import Commands

POLL_INTERVAL: Final = 0.1
"""How many seconds pass between two reads of a record that another process writes."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "tail",
        main,
        help="print the events of a run: number, time, scopes, type, fields",
        description=paragraph(
            "Print the events of a run: number, time, the scopes that it belongs to, type, fields.",
            "With --follow, continue until the run ends, also if another process executes it.",
        ),
        epilog=examples(
            "crewbus tail latest",
            "crewbus tail 0192f3 --follow",
            "crewbus tail latest --follow --json | jq -r 'select(.name == \"crewbus.Chunk\").event.text'",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="wait for further events until the run ends")
    add_json_argument(parser, "one JSON object for each event")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Print the events."""
    store = open_store(args, bus)
    branch = Branch(store, find_run(args.run, store))
    out = Terminal().out
    lines = EventLines(out)
    for stored in _follow(store, branch) if args.follow else branch.read():
        out.write(json.dumps(as_json(stored)) + "\n" if args.json else lines.format(stored))
    return 0


def _follow(store: Store, branch: Branch) -> Iterator[StoredEvent]:
    """Yield the recorded events and those to come, until the run has ended or its holder is dead."""
    ended = suspended = False
    while True:
        info = store.info(branch.root_id)  # before the read, or the holder's last events could be missed
        for stored in branch.read():
            suspended = (suspended or stored.name == SUSPENDED) and stored.name not in RESUMING
            ends_run = stored.name in ENDS and stored.run_id == branch.run_id and stored.name != SUSPENDED
            ended = (ended or ends_run) and stored.name not in RESUMING
            yield stored
        if ended:
            return
        if not (info.alive or suspended):
            yield _interrupted(branch.run_id, info.holder)
            return
        time.sleep(POLL_INTERVAL)


def _interrupted(run_id: str, holder: str | None) -> StoredEvent:
    """The terminal event of a stream whose run was interrupted. It is in no record, and has no number."""
    data = json.dumps({"holder": holder or ""}).encode()
    return StoredEvent(run_id, -1, None, time.time(), None, 1, "crewbus.RunInterrupted", 1, data)
