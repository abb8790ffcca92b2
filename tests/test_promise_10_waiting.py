"""Promise 10: no thread or task waits for itself, and cancelling and closing end what waits."""

from __future__ import annotations

import asyncio
import threading
import warnings

import pytest
from helpers import TIMEOUT, Noted, in_thread, quiet_bus

import crewbus
from crewbus import Chunk, ConsumptionError, GraceWarning, RunFailed, RunFinished, SlowConsumer, StreamOptions
from crewbus.dispatch import async_handlers

BOUND = 4


def until(condition):
    """Wait until ``condition()`` holds, which another thread brings about."""
    for _ in range(20_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never came")


def consume(bus, run_id, ready, react):
    """Consume a run in a thread, with a blocking buffer; ``react`` is called with each chunk."""

    def consumer():
        with bus.subscribe(run_id, slow="block", bound=BOUND) as stream:
            ready.wait(TIMEOUT)
            try:
                for frame in stream:
                    if type(frame.event) is Chunk:
                        react(frame.event.text)
            except SlowConsumer:
                return "slow"
            return "end"

    return in_thread(consumer)


def react_into(run, said):
    """What a consumer does once: emit into ``run`` more than its buffer holds, and note that in ``said``."""

    def react(text):
        if text == "start":
            for _ in range(10 * BOUND):
                run.chunk("said")
            said.append(run.id)

    return react


# Circles of waits


@pytest.mark.parametrize("runs", [1, 2])
def test_promise_10_consumers_that_emit_into_each_others_streams_do_not_deadlock(runs):
    """Each emits more than the other's buffer holds; both go on, with all frames or an error."""
    with quiet_bus() as bus:
        first, second = bus.run(id="r0"), bus.run(id="r1")
        first.start()
        second.start()
        streams = [first, second] if runs == 2 else [first, first]
        ready, said = threading.Barrier(3), list[str]()

        pairs = zip(streams, reversed(streams), strict=True)
        consumers = [consume(bus, run.id, ready, react_into(other, said)) for run, other in pairs]
        ready.wait(TIMEOUT)
        for run in dict.fromkeys(streams):
            in_thread(run.chunk, "start").result(TIMEOUT)
        until(lambda: len(said) >= 2)
        first.finish()
        second.finish()
        assert {consumer.result(TIMEOUT) for consumer in consumers} <= {"slow", "end"}


def test_promise_10_a_circle_of_three_consumers_does_not_deadlock():
    with quiet_bus() as bus:
        runs = [bus.run(id=f"r{i}") for i in range(3)]
        for run in runs:
            run.start()
        ready, said = threading.Barrier(4), list[str]()

        consumers = [consume(bus, f"r{i}", ready, react_into(runs[(i + 1) % 3], said)) for i in range(3)]
        ready.wait(TIMEOUT)
        for run in runs:
            run.chunk("start")
        until(lambda: len(said) == 3)
        for run in runs:
            run.finish()
        assert {consumer.result(TIMEOUT) for consumer in consumers} <= {"slow", "end"}


def test_promise_10_a_relay_waits_for_the_slow_consumer_behind_it():
    """It consumes one blocking stream and emits into another: no circle, so no stream fails."""

    def produce():
        for i in range(200):
            crewbus.chunk(f"{i} ")

    def relay(bus):
        run = crewbus.current_run()
        with (
            crewbus.Bus(entry_points=False) as inner,
            inner.stream(produce, options=StreamOptions(bound=BOUND)) as stream,
        ):
            for frame in stream:
                if type(frame.event) is Chunk:
                    run.chunk(frame.event.text)

    with quiet_bus() as bus, bus.stream(relay, bus, options=StreamOptions(bound=BOUND)) as stream:
        got = []
        for frame in stream:
            if type(frame.event) is Chunk:
                got.append(frame.event.text)
                threading.Event().wait(0)
    assert got == [f"{i} " for i in range(200)]


def test_promise_10_a_consumer_that_asks_for_the_result_of_its_emitter_does_not_deadlock():
    """The work emits into a stream whose consumer waits for the work: it goes on."""
    with quiet_bus() as bus, bus.run(id="watched") as run:
        watcher = bus.subscribe("watched", slow="block", bound=BOUND)
        emitted = threading.Event()

        def work():
            for _ in range(BOUND - 1):
                run.chunk("x")
            emitted.set()
            for _ in range(BOUND):
                run.chunk("x")
            return "done"

        with bus.stream(work) as stream:
            assert emitted.wait(TIMEOUT)
            assert stream.result(TIMEOUT) == "done"
        watcher.close()


def test_promise_10_a_consumer_that_flushes_does_not_wait_for_a_handler_that_waits_for_it():
    with quiet_bus() as bus, bus.run(id="watched") as run:
        watcher = bus.subscribe("watched", slow="block", bound=BOUND)
        bus.on(Noted, lambda _: [run.chunk("x") for _ in range(3 * BOUND)], background=True)
        bus.emit(Noted())
        bus.flush(TIMEOUT)
        watcher.close()


def test_promise_10_work_that_asks_for_its_own_result_is_refused():
    streams = []

    def work():
        with pytest.raises(ConsumptionError, match="its own result"):
            streams[0].result()
        return "done"

    with quiet_bus() as bus:
        streams.append(bus.stream(work))
        assert streams[0].result(TIMEOUT) == "done"


# Draining


def test_promise_10_a_task_that_drains_does_not_wait_for_itself_to_consume():
    async def main(bus):
        with bus.run() as run:
            async with bus.subscribe(run.id, slow="block", bound=2):
                bus.chunk("a")
                bus.chunk("b")
                await bus.drain()
                await asyncio.wait_for(bus.drain(), TIMEOUT)  # on some versions in a task of its own
                await bus.achunk("c")

    with quiet_bus() as bus:
        asyncio.run(asyncio.wait_for(main(bus), TIMEOUT))


def test_promise_10_tasks_that_drain_for_each_other_do_not_deadlock():
    async def main(bus):
        runs = [bus.run(id=f"r{i}") for i in range(2)]
        for run in runs:
            run.start()

        async def consumer(i):
            async with bus.subscribe(f"r{i}", slow="block", bound=BOUND) as stream:
                async for frame in stream:
                    if frame.event == Chunk("start"):
                        for _ in range(10 * BOUND):
                            await runs[1 - i].achunk("said")
                        return

        tasks = [asyncio.create_task(consumer(i)) for i in range(2)]
        await asyncio.sleep(0)
        for run in runs:
            run.chunk("start")
        await asyncio.gather(*tasks)
        for run in runs:
            run.finish()

    with quiet_bus() as bus:
        asyncio.run(asyncio.wait_for(main(bus), TIMEOUT))


@pytest.mark.parametrize("where", ["chunk", "drain", "thread"])
def test_promise_10_cancelling_a_run_ends_the_waits_in_it(where):
    async def agent(bus):
        for _ in range(100):
            if where == "chunk":
                await bus.achunk("x")
            else:
                bus.chunk("x")
                await bus.drain()

    def in_own_thread(bus):
        for _ in range(100):
            bus.chunk("x")

    async def main(bus):
        work = in_own_thread if where == "thread" else agent
        async with bus.stream(work, bus, options=StreamOptions(bound=2)) as stream:
            while stream.source.waiters is None:
                await asyncio.sleep(0)
            stream.run.cancel("the user pressed stop")
            while not stream.run.ended:
                await asyncio.sleep(0)
            assert stream.run.state == "cancelled"

    with quiet_bus() as bus:
        asyncio.run(asyncio.wait_for(main(bus), TIMEOUT))


def test_promise_10_cancelling_an_outer_run_frees_the_emitters_of_a_nested_one():
    with quiet_bus(unscoped="ignore") as bus, bus.run() as outer:
        with bus.run(id="inner") as inner:
            watcher = bus.subscribe("inner", slow="block", bound=2)
            blocked = in_thread(lambda: [inner.chunk("x") for _ in range(2)])
            until(lambda: watcher.source.waiters)
            outer.cancel()
            blocked.result(TIMEOUT)
            watcher.close()


def test_promise_10_cancelling_frees_an_emitter_that_waits_for_a_background_handler(monkeypatch):
    from crewbus.dispatch import background

    monkeypatch.setattr(background, "BOUND", 2)
    gate, filled = threading.Event(), threading.Event()
    with quiet_bus() as bus:
        bus.on(Noted, lambda _: gate.wait(TIMEOUT), background=True)
        with bus.run() as run:

            def emit():
                for i in range(20):
                    if i == 2:
                        filled.set()
                    run.emit(Noted())

            blocked = in_thread(emit)
            assert filled.wait(TIMEOUT)
            run.cancel()
            with pytest.raises(crewbus.Cancelled):
                blocked.result(TIMEOUT)
        gate.set()


def test_promise_10_a_closing_bus_does_not_wait_for_work_that_waits_for_a_consumer():
    bus = crewbus.Bus(entry_points=False)
    with bus.run(id="watched") as run:
        watcher = bus.subscribe("watched", slow="block", bound=2)
        done = bus.submit(lambda: [run.chunk("x") for _ in range(2)])
        until(lambda: watcher.source.waiters)
        closing = in_thread(bus.close)
        closing.result(TIMEOUT)
        assert done.done()


# Who counts towards twice the bound


def test_promise_10_emitters_that_can_wait_fail_no_stream():
    """More threads than the bound append a frame each, and wait."""
    emitters = 4 * BOUND

    def work(bus):
        with crewbus.ThreadPoolExecutor(emitters) as pool:
            list(pool.map(lambda _: [bus.chunk("x") for _ in range(3)], range(emitters)))

    with quiet_bus() as bus, bus.stream(work, bus, options=StreamOptions(bound=BOUND)) as stream:
        until(lambda: stream.source.waiting_emitters > 2 * BOUND or stream.source.failure)
        assert sum(type(frame.event) is Chunk for frame in stream) == 3 * emitters


def test_promise_10_a_thread_with_a_dead_consumers_ident_waits(monkeypatch):
    """Threads are told apart by objects, since the system gives the same ident again."""
    monkeypatch.setattr(threading, "get_ident", lambda: 1)
    with quiet_bus() as bus:
        stream = in_thread(lambda: bus.subscribe("r", slow="block", bound=BOUND)).result(TIMEOUT)

        def work():
            with bus.run(id="r"):
                for _ in range(10 * BOUND):
                    bus.chunk("x")

        working = in_thread(work)
        assert len(list(stream)) == 10 * BOUND + 1
        working.result(TIMEOUT)


# Consumers


def test_promise_10_a_second_thread_on_a_stream_is_refused():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id)
        first = in_thread(next, stream)
        until(lambda: stream.source.wake)
        with pytest.raises(ConsumptionError):
            in_thread(next, stream).result(TIMEOUT)
        run.chunk("x")
        assert first.result(TIMEOUT).event == Chunk("x")
        assert in_thread(lambda: (run.chunk("y"), next(stream))[1]).result(TIMEOUT).event == Chunk("y")


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_promise_10_two_that_ask_for_one_result_both_get_it(how):
    gate = threading.Event()

    def work():
        for _ in range(10 * BOUND):
            crewbus.chunk("x")
        gate.wait(TIMEOUT)
        return 7

    async def main(stream):
        asking = [asyncio.create_task(stream.aresult()) for _ in range(2)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*asking)

    with quiet_bus() as bus:
        stream = bus.stream(work, options=StreamOptions(bound=BOUND))
        if how == "tasks":
            assert asyncio.run(main(stream)) == [7, 7]
        else:
            asking = [in_thread(stream.result, TIMEOUT)]
            until(lambda: stream.source.absorb)
            asking.append(in_thread(stream.result, TIMEOUT))
            gate.set()
            assert [one.result(TIMEOUT) for one in asking] == [7, 7]
        assert stream.text() == "x" * 10 * BOUND


def test_promise_10_a_cancelled_request_for_the_result_leaves_the_other():
    gate = threading.Event()

    def work():
        gate.wait(TIMEOUT)
        for _ in range(10 * BOUND):
            crewbus.chunk("x")
        return 7

    async def main(bus):
        stream = bus.stream(work, options=StreamOptions(bound=BOUND))
        first, second = asyncio.create_task(stream.aresult()), asyncio.create_task(stream.aresult())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        gate.set()
        return await second

    with quiet_bus() as bus:
        assert asyncio.run(asyncio.wait_for(main(bus), TIMEOUT)) == 7


def test_promise_10_iteration_may_continue_after_a_result_that_came_too_late():
    gate = threading.Event()

    def work():
        gate.wait(TIMEOUT)
        crewbus.chunk("late")

    with quiet_bus() as bus, bus.stream(work) as stream:
        with pytest.raises(crewbus.ResultTimeoutError):
            stream.result(0)
        gate.set()
        assert stream.result(TIMEOUT) is None
        assert stream.text() == "late"


def test_promise_10_a_fast_producer_leaves_the_consumers_loop_to_other_tasks():
    """The consumer never has to wait for a frame, and a little more than its turn goes by with each."""
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main(bus):
        with bus.run() as run:
            async with bus.subscribe(run.id, bound=10_000) as stream:
                for _ in range(200):
                    run.chunk("x")
                task = asyncio.create_task(other())
                for _ in range(200):
                    await anext(stream)
                    threading.Event().wait(0.001)
                task.cancel()

    with quiet_bus() as bus:
        asyncio.run(main(bus))
    assert turns > 3


def test_promise_10_drain_lets_the_consumer_have_each_frame():
    order = []

    async def agent(bus):
        for _ in range(5):
            bus.chunk("x")
            order.append("emitted")
            await bus.drain()

    async def main(bus):
        async with bus.stream(agent, bus) as stream:
            async for _ in stream:
                order.append("shown")

    with quiet_bus() as bus:
        asyncio.run(main(bus))
    assert order[:4] == ["emitted", "shown", "emitted", "shown"]


@pytest.mark.parametrize("emitter", ["bus", "run", "call", "module"])
def test_promise_10_an_async_agent_that_awaits_its_emissions_loses_nothing(emitter):
    async def agent(bus):
        with bus.call("model") as call:
            emit = {"bus": bus, "run": crewbus.current_run(), "call": call, "module": crewbus}[emitter].achunk
            for i in range(100):
                envelope = await emit(f"{i} ")
                assert envelope.event == Chunk(f"{i} ")

    async def main(bus):
        async with bus.stream(agent, bus, options=StreamOptions(bound=BOUND)) as stream:
            return "".join([frame.event.text async for frame in stream if type(frame.event) is Chunk])

    with quiet_bus() as bus:
        assert asyncio.run(main(bus)) == "".join(f"{i} " for i in range(100))


def test_promise_10_a_stream_that_failed_names_the_awaitable_emissions():
    async def agent(bus):
        for _ in range(100):
            bus.chunk("x")

    async def main(bus):
        async with bus.stream(agent, bus, options=StreamOptions(bound=BOUND)) as stream:
            with pytest.raises(SlowConsumer, match=r"await bus\.achunk"):
                async for _ in stream:
                    pass

    with quiet_bus() as bus:
        asyncio.run(main(bus))


# Async handlers


def test_promise_10_async_handlers_are_bounded_and_awaited_by_aemit(monkeypatch):
    monkeypatch.setattr(async_handlers, "BOUND", BOUND)
    pending = most = 0

    async def handler(envelope):
        nonlocal pending, most
        pending += 1
        most = max(most, pending)
        await asyncio.sleep(0)
        pending -= 1

    async def main(bus):
        bus.on(Noted, handler)
        for _ in range(50):
            await bus.aemit(Noted())
        await bus.aflush(TIMEOUT)

    with quiet_bus() as bus:
        asyncio.run(asyncio.wait_for(main(bus), TIMEOUT))
    assert 1 <= most <= BOUND


def test_promise_10_what_a_loop_emits_beyond_twice_the_bound_of_an_async_handler_is_reported(monkeypatch, caplog):
    monkeypatch.setattr(async_handlers, "BOUND", BOUND)
    handled = []

    async def handler(envelope):
        handled.append(envelope)

    async def main(bus):
        bus.on(Noted, handler)
        for _ in range(50):
            bus.emit(Noted())
        await bus.aflush(TIMEOUT)

    with quiet_bus() as bus:
        asyncio.run(main(bus))
    assert len(handled) == 2 * BOUND
    assert f"{50 - 2 * BOUND} events were discarded" in caplog.text


def test_promise_10_a_thread_waits_for_an_async_handler(monkeypatch):
    monkeypatch.setattr(async_handlers, "BOUND", BOUND)
    handled = []

    async def handler(envelope):
        await asyncio.sleep(0)
        handled.append(envelope)

    with quiet_bus() as bus:
        bus.on(Noted, handler)
        for _ in range(20 * BOUND):
            bus.emit(Noted())
        bus.flush(TIMEOUT)
    assert len(handled) == 20 * BOUND


# Closing


@pytest.mark.parametrize("how", ["stream", "task", "nested", "submitted", "executor"])
def test_promise_10_work_that_closes_its_bus_does_not_wait_for_itself(how):
    """A timeout longer than the test's: it would be waited for in full."""
    bus = crewbus.Bus(entry_points=False)

    def close():
        bus.close(10 * TIMEOUT)

    async def aclose():
        await bus.aclose(10 * TIMEOUT)

    async def in_executor():
        await asyncio.to_thread(close)

    def nested():
        with bus.stream(close) as stream:
            list(stream)

    async def main(work):
        async with bus.stream(work) as stream:
            return [frame async for frame in stream]

    def run():
        if how == "submitted":
            bus.submit(close).result(TIMEOUT)
        elif how in ("task", "executor"):
            asyncio.run(main(aclose if how == "task" else in_executor))
        else:
            with bus.stream(nested if how == "nested" else close) as stream:
                list(stream)

    in_thread(run).exception(TIMEOUT)
    assert bus.closed


def test_promise_10_work_given_up_after_grace_is_not_waited_for_again():
    gate = threading.Event()
    bus = crewbus.Bus(entry_points=False)
    stream = bus.stream(gate.wait, TIMEOUT, options=StreamOptions(grace=0))
    with pytest.warns(GraceWarning, match="still runs"), stream:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # closing would name what it waited for
        bus.close(0)
    gate.set()


def test_promise_10_aclose_does_not_block_the_loop_while_a_handler_is_late():
    gate = threading.Event()

    async def late(envelope):
        gate.wait(TIMEOUT)

    async def main(bus):
        turns, closing = 0, asyncio.create_task(bus.aclose(0.05))
        while not bus.closed:  # until it stops the thread of the handler
            await asyncio.sleep(0)
        while not closing.done():
            turns += 1
            await asyncio.sleep(0)
        with pytest.raises(crewbus.FlushTimeoutError):
            await closing
        gate.set()
        return turns

    bus = crewbus.Bus(entry_points=False)
    bus.on(Noted, late)
    bus.emit(Noted())
    with pytest.warns(GraceWarning):
        turns = asyncio.run(main(bus))
    assert bus.closed
    assert turns > 10


# Runs that have ended


@pytest.mark.parametrize("ended", ["finished", "failed", "nested"])
def test_promise_10_a_recorded_run_that_has_ended_answers_a_watcher_at_once(ended):
    with quiet_bus() as bus:
        bus.enable_recording()
        try:
            with bus.run(id="root"), bus.run(id="nested"):
                if ended == "failed":
                    raise KeyError("no such tool")
        except KeyError:
            pass
        frames = list(bus.subscribe("nested" if ended == "nested" else "root", timeout=None))
        assert [type(frame.event) for frame in frames] == [RunFailed if ended == "failed" else RunFinished]
