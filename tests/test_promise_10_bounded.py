"""Promise 10: a slow consumer costs at most its buffer; nothing is dropped silently; nothing deadlocks."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import suppress

import pytest
from helpers import TIMEOUT, in_thread, in_threads, quiet_bus

import crewbus
from crewbus import Chunk, Dropped, Retracted, RunFinished, SlowConsumer, StreamOptions

BOUND = 8


def chunks(count):
    for i in range(count):
        crewbus.chunk(f"{i} ")
    return count


def numbered(count):
    return "".join(f"{i} " for i in range(count))


def test_promise_10_block_holds_the_emitter_at_the_bound():
    """The producer gets no further than the bound until the consumer comes."""
    emitted = []
    full = threading.Event()

    def produce():
        for i in range(100):
            if i == BOUND - 1:
                full.set()
            emitted.append(crewbus.chunk(f"{i} ").seq)

    with quiet_bus() as bus, bus.stream(produce, options=StreamOptions(bound=BOUND)) as stream:
        assert full.wait(TIMEOUT)
        assert len(stream.source.frames) <= BOUND
        assert len(emitted) <= BOUND
        for _ in stream:
            assert len(stream.source.frames) + stream.source.held <= BOUND + 1  # and the terminal frame
        assert stream.text() == numbered(100)


def test_promise_10_block_with_many_emitters():
    """64 emitters overshoot by one each at the most, and all their chunks arrive."""
    with quiet_bus() as bus:

        def produce():
            run = crewbus.current_run()
            in_threads(64, lambda i: [run.chunk("x") for _ in range(50)])

        most = 0
        with bus.stream(produce, options=StreamOptions(bound=128)) as stream:
            for _ in stream:
                most = max(most, len(stream.source.frames) + stream.source.held)
            assert len(stream.text()) == 64 * 50
        assert most < 128 + 64


def test_promise_10_drop_counts_the_dropped_frames():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, bound=BOUND)
        chunks(20)
        assert len(stream.source.frames) == BOUND + 1
        run.finish()
        frames = list(stream)
        assert [type(frame.event) for frame in frames] == [Chunk] * BOUND + [Dropped, RunFinished]
        assert frames[BOUND].event.count == 20 - BOUND
        assert frames[BOUND].seq == 20


def test_promise_10_drop_takes_frames_again_when_there_is_room():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, bound=4)
        received, texts = 0, 0
        for _ in range(10):
            chunks(7)
            for frame in stream.source.take():
                if isinstance(frame.event, Dropped):
                    received += frame.event.count
                else:
                    texts += 1
        run.finish()
        for frame in stream:
            if isinstance(frame.event, Dropped):
                received += frame.event.count
            elif isinstance(frame.event, Chunk):
                texts += 1
        assert received + texts == 70
        assert received > 0


def test_promise_10_drop_never_drops_a_retraction():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, bound=4)
        chunks(10)
        bus.emit(Retracted(1))
        bus.chunk("right")
        run.finish()
        assert Retracted(1) in [frame.event for frame in stream]
        assert "0" not in stream.text()


def test_promise_10_retractions_alone_fail_a_dropping_stream_at_twice_its_bound():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, bound=4)
        for _ in range(100):
            bus.emit(Retracted(1))
        assert len(stream.source.frames) <= 16
        with pytest.raises(SlowConsumer, match="twice its bound"):
            list(stream)
        run.finish()


@pytest.mark.parametrize("bound", [1, 2, 3, 16])
@pytest.mark.parametrize("reads", [0, 1, 3])
def test_promise_10_a_dropping_stream_survives_any_number_of_failed_attempts(bound, reads):
    """What it has not shown is taken back where it waits; of what it never showed, nothing needs to be said."""
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, bound=bound)
        frames = []
        for number in range(200):
            with pytest.raises(LookupError), run.attempt(), bus.call("gpt"):
                for part in range(3):
                    bus.chunk(f"cut{number}.{part} ")
                raise LookupError
            if number % 50 == 0:
                frames += [next(stream) for _ in range(min(reads, len(stream.source.frames)))]
            assert len(stream.source.frames) <= max(2 * bound, 16)
        frames += list(iter(stream._batch))
        bus.chunk("text")
        run.finish()
        frames += list(stream)
        with suppress(crewbus.ConsumptionError):  # frames of several attempts were dropped together
            assert "cut" not in stream.text()
        shown = {frame.seq for frame in frames if isinstance(frame.event, Chunk) and frame.event.text != "text"}
        taken = [frame.event for frame in frames if isinstance(frame.event, Retracted)]
        for frame in frames:
            if frame.seq in shown:
                assert any(event.covers(frame.seq, frame.parent) for event in taken)


def test_promise_10_coalesce_merges_adjacent_text():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, slow="coalesce", bound=BOUND)
        for i in range(1000):
            bus.chunk(f"{i} ")
        bus.chunk("hm", "reasoning")
        bus.chunk("!", "reasoning")
        bus.chunk("end")
        run.finish()
        frames = list(stream)
        assert [frame.event for frame in frames] == [
            Chunk(numbered(1000)),
            Chunk("hm!", "reasoning"),
            Chunk("end"),
            RunFinished(),
        ]
        assert [frame.seq for frame in frames] == [1000, 1002, 1003, 1004]


def test_promise_10_coalesce_keeps_runs_sources_and_attempts_apart():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, slow="coalesce")
        bus.chunk("a")
        bus.chunk("b", source="writer")
        with bus.run():
            bus.chunk("c", source="writer")
        bus.emit(Retracted(99))
        bus.chunk("d", source="writer")
        run.finish()
        assert len(list(stream)) == 6


def test_promise_10_coalesce_is_bounded_when_nothing_can_be_merged():
    """Alternating kinds can't be put together: then the emitter waits."""
    emitted = []

    def produce():
        for i in range(50):
            emitted.append(crewbus.chunk("x", ("text", "reasoning")[i % 2]))

    with quiet_bus() as bus, bus.stream(produce, options=StreamOptions(bound=BOUND, slow="coalesce")) as stream:
        for _ in stream:
            assert len(stream.source.frames) + stream.source.held <= BOUND + 1
        assert len(emitted) == 50


def test_promise_10_coalesced_text_is_bounded_too():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, slow="coalesce", bound=16)
        for _ in range(20):
            bus.chunk("x" * 30_000)
        run.finish()
        frames = list(stream)
        assert max(len(frame.event.text) for frame in frames if type(frame.event) is Chunk) < 100_000
        assert sum(len(frame.event.text) for frame in frames if type(frame.event) is Chunk) == 600_000


def test_promise_10_fail_fails_the_consumer_not_the_run():
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, slow="fail", bound=BOUND)
        chunks(BOUND)
        assert run.sinks
        bus.chunk("too much")
        assert run.sinks == ()
        got = []
        with pytest.raises(SlowConsumer, match="slow='fail'"):
            for frame in stream:
                got.append(frame.event.text)
        assert "".join(got) == numbered(BOUND)


def test_promise_10_a_loops_own_thread_never_waits():
    """An async producer that never drains is not blocked; at twice the bound its stream fails with an error."""

    async def produce():
        return chunks(100)

    async def main(bus):
        async with bus.stream(produce, options=StreamOptions(bound=BOUND)) as stream:
            await asyncio.sleep(0)
            assert len(stream.source.frames) <= 2 * BOUND
            got = 0
            with pytest.raises(SlowConsumer, match="twice its bound"):
                async for _ in stream:
                    got += 1
            assert got == 2 * BOUND
            assert await stream.aresult() == 100

    with quiet_bus() as bus:
        asyncio.run(main(bus))


def test_promise_10_drain_is_where_an_async_producer_waits():
    most = 0

    async def produce(bus):
        for i in range(200):
            bus.chunk(f"{i} ")
            await bus.drain()

    async def main(bus):
        nonlocal most
        async with bus.stream(produce, bus, options=StreamOptions(bound=BOUND)) as stream:
            async for _ in stream:
                most = max(most, len(stream.source.frames) + stream.source.held)
            assert stream.text() == numbered(200)

    with quiet_bus() as bus:
        asyncio.run(main(bus))
    assert most <= BOUND + 1


def test_promise_10_drain_returns_when_the_consumer_leaves():
    async def produce(bus):
        while True:
            bus.chunk("x")
            await bus.drain()

    async def main(bus):
        async with bus.stream(produce, bus, options=StreamOptions(bound=BOUND)) as stream:
            async for _ in stream:
                break
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with quiet_bus() as bus:
        asyncio.run(main(bus))


def test_promise_10_the_consumers_own_thread_never_waits():
    """A consumer that emits into the run it watches would wait for itself."""
    with quiet_bus() as bus, bus.run() as run:
        stream = bus.subscribe(run.id, bound=4, slow="block")
        for _ in range(5):
            bus.chunk("x")  # this thread is about to consume: it is not held
        assert next(stream).event.text == "x"
        for _ in range(2):
            bus.chunk("y")
        run.finish()
        assert "".join(frame.event.text for frame in stream if type(frame.event) is Chunk) == "xxxxyy"


def test_promise_10_emitting_from_the_consumers_loop_body():
    def produce(gate):
        for i in range(20):
            crewbus.chunk(f"{i} ")
        assert gate.wait(TIMEOUT)

    gate = threading.Event()
    with quiet_bus() as bus, bus.stream(produce, gate, options=StreamOptions(bound=4)) as stream:
        seen = 0
        for frame in stream:
            seen += 1
            if type(frame.event) is Chunk and frame.event.text != "echo":
                stream.run.chunk("echo")
                if frame.event.text == "19 ":
                    gate.set()
        assert seen == 41


@pytest.mark.parametrize("leave", ["close", "exception", "garbage"])
def test_promise_10_blocked_emitters_are_freed_when_the_consumer_leaves(leave):
    """Eight emitters blocked by one consumer, which leaves: all are released."""
    blocked = threading.Barrier(9)
    outcomes = []

    def emitter(run):
        try:
            blocked.wait(TIMEOUT)
            while True:
                run.chunk("x")
        except crewbus.Cancelled:
            outcomes.append("cancelled")

    def produce():
        run = crewbus.current_run()
        threads = [threading.Thread(target=emitter, args=(run,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)

    with quiet_bus() as bus:
        if leave == "garbage":
            stream = bus.stream(produce, options=StreamOptions(bound=4))
            work = stream._task
            stream._begin()
            blocked.wait(TIMEOUT)
            del stream
            gc.collect()
            assert work.wait(TIMEOUT)
        elif leave == "exception":
            with pytest.raises(KeyError), bus.stream(produce, options=StreamOptions(bound=4)):
                blocked.wait(TIMEOUT)
                raise KeyError
        else:
            with bus.stream(produce, options=StreamOptions(bound=4)):
                blocked.wait(TIMEOUT)
        assert outcomes == ["cancelled"] * 8


def test_promise_10_an_emitter_blocked_at_the_end_of_its_run_is_freed():
    with quiet_bus(unscoped="ignore") as bus, bus.run() as run:
        stream = bus.subscribe(run.id, bound=2, slow="block")
        blocked = in_thread(lambda: [run.chunk("a"), run.chunk("b"), run.chunk("c")])
        while len(stream.source.frames) < 2:
            threading.Event().wait(0)
        run.finish()
        blocked.result(TIMEOUT)
        assert stream.text().startswith("ab")


def test_promise_10_two_streams_of_one_run_one_slow_one_quick():
    """The slow one drops and says so; the quick one gets everything."""
    with quiet_bus() as bus:
        with bus.stream(chunks, 1000, options=StreamOptions(id="run", bound=16)) as quick:
            slow = bus.subscribe("run", bound=4)
            assert len([frame for frame in quick if type(frame.event) is Chunk]) == 1000
        frames = list(slow)
        received = sum(frame.event.count for frame in frames if isinstance(frame.event, Dropped))
        assert received + sum(type(frame.event) is Chunk for frame in frames) <= 1000
        assert type(frames[-1].event) is RunFinished


def test_promise_10_handlers_do_not_wait_for_a_full_stream():
    """A blocked emitter has delivered its event to the handlers before it waits."""
    handled = threading.Semaphore(0)
    with quiet_bus() as bus, bus.run() as run:
        bus.on(Chunk, lambda _: handled.release())
        stream = bus.subscribe(run.id, bound=2, slow="block")
        emitting = in_thread(lambda: [run.chunk("x") for _ in range(3)])
        assert handled.acquire(timeout=TIMEOUT)
        assert handled.acquire(timeout=TIMEOUT)
        stream.close()
        emitting.result(TIMEOUT)
        assert handled.acquire(timeout=TIMEOUT)


def test_promise_10_producers_in_threads_wake_a_loop_once_per_batch():
    """What 8 threads emit while the loop is busy costs it one wake-up, not one for each chunk or stream."""

    async def main(bus):
        runs = [bus.run(id=f"run{i}") for i in range(8)]
        for run in runs:
            run.start()
        loop = asyncio.get_running_loop()
        wakes = 0
        original = loop.call_soon_threadsafe

        def counting(*args, **kwargs):
            nonlocal wakes
            wakes += 1
            return original(*args, **kwargs)

        async def follow(run):
            async with bus.subscribe(run.id, bound=100_000) as stream:
                return len([frame async for frame in stream])

        tasks = [asyncio.create_task(follow(run)) for run in runs]
        await asyncio.sleep(0)
        loop.call_soon_threadsafe = counting
        in_threads(8, lambda i: [runs[i].chunk("x") for _ in range(1000)])  # the loop stands still meanwhile
        assert wakes == 1
        for run in runs:
            run.finish()
        assert await asyncio.gather(*tasks) == [1001] * 8

    with quiet_bus() as bus:
        asyncio.run(main(bus))


@pytest.mark.parametrize(("bound", "slow"), [(0, "block"), (8, "wait")])
def test_promise_10_invalid_options_are_rejected(bound, slow):
    with quiet_bus() as bus, pytest.raises(crewbus.ConsumptionError):
        bus.subscribe("run", bound=bound, slow=slow)


@pytest.mark.parametrize("bound", [1, 2, 3])
def test_promise_10_the_smallest_buffers_do_not_deadlock(bound):
    """A consumer that comes for more releases what it had before it waits."""

    async def main(bus):
        async with bus.stream(chunks, 200, options=StreamOptions(bound=bound)) as stream:
            async for _ in stream:
                pass
            return stream.text()

    with quiet_bus() as bus:
        assert asyncio.run(asyncio.wait_for(main(bus), TIMEOUT)) == numbered(200)
        with bus.stream(chunks, 200, options=StreamOptions(bound=bound)) as stream:
            assert "".join(frame.event.text for frame in stream if type(frame.event) is Chunk) == numbered(200)
