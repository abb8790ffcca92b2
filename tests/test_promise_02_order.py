"""Promise 2: within a root run `seq` is gapless and increasing; each stream and each record has it in order."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading

import pytest
from helpers import TIMEOUT, Noted, in_thread, in_threads, quiet_bus

import crewbus
from crewbus import Chunk, hookimpl

THREADS = 64
TASKS = 1000
EACH = 50


def numbers(envelopes):
    return [envelope.seq for envelope in envelopes]


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_promise_02_threads(watched, recorded):
    """64 threads in one root run: every number once, with and without ordered sinks."""
    with quiet_bus() as bus, bus.run(record=recorded) as run:
        stream = bus.subscribe(run.id, bound=THREADS * EACH * 2) if watched else None
        results = in_threads(THREADS, lambda i: [run.chunk(f"{i}.{n}").seq for n in range(EACH)])
        run.finish()
        assert sorted(seq for seqs in results for seq in seqs) == list(range(1, THREADS * EACH + 1))
        assert all(seqs == sorted(seqs) for seqs in results)
        if stream is not None:
            assert numbers(stream) == list(range(1, THREADS * EACH + 2))
        if recorded:
            assert numbers(bus.record_of(run.id)) == list(range(THREADS * EACH + 2))


def test_promise_02_tasks():
    """1,000 tasks in runs nested in one root."""

    async def work(bus, i):
        with bus.run(f"nested{i}"):
            for _ in range(5):
                bus.chunk(f"{i} ")
                await asyncio.sleep(0)

    async def main(bus):
        with bus.run(record=True) as run:
            stream = bus.subscribe(run.id, bound=TASKS * 20)
            await asyncio.gather(*(work(bus, i) for i in range(TASKS)))
        return run, [frame async for frame in stream]

    with quiet_bus() as bus:
        run, frames = asyncio.run(main(bus))
        assert numbers(frames) == sorted(numbers(frames))
        assert len(frames) == TASKS * 5 + 1
        assert numbers(bus.record_of(run.id)) == list(range(TASKS * 7 + 2))


def sync_agent():
    for i in range(EACH):
        crewbus.chunk(str(i))


async def async_agent():
    for i in range(EACH):
        crewbus.chunk(str(i))
        await asyncio.sleep(0)


@pytest.mark.parametrize("agent", [sync_agent, async_agent])
@pytest.mark.parametrize("consumer", ["for", "async for"])
def test_promise_02_each_of_many_streams_has_its_numbers_in_order(agent, consumer):
    """Producers and consumers of either kind: 64 at once where one of them takes a thread, 1,000 where none does."""
    count = TASKS if (agent, consumer) == (async_agent, "async for") else THREADS

    async def follow(bus):
        async with bus.stream(agent) as stream:
            return [frame.seq async for frame in stream]

    async def follow_all(bus):
        return await asyncio.gather(*(follow(bus) for _ in range(count)))

    def read(bus):
        with bus.stream(agent) as stream:
            return numbers(stream)

    with quiet_bus() as bus:
        orders = in_threads(count, lambda _: read(bus)) if consumer == "for" else asyncio.run(follow_all(bus))
    assert orders == [list(range(1, EACH + 2))] * count


def test_promise_02_threads_in_nested_runs_share_the_numbers():
    with quiet_bus() as bus, bus.run(record=True) as root:

        def work(i):
            nested = bus.run(f"nested{i}")
            nested.start()
            assert nested.parent is None  # a bare thread has no context: its run is a root of its own
            nested.finish()
            return nested.id

        assert len(set(in_threads(8, work))) == 8
        root.finish()
        assert numbers(bus.record_of(root.id)) == [0, 1]


@pytest.fixture
def eager_switching():
    """Let threads take turns far more often than they would: more interleavings, and no starved consumer."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switching")
def test_promise_02_streams_that_come_and_go():
    """Streams attached and left while 7 threads emit: each sees an unbroken stretch."""
    with quiet_bus() as bus, bus.run() as run:
        stop = threading.Event()

        def emit(i):
            if i == 0:
                stretches = []
                for _ in range(50):
                    with bus.subscribe(run.id, bound=100_000) as stream:
                        stretches.append([next(stream).seq for _ in range(5)])
                stop.set()
                return stretches
            while not stop.is_set():
                run.chunk("x")
            return []

        stretches = in_threads(8, emit)[0]
        assert len(stretches) == 50
        for stretch in stretches:
            assert stretch == list(range(stretch[0], stretch[0] + 5))


@pytest.mark.usefixtures("eager_switching")
def test_promise_02_numbers_under_a_lock_follow_those_without():
    """Unlocked and locked emissions mix while streams come and go: every number is given once."""
    with quiet_bus() as bus, bus.run() as run:

        def emit(i):
            seqs = []
            for n in range(200):
                if i == 0 and n % 20 == 0:
                    bus.subscribe(run.id).close()
                seqs.append(run.emit(Noted()).seq)
                seqs.append(run.chunk("x").seq)
            return seqs

        seqs = [seq for result in in_threads(16, emit) for seq in result]
        assert sorted(seqs) == list(range(1, 16 * 400 + 1))


class Gate:
    """A plugin that holds an emission inside the lock until it is let go."""

    def __init__(self, stop_at):
        self.stop_at = stop_at
        self.reached = threading.Event()
        self.go = threading.Event()

    @hookimpl(tryfirst=True)
    def crewbus_stream_chunk(self, envelope):
        if isinstance(envelope.event, Chunk) and envelope.event.text == self.stop_at:
            self.reached.set()
            assert self.go.wait(TIMEOUT)


def test_promise_02_scripted_second_emitter_waits_for_the_first():
    """A has its number and is held before it reaches the stream; B, which comes later, must not overtake it."""
    gate = Gate("a")
    with quiet_bus(plugins=[gate]) as bus, bus.run() as run:
        stream = bus.subscribe(run.id)
        a = in_thread(run.chunk, "a")
        assert gate.reached.wait(TIMEOUT)
        b = in_thread(run.chunk, "b")
        gate.go.set()
        assert (a.result(TIMEOUT).seq, b.result(TIMEOUT).seq) == (1, 2)
        run.finish()
        assert stream.text() == "ab"


def test_promise_02_scripted_finish_waits_for_the_emission_under_way():
    """The run ends while a chunk has its number but not its place: the chunk is in, and before the end."""
    gate = Gate("a")
    with quiet_bus(plugins=[gate]) as bus, bus.run() as run:
        stream = bus.subscribe(run.id)
        a = in_thread(run.chunk, "a")
        assert gate.reached.wait(TIMEOUT)
        end = in_thread(run.finish)
        gate.go.set()
        assert a.result(TIMEOUT).seq == 1
        end.result(TIMEOUT)
        assert [type(frame.event) for frame in stream] == [Chunk, crewbus.RunFinished]


def test_promise_02_scripted_emission_that_meets_the_end_is_before_it_or_unscoped():
    """An emission and the end of its run wait for the lock together: whichever wins, nothing follows the end."""
    for _ in range(50):
        gate = Gate("a")
        with quiet_bus(plugins=[gate], unscoped="ignore") as bus, bus.run() as run:
            stream = bus.subscribe(run.id)
            a = in_thread(run.chunk, "a")
            assert gate.reached.wait(TIMEOUT)
            end, b = in_thread(run.finish), in_thread(run.chunk, "b")
            gate.go.set()
            end.result(TIMEOUT)
            late = b.result(TIMEOUT)
            frames = list(stream)
            assert type(frames[-1].event) is crewbus.RunFinished
            assert numbers(frames) == list(range(1, len(frames) + 1))
            assert len(frames) == (2 if late.run_id is None else 3)
            assert a.result(TIMEOUT).seq == 1


def test_promise_02_a_finaliser_that_emits_inside_the_lock_is_deferred():
    """`__del__` may run at any allocation, also while this thread holds the lock: it neither hangs nor overtakes."""

    class Emitting:
        def __init__(self, run):
            self.run = run
            self.me = self

        def __del__(self):
            self.run.chunk("finalised ")

    class Collecting:
        @hookimpl(tryfirst=True)
        def crewbus_stream_chunk(self, envelope):
            if envelope.event == Chunk("a "):
                gc.collect()

    with quiet_bus(plugins=[Collecting()]) as bus, bus.run() as run:
        stream = bus.subscribe(run.id)
        gc.disable()
        try:
            Emitting(run)
            bus.chunk("a ")
        finally:
            gc.enable()
        bus.chunk("b ")
        run.finish()
        frames = list(stream)
        assert [frame.event.text for frame in frames[:-1]] == ["a ", "finalised ", "b "]
        assert numbers(frames) == [1, 2, 3, 4]


def test_promise_02_a_signal_handler_that_emits_inside_the_lock_is_deferred():
    class Signalling:
        @hookimpl(tryfirst=True)
        def crewbus_stream_chunk(self, envelope):
            if envelope.event == Chunk("a "):
                signal.raise_signal(signal.SIGUSR1)

    with quiet_bus(plugins=[Signalling()]) as bus, bus.run() as run:
        before = signal.signal(signal.SIGUSR1, lambda *_: run.chunk("signalled "))
        try:
            stream = bus.subscribe(run.id)
            bus.chunk("a ")
            run.finish()
            assert stream.text() == "a signalled "
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_promise_02_a_hook_that_emits_inside_the_lock_is_deferred():
    """It must not, but if it does nothing hangs and the order holds."""

    class Emitting:
        @hookimpl
        def crewbus_stream_chunk(self, run, envelope):
            if envelope.event == Chunk("a "):
                run.chunk("from the hook ")

    with quiet_bus(plugins=[Emitting()]) as bus, bus.run(record=True) as run:
        stream = bus.subscribe(run.id)
        bus.chunk("a ")
        run.finish()
        assert stream.text() == "a from the hook "
        assert numbers(bus.record_of(run.id)) == [0, 1, 2, 3]


def test_promise_02_what_a_handler_emits_is_delivered_depth_first():
    with quiet_bus() as bus:
        seen = []

        @bus.on(Noted)
        def first(envelope):
            if envelope.event.text == "a":
                bus.emit(Noted("a.1"))
            seen.append(("first", envelope.event.text, envelope.seq))

        @bus.on(Noted)
        def second(envelope):
            seen.append(("second", envelope.event.text, envelope.seq))

        with bus.run():
            bus.emit(Noted("a"))
        assert seen == [("first", "a.1", 2), ("second", "a.1", 2), ("first", "a", 1), ("second", "a", 1)]


def test_promise_02_runs_outlived_by_nested_ones_keep_their_numbers():
    """A nested run that continues after its root has ended still numbers, records and streams."""
    with quiet_bus() as bus:
        with bus.run(record=True) as root:
            nested = bus.run("straggler")
            nested.start()
            stream = bus.subscribe(nested.id)
        assert not root.over
        nested.chunk("still here")
        nested.finish()
        assert root.over
        assert stream.text() == "still here"
        assert numbers(bus.record_of(root.id)) == [0, 1, 2, 3, 4]
