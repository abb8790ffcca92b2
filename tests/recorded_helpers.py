"""What the tests of recorded runs share: stores that outlive the bus that writes to them, and processes that end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers import quiet_bus

import crewbus

needs_sqlite = pytest.mark.skipif(find_spec("crewbus_sqlite") is None, reason="crewbus-sqlite is missing")


class Gone(BaseException):
    """The process ends here, as far as a test goes."""


class Mortal:
    """Of a store: what one process has of it, which writes nothing any more once it is dead."""

    dead = False

    def append(self, root_id: str, epoch: int, event: crewbus.StoredEvent) -> None:
        if not self.dead:
            super().append(root_id, epoch, event)  # type: ignore[misc]

    def finish(self, root_id: str, epoch: int) -> None:
        if not self.dead:
            super().finish(root_id, epoch)  # type: ignore[misc]


class MortalMemory(Mortal, crewbus.MemoryStore):
    pass


class Disk:
    """Keeps records from one bus to the next."""

    def __init__(self, open_store: Callable[[], Any]) -> None:
        self._open = open_store
        self.store: Any = None

    def open(self) -> crewbus.Store:
        """The store, as a new process has it."""
        self.store = self._open()
        self.store.dead = False
        return self.store

    @contextmanager
    def bus(self, *plugins: Any, **recording: Any) -> Iterator[crewbus.Bus]:
        """A process's bus, which records here; where the process ends by `crash`, it ends in silence."""
        try:
            with quiet_bus(plugins=plugins) as bus:
                bus.enable_recording(self.open(), **recording)
                yield bus
        except Gone:
            pass

    def crash(self) -> None:
        """End the process: what is on disk by now is all that there will be."""
        self.store.flush()
        self.store.dead = True
        raise Gone


def memory(path: Path) -> Disk:
    store = MortalMemory()
    return Disk(lambda: store)


def sqlite(path: Path) -> Disk:
    from crewbus_sqlite import SQLiteStore

    class MortalSQLite(Mortal, SQLiteStore):
        pass

    return Disk(lambda: MortalSQLite(path / "runs.db"))


DISKS = [
    pytest.param(memory, id="memory"),
    pytest.param(sqlite, id="sqlite", marks=needs_sqlite),
]


class HeldStore(crewbus.MemoryStore):
    """While it holds back, nothing is on disk until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self.asked = threading.Event()
        self._waiting: list[Callable[[BaseException | None], None]] = []

    def when_written(self, root_id: str, notify: Callable[[BaseException | None], None]) -> None:
        if not self.holds:
            super().when_written(root_id, notify)
            return
        self._waiting.append(notify)
        self.asked.set()

    def let(self, failure: BaseException | None = None) -> None:
        """Have all be on disk, or lost for ``failure``."""
        self.holds = False
        for notify in self._waiting:
            notify(failure)


class FailingStore(crewbus.MemoryStore):
    """Fails while it is set to."""

    broken = False

    def append(self, root_id: str, epoch: int, event: crewbus.StoredEvent) -> None:
        if self.broken:
            raise crewbus.RecordingError("the disk is gone")
        super().append(root_id, epoch, event)


def spawn(source: str) -> subprocess.Popen[str]:
    """A process that runs ``source``, and can import what can be imported here."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def names(bus: crewbus.Bus, run_id: str) -> list[str]:
    """The types of a record's events, in order."""
    return [type(envelope.event).__name__ for envelope in bus.record_of(run_id)]


def found(bus: crewbus.Bus, run_id: str, kind: type) -> list[crewbus.Envelope]:
    """A record's events of that type."""
    return [envelope for envelope in bus.record_of(run_id) if isinstance(envelope.event, kind)]


def text_of(bus: crewbus.Bus, run_id: str, after: str = "start") -> str:
    """The text that a consumer of the record ends up with."""
    with bus.subscribe(run_id, after=after) as stream:
        return stream.text()


class Follower:
    """A consumer that applies the retractions that it gets, and comes back with its cursor."""

    def __init__(self) -> None:
        self.cursor = "start"
        self.frames: list[crewbus.Envelope] = []

    @property
    def texts(self) -> list[str]:
        """What it has."""
        return [frame.event.text for frame in self.frames]

    def see(self, envelope: crewbus.Envelope) -> None:
        """Take the next frame."""
        event = envelope.event
        if isinstance(event, crewbus.Retracted):
            self.frames = [frame for frame in self.frames if not event.covers(frame.seq, frame.parent)]
        elif isinstance(event, crewbus.Chunk):
            self.frames.append(envelope)

    def follow(self, bus: crewbus.Bus, run_id: str, frames: int | None = None) -> None:
        """Read on to the end, or so many frames."""
        with bus.subscribe(run_id, after=self.cursor) as stream:
            while frames is None or frames > 0:
                envelope = next(stream, None)
                if envelope is None:
                    break
                self.see(envelope)
                frames = None if frames is None else frames - 1
                self.cursor = stream.cursor or "start"


def steps(run: crewbus.Run, text: str, calls: list[str] | None = None) -> None:
    """Do a step for each character of ``text``; ``calls`` are those that were not in the record."""
    made = [] if calls is None else calls
    for name in text:
        run.step(name, lambda name=name: made.append(name))
