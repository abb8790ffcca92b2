"""``crewbus replay``: deliver the events of a recorded run to plugins again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from crewbus import Bus
from crewbus._util import format_count
from crewbus.cli.formatting import examples, paragraph
from crewbus.cli.record_arguments import add_run_argument, add_store_argument, open_store
from crewbus.cli.run_ids import find_run
from crewbus.cli.target import load_object
from crewbus.cli.terminal import Terminal

if TYPE_CHECKING:
    from crewbus.plugins import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "replay",
        main,
        help="deliver the recorded events of a run to the plugins again, in order",
        description=paragraph(
            "Deliver the recorded events of a run to the plugins again, in order and marked as replayed.",
            "Nothing is executed or recorded. Metrics and exporters can be filled from a record in this way.",
        ),
        epilog=examples("crewbus replay latest", "crewbus replay 0192f3 --plugin audit.py:Audit"),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    parser.add_argument(
        "--plugin",
        metavar="PLUGIN",
        action="append",
        default=[],
        help="deliver to this plugin too: module, module:object, path.py or path.py:object (repeatable)",
    )


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Replay the run."""
    terminal = Terminal()
    run_id = find_run(args.run, open_store(args, bus))
    for text in args.plugin:
        plugin = load_object(text)
        bus.plugins.register(plugin() if isinstance(plugin, type) else plugin, text)
    events = bus.replay(run_id)
    bus.flush()
    terminal.note(f"replayed {format_count(events, 'event')} of run {run_id}")
    return 0
