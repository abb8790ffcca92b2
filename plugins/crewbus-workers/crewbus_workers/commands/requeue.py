"""``crewbus requeue``: have workers continue a run that is stuck or has failed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from crewbus.cli import Terminal, add_run_argument, add_store_argument, find_run, open_store
from crewbus_workers.requeueing import requeue

if TYPE_CHECKING:
    from crewbus import Bus, Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "requeue",
        main,
        help="have workers continue a queued run that is stuck or has failed",
        description="Have workers continue a queued run that is stuck, failed or was cancelled.\n"
        "Finished steps are not executed again.",
        epilog="examples:\n  crewbus requeue order-7",
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Requeue the run."""
    run_id = find_run(args.run, open_store(args, bus))
    requeue(bus, run_id)
    Terminal().note(f"run {run_id} is queued again")
    return 0
