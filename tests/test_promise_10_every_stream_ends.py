"""Promise 10: nothing is dropped silently: a text with gaps raises, each stream ends with a frame or an error."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus
from lifecycle_helpers import until

import crewbus
from crewbus import Chunk, Retracted, RunFailed, RunFinished, StreamOptions
from crewbus.events import RunInterrupted, RunStarted


def kinds(frames):
    return [type(frame.event) for frame in frames]


def texts(frames):
    return [frame.event.text for frame in frames if isinstance(frame.event, Chunk)]


# Text


def test_the_text_of_a_stream_that_dropped_frames_raises():
    with quiet_bus() as bus:
        stream = bus.subscribe("r")
        with bus.run(id="r"):
            for _ in range(3000):
                bus.chunk("x")
        with pytest.raises(crewbus.ConsumptionError, match="1976 frames were dropped"):
            stream.text()
        assert kinds(stream) == []


def test_the_text_is_whole_if_all_that_was_dropped_was_retracted():
    with quiet_bus() as bus:
        stream = bus.subscribe("r", bound=4)
        with bus.run(id="r") as run:
            with pytest.raises(LookupError), run.attempt():
                for _ in range(100):
                    bus.chunk("lost")
                raise LookupError
            bus.chunk("kept")
        assert stream.text() == "kept"


@pytest.mark.parametrize("bound", [4, 1000])
def test_the_text_is_the_same_whatever_the_policy_when_a_recorded_step_fails(bound):
    with quiet_bus() as bus:
        bus.enable_recording()

        @crewbus.step
        def inner():
            return 1

        @crewbus.step
        def outer():
            bus.chunk("ke")
            bus.chunk("pt, ")
            inner()
            bus.chunk("lo")
            bus.chunk("st")
            raise OSError("down")

        policies = ("drop", "coalesce") if bound < 1000 else ("block", "drop", "fail", "coalesce")
        with bus.run(id="r"):
            streams = [bus.subscribe("r", slow=slow, bound=bound) for slow in policies]
            with pytest.raises(OSError, match="down"):
                outer()
            bus.chunk("end")
    for stream in streams:
        try:
            assert stream.text() == "kept, end"
        except crewbus.ConsumptionError:
            assert bound == 4
            assert stream.source.slow == "drop"


# A start that is rejected


class Rejecting:
    """Rejects the first start of a run."""

    def __init__(self):
        self.rejections = 1

    @crewbus.hookimpl
    def crewbus_redact(self, event):
        if isinstance(event, RunStarted) and self.rejections:
            self.rejections -= 1
            raise OSError("the secrets service is down")


def test_a_stream_that_waits_for_a_run_waits_on_if_its_start_is_rejected():
    with quiet_bus(plugins=[Rejecting()]) as bus:
        stream = bus.subscribe("job", timeout=TIMEOUT)
        with pytest.raises(crewbus.RedactionError):
            bus.run(id="job").start()
        assert bus.lifecycle.is_watching(stream.source)
        assert bus.runs == []
        with bus.run(id="job"):
            bus.chunk("hello")
        assert kinds(stream) == [Chunk, RunFinished]


def test_a_stream_subscribed_while_a_run_starts_gets_its_frames_from_the_first_on():
    streams = []

    class Subscribing:
        @crewbus.hookimpl
        def crewbus_run_start(self, bus, run):
            streams.append(bus.subscribe(run.id))

    with quiet_bus(plugins=[Rejecting(), Subscribing()]) as bus:
        with pytest.raises(crewbus.RedactionError):
            bus.run(id="job").start()
        with bus.run(id="job"):
            bus.chunk("hello")
        assert [kinds(stream) for stream in streams] == [[Chunk, RunFinished]] * 2


def test_a_run_that_has_started_when_an_interrupt_comes_ends_its_streams_with_a_terminal_frame():
    def interrupt(envelope):
        raise KeyboardInterrupt

    with quiet_bus() as bus:
        bus.on(RunStarted, interrupt)
        stream = bus.subscribe("job", timeout=TIMEOUT)
        with pytest.raises(KeyboardInterrupt):
            bus.run(id="job").start()
        assert kinds(stream) == [crewbus.RunCancelled]
        assert bus.runs == []


@pytest.mark.parametrize("recorded", [False, True])
def test_promise_02_what_a_plugin_emits_before_the_start_is_not_numbered_in_the_run(recorded):
    class Early:
        @crewbus.hookimpl
        def crewbus_run_start(self, run):
            run.chunk("too early")

    with quiet_bus(plugins=[Early()], unscoped="ignore") as bus:
        if recorded:
            bus.enable_recording()
        seen = []
        bus.on(object, lambda envelope: seen.append((envelope.run_id, envelope.seq, type(envelope.event))))
        with bus.run("newsroom", id="r", tags={"tenant": "acme"}):
            bus.chunk("x")
        assert [one for one in seen if one[0] == "r"] == [("r", 0, RunStarted), ("r", 1, Chunk), ("r", 2, RunFinished)]
        if recorded:
            assert (bus.records.info("r").name, bus.records.info("r").tags) == ("newsroom", {"tenant": "acme"})


# Closing


@pytest.mark.parametrize("slow", ["block", "drop", "coalesce", "fail"])
def test_closing_the_bus_ends_the_watcher_of_a_live_run_after_its_waiting_frames(slow):
    bus = crewbus.Bus(entry_points=False)
    run = bus.run(id="r")
    run.start()
    stream = bus.subscribe("r", slow=slow, bound=3)
    run.chunk("0 ")
    run.emit(Retracted(100))
    run.chunk("1 ")
    bus.close()
    frames = list(stream)
    assert kinds(frames) == [Chunk, Retracted, Chunk, RunInterrupted]
    assert frames[-1].seq == 3
    assert stream.text() == "0 1 "


def test_closing_the_bus_ends_the_watcher_of_a_run_that_has_not_started_with_an_error():
    bus = crewbus.Bus(entry_points=False)
    stream = bus.subscribe("later", timeout=None)
    waiting = in_thread(list, bus.subscribe("later too", timeout=None))
    bus.close()
    with pytest.raises(crewbus.BusClosedError, match="later had not started"):
        list(stream)
    with pytest.raises(crewbus.BusClosedError):
        waiting.result(TIMEOUT)


@pytest.mark.parametrize("followed", ["live", "record"])
def test_closing_the_bus_ends_watchers_and_followers_in_one_way(disk, followed):
    bus = crewbus.Bus(entry_points=False)
    bus.enable_recording(disk.open())
    run = bus.run(id="r")
    run.start()
    run.chunk("x")
    stream = bus.subscribe("r", after="start") if followed == "record" else bus.subscribe("r")
    run.chunk("y")
    first, frames, closed = threading.Event(), [], threading.Event()

    def consume():
        for frame in stream:
            frames.append(frame)
            first.set()
            if "y" in texts([frame]):
                closed.wait(TIMEOUT)

    consuming = in_thread(consume)
    assert first.wait(TIMEOUT)
    bus.close()
    closed.set()
    consuming.result(TIMEOUT)
    assert kinds(frames)[-1] is RunInterrupted
    assert texts(frames)[-1:] == ["y"] or followed == "record"
    assert stream.cursor is not None


def test_a_follower_that_reads_while_the_bus_is_closed_ends_without_an_error(disk):
    bus = crewbus.Bus(entry_points=False)
    bus.enable_recording(disk.open())
    run = bus.run(id="r")
    run.start()
    stream = bus.subscribe("r", after="start")
    info, closed, asked = bus.store.info, threading.Event(), threading.Event()

    def late_info(run_id):
        asked.set()
        assert closed.wait(TIMEOUT)
        return info(run_id)

    stream.source._store = type("Late", (), {"info": staticmethod(late_info)})()
    consuming = in_thread(list, stream)
    assert asked.wait(TIMEOUT)
    bus.close()
    closed.set()
    assert kinds(consuming.result(TIMEOUT)) == [RunInterrupted]


async def consume_later(stream):
    return [frame async for frame in stream]


def test_closing_the_bus_ends_an_async_follower():
    async def main():
        bus = crewbus.Bus(entry_points=False)
        bus.enable_recording()
        run = bus.run(id="r")
        run.start()
        stream = bus.subscribe("r", after="start")
        consuming = asyncio.create_task(consume_later(stream))
        await asyncio.sleep(0)
        await bus.aclose()
        return await asyncio.wait_for(consuming, TIMEOUT)

    assert kinds(asyncio.run(main())) == [RunInterrupted]


# No await takes effect before its result is delivered


def cancelled_at_each_await(stream_of, produce):
    """The frames of a stream whose consumer is cancelled in each wait for the next frame, once it waits."""

    async def main():
        async with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording()
            run = bus.run(id="r")
            run.start()
            seen = []
            async with stream_of(bus) as stream:
                produced = 0
                while not (seen and isinstance(seen[-1].event, RunFinished)):
                    waiting = asyncio.ensure_future(anext(stream))
                    await asyncio.sleep(0)
                    if not waiting.done():
                        waiting.cancel()  # it has begun to wait
                        await asyncio.wait([waiting])
                    if not waiting.cancelled():
                        seen.append(waiting.result())
                    elif produced < 20:
                        run.chunk(f"{produced} ")
                        produced += 1
                    elif not run.ended:
                        run.finish()
                    else:
                        await asyncio.to_thread(bus.flush)
            return seen

    return asyncio.run(asyncio.wait_for(main(), TIMEOUT))


@pytest.mark.parametrize("after", [None, "start"])
def test_a_consumer_that_is_cancelled_at_each_wait_for_a_frame_loses_none(after):
    frames = cancelled_at_each_await(lambda bus: bus.subscribe("r", after=after, slow="block"), None)
    assert texts(frames) == [f"{number} " for number in range(20)]


def test_a_read_whose_wait_was_cancelled_is_returned_to_the_next_wait():
    async def main():
        async with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording()
            with bus.run(id="r"):
                bus.chunk("x")
            stream = bus.subscribe("r", after="start")
            reading, go_on, read, reads = threading.Event(), threading.Event(), stream.source._read, []

            def slow_read():
                reads.append(threading.get_ident())
                reading.set()
                assert go_on.wait(TIMEOUT)
                return read()

            stream.source._read = slow_read
            for _ in range(3):
                waiting = asyncio.ensure_future(anext(stream))
                await asyncio.to_thread(reading.wait, TIMEOUT)
                waiting.cancel()
                await asyncio.wait([waiting])
            before = stream.cursor
            go_on.set()
            frames = [frame async for frame in stream]
            return before, frames, len(reads)

    before, frames, reads = asyncio.run(main())
    assert kinds(frames) == [Chunk, RunFinished]
    assert before in (None, "start")
    assert reads == 1


def test_frames_before_one_that_cannot_be_read_are_returned_first():
    with quiet_bus() as bus:
        bus.enable_recording()
        with bus.run(id="r"):
            bus.chunk("x")
            bus.chunk("damaged")
        stream = bus.subscribe("r", after="start")
        decoded = stream.source._record.decoded

        def damaged(stored):
            envelope = decoded(stored)
            if getattr(envelope.event, "text", "") == "damaged":
                raise crewbus.DecodeError("damaged")
            return envelope

        stream.source._record.decoded = damaged
        assert next(stream).event.text == "x"
        for _ in range(2):
            with pytest.raises(crewbus.DecodeError):
                next(stream)


def failing():
    raise LookupError("the work failed")


def test_the_error_of_the_work_is_raised_although_a_wait_for_its_result_was_cancelled():
    async def main():
        release = asyncio.Event()

        async def work():
            await release.wait()
            failing()

        async with crewbus.Bus(entry_points=False) as bus:
            async with bus.stream(work) as stream:
                waiting = asyncio.create_task(stream.aresult())
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
                release.set()
                frames = [frame async for frame in stream]
                assert kinds(frames) == [RunFailed]

    with pytest.raises(LookupError, match="the work failed"):
        asyncio.run(main())


def test_the_error_of_the_work_is_raised_although_the_time_for_its_result_was_too_short():
    release = threading.Event()

    def work():
        release.wait(TIMEOUT)
        failing()

    with quiet_bus() as bus, pytest.raises(LookupError, match="the work failed"):
        with bus.stream(work, options=StreamOptions(slow="drop")) as stream:
            with pytest.raises(crewbus.ResultTimeoutError):
                stream.result(0)
            release.set()
            list(stream)


# Generators


def test_promise_10_a_generator_that_delegates_to_a_stream_is_dropped_in_silence(monkeypatch):
    """On a loop's thread, as by a web framework whose client has left: its work is cancelled, and nothing printed."""
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)

    def produce():
        while True:
            bus.chunk("text")

    def frames():
        with bus.stream(produce) as stream:
            streams.append(stream)
            yield from stream

    async def drop():
        generators.clear()

    with quiet_bus() as bus:
        streams, generators = [], [frames()]
        next(generators[0])
        asyncio.run(drop())
        until(lambda: streams[0].run.ended)
        assert streams[0].run.state == "cancelled"
    assert ignored == []


def test_promise_10_a_watcher_gets_a_run_whose_start_is_deferred() -> None:
    """A hook that runs under a lock starts the run: its start is committed, and its watchers attached, afterwards."""
    started: list[crewbus.Run] = []

    class Starter:
        @crewbus.hookimpl
        def crewbus_stream_chunk(self, bus: crewbus.Bus, run: crewbus.Run) -> None:
            if run.id == "outer" and not started:
                started.append(bus.run(id="inner"))
                started[0].start()

    with crewbus.Bus([Starter()], entry_points=False) as bus:
        inner, outer = bus.subscribe("inner", timeout=TIMEOUT), bus.subscribe("outer", timeout=TIMEOUT)
        with inner, outer:
            with bus.run(id="outer") as run:
                run.chunk("a")
            started[0].chunk("b")
            started[0].finish()
            assert [type(envelope.event).__name__ for envelope in inner] == ["Chunk", "RunFinished"]
            assert outer.text() == "a"
