"""Promise 11: what is pending survives interrupts, forks, a lack of threads, and the end of the process."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import needs_fork
from lifecycle_helpers import PATIENCE, Caller, in_time, script, until

import crewbus

PACKAGE = str(Path(crewbus.__file__).parent)


@crewbus.event
class Note:
    text: str


@pytest.fixture
def bus() -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False, unscoped="ignore") as bus:
        yield bus


@pytest.fixture(autouse=True)
def silent_log() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# Interrupts


def interrupted(point: int, function: Callable[[], object], *code: str) -> bool:
    """Call it with an interrupt at the point-th place where Python looks for signals; whether there is such a place.

    ``code``: in which files; by default in crewbus's.
    """
    count = 0

    def look(frame: Any, event: str, arg: object) -> None:
        nonlocal count
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(code or (PACKAGE,)):
            count += 1
            if count == point:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(look)
    try:
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return count >= point


def emit(bus: crewbus.Bus) -> None:
    bus.emit(Note("interrupted"))


def emit_in_a_run(bus: crewbus.Bus) -> None:
    with bus.run():
        bus.emit(Note("interrupted"))


def emit_in_a_call(bus: crewbus.Bus) -> None:
    with bus.call("model", callbacks=[lambda envelope: None]):
        bus.emit(Note("interrupted"))


def subscribe(bus: crewbus.Bus) -> None:
    bus.on(crewbus.Chunk, print)
    bus.off(crewbus.Chunk, print)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("action", [emit, emit_in_a_run, emit_in_a_call, subscribe])
@pytest.mark.parametrize("kind", ["background", "async"])
def test_promise_11_an_interrupt_at_any_point_of_an_emission_leaves_flush_working(
    kind: str, action: Callable[[crewbus.Bus], None]
) -> None:
    bad: list[str] = []
    for point in range(1, 1000):
        seen: list[str] = []

        def handle(envelope: crewbus.Envelope, seen: list[str] = seen) -> None:
            seen.append(envelope.event.text)

        async def handle_async(envelope: crewbus.Envelope, seen: list[str] = seen) -> None:
            seen.append(envelope.event.text)

        bus = crewbus.Bus(entry_points=False, unscoped="ignore")
        bus.on(Note, handle if kind == "background" else handle_async, background=kind == "background")
        bus.emit(Note("before"))
        bus.flush(PATIENCE)
        # In a context of its own: an interrupt at the start of an `__exit__` leaves its scope current.
        reached = copy_context().run(interrupted, point, partial(action, bus))
        # Another thread, which waits for every lock that was left held.
        in_time(bus.emit, Note("after"), timeout=60)
        try:
            bus.flush(2)
        except crewbus.FlushError as error:
            bad.append(f"{point}: {error}")
        if seen[-1] != "after":
            bad.append(f"{point}: {seen}")
        with suppress(crewbus.FlushError):
            bus.close(1)
        if not reached:
            break
    assert bad == []
    assert point > 10


def test_promise_11_the_main_thread_does_not_import_asyncio_for_a_handler() -> None:
    """An interrupt in the middle of that import would leave asyncio unusable, and interrupts hit the main thread."""
    done = script(
        """
        import sys, threading
        import crewbus

        def audit(event, args):
            if event == "import" and args[0] == "asyncio" and threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt

        @crewbus.event
        class Note:
            text: str

        async def handle(envelope):
            print(envelope.event.text)

        assert "asyncio" not in sys.modules
        sys.addaudithook(audit)
        with crewbus.Bus(entry_points=False) as bus:
            bus.on(Note, handle)
            bus.emit(Note("handled"))
            bus.flush(20)
        """
    )
    assert (done.stdout, done.stderr, done.returncode) == ("handled\n", "", 0)


@pytest.mark.filterwarnings("ignore::crewbus.GraceWarning")
def test_promise_11_an_interrupt_at_any_point_of_a_wait_leaves_the_work_to_end() -> None:
    """The interrupt may come in Python's own code too, such as that of an event or a condition."""
    for point in range(1, 1000):
        go = threading.Event()
        with crewbus.Bus(entry_points=False) as bus:
            future = bus.submit(go.wait, PATIENCE)
            (task,) = bus._work._submitted
            reached = copy_context().run(interrupted, point, partial(task.wait, 0), PACKAGE, threading.__file__)
            go.set()
            assert future.result(PATIENCE) is True
            assert in_time(task.wait, PATIENCE)
        if not reached:
            break
    assert point > 3


# A lack of threads


@contextmanager
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        for name in ("_start_new_thread", "_start_joinable_thread"):
            if hasattr(threading, name):
                patch.setattr(threading, name, refuse)
        yield


@pytest.mark.parametrize("background", [True, False])
def test_promise_11_an_event_waits_for_a_thread(
    bus: crewbus.Bus, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    seen: list[str] = []

    async def handle(envelope: crewbus.Envelope) -> None:
        seen.append(envelope.event.text)

    bus.on(Note, handle, background=background)
    with no_threads(monkeypatch):
        assert bus.emit(Note("early")) is not None
    bus.emit(Note("late"))
    bus.flush(PATIENCE)
    assert seen == ["early", "late"]


@pytest.mark.parametrize("how", ["flush", "aflush", "close"])
@pytest.mark.parametrize("background", [True, False])
def test_promise_11_flush_calls_handlers_itself_while_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch, background: bool, how: str
) -> None:
    seen: list[str] = []

    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        seen.append(envelope.event.text)

    def handle_in_background(envelope: crewbus.Envelope) -> None:
        seen.append(envelope.event.text)

    bus = crewbus.Bus(entry_points=False)
    bus.on(Note, handle_in_background if background else handle, background=background)
    with no_threads(monkeypatch):
        bus.emit(Note("one"))
        bus.emit(Note("two"))
        if how == "flush":
            bus.flush(PATIENCE)
        elif how == "close":
            bus.close(PATIENCE)
        else:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(bus.aflush(PATIENCE))
            loop.close()
    assert seen == ["one", "two"]
    bus.close()


def test_promise_11_an_emitter_that_would_wait_for_room_makes_it_while_no_thread_can_start(
    bus: crewbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crewbus.dispatch.background.BOUND", 2)
    seen: list[str] = []
    bus.on(Note, lambda envelope: seen.append(envelope.event.text), background=True)
    with no_threads(monkeypatch):
        for number in range(5):
            bus.emit(Note(str(number)))
        bus.flush(PATIENCE)
    assert seen == list("01234")


# Forks


def forked(child: Callable[[], str]) -> str:
    """What ``child`` returns in a forked process."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = child()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@needs_fork
def test_promise_11_a_handler_taken_off_while_busy_serves_again_in_a_forked_child(bus: crewbus.Bus) -> None:
    busy, go, seen = threading.Event(), threading.Event(), list[str]()

    def handle(envelope: crewbus.Envelope) -> None:
        seen.append(envelope.event.text)
        busy.set()
        if envelope.event.text == "parent":
            go.wait(PATIENCE)

    def child() -> str:
        seen.clear()
        bus.on(Note, handle, background=True)
        bus.emit(Note("child"))
        bus.flush(5)
        return ",".join(seen)

    bus.on(Note, handle, background=True)
    bus.emit(Note("parent"))
    assert busy.wait(PATIENCE)
    bus.off(Note, handle)
    try:
        assert forked(child) == "child"
    finally:
        go.set()


@needs_fork
@pytest.mark.parametrize("kind", ["inline", "background", "async"])
def test_promise_11_a_child_forked_inside_a_handler_can_flush_and_close(bus: crewbus.Bus, kind: str) -> None:
    seen: list[str] = []
    answers: list[str] = []

    def child() -> str:
        bus.emit(Note("child"))
        bus.flush(5)
        bus.close(5)
        return ",".join(seen)

    def fork(envelope: crewbus.Envelope) -> None:
        answers.append(forked(child))

    async def fork_async(envelope: crewbus.Envelope) -> None:
        answers.append(forked(child))

    bus.on(Note, lambda envelope: seen.append(envelope.event.text), background=True)
    bus.on(crewbus.Chunk, fork_async if kind == "async" else fork, background=kind == "background")
    bus.chunk("fork")
    bus.flush(PATIENCE)
    assert answers == ["child"]


def work(log: Path, kind: str) -> None:
    """What a child of multiprocessing does: it leaves without closing its bus."""
    bus = crewbus.default_bus()

    def handle(envelope: crewbus.Envelope) -> None:
        with log.open("a") as file:
            file.write(envelope.event.text)

    async def handle_async(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0.01)
        handle(envelope)

    bus.on(crewbus.Chunk, handle_async if kind == "async" else handle, background=kind == "background")
    for _ in range(10):
        with bus.run():
            bus.chunk("x")
    if kind == "async":
        raise SystemExit(3)


@pytest.mark.parametrize("kind", ["background", "async"])
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_promise_11_a_child_of_multiprocessing_handles_what_it_emitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    # The child imports this module by its name; last on the path, so that it imports the installed crewbus.
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1])])
    log = tmp_path / "log"
    log.touch()
    process = multiprocessing.get_context(method).Process(target=work, args=(log, kind))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == (3 if kind == "async" else 0)
    assert log.read_text() == "x" * 10


# The interpreter's exit


def test_promise_11_what_is_emitted_at_exit_is_handled() -> None:
    """Python 3.12 and later start no thread there."""
    done = script(
        """
        import asyncio, atexit
        import crewbus

        @crewbus.event
        class Note:
            text: str

        def handle(envelope):
            print("background", envelope.event.text)

        async def handle_async(envelope):
            await asyncio.sleep(0.01)
            print("async", envelope.event.text)

        bus = crewbus.Bus(entry_points=False)
        bus.on(Note, handle, background=True)
        bus.on(Note, handle_async)
        atexit.register(lambda: bus.emit(Note("at exit")))
        """
    )
    assert (sorted(done.stdout.splitlines()), done.stderr) == (["async at exit", "background at exit"], "")


def test_promise_11_what_is_emitted_once_the_buses_are_closed_makes_no_second_default_bus() -> None:
    done = script(
        """
        import atexit

        @atexit.register
        def last():
            for emit in (lambda: crewbus.emit(Note("late")), crewbus.default_bus):
                try:
                    emit()
                except crewbus.BusClosedError as error:
                    print(type(error).__name__)

        import crewbus

        @crewbus.event
        class Note:
            text: str

        crewbus.default_bus().on(Note, lambda envelope: print(envelope.event.text), background=True)
        crewbus.emit(Note("early"))
        """
    )
    assert (done.stdout.split(), done.stderr) == (["early", "BusClosedError", "BusClosedError"], "")


def test_promise_11_exit_closes_every_bus_although_warnings_are_errors() -> None:
    done = script(
        """
        import threading, time, warnings
        import crewbus

        class Plugin:
            @crewbus.hookimpl
            def crewbus_close(self):
                print("closed")

        @crewbus.event
        class Note:
            text: str

        async def stuck(envelope):
            time.sleep(3600)

        warnings.simplefilter("error")
        buses = [crewbus.Bus([Plugin()], entry_points=False) for _ in range(2)]
        for bus in buses:
            bus.on(Note, stuck)
            bus.emit(Note(""))
            bus.close.__func__.__defaults__ = (0.2,)
        """
    )
    assert done.stdout.split() == ["closed", "closed"]


def test_promise_11_close_ends_everything_although_warnings_are_errors() -> None:
    closed: list[int] = []
    go, entered = threading.Event(), threading.Event()

    class Plugin:
        @crewbus.hookimpl
        def crewbus_close(self) -> None:
            closed.append(1)

    async def handle(envelope: crewbus.Envelope) -> None:
        entered.set()
        go.wait(PATIENCE)

    bus = crewbus.Bus([Plugin()], entry_points=False)
    bus.on(Note, handle)
    bus.emit(Note(""))
    assert entered.wait(PATIENCE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((crewbus.GraceWarning, crewbus.FlushTimeoutError)):
            bus.close(0.05)
    go.set()
    assert closed == [1]
    assert bus.closed


# Buses that are dropped, loops that pause


@pytest.mark.parametrize("kind", ["background", "async"])
def test_promise_11_a_bus_that_is_dropped_leaves_no_thread(kind: str) -> None:
    async def handle(envelope: crewbus.Envelope) -> None:
        pass

    bus = crewbus.Bus(entry_points=False)
    bus.on(Note, handle, background=kind == "background")
    bus.emit(Note(""))
    bus.flush(PATIENCE)
    (thread,) = bus.lifecycle.threads()
    dropped = weakref.ref(bus)
    del bus
    until(lambda: gc.collect() is not None and dropped() is None)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_promise_11_handlers_of_a_paused_loop_are_not_called_lost(bus: crewbus.Bus) -> None:
    seen: list[int] = []
    handled = asyncio.Event()

    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        seen.append(1)
        handled.set()

    async def main() -> None:
        bus.emit(Note(""))

    bus.on(Note, handle)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    with pytest.raises(crewbus.FlushError, match="they are called if it runs again"):
        bus.flush(PATIENCE)
    loop.run_until_complete(asyncio.wait_for(handled.wait(), PATIENCE))
    assert seen == [1]
    loop.close()


# Locks


class Collects:
    """Stands for a collection in the middle of an emission, while its run's lock is held."""

    @crewbus.hookimpl
    def crewbus_stream_chunk(self, envelope: crewbus.Envelope) -> None:
        if envelope.event == crewbus.Chunk("collect"):
            gc.collect()


class Finalised:
    """Makes a call when it is collected."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.me = self

    def __del__(self) -> None:
        self.call()


def test_promise_10_a_finaliser_that_emits_to_another_run_waits_for_its_lock_in_no_other() -> None:
    with crewbus.Bus([Collects()], entry_points=False) as bus:
        first, second = bus.run(), bus.run()
        first.start()
        second.start()
        stream, watched = bus.subscribe(second.id), bus.subscribe(first.id)
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with second.tree.lock:
                held.set()
                assert go.wait(PATIENCE)

        holder = Caller(hold)
        assert held.wait(PATIENCE)
        gc.disable()
        try:
            Finalised(lambda: second.chunk("closed"))
            emitter = Caller(first.chunk, "collect")
            assert next(watched).event == crewbus.Chunk("collect")
            in_time(first.chunk, "the lock of the first run is free")
        finally:
            gc.enable()
        go.set()
        emitter.outcome()
        holder.outcome()
        second.finish()
        first.finish()
        assert [frame.event.text for frame in stream if isinstance(frame.event, crewbus.Chunk)] == ["closed"]


def test_promise_10_each_deferred_emission_is_contained_on_its_own() -> None:
    with crewbus.Bus([Collects()], entry_points=False) as bus:
        bus.enable_recording()
        cancelled = bus.run()
        cancelled.start()
        cancelled.cancel("because")
        with bus.run() as run:
            gc.disable()
            try:
                Finalised(lambda: (cancelled.emit(Note("refused")), run.emit(Note("kept"))))
                assert bus.chunk("collect") is not None
            finally:
                gc.enable()
        with suppress(crewbus.Cancelled):
            cancelled.finish()
        assert Note("kept") in [envelope.event for envelope in bus.record_of(run.id)]


def test_promise_10_a_stream_is_collected_while_its_bus_holds_the_lock_of_its_runs(bus: crewbus.Bus) -> None:
    """A weakref's callback takes no lock: another thread holds it for as long as the collection lasts."""
    live, held, go = bus._live, threading.Event(), threading.Event()

    def hold() -> None:
        with live._lock:
            held.set()
            assert go.wait(PATIENCE)

    stream = bus.subscribe("never", timeout=None)
    holder = Caller(hold)
    assert held.wait(PATIENCE)
    streams = [stream]
    del stream
    Caller(streams.clear).outcome()
    go.set()
    holder.outcome()
    assert live.awaited() == []


def test_promise_11_flush_waits_for_a_call_whose_end_waits_for_another_delivery(bus: crewbus.Bus) -> None:
    entered, go, seen = threading.Event(), threading.Event(), list[str]()

    def callback(envelope: crewbus.Envelope) -> None:
        seen.append(type(envelope.event).__name__)
        if isinstance(envelope.event, Note):
            entered.set()
            assert go.wait(PATIENCE)

    with bus.call("model", callbacks=[callback]) as call:
        emitter = Caller(call.emit, Note(""))
        assert entered.wait(PATIENCE)
    with pytest.raises(crewbus.FlushTimeoutError, match="model"):
        bus.flush(0)
    go.set()
    emitter.outcome()
    bus.flush(PATIENCE)
    assert seen == ["CallStarted", "Note", "CallFinished"]


# Plugins


def test_promise_09_plugins_whose_run_starts_start_runs_end_with_one_recursion_error() -> None:
    failures: list[crewbus.Failure] = []

    class Starts:
        def __init__(self, bus_run: Callable[[], Any]) -> None:
            self.start = bus_run

        @crewbus.hookimpl
        def crewbus_run_start(self) -> None:
            with self.start():
                pass

    class Watcher:
        @crewbus.hookimpl
        def crewbus_plugin_error(self, failure: crewbus.Failure) -> None:
            failures.append(failure)

    with crewbus.Bus([Watcher()], entry_points=False) as bus:
        for _ in range(2):
            bus.plugins.register(Starts(bus.run))
        with bus.run():
            pass
    assert 1 <= len(failures) <= 2
    assert {type(failure.error) for failure in failures} == {RecursionError}
