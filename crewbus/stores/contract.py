"""The contract of a backend: what a store keeps, and what it promises.

To test a store, subclass `crewbus.testing.StoreContract`, which checks every sentence of this module.
"""

from __future__ import annotations

import abc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from crewbus.events import ENDS, LANDMARKS, MARKS
from crewbus.exceptions import CrewbusError, RecordingError, RunHeldError, RunNotFoundError
from crewbus.stores.claims import Claim, Claimed, Room, check_first_events, may_be_claimed, tags_of
from crewbus.stores.listing import LogFilter, LogSummary
from crewbus.stores.rows import Backlog, LogInfo, LogPart, Posted, StoredEvent
from crewbus.stores.watching import watch_by_polling

__all__ = ["Store"]


class Store(abc.ABC):
    """Append-only logs, one per root run. All methods may be called from any thread.

    `begin` opens a log, `append` adds events to it in the order of ``seq``, and `finish` seals it. Once `flush`
    returns, everything appended before is durable, in the sense that the store documents. A method that can't do its
    work raises `crewbus.RecordingError`; none fails silently.

    A log has one holder at a time. `begin` and `acquire` return an epoch and start a lease, which the store renews
    while its process lives. A write with an older epoch raises `crewbus.FencedError`. Reads observe every write made
    earlier through this store.

    A store may keep events that follow each other and are alike as one `crewbus.stores.Segment`. No caller sees that:
    reads begin at any number, forks share up to any, and each event comes back as it was appended.
    """

    is_shared = True
    """Whether other processes may use the store too, and so hold and ask for runs in it."""
    watches_logs = False
    """Whether `watch_log` notifies soon and of that log alone, also when its holder has died: then followers read only
    when they are notified."""

    @abc.abstractmethod
    def begin(self, root_id: str) -> int:
        """Open a new log and return its epoch, 1; raises `crewbus.RunIdInUseError` if that run is recorded already."""

    def open_log(self, root_id: str) -> int:
        """As `begin`, at once: the bus calls it under a lock, and on event loops.

        A store that would have to wait for an answer overrides this. If the run is recorded already, `confirm` and
        `flush` then raise `crewbus.RunIdInUseError`, and nothing of the log is written.
        """
        return self.begin(root_id)

    @abc.abstractmethod
    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        """Append the next event to a log, without waiting until it is durable.

        An event whose ``seq`` was appended before is ignored. A gap in ``seq``, an old ``epoch`` or a log that is not
        open raises `crewbus.RecordingError` and leaves the log unchanged.
        """

    @abc.abstractmethod
    def finish(self, root_id: str, epoch: int) -> None:
        """Seal a log and end its lease: its root run and all runs nested in it have ended."""

    @abc.abstractmethod
    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        """Iterate over the events of a log with numbers above ``after``, in order.

        The events that a fork shares with its parent come first. Raises `crewbus.RunNotFoundError`, and
        `crewbus.CorruptRecordError` where an event is missing or its bytes have changed.
        """

    @abc.abstractmethod
    def root_of(self, run_id: str) -> str | None:
        """Return the id of the root run whose log contains ``run_id``, or None."""

    @abc.abstractmethod
    def roots(self) -> list[str]:
        """Return the ids of all recorded root runs, oldest first."""

    @abc.abstractmethod
    def drop(self, root_id: str) -> None:
        """Delete a log; raises `crewbus.RecordingError` while it is alive, or while a fork shares its events."""

    # Optional: a store without these records runs, but can't resume, fork or follow them

    def info(self, root_id: str) -> LogInfo:
        """Return the state of a log; raises `crewbus.RunNotFoundError`."""
        raise self._unsupported("info")

    def acquire(self, root_id: str) -> int:
        """Take over a log, open or sealed, and return its next epoch. The previous holder is fenced.

        Raises `crewbus.RunNotFoundError`, and `crewbus.RunHeldError` while the log is alive, even if this store
        holds it.
        """
        raise self._unsupported("acquire")

    def release(self, root_id: str, epoch: int, until: float | None = None) -> None:
        """End the lease on a log without sealing it, so that it can be acquired. A fenced holder's call is ignored.

        `claim` does not take the log before ``until``, in seconds since the epoch by the clock of the store, except
        when a message arrives: one that was posted since the log was taken makes it due at once, and so does a later
        one. ``math.inf`` waits for a message alone.
        """
        raise self._unsupported("release")

    def revoke(self, root_id: str) -> None:
        """End the lease on a log for its current holder, which is fenced by the next `acquire`."""
        raise self._unsupported("revoke")

    def has_lease(self, root_id: str, epoch: int) -> bool:
        """Whether the lease that this store got with ``epoch`` certainly still holds.

        The store answers at once, from its own clock and memory. A `revoke` by another process goes unnoticed. False
        for a log that this store knows to have lost, and once the lease may have ended: then call `confirm`.
        """
        return True

    def confirm(self, root_id: str, epoch: int) -> None:
        """Return when this store certainly holds a log, and renew its lease.

        Raises `crewbus.FencedError` if the log was taken over, and `crewbus.RunIdInUseError` if another store began it
        first.
        """
        self.flush()

    def on_lost(self, notify: Callable[[str, int, CrewbusError], object]) -> Callable[[], None]:
        """Call ``notify`` with the root run, the epoch and an error for each log that this store has lost.

        Returns what ends that. A log is lost when another process took or dropped it. The store learns of that when it
        writes to the log, and when it renews its lease. ``notify`` is called in any thread, perhaps while the store
        holds a lock: it must neither block nor use the store.

        The default never calls it: then a run learns with its next write.
        """
        return lambda: None

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        """Create the log ``fork_id``, without a holder, which shares the events of ``root_id`` up to number ``at``.

        ``events`` are the fork's first own events, numbered from ``at + 1``; the log and these events are created
        together or not at all. The time this takes does not depend on the length of the log. Raises
        `crewbus.RunNotFoundError`, `crewbus.RunIdInUseError`, and `crewbus.RecordingError` if there is no event
        ``at``, or ``events`` do not continue from it.
        """
        raise self._unsupported("fork")

    # Work that anyone may take, and messages to it

    def create(self, root_id: str, events: Sequence[StoredEvent], until: float | None = None) -> None:
        """Create a log without a holder, with its first events, numbered from 0; durable on return.

        The log and its events are created together or not at all. `claim` does not take it before ``until``. Raises
        `crewbus.RunIdInUseError` if that run is recorded already: so does the repetition of a call whose answer was
        lost. Raises `crewbus.RecordingError` if there are no events, or they are not numbered from 0.

        The default calls `begin`, `append`, `flush` and `release`. So the log has epoch 1, and a process that dies
        meanwhile leaves it with a part of its events.
        """
        check_first_events(root_id, events)
        epoch = self.begin(root_id)
        for event in events:
            self.append(root_id, epoch, event)
        self.flush()
        if until is None:
            self.release(root_id, epoch)
        else:
            self.release(root_id, epoch, until)

    def claim(self, claim: Claim) -> list[Claimed]:
        """Acquire logs that nobody holds, the oldest first, and return them with their epochs: none if there are none.

        A log is taken if it has events and is neither sealed nor ended, if it has no holder that is alive, is due
        (`LogInfo.due`), and was taken fewer than `MOST_STALLS` times since its run last got on (`LogInfo.stalls`).
        A fork that was not acquired yet is not taken: it is for whoever forked it. The logs are counted and
        taken in one step: two claims never take the same log, and together keep their caps.

        The default asks for all logs, and acquires one after the other: claims at the same time may exceed their caps.
        """
        now, found = time.time(), list[Claimed]()
        oldest_first = [*self._summaries()][::-1]
        alive = Counter(tag for one in oldest_first if one.info.alive for tag in tags_of(one).items())
        room = Room(claim.caps, lambda tag, value: alive[tag, value])
        for one in oldest_first:
            if len(found) >= claim.limit:
                break
            tags = tags_of(one)
            if may_be_claimed(one, now) and claim.accepts(tags) and room.admits(tags):
                epoch = self._acquire_as(one)
                if epoch is not None:
                    room.add(tags)
                    found.append(Claimed(one.info.root_id, epoch))
        return found

    def _acquire_as(self, seen: LogSummary) -> int | None:
        """Acquire a log unless another process has done so since its summary was read."""
        root_id = seen.info.root_id
        try:
            epoch = self.acquire(root_id)
        except (RunHeldError, RunNotFoundError):
            return None
        if epoch == seen.info.epoch + 1:
            return epoch
        if not self.summary(root_id).has_ended:
            self.release(root_id, epoch)
        else:  # the other has ended it
            self.finish(root_id, epoch)
        return None

    def post(self, root_id: str, channel: str, data: bytes, key: str | None = None) -> int:
        """Put a message into the mailbox of a log, and return its number; durable on return.

        Nothing happens if a message with this channel and ``key`` is there already: the call returns the number of
        that one, and so can be repeated when its answer was lost. Without a key, the repetition is a second message.
        A log that waits until a time is due at once then. Raises `crewbus.RunNotFoundError`, and
        `crewbus.RunEndedError` if the log is sealed.

        The mailbox belongs to the log: a fork begins with an empty one, and `drop` deletes it. Messages stay in it: who
        consumes them records which.
        """
        raise RecordingError(f"{type(self).__name__} has no post(): its runs can't receive messages")

    def posted(self, root_id: str, after: int = -1) -> list[Posted]:
        """Return the messages of a log with numbers above ``after``, in order; raises `crewbus.RunNotFoundError`."""
        if type(self).post is Store.post:  # none can be there
            return []
        raise RecordingError(f"{type(self).__name__} has no posted(): its runs can't receive messages")

    def mail(self, after: Mapping[str, int]) -> dict[str, list[Posted]]:
        """Return the new messages of many logs: by log, those with numbers above ``after[root_id]``, in order.

        Logs without any are left out, and so are those that are not there or whose messages can't be read: `posted`
        raises what is wrong with one. A process asks this for all runs that it executes, up to four times a second.

        The default asks `posted` for one after the other.
        """
        found = dict[str, list[Posted]]()
        for root_id, number in after.items():
            with suppress(CrewbusError):
                if messages := self.posted(root_id, number):
                    found[root_id] = messages
        return found

    def watch(self, notify: Callable[[], object]) -> Callable[[], None]:
        """Call ``notify`` soon after anything in this store may have changed, by any process; returns what ends that.

        ``notify`` is called in any thread, perhaps while the store holds a lock: it must neither block nor use the
        store. It may be called when nothing has changed, and once for many changes. A call that has begun may end
        after the returned function was called.

        The default asks for `changes` four times a second, in one thread for each store that is watched.
        """
        return watch_by_polling(self, notify)

    def watch_log(self, root_id: str, notify: Callable[[], object]) -> Callable[[], None]:
        """As `watch`, for one log: it got events or messages, or was taken, released, sealed or dropped.

        The default watches the whole store. See `watches_logs`.
        """
        return self.watch(notify)

    def watch_work(self, notify: Callable[[], object]) -> Callable[[], None]:
        """As `watch`, for whoever executes runs: logs were created, released or sealed, or got messages.

        The default watches the whole store.
        """
        return self.watch(notify)

    def changes(self) -> object:
        """Return something that is no longer equal once anything has changed, as far as that can be told cheaply.

        None: it can't be told, so that watchers are notified at each look. Only the default of `watch` calls it.
        """
        return None

    def forks(self, root_id: str) -> list[str]:
        """Return the ids of the logs forked from this one, oldest first."""
        return [root for root in self.roots() if self.info(root).parent == root_id]

    def lineage(self, root_id: str) -> list[str]:
        """Return the root runs that a log descends from by forks, nearest first."""
        found: list[str] = []
        if type(self).info is Store.info:  # this store has no forks
            return found
        parent = self.info(root_id).parent
        while parent is not None:
            found.append(parent)
            parent = self.info(parent).parent
        return found

    def parts(self, root_id: str) -> list[LogPart]:
        """Return where the events of a log were written, oldest first; the last part is the log's own.

        Ancestors that have no part are left out: the log shares none of their own events.
        """
        shared, last = self.shared(root_id), self.info(root_id).last
        found = [LogPart(root_id, shared + 1, last)]
        for ancestor in self.lineage(root_id):
            last, shared = shared, min(shared, self.shared(ancestor))
            if shared < last:
                found.append(LogPart(ancestor, shared + 1, last))
        return found[::-1]

    def shared(self, root_id: str) -> int:
        """Return the number of the last event that a log shares with its parent; -1 if there is none."""
        if type(self).info is Store.info:  # this store has no forks
            return -1
        parent_at = self.info(root_id).parent_at
        return -1 if parent_at is None else parent_at

    def summary(self, root_id: str) -> LogSummary:
        """Summarise a log; raises `crewbus.RunNotFoundError` if it is not there or has no events."""
        info = self.info(root_id)
        if info.last < 0:
            raise RunNotFoundError(f"run {root_id} has no events")
        shared = self.shared(root_id)
        begun = self.event(root_id, min(shared + 1, info.last)).at
        last = self.event(root_id, info.last).at
        return LogSummary(info, self.event(root_id, 0), begun, last, self._end(root_id, shared))

    def _end(self, root_id: str, shared: int) -> StoredEvent | None:
        for mark in self.marks(root_id):
            if mark.seq <= shared or mark.name == "crewbus.RunResumed":
                break
            if mark.name in ENDS and mark.run_id == root_id:
                return mark
        return None

    def find(self, query: LogFilter) -> Iterator[LogSummary]:
        """Iterate over the logs that match, the newest first: later in `roots` is newer. Those without events don't.

        A store that holds many logs overrides this: it looks them up by state, name or tag, and reads a page of them
        with few queries. A log that is dropped meanwhile may be left out.
        """
        return islice(filter(query.matches, self._summaries()), query.limit)

    def _summaries(self) -> Iterator[LogSummary]:
        for root_id in reversed(self.roots()):
            with suppress(RunNotFoundError):  # it has no events, or was dropped meanwhile
                yield self.summary(root_id)

    def event(self, root_id: str, seq: int) -> StoredEvent:
        """Return one event of a log; raises `crewbus.RunNotFoundError` if there is no such log or number."""
        for stored in self.read(root_id, seq - 1):
            if stored.seq == seq:
                return stored
            break
        raise RunNotFoundError(f"run {root_id} has no event {seq}")

    def landmarks(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        """Like `read`, but only the events whose types are in `LANDMARKS`."""
        return (stored for stored in self.read(root_id, after) if stored.name in LANDMARKS)

    def marks(self, root_id: str) -> Iterator[StoredEvent]:
        """Iterate over the events whose types are in `MARKS`, last first."""
        return reversed([stored for stored in self.landmarks(root_id) if stored.name in MARKS])

    def when_written(self, root_id: str, notify: Callable[[BaseException | None], None]) -> None:
        """Call ``notify`` once, from any thread, when everything appended to a log before is durable.

        ``notify`` receives None, or the error that prevented it. It must neither block nor raise.
        """
        try:
            self.flush()
        except Exception as error:
            notify(error)
        else:
            notify(None)

    def backlog(self) -> Backlog:
        """Return what was appended and is not durable yet; nothing, for a store that writes before `append` returns.

        It answers at once: emitters ask it how far the store is behind.
        """
        return Backlog()

    def _unsupported(self, method: str) -> RecordingError:
        return RecordingError(f"{type(self).__name__} has no {method}(): its runs can't be resumed, forked or followed")

    def flush(self, timeout: float | None = None) -> None:  # noqa: B027 - a store may have nothing to do
        """Return when everything appended before is durable.

        Raises `crewbus.FlushTimeoutError` after ``timeout`` seconds (None: wait without limit), and the error of any
        write that failed since the last call. Events that can be written later are kept and tried again.
        """

    def close(self) -> None:  # noqa: B027
        """Flush, end the leases on logs that are still open, and release all resources. A second call does nothing.

        A store that releases resources raises `crewbus.RecordingError` from every later call.
        """

    def after_fork(self) -> None:  # noqa: B027
        """Called in a forked child: create new locks, hold no log, and write nothing that the parent appended."""
