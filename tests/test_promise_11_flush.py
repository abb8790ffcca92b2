"""Promise 11: flush is honest; closing, leaving the interpreter and forking lose nothing and hang nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from helpers import crewbus_threads, needs_fork
from lifecycle_helpers import PATIENCE, Caller, in_time, script, until

import crewbus


@crewbus.event
class Note:
    text: str


@crewbus.event
class Other:
    text: str


@pytest.fixture
def bus() -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False, unscoped="ignore") as bus:
        yield bus


class Gate:
    """Something that async handlers wait for, and threads open."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.entered = threading.Event()

    async def wait(self) -> None:
        self.entered.set()
        while not self._event.is_set():
            await asyncio.sleep(0.001)

    def open(self) -> None:
        self._event.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


class Flushes:
    """A plugin that notes what it is asked to do."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.timeouts: list[float | None] = []

    @crewbus.hookimpl
    def crewbus_flush(self, timeout: float | None) -> None:
        self.calls.append("flush")
        self.timeouts.append(timeout)

    @crewbus.hookimpl
    def crewbus_close(self) -> None:
        self.calls.append("close")


# What flush waits for


def test_promise_11_flush_waits_for_the_handlers_of_many_threads(bus: crewbus.Bus) -> None:
    handled: list[str] = []
    barrier = threading.Barrier(8)

    async def handle(envelope: crewbus.Envelope) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        handled.append(envelope.event.text)

    def emit(thread: int) -> None:
        barrier.wait(PATIENCE)
        for number in range(50):
            bus.emit(Note(f"{thread}/{number}"))
        bus.flush(PATIENCE)
        assert {f"{thread}/{number}" for number in range(50)} <= set(handled)

    bus.on(Note, handle)
    for caller in [Caller(emit, thread) for thread in range(8)]:
        caller.outcome()
    bus.flush(PATIENCE)
    assert sorted(handled) == sorted(f"{thread}/{number}" for thread in range(8) for number in range(50))


def test_promise_11_flush_waits_for_the_handlers_of_other_loops(bus: crewbus.Bus) -> None:
    handled: list[str] = []
    emitted, go = threading.Event(), threading.Event()

    async def handle(envelope: crewbus.Envelope) -> None:
        while not go.is_set():
            await asyncio.sleep(0.001)
        handled.append(envelope.event.text)

    async def main() -> None:
        bus.emit(Note("on a loop"))
        emitted.set()
        while not handled:
            await asyncio.sleep(0.001)

    bus.on(Note, handle)
    loop = Caller(asyncio.run, main())
    assert emitted.wait(PATIENCE)
    flush = Caller(bus.flush, PATIENCE)
    go.set()
    flush.outcome()
    assert handled == ["on a loop"]
    loop.outcome()


def test_promise_11_flush_does_not_wait_for_what_is_emitted_after_it(bus: crewbus.Bus, gate: Gate) -> None:
    first = Gate()

    async def handle(envelope: crewbus.Envelope) -> None:
        await (first if envelope.event.text == "first" else gate).wait()

    bus.on(Note, handle)
    bus.emit(Note("first"))
    flush = Caller(bus.flush, PATIENCE)
    until(lambda: bus.lifecycle._async_handlers._listeners)
    bus.emit(Note("second"))
    first.open()
    flush.outcome()
    with pytest.raises(crewbus.FlushTimeoutError):
        bus.flush(0)


def test_promise_11_flush_with_nothing_owed_returns(bus: crewbus.Bus) -> None:
    bus.flush()
    bus.emit(Note("no listener"))
    bus.flush(0)


def test_promise_11_flush_asks_the_plugins_when_the_handlers_are_done(bus: crewbus.Bus) -> None:
    plugin = Flushes()

    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        plugin.calls.append("handler")

    bus.plugins.register(plugin)
    bus.on(Note, handle)
    bus.emit(Note("one"))
    bus.flush(PATIENCE)
    assert plugin.calls == ["handler", "flush"]
    assert plugin.timeouts[0] is not None
    assert 0 < plugin.timeouts[0] <= PATIENCE
    bus.flush()
    assert plugin.timeouts[1] is None


def test_promise_11_a_plugins_failed_write_reaches_the_caller_of_flush(bus: crewbus.Bus) -> None:
    class Failing:
        @crewbus.hookimpl(tryfirst=True)
        def crewbus_flush(self) -> None:
            raise OSError("disk full")

    plugin, failing = Flushes(), Failing()
    bus.plugins.register(plugin)
    bus.plugins.register(failing)
    with pytest.raises(OSError, match="disk full"):
        bus.flush()
    assert plugin.calls == ["flush"]
    with pytest.raises(OSError, match="disk full"):
        asyncio.run(bus.aflush())
    assert plugin.calls == ["flush", "flush"]
    bus.plugins.unregister(failing)


def test_promise_11_flush_waits_for_the_store(bus: crewbus.Bus) -> None:
    class SlowStore(crewbus.MemoryStore):
        asked: float | None = None
        written = False

        def flush(self, timeout: float | None = None) -> None:
            self.asked = timeout
            self.written = True

    store = SlowStore()
    bus.enable_recording(store)
    with bus.run():
        bus.emit(Note("one"))
        bus.flush(PATIENCE)
    assert store.written
    assert store.asked is not None


# Where flush refuses


def test_promise_11_flush_in_an_inline_handler_names_aflush(bus: crewbus.Bus) -> None:
    refused: list[str] = []

    @bus.on(Note)
    def handle(envelope: crewbus.Envelope) -> None:
        with pytest.raises(crewbus.FlushError, match="aflush") as caught:
            bus.flush()
        refused.append(str(caught.value))

    bus.emit(Note("outside a run"))
    with bus.run() as run:
        bus.emit(Note("free"))
        run.emit(Note("explicit"))
        with bus.subscribe(run.id):
            bus.emit(Note("ordered"))
    assert len(refused) == 4


def test_promise_11_flush_in_a_handler_of_the_terminal_event_names_aflush(bus: crewbus.Bus) -> None:
    refused: list[type] = []

    @bus.on(crewbus.RunEnded)
    @bus.on(crewbus.RunStarted)
    def handle(envelope: crewbus.Envelope) -> None:
        with pytest.raises(crewbus.FlushError, match="aflush"):
            bus.flush()
        refused.append(type(envelope.event))

    with bus.run():
        pass
    assert refused == [crewbus.RunStarted, crewbus.RunFinished]


def test_promise_11_flush_in_a_hook_names_aflush(bus: crewbus.Bus) -> None:
    refused: list[str] = []

    class Plugin:
        def _try(self, hook: str) -> None:
            with pytest.raises(crewbus.FlushError, match="aflush"):
                bus.flush()
            refused.append(hook)

        @crewbus.hookimpl
        def crewbus_emit(self, envelope: crewbus.Envelope) -> None:
            self._try("emit")

        @crewbus.hookimpl
        def crewbus_record(self, envelope: crewbus.Envelope) -> None:
            self._try("record")

        @crewbus.hookimpl
        def crewbus_stream_chunk(self, envelope: crewbus.Envelope) -> None:
            self._try("stream_chunk")

    bus.plugins.register(Plugin())
    with bus.run(record=True):
        refused.clear()
        bus.chunk("piece")
        assert refused == ["record", "stream_chunk", "emit"]


def test_promise_11_flush_in_an_async_handler_names_aflush(bus: crewbus.Bus) -> None:
    outcomes: list[str] = []

    def attempt() -> None:
        try:
            bus.flush(PATIENCE)
        except crewbus.FlushError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("returned")

    async def handle(envelope: crewbus.Envelope) -> None:
        attempt()
        await asyncio.to_thread(attempt)
        context = copy_context()
        thread = threading.Thread(target=context.run, args=(attempt,))
        thread.start()
        await asyncio.to_thread(thread.join, PATIENCE)

    bus.on(Note, handle)
    bus.emit(Note("background"))
    bus.flush(PATIENCE)
    assert len(outcomes) == 3
    assert all("aflush()" in outcome for outcome in outcomes)

    async def main() -> None:
        bus.emit(Note("on this loop"))
        await bus.aflush(PATIENCE)

    outcomes.clear()
    asyncio.run(main())
    assert len(outcomes) == 3
    assert all("aflush()" in outcome for outcome in outcomes)


def test_promise_11_a_thread_that_outlives_its_async_handler_may_flush(bus: crewbus.Bus) -> None:
    go = threading.Event()
    callers: list[Caller] = []

    def later() -> None:
        assert go.wait(PATIENCE)
        bus.flush(PATIENCE)

    async def handle(envelope: crewbus.Envelope) -> None:
        callers.append(Caller(copy_context().run, later))

    bus.on(Note, handle)
    bus.emit(Note("one"))
    bus.flush(PATIENCE)
    go.set()
    callers[0].outcome()


def test_promise_11_flush_on_a_loop_that_owes_names_aflush(bus: crewbus.Bus) -> None:
    handled: list[str] = []

    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        handled.append(envelope.event.text)

    async def main() -> None:
        bus.flush(PATIENCE)
        bus.emit(Note("one"))
        with pytest.raises(crewbus.FlushError, match=r"handle.*aflush\(\)"):
            bus.flush(PATIENCE)
        await bus.aflush(PATIENCE)
        assert handled == ["one"]
        bus.flush(PATIENCE)

    bus.on(Note, handle)
    asyncio.run(main())


def test_promise_11_flush_on_a_loop_waits_for_what_another_loop_owes(bus: crewbus.Bus, gate: Gate) -> None:
    handled: list[str] = []

    async def handle(envelope: crewbus.Envelope) -> None:
        await gate.wait()
        handled.append(envelope.event.text)

    async def main() -> None:
        await asyncio.to_thread(bus.emit, Note("on the background loop"))
        gate.open()
        bus.flush(PATIENCE)
        assert handled == ["on the background loop"]

    bus.on(Note, handle)
    asyncio.run(main())


# aflush


def test_promise_11_aflush_waits_without_blocking_the_loop(bus: crewbus.Bus) -> None:
    handled: list[str] = []

    async def main() -> None:
        go = asyncio.Event()

        async def handle(envelope: crewbus.Envelope) -> None:
            await go.wait()
            handled.append(envelope.event.text)

        bus.on(Note, handle)
        for number in range(10):
            bus.emit(Note(str(number)))
        flush = asyncio.create_task(bus.aflush(PATIENCE))
        await asyncio.sleep(0)
        assert not flush.done()
        go.set()
        await flush
        assert len(handled) == 10

    asyncio.run(main())


def test_promise_11_aflush_in_a_handler_waits_for_the_others(bus: crewbus.Bus, gate: Gate) -> None:
    order: list[str] = []

    async def flushing(envelope: crewbus.Envelope) -> None:
        await bus.aflush(PATIENCE)
        order.append("flushed")

    async def slow(envelope: crewbus.Envelope) -> None:
        await gate.wait()
        order.append("slow")

    bus.on(Note, slow)
    bus.on(Note, flushing)
    bus.emit(Note("one"))
    assert gate.entered.wait(PATIENCE)
    gate.open()
    in_time(bus.flush, PATIENCE)
    until(lambda: len(order) == 2)
    assert order == ["slow", "flushed"]


@pytest.mark.parametrize("where", ["background", "own loop"])
def test_promise_11_handlers_that_aflush_do_not_wait_for_each_other(bus: crewbus.Bus, where: str) -> None:
    done: list[str] = []

    async def one(envelope: crewbus.Envelope) -> None:
        await bus.aflush(PATIENCE)
        done.append("one")

    async def two(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        await bus.aflush(PATIENCE)
        done.append("two")

    async def begetting(envelope: crewbus.Envelope) -> None:
        bus.emit(Note("inner"))
        await bus.aflush(PATIENCE)
        done.append("outer")

    async def main() -> None:
        bus.emit(Other("one"))
        while len(done) < 3:  # a flush is for what was emitted before it, not for what that begets
            await bus.aflush(PATIENCE)

    bus.on(Note, one)
    bus.on(Note, two)
    bus.on(Other, begetting)
    if where == "background":
        bus.emit(Other("one"))
        in_time(bus.flush, PATIENCE)
    else:
        in_time(asyncio.run, main())
    until(lambda: len(done) == 3)
    assert sorted(done) == ["one", "outer", "two"]


@pytest.mark.parametrize("how", ["flush", "aflush"])
def test_promise_11_a_handler_that_aflushes_is_waited_for_too(bus: crewbus.Bus, gate: Gate, how: str) -> None:
    """From outside, a handler that itself flushes is one that has not returned yet."""
    inside = threading.Event()
    done: list[str] = []

    async def flushing(envelope: crewbus.Envelope) -> None:
        inside.set()
        await bus.aflush(PATIENCE)
        done.append(envelope.event.text)

    async def slow(envelope: crewbus.Envelope) -> None:
        await gate.wait()

    bus.on(Note, flushing)
    bus.on(Other, slow)
    bus.emit(Other("gate"))
    bus.emit(Note("one"))
    assert inside.wait(PATIENCE)
    until(lambda: any(call.flushing for call in bus.lifecycle._async_handlers._pending))

    def outside() -> list[str]:
        if how == "flush":
            bus.flush(PATIENCE)
        else:
            asyncio.run(bus.aflush(PATIENCE))
        return list(done)

    flush = Caller(outside)
    gate.open()
    assert flush.outcome() == ["one"]


def test_promise_11_many_handlers_aflush_and_many_threads_flush(bus: crewbus.Bus) -> None:
    done: list[int] = []
    barrier = threading.Barrier(6)

    async def handle(envelope: crewbus.Envelope) -> None:
        if envelope.seq % 2:
            await bus.aflush(PATIENCE)
        done.append(envelope.seq)

    def emit() -> None:
        barrier.wait(PATIENCE)
        for number in range(20):
            bus.emit(Note(str(number)))
            if number % 5 == 0:
                bus.flush(PATIENCE)

    bus.on(Note, handle)
    for caller in [Caller(emit) for _ in range(6)]:
        caller.outcome(60)
    in_time(bus.flush, PATIENCE)
    until(lambda: len(done) == 120)


# What can't be waited for


@pytest.mark.parametrize("how", ["flush", "aflush"])
def test_promise_11_a_flush_that_times_out_names_the_handler(bus: crewbus.Bus, gate: Gate, how: str) -> None:
    async def handler_that_hangs(envelope: crewbus.Envelope) -> None:
        await gate.wait()

    bus.on(Note, handler_that_hangs)
    bus.emit(Note("one"))
    with pytest.raises(crewbus.FlushTimeoutError, match="handler_that_hangs") as caught:
        if how == "flush":
            bus.flush(0.01)
        else:
            asyncio.run(bus.aflush(0.01))
    assert isinstance(caught.value, TimeoutError)
    gate.open()
    bus.flush(PATIENCE)


@pytest.mark.parametrize("how", ["flush", "aflush"])
def test_promise_11_a_loop_that_stopped_is_no_hang(bus: crewbus.Bus, how: str) -> None:
    async def handler_of_a_dead_loop(envelope: crewbus.Envelope) -> None:
        await asyncio.Event().wait()

    async def emit() -> None:
        bus.emit(Note("one"))

    bus.on(Note, handler_of_a_dead_loop)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(emit())
    with pytest.raises(crewbus.FlushError, match="handler_of_a_dead_loop") as caught:
        if how == "flush":
            in_time(bus.flush)
        else:
            in_time(lambda: asyncio.run(bus.aflush()))
    assert not isinstance(caught.value, crewbus.FlushTimeoutError)
    in_time(bus.flush)
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_promise_11_a_handler_that_died_with_its_loop_is_not_passed_over_in_silence(bus: crewbus.Bus) -> None:
    """asyncio.run() cancels what its loop still owes: each handler that lost an event is reported by name."""
    failures: list[crewbus.Failure] = []

    class Watcher:
        @crewbus.hookimpl
        def crewbus_plugin_error(self, failure: crewbus.Failure) -> None:
            failures.append(failure)

    async def handler_that_is_cut_off(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        bus.emit(Note("one"))

    bus.plugins.register(Watcher())
    bus.on(Note, handler_that_is_cut_off)
    asyncio.run(main())
    received = [failure.name for failure in failures]
    try:
        bus.flush(PATIENCE)
    except crewbus.FlushError as error:
        received.append(str(error))
    assert any("handler_that_is_cut_off" in name for name in received)


def test_promise_11_a_failed_handler_is_handled(bus: crewbus.Bus) -> None:
    async def fail(envelope: crewbus.Envelope) -> None:
        raise SystemExit(3) if envelope.event.text == "hard" else ValueError(envelope.event.text)

    bus.on(Note, fail)
    for text in ("soft", "hard", "soft"):
        bus.emit(Note(text))
    in_time(bus.flush, PATIENCE)


# Closing


def test_promise_11_close_handles_what_was_emitted(bus: crewbus.Bus) -> None:
    plugin, gate = Flushes(), Gate()

    async def handle(envelope: crewbus.Envelope) -> None:
        await gate.wait()
        plugin.calls.append("handler")

    bus.plugins.register(plugin)
    bus.on(Note, handle)
    bus.emit(Note("one"))
    assert gate.entered.wait(PATIENCE)
    close = Caller(bus.close)
    gate.open()
    close.outcome()
    assert plugin.calls == ["handler", "flush", "close"]
    bus.close()
    asyncio.run(bus.aclose())
    assert plugin.calls == ["handler", "flush", "close"]


def test_promise_11_close_from_two_threads_closes_once(bus: crewbus.Bus, gate: Gate) -> None:
    plugin = Flushes()

    async def handle(envelope: crewbus.Envelope) -> None:
        await gate.wait()

    bus.plugins.register(plugin)
    bus.on(Note, handle)
    bus.emit(Note("one"))
    assert gate.entered.wait(PATIENCE)
    barrier = threading.Barrier(3)

    def close() -> None:
        barrier.wait(PATIENCE)
        bus.close()
        assert bus.closed

    callers = [Caller(close), Caller(close)]
    barrier.wait(PATIENCE)
    gate.open()
    for caller in callers:
        caller.outcome()
    assert plugin.calls.count("close") == 1


def test_promise_11_close_in_a_handler_is_refused(bus: crewbus.Bus) -> None:
    refused: list[str] = []

    @bus.on(Note)
    def handle(envelope: crewbus.Envelope) -> None:
        with pytest.raises(crewbus.FlushError, match="handler"):
            bus.close()
        refused.append("inline")

    bus.emit(Note("one"))
    assert refused == ["inline"]
    assert not bus.closed
    assert bus.off(Note, handle)

    @bus.on(Note)
    async def handle_later(envelope: crewbus.Envelope) -> None:
        with pytest.raises(crewbus.FlushError, match="handler"):
            bus.close()
        refused.append("async")

    bus.emit(Note("two"))
    in_time(bus.flush, PATIENCE)
    assert refused == ["inline", "async"]
    assert not bus.closed
    bus.emit(Note("three"))


def test_promise_11_close_cancels_the_streams_it_owns(bus: crewbus.Bus) -> None:
    begun, over = threading.Barrier(3), threading.Barrier(3)

    def endless() -> None:
        begun.wait(PATIENCE)
        try:
            while True:
                bus.emit(Note("on and on"))
        finally:
            over.wait(PATIENCE)

    async def endless_task() -> None:
        try:
            await asyncio.to_thread(begun.wait, PATIENCE)
            await asyncio.sleep(3600)
        finally:
            await asyncio.to_thread(over.wait, PATIENCE)

    streams = [bus.stream(endless), bus.stream(endless_task)]
    for stream in streams:
        stream.__enter__()
    begun.wait(PATIENCE)
    close = Caller(bus.close)
    over.wait(PATIENCE)
    close.outcome()
    assert [stream.run.state for stream in streams] == ["cancelled", "cancelled"]
    for stream in streams:
        with pytest.raises(crewbus.RunCancelledError, match="closed"):
            stream.result(PATIENCE)
        stream.close()


def test_promise_11_close_frees_an_emitter_that_is_blocked(bus: crewbus.Bus) -> None:
    over = threading.Event()

    def produce() -> None:
        try:
            while True:
                bus.chunk("piece")
        finally:
            over.set()

    stream = bus.stream(produce, options=crewbus.StreamOptions(bound=2))
    stream.__enter__()
    until(lambda: stream.source.waiters)
    bus.close(timeout=5.0)  # a GraceWarning, were the emitter still blocked, would fail the test
    assert over.wait(PATIENCE)
    assert stream.run.state == "cancelled"
    stream.close()


def test_promise_11_close_ends_the_watch_of_a_live_run(bus: crewbus.Bus) -> None:
    entered = threading.Event()

    def consume(stream: crewbus.Stream) -> list[str]:
        texts = []
        for envelope in stream:
            texts.append(getattr(envelope.event, "text", ""))
            entered.set()
        return texts

    with bus.run() as run:
        watcher = Caller(consume, bus.subscribe(run.id))
        bus.chunk("one")
        assert entered.wait(PATIENCE)
        bus.close()
        assert watcher.outcome() == ["one", ""]  # last its terminal frame, `RunInterrupted`
    assert run.state == "finished"
    assert bus.runs == []


@pytest.mark.parametrize("how", ["for", "async for"])
def test_promise_11_close_ends_the_watch_of_a_run_that_never_started(bus: crewbus.Bus, how: str) -> None:
    stream = bus.subscribe("nobody", timeout=None)

    async def consume_on_a_loop() -> list[crewbus.Envelope]:
        return [envelope async for envelope in stream]

    watcher = Caller(list, stream) if how == "for" else Caller(asyncio.run, consume_on_a_loop())
    until(lambda: stream.source.wake is not None)
    bus.close()
    try:
        assert watcher.outcome(5) == []
    except crewbus.CrewbusError:
        pass  # to say that the bus was closed would be as good
    finally:
        stream.close()


def test_promise_11_a_closed_bus_takes_nothing(bus: crewbus.Bus) -> None:
    run = bus.run()
    stream = bus.stream(lambda: None)
    with bus.run() as live:
        bus.close()
        calls: list[Callable[[], Any]] = [
            lambda: bus.emit(Note("late")),
            lambda: bus.chunk("late"),
            lambda: live.emit(Note("late")),
            lambda: live.chunk("late"),
            lambda: crewbus.emit(Note("late")),
            lambda: crewbus.chunk("late"),
            run.start,
            bus.run().__enter__,
            stream.__enter__,
            lambda: bus.stream(lambda: None).__enter__(),
            lambda: list(bus.stream(lambda: None)),
            lambda: bus.stream(lambda: None).result(),
            lambda: bus.subscribe("any"),
        ]
        for call in calls:
            with pytest.raises(crewbus.BusClosedError):
                in_time(copy_context().run, call)
    assert live.ended
    assert bus.runs == []


def test_promise_11_a_stream_that_could_not_begin_says_so_each_time() -> None:
    bus = crewbus.Bus(entry_points=False)
    stream = bus.stream(lambda: None)
    bus.close()
    for _ in range(2):
        with pytest.raises(crewbus.CrewbusError):
            in_time(lambda: stream.result(5), timeout=60)
    in_time(stream.close)


def test_promise_11_close_names_the_work_that_does_not_end(bus: crewbus.Bus) -> None:
    begun, go = threading.Event(), threading.Event()

    def work_that_hangs() -> None:
        begun.set()
        assert go.wait(PATIENCE)

    stream = bus.stream(work_that_hangs)
    stream.__enter__()
    assert begun.wait(PATIENCE)
    with pytest.warns(crewbus.GraceWarning, match="work_that_hangs"):
        bus.close(timeout=0.01)
    assert bus.closed
    go.set()
    until(lambda: stream._task.over)
    assert not bus.runs


def test_promise_11_close_names_the_handler_that_does_not_end(bus: crewbus.Bus, gate: Gate) -> None:
    async def handler_that_hangs(envelope: crewbus.Envelope) -> None:
        await gate.wait()

    bus.on(Note, handler_that_hangs)
    bus.emit(Note("one"))
    assert gate.entered.wait(PATIENCE)
    assert crewbus_threads() == ["crewbus-background"]
    with pytest.raises(crewbus.FlushTimeoutError, match="handler_that_hangs"):
        bus.close(timeout=0.01)
    assert bus.closed
    gate.open()
    bus.close()
    until(lambda: not crewbus_threads())


def test_promise_11_close_leaves_no_thread_and_no_loop() -> None:
    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)

    before = set(threading.enumerate())
    with crewbus.Bus(entry_points=False, unscoped="ignore") as bus:
        bus.on(Note, handle)
        bus.emit(Note("one"))
        with bus.stream(bus.chunk, "piece") as stream:
            assert len(list(stream)) == 2
        assert len(set(threading.enumerate()) - before) >= 1
    until(lambda: set(threading.enumerate()) <= before)


def test_promise_11_aclose_cancels_tasks_of_its_own_loop() -> None:
    async def endless() -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        async with crewbus.Bus(entry_points=False) as bus:
            stream = bus.stream(endless)
            await stream.__aenter__()
            with pytest.raises(crewbus.FlushError, match="aclose"):
                bus.close()
        assert bus.closed
        assert stream.run.state == "cancelled"
        await stream.aclose()

    in_time(asyncio.run, main())


def test_promise_11_a_close_that_is_refused_changes_nothing(bus: crewbus.Bus) -> None:
    async def main() -> str:
        go = asyncio.Event()

        async def work() -> str:
            await go.wait()
            bus.chunk("piece")
            return "done"

        async with bus.stream(work) as stream:
            with pytest.raises(crewbus.FlushError, match="aclose"):
                bus.close()
            go.set()
            return await stream.aresult()

    assert in_time(asyncio.run, main()) == "done"


def test_promise_11_aflush_and_aclose_on_a_loop_that_owes(bus: crewbus.Bus) -> None:
    handled: list[str] = []

    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        handled.append(envelope.event.text)

    async def main() -> None:
        bus.emit(Note("one"))
        await bus.aclose()

    bus.on(Note, handle)
    in_time(asyncio.run, main())
    assert handled == ["one"]
    assert bus.closed


# Leaving the interpreter

PRELUDE = """
import asyncio, itertools, sys, threading
import crewbus

class Bus(crewbus.Bus):
    def close(self, timeout=5.0):  # sooner than by default, so that a hang shows early
        super().close(timeout)

@crewbus.event
class Note:
    text: str

bus = Bus(entry_points=False, unscoped="ignore")
"""


def leave(body: str, *, code: int = 0, stderr: str = "") -> str:
    """Run a script that ends; returns what it printed."""
    done = script(PRELUDE + body)
    assert done.returncode == code, done.stderr
    assert stderr in done.stderr
    if not stderr:
        assert done.stderr == ""
    return done.stdout


def test_promise_11_exit_runs_the_handlers_that_are_owed() -> None:
    printed = leave("""
async def handle(envelope):
    await asyncio.sleep(0.05)
    print(envelope.event.text, flush=True)

bus.on(Note, handle)
for number in range(5):
    bus.emit(Note(str(number)))
""")
    assert printed.split() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("end", "code", "stderr"),
    [("sys.exit(3)", 3, ""), ("raise ValueError('unhandled')", 1, "unhandled"), ("pass", 0, "")],
    ids=["sys.exit", "unhandled exception", "end"],
)
def test_promise_11_exit_with_work_under_way(end: str, code: int, stderr: str) -> None:
    """Pending handlers run and streams of endless producers are cancelled, however the main thread ends."""
    printed = leave(
        f"""
begun = threading.Barrier(3)

async def handle(envelope):
    await asyncio.sleep(0.05)
    sys.stdout.write(f"handled {{envelope.event.text}}\\n")

def produce():
    begun.wait(60)
    try:
        while True:
            bus.chunk("piece")
    except crewbus.Cancelled:
        sys.stdout.write("cancelled\\n")
        raise

bus.on(Note, handle)
streams = [bus.stream(produce), bus.stream(produce, options=crewbus.StreamOptions(bound=4))]
for stream in streams:
    stream.__enter__()
begun.wait(60)
with bus.run():
    bus.emit(Note("one"))
    {end}
""",
        code=code,
        stderr=stderr,
    )
    assert sorted(printed.splitlines()) == ["cancelled", "cancelled", "handled one"]


def test_promise_11_exit_with_unread_streams() -> None:
    printed = leave("""
never_begun = bus.stream(print, "must not run")
waiting = bus.subscribe("nobody", timeout=None)
thread = threading.Thread(target=list, args=(bus.subscribe("nobody either", timeout=None),), daemon=True)
thread.start()
run = bus.run()
run.start()
unread = bus.subscribe(run.id, slow="block", bound=4)
run.chunk("piece")
print("over")
""")
    assert printed == "over\n"


def test_promise_11_exit_with_a_handler_that_never_ends() -> None:
    done = script(
        PRELUDE.replace("timeout=5.0", "timeout=0.3")
        + """
async def handler_that_never_ends(envelope):
    await asyncio.sleep(3600)

bus.on(Note, handler_that_never_ends)
bus.emit(Note("one"))
print("over")
"""
    )
    assert done.returncode == 0
    assert done.stdout == "over\n"
    assert "GraceWarning" in done.stderr
    assert "handler_that_never_ends" in done.stderr


def test_promise_11_exit_with_work_that_never_ends() -> None:
    done = script(
        PRELUDE.replace("timeout=5.0", "timeout=0.3")
        + """
begun = threading.Event()

def work_that_never_ends():
    begun.set()
    threading.Event().wait()

stream = bus.stream(work_that_never_ends)
stream.__enter__()
begun.wait(60)
print("over")
"""
    )
    assert done.returncode == 0
    assert done.stdout == "over\n"
    assert "work_that_never_ends" in done.stderr


def test_promise_11_exit_closes_the_default_bus_and_asks_plugins_to_flush() -> None:
    done = script("""
import crewbus

class Plugin:
    @crewbus.hookimpl
    def crewbus_flush(self):
        print("flushed")

    @crewbus.hookimpl
    def crewbus_close(self):
        print("closed")

bus = crewbus.default_bus()
bus.plugins.register(Plugin())
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "flushed\nclosed\n", "")


# Forking


def fork(body: str) -> str:
    """Run a script that forks with many threads at work; returns what the parent printed."""
    done = script(FORKING + body, "-W", "ignore::DeprecationWarning", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


FORKING = """
import asyncio, collections, os, signal, sys, threading
import crewbus

@crewbus.event
class Note:
    text: str

bus = crewbus.Bus(entry_points=False, unscoped="ignore")
parent = os.getpid()
stop = threading.Event()
handled = collections.deque()

async def handle(envelope):
    handled.append(os.getpid())

sys.setswitchinterval(0.0002)
PACE = 0.0005  # so that the record, and with it what each fork copies, stays small

def watch_over_the_child():
    signal.alarm(30)  # ends one that hangs

def wait_for(pids):
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, f"a child ended with {status}"
"""


@needs_fork
def test_promise_11_fork_while_16_threads_emit_stream_and_record() -> None:
    printed = fork("""
bus.enable_recording()
counts = collections.Counter()
ready = threading.Barrier(17)

def emitter(run, name):
    ready.wait(60)
    while not stop.wait(PACE):
        run.emit(Note(name))
        counts[name] += 1

def chunker(run, name):
    ready.wait(60)
    while not stop.wait(PACE):
        run.chunk(name)
        counts[name] += 1

def streamer(name):
    ready.wait(60)
    while not stop.wait(PACE):
        with bus.stream(bus.chunk, "piece", options=crewbus.StreamOptions(record=False)) as stream:
            assert len(list(stream)) == 2
        with bus.run(record=False):
            bus.emit(Note(name))

def watcher(run):
    ready.wait(60)
    while not stop.wait(PACE):
        stream = bus.subscribe(run.id, bound=16)
        next(iter(stream))
        stream.close()

def child(run, inherited):
    watch_over_the_child()
    assert bus.runs == [] and run.ended and not run.recorded
    assert run.emit(Note("child")).run_id is None
    try:
        next(inherited)
    except crewbus.ConsumptionError:
        inherited.close()
    assert bus.emit(Note("child")).run_id is None
    bus.flush(5)
    with bus.run() as own:
        assert own.parent is None and own.recorded
        for _ in range(20):
            bus.emit(Note("child"))
            bus.chunk("child")
    assert [e.seq for e in bus.record_of(own.id)] == list(range(42))
    with bus.stream(lambda: bus.chunk("piece") and None) as stream:
        assert [type(e.event).__name__ for e in stream] == ["Chunk", "RunFinished"]

    async def main():
        async with bus.stream(on_loop) as stream:
            assert len([e async for e in stream]) == 2

    async def on_loop():
        bus.chunk("piece")

    asyncio.run(main())
    bus.on(Note, handle)
    handled.clear()
    bus.emit(Note("child"))
    bus.flush(5)
    assert list(handled) == [os.getpid()]

with bus.run("shared") as run:
    threads = [threading.Thread(target=emitter, args=(run, f"e{n}")) for n in range(5)]
    threads += [threading.Thread(target=chunker, args=(run, f"c{n}")) for n in range(4)]
    threads += [threading.Thread(target=streamer, args=(f"s{n}",)) for n in range(4)]
    threads += [threading.Thread(target=watcher, args=(run,)) for n in range(3)]
    assert len(threads) == 16
    for thread in threads:
        thread.start()
    ready.wait(60)
    pids = []
    for number in range(30):
        inherited = bus.subscribe(run.id)
        run.chunk("for the inherited stream")
        counts["main"] += 1
        pid = os.fork()
        if pid == 0:
            child(run, inherited)
            if number % 2:
                os._exit(0)
            sys.exit(0)
        pids.append(pid)
        inherited.close()
        if number % 4 == 3:
            wait_for(pids)
            pids.clear()
    wait_for(pids)
    stop.set()
    while any(thread.is_alive() for thread in threads):  # a watcher waits for one more chunk
        run.chunk("for the inherited stream")
        counts["main"] += 1

envelopes = list(bus.record_of(run.id))
assert [e.seq for e in envelopes] == list(range(len(envelopes)))
texts = collections.Counter(getattr(e.event, "text", None) for e in envelopes)
assert "child" not in texts
texts["main"] = texts.pop("for the inherited stream")
texts.pop(None)
assert texts == counts, (texts, counts)
assert run.state == "finished" and bus.runs == []
bus.close()
print("parent", len(envelopes) > 500)
""")
    assert printed == "parent True\n"


@needs_fork
def test_promise_11_fork_with_handlers_owed_and_streams_owned() -> None:
    printed = fork("""
go = threading.Event()
begun = threading.Event()

async def slow(envelope):
    begun.set()
    while not go.is_set():
        await asyncio.sleep(0.001)
    handled.append(os.getpid())

def produce():
    while True:
        bus.chunk("piece")

def child(stream, unread):
    watch_over_the_child()
    bus.flush(5)
    assert not handled
    try:
        stream.result(5)
    except crewbus.RunCancelledError:
        pass
    else:
        raise AssertionError("an inherited stream has a result")
    for inherited in (stream, unread):
        try:
            next(inherited)
        except crewbus.ConsumptionError as error:
            assert "continue in the parent only" in str(error)
        else:
            raise AssertionError("an inherited stream ends")
    stream.close()
    unread.close()
    assert stream.run.ended
    bus.off(Note, slow)
    bus.on(Note, handle)
    bus.emit(Note("child"))
    bus.flush(5)
    assert list(handled) == [os.getpid()]

bus.on(Note, slow)
bus.emit(Note("owed"))
assert begun.wait(60)
pids = []
for number in range(6):
    stream = bus.stream(produce, options=crewbus.StreamOptions(bound=4))
    stream.__enter__()
    unread = bus.subscribe("nobody", timeout=None)
    pid = os.fork()
    if pid == 0:
        child(stream, unread)
        if number % 2:
            os._exit(0)
        sys.exit(0)
    pids.append(pid)
    stream.close()
wait_for(pids)
go.set()
bus.flush(10)
assert list(handled) == [parent]
print("parent")
""")
    assert printed == "parent\n"


@needs_fork
def test_promise_11_only_the_parent_writes_what_it_has_begun(tmp_path: Any) -> None:
    printed = fork(f"""
path = {str(tmp_path / "written")!r}

class Store(crewbus.MemoryStore):
    def append(self, root_id, epoch, event):
        super().append(root_id, epoch, event)
        with open(path, "a") as file:
            print(root_id, os.getpid(), event.seq, file=file)

bus.enable_recording(Store())
with bus.run(id="outer"):
    with bus.run(id="inner") as inner:
        inner.emit(Note("parent"))
        pid = os.fork()
        if pid == 0:
            watch_over_the_child()
            inner.emit(Note("child"))
            bus.emit(Note("child"))
            with bus.run(id="new"):
                bus.emit(Note("child"))
            sys.exit(0)  # leaves the runs it has inherited
        wait_for([pid])
        inner.emit(Note("parent"))
lines = [line.split() for line in open(path)]
assert {{int(pid) for root, pid, seq in lines if root == "outer"}} == {{parent}}
assert [int(seq) for root, pid, seq in lines if root == "outer"] == list(range(6))
assert {{int(pid) for root, pid, seq in lines if root == "new"}} == {{pid}}
print(len(list(bus.record_of("outer"))))
""")
    assert printed == "6\n"


@needs_fork
def test_promise_11_fork_inside_a_handler_and_inside_a_loop() -> None:
    printed = fork("""
def child():
    watch_over_the_child()
    with bus.run():
        assert bus.emit(Note("child")).seq == 1
    with bus.stream(bus.chunk, "piece") as stream:
        assert len(list(stream)) == 2

def fork_here(envelope):
    pid = os.fork()
    if pid == 0:
        bus.off(Note, fork_here)
        child()
        os._exit(0)
    wait_for([pid])

bus.on(Note, fork_here)
with bus.run():
    bus.emit(Note("one"))
with bus.run(record=True):
    bus.emit(Note("two"))
bus.off(Note, fork_here)
print("parent")
""")
    assert printed == "parent\n"


@needs_fork
def test_promise_11_a_fork_in_a_fork() -> None:
    printed = fork("""
def descend(depth):
    if depth == 0:
        return
    with bus.run(record=True) as run:
        bus.chunk("piece")
        pid = os.fork()
        if pid == 0:
            watch_over_the_child()
            assert run.ended
            descend(depth - 1)
            sys.exit(0)
        wait_for([pid])
        bus.chunk("piece")
    assert [e.seq for e in bus.record_of(run.id)] == [0, 1, 2, 3]

descend(4)
print("parent")
""")
    assert printed == "parent\n"


def test_promise_11_closing_waits_for_what_handlers_beget() -> None:
    """A chain of async handlers, each of which emits for the next: closing loses none of it."""
    handled: list[str] = []
    bus = crewbus.Bus(entry_points=False)

    async def pass_on(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        handled.append(envelope.event.text)
        if len(handled) < 20:
            bus.emit(Note("again"))

    bus.on(Note, pass_on)
    bus.emit(Note("first"))
    in_time(bus.close)
    assert len(handled) == 20
