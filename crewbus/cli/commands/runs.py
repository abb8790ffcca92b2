"""``crewbus runs``: what is recorded, newest first."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, Final

import attrs

from crewbus import Bus, RunInfo
from crewbus.cli.errors import one_line
from crewbus.cli.formatting import moment, positive, took
from crewbus.cli.record_options import STATE_STYLES, add_command, nothing_in, store_of
from crewbus.cli.terminal import Channel, Terminal, columns

STATES: Final = ("running", "finished", "failed", "cancelled", "interrupted")

_EXAMPLES = """
    crewbus runs
    crewbus runs --state interrupted
    crewbus runs --store sqlite:///other.db --json
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "runs", "list the recorded runs, newest first", "", _EXAMPLES)
    parser.add_argument("--limit", metavar="N", type=positive, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--state", choices=STATES, help="only those in this state")
    parser.add_argument("--json", action="store_true", help="print one JSON array, and nothing else")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """List the runs."""
    store = store_of(args, bus)
    infos = bus.recorded_runs(limit=None if args.state else args.limit)
    found = [info for info in infos if args.state in (None, info.state)][: args.limit]
    terminal = Terminal()
    if args.json:
        terminal.out.write(json.dumps([as_json(info) for info in found], indent=2) + "\n")
    elif not infos:
        terminal.note(nothing_in(store))
    elif not found:
        terminal.note(f"no recorded run is {args.state}")
    else:
        terminal.out.write(table(found, terminal.out))
    return 0


def as_json(info: RunInfo) -> dict[str, Any]:
    """All that is known of a run."""
    return {**attrs.asdict(info), "tags": dict(info.tags)}


def duration(info: RunInfo) -> float:
    """How many seconds a run took, or has taken so far."""
    ended = info.ended if info.ended is not None else time.time()
    return max(0.0, ended - info.started)


def table(infos: list[RunInfo], out: Channel) -> str:
    """The runs, each on a line."""
    rows = [["run", "name", "state", "started", "took", "events", "fork of"]]
    for info in infos:
        parent = f"{info.parent} at {info.parent_at}" if info.parent is not None else ""
        long = took(duration(info)) if info.ended is not None or info.state == "running" else "-"
        cells = (info.id, info.name or "-", info.state, moment(info.started), long, str(info.events), parent)
        rows.append([one_line(cell) for cell in cells])
    if all(row[-1] == "" for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return columns(out, rows, lambda heading, cell: STATE_STYLES.get(cell, ()) if heading == "state" else ())
