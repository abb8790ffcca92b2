"""The operations on runs that all routes share. They are built on public names of crewbus alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import attrs

import crewbus
from crewbus import InputError, RunFinished, RunInfo, RunNotFoundError
from crewbus.cli import run_as_json, tree_as_json
from crewbus_http.authorize import Access, Found
from crewbus_http.changes import Changes
from crewbus_http.feeds import Feeds, Place
from crewbus_http.frames import Encoder, Frame
from crewbus_workers import QueueOptions, Workflow, find_workflow, queue_run, registered, requeue, send

if TYPE_CHECKING:
    from crewbus import Bus
    from crewbus_http.authorize import Authorize

__all__ = ["RunService", "Started"]

HEARTBEAT: Final = 15.0
"""How many seconds pass at most until a follower hears something."""
LONGEST_ID: Final = 1024
ENDED: Final = frozenset({"finished", "failed", "cancelled"})
"""The states of runs that have ended."""


@attrs.frozen(kw_only=True)
class Started:
    """How a run is to be started; as for `crewbus_workers.enqueue`."""

    id: str | None = None
    queue: str = "default"
    delay: float = 0.0
    key: str | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict)
    version: int | None = None


class RunService:
    """What can be done with the runs of a bus, for the routes. Its coroutines belong to one event loop.

    ``write``: whether anything may be changed. ``reveal``: whether answers tell what failures said and which process
    executes a run. ``heartbeat``: after how many silent seconds `events` yields None.
    """

    def __init__(
        self,
        bus: Bus,
        authorize: Authorize | None = None,
        *,
        write: bool = False,
        reveal: bool | None = None,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self.bus: Final = bus
        self.write: Final = write
        self.reveal: Final = authorize is None if reveal is None else reveal
        self.heartbeat: Final = heartbeat
        self.access: Final = Access(self.find, authorize, write=write)
        self.encoder: Final = Encoder(bus, reveal=self.reveal)

    # Looking

    def workflows(self) -> list[Workflow[..., Any]]:
        """The workflows that can be started here."""
        return sorted(registered(), key=lambda one: (one.name, one.version))

    async def find(self, run_id: str) -> Found:
        """The run of this id. Raises `RunNotFoundError`."""
        if not 0 < len(run_id) <= LONGEST_ID or not _is_storable(run_id):
            raise RunNotFoundError("no run has such an id")
        return await asyncio.to_thread(self._found, run_id)

    def _found(self, run_id: str) -> Found:
        root_id = self.bus.store.root_of(run_id)
        if root_id is None:
            raise RunNotFoundError(f"run {run_id} is not recorded")
        return Found(run_id, self.bus.records.info(root_id))

    async def root_of(self, run_id: str) -> str | None:
        """The id of the root run of a run; None: it is not recorded."""
        return await asyncio.to_thread(self.bus.store.root_of, run_id)

    async def list(
        self,
        limit: int,
        *,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        since: float | None = None,
        state: Iterable[str] | None = None,
    ) -> list[RunInfo]:
        """The root runs, the newest first; see `Records.list`."""
        return await self.bus.records.alist(limit, name=name, tags=tags, since=since, state=state or None)

    def info_as_json(self, info: RunInfo) -> dict[str, Any]:
        """What is known of a run: see "A run" among the JSON forms of crewbus."""
        return self._told(run_as_json(info))

    def _told(self, fields: dict[str, Any]) -> dict[str, Any]:
        if not self.reveal:
            fields |= {"holder": None} if "holder" in fields else {}
            fields["error"] = fields["error"].partition(":")[0] if fields["error"] is not None else None
        return fields

    async def tree(self, run_id: str) -> dict[str, Any]:
        """A run and what it did, as JSON: see "What a run did" among the JSON forms of crewbus."""
        told = await asyncio.to_thread(tree_as_json, self.bus, run_id)
        return self._told(told | {"tree": [self._told(entry) for entry in told["tree"]]})

    async def result(self, run_id: str, seconds: float = 0.0) -> dict[str, Any]:
        """How a run has ended, as JSON; waits at most ``seconds`` for that."""
        end = await self._end(run_id)
        if end is None and seconds > 0:
            with contextlib.suppress(Exception):  # the failure of the run, or that it goes on
                await self.bus.aresult(run_id, seconds)
            end = await self._end(run_id)
        if end is None:
            return {"run": run_id, "state": "unfinished", "result": None, "type": None, "error": None}
        state = type(end.event).__name__.removeprefix("Run").lower()
        event = self.encoder.as_json(end)["event"]
        is_finished = isinstance(end.event, RunFinished)
        error = {"type": event["error"], "message": event["message"]} if state == "failed" else None
        return {
            "run": run_id,
            "state": state,
            "result": event["result"] if is_finished else None,
            "type": event["type"] if is_finished else None,
            "error": error,
        }

    async def _end(self, run_id: str) -> crewbus.Envelope | None:
        return await asyncio.to_thread(lambda: self.bus.record_of(run_id).end(run_id))

    # Following

    @cached_property
    def changes(self) -> Changes:
        """Tells when the store has changed."""
        return Changes(self.bus)

    @cached_property
    def feeds(self) -> Feeds:
        """What followers of the same run share."""
        return Feeds(lambda run_id, after: self.bus.asubscribe(run_id, after=after), self.encoder, self.changes.wait)

    async def follow(self, run_id: str, after: str = "start") -> Place:
        """A place in the events of a run, after this cursor: close it. Raises `InputError` and `RunNotFoundError`.

        It lasts until the run has ended, whichever process executes it, and across processes that die.
        """
        return await self.feeds.follow(run_id, after)

    async def events(
        self, run_id: str, after: str = "start", heartbeat: float | None = None
    ) -> AsyncIterator[Frame | None]:
        """The frames of a run after a cursor; None where nothing came for ``heartbeat`` seconds.

        It ends with the run, or when the server stops. Raises what `follow` does.
        """
        place = await self.follow(run_id, after)
        try:
            while place.goes_on():
                frames = await place.next(self.heartbeat if heartbeat is None else heartbeat)
                for frame in frames:
                    yield frame
                if not frames and place.goes_on():
                    yield None
        finally:
            place.close()

    def drain(self) -> None:
        """Let all followers go, before the server stops: they come back with their cursors."""
        self.feeds.close()
        self.changes.tell()

    async def close(self) -> None:
        """Release what it holds. The bus stays open."""
        self.drain()
        await self.changes.close()

    # Acting

    def workflow(self, name: str) -> Workflow[..., Any] | None:
        """The workflow of this name, or label, that is registered here; the newest for a name."""
        return find_workflow(name)

    async def start(self, workflow: Workflow[..., Any], arguments: Mapping[str, Any], options: Started) -> str:
        """Queue a run, and return its id. The same id starts one run. Raises what `crewbus_workers.enqueue` does."""
        if options.id is not None and not _is_storable(options.id):
            raise InputError("a run's id is a text")
        queued = QueueOptions(
            options.id, options.queue, options.delay, options.key, options.tags, options.version, attach=True
        )
        known: Workflow[..., Any] | str = workflow if options.version is None else workflow.name
        return await asyncio.to_thread(queue_run, self.bus, known, (), arguments, queued)

    async def cancel(self, run_id: str, reason: str = "cancelled") -> str:
        """Cancel a run; returns the state in which it was. See `Bus.cancel`."""
        return await self.bus.acancel(run_id, reason)

    async def send(self, run_id: str, channel: str, payload: Any, key: str | None = None) -> int:
        """Send a message to a run; returns its number. See `crewbus_workers.send`."""
        return await asyncio.to_thread(send, self.bus, run_id, channel, payload, key=key)

    async def fork(self, run_id: str, at: str | None = None, edits: Mapping[str, Any] | None = None) -> str:
        """Fork a run, and return the id of the fork, which workers continue if the run was queued.

        Raises what `Bus.fork` does.
        """
        fork_id = await self.bus.afork(run_id, at, edits)
        with contextlib.suppress(InputError):  # no worker can continue it: it was not queued
            await asyncio.to_thread(requeue, self.bus, fork_id)
        return fork_id


def _is_storable(text: str) -> bool:
    """Whether every store can hold this text."""
    return "\0" not in text and text == text.encode(errors="replace").decode()
