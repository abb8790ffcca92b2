"""``crewbus tail``: the events of a record as lines, also as they are written."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any, Final

from crewbus import Bus, Store
from crewbus.cli.errors import one_line
from crewbus.cli.formatting import moment
from crewbus.cli.record_options import add_command, add_run, run_of, store_of
from crewbus.cli.terminal import Channel, Terminal
from crewbus.cli.timeline import GOING_ON
from crewbus.records.export import Branch, as_json
from crewbus.stores import ENDS, StoredEvent

_PAUSE: Final = 0.1
"""How many seconds pass between two looks at a record that somebody else writes."""
_WIDEST: Final = 48  # characters of what an event belongs to
_NOTHING: Final[tuple[Any, ...]] = (None, "", [], {})
_OPENING: Final = frozenset(f"crewbus.{name}Started" for name in ("Run", "Step", "Call", "Attempt"))

_EXAMPLES = """
    crewbus tail latest
    crewbus tail 0192f3 --follow
    crewbus tail latest --follow --json | jq -r 'select(.name == "crewbus.Chunk").event.text'
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "tail",
        "print the events of a run: number, time, what they belong to, type, text",
        "With --follow it goes on until the run ends, also one of another process.",
        _EXAMPLES,
    )
    add_run(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="go on with what is yet to come")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each event, and nothing else")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace, bus: Bus) -> int:
    """Print the events."""
    store = store_of(args, bus)
    branch = Branch(store, run_of(args.run, store))
    out = Terminal().out
    lines = _Lines(out)
    for stored in _followed(store, branch) if args.follow else branch.read():
        out.write(json.dumps(as_json(stored)) + "\n" if args.json else lines.line(stored))
    return 0


def _followed(store: Store, branch: Branch) -> Iterator[StoredEvent]:
    """The events that there are and those to come, until the run has ended or nobody goes on with it."""
    over = False
    while True:
        info = store.info(branch.root_id)  # before reading, so that nothing it wrote last is missed
        for stored in branch.read():
            ends = stored.name in ENDS and stored.run_id == branch.run_id
            over = (over or ends) and stored.name not in GOING_ON
            yield stored
        if over:
            return
        if not info.alive:
            yield _interrupted(branch.run_id, info.holder)
            return
        time.sleep(_PAUSE)


def _interrupted(run_id: str, holder: str | None) -> StoredEvent:
    """What a stream would end with: it stands in no record, and has no number."""
    data = json.dumps({"holder": holder or ""}).encode()
    return StoredEvent(run_id, -1, None, time.time(), None, 1, "crewbus.RunInterrupted", 1, data)


class _Lines:
    """Puts events in words, for people."""

    def __init__(self, out: Channel) -> None:
        self._out = out
        self._paths: dict[int, str] = {}

    def line(self, stored: StoredEvent) -> str:
        """One event, on one line."""
        path = self._path(stored)
        number = str(stored.seq) if stored.seq >= 0 else "-"
        when = self._out.paint(f"{number:>6}  {moment(stored.at, day=False)}", "dim")
        name = self._out.paint(one_line(stored.name.removeprefix("crewbus.")), "bold")
        return f"{when}  {one_line(path)}  {name}  {summary(stored.data)}".rstrip() + "\n"

    def _path(self, stored: StoredEvent) -> str:
        """What the event belongs to: the names around it, the outermost first."""
        number = (stored.parent or "").rpartition(":")[2]
        around = self._paths.get(int(number), "") if number.isdecimal() and len(number) < 20 else ""
        data = _value(stored.data) if stored.name in _OPENING else None
        if not isinstance(data, dict):
            return around or "-"
        kind = stored.name.removeprefix("crewbus.").removesuffix("Started").lower()
        name = str(data.get("name") or f"{kind} {data.get('number', '')}".strip())
        path = f"{around}/{name}" if around else name
        self._paths[stored.seq] = path if len(path) <= _WIDEST else f"...{path[3 - _WIDEST :]}"
        return self._paths[stored.seq]


def _value(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return repr(data)


def summary(encoded: bytes) -> str:
    """What the JSON of an event says, on one line."""
    data = _value(encoded)
    if not isinstance(data, dict):
        return one_line(str(data))
    if "text" in data:  # of a chunk, and what is like one
        data = {**({"kind": data["kind"]} if data.get("kind", "text") != "text" else {}), "text": data["text"]}
    said = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in data.items() if value not in _NOTHING]
    return one_line("  ".join(said))
