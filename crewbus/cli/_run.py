"""``crewbus run``: call a target, once or for each line of input."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterable

from crewbus import Bus
from crewbus.cli._input import Call, parse_arguments, read
from crewbus.cli._session import Manner, Session
from crewbus.cli._signals import Interrupts
from crewbus.cli._target import Target, resolve
from crewbus.cli._terminal import Terminal
from crewbus.cli._warnings import plain_warnings


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
    option("--concurrency", metavar="N", type=_positive, default=10, help="runs at once (default: %(default)s)")
    option("--record", action="store_true", help="arm recording")
    option("--traceback", action="store_true", help="show the traceback of each different failure")
    option("--json", action="store_true", help="print one JSON object at the end, and nothing else")
    parser.set_defaults(main=main)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1, not {text!r}")
    return int(text)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Check all that can be checked, then run; returns the exit code."""
    terminal = Terminal()
    # What the target prints would be in the way of the one object.
    aside = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    with aside, plain_warnings(terminal) as warned:
        given = parse_arguments(args.arg)
        target = resolve(args.target)
        calls = read(args.input, given) if args.input is not None else [Call((), given)]
        planned = _check(target, calls)
        if args.record:
            bus.enable_recording()
        manner = Manner(args.concurrency, args.json, args.traceback)
        session = Session(bus, target, iter(calls), planned, terminal, manner)
        with Interrupts() as interrupts, asyncio.Runner() as runner:
            runner.run(session.conduct(interrupts, warned))
    return interrupts.code or int(session.tally.ok < planned)


def _check(target: Target, calls: Iterable[Call]) -> int:
    """How many calls there are, each of which the target takes."""
    planned = 0
    for call in calls:
        target.check(call)
        planned += 1
    return planned
