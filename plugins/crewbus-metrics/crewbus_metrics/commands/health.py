"""``crewbus health``: whether the store answers, and the queues are served."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from crewbus import CrewbusError
from crewbus.cli import Terminal, add_json_argument, add_store_argument, format_table, open_store, paragraph
from crewbus_metrics.checks import Health, health

if TYPE_CHECKING:
    from crewbus import Bus, Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "health",
        main,
        help="check whether the store answers and the queues are served",
        description=paragraph(
            "Check whether the store answers, and with --max-wait whether workers take the queued runs.",
            "The exit code is 0 if all is well, else 1.",
        ),
        epilog="examples:\n  crewbus health\n  crewbus health --max-wait 300 --json",
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    parser.add_argument(
        "--max-wait", metavar="SECONDS", type=float, help="how long a run may wait in a queue (default: any time)"
    )
    add_json_argument(parser, "one JSON object")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Check, and show what was found."""
    try:
        open_store(args, bus)
        found = health(bus, max_wait=args.max_wait)
    except (CrewbusError, OSError) as error:
        found = Health((f"the store can't be opened: {error}",), args.store or "none", None)
    terminal = Terminal()
    if args.json:
        terminal.out.write(json.dumps(found.as_dict(), indent=2) + "\n")
    else:
        terminal.out.write(format_table(terminal.out, _rows(found), _style))
        for problem in found.problems:
            terminal.note(problem)
    return 0 if found.healthy else 1


def _rows(found: Health) -> list[list[str]]:
    answered = "no answer" if found.seconds is None else f"answered in {found.seconds * 1000:.1f} ms"
    queues = [
        [f"queue {queue.name}", f"{queue.waiting} waiting, {queue.running} running, {queue.stuck} stuck"]
        for queue in found.queues
    ]
    return [["what", "state"], ["store", answered], *queues]


def _style(_: str, cell: str) -> tuple[str, ...]:
    return ("red", "bold") if cell == "no answer" else ()
