"""``crewbus queues``: what is in the queues."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import attrs

from crewbus.cli import (
    Terminal,
    add_json_argument,
    add_store_argument,
    format_duration,
    format_table,
    open_store,
    paragraph,
)
from crewbus_workers.overview import QueueInfo, survey

if TYPE_CHECKING:
    from crewbus import Bus, Commands

_SHOWN = 3


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "queues",
        main,
        help="show how many runs wait, run and are stuck in each queue",
        description=paragraph(
            "Show the queues with the runs in them that have not ended.",
            "waiting: a worker may take them now; later: delayed, asleep, or waiting for a message; stuck: taken over",
            "five times without progress, and left alone until 'crewbus requeue RUN'.",
        ),
        epilog="examples:\n  crewbus queues\n  crewbus queues --json",
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_json_argument(parser, "one JSON array")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Show the queues."""
    open_store(args, bus)
    (found, stuck), terminal = survey(bus), Terminal()
    if args.json:
        terminal.out.write(json.dumps([attrs.asdict(queue) for queue in found], indent=2) + "\n")
        return 0
    if not found:
        terminal.note("no queue has a run that has not ended")
        return 0
    rows = [["queue", "waiting", "later", "running", "stuck", "oldest"], *map(_row, found)]
    terminal.out.write(format_table(terminal.out, rows, _style))
    if stuck:
        more = ", ..." if len(stuck) > _SHOWN else ""
        terminal.note(f"stuck: {', '.join(stuck[:_SHOWN])}{more}; 'crewbus requeue RUN' has workers try again")
    return 0


def _row(queue: QueueInfo) -> list[str]:
    counts = (queue.waiting, queue.later, queue.running, queue.stuck)
    return [queue.name, *map(str, counts), "-" if queue.oldest is None else format_duration(queue.oldest)]


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return ("red", "bold") if heading == "stuck" and cell != "0" else ()
