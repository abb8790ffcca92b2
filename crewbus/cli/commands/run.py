"""``crewbus run``: call a target, once or for each line of input."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from crewbus import Bus
from crewbus.cli.formatting import positive
from crewbus.cli.input import Call, parse_arguments, read
from crewbus.cli.runner import Job, Manner, carry_out
from crewbus.cli.target import Target, resolve
from crewbus.cli.terminal import Terminal
from crewbus.cli.warning_notes import plain_warnings

TARGET: Final = "crewbus.target"
ARGUMENTS: Final = "crewbus.arguments"
DIRECTORY: Final = "crewbus.directory"
"""The tags by which a recorded run is resumed: TARGET as given, its arguments as JSON, the working directory."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="call an agent, once or for each line of a file, and stream what it says",
        description="Call TARGET, sync or async, in a run of its own: once, or for each line of --input. "
        "One run's text goes to standard output as it arrives; many end with a table.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("target", metavar="TARGET", help="module:callable or path.py:callable")
    option(
        "--input",
        metavar="FILE.jsonl",
        help="one run for each line: a JSON object gives arguments by name, any other value one by position; "
        "- is standard input",
    )
    option(
        "--arg",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an argument of every run, as JSON or else as a string; those of a line go before it (repeatable)",
    )
    option("--concurrency", metavar="N", type=positive, default=10, help="runs at once (default: %(default)s)")
    option("--record", action="store_true", help="arm recording")
    option("--store", metavar="URL", help="arm recording, to this store")
    option("--traceback", action="store_true", help="show the traceback of each different failure")
    option("--json", action="store_true", help="print one JSON object at the end, and nothing else")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Check all that can be checked, then run; returns the exit code."""
    terminal = Terminal()
    # What the target prints would be in the way of the one object.
    aside = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    with aside, plain_warnings(terminal) as warned:
        tags = {TARGET: args.target, DIRECTORY: str(Path.cwd())}
        given = parse_arguments(args.arg)
        target = resolve(args.target)
        calls = read(args.input, given) if args.input is not None else [Call((), given)]
        planned = _check(target, calls)
        if args.record or args.store is not None:
            bus.enable_recording(args.store)
        jobs = (Job(target, call, _tags(call, tags if bus.recording else None)) for call in calls)
        manner = Manner(target.name, args.concurrency, args.json, args.traceback)
        return carry_out(bus, jobs, planned, terminal, manner, warned)


def _tags(call: Call, resumable: Mapping[str, str] | None) -> Mapping[str, str]:
    """Where a run's input comes from; of one that is recorded also by what it is resumed."""
    tags = {"input": str(call.place)} if call.place else {}
    if resumable is not None:
        tags |= {**resumable, ARGUMENTS: json.dumps({"args": call.args, "kwargs": call.kwargs})}
    return tags


def _check(target: Target, calls: Iterable[Call]) -> int:
    """How many calls there are, each of which the target takes."""
    planned = 0
    for call in calls:
        target.check(call)
        planned += 1
    return planned
