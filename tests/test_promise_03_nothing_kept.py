"""Promise 3: with recording off, nothing of a run is kept once it has ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import pytest
from lifecycle_helpers import PATIENCE, Caller, Watch, reachable

import crewbus
from crewbus.streams.buffer import Buffer


@crewbus.event
class Note:
    text: str


class Agent:
    """An entity: the source of events."""


class Boom(Exception):
    pass


class HardStop(BaseException):
    pass


@pytest.fixture
def bus() -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False, unscoped="ignore") as bus:
        yield bus


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest keeps every log record, and with it the traceback of what was reported.
    monkeypatch.setattr(logging.getLogger("crewbus"), "disabled", True)


@contextmanager
def no_collector() -> Iterator[None]:
    """What dies in here dies by its reference count alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def nothing_registered(bus: crewbus.Bus) -> bool:
    awaited = bus._live.awaited()
    handlers = bus.lifecycle._async_handlers
    return not (bus.runs or bus._work._streamed or awaited or handlers._pending or handlers._references)


def held_by(bus: crewbus.Bus, *others: Any) -> list[Any]:
    return reachable([bus, *others], (crewbus.Envelope, Note, Agent, crewbus.Stream, Buffer, crewbus.Chunk))


def talk(bus: crewbus.Bus, watch: Watch, times: int = 3) -> None:
    """Emit notes and chunks whose events and sources are watched."""
    for number in range(times):
        bus.emit(watch(Note(f"note {number}")), source=watch(Agent()))
        bus.chunk(f"piece {number}", source=watch(Agent()))


# What runs may do, each with a context that is still held afterwards


def plain_run(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    with bus.run("plain", tags={"tenant": "acme"}):
        talk(bus, watch)
        return [copy_context()]


def observed_run(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    lengths: list[int] = []
    bus.on(Note, lambda envelope: lengths.append(len(envelope.event.text)))
    bus.on(object, lambda envelope: None)
    contexts = plain_run(bus, watch)
    assert len(lengths) == 3
    return contexts


def explicit_run(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    run = bus.run()
    run.start()
    run.emit(watch(Note("by name")), source=watch(Agent()))
    run.chunk("piece", source=watch(Agent()))
    run.finish()
    return [run]  # type: ignore[list-item]


def nested_runs(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []
    with bus.run("outer"):
        talk(bus, watch)
        contexts.append(copy_context())
        for _ in range(3):
            with bus.run("inner"):
                talk(bus, watch)
                contexts.append(copy_context())
                with bus.run("innermost"):
                    talk(bus, watch)
                    contexts.append(copy_context())
        talk(bus, watch)
    return contexts


def failed_run(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []
    with suppress(Boom), bus.run(), bus.run():
        event = watch(Note("in the traceback"))
        bus.emit(event, source=watch(Agent()))
        contexts.append(copy_context())
        raise Boom
    return contexts


def failing_handlers(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    def fail(envelope: crewbus.Envelope) -> None:
        raise Boom(envelope)

    bus.on(Note, fail)
    return plain_run(bus, watch)


def handler_that_stops_the_emitter(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    def stop(envelope: crewbus.Envelope) -> None:
        raise HardStop

    bus.on(Note, stop)
    contexts = []
    with suppress(HardStop), bus.run():
        contexts.append(copy_context())
        talk(bus, watch)
    return contexts


def observer_that_stops_the_emitter(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    class Observer:
        @crewbus.hookimpl
        def crewbus_emit(self, envelope: crewbus.Envelope) -> None:
            if isinstance(envelope.event, Note):
                raise HardStop

    bus.plugins.register(Observer())
    contexts = []
    with suppress(HardStop), bus.run():
        contexts.append(copy_context())
        talk(bus, watch)
    return contexts


def redactor_that_fails(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    class Redactor:
        @crewbus.hookimpl
        def crewbus_redact(self, event: Any) -> None:
            if isinstance(event, Note):
                raise Boom

    bus.plugins.register(Redactor())
    contexts = []
    with suppress(crewbus.RedactionError), bus.run():
        contexts.append(copy_context())
        talk(bus, watch)
    return contexts


def background_handlers(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)

    bus.on(Note, handle)
    contexts = plain_run(bus, watch)
    bus.flush(PATIENCE)
    return contexts


def failing_background_handlers(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    async def fail(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        raise Boom(envelope)

    bus.on(Note, fail)
    contexts = plain_run(bus, watch)
    bus.flush(PATIENCE)
    return contexts


def handlers_on_the_loop(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)

    async def main() -> list[Context]:
        bus.on(Note, handle)
        async with bus.run():
            talk(bus, watch)
            contexts = [copy_context()]
        await bus.aflush(PATIENCE)
        return contexts

    return asyncio.run(main())


def consumed_stream(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []

    def work() -> None:
        contexts.append(copy_context())
        talk(bus, watch)

    with watch(bus.stream(work)) as stream:
        watch(stream.source)
        assert len(list(stream)) == 4
    return contexts


def stream_consumed_on_a_loop(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []

    async def work() -> None:
        contexts.append(copy_context())
        talk(bus, watch)
        await bus.drain()

    async def main() -> None:
        async with watch(bus.stream(work)) as stream:
            watch(stream.source)
            assert len([frame async for frame in stream]) == 4

    asyncio.run(main())
    return contexts


def stream_of_result_only(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []

    def work() -> str:
        contexts.append(copy_context())
        talk(bus, watch)
        return "done"

    assert watch(bus.stream(work)).result(PATIENCE) == "done"
    return contexts


def stream_never_begun(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    watch(bus.stream(talk, bus, watch))
    watch(bus.stream(talk, watch(Agent()), watch)).close()
    return []


def watch_of_a_run_that_never_starts(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    watch(bus.subscribe("nobody", timeout=None))
    watch(bus.subscribe("nobody", timeout=None)).close()
    with pytest.raises(crewbus.RunNotFoundError):
        list(watch(bus.subscribe("nobody", timeout=0)))
    return []


def watched_run(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []
    early = watch(bus.subscribe("watched"))
    with bus.run(id="watched"):
        late, dropped = watch(bus.subscribe("watched")), watch(bus.subscribe("watched"))
        left = watch(bus.subscribe("watched"))
        talk(bus, watch)
        del dropped
        left.close()
        talk(bus, watch)
        contexts.append(copy_context())
    assert len(list(early)) == len(list(late)) == 7
    return contexts


def watches_dropped_unread(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    kinds: list[Any] = ["drop", "coalesce", "fail", "block"]
    streams = [watch(bus.subscribe("unread", slow=slow, bound=8)) for slow in kinds]
    with bus.run(id="unread"):
        talk(bus, watch, 4)
        contexts = [copy_context()]
    del streams
    return contexts


def stream_dropped_half_read(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts: list[Context] = []
    gone, over = threading.Event(), threading.Event()

    def work() -> None:
        try:
            contexts.append(copy_context())
            talk(bus, watch)
            assert gone.wait(PATIENCE)
            while True:
                talk(bus, watch)
        finally:
            over.set()

    stream = watch(bus.stream(work))
    watch(stream.source)
    next(iter(stream))
    del stream
    gone.set()
    assert over.wait(PATIENCE)
    return contexts


def stream_left_early(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []

    def work() -> None:
        contexts.append(copy_context())
        while True:
            talk(bus, watch)

    with watch(bus.stream(work, options=crewbus.StreamOptions(bound=2))) as stream:
        watch(stream.source)
        next(iter(stream))
    return contexts


def stream_that_fails(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []

    def work() -> None:
        contexts.append(copy_context())
        event = watch(Note("in the traceback"))
        bus.emit(event, source=watch(Agent()))
        raise Boom

    with suppress(Boom), watch(bus.stream(work)) as stream:
        watch(stream.source)
        list(stream)
    return contexts


def stream_that_fails_on_a_loop(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []

    async def work() -> None:
        contexts.append(copy_context())
        event = watch(Note("in the traceback"))
        bus.emit(event, source=watch(Agent()))
        raise Boom

    async def main() -> None:
        with suppress(Boom):
            async with watch(bus.stream(work)) as stream:
                watch(stream.source)
                assert [frame async for frame in stream]

    asyncio.run(main())
    return contexts


def cancelled_consumer(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []

    async def work() -> None:
        contexts.append(copy_context())
        while True:
            talk(bus, watch)
            await bus.drain()
            await asyncio.sleep(0)

    async def consume(started: asyncio.Event) -> None:
        async with watch(bus.stream(work)) as stream:
            watch(stream.source)
            async for _ in stream:
                started.set()

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(consume(started))
        await asyncio.wait_for(started.wait(), PATIENCE)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    return contexts


def cancelled_watcher(bus: crewbus.Bus, watch: Watch) -> list[Context]:
    contexts = []

    async def consume(started: asyncio.Event) -> None:
        async for _ in watch(bus.subscribe("observed")):
            started.set()

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(consume(started))
        await asyncio.sleep(0)
        async with bus.run(id="observed"):
            talk(bus, watch)
            contexts.append(copy_context())
            await asyncio.wait_for(started.wait(), PATIENCE)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            talk(bus, watch)

    asyncio.run(main())
    return contexts


Scenario = Callable[[crewbus.Bus, Watch], list[Context]]

SCENARIOS: list[Scenario] = [
    plain_run,
    observed_run,
    explicit_run,
    nested_runs,
    failed_run,
    failing_handlers,
    handler_that_stops_the_emitter,
    observer_that_stops_the_emitter,
    redactor_that_fails,
    background_handlers,
    failing_background_handlers,
    handlers_on_the_loop,
    consumed_stream,
    stream_consumed_on_a_loop,
    stream_of_result_only,
    stream_never_begun,
    watch_of_a_run_that_never_starts,
    watched_run,
    watches_dropped_unread,
    stream_dropped_half_read,
    stream_left_early,
    stream_that_fails,
    stream_that_fails_on_a_loop,
    cancelled_consumer,
    cancelled_watcher,
]


def settle() -> None:
    """Wait for the threads that a scenario started: they hold what they are about to return.

    `threading` lists a thread for ever whose start was interrupted (by `tests/interrupts.py`): it is never alive.
    """
    for thread in threading.enumerate():
        if thread.name.startswith("crewbus:") and thread.is_alive():
            thread.join(PATIENCE)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_promise_03_nothing_remains_of_a_run_that_ended(bus: crewbus.Bus, scenario: Scenario) -> None:
    watch = Watch()
    held = scenario(bus, watch)
    settle()
    gc.collect()
    assert len(watch) > 0
    assert watch.alive() == []
    assert held_by(bus, *held) == []
    assert nothing_registered(bus)


# An error that a stream raises holds, by its traceback, the frames that it passed, and with them the stream, which
# holds the error for later calls: as with a Future, that takes the collector.
CYCLIC = [stream_that_fails, stream_that_fails_on_a_loop]


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s not in CYCLIC], ids=lambda scenario: scenario.__name__)
def test_promise_03_without_the_garbage_collector(bus: crewbus.Bus, scenario: Scenario) -> None:
    """A run leaves no reference cycles: a process that has switched the collector off keeps nothing either."""
    watch = Watch()
    with no_collector():
        held = scenario(bus, watch)
        settle()
        alive = watch.alive()
    assert alive == []
    assert len(watch) > 0
    del held


def test_promise_03_a_thread_that_outlives_its_run(bus: crewbus.Bus) -> None:
    watch, release = Watch(), threading.Event()
    seen: list[Any] = []

    def linger() -> None:
        bus.emit(watch(Note("from the thread")), source=watch(Agent()))
        started.set()
        assert release.wait(PATIENCE)
        seen.append(crewbus.current_run())

    with no_collector():
        with bus.run() as run:
            talk(bus, watch)
            started = threading.Event()
            caller = Caller(copy_context().run, linger)
            assert started.wait(PATIENCE)
        alive = watch.alive()
        registered = held_by(bus, run)
    release.set()
    caller.outcome()
    assert alive == []
    assert registered == []
    assert seen == [run]
    assert nothing_registered(bus)


def test_promise_03_a_task_that_outlives_its_run(bus: crewbus.Bus) -> None:
    watch = Watch()

    async def linger(started: asyncio.Event, release: asyncio.Event) -> crewbus.Run | None:
        bus.emit(watch(Note("from the task")), source=watch(Agent()))
        started.set()
        await release.wait()
        bus.emit(watch(Note("after the run")), source=watch(Agent()))
        return crewbus.current_run()

    async def main() -> None:
        started, release = asyncio.Event(), asyncio.Event()
        async with bus.run() as run:
            talk(bus, watch)
            task = asyncio.create_task(linger(started, release))
            await asyncio.wait_for(started.wait(), PATIENCE)
        assert watch.alive() == []
        assert held_by(bus, run) == []
        release.set()
        assert await task is run
        assert watch.alive() == []

    with no_collector():
        asyncio.run(main())
    assert nothing_registered(bus)


def test_promise_03_work_that_outlives_its_stream(bus: crewbus.Bus) -> None:
    watch, entered, release, over = Watch(), threading.Event(), threading.Event(), threading.Event()

    def stubborn() -> None:
        talk(bus, watch)
        entered.set()
        assert release.wait(PATIENCE)
        for text in ("too late", "discarded"):
            with suppress(crewbus.Cancelled):
                bus.emit(watch(Note(text)), source=watch(Agent()))
        over.set()

    with no_collector():
        with (
            pytest.warns(crewbus.GraceWarning),
            watch(bus.stream(stubborn, options=crewbus.StreamOptions(grace=0))),
        ):
            assert entered.wait(PATIENCE)
        alive = watch.alive()
        release.set()
        assert over.wait(PATIENCE)
    settle()
    assert alive in ([], ["OwnedStream"])  # the with statement's own reference may last as long as this function
    assert nothing_registered(bus)


def test_promise_03_a_bus_keeps_no_record_of_the_ids_it_waited_for(bus: crewbus.Bus) -> None:
    """Streams that never begin and runs that never start must not add up."""
    for number in range(3000):
        bus.subscribe(f"nobody {number}", timeout=None)
        bus.stream(talk).close()
    assert len(bus._live.awaited()) <= 512


def test_promise_03_a_stream_that_never_began_leaves_no_entry(bus: crewbus.Bus) -> None:
    bus.stream(talk).close()
    bus.subscribe("nobody").close()
    assert not bus._live.awaited()


def test_promise_03_a_chain_of_async_handlers_keeps_no_history(bus: crewbus.Bus) -> None:
    """Each handler's call begets the next: the last must not hold all those before it."""
    from crewbus.dispatch.async_handlers import PendingDelivery

    hops, done = 500, threading.Event()

    async def pass_on(envelope: crewbus.Envelope) -> None:
        left = int(envelope.event.text)
        if left:
            bus.emit(Note(str(left - 1)))
        else:
            calls.append(held())
            done.set()

    def held() -> int:
        gc.collect()
        return sum(isinstance(thing, PendingDelivery) for thing in gc.get_objects())

    calls: list[int] = []
    before = held()
    bus.on(Note, pass_on)
    with bus.run():
        bus.emit(Note(str(hops)))
        assert done.wait(PATIENCE)
    assert calls[0] - before < 50


# Memory


def growth(work: Callable[[int], object], warm_up: int, events: int) -> int:
    """By how many bytes ``work(events)`` grows what is allocated after ``work(warm_up)``, which fills the caches.

    It is the less of two measurements: a leak shows in both, and what a thread of an earlier test allocates in one.
    """
    tracemalloc.start()
    try:
        work(warm_up)
        return min(_grown_by(partial(work, events)) for _ in range(2))
    finally:
        tracemalloc.stop()


def _grown_by(work: Callable[[], object]) -> int:
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    work()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


def test_promise_03_memory_over_100_000_events_in_one_run(bus: crewbus.Bus) -> None:
    bus.on(Note, lambda envelope: None)
    agent = Agent()

    def work(events: int) -> None:
        for _ in range(events):
            bus.emit(Note("x" * 40), source=agent)

    with bus.run() as run:
        assert growth(work, 1_000, 100_000) < 20_000
        assert held_by(bus, run) == []


def test_promise_03_memory_over_100_000_events_with_contexts_held(bus: crewbus.Bus) -> None:
    contexts: list[Context] = []

    def work(events: int) -> None:
        contexts.clear()
        for _ in range(10):
            with bus.run(tags={"tenant": "acme"}), bus.run("inner"):
                contexts.append(copy_context())
                for _ in range(events // 10):
                    bus.emit(Note("x" * 40), source=Agent())

    assert growth(work, 1_000, 100_000) < 20_000
    assert held_by(bus, *contexts) == []


def test_promise_03_memory_over_100_000_streamed_chunks(bus: crewbus.Bus) -> None:
    def produce(chunks: int) -> None:
        for _ in range(chunks):
            bus.chunk("x" * 40)

    def work(events: int) -> None:
        for _ in range(20):
            with bus.stream(produce, events // 20) as stream:
                assert sum(1 for _ in stream) == events // 20 + 1

    assert growth(work, 1_000, 100_000) < 40_000
    assert nothing_registered(bus)


def test_promise_03_memory_with_a_watcher_that_never_reads(bus: crewbus.Bus) -> None:
    def work(events: int) -> None:
        with bus.run() as run:
            stream = bus.subscribe(run.id, bound=16)
            for _ in range(events):
                bus.chunk("x" * 40)
            stream.close()

    assert growth(work, 1_000, 50_000) < 20_000


def test_promise_03_memory_over_many_runs(bus: crewbus.Bus) -> None:
    def work(runs: int) -> None:
        for number in range(runs):
            with bus.run(id=f"run {number}"), suppress(Boom), bus.run():
                bus.emit(Note("x"))
                raise Boom

    assert growth(work, 500, 5_000) < 20_000
