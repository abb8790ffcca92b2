"""History: what is recorded of runs, and what is done with it besides going on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from crewbus.dispatch.dispatcher import now
from crewbus.durability.resume import Resumption
from crewbus.events import EntitySaved, Envelope, RunCancelled, RunFailed, RunFinished, RunStarted
from crewbus.exceptions import DecodeError, InputError, RecordingError, RunNotFoundError
from crewbus.records.diff import Divergence, first_divergence
from crewbus.records.export import write_export
from crewbus.records.progress import find_checkpoint
from crewbus.records.record import Record
from crewbus.scopes.run import RecordingRequest, Run
from crewbus.serialization.codec import Written
from crewbus.stores import LogInfo, Store

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus

__all__ = ["Checkpoint", "RunInfo"]


@attrs.frozen
class RunInfo:
    """A recorded root run: what it is, and how it stands."""

    id: str
    name: str | None
    tags: dict[str, str]
    state: str
    """"running", "finished", "failed", "cancelled", or "interrupted": whoever carried it out is gone."""
    started: float
    """In seconds since the epoch (UTC)."""
    ended: float | None
    """When its last event was emitted, unless it is running."""
    events: int
    """How many its record holds, those that a fork shares among them."""
    holder: str | None = None
    """Who carries it out, in words."""
    parent: str | None = None
    """The run that it was forked of."""
    parent_at: int | None = None
    """The number of the last event that it shares with that."""
    error: str | None = None
    """What it failed with."""


@attrs.frozen(eq=False)
class Checkpoint:
    """A named position in the record of a run, and the entities as they were then."""

    name: str
    seq: int
    """Its number in the record."""
    at: float
    """When it was saved, in seconds since the epoch (UTC)."""
    entities: dict[str, int]
    """By the names of the entities: the number of the event that holds the state."""
    _bus: History = attrs.field(repr=False)
    _record: Record = attrs.field(repr=False)

    def entity(self, name: str) -> Any:
        """An entity as it was; another object at each call.

        Raises `RunNotFoundError` where none of that name was tracked, and `DecodeError`.
        """
        if name not in self.entities:
            there = ", ".join(self.entities) or "none"
            raise RunNotFoundError(f"checkpoint {self.name!r} keeps no entity {name!r}; there are: {there}")
        event = self._record.at(self.entities[name]).event
        if not isinstance(event, EntitySaved):
            raise DecodeError(f"event {self.entities[name]} of run {self._record.run_id} is not the state of {name!r}")
        return self._bus._coder().read(Written(event.data, event.type, event.version), Any)


class History(Resumption):
    """Lists, tells again, compares and prunes what is recorded."""

    def recorded_runs(self, limit: int | None = None) -> list[RunInfo]:
        """The recorded root runs, the newest first; at most ``limit`` of them."""
        found = filter(None, map(self._begun, reversed(self.store.roots())))
        return list(islice(found, limit))

    def _begun(self, root_id: str) -> RunInfo | None:
        """How a run stands; None where nothing of it is there: it was killed at once, or dropped meanwhile."""
        try:
            info = self.store.info(root_id)
            return self._run_info(info) if info.last >= 0 else None
        except RunNotFoundError:
            return None

    def recorded_run(self, run_id: str) -> RunInfo:
        """How a recorded root run stands; raises `RunNotFoundError` if there is none of that id."""
        self._refuse_nested(self.store, run_id)
        info = self.store.info(run_id)
        if info.last < 0:
            raise RunNotFoundError(f"nothing of run {run_id} is in {self.store!r}")
        return self._run_info(info)

    def _run_info(self, info: LogInfo) -> RunInfo:
        root_id = info.root_id
        record = Record(self.store, root_id, root_id, self.decode)
        first, last, end = record.at(0), self.store.event(root_id, info.last), record.end()
        started = first.event if isinstance(first.event, RunStarted) else RunStarted()
        state = _state(info, end)
        return RunInfo(
            root_id,
            started.name,
            dict(started.tags),
            state,
            first.at,
            None if state == "running" else last.at,
            info.last + 1,
            info.holder if info.alive else None,
            info.parent,
            info.parent_at,
            f"{end.event.error}: {end.event.message}" if end and isinstance(end.event, RunFailed) else None,
        )

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """The checkpoints of a recorded run that can be resumed or forked from, in order."""
        record = self.record_of(run_id)
        return [
            Checkpoint(one.event.name, one.seq, one.at, dict(one.event.entities), self, record)
            for one in reversed(list(find_checkpoint(record.marks())))
        ]

    # Telling again

    def replay(self, run_id: str) -> int:
        """Tell handlers and observers again what is recorded of a run, in order, marked ``replayed``.

        Returns how many events that were. Nothing is recorded or streamed. Raises `RunNotFoundError`, `DecodeError`.
        """
        runs: dict[str, Run] = {}
        told = 0
        for envelope in self.record_of(run_id):
            event = envelope.event
            if isinstance(event, RunStarted) and envelope.run_id is not None:
                runs[envelope.run_id] = self._told_of(envelope.run_id, event, runs)
            run = runs.get(envelope.run_id or "")
            plan = self._plan_of(event)
            for worker in plan.queues:
                worker.push(self, run, envelope)
            self._deliver(plan, run, envelope)
            for worker in plan.queues:
                worker.wait_for_room()
            told += 1
        return told

    def _told_of(self, run_id: str, started: RunStarted, runs: dict[str, Run]) -> Run:
        run = Run(cast("Bus", self), started.name, run_id, started.tags, RecordingRequest())
        run.parent = runs.get(started.parent_run or "")
        run.root = run.parent.root if run.parent is not None else run
        run.state = "finished"
        return run

    def export(self, run_id: str, path: str | Path) -> int:
        """Write what is recorded of a root run to a file, as JSON Lines; returns how many events that is.

        For `crewbus.testing.replayed`, or whatever reads JSON. Raises `RunNotFoundError`, and `CorruptRecordError` for
        an event that is no JSON.
        """
        info = attrs.asdict(self.recorded_run(run_id))
        del info["id"]  # which the format calls the run
        with Path(path).open("w", encoding="utf-8", newline="\n") as out:
            return write_export(out, self.store, run_id, info)

    # Comparing

    def diff(self, one: str, other: str) -> Divergence | None:
        """Where two recorded runs diverge first, in the order of the first; None: nowhere.

        Each run and step is compared for itself, so that those at once may take turns differently. Times, ids and
        numbers do not count. Raises `RunNotFoundError`.
        """
        return first_divergence(self.record_of(one), self.record_of(other), self._coder().encode)

    # Retention

    def prune(self, keep: int | None = None, older_than: float | None = None, dry_run: bool = False) -> list[str]:
        """Drop recorded root runs for good, and return their ids, the newest first.

        ``keep``: how many of the newest stay in any case. ``older_than``: those stay whose last event is not so many
        seconds old. At least one must be given. Runs that are alive stay, and those that a fork which stays needs.
        ``dry_run`` drops nothing.
        """
        if keep is None and older_than is None:
            raise InputError("prune() drops what it is told to: give keep= or older_than=")
        if (keep is not None and keep < 0) or (older_than is not None and older_than < 0):
            raise InputError(f"prune(keep={keep}, older_than={older_than}): both are numbers from 0")
        store = self.store
        infos = {info.root_id: info for info in map(self._info_of, reversed(store.roots())) if info is not None}
        limit = None if older_than is None else now() - older_than
        going = [
            root
            for number, (root, info) in enumerate(infos.items())
            if not info.alive and number >= (keep or 0) and _is_older(store, info, limit)
        ]
        needed = {ancestor for root in infos.keys() - set(going) for ancestor in _ancestors(infos, root)}
        dropped = [root for root in going if root not in needed]
        if dry_run:
            return dropped
        youngest_first = sorted(dropped, key=lambda root: -len(_ancestors(infos, root)))
        gone = {root for root in youngest_first if self._drop(root)}
        return [root for root in dropped if root in gone]

    def _info_of(self, root_id: str) -> LogInfo | None:
        with suppress(RunNotFoundError):  # another process has dropped it meanwhile
            return self.store.info(root_id)
        return None

    def _drop(self, root_id: str) -> bool:
        """Whether a record was there to be dropped."""
        try:
            self.store.drop(root_id)
        except RunNotFoundError:
            return False
        except RecordingError:
            info = self._info_of(root_id)
            if info is None or info.alive or self.store.forks(root_id):  # somebody goes on with it since
                return False
            raise
        return True


def _ancestors(infos: Mapping[str, LogInfo], root_id: str) -> list[str]:
    found: list[str] = []
    parent = infos[root_id].parent
    while parent is not None and parent in infos:
        found.append(parent)
        parent = infos[parent].parent
    return found


def _is_older(store: Store, info: LogInfo, limit: float | None) -> bool:
    if limit is None or info.last < 0:
        return True
    try:
        return store.event(info.root_id, info.last).at < limit
    except RunNotFoundError:
        return False


def _state(info: LogInfo, end: Envelope | None) -> str:
    if info.alive and not info.sealed:  # also one that has just been resumed
        return "running"
    if end is None:
        return "interrupted"
    return {RunFinished: "finished", RunFailed: "failed", RunCancelled: "cancelled"}[type(end.event)]
