"""Streams: what they yield, how they are consumed, and that leaving one leaves nothing behind."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import queue
import sys
import threading
import weakref

import pytest
from helpers import TIMEOUT, Noted, crewbus_threads, in_thread, quiet_bus
from lifecycle_helpers import until

import crewbus
from crewbus import (
    Chunk,
    ConsumptionError,
    GraceWarning,
    Retracted,
    RunCancelled,
    RunCancelledError,
    RunFailed,
    RunFinished,
    RunNotFoundError,
    StreamOptions,
    TargetError,
)
from crewbus.scopes import Deferring
from crewbus.streams import absence


def agent(*words):
    for word in words:
        crewbus.chunk(word)
    return len(words)


async def async_agent(*words):
    for word in words:
        crewbus.chunk(word)
        await asyncio.sleep(0)
    return len(words)


def failing(*words):
    agent(*words)
    raise LookupError("no such topic")


@pytest.fixture
def bus():
    """A bus that must be left as clean as it was made."""
    with quiet_bus() as bus:
        yield bus
        assert bus.runs == []
        assert not bus._live.awaited()
    assert not bus._work._streamed
    assert crewbus_threads() == []


def kinds(frames):
    return [type(frame.event) for frame in frames]


# What a stream yields


@pytest.mark.parametrize("function", [agent, async_agent])
def test_frames_result_and_text(bus, function):
    with bus.stream(function, "a", "b", "c") as stream:
        frames = list(stream)
        assert kinds(frames) == [Chunk, Chunk, Chunk, RunFinished]
        assert {frame.run_id for frame in frames} == {stream.run_id}
        assert stream.text() == "abc"
        assert stream.result() == 3
        assert list(stream) == []


@pytest.mark.parametrize("function", [agent, async_agent])
def test_frames_result_and_text_on_a_loop(bus, function):
    async def main():
        async with bus.stream(function, "a", "b", "c") as stream:
            frames = [frame async for frame in stream]
            assert kinds(frames) == [Chunk, Chunk, Chunk, RunFinished]
            assert stream.text() == "abc"
            assert await stream.aresult() == 3 == stream.result()

    asyncio.run(main())


def test_keyword_arguments_and_options_reach_their_owners(bus):
    def greet(name, *, greeting):
        run = crewbus.current_run()
        return f"{greeting} {name}", run.id, run.name, dict(run.tags)

    options = StreamOptions(id="greeting", name="greeter", tags={"tenant": "acme"})
    with bus.stream(greet, "you", greeting="hello", options=options) as stream:
        assert stream.result() == ("hello you", "greeting", "greeter", {"tenant": "acme"})
        assert stream.run_id == "greeting"
        assert stream.run.tags == {"tenant": "acme"}


def test_a_coroutine_from_a_plain_function_is_run_to_its_end(bus):
    with bus.stream(lambda: async_agent("a", "b")) as stream:
        assert (stream.result(), stream.text()) == (2, "ab")


def test_other_events_are_no_frames(bus):
    def emits():
        crewbus.emit(Noted("not a frame"))
        crewbus.chunk("a")

    with bus.stream(emits) as stream:
        assert kinds(stream) == [Chunk, RunFinished]


def test_reasoning_and_tool_calls_are_frames_but_not_text(bus):
    def thinks():
        crewbus.chunk("hm ", "reasoning")
        crewbus.chunk('{"q":', "tool_call")
        crewbus.chunk("answer")

    with bus.stream(thinks) as stream:
        assert [frame.event.kind for frame in stream if type(frame.event) is Chunk] == [
            "reasoning",
            "tool_call",
            "text",
        ]
        assert stream.text() == "answer"


def test_retracted_text_is_not_in_the_text(bus):
    def retries():
        run = crewbus.current_run()
        crewbus.chunk("kept ")
        since = crewbus.chunk("wrong ").seq
        with run.bus.run("inner"):
            crewbus.chunk("wrong too ")
        crewbus.emit(Retracted(since, "the connection broke"))
        crewbus.chunk("right")

    with bus.stream(retries) as stream:
        assert stream.text() == "kept right"
    with bus.stream(retries) as stream:
        assert kinds(stream) == [Chunk, Chunk, Chunk, Retracted, Chunk, RunFinished]


def test_a_second_loop_continues_where_the_first_stopped(bus):
    with bus.stream(agent, "a", "b", "c") as stream:
        for frame in stream:
            assert frame.event.text == "a"
            break
        assert [frame.event.text for frame in stream if type(frame.event) is Chunk] == ["b", "c"]
        assert stream.text() == "abc"


# Failing


def test_failure_ends_the_iteration_and_is_raised_when_leaving(bus):
    with pytest.raises(LookupError, match="no such topic"), bus.stream(failing, "a") as stream:
        frames = list(stream)
        assert frames[-1].event == RunFailed("builtins.LookupError", "no such topic")


def test_a_failure_is_raised_by_result_or_at_the_end_of_the_with_block(bus):
    with bus.stream(failing, "a") as stream:
        with pytest.raises(LookupError):
            stream.result()
        assert kinds(stream) == []


def test_failure_does_not_hide_the_consumers_own(bus):
    with pytest.raises(KeyError, match="mine"), bus.stream(failing) as stream:
        list(stream)
        raise KeyError("mine")


def test_failure_on_a_loop(bus):
    async def main():
        async with bus.stream(failing, "a") as stream:
            async for _ in stream:
                pass

    with pytest.raises(LookupError):
        asyncio.run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_an_interrupt_of_the_work_cancels_its_run(bus, error):
    def leaves():
        raise error

    with bus.stream(leaves) as stream:
        assert kinds(stream) == [RunCancelled]
        with pytest.raises(RunCancelledError, match=error.__name__):
            stream.result()


def test_what_cannot_be_streamed_is_rejected(bus):
    def generates():
        yield "a"

    with pytest.raises(TargetError, match="generator function"):
        bus.stream(generates)
    with pytest.raises(TargetError, match="can't be called"):
        bus.stream("agent")


def test_an_id_in_use_is_an_error_when_the_stream_is_entered(bus):
    with bus.run(id="taken"):
        stream = bus.stream(agent, options=StreamOptions(id="taken"))
        with pytest.raises(crewbus.RunIdInUseError, match="taken"):
            stream.__enter__()
        stream.close()


# How a stream may be consumed


def test_for_and_async_for_exclude_each_other(bus):
    with bus.stream(agent, "a") as stream:
        next(iter(stream))

        async def join():
            async for _ in stream:
                pass

        with pytest.raises(ConsumptionError, match="consumed with 'for'"):
            asyncio.run(join())
        list(stream)

    async def main():
        async with bus.stream(async_agent, "a") as stream:
            await anext(aiter(stream))
            with pytest.raises(ConsumptionError, match="consumed with 'async for'"):
                iter(stream)

    asyncio.run(main())


def test_nothing_blocks_a_running_loop(bus):
    async def main():
        stream = bus.stream(async_agent, "a")
        for blocking in (stream.__enter__, stream.__iter__, stream.result, stream.text):
            with pytest.raises(ConsumptionError, match="block the event loop"):
                blocking()
        async with stream:
            with pytest.raises(ConsumptionError, match="aclose"):
                stream.close()
            assert await stream.aresult() == 1

    asyncio.run(main())


def test_async_for_outside_a_loop_says_so(bus):
    stream = bus.stream(agent)
    with pytest.raises(ConsumptionError, match="running asyncio event loop"):
        stream.__aiter__()


def test_a_second_consumer_of_one_stream_is_an_error(bus):
    """Both would wait, and only one be woken."""
    with bus.run() as run:
        stream = bus.subscribe(run.id)
        waiting = in_thread(next, iter(stream))
        while stream.source.wake is None:
            threading.Event().wait(0)
        with pytest.raises(ConsumptionError, match="one consumer"):
            next(stream)
        run.chunk("for the first")
        assert waiting.result(TIMEOUT).event.text == "for the first"

    async def main():
        with bus.run() as run:
            stream = bus.subscribe(run.id)
            first = asyncio.create_task(anext(aiter(stream)))
            await asyncio.sleep(0)
            with pytest.raises(ConsumptionError, match="one consumer"):
                await anext(stream)
            run.chunk("for the first")
            assert (await first).event.text == "for the first"

            cancelled = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            run.chunk("for the next")
            assert (await anext(stream)).event.text == "for the next"

    asyncio.run(main())


# Results


def test_result_without_iterating_discards_the_frames_and_never_blocks_the_producer(bus):
    with bus.stream(agent, *"x" * 5000, options=StreamOptions(bound=2)) as stream:
        assert stream.result() == 5000
        assert list(stream) == []
        assert stream.text() == "x" * 5000


def test_result_on_a_loop_without_iterating(bus):
    async def main():
        for function in (agent, async_agent):
            async with bus.stream(function, *"x" * 100, options=StreamOptions(bound=64)) as stream:
                assert await stream.aresult() == 100

    asyncio.run(main())


def test_result_with_a_timeout(bus):
    go = threading.Event()
    with bus.stream(go.wait, TIMEOUT) as stream:
        with pytest.raises(crewbus.ResultTimeoutError, match="it continues"):
            stream.result(timeout=0.01)
        go.set()
        assert stream.result(timeout=TIMEOUT) is True


def test_result_from_another_thread_than_the_consumer(bus):
    with bus.stream(agent, *"abc") as stream:
        first = next(iter(stream))
        asked = in_thread(stream.result)
        rest = list(stream)
        assert asked.result(TIMEOUT) == 3
        assert len([first, *rest]) == 4


# Leaving


def until_cancelled(started, ended):
    started.set()
    try:
        while True:
            crewbus.chunk("x")
    finally:
        ended.set()


async def until_cancelled_async(started, ended):
    started.set()
    try:
        while True:
            crewbus.chunk("x")
            await asyncio.sleep(0)
    finally:
        ended.set()


@pytest.mark.parametrize("function", [until_cancelled, until_cancelled_async])
@pytest.mark.parametrize("how", ["break", "unread", "exception"])
def test_leaving_early_cancels(bus, function, how):
    started, ended = threading.Event(), threading.Event()
    seen = []
    bus.on(crewbus.RunEnded, seen.append)

    def consume():
        with bus.stream(function, started, ended, options=StreamOptions(bound=4)) as stream:
            if how == "break":
                for _ in stream:
                    break
            assert started.wait(TIMEOUT)
            if how == "exception":
                raise KeyError(how)

    if how == "exception":
        with pytest.raises(KeyError, match="exception"):
            consume()
    else:
        consume()
    assert ended.is_set()
    assert kinds(seen) == [RunCancelled]


@pytest.mark.parametrize("function", [until_cancelled, until_cancelled_async])
@pytest.mark.parametrize("how", ["break", "unread", "exception", "cancelled"])
def test_leaving_early_cancels_on_a_loop(bus, function, how):
    started, ended = threading.Event(), threading.Event()

    async def consume():
        async with bus.stream(function, started, ended, options=StreamOptions(bound=100)) as stream:
            if how == "unread":
                await asyncio.to_thread(started.wait, TIMEOUT)
                return
            async for _ in stream:
                if how == "break":
                    break
                if how == "exception":
                    raise KeyError(how)
                if how == "cancelled":
                    asyncio.current_task().cancel()

    async def main():
        task = asyncio.create_task(consume())
        (result,) = await asyncio.gather(task, return_exceptions=True)
        expected = {"exception": KeyError, "cancelled": asyncio.CancelledError}.get(how, type(None))
        assert type(result) is expected
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert ended.wait(TIMEOUT)


def test_a_task_cancelled_before_its_first_step_still_ends_its_run(bus):
    async def main():
        async with bus.stream(async_agent, "a"):
            pass
        assert bus.runs == []

    asyncio.run(main())


def test_closing_before_the_first_item_starts_nothing(bus):
    stream = bus.stream(agent, "a")
    stream.close()
    assert list(stream) == []
    with pytest.raises(crewbus.RunError, match="closed before its work began"):
        stream.result()

    async def main():
        stream = bus.stream(async_agent, "a")
        await stream.aclose()
        assert [frame async for frame in stream] == []

    asyncio.run(main())


def test_a_stream_never_entered_is_just_an_object(bus):
    stream = bus.stream(agent, "a")
    gone = weakref.ref(stream)
    del stream
    gc.collect()
    assert gone() is None
    bus._live._watchers.clear()


def test_a_stream_dropped_without_with_cancels_its_work(bus):
    started, ended = threading.Event(), threading.Event()
    stream = bus.stream(until_cancelled, started, ended, options=StreamOptions(bound=4))
    next(iter(stream))
    del stream
    gc.collect()
    assert ended.wait(TIMEOUT)
    bus.close()


def test_work_that_ignores_its_cancellation_is_named_and_silenced(bus):
    go, emitted = threading.Event(), []
    seen = []
    bus.on(Noted, seen.append)

    def stubborn():
        crewbus.chunk("a")
        assert go.wait(TIMEOUT)
        for _ in range(3):
            try:
                emitted.append(crewbus.emit(Noted("too late")))
            except crewbus.Cancelled:
                emitted.append("cancelled")

    with (
        pytest.warns(GraceWarning, match="stubborn of run .* still runs"),
        bus.stream(stubborn, options=StreamOptions(grace=0.01)) as stream,
    ):
        next(iter(stream))
    assert bus.runs == []
    go.set()
    assert stream._task.wait(TIMEOUT)
    assert emitted == ["cancelled"] * 3
    assert seen == []


def test_runs_nested_in_work_that_ignores_its_cancellation_are_ended_too(bus):
    go, emitted, ends = threading.Event(), [], []
    bus.on(crewbus.RunEnded, lambda envelope: ends.append((envelope.run_id, envelope.event)))

    def stubborn():
        crewbus.chunk("a")
        with bus.run("nested", id="nested"):
            assert go.wait(TIMEOUT)
            for _ in range(2):
                try:
                    emitted.append(crewbus.emit(Noted("too late")))
                except crewbus.Cancelled:
                    emitted.append("cancelled")

    stream = bus.stream(stubborn, options=StreamOptions(id="outer", grace=0.01))
    assert next(iter(stream)).event.text == "a"
    until(lambda: len(bus.runs) == 2)
    with pytest.warns(GraceWarning, match="stubborn of run outer still runs"):
        stream.close()
    assert bus.runs == []
    left = crewbus.RunCancelled("its consumer left the stream")
    assert ends == [("nested", left), ("outer", left)]
    go.set()
    assert stream._task.wait(TIMEOUT)
    assert emitted == ["cancelled"] * 2


def test_cancelled_once_in_each_thread_so_that_cleaning_up_may_emit(bus):
    started = threading.Event()
    noted = []
    bus.on(Noted, lambda envelope: noted.append((envelope.event.text, envelope.run_id)))

    def tidy():
        started.set()
        try:
            while True:
                crewbus.chunk("x")
        finally:
            crewbus.emit(Noted("closed the connection"))

    with bus.stream(tidy, options=StreamOptions(bound=4)) as stream:
        assert started.wait(TIMEOUT)
    assert noted == [("closed the connection", stream.run_id)]


def test_cancellation_reaches_nested_runs(bus):
    with bus.run() as root, bus.run() as nested:
        root.cancel("enough")
        with pytest.raises(crewbus.Cancelled, match="enough"):
            nested.chunk("x")


def test_a_run_cancelled_before_it_starts_does_not_start(bus):
    stream = bus.stream(agent, "a")
    stream.run.cancel("it is not wanted")
    with pytest.raises(RunCancelledError, match="before it started: it is not wanted"):
        stream.__enter__()
    stream.close()
    assert stream.run.state == "cancelled"
    with bus.run() as other:  # and no other run is touched
        assert other.chunk("x") is not None


# Watching


def test_watching_before_the_start_misses_nothing(bus):
    stream = bus.subscribe("later")
    with bus.run(id="later"):
        bus.chunk("a")
        bus.chunk("b")
    assert kinds(stream) == [Chunk, Chunk, RunFinished]


def test_waiting_for_the_start_in_a_thread_and_in_a_task(bus):
    async def follow():
        async with bus.subscribe("later") as stream:
            waiting.set()
            return [frame.event.text async for frame in stream if type(frame.event) is Chunk]

    waiting = threading.Event()
    in_task = in_thread(asyncio.run, follow())
    in_loop = in_thread(bus.subscribe("later").text)
    assert waiting.wait(TIMEOUT)
    with bus.run(id="later"):
        bus.chunk("a")
    assert in_task.result(TIMEOUT) == ["a"]
    assert in_loop.result(TIMEOUT) == "a"


def test_watching_a_run_that_never_starts_times_out(bus):
    with pytest.raises(RunNotFoundError, match="no run never started"):
        list(bus.subscribe("never", timeout=0.01))

    async def main():
        async with bus.subscribe("never", timeout=0.01) as stream:
            await anext(aiter(stream))

    with pytest.raises(RunNotFoundError, match="no run never started"):
        asyncio.run(main())
    gc.collect()
    bus._live._watchers.clear()


def test_leaving_a_watch_cancels_nothing(bus):
    with bus.run() as run:
        with bus.subscribe(run.id):
            bus.chunk("a")
        bus.chunk("b")
        assert run.sinks == ()
        assert run.tree.sinks == 0


def test_a_dropped_watcher_is_detached_at_the_next_chunk(bus):
    with bus.run() as run:
        bus.subscribe(run.id)
        gc.collect()
        bus.chunk("a")
        assert run.sinks == ()
        assert run.tree.sinks == 0


def test_many_watchers_attach_to_a_live_run(bus):
    with bus.run() as run:
        streams = []
        for i in range(10):
            streams.append(bus.subscribe(run.id))
            bus.chunk(str(i))
    assert [stream.text() for stream in streams] == ["0123456789"[i:] for i in range(10)]


def test_a_watcher_in_the_middle_of_a_nested_run(bus):
    with bus.run("outer") as outer:
        with bus.run("inner"):
            stream = bus.subscribe(outer.id)
            bus.chunk("a")
        bus.chunk("b")
    assert stream.text() == "ab"


# Where the work runs


def test_sync_work_has_a_thread_of_its_own_and_the_callers_context(bus):
    seen = []

    def work():
        seen.append((threading.current_thread(), crewbus.current_run().parent))

    with bus.run() as outer, bus.stream(work) as stream:
        stream.result()
    ((thread, parent),) = seen
    assert thread is not threading.current_thread()
    assert parent is outer


def test_async_work_is_a_task_on_the_consumers_loop(bus):
    async def work():
        return asyncio.get_running_loop(), crewbus.current_run()

    async def main():
        with bus.run() as outer:
            async with bus.stream(work) as stream:
                loop, run = await stream.aresult()
                assert loop is asyncio.get_running_loop()
                assert run.parent is outer
            assert crewbus.current_run() is outer

    asyncio.run(main())


def test_async_work_of_a_sync_consumer_has_a_loop_of_its_own(bus):
    async def work():
        return threading.current_thread()

    with bus.stream(work) as stream:
        assert stream.result() is not threading.current_thread()


def test_a_consumer_may_close_the_bus(bus):
    started, ended = threading.Event(), threading.Event()
    with bus.stream(until_cancelled, started, ended, options=StreamOptions(bound=4)) as stream:
        next(iter(stream))
        bus.close()
        assert ended.is_set()
    assert bus.closed


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_promise_10_a_stream_is_not_copied_and_continues(copied):
    with quiet_bus() as bus:
        with bus.stream(agent, "a", "b") as stream:
            with pytest.raises(ConsumptionError, match="one consumer"):
                copied(stream)
            gc.collect()
            assert (len(list(stream)), stream.text()) == (3, "ab")
        with bus.run() as run:
            watching = bus.subscribe(run.id)
            with pytest.raises(ConsumptionError, match="one consumer"):
                copied(watching)
            gc.collect()
            bus.chunk("x")
        assert [type(frame.event) for frame in watching] == [Chunk, RunFinished]


# Generators that a web framework drops


def endless(bus, ended):
    try:
        while True:
            bus.chunk("and so on ")
    finally:
        ended.set()


def body(bus, ended):
    """What a web framework iterates for its client."""
    with bus.stream(endless, bus, ended, options=StreamOptions(bound=4)) as stream:
        for frame in stream:
            yield frame.event.text


def dropped(generator):
    generator.pop()
    gc.collect()


def dropped_in_a_lock(generator):
    """The garbage collector may run while the thread holds a lock of another run."""
    with quiet_bus() as other, other.run() as run, Deferring(run.tree.lock), run.tree.lock:
        dropped(generator)


def dropped_by_its_work(bus, ended, generators):
    crewbus.chunk("first")
    generators.get(timeout=TIMEOUT).clear()
    gc.collect()
    endless(bus, ended)


@pytest.mark.parametrize("how", [dropped, dropped_in_a_lock])
@pytest.mark.parametrize("on_loop", [True, False])
def test_promise_11_a_plain_generator_that_is_dropped_ends_its_run_silently(how, on_loop, monkeypatch):
    ignored, ended = [], threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: ignored.append(unraisable.exc_value))

    async def main(bus):
        generator = [body(bus, ended)]
        await asyncio.to_thread(next, generator[0])
        if on_loop:
            how(generator)
        else:
            await asyncio.to_thread(how, generator)
        await asyncio.to_thread(ended.wait, TIMEOUT)
        await asyncio.to_thread(until, lambda: not bus.runs)

    with quiet_bus() as bus:
        asyncio.run(main(bus))
        assert ended.is_set()
        assert ignored == []


def test_promise_11_a_generator_that_its_own_work_drops_does_not_wait_for_itself(monkeypatch):
    ignored, ended, generators = [], threading.Event(), queue.SimpleQueue()
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: ignored.append(unraisable.exc_value))

    def body():
        options = StreamOptions(grace=TIMEOUT)
        with bus.stream(dropped_by_its_work, bus, ended, generators, options=options) as stream:
            yield from stream

    with quiet_bus() as bus:
        generator = [body()]
        next(generator[0])
        generators.put(generator)
        assert ended.wait(TIMEOUT / 2)
        until(lambda: not bus.runs)
    assert ignored == []


@pytest.mark.parametrize("bound", [4, 1024])
def test_promise_11_a_generator_in_a_reference_cycle_is_collected_while_its_work_emits(bound, monkeypatch):
    """As anyio leaves one: nothing else causes a collection."""
    monkeypatch.setattr(absence, "_LONG", 0.0)
    ended = threading.Event()
    options = StreamOptions(bound=bound)

    def body():
        cycle.append(cycle)
        with bus.stream(endless, bus, ended, options=options) as stream:
            for frame in stream:
                yield frame.event.text

    with quiet_bus() as bus:
        gc.collect()
        gc.disable()
        try:
            cycle = []
            cycle.append(body())
            next(cycle[0])
            cycle = None
            assert ended.wait(TIMEOUT)
            until(lambda: not bus.runs)
        finally:
            gc.enable()
