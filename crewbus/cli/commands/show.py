"""``crewbus show``: show the tree of a recorded run, with times and bars."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from crewbus import Bus, RunInfo
from crewbus.cli.errors import one_line
from crewbus.cli.formatting import examples, format_count, format_duration, format_time, paragraph
from crewbus.cli.record_arguments import add_json_argument, add_run_argument, add_store_argument, find_run, open_store
from crewbus.cli.run_table import STATE_STYLES, run_as_json, run_duration
from crewbus.cli.terminal import OutputStream, Terminal, format_table
from crewbus.cli.timeline import Entry, Timeline
from crewbus.records import Branch

if TYPE_CHECKING:
    from crewbus.plugins import Commands

_BAR_WIDTH: Final = 24
_MAX_INDENT: Final = 24  # levels


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "show",
        main,
        help="show a run: its steps, calls and checkpoints, their states and durations",
        description=paragraph(
            "Show a run: its steps, calls and checkpoints, their states and durations.",
            "A bar shows when something happened within the run, without the pauses before it was resumed.",
            "What is void was discarded when the run was resumed from an earlier checkpoint.",
        ),
        epilog=examples(
            "crewbus show latest",
            "crewbus show 0192f3 --json | jq '.tree[] | select(.state == \"failed\")'",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    add_json_argument(parser, "one JSON object")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Show the run."""
    run_id = find_run(args.run, open_store(args, bus))
    out = Terminal().out
    if args.json:
        out.write(json.dumps(tree_as_json(bus, run_id), indent=2) + "\n")
    else:
        info, top = _read(bus, run_id)
        rows = list(top.walk()) if top is not None else []
        out.write(_header(info, top, out) + ("\n" + _tree(rows, info, out) if rows else ""))
    return 0


def _read(bus: Bus, run_id: str) -> tuple[RunInfo, Entry | None]:
    """What is known of a run, and its entry in the timeline of its root run; None: it has no event yet."""
    root = bus.records.info(bus.store.root_of(run_id) or run_id)
    top = Timeline.of(bus, root.id).run(run_id)
    if top is None or run_id == root.id:
        return root, top
    return _nested_info(top, root, sum(1 for _ in Branch(bus.store, run_id).read())), top


def _nested_info(entry: Entry, root: RunInfo, events: int) -> RunInfo:
    """The info of a nested run."""
    state = _state(entry, root)
    ended = None if state == "running" else entry.at + entry.seconds
    return RunInfo(entry.node.run_id, entry.name, {}, state, entry.at, ended, events, error=entry.error or None)


def _state(entry: Entry, info: RunInfo) -> str:
    """The state to show: what is open is running, suspended or interrupted as its run is."""
    if entry.void:
        return "void"
    return (
        info.state if entry.state == "open" and info.state in ("running", "suspended", "interrupted") else entry.state
    )


# As text


def _header(info: RunInfo, top: Entry | None, out: OutputStream) -> str:
    name = out.styled(one_line(info.name or "run"), "bold")
    state = out.styled(info.state, *STATE_STYLES.get(info.state, ()))
    lines = [
        f"{name} {state}{_duration(info, top)}, {format_count(info.events, 'event')}",
        f"  run      {one_line(info.id)}",
        f"  started  {format_time(info.started)}",
    ]
    if info.error:
        lines.append(f"  error    {out.styled(one_line(info.error), 'red')}")
    if info.holder:
        lines.append(f"  held by  {one_line(info.holder)}")
    if info.parent is not None:
        lines.append(f"  fork of  {one_line(info.parent)} at {info.parent_at}")
    lines += [f"  {one_line(name)} = {one_line(value)}" for name, value in info.tags.items()]
    return "\n".join(lines) + "\n"


def _duration(info: RunInfo, top: Entry | None) -> str:
    """The duration, with and without the pauses before the run was resumed."""
    if info.ended is None:
        return ""
    whole = run_duration(info)
    if top is not None and whole - top.seconds >= 0.01:
        return f" after {format_duration(top.seconds)}, {format_duration(whole)} with pauses"
    return f" after {format_duration(whole)}"


def _tree(rows: list[tuple[int, Entry]], info: RunInfo, out: OutputStream) -> str:
    top = rows[0][1]
    headings = ["what", "state", "start", "duration", "", "details"]
    return format_table(out, [headings, *(_row(depth, entry, top, info) for depth, entry in rows)], _style)


def _row(depth: int, entry: Entry, top: Entry, info: RunInfo) -> list[str]:
    """The cells of an entry, with times relative to ``top``."""
    start, whole = max(0.0, entry.start - top.start), max(top.seconds, 1e-9)
    kind, has_duration = entry.node.kind, entry.node.kind != "checkpoint"
    return [
        "  " * min(depth, _MAX_INDENT) + one_line(f"{kind} {entry.name or '-'}", 60),
        _state(entry, info) + (f" (attempt {entry.attempt})" if entry.attempt > 1 else ""),
        format_duration(start),
        format_duration(entry.seconds) if has_duration else "",
        _bar(start / whole, (start + entry.seconds) / whole, "#" if has_duration else "|"),
        _details(entry),
    ]


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return STATE_STYLES.get(cell.partition(" ")[0], ()) if heading == "state" else ()


def _bar(start: float, end: float, mark: str) -> str:
    """A bar from ``start`` to ``end``, both from 0 to 1."""
    first = min(_BAR_WIDTH - 1, int(start * _BAR_WIDTH))
    last = min(_BAR_WIDTH, max(first + 1, round(end * _BAR_WIDTH)))
    return ("." * first + mark * (last - first)).ljust(_BAR_WIDTH, ".")


def _details(entry: Entry) -> str:
    text, parts = entry.text, []
    if text.chunks:
        parts.append(f"{format_count(text.chunks, 'chunk')}, {format_count(text.characters, 'character')}")
    if text.retracted:
        parts.append(f"{format_count(text.retracted, 'chunk')} retracted")
    if entry.events:
        parts.append(format_count(entry.events, "other event"))
    if entry.edited:
        parts.append("result replaced by the fork")
    return "; ".join([*parts, *([entry.error] if entry.error else [])])


# As JSON


def tree_as_json(bus: Bus, run_id: str) -> dict[str, Any]:
    """What ``crewbus show RUN --json`` prints: the run, nested or not, and what it did. Raises `RunNotFoundError`."""
    info, top = _read(bus, run_id)
    rows = top.walk() if top is not None else ()
    return {**run_as_json(info), "tree": [_entry_as_json(depth, entry, info) for depth, entry in rows]}


def _entry_as_json(depth: int, entry: Entry, info: RunInfo) -> dict[str, Any]:
    node = entry.node
    return {
        "kind": node.kind,
        "name": entry.name,
        "seq": node.seq,
        "parent": node.parent.seq if node.parent is not None else None,
        "depth": depth,
        "run_id": node.run_id,
        "state": _state(entry, info),
        "attempt": entry.attempt,
        "edited": entry.edited,
        "at": entry.at,
        "began": round(entry.start, 6),
        "seconds": round(entry.seconds, 6),
        "chunks": entry.text.chunks,
        "characters": entry.text.characters,
        "retracted": entry.text.retracted,
        "events": entry.events,
        "error": entry.error or None,
    }
