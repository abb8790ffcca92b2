"""The runs and streams of a bus: which are live, who watches them, what works in them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from crewbus._util.callables import is_text, name_of
from crewbus._util.deadlines import deadline
from crewbus._util.loops import running_loop
from crewbus.durability.run_log import Durability, checked
from crewbus.durability.step_runner import Steps
from crewbus.events import RunStarted
from crewbus.exceptions import BusClosedError, RunError, RunIdInUseError, RunNotFoundError
from crewbus.scopes.run import AS_THE_BUS, RecordingRequest, Run, Sink, reach
from crewbus.streams.buffer import Buffer, buffers_of
from crewbus.streams.cursor import Cursor
from crewbus.streams.follower import Follower
from crewbus.streams.options import Slow, StreamOptions
from crewbus.streams.owned import OwnedStream, check_streamable
from crewbus.streams.stream import Stream
from crewbus.work.owned import OwnedTask
from crewbus.work.submitted import submission

if TYPE_CHECKING:
    from concurrent.futures import Future

    from crewbus.bus.bus import Bus

T = TypeVar("T")


class Runs(Steps):
    """Starts and ends runs, and streams them."""

    def __init__(self, unscoped: str) -> None:
        super().__init__(unscoped)
        self._awaited: dict[str, set[weakref.ref[Buffer]]] = {}
        """The buffers of those who watch for a run that has not started, by its id."""
        self._works: set[OwnedTask] = set()
        """The live tasks of the runs that streams own."""
        self._jobs: set[OwnedTask] = set()
        """The live tasks that were submitted."""

    def run(
        self,
        name: str | None = None,
        *,
        id: str | None = None,  # noqa: A002 - what users look for
        tags: Mapping[str, str] | None = None,
        record: bool | None = None,
        durability: Durability | None = None,
    ) -> Run:
        """A run, to be entered with ``with`` or ``async with``: nested in the run in scope then, or a root.

        ``id`` must be of no live run and no recorded one (`RunIdInUseError`). ``tags`` map strings to strings.
        ``record=True`` arms this run's recording, whatever the bus's is; a nested run shares its root's.
        ``durability``: as for `enable_recording`; None: as that says.
        """
        if id is not None and not is_text(id):
            raise RunError(f"a run id is a string that is not empty; got {id!r}")
        if name is not None and not isinstance(name, str):
            raise RunError(f"a run's name is a string; got {name!r}")
        for key, value in (tags or {}).items():
            if not (is_text(key) and isinstance(value, str)):
                raise RunError(f"tags map strings to strings; got {key!r}: {value!r}")
        wanted = AS_THE_BUS if record is None and durability is None else RecordingRequest(record, checked(durability))
        return Run(cast("Bus", self), name, id, tags, wanted)

    def resume(self, run_id: str, at: str | None = None, *, durability: Durability | None = None) -> Run:
        """A recorded run, to be gone on with: `Resumption` knows how."""
        raise NotImplementedError

    @property
    def runs(self) -> list[Run]:
        """The runs that are live, in the order of their start."""
        with self._registry:
            return list(self._runs.values())

    def _admit(self, run: Run, sinks: Iterable[Sink], known: bool = False) -> None:
        if run.named and not known:
            self._refuse_recorded(run)
        with self._registry:
            if self.closed:
                raise BusClosedError(f"this bus is closed: run {run.id} can't start")
            if run.id in self._runs:
                raise RunIdInUseError(f"run {run.id} is live: choose another id, or wait for its end")
            self._runs[run.id] = run
            awaited = [buffer() for buffer in self._awaited.pop(run.id, ())]
        run.state, run.ended = "running", False
        with run.tree.lock:
            run.tree.live += 1
        for sink in [*sinks, *awaited]:
            if sink is not None:
                sink.attach(run)

    def _announce(self, run: Run, started: RunStarted, told: int | None = None) -> None:
        self._tell("crewbus_run_start", run=run)
        self._open(run, started, told)

    def _withdraw(self, run: Run) -> None:
        if run.ended:  # it was refused, or an interrupt came first
            with self._registry:
                if self._runs.get(run.id) is run:
                    del self._runs[run.id]
            return
        with run.tree.lock:
            run.retire("failed")
        self._dismiss(run)

    def _give_up(self, run: Run, error: BaseException) -> None:
        """End a run and those nested in it, the innermost first: what they still emit is discarded."""
        for nested in reversed(self.runs):
            if run in reach(nested):
                nested.finish(error)

    def _dismiss(self, run: Run) -> None:
        with self._registry:
            if self._runs.get(run.id) is run:
                del self._runs[run.id]
        self._tell("crewbus_run_finish", run=run)
        if run.tree.log is not None:
            with run.tree.lock:
                if run.over:
                    run.tree.log.let_go()

    # Streams

    def stream(
        self, fn: Callable[..., Any], /, *args: Any, options: StreamOptions | None = None, **kwargs: Any
    ) -> OwnedStream[Any]:
        """Stream what ``fn(*args, **kwargs)`` emits in a run of its own: see `OwnedStream`.

        A sync ``fn`` runs in a thread of its own, an async one as a task on the running loop, or in a thread where none
        runs; in either case in a copy of the caller's context. ``options`` says how, where the defaults don't fit; an
        argument of ``fn`` that bears this name goes in by `functools.partial`.
        """
        chosen = options or StreamOptions()
        name = chosen.name if chosen.name is not None or not callable(fn) else name_of(fn)
        if chosen.resume is not None:
            run = self.resume(chosen.resume, chosen.at, durability=chosen.durability)
        else:
            run = self.run(name, id=chosen.id, tags=chosen.tags, record=chosen.record, durability=chosen.durability)
        check_streamable(fn)
        task = OwnedTask(
            fn,
            args,
            kwargs,
            live=self._works,
            on_start=run.settle_in,
            on_end=lambda _, error: run._exit(error),
            on_cancel=run.cancel,
        )
        buffer = Buffer(run.id, chosen.bound, chosen.slow)
        return OwnedStream(run, task, buffer, chosen.grace, partial(self._give_up, run))

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call ``fn(*args, **kwargs)`` in a thread of its own, in a copy of this context; returns its future.

        There is no bound to how many run at once, so that those which wait for others can't starve; where you want
        one, use a `crewbus.ThreadPoolExecutor`. Closing the bus waits for what was submitted. Raises `TargetError` for
        what can't be called in a thread, `BusClosedError`, and `Cancelled` if the run in scope was cancelled.
        """
        here = self._own(self._scope())
        if here is not None and here.run is not None:
            here.run.check()
        future, job = submission(fn, args, kwargs, self._jobs)
        with self._registry:
            if self.closed:
                raise BusClosedError(f"this bus is closed: {job.name} was not submitted")
            self._jobs.add(job)
        job.start(copy_context())
        return future

    def subscribe(
        self,
        run_id: str,
        *,
        after: str | None = None,
        timeout: float | None = 30.0,
        bound: int = 1024,
        slow: Slow = "drop",
    ) -> Stream:
        """Watch a run, from now on, or from its start if it has not started yet; leaving the stream cancels nothing.

        Without ``after`` it is a run of this process. One that does not start within ``timeout`` seconds (None: no
        limit) ends the watch with `RunNotFoundError`. ``bound`` and ``slow`` are as in `StreamOptions`.

        ``after`` is a cursor (`Stream.cursor` of a stream of that run, or "start"), and the run a recorded one, of any
        process that writes to the same store: what its consumer has not seen is read from the record, and what is
        recorded from now on. What it has seen and the record has not is taken back first. When whoever carries out the
        run is gone the last frame is `RunInterrupted`; a run that is resumed later is followed by the cursor again.
        Raises `RunNotFoundError`, and `InputError` for what is no cursor.
        """
        if after is not None:
            cursor = Cursor.parse(after)
            return Stream(run_id, Follower(self.record_of(run_id), self.store, cursor))
        buffer = Buffer(run_id, bound, slow, deadline(timeout))
        with self._registry:
            if self.closed:
                raise BusClosedError(f"this bus is closed: run {run_id} can't be watched")
            run = self._runs.get(run_id)
            if run is None:
                self._await(run_id, buffer)
        if run is not None:
            buffer.attach(run)
            if buffer.ended:
                raise RunNotFoundError(f"run {run_id} has just ended")
        return Stream(run_id, buffer)

    def _await(self, run_id: str, buffer: Buffer) -> None:
        def forget(gone: weakref.ref[Buffer]) -> None:
            with self._registry:  # no thread that holds it ever waits for another lock
                waiting = self._awaited.get(run_id, set())
                waiting.discard(gone)
                if not waiting:
                    self._awaited.pop(run_id, None)

        with self._registry:
            self._awaited.setdefault(run_id, set()).add(weakref.ref(buffer, forget))

    async def drain(self) -> None:
        """Wait until the streams of the run in scope, and background handlers, have room.

        It is where an async producer feels its consumers, since an event loop's thread never blocks.
        """
        here = self._own(self._scope())
        run = here.run if here is not None else None
        loop = running_loop()
        assert loop is not None
        for worker in self._workers():
            await worker.drain(loop)
        if run is None:
            return
        for buffer in buffers_of(run):
            await buffer.drain(loop)
        run.check()
