"""``crewbus fork``: copy the beginning of a recorded run to a new run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crewbus import Bus
from crewbus.cli.formatting import examples, paragraph
from crewbus.cli.record_arguments import add_json_argument, add_run_argument, add_store_argument, open_store
from crewbus.cli.run_ids import find_run
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import InputError

if TYPE_CHECKING:
    from crewbus.plugins import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "fork",
        main,
        help="make a run that shares the beginning of a recorded one, and print its id",
        description=paragraph(
            "Make a run that shares the beginning of a recorded one, and print its id.",
            "The recorded run does not change; 'crewbus resume' continues the fork.",
        ),
        epilog=examples(
            "crewbus fork latest --at after-research",
            "crewbus fork 0192f3 --edit 'research=\"other result\"'",
            "crewbus resume $(crewbus fork latest --at after-research)",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    parser.add_argument("--at", metavar="CHECKPOINT", help="share the record up to here (default: all of it)")
    parser.add_argument(
        "--edit",
        metavar="STEP=JSON",
        action="append",
        default=[],
        help="replace the result of a finished step in the fork (repeatable)",
    )
    add_json_argument(parser, "one JSON object")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Fork the run."""
    run_id = find_run(args.run, open_store(args, bus))
    fork_id = bus.fork(run_id, at=args.at, edits=_edits(args.edit))
    if args.json:
        text = json.dumps({"run": fork_id, "of": run_id, "at": bus.records.info(fork_id).parent_at})
    else:
        text = fork_id
    Terminal().out.write(f"{text}\n")
    return 0


def _edits(pairs: Iterable[str]) -> dict[str, Any]:
    """The results that ``--edit STEP=JSON`` gives, by step."""
    edits: dict[str, Any] = {}
    for pair in pairs:
        step, equals, text = pair.partition("=")
        if not step or not equals:
            raise InputError(f"--edit {pair!r} is not STEP=JSON")
        if step in edits:
            raise InputError(f"--edit {step} is given twice")
        try:
            edits[step] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--edit {step}: not JSON: {error}; put text in double quotes") from None
    return edits
