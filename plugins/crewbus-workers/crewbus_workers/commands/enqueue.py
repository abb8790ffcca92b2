"""``crewbus enqueue``: queue a run of a workflow."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from crewbus.cli import Terminal, add_json_argument, add_store_argument, open_store, parse_arguments, parse_tag
from crewbus_workers.queue import DEFAULT_QUEUE, QueueOptions, queue_run

if TYPE_CHECKING:
    from crewbus import Bus, Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "enqueue",
        main,
        help="queue a run of a workflow, for a worker",
        description="Queue a run of a workflow, which a worker begins, and print its id.\n"
        "The run is on disk when the command ends.",
        epilog="examples:\n"
        "  crewbus enqueue newsroom --arg topic=tides\n"
        "  crewbus enqueue newsroom --arg topic=tides --id order-7 --attach\n"
        "  crewbus enqueue newsroom --arg topic=tides --key tenant-7 --delay 60",
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    option = parser.add_argument
    option("workflow", metavar="WORKFLOW", help="the name that the workflow is registered under")
    option(
        "--arg",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an argument, as JSON or else as a string (repeatable)",
    )
    option("--version", metavar="N", type=int, help="the workflow's version (default: the worker's newest)")
    option("--id", metavar="ID", help="the run's id (default: a new one)")
    option("--attach", action="store_true", help="queue nothing if that run exists")
    option("--queue", metavar="NAME", default=DEFAULT_QUEUE, help="the queue (default: %(default)s)")
    option("--delay", metavar="SECONDS", type=float, default=0.0, help="begin no sooner")
    option("--key", metavar="KEY", help="what a limit per key applies to, such as a tenant")
    option("--tag", metavar="KEY=VALUE", type=parse_tag, action="append", default=[], help="a tag (repeatable)")
    add_json_argument(parser, "the run's id as a JSON object")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Queue the run."""
    open_store(args, bus)
    arguments: dict[str, Any] = parse_arguments(args.arg)
    options = QueueOptions(args.id, args.queue, args.delay, args.key, dict(args.tag), args.version, args.attach)
    run_id = queue_run(bus, args.workflow, (), arguments, options)
    Terminal().out.write((json.dumps({"run": run_id}) if args.json else run_id) + "\n")
    return 0
