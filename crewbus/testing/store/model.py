"""The contract of a store as a simple model, lists in a dict, that stores are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import attrs

from crewbus.exceptions import (
    FencedError,
    RecordingError,
    RunEndedError,
    RunHeldError,
    RunIdInUseError,
    RunNotFoundError,
)
from crewbus.stores import PROGRESS, LogInfo, Posted, Store, StoredEvent


def stored(seq: int, run_id: str = "a", data: bytes = b"{}", name: str = "test.Event") -> StoredEvent:
    """An event to write."""
    return StoredEvent(run_id, seq, None, 1.5, "agent", 1, name, 1, data)


def write(store: Store, root_id: str, epoch: int, start: int, count: int = 1) -> None:
    """Append ``count`` events from number ``start`` on; each fifth is of a run nested in the root, and a landmark."""
    for seq in range(start, start + count):
        run_id, name = (f"{root_id}/nested", "crewbus.StepFinished") if seq % 5 == 4 else (root_id, "test.Event")
        store.append(root_id, epoch, stored(seq, run_id, b'{"by":"%s"}' % root_id.encode(), name))


def first_events(root_id: str, count: int = 1, **tags: str) -> list[StoredEvent]:
    """The first events of a log to create: the start of a run with tags, and others."""
    start = stored(0, root_id, json.dumps({"tags": tags}).encode(), "crewbus.RunStarted")
    return [start, *(stored(seq, root_id) for seq in range(1, count))]


class LogState(NamedTuple):
    """What can be read of a log, except its holder and lease."""

    epoch: int
    sealed: bool
    alive: bool
    parent: tuple[str | None, int | None]
    forks: list[str]
    events: list[StoredEvent]
    mail: list[tuple[int, str, bytes, str | None]]


def log_state(store: Store, root_id: str) -> LogState:
    """The state of a log; asserts that `info` agrees with the events."""
    info, events = store.info(root_id), list(store.read(root_id))
    assert info.root_id == root_id
    assert info.last == len(events) - 1
    parent = info.parent, info.parent_at
    mail = [message[:4] for message in store.posted(root_id)]
    return LogState(info.epoch, info.sealed, info.alive, parent, store.forks(root_id), events, mail)


def all_logs(store: Store) -> dict[str, LogState]:
    """The state of each log, oldest first."""
    return {root_id: log_state(store, root_id) for root_id in store.roots()}


@attrs.define
class _Log:
    events: list[StoredEvent] = attrs.field(factory=list)
    own: set[str] = attrs.field(factory=set)
    epoch: int = 0
    sealed: bool = False
    held: bool = False
    parent: str | None = None
    parent_at: int | None = None
    stalls: int = 0
    due: float | None = None
    mail: list[Posted] = attrs.field(factory=list)
    mail_taken: int = 0


class Model(Store):
    """A store for one thread that copies the events that a fork shares."""

    def __init__(self) -> None:
        self.logs: dict[str, _Log] = {}

    def begin(self, root_id: str) -> int:
        """Open a log."""
        self._unused(root_id)
        self.logs[root_id] = _Log(own={root_id}, epoch=1, held=True)
        return 1

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        """Add the next event, unless it is there."""
        log = self._writable(root_id, epoch)
        if event.seq > len(log.events):
            raise RecordingError("a gap")
        if event.seq == len(log.events):
            log.events.append(event)
            log.own.add(event.run_id)
            log.stalls = 0 if event.name in PROGRESS else log.stalls

    def finish(self, root_id: str, epoch: int) -> None:
        """Seal a log."""
        log = self._writable(root_id, epoch)
        log.sealed, log.held, log.stalls = True, False, 0

    def _writable(self, root_id: str, epoch: int) -> _Log:
        log = self.logs.get(root_id)
        if log is None or not log.held or epoch > log.epoch:
            raise RecordingError("not open")
        if epoch < log.epoch:
            raise FencedError("an old epoch")
        return log

    def acquire(self, root_id: str) -> int:
        """Take a log that has no holder."""
        log = self._log(root_id)
        if log.held:
            raise RunHeldError("held")
        log.sealed, log.held = False, True
        log.epoch += 1
        log.stalls += 1
        log.due, log.mail_taken = None, len(log.mail)
        return log.epoch

    def release(self, root_id: str, epoch: int, until: float | None = None) -> None:
        """Give up a log, unless fenced."""
        log = self._log(root_id)
        if log.held and epoch == log.epoch:
            log.held, log.due = False, until if len(log.mail) == log.mail_taken else None

    def revoke(self, root_id: str) -> None:
        """Take a log from its holder."""
        self._log(root_id).held = False

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        """Copy the events up to ``at``."""
        log = self._log(root_id)
        self._unused(fork_id)
        if not 0 <= at < len(log.events):
            raise RecordingError("no such event")
        if [event.seq for event in events] != list(range(at + 1, at + 1 + len(events))):
            raise RecordingError("a gap")
        self.logs[fork_id] = _Log([*log.events[: at + 1], *events], {fork_id}, parent=root_id, parent_at=at)

    def create(self, root_id: str, events: Sequence[StoredEvent], until: float | None = None) -> None:
        """Make a log that nobody holds; `claim` is the default, which is exact in one thread."""
        self._unused(root_id)
        self.logs[root_id] = _Log([*events], {root_id, *(event.run_id for event in events)}, due=until)

    def post(self, root_id: str, channel: str, data: bytes, key: str | None = None) -> int:
        """Add a message, unless its key is there."""
        log = self._log(root_id)
        for message in log.mail:
            if key is not None and (message.channel, message.key) == (channel, key):
                return message.number
        if log.sealed:
            raise RunEndedError("sealed")
        log.mail.append(Posted(len(log.mail), channel, data, key, 0.0))
        log.due = None
        return len(log.mail) - 1

    def posted(self, root_id: str, after: int = -1) -> list[Posted]:
        """The messages above ``after``."""
        return self._log(root_id).mail[after + 1 :]

    def drop(self, root_id: str) -> None:
        """Delete a log that has neither a holder nor forks."""
        if self._log(root_id).held or self.forks(root_id):
            raise RecordingError("alive, or needed by a fork")
        del self.logs[root_id]

    def info(self, root_id: str) -> LogInfo:
        """The state of a log."""
        log = self._log(root_id)
        last = len(log.events) - 1
        return LogInfo(
            root_id,
            log.epoch,
            last,
            log.sealed,
            alive=log.held,
            parent=log.parent,
            parent_at=log.parent_at,
            stalls=log.stalls,
            due=log.due,
        )

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        """The events above ``after``."""
        return iter(self._log(root_id).events[after + 1 :])

    def root_of(self, run_id: str) -> str | None:
        """The log that first had an event of the run."""
        return next((root_id for root_id, log in self.logs.items() if run_id in log.own), None)

    def roots(self) -> list[str]:
        """All logs."""
        return list(self.logs)

    def _unused(self, run_id: str) -> None:
        if self.root_of(run_id) is not None:
            raise RunIdInUseError("in use")

    def _log(self, root_id: str) -> _Log:
        if root_id not in self.logs:
            raise RunNotFoundError("no such log")
        return self.logs[root_id]
