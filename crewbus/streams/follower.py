"""Followers: a run's frames, read from its record while any process appends to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import attrs

from crewbus import records
from crewbus._util import Latch, reentrant_lock, remaining
from crewbus.dispatch import now
from crewbus.events import (
    FRAMES,
    Dropped,
    Envelope,
    Retracted,
    RunEnded,
    RunForked,
    RunInterrupted,
    RunResumed,
    RunStarted,
    RunSuspended,
    Truncated,
    find_event_type,
)
from crewbus.exceptions import ConsumptionError, CrewbusError, InputError, RunNotFoundError
from crewbus.stores import LANDMARKS, Store, StoredEvent
from crewbus.streams.cursor import START, Cursor, record_name
from crewbus.streams.pauses import Pauses
from crewbus.streams.stream import CLOSED_BUS

if TYPE_CHECKING:
    import asyncio

    from crewbus.records import Landmark, Record

_BATCH: Final = 256  # frames read from the store at once


def _is_read(name: str) -> bool:
    """Whether a follower reads events of this type; all others need not be decodable in this process."""
    if name in LANDMARKS or name == "crewbus.Truncated":
        return True
    registered = find_event_type(name)
    return registered is not None and issubclass(registered.cls, FRAMES)


def _as_frame(envelope: Envelope) -> Envelope | None:
    """The frame for an event of a record; None if streams do not contain it."""
    event = envelope.event
    if isinstance(event, Truncated) and event.name == "crewbus.Chunk":
        return attrs.evolve(envelope, event=Dropped(1))
    return envelope if isinstance(event, FRAMES) else None


class Follower:
    """Reads the frames that a consumer has not seen; a stream takes from it as from a buffer.

    The record is the buffer, so a slow consumer costs nothing and misses nothing.
    """

    def __init__(self, record: Record, store: Store, cursor: Cursor) -> None:
        self.failure: CrewbusError | None = None
        self.closed = False
        self._record = record
        self._store = store
        self._ended = False
        self._suspended = False
        """Whether the run is suspended, as far as the record was read: it pauses."""
        self._left = Latch()
        self._pauses = Pauses(store, record.root_id)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._interrupted = False
        """Whether the bus is closed."""
        self._reading = reentrant_lock()
        """Held while the record is read, by one thread at a time."""
        self._fetching: asyncio.Task[None] | None = None
        """What reads for a consumer on a loop."""
        self._waiting: asyncio.Future[None] | None = None
        """What that consumer awaits."""
        self._ready: list[Envelope] = []
        """The frames that were read, and not yet taken."""
        self._membership = records.RunMembership(record.run_id, record.root_id)
        self.after = str(cursor)
        """The cursor from which it continues."""
        self._epoch = 1
        """The epoch of the frames read last."""
        self._started: float | None = None
        """When its root run's record began, which tells that from a later one of the same id; None: it has no event."""
        self._shared = -1
        """The number of the last event that a fork shares with its parent; -1 if the run is no fork."""
        self._after = self._begin(cursor)

    @property
    def record(self) -> tuple[float, int] | None:
        """When the record of the root run began, and the epoch of the frames read last; None: it has no event yet."""
        return (self._started, self._epoch) if self._started is not None else None

    def _begin(self, cursor: Cursor) -> int:
        """The number to read on from. What the consumer has seen but the record does not hold is retracted.

        Raises `InputError` for a cursor of another record.
        """
        info = self._store.info(self._record.root_id)
        self._require_record(cursor if cursor.seq >= 0 else None)
        self._shared = info.parent_at if info.parent_at is not None else -1
        after, end = cursor.seq, None
        for landmark in self._record.landmarks():
            if landmark.run_id == self._record.run_id:
                end = landmark if issubclass(landmark.kind, RunEnded) else None
            if landmark.seq <= cursor.seq:
                self._notice_pause(landmark.kind)
            if landmark.seq <= cursor.seq and landmark.kind is RunStarted:
                self._membership.includes(landmark, starts_run=True, parent_run=landmark.event.parent_run)
            if self._is_new_epoch(landmark.kind, landmark.seq) and landmark.seq <= after:
                if landmark.event.epoch > cursor.epoch:
                    after = landmark.seq - 1
                else:
                    self._epoch = landmark.event.epoch
        after = min(after, info.last)
        if after < cursor.seq and cursor.floor is not None:
            after = min(after, cursor.floor - 1)
        if after < cursor.seq:
            event = Retracted(after + 1, "not in the record: the run went on from before this")
            self._ready.append(Envelope(event, self._record.run_id, after + 1, None, now(), replayed=True))
        if end is not None and end.seq <= after and self._is_last(end):
            self._ended = end.seq == cursor.seq
            return end.seq if self._ended else end.seq - 1  # a cursor beyond the end: the terminal frame is next
        return after

    def _require_record(self, cursor: Cursor | None = None) -> None:
        """Raise if the store does not hold the record any more that is followed, or that ``cursor`` belongs to."""
        record = self._record
        try:
            started = self._store.event(record.root_id, 0).at
        except RunNotFoundError:
            self._store.info(record.root_id)  # raises if there is no such run
            started = None
        if cursor is not None and (started is None or cursor.record != record_name(record.run_id, started)):
            raise InputError(
                f"the cursor {str(cursor)!r} is not one of run {record.run_id}: it is of another run, or of an earlier "
                f"one of this id that was pruned; follow the run from {START!r}"
            )
        if self._started is None:
            self._started = started
        elif started != self._started:
            raise RunNotFoundError(
                f"run {record.run_id} was pruned while it was followed, and another run has its id: follow that from "
                f"{START!r}"
            )

    def _is_new_epoch(self, kind: type, seq: int) -> bool:
        # The shared events of a fork carry the epochs of its parent.
        return kind is RunResumed and seq > self._shared

    def _notice_pause(self, kind: type) -> None:
        """Whether the whole tree pauses from this event on, or goes on."""
        if kind in (RunSuspended, RunResumed, RunForked):
            self._suspended = kind is RunSuspended

    # Reading

    def _read(self) -> list[Envelope]:
        """The new frames, at most `_BATCH` of them; notices the end."""
        info, before = self._store.info(self._record.root_id), self._after
        frames: list[Envelope] = []
        try:
            for stored in self._record.stored(self._after):
                frame = self._frame_for(stored)
                self._after = stored.seq
                if frame is not None:
                    frames.append(frame)
                    if len(frames) == _BATCH:
                        break
        except Exception:
            if not frames:  # otherwise what came before is returned, and the next read meets the error again
                self._require_record()
                raise
        if frames or info.last != before or not info.alive:
            self._require_record()
        if frames and isinstance(frames[-1].event, RunEnded):  # only the last one is a frame
            self._ended = True
        elif self._after == before and not (info.alive or info.queued or self._suspended):
            frames.append(self._end_interrupted(info.holder or ""))
        return frames

    def _end_interrupted(self, holder: str) -> Envelope:
        self._ended = True
        return Envelope(RunInterrupted(holder), self._record.run_id, self._after, None, now(), replayed=True)

    def _frame_for(self, stored: StoredEvent) -> Envelope | None:
        """The frame for an event of the record; None if streams do not contain it."""
        if not _is_read(stored.name):
            return None
        envelope = self._record.decoded(stored)
        event = envelope.event
        self._notice_pause(type(event))
        is_start = type(event) is RunStarted
        around = event.parent_run if is_start else None
        inside = self._membership.includes(envelope, starts_run=is_start, parent_run=around)
        if self._is_new_epoch(type(event), envelope.seq):
            self._epoch = event.epoch
            return None
        return _as_frame(envelope) if self._is_shown(envelope, inside) else None

    def _is_shown(self, envelope: Envelope, inside: bool) -> bool:
        if isinstance(envelope.event, RunEnded):
            return envelope.run_id == self._record.run_id and self._is_last(envelope)
        # The root may have emitted a retraction that applies to a nested run: its parents show it.
        return inside or isinstance(envelope.event, Retracted)

    def _is_last(self, envelope: Envelope | Landmark) -> bool:
        """Whether ``envelope`` ends the run, and the run was not resumed after it."""
        if not isinstance(envelope.event, RunEnded) or isinstance(envelope.event, RunSuspended):
            return False
        if self._record.run_id == self._record.root_id:
            return not any(one.kind is RunResumed for one in self._record.landmarks(envelope.seq))
        return not any(one.run_id == envelope.run_id for one in self._record.stored(envelope.seq))

    # The consumer's side

    def _fill(self) -> bool:
        """Read what is new and keep it until it is taken; returns whether there is something to take, or the end.

        So a wait that is cancelled or ends too early loses nothing.
        """
        with self._reading:
            if not (self._ready or self._ended or self.closed):
                self._ready = self._read_or_end()
            if self._ended or self.closed:
                self._pauses.end()
            return bool(self._ready) or self._ended or self.closed

    def _read_or_end(self) -> list[Envelope]:
        if not self._interrupted:
            try:
                return self._read()
            except Exception:  # the store is closed
                if not self._interrupted:
                    raise
        return [self._end_interrupted(CLOSED_BUS)]

    def _take_ready(self) -> list[Envelope]:
        ready, self._ready = self._ready, []
        return ready

    def take(self, deadline: float | None = None) -> list[Envelope]:
        """Wait for at least one frame; empty at the end, or once ``deadline`` (monotonic) has passed."""
        self._pauses.begin()
        while not self._fill():
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._left.wait(self._pauses.short())
            self._pauses.wait(remaining(deadline))
        return self._take_ready()

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the running ``loop`` on which the consumer calls `poll`."""
        if self._loop is not loop:
            self._fetching = self._waiting = None
        self._loop = loop

    def poll(self) -> list[Envelope] | asyncio.Future[None]:
        """As `take`, for an asyncio task: the frames, or a future of its loop to await before the next call."""
        import asyncio

        if self._ready or self._ended or self.closed:
            return self._take_ready()
        if self._waiting is not None and not self._waiting.done():
            raise ConsumptionError("another task waits on this stream; a stream has one consumer: subscribe() for each")
        if self._fetching is None or self._fetching.done():
            assert self._loop is not None
            self._fetching = self._loop.create_task(self._fetch())
        self._waiting = asyncio.shield(self._fetching)  # the next call waits for the same read
        return self._waiting

    async def _fetch(self) -> None:
        import asyncio

        self._pauses.begin()
        while not await asyncio.to_thread(self._fill):
            await asyncio.sleep(self._pauses.short())
            await self._pauses.wait_async()

    def interrupt(self) -> None:
        """End with `RunInterrupted`: the bus is closed. What was not read is read from the consumer's cursor."""
        self._interrupted = True
        self._left.open()
        self._pauses.wake()

    def close(self) -> None:
        """Take no more frames."""
        self.abandon()
        self._left.open()
        self._pauses.end()

    def abandon(self) -> None:
        """As `close`, for a finaliser, which takes no lock."""
        self.closed = True
        self._ready = []
        self._pauses.wake()
