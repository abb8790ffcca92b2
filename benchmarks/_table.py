"""The table: what was measured against what, on what, and whether it is within its budget; printed and written."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks._harness import Size

OURS: Final = ("crewbus", "crewbus-sqlite", "crewbus-workers", "attrs", "cattrs", "packaging", "pluggy")
PEERS: Final = {
    "blinker": "blinker",
    "pyee": "pyee",
    "anyio": "anyio",
    "langchain-core": "langchain_core",
    "langgraph": "langgraph",
    "langgraph-checkpoint-sqlite": "langgraph.checkpoint.sqlite",
    "llama-index-instrumentation": "llama_index_instrumentation",
    "llama-index-workflows": "workflows",
    "eventsourcing": "eventsourcing",
    "dbos": "dbos",
    "crewai": "crewai",
}
"""Each peer by the name of its distribution, with the module that it is imported by."""
GET: Final = "python -m pip install {}"


@attrs.frozen
class Row:
    """One line of the table: ours against a peer as a ratio, or, without a peer, ours against a limit."""

    what: str
    ours: float
    peer: float | None
    budget: float | None = None
    """The ratio, or without a peer the amount, that is allowed; None: for comparison only."""
    unit: str = "ns"

    @property
    def ratio(self) -> float | None:
        return None if self.peer is None else self.ours / self.peer

    @property
    def measured(self) -> float:
        """What a budget is of: the ratio, or without a peer the amount."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        return None if self.budget is None else self.measured <= self.budget

    def cells(self) -> tuple[str, ...]:
        met = {None: "", True: "met", False: "NOT MET"}[self.met]
        asked = "" if self.budget is None else _figure(self.budget, self.peer is not None)
        peer = "" if self.peer is None else _figure(self.peer)
        return self.what, self.unit, _figure(self.ours), peer, _figure(self.measured, self.peer is not None), asked, met


def _figure(number: float, is_ratio: bool = False) -> str:
    """Two digits behind the point for a ratio, three where the first two would be noughts; else none from ten on."""
    if is_ratio:
        return f"{number:.2f}" if number >= 0.1 else f"{number:.3f}"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2f}"


@attrs.frozen
class Curve:
    """A cost as it grows with something: points ``(x, cost)`` for us, and for peers beside us."""

    name: str
    """What is measured, which is also what its picture is called."""
    x: str
    """What it is measured against."""
    series: Mapping[str, list[tuple[float, float]]]
    """The points by who they are of; ``ours`` is among them."""
    unit: str = "ns"
    budget: float | None = None
    """By what factor ours may grow from the first point to the last."""

    def row(self) -> Row:
        """Its last point against its first, as a line of the table."""
        (first, low), *_, (last, high) = self.series["ours"]
        return Row(f"{self.name}: at {last:,.0f} {self.x} / at {first:,.0f}", high, low, self.budget, self.unit)


Line = Row | Curve
Lines = Callable[[Size], Iterable[Line]]

HEAD: Final = ("what", "unit", "ours", "peer", "measured", "asked", "")
_WHAT: Final = 92
"""How wide the first column is."""


def show(lines: Iterable[Line]) -> Iterator[Line]:
    """Print each line as soon as it is measured, and pass it on."""
    print(_printed(HEAD))
    for line in lines:
        print(_printed((line if isinstance(line, Row) else line.row()).cells()), flush=True)
        yield line


def _printed(cells: tuple[str, ...]) -> str:
    what, unit, ours, peer, ratio, asked, met = cells
    return f"{what:<{_WHAT}} {unit:<5} {ours:>9} {peer:>9} {ratio:>9} {asked:>9}  {met}".rstrip()


def versions() -> dict[str, str]:
    """What the figures are of: Python, SQLite, ours and the peers, by name."""
    found = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
    }
    for name in (*OURS, *PEERS):
        found[name] = version(name) if _has(name) else "not installed"
    return found


def _has(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def as_json(lines: Iterable[Line]) -> dict[str, Any]:
    """The table as it is written: versions and machine, rows with ratio and met, curves."""
    lines = list(lines)
    rows = [line if isinstance(line, Row) else line.row() for line in lines]
    return {
        "versions": versions(),
        "machine": machine(),
        "rows": [{**attrs.asdict(row), "ratio": row.ratio, "met": row.met} for row in rows],
        "curves": [attrs.asdict(line) for line in lines if isinstance(line, Curve)],
    }


def as_markdown(table: Mapping[str, Any]) -> str:
    """The table as `as_json` has it, for people."""
    known = ", ".join(f"{name} {number}" for name, number in table["versions"].items() if number != "not installed")
    lines = [
        f"{known}; {table['machine']}",
        "",
        "| what | unit | ours | peer | measured | asked | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row in table["rows"]:
        fields = {field.name: row[field.name] for field in attrs.fields(Row)}
        lines.append(f"| {' | '.join(Row(**fields).cells())} |")
    return "\n".join(lines) + "\n"


def summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """How many budgets are met."""
    met = [row["met"] for row in rows]
    return f"{met.count(True)} budgets met, {met.count(False)} not; the other rows are for comparison."


def measured(script: str, size: Size) -> dict[str, Any]:
    """The table of a script of this folder, printed as it is measured."""
    rows: Lines = import_module(f"benchmarks.{script}").rows
    return as_json(show(rows(size)))


def head() -> str:
    """A line that says what is measured, and on what; and one for each peer that is not there, with how to get it."""
    known = ", ".join(f"{name} {number}" for name, number in versions().items()) + f" ({machine()})"
    absent = [f"{name} is not installed, and has no rows: {GET.format(name)}" for name in PEERS if not _has(name)]
    return "\n".join([known, *absent])


def main(*parts: Lines) -> None:
    """The command line of a script: measure its ``parts``, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description="Print what the bus costs, next to what it may cost.")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table there as well")
    parser.add_argument("--quick", action="store_true", help="only try the script: the figures mean nothing")
    options = parser.parse_args()
    print(f"{head()}\n", flush=True)
    size = Size(options.quick)
    table = as_json(show(line for part in parts for line in part(size)))
    print(f"\n{summary(table['rows'])}")
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=2) + "\n")
