"""Following a recorded run by cursor: each frame exactly once, although either side leaves, dies or continues."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus
from recorded_helpers import needs_sqlite, spawn, text_of

import crewbus
from crewbus import Chunk, Retracted, RunFailed, RunFinished, RunInterrupted
from crewbus.streams import pauses


def events_of(frames):
    return [frame.event for frame in frames]


def followed(bus, run_id="run", after="start"):
    """All frames that there are from a cursor on."""
    with bus.subscribe(run_id, after=after) as stream:
        return events_of(stream)


def say(run, text):
    for word in text.split():
        run.chunk(word)


WORDS = [Chunk("a"), Chunk("b"), Chunk("c"), Chunk("d")]


def said(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        say(run, "a b c d")


@pytest.mark.parametrize("place", ["before", "within"])
def test_a_run_that_nobody_has_begun_is_no_interrupted_one(disk, place):
    with disk.bus() as bus, disk.bus() as other:
        bus.recording.plant(bus.run("order", id="run"))
        stream = other.subscribe("run", after="start")
        assert stream.source.take(deadline=0) == []  # there is no frame, and it is not the end either
        if place == "before":
            reader = in_thread(list, stream)
        with bus.resume("run") as run:
            say(run, "a b c d")
            if place == "within":
                reader = in_thread(list, stream)
        assert events_of(reader.result(TIMEOUT)) == [*WORDS, RunFinished()]


# Waiting for the store


class WatchedStore(crewbus.MemoryStore):
    """Says when somebody has begun to watch it, and how many do."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.watching = 0

    def watch(self, notify):
        stop = super().watch(notify)
        self.watching += 1
        self.begun.release()

        def stop_counting():
            self.watching -= 1
            stop()

        return stop_counting


async def read_async(stream):
    return [frame async for frame in stream]


READERS = {"for": list, "async for": lambda stream: asyncio.run(read_async(stream))}


@pytest.mark.parametrize("form", READERS)
def test_a_follower_that_has_waited_for_a_while_is_woken_by_the_store(monkeypatch, form):
    monkeypatch.setattr(pauses, "SOONEST", 100 * TIMEOUT)
    monkeypatch.setattr(pauses, "LATEST", 100 * TIMEOUT)
    with quiet_bus() as bus:
        bus.enable_recording(store := WatchedStore())
        with bus.run(id="run") as run:
            reader = in_thread(READERS[form], bus.subscribe("run", after="start"))
            assert store.begun.acquire(timeout=TIMEOUT)
            say(run, "a b c d")
        assert events_of(reader.result(TIMEOUT)) == [*WORDS, RunFinished()]
        assert store.watching == 0


@pytest.mark.parametrize("form", READERS)
def test_a_follower_that_waits_for_the_store_ends_with_its_bus(monkeypatch, form):
    monkeypatch.setattr(pauses, "SOONEST", 100 * TIMEOUT)
    monkeypatch.setattr(pauses, "LATEST", 100 * TIMEOUT)
    store = WatchedStore()
    with quiet_bus() as bus, quiet_bus() as other:
        bus.enable_recording(store)
        other.recording.use_store(store)
        with bus.run(id="run"):
            reader = in_thread(READERS[form], other.subscribe("run", after="start"))
            assert store.begun.acquire(timeout=TIMEOUT)
            other.close()
            assert [type(event) for event in events_of(reader.result(TIMEOUT))] == [RunInterrupted]


def test_a_follower_that_is_dropped_is_not_woken_any_more(monkeypatch):
    monkeypatch.setattr(pauses, "FIRST", pauses.SETTLED)
    with quiet_bus() as bus:
        bus.enable_recording(store := WatchedStore())
        with bus.run(id="run"):
            for turn in range(3):
                stream = bus.subscribe("run", after="start")
                while not store.begun.acquire(blocking=False):  # the one before is given up then
                    assert stream.source.take(time.monotonic() + 0.01) == []
                assert store.watching == 1, turn
                del stream
                gc.collect()


# Leaving and coming back


@pytest.mark.parametrize("taken", range(1, 6))
def test_a_consumer_that_returns_gets_each_frame_once(disk, taken):
    said(disk)
    with disk.bus() as bus:
        with bus.subscribe("run", after="start") as stream:
            seen = [next(stream) for _ in range(taken)]
            cursor = stream.cursor
    with disk.bus() as bus:
        assert events_of(seen) + followed(bus, after=cursor) == [*WORDS, RunFinished()]


@pytest.mark.parametrize("taken", range(1, 6))
def test_an_async_consumer_that_returns_gets_each_frame_once(disk, taken):
    async def main(bus, cursor, count):
        seen = []
        async with bus.subscribe("run", after=cursor) as stream:
            async for envelope in stream:
                seen.append(envelope.event)
                if len(seen) == count:
                    break
            return seen, stream.cursor

    said(disk)
    with disk.bus() as bus:
        seen, cursor = asyncio.run(main(bus, "start", taken))
    with disk.bus() as bus:
        rest, _ = asyncio.run(main(bus, cursor, None))
    assert seen + rest == [*WORDS, RunFinished()]


def test_returning_after_each_frame(disk):
    said(disk)
    cursor, seen = "start", []
    while not seen or not isinstance(seen[-1], RunFinished):
        with disk.bus() as bus, bus.subscribe("run", after=cursor) as stream:
            seen.append(next(stream).event)
            cursor = stream.cursor
    assert seen == [*WORDS, RunFinished()]


def test_a_cursor_is_where_the_consumer_stands_not_what_was_read_ahead(disk):
    said(disk)
    with disk.bus() as bus, bus.subscribe("run", after="start") as stream:
        assert stream.cursor == "start"
        assert next(stream).event == Chunk("a")
        first = stream.cursor
        assert next(stream).event == Chunk("b")
        assert stream.cursor != first
        assert followed(bus, after=first) == [*WORDS[1:], RunFinished()]


def test_a_second_loop_continues_where_the_first_stopped(disk):
    said(disk)
    with disk.bus() as bus, bus.subscribe("run", after="start") as stream:
        for envelope in stream:
            if envelope.event == Chunk("b"):
                break
        assert events_of(stream) == [*WORDS[2:], RunFinished()]
        assert stream.text() == "abcd"


def test_text_is_all_that_was_not_retracted(disk):
    def failing(run):
        run.chunk("lost")
        raise ValueError("again")

    with disk.bus() as bus, bus.run(id="run") as run:
        run.chunk("one ")
        with pytest.raises(ValueError, match="again"):
            run.step("bad", failing, run, key="k")
        run.chunk("two")
        assert bus.records.info("run").state == "running"
    with disk.bus() as bus:
        assert text_of(bus, "run") == "one two"


def test_of_many_frames_none_is_lost_between_two_reads(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        for number in range(1000):
            run.chunk(f"{number}.")
    with disk.bus() as bus:
        assert text_of(bus, "run") == "".join(f"{number}." for number in range(1000))


def test_a_cursor_at_the_end_yields_nothing_more(disk):
    said(disk)
    with disk.bus() as bus:
        with bus.subscribe("run", after="start") as stream:
            assert len(list(stream)) == 5
        assert followed(bus, after=stream.cursor) == []


# Cursors


@pytest.mark.parametrize(
    "wrong",
    ["", "1", "1.", ".1", "-1.0", "1.0 ", "1.0\n", " 1.0", "1.2.3.4", "START", "x.y", "1e3.0", "\u0661.\u0660",
     "9" * 19 + ".0", 1, 1.0, b"1.0", ["1.0"], "1.1", "1.1.0123456789a", "1.1.0123456789AB", "1.1.0123456789ab.x"],
)  # fmt: skip
def test_an_invalid_cursor_is_rejected(bus, wrong):
    with bus.run(id="run"):
        with pytest.raises(crewbus.InputError, match="is not a cursor"):
            bus.subscribe("run", after=wrong)


def test_a_run_that_is_not_recorded_can_not_be_followed(bus):
    with pytest.raises(crewbus.RunNotFoundError):
        bus.subscribe("nothing", after="start")
    with bus.run(id="run", record=False) as run:
        with pytest.raises(crewbus.RunNotFoundError):
            bus.subscribe("run", after="start")
        with bus.subscribe("run") as stream:
            run.chunk("x")
            next(stream)
            assert stream.cursor is None


@pytest.mark.parametrize("beyond", ["50.0", "7.0", "999999999999999999.0"])
def test_what_is_beyond_the_record_is_retracted_first(disk, beyond):
    with disk.bus() as bus, bus.run(id="run") as run:
        say(run, "a b")
        disk.crash()
    with disk.bus() as bus:
        with bus.subscribe("run", after="start") as stream:
            next(stream)
            beyond = re.sub(r"^\d+\.\d+", beyond, stream.cursor or "")
        taken_back, interrupted = followed(bus, after=beyond)
        assert (taken_back.since, taken_back.parents) == (3, ())
        assert isinstance(interrupted, RunInterrupted)
        with bus.resume("run") as run:
            say(run, "A B")
        assert [event for event in followed(bus, after=beyond) if isinstance(event, Chunk)] == [Chunk("A"), Chunk("B")]


@pytest.mark.parametrize("kind", ["subscribed", "owned"])
def test_the_cursor_of_a_live_stream_continues_in_the_record(disk, kind):
    with disk.bus() as bus:
        if kind == "owned":
            stream = bus.stream(lambda: say(crewbus.current_run(), "a b c d"), options=crewbus.StreamOptions(id="run"))
        else:
            stream = bus.subscribe("run")
            with bus.run(id="run") as run:
                say(run, "a b c d")
        with stream:
            assert [next(stream).event for _ in range(2)] == WORDS[:2]
            cursor = stream.cursor
            for _ in stream:
                pass
        assert followed(bus, after=cursor) == [*WORDS[2:], RunFinished()]


# A live run


def test_a_run_is_followed_while_it_is_recorded(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        run.chunk("a")
        with bus.subscribe("run", after="start") as stream:
            assert next(stream).event == Chunk("a")
            run.chunk("b")
            assert next(stream).event == Chunk("b")
            waiting = in_thread(next, stream)
            run.chunk("c")
            assert waiting.result(TIMEOUT).event == Chunk("c")
            waiting = in_thread(list, stream)
            run.chunk("d")
            run.finish()
            assert events_of(waiting.result(TIMEOUT)) == [Chunk("d"), RunFinished()]


def test_a_run_is_followed_on_a_loop_while_it_is_recorded(disk):
    async def main(bus):
        async with bus.run(id="run") as run:
            async with bus.subscribe("run", after="start") as stream:
                task = asyncio.ensure_future(collect(stream))
                for word in "abcd":
                    run.chunk(word)
                    await asyncio.sleep(0)
                run.finish()
                return await asyncio.wait_for(task, TIMEOUT)

    async def collect(stream):
        return events_of([frame async for frame in stream])

    with disk.bus() as bus:
        assert asyncio.run(main(bus)) == [*WORDS, RunFinished()]


def test_leaving_early_leaves_nothing_behind(disk):
    async def main(bus):
        async with bus.run(id="run") as run:
            run.chunk("a")
            async with bus.subscribe("run", after="start") as stream:
                assert (await anext(stream)).event == Chunk("a")
                waiting = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)
                await stream.aclose()
                with pytest.raises(StopAsyncIteration):
                    await asyncio.wait_for(waiting, TIMEOUT)
            run.chunk("b")

    with disk.bus() as bus:
        asyncio.run(main(bus))
        stream = bus.subscribe("run", after="start")
        assert next(iter(stream)).event == Chunk("a")
        del stream
        gc.collect()


def test_closing_wakes_the_waiting_consumer(bus):
    with bus.run(id="run"):
        stream = bus.subscribe("run", after="start")
        waiting = in_thread(list, stream)
        stream.close()
        assert waiting.result(TIMEOUT) == []


def test_a_stream_is_consumed_in_one_way(bus):
    async def main():
        stream = bus.subscribe("run", after="start")
        with pytest.raises(crewbus.ConsumptionError, match="block the event loop"):
            iter(stream)
        await anext(stream)
        return stream

    with bus.run(id="run") as run:
        run.chunk("a")
        stream = asyncio.run(main())
        with pytest.raises(crewbus.ConsumptionError, match="consumed with"):
            next(iter(stream))


# Runs that end otherwise, and go on


def test_a_failed_run_ends_its_stream_until_it_is_resumed(disk):
    with disk.bus() as bus:
        with pytest.raises(ValueError, match="oh no"):
            with bus.run(id="run") as run:
                run.step("s", lambda: run.chunk("a") and None)
                run.chunk("b")
                raise ValueError("oh no")
        with bus.subscribe("run", after="start") as stream:
            assert events_of(stream) == [Chunk("a"), Chunk("b"), RunFailed("builtins.ValueError", "oh no")]
        with bus.resume("run") as run:
            run.step("s", lambda: None)
            run.chunk("b")
            run.chunk("c")
        taken_back, *rest = followed(bus, after=stream.cursor)
        assert isinstance(taken_back, Retracted)  # the end of the run
        assert rest == [Chunk("c"), RunFinished()]
        assert text_of(bus, "run") == "abc"
        assert [type(event) for event in followed(bus) if isinstance(event, crewbus.RunEnded)] == [RunFinished]


def test_a_run_whose_producer_is_gone_is_interrupted_and_followed_once_it_is_resumed(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        say(run, "a b")
        disk.crash()
    with disk.bus() as bus:
        with bus.subscribe("run", after="start") as stream:
            *words, last = events_of(stream)
        assert words == WORDS[:2]
        assert isinstance(last, RunInterrupted)
    with disk.bus() as bus:
        with bus.resume("run") as run:
            say(run, "a b c")
        assert followed(bus, after=stream.cursor) == [Chunk("c"), RunFinished()]
        assert text_of(bus, "run") == "abc"


def test_a_follower_stays_while_a_failed_run_is_resumed(disk):
    with disk.bus() as bus:
        with pytest.raises(ValueError, match="oh no"):
            with bus.run(id="run") as run:
                run.chunk("a")
                raise ValueError("oh no")
        with bus.resume("run") as run:
            with bus.subscribe("run", after="start") as stream:
                waiting = in_thread(list, stream)
                run.chunk("A")
                run.finish()
                events = events_of(waiting.result(TIMEOUT))
        assert [event for event in events if not isinstance(event, Retracted)] == [
            Chunk("a"),
            Chunk("A"),
            RunFinished(),
        ]


def test_a_run_that_is_resumed_while_it_is_read_is_not_interrupted():
    class Resumes(crewbus.MemoryStore):
        """Has the run be resumed between two looks."""

        resume = None

        def info(self, root_id):
            info = super().info(root_id)
            resume, self.resume = self.resume, None
            if resume is not None:
                resume()
            return info

    with quiet_bus() as bus:
        bus.enable_recording(store := Resumes())
        run = bus.run(id="run")
        with pytest.raises(crewbus.FencedError), run:
            with bus.subscribe("run", after="start") as stream:
                store.revoke("run")
                epoch = []

                def resume():
                    epoch.append(store.acquire("run"))
                    last = store.info("run").last
                    envelope = crewbus.Envelope(crewbus.RunResumed(last, epoch[0]), "run", last + 1, "run:0", 1.0)
                    store.append("run", epoch[0], bus.recording.encode(envelope))

                store.resume = resume
                waiting = in_thread(next, stream)
                with pytest.raises(TimeoutError):
                    waiting.result(0.05)
                envelope = crewbus.Envelope(Chunk("x"), "run", store.info("run").last + 1, "run:0", 1.0)
                store.append("run", epoch[0], bus.recording.encode(envelope))
                assert waiting.result(TIMEOUT).event == Chunk("x")


# Nested runs


def test_a_nested_run_is_followed_by_itself(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        run.chunk("outer")
        with bus.run(id="inner") as inner:
            say(inner, "a b")
            with bus.run("innermost") as innermost:
                innermost.chunk("c")
            inner.chunk("d")
        run.chunk("outer")
    with disk.bus() as bus:
        assert followed(bus, "inner") == [*WORDS, RunFinished()]
        with bus.subscribe("inner", after="start") as stream:
            seen = [next(stream).event for _ in range(2)]
        assert seen + followed(bus, "inner", stream.cursor) == [*WORDS, RunFinished()]
        assert len(followed(bus)) == 7


def test_a_finished_nested_run_stays_finished_when_its_root_is_resumed(disk):
    def play(bus, run):
        with bus.run("inner", id="inner") as inner:
            inner.chunk("a")
        run.step("s", lambda: None)

    with disk.bus() as bus, bus.run(id="run") as run:
        play(bus, run)
        disk.crash()
    with disk.bus() as bus:
        assert followed(bus, "inner") == [Chunk("a"), RunFinished()]
        with bus.resume("run") as run:
            play(bus, run)
        assert followed(bus, "inner") == [Chunk("a"), RunFinished()]


def test_a_nested_run_whose_producer_is_gone_is_interrupted(disk):
    with disk.bus() as bus, bus.run(id="run"), bus.run(id="inner") as inner:
        inner.chunk("a")
        disk.crash()
    with disk.bus() as bus:
        first, last = followed(bus, "inner")
        assert (first, type(last)) == (Chunk("a"), RunInterrupted)


# Other processes


@contextmanager
def producer(path):
    """A process that says each word it is given, in a run of the store at ``path``."""
    process = spawn(f"""
        import sys, crewbus
        from crewbus_sqlite import SQLiteStore
        with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording(SQLiteStore({str(path)!r}))
            with bus.run(id="run") as run:
                bus.flush()
                print("begun", flush=True)
                for line in sys.stdin:
                    run.chunk(line.strip())
        """)
    try:
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)


def tell(process, *words):
    process.stdin.write("".join(f"{word}\n" for word in words))
    process.stdin.flush()


@contextmanager
def reader(path):
    from crewbus_sqlite import SQLiteStore

    with quiet_bus() as bus:
        bus.recording.use_store(SQLiteStore(path))
        yield bus


@needs_sqlite
def test_a_run_of_another_process_is_followed_to_its_end(tmp_path):
    with producer(tmp_path / "runs.db") as process, reader(tmp_path / "runs.db") as bus:
        with bus.subscribe("run", after="start") as stream:
            tell(process, "a")
            assert next(stream).event == Chunk("a")
            tell(process, "b", "c")
            assert [next(stream).event, next(stream).event] == WORDS[1:3]
        cursor = stream.cursor
        with bus.subscribe("run", after=cursor) as stream:
            tell(process, "d")
            process.stdin.close()
            assert events_of(stream) == [Chunk("d"), RunFinished()]
        process.stdin = None


@needs_sqlite
def test_a_run_of_a_process_that_was_killed_is_interrupted(tmp_path):
    with producer(tmp_path / "runs.db") as process, reader(tmp_path / "runs.db") as bus:
        with bus.subscribe("run", after="start") as stream:
            tell(process, "a")
            assert next(stream).event == Chunk("a")
            process.send_signal(signal.SIGKILL)
            process.wait(TIMEOUT)
            (last,) = events_of(stream)
        assert isinstance(last, RunInterrupted)
        assert f"process {process.pid}" in last.holder
        assert bus.records.info("run").state == "interrupted"
        with bus.resume("run") as run:
            run.chunk("a")
            run.chunk("b")
        assert followed(bus, after=stream.cursor) == [Chunk("b"), RunFinished()]
        assert text_of(bus, "run") == "ab"


@needs_sqlite
def test_a_run_of_another_process_is_followed_on_a_loop(tmp_path):
    async def main(bus, process):
        async with bus.subscribe("run", after="start") as stream:
            tell(process, "a", "b")
            seen = [(await anext(stream)).event for _ in range(2)]
            process.send_signal(signal.SIGKILL)
            return seen + [envelope.event async for envelope in stream]

    with producer(tmp_path / "runs.db") as process, reader(tmp_path / "runs.db") as bus:
        *words, last = asyncio.run(main(bus, process))
    assert words == WORDS[:2]
    assert isinstance(last, RunInterrupted)


@needs_sqlite
def test_a_run_that_is_alive_in_another_process_is_held_by_that(tmp_path):
    with producer(tmp_path / "runs.db") as process, reader(tmp_path / "runs.db") as bus:
        with pytest.raises(crewbus.RunHeldError, match=f"held by process {process.pid} "):
            bus.resume("run").start()
        assert f"process {process.pid} " in bus.records.info("run").holder
        assert bus.records.prune(keep=0) == []


@pytest.mark.parametrize("after", ["start", "own"])
def test_promise_05_the_cursor_of_a_resumed_stream_is_the_given_one_until_its_first_frame(bus, after):
    with bus.run(id="run") as run:
        say(run, "a b")
        with bus.subscribe("run", after="start") as stream:
            next(stream)
            given = stream.cursor if after == "own" else after
        for _ in range(2):  # the connection breaks before any frame
            with bus.subscribe("run", after=given) as stream:
                assert stream.cursor == given
        with bus.subscribe("run", after=given) as stream:
            frame = next(stream)
            assert stream.cursor not in (given, None)
            assert frame.event == Chunk("b" if after == "own" else "a")
        assert bus.subscribe("run").cursor is None
