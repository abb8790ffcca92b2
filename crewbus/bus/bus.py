"""The bus: the facade, which builds the parts and hands them to each other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from crewbus import durability as durable
from crewbus import hookspecs, records
from crewbus import plugins as plugin_package
from crewbus._util import awaitable
from crewbus.bus import calling, recovery
from crewbus.bus.cancellation import Cancellation
from crewbus.bus.draining import Draining
from crewbus.bus.lifecycle import CLOSE_TIMEOUT, Lifecycle
from crewbus.bus.live_runs import LiveRuns
from crewbus.bus.membership import DEFAULT_PLUGINS, Membership
from crewbus.bus.owned_work import OwnedWork
from crewbus.bus.process import live_buses
from crewbus.bus.redelivery import Redelivery
from crewbus.bus.release import PluginRelease
from crewbus.bus.results import RunResults
from crewbus.bus.streaming import Streaming
from crewbus.bus.watching import Watching
from crewbus.dispatch import (
    ABSENT,
    AsyncHandlers,
    CallbackRegistration,
    Deliverer,
    Dispatcher,
    FaultReporter,
    HookTable,
    Subscriptions,
    Unscoped,
    recursed_too_deep,
)
from crewbus.durability import MAX_EVENT_BYTES, Gate, Oversized, Recording
from crewbus.events import Envelope
from crewbus.plugins import PluginManager
from crewbus.scopes import (
    Durability,
    Host,
    Run,
    check_run_arguments,
    execution_id,
    recording_request,
)

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from crewbus.durability import Recorder
    from crewbus.records import Record, Records, RunInfo
    from crewbus.stores import Backlog, Store
    from crewbus.streams import OwnedStream, Slow, Stream, StreamOptions

__all__ = ["Bus"]

H = TypeVar("H", bound=Callable[[Envelope], Any])
T = TypeVar("T")


class Bus(Dispatcher):
    """An event bus: delivers what runs emit to handlers, plugins and streams. Make as many as you need.

    ``plugins``: objects, modules or classes with hookimpls, pairs ``(name, plugin)``, or names: of a built-in plugin,
    else of an installed one, else of a module to import, as ``module`` or ``module:attribute``. A plugin that is given
    here replaces a built-in or installed plugin of its name. ``entry_points``: whether to load the plugins that
    installed distributions name in the entry point group ``crewbus``, and those that the environment variable
    ``CREWBUS_PLUGINS`` names. ``blocked``: names of plugins to leave out, built-in ones too, or a mapping from them to
    the reason to show; None: those that ``CREWBUS_BLOCK`` names, except what ``plugins`` brings. The variables hold
    names with commas between them; a plugin that is left out is not imported. ``strict``: whether a plugin that can't
    be loaded is an error (`PluginError`) or is skipped with a warning. ``requires``: plugins that must be loaded, in
    which versions, as in ``"sqlite>=0.1"``; otherwise `PluginError` says which is missing, and why. ``unscoped``:
    what happens to a chunk emitted outside any run, or an event in a finished one, which no stream can get: "warn"
    (and deliver it to handlers), "ignore" (deliver it silently) or "raise". A constructor that raises leaves nothing
    behind.
    """

    def __init__(
        self,
        plugins: Iterable[Any] = (),
        *,
        entry_points: bool = True,
        blocked: Iterable[str] | None = None,
        requires: Iterable[str] = (),
        strict: bool = False,
        unscoped: str = "warn",
    ) -> None:
        selection = plugin_package.PluginSelection.of(plugins, entry_points, blocked, strict)
        self._build(unscoped)
        try:
            self._membership.load(DEFAULT_PLUGINS, selection, requires)
        except BaseException:
            self._abandon()
            raise
        live_buses.add(self)

    def _build(self, unscoped: str) -> None:
        faults = FaultReporter(self)
        self.plugins = faults.plugins = PluginManager(
            hookspecs,
            report=faults.report_plugin,
            propagates=recursed_too_deep,
            changed=self._plugins_changed,
            joining=lambda name, plugin: self._membership.configure(name, plugin),  # noqa: PLW0108 - made below
            leaving=lambda plugin: self._membership.leave(plugin),  # noqa: PLW0108 - likewise
        )
        self._hook_table = hooks = HookTable(self, self.plugins, faults)
        handlers = AsyncHandlers(faults.report_culprit)
        self._handlers = subscriptions = Subscriptions(hooks, handlers, faults)
        deliverer = Deliverer(self, faults, handlers.take_result)
        self._host = host = Host(self)
        host.defer, host.hold_flush = faults.defer, handlers.hold_flush
        super().__init__(host, hooks, subscriptions, deliverer, faults, Unscoped(unscoped))
        self._gate = gate = Gate(self._make_recording)
        host.make_steps = lambda: gate.opened().steps
        self._live = live = LiveRuns(host, hooks, subscriptions, faults, gate)
        self._watching = watching = Watching(gate, live)
        self._results = results = RunResults(host, gate, live)
        callbacks = CallbackRegistration(self, self.plugins)
        host.prepare, host.start, host.finish = gate.preparation, live.start, live.finish
        self._draining = Draining(host, subscriptions, handlers, gate.catch_up)
        host.register_callback, host.as_callback = callbacks.register, callbacks.unchanged
        self._work, self._cancellation = OwnedWork(), Cancellation(gate, live)
        self._redelivery = Redelivery(host, subscriptions, deliverer)
        self._streaming = Streaming(host, self.run, self.resume, gate, live, self._work, watching, results)
        self._membership = Membership(self, self.plugins, subscriptions, faults)
        self.lifecycle = Lifecycle(
            self,
            host,
            subscriptions,
            handlers,
            gate,
            live,
            self._work,
            self._membership,
            PluginRelease(self, self.plugins, faults),
            closed=lambda: live_buses.discard(self),
        )

    def _make_recording(self) -> Recording:
        recorder = durable.Recorder(
            self, self.plugins, self._hook_table, self._handlers.plan_of, self._host.outside.lane, self._live.by_id
        )
        checkpoints = durable.Checkpoints(recorder, recorder.disk)
        results = durable.Results(recorder)
        steps = durable.StepRunner(recorder, checkpoints, recorder.disk, results)
        return Recording(recorder, checkpoints, steps, results)

    @cached_property
    def recording(self) -> Recorder:
        """Whether runs are recorded, and where. Nothing is kept until recording is armed."""
        return self._gate.opened().recorder

    @cached_property
    def records(self) -> Records:
        """The records in the store of this bus."""
        recording = self.recording
        return records.Records(lambda: recording.store, recording.decode, recording.codec)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self.runs)} live runs"
        return f"<Bus {state}, plugins: {', '.join(name for name, _ in self.plugins.list_name_plugin())}>"

    def _plugins_changed(self) -> None:
        self._hook_table.rebuild()
        self._refresh()

    def _abandon(self) -> None:
        """Release what a constructor that fails had taken."""
        self._membership.unregister_unconfigured()
        try:
            self.close()
        except Exception:  # closing would block here; the constructor's own error is raised
            self.lifecycle.shut([], CLOSE_TIMEOUT)

    # Handlers

    @overload
    def on(self, event_type: type, *, background: bool = False) -> Callable[[H], H]: ...
    @overload
    def on(self, event_type: type, handler: H, *, background: bool = False) -> H: ...
    def on(self, event_type: type, handler: H = ABSENT, *, background: bool = False) -> H | Callable[[H], H]:
        """Subscribe ``handler(envelope)`` to an event type and its subclasses; a decorator without ``handler``.

        Handlers run inline, in the order of their registration, in the emitter's thread and context. An awaitable that
        a handler returns, as an ``async def`` one does, is awaited as a task: on the emitter's event loop; if it has
        none, on the loop on which the handler was subscribed, if that runs; else on a background loop. A generator that
        it returns is reported, since none of its code would run. With ``background`` a handler of either kind has a
        thread of its own, which calls it in a copy of the emitter's context, one event at a time, those of a root run
        in the order of their numbers; when 1024 events wait for it, emitters wait.
        Subscribing the same handler to the same type again changes nothing. A handler that raises is reported by name,
        and changes nothing for the others. ``object`` stands for every event.
        """
        return self._handlers.on(event_type, handler, background)

    def off(self, event_type: type, handler: Callable[[Envelope], Any]) -> bool:
        """End a subscription; returns whether there was one. An emission in progress may still reach the handler."""
        return self._handlers.off(event_type, handler)

    # Runs and streams

    def run(
        self,
        name: str | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the name that users look for
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
        record: bool | None = None,
        durability: Durability | None = None,
    ) -> Run:
        """A run, to be entered with ``with`` or ``async with``: nested in the run that is current then, or a root.

        ``id`` must not be the id of a live or recorded run (`RunIdInUseError`). ``tags`` map strings to strings.
        ``record=True`` arms this run's recording, whatever the bus's is; a nested run shares its root's.
        ``durability``: as for `enable_recording`; None: as that says. A resumed run distinguishes nested runs of
        one name by ``id`` or ``key``, else by order: equal ones at once need a ``key`` if steps are called in them.
        """
        check_run_arguments(name, id, tags, key)
        return Run(self._host, name, id, tags, recording_request(record, durability), key=key)

    @property
    def runs(self) -> list[Run]:
        """The live runs, in the order of their start."""
        return self._live.all()

    def stream(
        self, fn: Callable[..., Any], /, *args: Any, options: StreamOptions | None = None, **kwargs: Any
    ) -> OwnedStream[Any]:
        """Stream what ``fn(*args, **kwargs)`` emits in a run of its own: see `OwnedStream`.

        A sync ``fn`` runs in a thread of its own, an async one as a task on the running loop, or in a thread if none
        runs; in either case in a copy of the caller's context. ``options`` changes the defaults; pass an argument of
        ``fn`` that has this name by `functools.partial`.
        """
        return self._streaming.stream(fn, args, kwargs, options)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call ``fn(*args, **kwargs)`` in a thread of its own, in a copy of this context; returns its future.

        There is no limit to how many run at once, so that work that waits for other work can't starve; for a limit,
        use a `crewbus.ThreadPoolExecutor`. Closing the bus waits for what was submitted. Raises `TargetError` for
        what can't be called in a thread, `BusClosedError`, and what `Run.check` raises in the current run.
        """
        here = self._current_scope()
        if here is not None and here.run is not None:
            here.run.check()
        return self._work.submit(fn, args, kwargs)

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

        Without ``after`` it is a run of this process. If it does not start within ``timeout`` seconds (None: no
        limit) the stream ends with `RunNotFoundError`; of one that is recorded as ended it has the terminal frame.
        ``bound`` and ``slow`` are as in `StreamOptions`.

        ``after`` is a cursor (`Stream.cursor` of a stream of that run, or "start"), and the run a recorded one, of any
        process that writes to the same store: what its consumer has not seen is read from the record, and then what is
        recorded from now on. What the consumer has seen and the record has not is retracted first. While the run is
        suspended the stream waits. If the holder of the run is gone, the last frame is `RunInterrupted`; follow a run
        that is resumed later by the cursor again.
        Raises `RunNotFoundError`, and `InputError` for what is no cursor of this run's record.
        """
        return self._watching.subscribe(run_id, after, timeout, bound, slow)

    def result(self, run_id: str, timeout: float | None = None, *, returns: Any = Any) -> Any:
        """Wait for the end of a recorded run, in whichever process it is, and return its result.

        That is what the function of `stream` returned, or what `Run.set_result` was given; None if there is neither.
        ``returns``: the type to decode it as, if its own is not registered: what the function is annotated to return.

        Raises the failure of the run, as itself if its type is known here, else as `RunFailedError`;
        `RunCancelledError`; `ResultTimeoutError` after ``timeout`` seconds, which an interrupted run needs: it ends
        when it was resumed. Raises `RunNotFoundError`; `ConsumptionError` on an event loop, and in the run itself.
        """
        return self._results.wait(run_id, timeout, returns)

    async def aresult(self, run_id: str, timeout: float | None = None, *, returns: Any = Any) -> Any:
        """As `result`, without blocking the loop."""
        return await self._results.wait_async(run_id, timeout, returns)

    def aemit(self, event: Any, source: Any = None) -> Coroutine[Any, Any, Envelope | None]:
        """As `emit`, and then `drain`: so an async emitter waits for slow consumers without blocking its loop."""
        return self._draining.after(partial(self.emit, event, source), execution_id())

    def achunk(self, text: str, kind: str = "text", source: Any = None) -> Coroutine[Any, Any, Envelope | None]:
        """As `chunk`, and then `drain`: so an async emitter waits for slow consumers without blocking its loop."""
        return self._draining.after(partial(self.chunk, text, kind, source), execution_id())

    def drain(self) -> Coroutine[Any, Any, None]:
        """Let other tasks run, and wait until the streams of the current run, and handlers, have room.

        An event loop's thread never blocks in an emission, so this is where an async producer waits for its consumers,
        and for a store that is more than a quarter of a second behind: see `backlog`. It waits neither for the task
        that calls it, nor once the run is cancelled or the bus is closing. Raises what keeps the store from writing.
        """
        return self._draining.drain(execution_id())

    def cancel(self, run_id: str, reason: str = "cancelled") -> str:
        """Cancel a run of this bus, or a recorded one, wherever it is; returns the state in which it was.

        At once in this process; within a second in another; a run that nobody holds ends as cancelled, and one that has
        ended stays as it is. Raises `RunNotFoundError`, and `RunError` for a run nested elsewhere.
        """
        return self._cancellation.cancel(run_id, reason)

    # Calls

    call, callbacks = calling.call, calling.callbacks

    # Recording

    @property
    def backlog(self) -> Backlog:
        """What the store has accepted and not written yet: events, bytes, and by how many seconds it is behind."""
        return self._gate.backlog()

    @property
    def store(self) -> Store:
        """Where this bus records; opened at first use. Raises `RecordingError` if no plugin opens it."""
        return self.recording.store

    def enable_recording(
        self,
        store: Store | str | None = None,
        *,
        durability: Durability = "async",
        checkpoint_on: Iterable[type] = (),
        max_event_bytes: int = MAX_EVENT_BYTES,
        oversized: Oversized = "refuse",
        content: bool = False,
    ) -> None:
        """Arm recording: root runs that start from now on are recorded, from their first event to their last.

        ``store``: a `Store`, or the URL of one; by default the one in use, or else the one that the environment
        variable ``CREWBUS_STORE`` names, or else one in memory. ``durability``: "async", an emission returns while the
        event is on its way to the store; "sync", it is on disk. ``checkpoint_on``: event types after each of which a
        checkpoint is saved, under the type's name. ``max_event_bytes`` limits the JSON of one event: a larger event is
        refused (`OversizedEventError`), or with ``oversized="truncate"`` recorded as a `Truncated`, unless a resume
        needs it. ``content``: whether the input and output of calls are recorded, as the plugins that redact leave
        them. Raises `RecordingError` if nothing would record, and if another store is given while recorded runs are
        live.
        """
        options = durable.RecordingOptions.checked(durability, checkpoint_on, max_event_bytes, oversized, content)
        before = self.recording.options
        self.recording.enable(store, options)
        self._gate.opened().checkpoints.watch(self._handlers, before.checkpoint_on, options.checkpoint_on)

    def reset_recording(self) -> None:
        """Drop the records of finished runs; recording stays as it is. Raises `RecordingError` while a run is live."""
        self.recording.reset()

    def resume(
        self, run_id: str, at: str | None = None, *, durability: Durability | None = None, claimed: int | None = None
    ) -> Run:
        """A recorded run, to be entered with ``with`` and continued: run the same code in it again.

        Steps that are recorded as finished return their result and are not called; what the code emits beside them is
        marked ``replayed`` and not recorded again, until it has caught up with the record. ``at`` names a checkpoint to
        continue from instead of the record's end: what came later is retracted. ``durability`` is as for `Bus.run`.
        ``claimed``: the epoch that `Store.claim` returned for it. Entering it raises `RunNotFoundError`, `RunHeldError`
        while it is alive, `RunError` if it has finished or is nested in another (whose root can be resumed),
        `RecordingError`, and, there or later, `ReplayMismatch` if the code asks for other steps than the record has.
        """
        return durable.Resumption(self._host, self.recording, self._live).run(run_id, at, durability, None, claimed)

    recover, arecover = recovery.recover, recovery.arecover

    def fork(self, run_id: str, at: str | None = None, edits: Mapping[str, Any] | None = None) -> str:
        """Make another run that shares the record of this one up to a checkpoint, and return its id: resume that.

        It takes no longer for a long run, which stays as it is. ``at`` names the checkpoint; None: the end, or with
        ``edits`` the last step that is edited. ``edits`` gives finished steps other results than they had, by the
        step's name, or ``name[key]`` if several steps have the name. Raises `RunNotFoundError`, `StepError` for an edit
        that fits no step or several, `UnserializableError`, and `RecordingError`.
        """
        return durable.fork_run(self.recording, run_id, at, edits or {})

    asubscribe = awaitable(subscribe, undo=lambda stream: stream.close())
    afork, acancel = awaitable(fork), awaitable(cancel)

    def record_of(self, run_id: str) -> Record:
        """The record of a run, live or finished. Raises `RunNotFoundError`."""
        return self.records.get(run_id)

    def recorded_runs(self, limit: int | None = None, **filters: Any) -> list[RunInfo]:
        """The recorded root runs, the newest first; at most ``limit`` of them. ``filters``: see `Records.list`."""
        return self.records.list(limit, **filters)

    def replay(self, run_id: str) -> int:
        """Deliver the record of a run to handlers and observers again, in order, marked ``replayed``.

        Returns how many events there were. Nothing is recorded or streamed. Raises `RunNotFoundError`, `DecodeError`.
        """
        return self._redelivery.deliver(self.record_of(run_id))

    def export(self, run_id: str, path: str | Path) -> int:
        """Write the record of a root run to a file, as JSON Lines, and return the number of events.

        For `crewbus.testing.replayed`, or any program that reads JSON. Raises `RunNotFoundError`, and
        `CorruptRecordError` for an event that is not JSON.
        """
        return self.records.export(run_id, path)

    # Flushing and closing

    def flush(self, timeout: float | None = None) -> None:
        """Return when all that was emitted before is handled and written.

        Raises `FlushError` inside a handler, and on a loop that has async handlers pending: ``await bus.aflush()``
        there; `FlushTimeoutError` after ``timeout`` seconds; and what a recorder could not write.
        """
        self.lifecycle.flush(timeout)

    async def aflush(self, timeout: float | None = None) -> None:
        """As `flush`, without blocking the loop; inside an async handler it waits for all the others."""
        await self.lifecycle.aflush(timeout)

    def close(self, timeout: float = CLOSE_TIMEOUT, *, suspend: bool = False) -> None:
        """Cancel the runs that streams own, wait for submitted work, flush, close the plugins, take nothing more.

        ``suspend``: suspend all recorded runs instead, also those that no stream owns: see `Run.suspend`. What still
        runs after ``timeout`` seconds is named in a `GraceWarning`, and suspended all the same. Closing again does
        nothing. Raises `FlushError` where `flush` does, and then leaves the bus open.
        """
        self.lifecycle.close(timeout, suspend)

    async def aclose(self, timeout: float = CLOSE_TIMEOUT, *, suspend: bool = False) -> None:
        """As `close`, without blocking the loop."""
        await self.lifecycle.aclose(timeout, suspend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
