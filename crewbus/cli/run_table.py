"""Recorded runs as a table, and what else several commands show of them."""

from __future__ import annotations

import time
from typing import Any, Final

import attrs

from crewbus import RunInfo
from crewbus._util import format_duration, format_time, one_line
from crewbus.cli.formatting import format_age
from crewbus.cli.run_ids import short_id
from crewbus.cli.table import format_table
from crewbus.cli.terminal import OutputStream

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


def run_table(infos: list[RunInfo], out: OutputStream, *, long: bool = False) -> str:
    """The runs, one per row; ``long``: with whole ids and times. The column of forks is omitted if there are none."""
    now = time.time()
    rows = [["run", "name", "state", "started", "duration", "events", "fork of"]]
    rows += [_row(info, now, long=long) for info in infos]
    if all(row[-1] == "" for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return format_table(out, rows, _style, whole=("run", "state", "started", "duration"))


def _row(info: RunInfo, now: float, *, long: bool) -> list[str]:
    name = one_line if long else short_id
    ended = info.ended is not None or info.state == "running"
    cells = (
        info.name or "-",
        info.state,
        format_time(info.started) if long else format_age(info.started, now),
        format_duration(run_duration(info)) if ended else "-",
        f"{info.events:,}",
        f"{name(info.parent)} at {info.parent_at}" if info.parent is not None else "",
    )
    return [name(info.id), *map(one_line, cells)]


def _style(heading: str, cell: str) -> tuple[str, ...]:
    return STATE_STYLES.get(cell, ()) if heading == "state" else ()
