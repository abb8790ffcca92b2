"""Followers: a run's frames, read from its record while any process appends to it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

import attrs

from crewbus import records
from crewbus.dispatch import now
from crewbus.events import (
    FRAMES,
    Dropped,
    Envelope,
    Retracted,
    RunEnded,
    RunInterrupted,
    RunResumed,
    RunStarted,
    Truncated,
    find_event_type,
)
from crewbus.exceptions import ConsumptionError, SlowConsumer
from crewbus.stores import LANDMARKS, Store
from crewbus.streams.cursor import Cursor

if TYPE_CHECKING:
    import asyncio

    from crewbus.records import Record

_BATCH: Final = 256  # frames read from the store at once
_FIRST_PAUSE: Final = 0.001  # seconds between two reads, doubled each time there is nothing new
_LONGEST_PAUSE: Final = 0.05


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
        self.failure: SlowConsumer | None = None
        self.closed = False
        self._record = record
        self._store = store
        self._ended = False
        self._left = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: list[Envelope] | None = None
        self._fetching = False
        self._membership = records.RunMembership(record.run_id, record.root_id)
        self.after = str(cursor)
        """The cursor from which it continues."""
        self.epoch = 1
        """The epoch of the frames read last."""
        self._shared = -1
        """The number of the last event that a fork shares with its parent; -1 if the run is no fork."""
        self._pending: list[Envelope] = []
        """Frames to return before anything is read."""
        self._after = self._begin(cursor)

    def _begin(self, cursor: Cursor) -> int:
        """The number to read on from. What the consumer has seen but the record does not hold is retracted."""
        info = self._store.info(self._record.root_id)
        self._shared = info.parent_at if info.parent_at is not None else -1
        after = cursor.seq
        for landmark in self._record.landmarks():
            if landmark.seq <= cursor.seq and landmark.kind is RunStarted:
                self._membership.includes(landmark, starts_run=True)
            if self._is_new_epoch(landmark.kind, landmark.seq) and landmark.seq <= after:
                if landmark.event.epoch > cursor.epoch:
                    after = landmark.seq - 1
                else:
                    self.epoch = landmark.event.epoch
        after = min(after, info.last)
        if after < cursor.seq and cursor.floor is not None:
            after = min(after, cursor.floor - 1)
        if after < cursor.seq:
            event = Retracted(after + 1, "not in the record: the run went on from before this")
            self._pending.append(Envelope(event, self._record.run_id, after + 1, None, now(), replayed=True))
        elif after >= 0:
            stored = next(self._record.stored(after - 1))
            seen = self._record.decoded(stored) if _is_read(stored.name) else None
            self._ended = seen is not None and seen.run_id == self._record.run_id and self._is_last(seen)
        return after

    def _is_new_epoch(self, kind: type, seq: int) -> bool:
        # The shared events of a fork carry the epochs of its parent.
        return kind is RunResumed and seq > self._shared

    # Reading

    def _read(self) -> list[Envelope]:
        """The new frames, at most `_BATCH` of them; notices the end."""
        if self._pending:
            pending, self._pending = self._pending, []
            return pending
        info, before = self._store.info(self._record.root_id), self._after
        frames: list[Envelope] = []
        for stored in self._record.stored(self._after):
            self._after = stored.seq
            if not _is_read(stored.name):
                continue
            envelope = self._record.decoded(stored)
            inside = self._membership.includes(envelope, starts_run=type(envelope.event) is RunStarted)
            if self._is_new_epoch(type(envelope.event), envelope.seq):
                self.epoch = envelope.event.epoch
            elif self._is_shown(envelope, inside) and (frame := _as_frame(envelope)) is not None:
                frames.append(frame)
                if len(frames) == _BATCH:
                    break
        if frames and isinstance(frames[-1].event, RunEnded):  # only the last one is a frame
            self._ended = True
        elif self._after == before and not info.alive:
            self._ended = True
            interrupted = RunInterrupted(info.holder or "")
            frames.append(Envelope(interrupted, self._record.run_id, self._after, None, now(), replayed=True))
        return frames

    def _is_shown(self, envelope: Envelope, inside: bool) -> bool:
        if isinstance(envelope.event, RunEnded):
            return envelope.run_id == self._record.run_id and self._is_last(envelope)
        # The root may have emitted a retraction that applies to a nested run: its parents show it.
        return inside or isinstance(envelope.event, Retracted)

    def _is_last(self, envelope: Envelope) -> bool:
        """Whether ``envelope`` ends the run, and the run was not resumed after it."""
        if not isinstance(envelope.event, RunEnded):
            return False
        if self._record.run_id == self._record.root_id:
            return not any(one.kind is RunResumed for one in self._record.landmarks(envelope.seq))
        return not any(one.run_id == envelope.run_id for one in self._record.stored(envelope.seq))

    # The consumer's side

    def take(self, deadline: float | None = None) -> list[Envelope]:
        """Wait for at least one frame; empty at the end, or once ``deadline`` (monotonic) has passed."""
        pause = _FIRST_PAUSE
        while not (self.closed or self._ended):
            batch = self._read()
            if batch:
                return batch
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._left.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return []

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the running ``loop`` on which the consumer calls `poll`."""
        self._loop = loop

    def poll(self) -> list[Envelope] | asyncio.Future[None]:
        """As `take`, for an asyncio task: the frames, or a future of its loop to await before the next call."""
        if self._ready is not None:
            ready, self._ready = self._ready, None
            return ready
        if self.closed or self._ended:
            return []
        if self._fetching:
            raise ConsumptionError("another task waits on this stream; a stream has one consumer: subscribe() for each")
        assert self._loop is not None
        return self._loop.create_task(self._fetch())

    async def _fetch(self) -> None:
        import asyncio

        pause = _FIRST_PAUSE
        self._fetching = True
        try:
            while not self.closed:
                batch = await asyncio.to_thread(self._read)
                if batch or self._ended:
                    self._ready = batch
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._fetching = False

    def close(self) -> None:
        """Take no more frames."""
        self.closed = True
        self._left.set()

    def abandon(self) -> None:
        """As `close`, for a finaliser, which takes no lock."""
        self.closed = True
