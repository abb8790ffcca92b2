"""The records in a store: list, read, compare, export and prune them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from crewbus._util import awaitable
from crewbus.events import EntitySaved, Envelope
from crewbus.exceptions import InputError, RunNotFoundError
from crewbus.records import pruning
from crewbus.records.checkpoint import Checkpoint, read_checkpoints
from crewbus.records.diff import Divergence, first_divergence
from crewbus.records.export import write_export
from crewbus.records.html import MOST_ROWS, infos_html
from crewbus.records.info import STATES, RunInfo, describe
from crewbus.records.record import Record, require_root
from crewbus.serialization import Codec, Written
from crewbus.stores import LogFilter, Store, StoredEvent

__all__ = ["Records"]

# Named here because `list` is a method of the class.
Infos = list[RunInfo]
Checkpoints = list[Checkpoint]
Ids = list[str]


class Records:
    """The records in a bus's store."""

    def __init__(
        self,
        store: Callable[[], Store],
        decode: Callable[[StoredEvent], Envelope],
        codec: Callable[[], Codec],
    ) -> None:
        self._store = store
        self._decode = decode
        self._codec = codec

    def list(
        self,
        limit: int | None = None,
        *,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        since: float | None = None,
        state: str | Iterable[str] | None = None,
    ) -> Infos:
        """Return the recorded root runs, the newest first; at most ``limit`` of them.

        ``name``, ``tags``: only runs of this name, and with at least these tags. ``since``: only runs that started, or
        were forked, at this time or later, in seconds since the epoch. ``state``: only runs in this state, or in one of
        these; see `RunInfo.state`. The time this takes does not depend on the runs in other states, or with other names
        or tags. Raises `InputError` for a state that there is not.
        """
        states = frozenset([state] if isinstance(state, str) else state) if state is not None else None
        if states is not None and not states <= STATES:
            unknown = ", ".join(sorted(map(repr, states - STATES)))
            raise InputError(f"no run is ever {unknown}: the states are {', '.join(sorted(STATES))}")
        query = LogFilter(states, name, tags or {}, since, limit)
        return [describe(summary, self._decode) for summary in self._store().find(query)]

    def _repr_html_(self) -> str:
        return infos_html(self.list(limit=MOST_ROWS + 1))

    def info(self, run_id: str) -> RunInfo:
        """Describe a recorded root run; raises `RunNotFoundError` if the store has no run of that id."""
        store = self._store()
        require_root(store, run_id)
        if store.info(run_id).last < 0:
            raise RunNotFoundError(f"run {run_id} has no events in {store!r}")
        return describe(store.summary(run_id), self._decode)

    def get(self, run_id: str) -> Record:
        """Return the record of a run, live or finished; raises `RunNotFoundError` if there is none."""
        return Record.find(self._store(), run_id, self._decode)

    def record_html(self, run_id: str) -> str:
        """The record of a run as HTML, as notebooks show it; raises `RunNotFoundError`."""
        return self.get(run_id)._repr_html_()

    def checkpoints(self, run_id: str) -> Checkpoints:
        """Return the checkpoints of a recorded run that a resume or fork can start from, in order."""
        return read_checkpoints(self.get(run_id), self._entity)

    def _entity(self, saved: EntitySaved) -> Any:
        return self._codec().read(Written(saved.data, saved.type, saved.version), Any)

    def diff(self, one: str, other: str) -> Divergence | None:
        """Return where two recorded runs diverge first, in the order of the first; None if they do not.

        Each run and step is compared by itself, so concurrent ones may interleave differently. Times, ids and
        numbers do not count. Raises `RunNotFoundError`.
        """
        return first_divergence(self.get(one), self.get(other), self._codec().encode)

    def export(self, run_id: str, path: str | Path) -> int:
        """Write the record of a root run to a file, as JSON Lines, and return the number of events.

        `crewbus.testing.replayed` and any JSON tool can read it. Raises `RunNotFoundError`, and `CorruptRecordError`
        for an event that is not JSON.
        """
        info = attrs.asdict(self.info(run_id))
        del info["id"]  # the format has it as "run"
        with Path(path).open("w", encoding="utf-8", newline="\n") as out:
            return write_export(out, self._store(), run_id, info)

    def prune(self, keep: int | None = None, older_than: float | None = None, dry_run: bool = False) -> Ids:
        """Drop recorded root runs for good, and return their ids, the newest first.

        ``keep``: how many of the newest runs to keep in any case. ``older_than``: drop only runs whose last event is
        at least this many seconds old. Give at least one. A live run is never dropped, nor one that a remaining fork
        needs. ``dry_run`` drops nothing.
        """
        return pruning.prune(self._store(), keep, older_than, time.time(), dry_run)

    # For event loops

    alist = awaitable(list)  # noqa: A003 - the method above
    ainfo = awaitable(info)
    aget = awaitable(get)
    acheckpoints = awaitable(checkpoints)
    adiff = awaitable(diff)
    aexport = awaitable(export)
    aprune = awaitable(prune)
