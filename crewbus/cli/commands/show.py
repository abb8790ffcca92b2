"""``crewbus show``: one record as a tree, with times and a bar for each thing that went on in it."""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from crewbus import Bus, RunInfo
from crewbus.cli.commands.runs import as_json, duration
from crewbus.cli.errors import one_line
from crewbus.cli.formatting import count, moment, took
from crewbus.cli.record_options import STATE_STYLES, add_command, add_run, run_of, store_of
from crewbus.cli.terminal import Channel, Terminal, columns
from crewbus.cli.timeline import Node, Timeline
from crewbus.records.export import Branch

_BAR: Final = 24
_DEEPEST: Final = 24  # levels that are indented

_EXAMPLES = """
    crewbus show latest
    crewbus show 0192f3 --json | jq '.tree[] | select(.state == "failed")'
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "show",
        "show a run: its steps, calls and checkpoints, how they ended and how long they took",
        "Each bar says where in the run's time a thing lay, pauses until it was resumed left out. What is void was "
        "taken back by resuming from a checkpoint before it.",
        _EXAMPLES,
    )
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Show the run."""
    store = store_of(args, bus)
    run_id = run_of(args.run, store)
    root = bus.recorded_run(store.root_of(run_id) or run_id)
    top = Timeline.of(bus, root.id).run(run_id)
    info = root
    if top is not None and run_id != root.id:
        info = _info_of(top, root, sum(1 for _ in Branch(store, run_id).read()))
    rows = list(top.walk()) if top is not None else []
    out = Terminal().out
    if args.json:
        tree = [_node_as_json(depth, node, info) for depth, node in rows]
        out.write(json.dumps({**as_json(info), "tree": tree}, indent=2) + "\n")
    else:
        out.write(_header(info, top, out) + ("\n" + _tree(rows, info, out) if rows else ""))
    return 0


def _info_of(node: Node, root: RunInfo, events: int) -> RunInfo:
    """What is known of a nested run."""
    state = _state(node, root)
    ended = None if state == "running" else node.at + node.seconds
    return RunInfo(node.run_id, node.name, {}, state, node.at, ended, events, error=node.error or None)


def _state(node: Node, info: RunInfo) -> str:
    """The state of a node in words: what is open goes on with the run, or was interrupted with it."""
    if node.void:
        return "void"
    return info.state if node.state == "open" and info.state in ("running", "interrupted") else node.state


# For people


def _header(info: RunInfo, top: Node | None, out: Channel) -> str:
    state = out.paint(info.state, *STATE_STYLES.get(info.state, ()))
    lines = [
        f"{out.paint(one_line(info.name or 'run'), 'bold')} {state}{_after(info, top)}, {count(info.events, 'event')}",
        f"  run      {one_line(info.id)}",
        f"  started  {moment(info.started)}",
    ]
    if info.error:
        lines.append(f"  error    {out.paint(one_line(info.error), 'red')}")
    if info.holder:
        lines.append(f"  held by  {one_line(info.holder)}")
    if info.parent is not None:
        lines.append(f"  fork of  {one_line(info.parent)} at {info.parent_at}")
    lines += [f"  {one_line(name)} = {one_line(value)}" for name, value in info.tags.items()]
    return "\n".join(lines) + "\n"


def _after(info: RunInfo, top: Node | None) -> str:
    """How long it took, with and without the pauses until it was resumed."""
    if info.ended is None:
        return ""
    whole = duration(info)
    paused = top is not None and whole - top.seconds >= 0.01
    return f" after {took(top.seconds)}, {took(whole)} with pauses" if top and paused else f" after {took(whole)}"


def _tree(rows: list[tuple[int, Node]], info: RunInfo, out: Channel) -> str:
    top = rows[0][1]
    cells = [["what", "state", "from", "took", "", "said"], *(_row(depth, node, top, info) for depth, node in rows)]
    return columns(out, cells, _style)


def _row(depth: int, node: Node, top: Node, info: RunInfo) -> list[str]:
    """A node in words, with the times that it has under ``top``."""
    began, whole = max(0.0, node.began - top.began), max(top.seconds, 1e-9)
    lasts = node.kind != "checkpoint"
    return [
        "  " * min(depth, _DEEPEST) + one_line(f"{node.kind} {node.name or '-'}", 60),
        _state(node, info) + (f" (attempt {node.attempt})" if node.attempt > 1 else ""),
        took(began),
        took(node.seconds) if lasts else "",
        _bar(began / whole, (began + node.seconds) / whole, "#" if lasts else "|"),
        _said(node),
    ]


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return STATE_STYLES.get(cell.partition(" ")[0], ()) if heading == "state" else ()


def _bar(start: float, end: float, mark: str) -> str:
    """Where in the whole, from 0 to 1, something began and ended."""
    first = min(_BAR - 1, int(start * _BAR))
    last = min(_BAR, max(first + 1, round(end * _BAR)))
    return ("." * first + mark * (last - first)).ljust(_BAR, ".")


def _said(node: Node) -> str:
    parts = []
    if node.said.chunks:
        parts.append(f"{count(node.said.chunks, 'chunk')}, {count(node.said.characters, 'character')}")
    if node.said.retracted:
        parts.append(f"{count(node.said.retracted, 'chunk')} retracted")
    if node.events:
        parts.append(count(node.events, "other event"))
    if node.edited:
        parts.append("its result was given by the fork")
    return "; ".join([*parts, *([node.error] if node.error else [])])


# For programs


def _node_as_json(depth: int, node: Node, info: RunInfo) -> dict[str, Any]:
    return {
        "kind": node.kind,
        "name": node.name,
        "seq": node.seq,
        "parent": node.parent.seq if node.parent is not None else None,
        "depth": depth,
        "run_id": node.run_id,
        "state": _state(node, info),
        "attempt": node.attempt,
        "edited": node.edited,
        "at": node.at,
        "began": round(node.began, 6),
        "seconds": round(node.seconds, 6),
        "chunks": node.said.chunks,
        "characters": node.said.characters,
        "retracted": node.said.retracted,
        "events": node.events,
        "error": node.error or None,
    }
