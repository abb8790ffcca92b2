"""``crewbus send``: send a message to a run."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from crewbus import InputError
from crewbus.cli import Terminal, add_json_argument, add_run_argument, add_store_argument, find_run, open_store
from crewbus_workers.messages import send

if TYPE_CHECKING:
    from crewbus import Bus, Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "send",
        main,
        help="send a message to a run, which waits for it or will",
        description="Send a message to a run: the answer that it waits for, for example.\n"
        "The message is on disk when the command ends.",
        epilog="examples:\n"
        "  crewbus send order-7 approval true\n"
        """  crewbus send latest answer '{"text": "by train"}' --key request-12""",
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    option = parser.add_argument
    option("channel", metavar="CHANNEL", help="the name of the channel, as in receive(CHANNEL)")
    option("payload", metavar="PAYLOAD", nargs="?", default="null", help="JSON, or else a string (default: null)")
    option("--key", metavar="KEY", help="sending the same channel and key again changes nothing")
    add_json_argument(parser, "the run's id and the message's number as a JSON object")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Send the message."""
    run_id = find_run(args.run, open_store(args, bus))
    root_id = bus.store.root_of(run_id)
    if root_id != run_id:
        raise InputError(f"run {run_id} is nested in {root_id}: send the message to that")
    number = send(bus, run_id, args.channel, _payload(args.payload), key=args.key)
    terminal = Terminal()
    if args.json:
        terminal.out.write(json.dumps({"run": run_id, "message": number}) + "\n")
    else:
        terminal.note(f"sent message {number} to run {run_id}")
    return 0


def _payload(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
