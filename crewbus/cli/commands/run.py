"""``crewbus run``: call a target, once or for each line of input."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from crewbus import Bus
from crewbus.cli.formatting import paragraph, positive_int
from crewbus.cli.input import Arguments, parse_arguments, read_lines
from crewbus.cli.launch_tags import BATCH_TAG, arguments_of, launch_tags, tag_of, tags_of
from crewbus.cli.run_ids import find_run
from crewbus.cli.runner import PlannedRun, RunnerOptions, run_all
from crewbus.cli.target import Target, load_target
from crewbus.cli.terminal import Terminal
from crewbus.cli.warning_notes import warnings_as_notes
from crewbus.exceptions import InputError
from crewbus.scopes import new_id

if TYPE_CHECKING:
    from crewbus.plugins import Commands

FAILED: Final = ("failed", "cancelled", "interrupted", "suspended")
"""The states of the runs that ``--failed-from`` repeats."""


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
    option(
        "--failed-from",
        metavar="RUN",
        help="instead of --input: what did not finish of the command that started RUN, a recorded run or 'latest'",
    )
    option("--concurrency", metavar="N", type=positive_int, default=10, help="runs at a time (default: %(default)s)")
    option("--record", action="store_true", help="record the runs")
    option("--store", metavar="URL", help="record the runs in this store")
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--traceback``, ``--raw`` and ``--json``."""
    option = parser.add_argument
    option("--traceback", action="store_true", help="show the traceback of each different failure")
    option("--raw", action="store_true", help="send control characters in the text to the terminal as they are")
    option(
        "--json", action="store_true", help="print one JSON object at the end, with each run's result, and nothing else"
    )


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Check all arguments, then run."""
    terminal = Terminal()
    with printing_to_stderr(args.json), warnings_as_notes(terminal) as overdue:
        if args.failed_from is not None and (args.input is not None or args.arg):
            raise InputError("--failed-from takes the arguments from the record: leave out --input and --arg")
        defaults = parse_arguments(args.arg)
        target = load_target(args.target)
        if args.store is not None or args.record:
            bus.enable_recording(args.store)
        lines: Iterable[Arguments]
        if args.failed_from is not None:
            lines = _failed(find_run(args.failed_from, bus.store), bus)
        else:
            lines = read_lines(args.input, defaults) if args.input is not None else [Arguments((), defaults)]
        count = _check(target, lines)
        shared = launch_tags(args.target, new_id()) if bus.recording.armed else None
        planned = (PlannedRun(target, arguments, tags_of(arguments, shared)) for arguments in lines)
        options = RunnerOptions(target.name, args.concurrency, args.json, args.traceback, args.raw)
        code = run_all(bus, planned, count, terminal, options, overdue)
        if code and shared and count > 1 and not args.json:
            again = f"crewbus run {shlex.quote(args.target)} --failed-from latest"
            terminal.note(f"repeat what did not finish with '{again}'")
        return code


def _failed(run_id: str, bus: Bus) -> list[Arguments]:
    """The arguments of the runs that did not finish of the command that started a run, in order."""
    batch = tag_of(bus.records.info(bus.store.root_of(run_id) or run_id), BATCH_TAG)
    return [arguments_of(info) for info in reversed(bus.records.list(tags={BATCH_TAG: batch}, state=FAILED))]


@contextlib.contextmanager
def printing_to_stderr(redirect: bool) -> Iterator[None]:
    """Redirect what the target prints, so that standard output holds only the JSON object."""
    with contextlib.redirect_stdout(sys.stderr) if redirect else contextlib.nullcontext():
        yield


def _check(target: Target, lines: Iterable[Arguments]) -> int:
    """Check that the target accepts each run's arguments, and return how many runs there are."""
    count = 0
    for arguments in lines:
        target.check(arguments)
        count += 1
    return count
