"""Promise 1: a chunk reaches the streams of its run and of the runs around it, no other."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from functools import partial

import pytest
from helpers import TIMEOUT, Noted, in_threads, quiet_bus

import crewbus
from crewbus import Chunk, StreamOptions, UnscopedError, UnscopedWarning

THREADS = 64
TASKS = 1000
CHUNKS = 20


def text_of(run: str) -> str:
    return "".join(f"{run}:{i} " for i in range(CHUNKS))


def sync_agent(name: str) -> str:
    for i in range(CHUNKS):
        crewbus.chunk(f"{name}:{i} ")
    return name


async def async_agent(name: str) -> str:
    for i in range(CHUNKS):
        crewbus.chunk(f"{name}:{i} ")
        await asyncio.sleep(0)
    return name


@pytest.mark.parametrize("agent", [sync_agent, async_agent])
def test_promise_01_concurrent_streaming_runs_with_no_cross_contamination_in_threads(agent):
    """64 consumers with ``for`` in threads, of sync and of async producers."""
    with quiet_bus() as bus:

        def consume(i):
            with bus.stream(agent, f"run{i}") as stream:
                frames = list(stream)
                assert stream.result() == f"run{i}"
            return frames

        for i, frames in enumerate(in_threads(THREADS, consume)):
            assert "".join(frame.event.text for frame in frames[:-1]) == text_of(f"run{i}")
            assert type(frames[-1].event) is crewbus.RunFinished


@pytest.mark.parametrize(("agent", "count"), [(sync_agent, THREADS), (async_agent, TASKS)])
def test_promise_01_concurrent_streaming_runs_with_no_cross_contamination_in_tasks(agent, count):
    """Consumers with ``async for`` on one loop: 64 of sync producers in threads, 1,000 of async ones."""

    async def consume(bus, i):
        async with bus.stream(agent, f"run{i}") as stream:
            texts = [frame.event.text async for frame in stream if type(frame.event) is Chunk]
            assert await stream.aresult() == f"run{i}"
        return "".join(texts), stream.text()

    async def main():
        async with crewbus.Bus(entry_points=False) as bus:
            return await asyncio.gather(*(consume(bus, i) for i in range(count)))

    for i, (joined, text) in enumerate(asyncio.run(main())):
        assert joined == text == text_of(f"run{i}")


def test_promise_01_nested_runs_reach_those_around_them_only():
    with quiet_bus() as bus, bus.run("root") as root:
        around = bus.subscribe(root.id)
        with bus.run("left") as left:
            on_left = bus.subscribe(left.id)
            bus.chunk("l1 ")
            with bus.run("deep") as deep:
                on_deep = bus.subscribe(deep.id)
                bus.chunk("d1 ")
            with bus.run("other") as other:
                on_other = bus.subscribe(other.id)
                bus.chunk("o1 ")
        bus.chunk("r1 ")
        assert [on_deep.text(), on_other.text(), on_left.text()] == ["d1 ", "o1 ", "l1 d1 o1 "]
        root.finish()
        assert around.text() == "l1 d1 o1 r1 "


def test_promise_01_each_stream_ends_with_its_own_terminal_frame():
    with quiet_bus() as bus:
        with bus.run() as outer:
            on_outer = bus.subscribe(outer.id)
            with bus.run() as inner:
                on_inner = bus.subscribe(inner.id)
        for stream, run in ((on_outer, outer), (on_inner, inner)):
            (frame,) = list(stream)
            assert type(frame.event) is crewbus.RunFinished
            assert frame.run_id == run.id


def test_promise_01_named_runs_need_no_context():
    """``run.chunk`` from bare threads: 64 threads, each for every one of 64 runs."""
    with quiet_bus() as bus:
        runs = [bus.run(id=f"run{i}") for i in range(THREADS)]
        for run in runs:
            contextvars.copy_context().run(run.start)
        streams = [bus.subscribe(run.id, bound=THREADS * 2) for run in runs]
        in_threads(THREADS, lambda i: [run.chunk(f"{run.id} ") for run in runs])
        for run in runs:
            run.finish()
        for run, stream in zip(runs, streams, strict=True):
            assert stream.text() == f"{run.id} " * THREADS


@pytest.mark.parametrize("where", ["outside", "finished"])
def test_promise_01_unstamped_chunks_reach_no_stream(where):
    """What else becomes of them is a setting."""
    for setting in ("warn", "raise", "ignore"):
        with quiet_bus(unscoped=setting) as bus:
            seen = []
            bus.on(Chunk, seen.append)
            with bus.run() as live:
                watching = bus.subscribe(live.id)
                with bus.run() as ended:
                    pass
                emit = (
                    partial(contextvars.Context().run, bus.chunk, "x")
                    if where == "outside"
                    else partial(ended.chunk, "x")
                )
                if setting == "raise":
                    with pytest.raises(UnscopedError, match="no run's stream"):
                        emit()
                elif setting == "warn":
                    with pytest.warns(UnscopedWarning, match="Chunk emitted"):
                        emit()
                else:
                    emit()
            assert watching.text() == ""
            assert [envelope.run_id for envelope in seen] == ([] if setting == "raise" else [None])


def test_promise_01_unstamped_event_in_a_finished_run_is_unscoped():
    with quiet_bus() as bus:
        with bus.run() as run:
            pass
        with pytest.warns(UnscopedWarning, match=r"in a run that has ended \(finished\)"):
            assert run.emit(Noted("late")).run_id is None


def test_promise_01_event_in_a_run_that_has_not_started_is_unscoped():
    with quiet_bus() as bus:
        run = bus.run()
        with pytest.warns(UnscopedWarning, match="in a run that has not started"):
            assert run.chunk("early").run_id is None


def test_promise_01_task_that_outlives_its_run():
    async def main(bus):
        left = asyncio.Event()

        async def straggler():
            await left.wait()
            with pytest.warns(UnscopedWarning):
                return bus.chunk("late")

        with bus.run() as run:
            stream = bus.subscribe(run.id)
            task = asyncio.create_task(straggler())
            await asyncio.sleep(0)
        with bus.run():
            left.set()
            assert (await task).run_id is None
        return [frame async for frame in stream]

    with quiet_bus() as bus:
        assert [type(frame.event) for frame in asyncio.run(main(bus))] == [crewbus.RunFinished]


def test_promise_01_two_buses_in_one_context():
    with quiet_bus() as one, quiet_bus() as two, one.run() as outer, two.run() as inner:
        a, b = one.subscribe(outer.id), two.subscribe(inner.id)
        one.chunk("one")
        two.chunk("two")
        assert crewbus.current_run() is inner
        assert crewbus.current_run(one) is outer
        inner.finish()
        outer.finish()
        assert (a.text(), b.text()) == ("one", "two")


def test_promise_01_scope_survives_a_generator_finalised_elsewhere():
    """An async generator that opens a run is closed in another context, and the caller's scope is as before."""

    async def pieces(bus):
        with bus.run("inside"):
            yield bus.chunk("a")
            yield bus.chunk("b")

    async def main(bus):
        with bus.run("outside") as outside:
            generator = pieces(bus)
            await asyncio.create_task(anext(generator))
            assert crewbus.current_run() is outside
            await asyncio.create_task(generator.aclose())
            assert crewbus.current_run() is outside
            assert bus.runs == [outside]

    with quiet_bus() as bus:
        asyncio.run(main(bus))
        assert bus.runs == []


def test_promise_01_a_scope_left_in_another_context_is_left_there_too():
    """Where it was inherited and where it was entered; where it never was, nothing changes."""
    with quiet_bus() as bus, bus.run("outer") as outer:
        run = bus.run("left elsewhere")
        run.__enter__()
        inherited = contextvars.copy_context()
        inherited.run(run.__exit__, None, None, None)
        assert inherited.run(crewbus.current_run) is outer
        assert crewbus.current_run() is outer
        with bus.run("never seen there") as unseen:
            assert inherited.run(crewbus.current_run) is outer
        assert unseen.ended


def test_promise_01_same_thread_interleaves_runs():
    """Contexts of two runs used in turn in one thread, as a scheduler would."""
    with quiet_bus() as bus:
        contexts = {}
        for name in ("a", "b"):
            context = contexts[name] = contextvars.copy_context()
            run = bus.run(id=name)
            context.run(run.__enter__)
        streams = {name: bus.subscribe(name) for name in contexts}
        for i in range(10):
            for name, context in contexts.items():
                context.run(bus.chunk, f"{name}{i} ")
        for run in bus.runs:
            run.finish()
        for name, stream in streams.items():
            assert stream.text() == "".join(f"{name}{i} " for i in range(10))


def test_promise_01_unread_streams_of_one_run_do_not_share_frames():
    with quiet_bus() as bus:
        with bus.run() as run:
            streams = [bus.subscribe(run.id) for _ in range(20)]
            bus.chunk("x")
        assert [stream.text() for stream in streams] == ["x"] * 20


def test_promise_01_concurrent_streams_on_both_sides():
    """Sync and async consumers at the same time on one bus: each gets its own."""
    with quiet_bus() as bus:
        texts = {}

        async def one(i):
            async with bus.stream(async_agent, f"async{i}", options=StreamOptions(id=f"async{i}")) as stream:
                async for _ in stream:
                    pass
                texts[f"async{i}"] = stream.text()

        async def many():
            await asyncio.gather(*(one(i) for i in range(100)))

        loop = threading.Thread(target=lambda: asyncio.run(many()))
        loop.start()

        def consume(i):
            with bus.stream(sync_agent, f"sync{i}") as stream:
                texts[f"sync{i}"] = stream.text()

        in_threads(32, consume)
        loop.join(TIMEOUT)
        assert not loop.is_alive()
        assert len(texts) == 132
        assert all(text == text_of(name) for name, text in texts.items())
