"""Plays the programs of the durable model with crewbus, on a store whose process dies at a chosen write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final

import attrs
from durable_model import CrashError, World
from durable_programs import (
    ALWAYS,
    Action,
    Apart,
    Break,
    BreakError,
    Call,
    FailureError,
    Note,
    Program,
    Run,
    Save,
    Say,
    Step,
    Try,
)
from helpers import TIMEOUT, Noted

import crewbus
from crewbus.stores import LogInfo, Store, StoredEvent

crewbus.register_exception(FailureError)

UNCOUNTED: Final = frozenset({"RunResumed", "Retracted", "RunStarted"})
"""The events that no fuse counts: how many there are is the implementation's affair."""


class MortalStore(Store):
    """What one process has of a store: after ``fuse`` events it dies, and what it had not flushed may be lost."""

    def __init__(self, inner: Store, fuse: int | None = None, uncounted: frozenset[str] = UNCOUNTED) -> None:
        self.inner = inner
        self.fuse = fuse
        self._uncounted = uncounted
        self.dead = False
        self._begun: list[str] = []
        self._pending: list[tuple[str, int, StoredEvent]] = []
        self._lock = threading.RLock()

    def begin(self, root_id: str) -> int:
        self._begun.append(root_id)
        return 1

    def append(self, root_id: str, epoch: int, event: StoredEvent) -> None:
        with self._lock:
            counts = self._counts(event)
            self.dead = self.dead or (counts and self.fuse == 0)
            if self.dead:
                raise CrashError
            if counts and self.fuse is not None:
                self.fuse -= 1
            self._pending.append((root_id, epoch, event))

    def _counts(self, event: StoredEvent) -> bool:
        return event.name.rpartition(".")[2] not in self._uncounted

    def abandon_logs(self) -> None:
        """After the death: its logs have no holder."""
        for root_id in self.inner.roots():
            self.inner.revoke(root_id)

    def survive(self, lost: int) -> None:
        """After the death: have all but the last ``lost`` events on disk."""
        while lost and self._pending:
            lost -= self._counts(self._pending.pop()[2])
        if not self._pending:
            self._begun = []
        self._deliver()
        self.abandon_logs()

    def _deliver(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, []
            for root_id in begun:
                self.inner.begin(root_id)
            pending, self._pending = self._pending, []
            for root_id, epoch, event in pending:
                self.inner.append(root_id, epoch, event)

    def flush(self, timeout: float | None = None) -> None:
        if not self.dead:
            self._deliver()
            self.inner.flush(timeout)

    def finish(self, root_id: str, epoch: int) -> None:
        if not self.dead:
            self._deliver()
            self.inner.finish(root_id, epoch)

    def read(self, root_id: str, after: int = -1) -> Iterator[StoredEvent]:
        if root_id not in self._begun:
            yield from self.inner.read(root_id, after)
        yield from [event for root, _, event in self._pending if root == root_id and event.seq > after]

    def info(self, root_id: str) -> LogInfo:
        last = [event.seq for root, _, event in self._pending if root == root_id][-1:]
        if root_id in self._begun:
            return LogInfo(root_id, 1, last[0] if last else -1, sealed=False, alive=not self.dead)
        info = self.inner.info(root_id)
        return info._replace(last=last[0]) if last else info

    def root_of(self, run_id: str) -> str | None:
        return run_id if run_id in self._begun else self.inner.root_of(run_id)

    def roots(self) -> list[str]:
        return self.inner.roots()

    def drop(self, root_id: str) -> None:
        self.inner.drop(root_id)

    def acquire(self, root_id: str) -> int:
        return self.inner.acquire(root_id)

    def release(self, root_id: str, epoch: int) -> None:
        if not self.dead:
            self._deliver()
            self.inner.release(root_id, epoch)

    def revoke(self, root_id: str) -> None:
        self.inner.revoke(root_id)

    def fork(self, root_id: str, at: int, fork_id: str, events: Sequence[StoredEvent] = ()) -> None:
        self._deliver()
        self.inner.fork(root_id, at, fork_id, events)

    def lineage(self, root_id: str) -> list[str]:
        return self.inner.lineage(root_id) if root_id not in self._begun else []


class Strand:
    """A thread that runs from one pause to the next on demand, in the context in which it was made."""

    def __init__(self, work: Callable[[Callable[[], None]], Any]) -> None:
        self._work = work
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = False
        self.done = False
        self.result: Any = None
        self._error: BaseException | None = None
        self._thread = crewbus.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._killed:
                self.result = self._work(self._pause)
        except BaseException as error:
            self._error = error
        self.done = True
        self._stopped.release()

    def _pause(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise CrashError

    def turn(self) -> None:
        """Let it go on to its next pause, or its end; raises what it raised."""
        self._go.release()
        assert self._stopped.acquire(timeout=TIMEOUT), "a strand hangs"
        if self._error is not None:
            raise self._error

    def kill(self) -> None:
        """Have it end."""
        self._killed = True
        self._go.release()
        self._thread.join(TIMEOUT)


_pause: ContextVar[Callable[[], None]] = ContextVar("pause", default=lambda: None)


@attrs.define
class Play:
    """One process's go at a program: the same as `durable_model.Session`, with crewbus."""

    world: World
    schedule: Iterator[int]

    def all(self, actions: Program) -> list[Any]:
        """Do them in order, in the scope that is current; the results of those that have one."""
        results = [self.do(action) for action in actions]
        return [result for result in results if result is not None]

    def do(self, action: Action) -> Any:
        """Do one action, when it is its turn."""
        _pause.get()()
        run = crewbus.current_run()
        assert run is not None
        match action:
            case Say(text):
                crewbus.chunk(text)
            case Note(text):
                crewbus.emit(Noted(text))
            case Save(name):
                run.checkpoint(name)
            case Break(name, times):
                self.world.broken[name] += 1
                if self.world.broken[name] <= times:
                    raise BreakError(name)
            case Step():
                return self._until_done(run, action)
            case Try(step, instead):
                return self._try(run, step, instead)
            case Run(name, body):
                with crewbus.run(name):
                    return [name, self.all(body)]
            case Call(name, body):
                with crewbus.call(name):
                    return self.all(body)
            case Apart():
                return self._apart(action)
        return None

    def _until_done(self, run: crewbus.Run, step: Step) -> Any:
        while True:
            try:
                return run.step(step.name, self._execute, step, key=step.key or "same")
            except FailureError:
                if step.fails == ALWAYS:
                    raise

    def _try(self, run: crewbus.Run, step: Step, instead: Step) -> Any:
        try:
            return self._until_done(run, step)
        except FailureError:
            return self._until_done(run, instead)

    def _execute(self, step: Step) -> Any:
        self.world.begun[step.uid] += 1
        results = self.all(step.body)
        if self.world.begun[step.uid] <= step.fails:
            raise FailureError(step.name)
        return [step.name, step.key, results]

    def _apart(self, action: Apart) -> list[Any]:
        strands = [Strand(self._strand(step)) for step in action.steps]
        try:
            return [self._meanwhile(action.meanwhile, strands), *(strand.result for strand in strands)]
        finally:
            for strand in strands:
                strand.kill()

    def _strand(self, step: Step) -> Callable[[Callable[[], None]], Any]:
        def work(pause: Callable[[], None]) -> Any:
            _pause.set(pause)
            return self.do(step)

        return work

    def _meanwhile(self, actions: Program, strands: list[Strand]) -> list[Any]:
        outer = _pause.get()
        going: list[Strand | None] = [None, *strands]  # None: this thread

        def others() -> None:
            while going:
                chosen = going[next(self.schedule, 0) % len(going)]
                if chosen is None:
                    return
                chosen.turn()
                if chosen.done:
                    going.remove(chosen)
                outer()

        def pause() -> None:
            outer()
            others()

        others()
        token = _pause.set(pause)
        try:
            results = self.all(actions)
        finally:
            _pause.reset(token)
        going.remove(None)
        outer()
        others()
        return results


@attrs.define
class Service:
    """What `durable_model.Shelf` is: the same runs, with crewbus and a store. Each session has a bus of its own."""

    store: Store
    uncounted: frozenset[str] = UNCOUNTED
    worlds: dict[str, World] = attrs.field(factory=dict)
    programs: dict[str, Program] = attrs.field(factory=dict)
    results: dict[str, Any] = attrs.field(factory=dict)
    ids: dict[str, str] = attrs.field(factory=dict)
    """The ids that crewbus gave the forks."""
    followers: list[tuple[str, Follower]] = attrs.field(factory=list)

    def bus(self, store: Store | None = None) -> crewbus.Bus:
        """A bus that records to the store."""
        bus = crewbus.Bus(entry_points=False)
        bus.enable_recording(store or MortalStore(self.store))  # which the bus closes with itself
        return bus

    def begin(self, run_id: str, program: Program, fuse: int | None, schedule: Iterable[int], lost: int) -> str:
        """Begin a run and play it; returns how it ended."""
        self.worlds[run_id], self.programs[run_id] = World(), program
        self.ids[run_id] = run_id
        return self._play(run_id, lambda bus: bus.run("program", id=run_id), fuse, schedule, lost)

    def resume(self, run_id: str, at: str | None, fuse: int | None, schedule: Iterable[int], lost: int) -> str:
        """Go on with a run, from its end or from a checkpoint; returns how it ended."""
        return self._play(run_id, lambda bus: bus.resume(self.ids[run_id], at), fuse, schedule, lost)

    def _play(
        self,
        run_id: str,
        make: Callable[[crewbus.Bus], crewbus.Run],
        fuse: int | None,
        schedule: Iterable[int],
        lost: int,
    ) -> str:
        store = MortalStore(self.store, fuse, self.uncounted)
        with self.bus(store) as bus:
            try:
                with make(bus):
                    self.results[run_id] = Play(self.worlds[run_id], iter(schedule)).all(self.programs[run_id])
            except CrashError:
                store.abandon_logs()
                for followed, follower in self.followers:
                    if followed == run_id and follower.live:
                        self._follow(bus, run_id, follower, None)
                store.survive(lost)
                return "interrupted"
            except BreakError:
                return "failed"
            except crewbus.RunNotFoundError:
                return "RunNotFoundError"
            except crewbus.ReplayMismatch:
                raise
            except crewbus.RunError as error:
                return type(error).__name__
        return "finished"

    def fork(self, run_id: str, at: str | None, fork_id: str, edits: dict[str, Any]) -> None:
        """Fork a run at its end or a checkpoint."""
        with self.bus() as bus:
            self.ids[fork_id] = bus.fork(self.ids[run_id], at, edits)
        self.worlds[fork_id], self.programs[fork_id] = World(), self.programs[run_id]

    def prune(self, keep: int) -> list[str]:
        """Drop all but the newest runs; returns which."""
        names = {crewbus_id: run_id for run_id, crewbus_id in self.ids.items()}
        with self.bus() as bus:
            return [names[gone] for gone in bus.records.prune(keep=keep)]

    def standing(self, run_id: str) -> list[str]:
        """The texts of the chunks in a run's record that were not retracted."""
        follower = Follower()
        with self.bus() as bus:
            for envelope in bus.record_of(self.ids[run_id]):
                follower.see(envelope)
        return follower.texts

    def numbers(self, run_id: str) -> list[int]:
        """The numbers of a run's recorded events."""
        return [event.seq for event in self.store.read(self.ids[run_id])]

    def follow(self, run_id: str, follower: Follower, chunks: int | None) -> None:
        """Have ``follower`` go on with a run from its cursor, to the end of the stream or for so many chunks."""
        with self.bus() as bus:
            self._follow(bus, run_id, follower, chunks)

    def _follow(self, bus: crewbus.Bus, run_id: str, follower: Follower, chunks: int | None) -> None:
        with bus.subscribe(self.ids[run_id], after=follower.cursor) as stream:
            while chunks != 0:
                envelope = next(stream, None)
                if envelope is None:
                    break
                follower.see(envelope)
                if chunks is not None and isinstance(envelope.event, crewbus.Chunk):
                    chunks -= 1
                follower.cursor = stream.cursor or "start"


@attrs.define
class Follower:
    """A consumer that applies the retractions that it gets."""

    live: bool = False
    """Whether it saw all that was emitted when the process died, also what was not yet on disk."""
    cursor: str = "start"
    frames: list[crewbus.Envelope] = attrs.field(factory=list)

    @property
    def texts(self) -> list[str]:
        """The texts that it has."""
        return [frame.event.text for frame in self.frames]

    def see(self, envelope: crewbus.Envelope) -> None:
        """Take the next frame."""
        event = envelope.event
        if isinstance(event, crewbus.Retracted):
            self.frames = [frame for frame in self.frames if not event.covers(frame.seq, frame.parent)]
        elif isinstance(event, crewbus.Chunk):
            self.frames.append(envelope)
