"""``crewbus replay``: tell observers again what a run did."""

from __future__ import annotations

import argparse

from crewbus import Bus
from crewbus.cli.formatting import count
from crewbus.cli.record_options import add_command, add_run, run_of, store_of
from crewbus.cli.target import load
from crewbus.cli.terminal import Terminal

_EXAMPLES = """
    crewbus replay latest
    crewbus replay 0192f3 --plugin audit.py:Audit
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "replay",
        "tell the plugins again what a run did: its recorded events, in order",
        "They are marked as replayed; nothing is executed or recorded. It fills metrics and exporters from a record.",
        _EXAMPLES,
    )
    add_run(parser)
    parser.add_argument(
        "--plugin",
        metavar="PLUGIN",
        action="append",
        default=[],
        help="another one that is told: module, module:object, path.py or path.py:object (repeatable)",
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Replay the run."""
    terminal = Terminal()
    run_id = run_of(args.run, store_of(args, bus))
    for text in args.plugin:
        plugin = load(text)
        bus.plugins.register(plugin() if isinstance(plugin, type) else plugin, text)
    told = bus.replay(run_id)
    bus.flush()
    terminal.note(f"replayed {count(told, 'event')} of run {run_id}")
    return 0
