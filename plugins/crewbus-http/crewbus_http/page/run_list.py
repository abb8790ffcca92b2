"""A page of the list of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import dropwhile, islice

import attrs

from crewbus import Bus, RunInfo, RunNotFoundError
from crewbus.stores import LogFilter, LogSummary
from crewbus_http.page.query import PAGE, RunQuery


@attrs.frozen
class RunPage:
    """Some of the runs that match, the newest first."""

    query: RunQuery
    runs: list[RunInfo]
    next: str | None
    """The cursor of the next page; None: this is the last one."""


def run_page(bus: Bus, query: RunQuery, size: int = PAGE) -> RunPage:
    """The page of the list that a query asks for. Raises `RunNotFoundError` for a cursor that is not in the list."""
    matching = query.filter()
    # A run may have come into another state since it was the last of a page: the list goes on behind it all the same.
    rest = _after(bus.store.find(LogFilter()), query.after) if query.after else bus.store.find(matching)
    summaries = [*islice(filter(matching.matches, rest) if query.after else rest, size + 1)]
    infos = described(bus, (one.info.root_id for one in summaries[:size]))
    return RunPage(query, infos, summaries[size - 1].info.root_id if len(summaries) > size else None)


def described(bus: Bus, run_ids: Iterable[str]) -> list[RunInfo]:
    """What is known of these runs, without those that somebody has deleted meanwhile."""
    infos = []
    for run_id in run_ids:
        with suppress(RunNotFoundError):
            infos.append(bus.records.info(run_id))
    return infos


def _after(found: Iterator[LogSummary], cursor: str) -> Iterator[LogSummary]:
    """What comes after the run ``cursor``."""
    rest = dropwhile(lambda one: one.info.root_id != cursor, found)
    if next(rest, None) is None:
        raise RunNotFoundError(f"the list does not go on after run {cursor[:80]}: it is not in it any more")
    return rest
