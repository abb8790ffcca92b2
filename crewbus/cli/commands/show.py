"""``crewbus show``: show the tree of a recorded run, with times and bars."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any, Final

from crewbus import Bus, RunInfo
from crewbus._util import format_count, format_duration, format_time, one_line
from crewbus.cli.formatting import examples, format_age, non_negative_int, paragraph
from crewbus.cli.launch_tags import BATCH_TAG
from crewbus.cli.record_arguments import add_json_argument, add_run_argument, add_store_argument, open_store
from crewbus.cli.run_ids import find_run
from crewbus.cli.run_table import STATE_STYLES, run_as_json, run_duration
from crewbus.cli.table import format_table
from crewbus.cli.terminal import OutputStream, Terminal
from crewbus.cli.text import TIMES
from crewbus.cli.tree_rows import FoldedTree, Tree, cut, fold, matching
from crewbus.records import Branch, Entry

if TYPE_CHECKING:
    from crewbus.plugins import Commands

_BARS: Final = (110, 24), (90, 8)
"""From which width of the terminal there is room for a bar, and how wide it is then."""
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
            "crewbus show latest --failed",
            "crewbus show latest --step search --unfold",
            "crewbus show 0192f3 --json | jq '.tree[] | select(.state == \"failed\")'",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    add_store_argument(parser)
    add_run_argument(parser)
    option = parser.add_argument
    option("--step", metavar="NAME", help="only steps of this name, with what is around and in them")
    option("--failed", action="store_true", help="only what failed, with what is around and in it")
    option("--depth", metavar="N", type=non_negative_int, help="at most N levels below the run")
    option("--unfold", action="store_true", help="a row for each of several equal steps that follow each other")
    option("--no-pager", action="store_true", help="print all at once, also what is longer than the terminal")
    add_json_argument(parser, "one JSON object")


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Show the run."""
    run_id = find_run(args.run, open_store(args, bus))
    info, top = _read(bus, run_id)
    rows = _chosen(list(top.walk()) if top is not None else [], args)
    out = Terminal().out
    if args.json:
        out.write(json.dumps(_as_json(info, rows), indent=2) + "\n")
    else:
        folded: FoldedTree = [(depth, (entry,)) for depth, entry in rows] if args.unfold else fold(rows)
        filtered = args.failed or args.step is not None
        table = _tree(folded, info, out) if len(rows) > filtered else "nothing in it matches\n" if filtered else ""
        text = _header(info, top, out) + ("\n" + table if table else "")
        (out.write if args.no_pager else out.page)(text)
    return 0


def _read(bus: Bus, run_id: str) -> tuple[RunInfo, Entry | None]:
    """What is known of a run, and its entry in the timeline of its root run; None: it has no event yet."""
    root = bus.records.info(bus.store.root_of(run_id) or run_id)
    top = bus.records.get(root.id).timeline().run(run_id)
    if top is None or run_id == root.id:
        return root, top
    return _nested_info(top, root, sum(1 for _ in Branch(bus.store, run_id).read())), top


def _chosen(tree: Tree, args: argparse.Namespace) -> Tree:
    """The rows that the arguments ask for."""
    if args.step is not None:
        tree = matching(tree, lambda entry: entry.node.kind == "step" and entry.name == args.step)
    if args.failed:
        tree = [*tree[:1], *matching(tree[1:], lambda entry: entry.state == "failed")]
    return tree if args.depth is None else cut(tree, args.depth)


def _nested_info(entry: Entry, root: RunInfo, events: int) -> RunInfo:
    """The info of a nested run."""
    state = entry.state_in(root)
    ended = None if state == "running" else entry.at + entry.seconds
    return RunInfo(entry.node.run_id, entry.name, {}, state, entry.at, ended, events, error=entry.error or None)


# As text


def _header(info: RunInfo, top: Entry | None, out: OutputStream) -> str:
    name = out.styled(one_line(info.name or "run"), "bold")
    state = out.styled(info.state, *STATE_STYLES.get(info.state, ()))
    lines = [
        f"{name} {state}{_duration(info, top)}, {format_count(info.events, 'event')}",
        f"  run      {one_line(info.id)}",
        f"  started  {format_time(info.started)} ({format_age(info.started, time.time())})",
    ]
    if info.error:
        lines.append(f"  error    {out.styled(one_line(info.error), 'red')}")
    if info.holder:
        lines.append(f"  held by  {one_line(info.holder)}")
    if info.parent is not None:
        lines.append(f"  fork of  {one_line(info.parent)} at {info.parent_at}")
    tags = {name: value for name, value in info.tags.items() if name != BATCH_TAG}
    lines += [f"  {one_line(name)} = {one_line(value)}" for name, value in tags.items()]
    return "\n".join(lines) + "\n"


def _duration(info: RunInfo, top: Entry | None) -> str:
    """The duration, with and without the pauses before the run was resumed."""
    if info.ended is None:
        return ""
    whole = run_duration(info)
    if top is not None and whole - top.seconds >= 0.01:
        return f" after {format_duration(top.seconds)}, {format_duration(whole)} with pauses"
    return f" after {format_duration(whole)}"


def _tree(rows: FoldedTree, info: RunInfo, out: OutputStream) -> str:
    top = rows[0][1][0]
    bar_width = next((bar for width, bar in _BARS if not out.is_terminal or out.width >= width), 0)
    headings = ["what", "state", "start", "duration", "", "details"]
    table = [headings, *(_row(depth, entries, top, info, bar_width) for depth, entries in rows)]
    kept = [at for at, column in enumerate(zip(*table[1:], strict=True)) if any(column)]
    table = [[row[at] for at in kept] for row in table]
    return format_table(out, table, _style, whole=headings[1:])


def _row(depth: int, entries: tuple[Entry, ...], top: Entry, info: RunInfo, bar_width: int) -> list[str]:
    """The cells of a row, with times relative to ``top``."""
    entry, last = entries[0], entries[-1]
    start, whole = max(0.0, entry.start - top.start), max(top.seconds, 1e-9)
    end = max(start, last.start + last.seconds - top.start)
    kind, has_duration = entry.node.kind, entry.node.kind != "checkpoint"
    times = f" {TIMES}{len(entries):,}" if len(entries) > 1 else ""
    return [
        "  " * min(depth, _MAX_INDENT) + one_line(f"{kind} {entry.name or '-'}", 60) + times,
        entry.state_in(info) + (f" (attempt {entry.attempt})" if entry.attempt > 1 else ""),
        format_duration(start),
        format_duration(sum(each.seconds for each in entries)) if has_duration else "",
        _bar(start / whole, end / whole, bar_width, "#" if has_duration else "|"),
        _details(entries),
    ]


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return STATE_STYLES.get(cell.partition(" ")[0], ()) if heading == "state" else ()


def _bar(start: float, end: float, width: int, mark: str) -> str:
    """A bar from ``start`` to ``end``, both from 0 to 1."""
    first = max(0, min(width - 1, int(start * width)))
    last = min(width, max(first + 1, round(end * width)))
    return ("." * first + mark * (last - first)).ljust(width, ".")


def _details(entries: tuple[Entry, ...]) -> str:
    entry, parts = entries[0], []
    if entry.key:
        parts.append(f"key {one_line(entry.key, 40)}")
    if len(entries) == 1 and entry.content:
        parts.append(entry.content)
    if chunks := sum(each.text.chunks for each in entries):
        characters = sum(each.text.characters for each in entries)
        parts.append(f"{format_count(chunks, 'chunk')}, {format_count(characters, 'character')}")
    if retracted := sum(each.text.retracted for each in entries):
        parts.append(f"{format_count(retracted, 'chunk')} retracted")
    if events := sum(each.events for each in entries):
        parts.append(format_count(events, "other event"))
    if entry.edited:
        parts.append("result replaced by the fork")
    return "; ".join([*parts, *([entry.error] if entry.error else [])])


# As JSON


def tree_as_json(bus: Bus, run_id: str) -> dict[str, Any]:
    """What ``crewbus show RUN --json`` prints: the run, nested or not, and what it did. Raises `RunNotFoundError`."""
    info, top = _read(bus, run_id)
    return _as_json(info, list(top.walk()) if top is not None else [])


def _as_json(info: RunInfo, rows: Tree) -> dict[str, Any]:
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
        "state": entry.state_in(info),
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
