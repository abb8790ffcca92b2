"""Recorded runs as a table, and what else several commands show of them."""

from __future__ import annotations

import time
from typing import Any, Final

import attrs

from crewbus import RunInfo
from crewbus.cli.errors import one_line
from crewbus.cli.formatting import format_duration, format_time
from crewbus.cli.terminal import OutputStream, format_table

STATE_STYLES: Final = {
    "running": ("bold",),
    "open": ("bold",),
    "finished": ("green",),
    "failed": ("red", "bold"),
    "cancelled": ("yellow",),
    "interrupted": ("yellow",),
    "suspended": ("yellow",),
    "retracted": ("dim",),
    "void": ("dim",),
}
"""The styles of the states of runs, steps, calls and attempts."""


def run_as_json(info: RunInfo) -> dict[str, Any]:
    """All fields."""
    return {**attrs.asdict(info), "tags": dict(info.tags)}


def run_duration(info: RunInfo) -> float:
    """The seconds from a run's start to its end, or until now."""
    ended = info.ended if info.ended is not None else time.time()
    return max(0.0, ended - info.started)


def run_table(infos: list[RunInfo], out: OutputStream) -> str:
    """The runs, one per row. The column of forks is omitted if there are none."""
    rows = [["run", "name", "state", "started", "duration", "events", "fork of"], *map(_row, infos)]
    if all(row[-1] == "" for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return format_table(out, rows, _style)


def _row(info: RunInfo) -> list[str]:
    ended = info.ended is not None or info.state == "running"
    cells = (
        info.id,
        info.name or "-",
        info.state,
        format_time(info.started),
        format_duration(run_duration(info)) if ended else "-",
        str(info.events),
        f"{info.parent} at {info.parent_at}" if info.parent is not None else "",
    )
    return [one_line(cell) for cell in cells]


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return STATE_STYLES.get(cell, ()) if heading == "state" else ()
