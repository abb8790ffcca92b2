"""``crewbus fork`` and ``crewbus diff``: another run from the same beginning, and where two runs part."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from crewbus import Bus, Divergence, Envelope
from crewbus.cli.commands.tail import summary
from crewbus.cli.errors import one_line
from crewbus.cli.record_options import add_command, add_run, run_of, store_of
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import InputError
from crewbus.records.export import as_json

_FORKING = """
    crewbus fork latest --at after-research
    crewbus fork 0192f3 --edit 'research="other result"'
    crewbus resume $(crewbus fork latest --at after-research)
"""
_DIFFING = """
    crewbus diff 0192f3 0192f8
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    forking = add_command(
        commands,
        "fork",
        "make another run that shares the beginning of a recorded one, and print its id",
        "The other stays as it is; the fork goes on when it is resumed.",
        _FORKING,
    )
    add_run(forking)
    forking.add_argument("--at", metavar="CHECKPOINT", help="where they part (default: at the end)")
    forking.add_argument(
        "--edit",
        metavar="STEP=JSON",
        action="append",
        default=[],
        help="the result that a finished step has in the fork (repeatable)",
    )
    forking.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    forking.set_defaults(main=fork)
    diffing = add_command(
        commands,
        "diff",
        "compare two runs, and tell where they part",
        "The exit code is 0 where they do not, and 1 where they do.",
        _DIFFING,
    )
    add_run(diffing, "a")
    add_run(diffing, "b")
    diffing.add_argument("--json", action="store_true", help="print one JSON object, or null, and nothing else")
    diffing.set_defaults(main=diff)


def fork(args: argparse.Namespace, bus: Bus) -> int:
    """Fork the run."""
    run_id = run_of(args.run, store_of(args, bus))
    forked = bus.fork(run_id, at=args.at, edits=_edits(args.edit))
    told = {"run": forked, "of": run_id, "at": bus.recorded_run(forked).parent_at}
    Terminal().out.write((json.dumps(told) if args.json else forked) + "\n")
    return 0


def _edits(pairs: Iterable[str]) -> dict[str, Any]:
    """The results of ``--edit STEP=JSON``, by step."""
    edits: dict[str, Any] = {}
    for pair in pairs:
        step, equals, text = pair.partition("=")
        if not step or not equals:
            raise InputError(f"--edit {pair!r}: give it as STEP=JSON")
        if step in edits:
            raise InputError(f"--edit {step} is given twice")
        try:
            edits[step] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--edit {step}: not JSON: {error}; a text stands in double quotes") from None
    return edits


def diff(args: argparse.Namespace, bus: Bus) -> int:
    """Compare the runs."""
    store = store_of(args, bus)
    divergence = bus.diff(run_of(args.a, store), run_of(args.b, store))
    out = Terminal().out
    if args.json:
        out.write(json.dumps(divergence and _as_json(divergence, bus)) + "\n")
    elif divergence is None:
        out.write("the runs are the same\n")
    else:
        out.write(f"the runs part in {one_line(divergence.scope)}:\n")
        for text, side in ((args.a, divergence.one), (args.b, divergence.other)):
            out.write(f"  {one_line(text)}  {_side(side, bus)}\n")
    return int(divergence is not None)


def _side(envelope: Envelope | None, bus: Bus) -> str:
    """What stands on one side, on one line."""
    if envelope is None:
        return "has nothing more"
    stored = bus.encode(envelope)
    return f"{stored.seq}  {one_line(stored.name.removeprefix('crewbus.'))}  {summary(stored.data)}"


def _as_json(divergence: Divergence, bus: Bus) -> dict[str, Any]:
    sides = {"a": divergence.one, "b": divergence.other}
    told = {name: side and as_json(bus.encode(side)) for name, side in sides.items()}
    return {"scope": divergence.scope, **told}
