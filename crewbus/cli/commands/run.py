"""``crewbus run``: call a target, once or for each line of input."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crewbus import Bus
from crewbus.cli.formatting import paragraph, positive_int
from crewbus.cli.input import Arguments, parse_arguments, read_lines
from crewbus.cli.runner import PlannedRun, RunnerOptions, run_all
from crewbus.cli.target import Target, load_target
from crewbus.cli.terminal import Terminal
from crewbus.cli.warning_notes import warnings_as_notes

if TYPE_CHECKING:
    from crewbus.plugins import Commands

TARGET_TAG: Final = "crewbus.target"
ARGUMENTS_TAG: Final = "crewbus.arguments"
DIRECTORY_TAG: Final = "crewbus.directory"
"""The tags that ``crewbus resume`` reads: TARGET as given, the arguments as JSON, the working directory."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "run",
        main,
        help="call an agent, once or for each line of a file, and stream its text",
        description=paragraph(
            "Call TARGET, which may be sync or async, in a run of its own: once, or for each line of --input.",
            "The text of a single run is streamed to standard output; several runs end with a summary table.",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("target", metavar="TARGET", help="module:callable or path.py:callable")
    option(
        "--input",
        metavar="FILE.jsonl",
        help="start a run for each line: a JSON object holds arguments by name, any other value is the positional "
        "argument; - is standard input",
    )
    option(
        "--arg",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an argument of each run, as JSON or else as a string; --input overrides it (repeatable)",
    )
    option("--concurrency", metavar="N", type=positive_int, default=10, help="runs at a time (default: %(default)s)")
    option("--record", action="store_true", help="record the runs")
    option("--store", metavar="URL", help="record the runs in this store")
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--traceback`` and ``--json``."""
    parser.add_argument("--traceback", action="store_true", help="show the traceback of each different failure")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Check all arguments, then run."""
    terminal = Terminal()
    with printing_to_stderr(args.json), warnings_as_notes(terminal) as overdue:
        tags = {TARGET_TAG: args.target, DIRECTORY_TAG: str(Path.cwd())}
        defaults = parse_arguments(args.arg)
        target = load_target(args.target)
        lines = read_lines(args.input, defaults) if args.input is not None else [Arguments((), defaults)]
        count = _check(target, lines)
        if args.record or args.store is not None:
            bus.enable_recording(args.store)
        resume_tags = tags if bus.recording.armed else None
        planned = (PlannedRun(target, arguments, _tags(arguments, resume_tags)) for arguments in lines)
        options = RunnerOptions(target.name, args.concurrency, args.json, args.traceback)
        return run_all(bus, planned, count, terminal, options, overdue)


@contextlib.contextmanager
def printing_to_stderr(redirect: bool) -> Iterator[None]:
    """Redirect what the target prints, so that standard output holds only the JSON object."""
    with contextlib.redirect_stdout(sys.stderr) if redirect else contextlib.nullcontext():
        yield


def _tags(arguments: Arguments, resume_tags: Mapping[str, str] | None) -> Mapping[str, str]:
    """The line of input, and for a recorded run what ``crewbus resume`` needs."""
    tags = {"input": str(arguments.location)} if arguments.location else {}
    if resume_tags is not None:
        tags |= {**resume_tags, ARGUMENTS_TAG: json.dumps({"args": arguments.args, "kwargs": arguments.kwargs})}
    return tags


def _check(target: Target, lines: Iterable[Arguments]) -> int:
    """Check that the target accepts each run's arguments, and return how many runs there are."""
    count = 0
    for arguments in lines:
        target.check(arguments)
        count += 1
    return count
