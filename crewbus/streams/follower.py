"""Following: a run's frames read from its record as it grows, from whichever process."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

import attrs

from crewbus.dispatch.dispatcher import now
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
from crewbus.records.record import Record
from crewbus.records.tree import RunMembership
from crewbus.stores import LANDMARKS, Store
from crewbus.streams.cursor import Cursor

if TYPE_CHECKING:
    import asyncio

_BATCH: Final = 256  # frames that are taken from the store at once
_FIRST_PAUSE: Final = 0.001  # seconds until it is looked again for what is new, doubled each time in vain
_LONGEST_PAUSE: Final = 0.05


def _is_looked_at(name: str) -> bool:
    """Whether events of that type concern a follower: all others need not even be readable here."""
    if name in LANDMARKS or name == "crewbus.Truncated":
        return True
    registered = find_event_type(name)
    return registered is not None and issubclass(registered.cls, FRAMES)


def _as_frame(envelope: Envelope) -> Envelope | None:
    """What a stream shows of an event of a record; None where it shows nothing."""
    event = envelope.event
    if isinstance(event, Truncated) and event.name == "crewbus.Chunk":
        return attrs.evolve(envelope, event=Dropped(1))
    return envelope if isinstance(event, FRAMES) else None


class Follower:
    """Reads what a consumer has not seen; a stream takes from it as from a buffer.

    The record is the buffer: a slow consumer costs nothing, and misses nothing.
    """

    def __init__(self, record: Record, store: Store, cursor: Cursor) -> None:
        self.thread: int | None = None
        self.failure: SlowConsumer | None = None
        self.closed = False
        self._record = record
        self._store = store
        self._ended = False
        self._gate = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: list[Envelope] | None = None
        self._fetching = False
        self._membership = RunMembership(record.run_id, record.root_id)
        self.epoch = 1
        """The epoch of what was read."""
        self._shared = -1
        """The number of the last event that a fork shares."""
        self._told: list[Envelope] = []
        """What is to be told before anything is read."""
        self._after = self._begin(cursor)

    def _begin(self, cursor: Cursor) -> int:
        """Where to read on from; what the consumer has seen and the record has not is taken back."""
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
            self._told.append(Envelope(event, self._record.run_id, after + 1, None, now(), replayed=True))
        elif after >= 0:
            stored = next(self._record.stored(after - 1))
            seen = self._record.decoded(stored) if _is_looked_at(stored.name) else None
            self._ended = seen is not None and seen.run_id == self._record.run_id and self._is_last(seen)
        return after

    def _is_new_epoch(self, kind: type, seq: int) -> bool:
        # What a fork shares bears the epochs of the run that it was forked of.
        return kind is RunResumed and seq > self._shared

    # What is there

    def _read(self) -> list[Envelope]:
        """What is new, at most so many frames; notices the end."""
        if self._told:
            told, self._told = self._told, []
            return told
        info, before = self._store.info(self._record.root_id), self._after
        frames: list[Envelope] = []
        for stored in self._record.stored(self._after):
            self._after = stored.seq
            if not _is_looked_at(stored.name):
                continue
            envelope = self._record.decoded(stored)
            inside = self._membership.includes(envelope, starts_run=type(envelope.event) is RunStarted)
            if self._is_new_epoch(type(envelope.event), envelope.seq):
                self.epoch = envelope.event.epoch
            elif self._concerns(envelope, inside) and (frame := _as_frame(envelope)) is not None:
                frames.append(frame)
                if len(frames) == _BATCH:
                    break
        if frames and isinstance(frames[-1].event, RunEnded):  # which concerns it only if it is the last
            self._ended = True
        elif self._after == before and not info.alive:
            self._ended = True
            interrupted = RunInterrupted(info.holder or "")
            frames.append(Envelope(interrupted, self._record.run_id, self._after, None, now(), replayed=True))
        return frames

    def _concerns(self, envelope: Envelope, inside: bool) -> bool:
        if isinstance(envelope.event, RunEnded):
            return envelope.run_id == self._record.run_id and self._is_last(envelope)
        # A retraction may be the root's, of what is in here: its parents say of what.
        return inside or isinstance(envelope.event, Retracted)

    def _is_last(self, envelope: Envelope) -> bool:
        """Whether it ends the run, which was not resumed after it."""
        if not isinstance(envelope.event, RunEnded):
            return False
        if self._record.run_id == self._record.root_id:
            return not any(one.kind is RunResumed for one in self._record.landmarks(envelope.seq))
        return not any(one.run_id == envelope.run_id for one in self._record.stored(envelope.seq))

    # The consumer's side, as of a buffer

    def take(self, deadline: float | None = None) -> list[Envelope]:
        """What is there, waiting for at least one frame; empty at the end, or when ``deadline`` (monotonic) passes."""
        pause = _FIRST_PAUSE
        while not (self.closed or self._ended):
            batch = self._read()
            if batch:
                return batch
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._gate.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return []

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be consumed on ``loop``, which runs here."""
        self._loop = loop
        self.thread = threading.get_ident()

    def poll(self) -> list[Envelope] | asyncio.Future[None]:
        """As `take`, for a task: what is there, or else a future of its loop to await before asking again."""
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
        """Leave: take nothing more."""
        self.closed = True
        self._gate.set()

    def abandon(self) -> None:
        """As `close`, for a finaliser, which may take no lock."""
        self.closed = True
