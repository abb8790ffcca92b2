"""Promise 7: a call's callbacks get that call's events, all of them, once each, and no others."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections import Counter
from contextlib import nullcontext, suppress
from functools import partial

import pytest
from helpers import TIMEOUT, Noted, in_thread, in_threads, needs_fork, quiet_bus
from lifecycle_helpers import script
from plugin_helpers import Watcher, logged, plugin

import crewbus
from crewbus import CallCancelled, CallFailed, CallFinished, CallStarted, Chunk

THREADS, CALLS, CHUNKS = 32, 10, 5


class Collector:
    """A callback that keeps what it gets; all of one class, as litellm's loggers are."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.envelopes: list[crewbus.Envelope] = []

    def __call__(self, envelope: crewbus.Envelope) -> None:
        self.envelopes.append(envelope)

    @property
    def events(self):
        return [envelope.event for envelope in self.envelopes]

    @property
    def texts(self):
        return [event.text for event in self.events if isinstance(event, Chunk)]

    def is_home(self):
        """Whether it got its own call's events, all of them, once each."""
        own = [CallStarted(self.name), *(Chunk(f"{self.name}:{i}") for i in range(CHUNKS)), CallFinished(self.name)]
        return self.events == own


class AsyncCollector(Collector):
    async def __call__(self, envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        self.envelopes.append(envelope)


@pytest.fixture
def bus():
    with quiet_bus() as bus:
        yield bus


def model(bus, name, between=lambda: None):
    """What a model's client does: it streams, and says what it gave."""
    call = crewbus.current_call()
    for i in range(CHUNKS):
        between()
        bus.chunk(f"{name}:{i}") if i % 2 else call.chunk(f"{name}:{i}")
    call.finish(output=name)


# Many at once


@pytest.mark.parametrize("inside", ["runs", "one run", "no run"])
def test_promise_07_threads_with_callbacks_of_one_class(bus, inside):
    """All calls of a round are under way at once: none waits for another."""
    barrier = threading.Barrier(THREADS)

    def work(thread):
        collectors = []
        for number in range(CALLS):
            collectors.append(Collector(f"{thread}/{number}"))
            with bus.call(collectors[-1].name, callbacks=[collectors[-1]]):
                barrier.wait(TIMEOUT)
                model(bus, collectors[-1].name)
                barrier.wait(TIMEOUT)
        return collectors

    def in_a_run(thread):
        with bus.run():
            return work(thread)

    if inside == "one run":
        with bus.run():
            bound = crewbus.bind(work)
            done = in_threads(THREADS, bound)
    else:
        done = in_threads(THREADS, in_a_run if inside == "runs" else work)
    collectors = [collector for thread in done for collector in thread]
    assert len(collectors) == THREADS * CALLS
    assert [collector.name for collector in collectors if not collector.is_home()] == []


@pytest.mark.parametrize("kind", [Collector, AsyncCollector])
def test_promise_07_tasks_with_callbacks_of_one_class(bus, kind):
    async def work(task):
        collectors = []
        for number in range(CALLS):
            collectors.append(kind(f"{task}/{number}"))
            async with bus.call(collectors[-1].name, callbacks=[collectors[-1]]) as call:
                for i in range(CHUNKS):
                    await asyncio.sleep(0)
                    bus.chunk(f"{call.name}:{i}")
                call.finish(output=call.name)
        return collectors

    async def main():
        with bus.run():
            done = await asyncio.gather(*map(work, range(THREADS)))
        await bus.aflush(TIMEOUT)
        return [collector for task in done for collector in task]

    collectors = asyncio.run(main())
    assert len(collectors) == THREADS * CALLS
    assert [collector.name for collector in collectors if not collector.is_home()] == []


def test_promise_07_streaming_runs_with_callbacks_of_one_class(bus):
    """Streams and callbacks side by side: each stream has its own run's text, each callback its own call's."""
    barrier = threading.Barrier(THREADS)

    def agent(name, collectors):
        for number in range(CALLS):
            collectors.append(Collector(f"{name}/{number}"))
            with bus.call(collectors[-1].name, callbacks=[collectors[-1]]):
                if number == 0:
                    barrier.wait(TIMEOUT)
                model(bus, collectors[-1].name)

    def consume(thread):
        collectors = []
        with bus.stream(agent, thread, collectors) as stream:
            text = stream.text()
        assert text == "".join(f"{collector.name}:{i}" for collector in collectors for i in range(CHUNKS))
        return collectors

    collectors = [collector for thread in in_threads(THREADS, consume) for collector in thread]
    assert [collector.name for collector in collectors if not collector.is_home()] == []


def test_promise_07_concurrent_callback_replacement_without_a_sleep(bus):
    """The fault of a global list: each worker gives callbacks for its calls while the others' are under way."""
    barrier = threading.Barrier(8)

    def work(thread):
        seen = []
        for number in range(50):
            mine = Collector(f"{thread}/{number}")
            with bus.callbacks(mine):
                barrier.wait(TIMEOUT)  # everybody has given theirs
                with bus.call(mine.name):
                    barrier.wait(TIMEOUT)  # everybody's call is under way
                    model(bus, mine.name)
                barrier.wait(TIMEOUT)
            seen.append(mine)
        return seen

    collectors = [collector for thread in in_threads(8, work) for collector in thread]
    assert len(collectors) == 400
    assert [collector.name for collector in collectors if not collector.is_home()] == []


def test_promise_07_one_callback_object_in_many_calls(bus):
    """It gets the events of all of them, of each once."""
    everything = Collector()

    def work(thread):
        for number in range(CALLS):
            with bus.call(f"{thread}/{number}", callbacks=[everything]):
                model(bus, f"{thread}/{number}")

    in_threads(8, work)
    by_call = Counter(envelope.parent for envelope in everything.envelopes if type(envelope.event) is Chunk)
    assert set(by_call.values()) == {CHUNKS}
    assert len(by_call) == 8 * CALLS
    assert Counter(map(type, everything.events)) == {CallStarted: 80, Chunk: 400, CallFinished: 80}


# What belongs to a call


def test_promise_07_from_a_thread_without_context(bus):
    mine = Collector("gpt")
    with bus.call("gpt", callbacks=[mine]) as call:
        in_thread(call.chunk, "far away").result(TIMEOUT)
        in_thread(call.emit, Noted("too")).result(TIMEOUT)
        in_thread(partial(call.finish, "out", {"output_tokens": 3}, 0.5)).result(TIMEOUT)
    assert mine.events == [
        CallStarted("gpt"),
        Chunk("far away"),
        Noted("too"),
        CallFinished("out", {"output_tokens": 3}, 0.5),
    ]


def test_promise_07_nested_calls_the_innermost_only(bus):
    outer, inner, around = Collector(), Collector(), Collector()
    with bus.run() as run, bus.callbacks(around):
        with bus.call("tool", callbacks=[outer]) as tool:
            bus.chunk("tool ")
            with bus.call("model", callbacks=[inner]):
                bus.chunk("model ")
                tool.chunk("named ")
                run.chunk("as in the bus's name ")
            with bus.run("of its own"):
                bus.chunk("its own run's")
    assert outer.texts == ["tool ", "named "]
    assert inner.texts == ["model ", "as in the bus's name "]
    assert around.texts == ["tool ", "model ", "named ", "as in the bus's name "]
    assert [type(event) for event in outer.events] == [CallStarted, Chunk, Chunk, CallFinished]


def test_promise_07_an_integration_may_inherit_the_callbacks_around(bus):
    """`with bus.call("x", callbacks=[cb])` around a library that makes its own call reaches that too, once."""
    mine = Collector()
    with bus.callbacks(mine), bus.call("user's", callbacks=[mine]):
        with bus.call("library's", callbacks=[mine], inherit=True):
            bus.chunk("x")
        with bus.call("tool's"):
            bus.chunk("y")
    starts = [event.name for event in mine.events if isinstance(event, CallStarted)]
    assert starts == ["user's", "library's", "tool's"]
    assert mine.texts == ["x", "y"]
    other = Collector()
    with bus.call("user's", callbacks=[other]), bus.call("tool's"):
        bus.chunk("not inherited")
    assert other.texts == []


def test_promise_07_callbacks_are_fixed_when_the_call_starts(bus):
    early, late = Collector(), Collector()
    with bus.callbacks(early), bus.call("gpt"):
        with bus.callbacks(late):
            bus.chunk("x")
    assert (early.texts, late.events) == (["x"], [])


def test_promise_07_callbacks_outlive_the_scope_that_gave_them(bus):
    """A stream that is read after the `with bus.callbacks` was left."""
    mine = Collector("gpt")
    with bus.callbacks(mine):
        call = bus.call("gpt")
        call.start()
    call.chunk("late")
    call.finish("late")
    assert mine.events == [CallStarted("gpt"), Chunk("late"), CallFinished("late")]


def test_promise_07_after_its_terminal_event_nothing(bus):
    """What a logging thread still emits in the call's context belongs to the run."""
    mine = Collector()
    with bus.run() as run:
        watching = bus.subscribe(run.id)
        with bus.call("gpt", callbacks=[mine]) as call:
            late = crewbus.bind(bus.chunk)
            call.finish()
            call.finish("again")
            bus.chunk("after the end ")
        in_thread(late, "from a logging thread").result(TIMEOUT)
        call.fail(ValueError("again"))
    assert mine.events == [CallStarted("gpt"), CallFinished()]
    assert watching.text() == "after the end from a logging thread"


def test_promise_07_a_late_chunk_outside_any_run_is_unscoped(bus):
    with bus.call("gpt") as call:
        bus.chunk("at home: no warning")
    with pytest.warns(crewbus.UnscopedWarning, match="outside any run"):
        call.chunk("late")


def test_promise_07_a_call_continues_after_its_run_has_ended(bus):
    """For its callbacks; what the run's record has is over."""
    mine = Collector()
    with bus.run(record=True) as run:
        call = bus.call("gpt", callbacks=[mine])
        call.start()
    assert call.chunk("read later").run_id is None
    call.finish()
    assert mine.events == [CallStarted("gpt"), Chunk("read later"), CallFinished()]
    assert [envelope.seq for envelope in bus.record_of(run.id)] == [0, 1, 2]


# The terminal event is the last


@pytest.mark.parametrize("inside", [True, False], ids=["in a run", "outside"])
def test_promise_07_the_terminal_event_waits_for_what_is_being_delivered(bus, inside):
    entered, gate = threading.Event(), threading.Event()
    seen = []

    def slow(envelope):
        if isinstance(envelope.event, Chunk):
            entered.set()
            assert gate.wait(TIMEOUT)
        seen.append(type(envelope.event))

    with bus.run() if inside else nullcontext():
        call = bus.call("gpt", callbacks=[slow])
        call.start()
        delivering = in_thread(call.chunk, "x")
        assert entered.wait(TIMEOUT)
        call.finish()
        assert call.ended
        call.emit(Noted("too late, though the terminal event is still to come"))
        assert seen == [CallStarted]
        flushed = in_thread(bus.flush, TIMEOUT)
        assert not flushed.done()
        gate.set()
        delivering.result(TIMEOUT)
        flushed.result(TIMEOUT)
        assert seen == [CallStarted, Chunk, CallFinished]


def test_promise_07_emitters_and_an_end_that_race(bus):
    """Whatever is numbered before the end is delivered before it; nothing comes after."""
    numbers = []
    bus.on(CallFinished, lambda envelope: numbers.append(envelope.seq))
    for _ in range(200):
        mine = Collector()
        with bus.run() as run:
            call = bus.call("gpt", callbacks=[mine])
            call.start()

            def race(i, call=call):
                return call.finish() if i == 0 else [call.chunk(str(i)) for _ in range(3)]

            sent = [envelope for chunks in in_threads(4, race) for envelope in chunks or ()]
        end = numbers[-1]
        assert type(mine.events[-1]) is CallFinished
        assert {e.seq for e in mine.envelopes[1:-1]} == {e.seq for e in sent if e.seq < end}
        assert {e.run_id for e in sent} == {run.id}


def test_promise_07_two_that_end_a_call_at_once(bus):
    """Both assume that it is live; one of them ends it."""
    barrier, mine, ends = threading.Barrier(2), Collector(), []

    def crewbus_redact(event):
        if isinstance(event, CallFinished):
            barrier.wait(TIMEOUT)

    bus.plugins.register(plugin(crewbus_redact=crewbus_redact), "meeting")
    bus.on(crewbus.CallEnded, ends.append)
    call = bus.call("gpt", callbacks=[mine])
    call.start()
    in_threads(2, lambda i: call.finish(str(i)))
    assert len(ends) == 1
    assert mine.events == [CallStarted("gpt"), ends[0].event]


def test_promise_07_a_callback_that_ends_its_own_call(bus):
    first, second = [], []

    def ends(envelope):
        first.append(type(envelope.event))
        if isinstance(envelope.event, Chunk):
            call.finish("enough")

    with bus.call("gpt", callbacks=[ends, lambda envelope: second.append(type(envelope.event))]) as call:
        bus.chunk("x")
        assert call.ended
    assert first == second == [CallStarted, Chunk, CallFinished]


# How a call ends


def test_promise_07_a_failing_call(bus):
    mine = Collector()
    with pytest.raises(ValueError, match="no"), bus.call("gpt", callbacks=[mine]):
        raise ValueError("no")
    assert mine.events == [CallStarted("gpt"), CallFailed("builtins.ValueError", "no")]


def test_promise_07_a_cancelled_call(bus):
    mine = Collector()

    async def main():
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def work():
        async with bus.call("gpt", callbacks=[mine]):
            await asyncio.get_running_loop().create_future()

    asyncio.run(main())
    assert mine.events == [CallStarted("gpt"), CallCancelled("CancelledError")]


def test_promise_07_an_abandoned_generator_ends_its_call(bus):
    mine = Collector()

    def generate():
        with bus.call("gpt", callbacks=[mine]):
            yield bus.chunk("x")

    made = generate()
    next(made)
    made.close()
    assert mine.events == [CallStarted("gpt"), Chunk("x"), CallCancelled("GeneratorExit")]
    assert crewbus.current_call() is None


def test_promise_07_what_a_record_would_refuse_does_not_end_the_call(bus):
    mine = Collector()
    bus.enable_recording(content=True)
    with bus.run() as run:
        with pytest.raises(crewbus.UnserializableError, match="output"), bus.call("gpt", callbacks=[mine]) as call:
            call.finish(output=object())
    assert [type(event) for event in mine.events] == [CallStarted, CallFailed]
    kinds = [type(envelope.event).__name__ for envelope in bus.record_of(run.id)]
    assert kinds == ["RunStarted", "CallStarted", "CallFailed", "RunFinished"]


def test_promise_07_a_call_is_recorded_with_what_it_gave(bus):
    given = {"content": "hello", "tool_calls": [{"name": "search", "arguments": "{}"}], "none": None}
    bus.enable_recording(content=True)
    with bus.run() as run:
        with bus.call("gpt", source="writer") as call:
            bus.chunk("hello")
            call.finish(output=given, usage={"output_tokens": 1}, cost=0.25)
    start, chunk, end = list(bus.record_of(run.id))[1:4]
    assert (start.event, end.event) == (CallStarted("gpt"), CallFinished(given, {"output_tokens": 1}, 0.25))
    assert (start.source, end.source) == ("writer", "writer")
    assert (start.parent, chunk.parent, end.parent) == (run.start_id, start.id, start.id)


def test_promise_07_a_call_in_a_cancelled_run(bus):
    mine = Collector()
    with suppress(crewbus.Cancelled), bus.run() as run:
        with bus.call("gpt", callbacks=[mine]):
            run.cancel("enough")
            bus.chunk("x")
    assert mine.events == [CallStarted("gpt"), CallCancelled(f"run {run.id} was cancelled: enough")]
    with suppress(crewbus.Cancelled), bus.run() as run:
        run.cancel("before")
        with bus.call("gpt"):
            raise AssertionError("it began")
    assert run.state == "cancelled"


# Faults


def test_promise_07_a_callback_that_raises(bus):
    watcher, mine, heard = Watcher(), Collector(), []
    bus.plugins.register(watcher)
    bus.on(Chunk, lambda envelope: heard.append(envelope.event.text))

    def broken(envelope):
        raise LookupError("no such table")

    async def broken_later(envelope):
        raise LookupError("later")

    with logged() as messages, bus.call("gpt", callbacks=[broken, broken_later, mine]) as call:
        assert call.chunk("x") is not None
        bus.flush(TIMEOUT)
    bus.flush(TIMEOUT)
    assert mine.texts == heard == ["x"]
    assert {failure.kind for failure in watcher.failures} == {"callback"}
    assert Counter(name.rpartition(".")[2] for name in watcher.names) == {"broken": 3, "broken_later": 3}
    assert "callback" in messages[0]
    assert "raised LookupError while handling CallStarted" in messages[0]


def test_promise_07_a_base_exception_propagates_after_the_siblings_ran(bus):
    mine = Collector()

    def interrupted(envelope):
        if isinstance(envelope.event, Chunk):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), bus.call("gpt", callbacks=[interrupted, mine]):
        bus.chunk("x")
    assert [type(event) for event in mine.events] == [CallStarted, Chunk, CallCancelled]


def test_promise_07_a_handlers_base_exception_propagates_after_the_callbacks_ran(bus):
    mine = Collector()

    @bus.on(Noted)
    def interrupted(envelope):
        raise KeyboardInterrupt

    with bus.call("gpt", callbacks=[mine]) as call:
        with pytest.raises(KeyboardInterrupt):
            call.emit(Noted())
    assert [type(event) for event in mine.events] == [CallStarted, Noted, CallFinished]


def test_promise_07_a_callback_that_emits(bus):
    """What it emits belongs to where it was given; it is not called for that, so it may answer every event."""
    heard = []
    bus.on(Noted, lambda envelope: heard.append((envelope.event.text, envelope.run_id, envelope.parent)))
    seen = []

    def answers(envelope):
        seen.append(type(envelope.event))
        bus.emit(Noted(type(envelope.event).__name__))

    with bus.run() as run, bus.callbacks(answers):
        with bus.call("gpt"):
            bus.chunk("x")
    assert seen == [CallStarted, Chunk, CallFinished]
    assert heard == [(name, run.id, run.start_id) for name in ("CallStarted", "Chunk", "CallFinished")]


def test_promise_07_a_callback_that_emits_into_its_own_call_for_ever(bus):
    """Its recursion is reported as its fault, and the emitter continues."""
    watcher = Watcher()
    bus.plugins.register(watcher)

    def endless(envelope):
        if not isinstance(envelope.event, CallStarted | crewbus.CallEnded):
            call.emit(Noted())

    with logged(), bus.call("gpt", callbacks=[endless]) as call:
        bus.chunk("x")
    assert {type(failure.error) for failure in watcher.failures} == {RecursionError}


def test_promise_07_flushing_in_a_callback_is_an_error(bus):
    failures = []

    def flushes(envelope):
        try:
            bus.flush()
        except crewbus.FlushError as error:
            failures.append(error)

    async def flushes_well(envelope):
        await bus.aflush(TIMEOUT)

    with bus.call("gpt", callbacks=[flushes, flushes_well]):
        pass
    bus.flush(TIMEOUT)
    assert len(failures) == 2


# Where a callback runs


tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_promise_07_a_callback_sees_the_context_in_which_it_was_given(bus, kind):
    seen = []

    def look(envelope):
        run = crewbus.current_run()
        seen.append((tenant.get(), run and run.name, crewbus.current_call()))
        tenant.set("intruder")

    async def look_later(envelope):
        await asyncio.sleep(0)
        look(envelope)

    token = tenant.set("acme")
    try:
        with bus.run("here"), bus.callbacks(look if kind == "sync" else look_later):
            tenant.set("changed later")
            with bus.call("gpt") as call:
                in_thread(call.chunk, "x").result(TIMEOUT)
                assert tenant.get() == "changed later"
            bus.flush(TIMEOUT)
    finally:
        tenant.reset(token)
    assert seen == [("acme", "here", None)] * 3


def test_promise_07_without_isolation_callbacks_run_where_the_event_is_emitted():
    seen = []
    with quiet_bus(blocked=["callback_isolation"]) as bus:
        with bus.call("gpt", callbacks=[lambda envelope: seen.append(crewbus.current_call())]) as call:
            bus.chunk("x")
    assert seen == [None, call, None]


def test_promise_07_what_is_given_in_a_context_stays_in_it(bus):
    mine = Collector()

    async def elsewhere(ready):
        ready.set()
        with bus.call("elsewhere"):
            bus.chunk("x")

    async def main():
        ready = asyncio.Event()
        task = asyncio.create_task(elsewhere(ready))
        with bus.callbacks(mine):
            await ready.wait()
            await task
            await asyncio.create_task(elsewhere(ready))
        with bus.call("after"):
            bus.chunk("y")

    asyncio.run(main())
    assert mine.texts == ["x"]  # of the task that was created inside


def test_promise_07_nested_scopes_add_and_are_taken_off(bus):
    one, two = Collector(), Collector()
    with bus.callbacks(one):
        with bus.callbacks(two, one):
            with bus.call("both"):
                pass
        with bus.call("one"):
            pass
    with bus.call("none"):
        pass
    assert [event.name for event in one.events if isinstance(event, CallStarted)] == ["both", "one"]
    assert [event.name for event in two.events if isinstance(event, CallStarted)] == ["both"]


def test_promise_07_buses_keep_their_callbacks_apart(bus):
    mine = Collector()
    with quiet_bus() as other, bus.callbacks(mine):
        with other.call("other's"):
            assert crewbus.current_call() is crewbus.current_call(other) is not None
            assert crewbus.current_call(bus) is None
        with bus.run("ours"), other.call("theirs") as call:
            assert call.run is None
            assert crewbus.current_run().name == "ours"
            bus.chunk("to our run")
    assert mine.events == []


def test_promise_07_one_callback_on_two_buses(bus):
    mine = Collector()
    with quiet_bus() as other, bus.callbacks(mine), other.callbacks(mine):
        for each in (bus, other):
            with each.call("gpt"):
                pass
    assert [type(event) for event in mine.events] == [CallStarted, CallFinished] * 2


def test_promise_07_callbacks_left_in_another_context(bus):
    """As an async generator may be, which is finalised elsewhere: they are taken off there too."""
    mine, others = Collector(), Collector()
    with bus.callbacks(others):
        scope = bus.callbacks(mine)
        scope.__enter__()
        inside = contextvars.copy_context()
        inside.run(scope.__exit__, None, None, None)

        def calls():
            with bus.call("gpt"):
                bus.chunk("x")

        inside.run(calls)
    assert (mine.texts, others.texts) == ([], ["x"])


def test_promise_07_callbacks_left_in_another_context_are_not_kept_where_they_were_given(bus):
    """Nor is what they hold: the bus, and the context in which they were given."""

    def give():
        mine, others = Collector(), Collector()
        with bus.callbacks(others):
            scope = bus.callbacks(mine)
            scope.__enter__()
            contextvars.Context().run(scope.__exit__, None, None, None)
        return weakref.ref(mine), weakref.ref(others)

    here = contextvars.copy_context()
    gone = here.run(give)
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert here.run(crewbus.current_bus) is crewbus.default_bus()
    crewbus.default_bus().close()


# Plugins


def test_promise_07_a_plugin_wraps_callbacks(bus):
    order = []

    def wrap(callback):
        def wrapped(envelope):
            order.append("before")
            callback(envelope)

        return wrapped

    class Wrapper:
        @crewbus.hookimpl(wrapper=True)
        def crewbus_callback_register(self, callback):
            return wrap((yield))

    bus.plugins.register(Wrapper)
    with bus.call("gpt", callbacks=[lambda envelope: order.append(type(envelope.event))]):
        pass
    assert order == ["before", CallStarted, "before", CallFinished]


class Passing:
    """Wraps callbacks in plain functions, which give back what those do."""

    def __init__(self):
        self.passed = []

    @crewbus.hookimpl(wrapper=True)
    def crewbus_callback_register(self):
        callback = yield

        def wrapped(envelope):
            self.passed.append(type(envelope.event))
            return callback(envelope)

        return wrapped


@pytest.mark.parametrize("on_a_loop", [True, False])
def test_promise_07_a_plugin_wraps_an_async_callback_in_a_plain_function(bus, on_a_loop):
    mine, passing = AsyncCollector("gpt"), Passing()
    bus.plugins.register(passing)

    def work():
        with bus.run(), bus.call("gpt", callbacks=[mine]):
            model(bus, "gpt")

    async def main():
        work()
        assert mine.events == [], "it does not hold the emitter up"
        await bus.aflush(TIMEOUT)

    if on_a_loop:
        asyncio.run(main())
    else:
        work()
        bus.flush(TIMEOUT)
    assert mine.is_home()
    assert passing.passed == [type(event) for event in mine.events]


def test_promise_07_so_wrapped_it_sees_the_context_in_which_it_was_given_and_its_faults_are_its_own(bus):
    watcher, seen = Watcher(), []
    bus.plugins.register(watcher)
    bus.plugins.register(Passing)

    async def broken_later(envelope):
        await asyncio.sleep(0)
        run = crewbus.current_run()
        seen.append((run and run.name, crewbus.current_call()))
        raise LookupError("later")

    with logged(), bus.run("here"):
        with bus.call("gpt", callbacks=[broken_later]):
            pass
        bus.flush(TIMEOUT)
    assert seen == [("here", None)] * 2
    assert [(f.kind, f.name.rpartition(".")[2], type(f.error)) for f in watcher.failures] == [
        ("callback", "broken_later", LookupError)
    ] * 2


def test_promise_07_a_wrapper_may_keep_an_async_callback_from_some_events(bus):
    mine = AsyncCollector()

    class Picky:
        @crewbus.hookimpl(wrapper=True)
        def crewbus_callback_register(self):
            callback = yield
            return lambda envelope: callback(envelope) if isinstance(envelope.event, Chunk) else None

    bus.plugins.register(Picky)
    with bus.call("gpt", callbacks=[mine]) as call:
        call.chunk("x")
    bus.flush(TIMEOUT)
    assert mine.events == [Chunk("x")]


def test_promise_07_a_plugin_vetoes_and_adds(bus):
    audit = Collector()

    def crewbus_callback_register(scope, callback):
        if callback is print:
            raise PermissionError("print is not for here")
        scope.add(audit)

    bus.plugins.register(plugin(crewbus_callback_register=crewbus_callback_register), "audit")
    with pytest.raises(PermissionError, match="not for here"), bus.call("gpt", callbacks=[print]):
        raise AssertionError("it began")
    with pytest.raises(PermissionError), bus.callbacks(print):
        raise AssertionError("it began")
    refused = bus.call("gpt", callbacks=[Collector(), print])
    with pytest.raises(PermissionError):
        refused.start()
    assert refused.ended
    assert refused.callbacks == ()
    with bus.callbacks(Collector()), bus.call("gpt"):
        bus.chunk("x")
    assert audit.texts == ["x"]


def test_promise_07_with_a_plugin_that_has_a_notion_of_scope_of_its_own(bus):
    """It says which run; the call in that run's scope is found all the same."""
    mine = Collector()
    with bus.run() as run, bus.run() as other:
        other.finish()
        bus.plugins.register(plugin(crewbus_current_run=lambda: chosen[0]), "chooser")
        chosen = [run]
        bus.plugins.unregister("run_scope")
        with bus.call("gpt", callbacks=[mine]) as call:
            assert call.run is run
            bus.chunk("x")
            with bus.run("elsewhere") as elsewhere:
                chosen[0] = elsewhere
                bus.chunk("its own")
            chosen[0] = None
            bus.emit(Noted())
    assert mine.events == [CallStarted("gpt"), Chunk("x"), CallFinished()]


def test_promise_07_a_plugin_that_answers_with_nonsense(bus):
    bus.plugins.register(plugin(crewbus_callback_register=lambda callback: 7), "odd")
    with pytest.raises(crewbus.CallbackError, match="7"), bus.call("gpt", callbacks=[print]):
        raise AssertionError("it began")


# Nothing kept, forks, closing, misuse


def test_promise_07_nothing_is_kept_of_a_call_that_ended(bus):
    class Thing:
        def __call__(self, envelope):
            pass

    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        with bus.run(), bus.call("gpt", callbacks=[thing], source=thing) as call:
            kept = contextvars.copy_context()
            bus.chunk("x", source=thing)
            call.finish(output={"thing": "x"})
        del thing
        assert gone() is None
        assert kept.run(crewbus.current_call) is call
    finally:
        gc.enable()


@needs_fork
@pytest.mark.parametrize("inside", ["bus.run()", "contextlib.nullcontext()"])
def test_promise_07_a_call_continues_in_the_parent_only(inside):
    """The child inherits it ended, with a lock of its own, even where a thread was inside the parent's."""
    done = script(
        f"""
        import contextlib, os, threading, warnings
        import crewbus

        warnings.simplefilter("ignore")
        seen = []
        held, gate = threading.Event(), threading.Event()
        bus = crewbus.Bus(entry_points=False)

        def hold(call):
            with call.tree.lock:
                held.set()
                gate.wait(60)

        with {inside}, bus.call("gpt", callbacks=[lambda e: seen.append(type(e.event).__name__)]) as call:
            holder = threading.Thread(target=hold, args=(call,))
            holder.start()
            assert held.wait(60)
            pid = os.fork()
            if pid == 0:
                call.chunk("from the child")
                bus.chunk("from the child")
                call.finish()
                assert seen == ["CallStarted"], seen
                with bus.run(), bus.call("of its own", callbacks=[lambda e: seen.append(type(e.event).__name__)]):
                    pass
                assert seen[1:] == ["CallStarted", "CallFinished"], seen
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            gate.set()
            holder.join()
            bus.chunk("x")
        print(status, seen)
        """
    )
    assert done.stdout == "0 ['CallStarted', 'Chunk', 'CallFinished']\n", done.stdout + done.stderr


def test_promise_07_a_call_that_outlives_its_bus(bus):
    mine = Collector()
    call = bus.call("gpt", callbacks=[mine])
    call.start()
    bus.close()
    with pytest.raises(crewbus.BusClosedError):
        call.chunk("x")
    call.finish()
    assert call.ended
    with pytest.raises(crewbus.BusClosedError), bus.call("late"):
        raise AssertionError("it began")


def test_promise_07_wrong_uses_say_what_is_wrong(bus):
    with pytest.raises(crewbus.CallError, match="a name"):
        bus.call("")
    with pytest.raises(crewbus.CallbackError, match=r"callbacks=\[builtins.print\]"):
        bus.call("gpt", callbacks=print)
    with pytest.raises(crewbus.CallbackError, match="can't be called"), bus.call("gpt", callbacks=["print"]):
        raise AssertionError("it began")
    with bus.call("gpt") as call:
        with pytest.raises(crewbus.CallError, match="started before"):
            call.start()
        with pytest.raises(crewbus.CallError, match="fixed"):
            call.add(print)
    scope = bus.callbacks(print)
    with scope, pytest.raises(crewbus.CallbackError, match="in use"):
        scope.__enter__()
    assert repr(call) == "<Call gpt ended>"


def test_promise_07_the_bus_on_which_libraries_call(bus):
    """Of the call in scope, of the callbacks given here, of the run in scope, or the default."""
    with quiet_bus() as other, quiet_bus() as third:
        assert crewbus.current_bus(other) is other
        assert crewbus.current_bus() is crewbus.call("x").bus is crewbus.default_bus()
        with other.run():
            assert crewbus.call("x").bus is crewbus.current_bus(third) is other
            with bus.callbacks(Collector()):
                assert crewbus.current_bus(third) is other
                assert crewbus.call("x").bus is bus
                with third.call("gpt"):
                    assert crewbus.call("x").bus is crewbus.current_bus() is third
    crewbus.default_bus().close()


def test_promise_07_libraries_call_on_the_bus_in_scope(bus):
    mine = Collector()
    with bus.run() as run:
        with crewbus.call("gpt", callbacks=[mine], source="library") as call:
            crewbus.chunk("x")
    assert (call.bus, call.run) == (bus, run)
    assert mine.texts == ["x"]
    assert mine.envelopes[0].source == "library"


# Interrupts, generators, redactors


def test_promise_07_a_delivery_that_an_interrupt_cut_short_does_not_hold_up_the_end(bus, monkeypatch):
    """Ctrl-C may strike before the callbacks are called: the delivery counts as made, and the end reaches them."""
    mine = Collector()

    def interrupt(*_):
        raise KeyboardInterrupt

    with bus.call("gpt", callbacks=[mine]) as call:
        with monkeypatch.context() as patch:
            patch.setattr("crewbus.dispatch.delivery.Deliverer.deliver_in_call", interrupt)
            with pytest.raises(KeyboardInterrupt):
                call.emit(Chunk("x"))
    assert mine.events == [CallStarted("gpt"), CallFinished()]
    bus.flush(TIMEOUT)


def test_promise_07_callbacks_get_an_end_that_a_handler_interrupts(bus):
    """Even where another thread is still delivering."""
    entered, gate, seen = threading.Event(), threading.Event(), []

    def slow(envelope):
        if isinstance(envelope.event, Chunk):
            entered.set()
            assert gate.wait(TIMEOUT)
        seen.append(type(envelope.event))

    @bus.on(CallFinished)
    def interrupted(envelope):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), bus.call("gpt", callbacks=[slow]) as call:
        delivering = in_thread(call.chunk, "x")
        assert entered.wait(TIMEOUT)
    gate.set()
    delivering.result(TIMEOUT)
    bus.flush(TIMEOUT)
    assert seen == [CallStarted, Chunk, CallFinished]


def test_promise_07_generators_that_take_turns_leave_nothing_in_scope(bus):
    """Whichever ends first; Python has one context for both, so what they emit by context is the last one's."""

    def generate(name):
        with bus.call(name):
            yield from range(3)

    for pair in zip(generate("a"), generate("b"), strict=True):
        assert crewbus.current_call().name == "b"
        assert pair[0] == pair[1]
    assert crewbus.current_call() is None
    first, second = generate("a"), generate("b")
    next(first), next(second)
    first.close()
    assert crewbus.current_call().name == "b"
    second.close()
    assert crewbus.current_call() is None


def test_promise_07_a_redactor_that_fails_at_the_end_does_not_keep_the_call_open(bus):
    mine = Collector()

    def crewbus_redact(event):
        if isinstance(event, CallFinished):
            raise LookupError("no rules")

    bus.plugins.register(plugin(crewbus_redact=crewbus_redact), "redactor")
    with pytest.raises(crewbus.RedactionError), bus.call("gpt", callbacks=[mine]) as call:
        call.finish("secret", {"tokens": 1}, 0.5)
    assert mine.events == [CallStarted("gpt"), CallFinished()]


@pytest.mark.parametrize("kind", [CallStarted, CallFinished, crewbus.AttemptStarted])
def test_promise_07_a_redactor_changes_what_marks_say_not_what_they_are(bus, kind):
    def crewbus_redact(event):
        return Noted("something else") if isinstance(event, kind) else None

    bus.plugins.register(plugin(crewbus_redact=crewbus_redact), "redactor")
    with pytest.raises(crewbus.RedactionError, match="must stay"), bus.call("gpt") as call, call.attempt():
        pass


def test_promise_07_no_callbacks_and_several_at_once(bus):
    with bus.call("gpt", callbacks=None):
        pass
    with pytest.raises(crewbus.CallbackError, match=r"bus.callbacks\(\*several\)"), bus.callbacks([print]):
        raise AssertionError("it began")


def test_promise_07_a_call_that_has_not_started_says_so(bus):
    call = bus.call("gpt")
    for use in (lambda: call.chunk("x"), call.finish, lambda: call.fail("no"), lambda: call.attempt().start()):
        with pytest.raises(crewbus.CallError, match="has not started"):
            use()
