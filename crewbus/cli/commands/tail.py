"""``crewbus tail``: print the events of a record, also while it is written."""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from crewbus import Bus, Store
from crewbus.cli.event_lines import EventLines
from crewbus.cli.formatting import examples, non_negative_int, paragraph
from crewbus.cli.record_arguments import add_json_argument, add_run_argument, add_store_argument, open_store
from crewbus.cli.report import TextPrinter
from crewbus.cli.run_ids import find_run
from crewbus.cli.terminal import Terminal
from crewbus.records import RESUMING, Branch, as_json
from crewbus.stores import ENDS, SUSPENDED, StoredEvent

if TYPE_CHECKING:
    from crewbus.plugins import Commands

POLL_INTERVAL: Final = 0.1
"""How many seconds pass between two reads of a record that another process writes."""
T = TypeVar("T")
_TEXT: Final = frozenset(("crewbus.Chunk", "crewbus.Retracted"))


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
            "crewbus tail latest -n 20",
            "crewbus tail 25b150ce --follow --text",
            "crewbus tail latest --follow --json | jq -r 'select(.name == \"crewbus.Chunk\").event.text'",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="wait for further events until the run ends")
    parser.add_argument(
        "-n", metavar="N", dest="last", type=non_negative_int, help="only the last N events and new ones"
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--text", action="store_true", help="print the text that was streamed, instead of events")
    add_json_argument(shape, "one JSON object for each event")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Print the events."""
    store = open_store(args, bus)
    branch = Branch(store, find_run(args.run, store))
    out = Terminal().out
    batches = _follow(store, branch) if args.follow else iter([branch.read()])
    if args.text:
        printer = TextPrinter(out)
        for stored in _last(batches, args.last):
            if stored.name in _TEXT:
                printer.print(bus.recording.decode(stored))
        return 0
    shape: Callable[[StoredEvent], str] = _json_line if args.json else EventLines(out).format
    for line in _last((map(shape, batch) for batch in batches), args.last):
        out.write(line)
    return 0


def _json_line(stored: StoredEvent) -> str:
    return json.dumps(as_json(stored)) + "\n"


def _last(batches: Iterator[Iterable[T]], count: int | None) -> Iterator[T]:
    """The last ``count`` of the first batch, and all of the others."""
    for batch in batches:
        yield from batch if count is None else deque(batch, count)
        count = None


def _follow(store: Store, branch: Branch) -> Iterator[Iterable[StoredEvent]]:
    """Yield the recorded events and those to come, in batches, until the run has ended or its holder is dead."""
    standing = _Standing(branch.run_id)
    while True:
        info = store.info(branch.root_id)  # before the read, or the holder's last events could be missed
        yield map(standing.after, branch.read())
        if standing.ended:
            return
        if not (info.alive or standing.suspended):
            yield [_interrupted(branch.run_id, info.holder)]
            return
        time.sleep(POLL_INTERVAL)


class _Standing:
    """Whether a run has ended or is suspended, as far as its events were read."""

    def __init__(self, run_id: str) -> None:
        self.ended = self.suspended = False
        self._run_id = run_id

    def after(self, stored: StoredEvent) -> StoredEvent:
        """Take an event into account, and return it."""
        goes_on = stored.name in RESUMING
        ends_run = stored.name in ENDS and stored.run_id == self._run_id and stored.name != SUSPENDED
        self.suspended = (self.suspended or stored.name == SUSPENDED) and not goes_on
        self.ended = (self.ended or ends_run) and not goes_on
        return stored


def _interrupted(run_id: str, holder: str | None) -> StoredEvent:
    """The terminal event of a stream whose run was interrupted. It is in no record, and has no number."""
    data = json.dumps({"holder": holder or ""}).encode()
    return StoredEvent(run_id, -1, None, time.time(), None, 1, "crewbus.RunInterrupted", 1, data)
