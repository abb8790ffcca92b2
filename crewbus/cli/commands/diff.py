"""``crewbus diff``: find the first difference between two recorded runs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from crewbus import Bus, Divergence, Envelope
from crewbus._util import one_line
from crewbus.cli.event_lines import format_fields, short_type_name
from crewbus.cli.formatting import examples, paragraph
from crewbus.cli.record_arguments import add_json_argument, add_run_argument, add_store_argument, open_store
from crewbus.cli.run_ids import find_run
from crewbus.cli.terminal import Terminal
from crewbus.records import as_json

if TYPE_CHECKING:
    from crewbus.plugins import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "diff",
        main,
        help="compare two runs, and show the first difference",
        description=paragraph(
            "Compare two runs, and show the first difference.", "The exit code is 0 if they are equal, else 1."
        ),
        epilog=examples("crewbus diff 0192f3 0192f8"),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser, "a")
    add_run_argument(parser, "b")
    add_json_argument(parser, "one JSON object, or null")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Compare the runs."""
    store = open_store(args, bus)
    divergence = bus.records.diff(find_run(args.a, store), find_run(args.b, store))
    out = Terminal().out
    if args.json:
        out.write(json.dumps(divergence and _as_json(divergence, bus)) + "\n")
    elif divergence is None:
        out.write("the runs are equal\n")
    else:
        out.write(f"the runs differ in {one_line(divergence.scope)}:\n")
        for text, envelope in ((args.a, divergence.one), (args.b, divergence.other)):
            out.write(f"  {one_line(text)}  {_describe(envelope, bus)}\n")
    return int(divergence is not None)


def _describe(envelope: Envelope | None, bus: Bus) -> str:
    if envelope is None:
        return "has no further event"
    stored = bus.recording.encode(envelope)
    return f"{stored.seq}  {short_type_name(stored)}  {format_fields(stored.data)}"


def _as_json(divergence: Divergence, bus: Bus) -> dict[str, Any]:
    sides = {"a": divergence.one, "b": divergence.other}
    events = {name: envelope and as_json(bus.recording.encode(envelope)) for name, envelope in sides.items()}
    return {"scope": divergence.scope, **events}
