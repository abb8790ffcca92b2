"""What a resumed run continues besides its steps: nested runs, calls, attempts, threads and streams."""

from __future__ import annotations

import asyncio
import threading

import pytest
from helpers import TIMEOUT, Noted
from recorded_helpers import found, steps, text_of

import crewbus
from crewbus import Chunk, RunStarted, StepStarted

# Nested runs


def test_a_nested_run_that_finished_is_redelivered(disk):
    def play(bus, run):
        with bus.run("inner", id="inner") as inner:
            inner.chunk("in. ")
            steps(inner, "x", calls)
        steps(run, "a", calls)

    calls = []
    with disk.bus() as bus, bus.run(id="run") as run:
        play(bus, run)
        disk.crash()
    received = []
    with disk.bus() as bus:
        bus.on(
            object, lambda envelope: received.append((type(envelope.event).__name__, envelope.seq, envelope.replayed))
        )
        with bus.resume("run") as run:
            play(bus, run)
        assert text_of(bus, "run") == "in. "
        assert len(found(bus, "run", RunStarted)) == 2
    assert calls == ["x", "a"]
    assert ("RunStarted", 1, True) in received
    assert ("RunFinished", 5, True) in received


def test_a_nested_run_that_was_left_open_continues_under_its_id(disk):
    def play(bus, last=lambda: None):
        with bus.run("inner") as inner:
            ids.append(inner.id)
            steps(inner, "x", calls)
            inner.chunk("tail. ")
            last()
            steps(inner, "y", calls)

    ids, calls = [], []
    with disk.bus() as bus, bus.run(id="run"):
        play(bus, disk.crash)
    with disk.bus() as bus:
        with bus.resume("run"):
            play(bus)
        assert ids[0] == ids[1]
        assert [one.run_id for one in found(bus, "run", RunStarted)] == ["run", ids[0]]
        assert text_of(bus, "run") == "tail. "
        assert text_of(bus, ids[0]) == "tail. "
    assert calls == ["x", "y"]


def test_a_nested_run_that_failed_on_the_way_out_continues_as_one_left_open(disk):
    def play(bus, run, fails):
        try:
            with bus.run("inner") as inner:
                ids.append(inner.id)
                steps(inner, "x", calls)
                inner.chunk("tail. ")
                if fails:
                    raise ValueError("oh no")
        finally:
            if fails:
                disk.crash()

    ids, calls = [], []
    with disk.bus() as bus, bus.run(id="run") as run:
        play(bus, run, True)
    with disk.bus() as bus:
        with bus.resume("run") as run:
            play(bus, run, False)
        assert ids[0] == ids[1]
        assert text_of(bus, "run") == "tail. "
    assert calls == ["x"]


def test_what_was_emitted_before_a_step_of_a_nested_run_is_redelivered_once(disk):
    def play(bus, run, last=lambda: None):
        steps(run, "a")
        run.chunk("one ")
        with bus.run("inner") as inner:
            steps(inner, "x")
        run.chunk("two ")
        last()
        run.chunk("three ")

    with disk.bus() as bus, bus.run(id="run") as run:
        play(bus, run, disk.crash)
    with disk.bus() as bus:
        with bus.resume("run") as run:
            play(bus, run)
        assert text_of(bus, "run") == "one two three "


def test_concurrent_nested_runs_each_continue_where_they_were(disk):
    def agent(bus, name, reached, last):
        with bus.run(name) as run:
            run.chunk(f"{name} ")
            steps(run, name, calls)
            run.chunk(f"{name}! ")
            reached.wait(TIMEOUT)
            last()
            steps(run, name.upper(), calls)

    def play(bus, last=lambda: None):
        reached = threading.Barrier(3)
        working = [bus.submit(agent, bus, name, reached, last) for name in "ab"]
        reached.wait(TIMEOUT)
        last()
        assert [future.result(TIMEOUT) for future in working] == [None, None]

    calls = []
    with disk.bus() as bus, bus.run(id="run"):
        play(bus, disk.crash)
    assert sorted(calls) == ["a", "b"]
    with disk.bus() as bus:
        with bus.resume("run"):
            play(bus)
        assert sorted(text_of(bus, "run").split()) == ["a", "a!", "b", "b!"]
        assert len(found(bus, "run", RunStarted)) == 3
    assert sorted(calls) == ["A", "B", "a", "b"]


# Calls and attempts


def test_a_call_that_finished_before_the_last_step_is_redelivered(disk):
    def play(bus, run):
        with bus.call("model", callbacks=[heard.append]) as call:
            call.chunk("said. ")
        steps(run, "a")

    heard = []
    with disk.bus() as bus, bus.run(id="run") as run:
        play(bus, run)
        disk.crash()
    first, heard = heard, []
    with disk.bus() as bus:
        with bus.resume("run") as run:
            play(bus, run)
        assert text_of(bus, "run") == "said. "
        assert len(found(bus, "run", crewbus.CallStarted)) == 1
    assert [type(one.event) for one in heard] == [type(one.event) for one in first]
    assert all(one.replayed for one in heard)


def test_a_call_that_was_left_open_is_made_again(disk):
    def play(bus, last=lambda: None):
        with bus.call("model") as call:
            call.chunk("half. ")
            last()
            call.chunk("whole. ")

    with disk.bus() as bus, bus.run(id="run") as run:
        steps(run, "a")
        play(bus, disk.crash)
    with disk.bus() as bus:
        with bus.resume("run") as run:
            steps(run, "a")
            play(bus)
        assert text_of(bus, "run") == "half. whole. "
        assert len(found(bus, "run", crewbus.CallStarted)) == 2
        assert len(found(bus, "run", crewbus.CallFinished)) == 1


def test_a_failed_attempt_is_replayed_without_streaming(disk):
    def play(bus, run):
        for number in (1, 2):
            try:
                with run.attempt(number):
                    run.chunk(f"try {number}. ")
                    steps(run, "x" if number == 2 else "", calls)
                    if number == 1:
                        raise ValueError("again")
            except ValueError:
                pass
        steps(run, "a", calls)

    calls = []
    with disk.bus() as bus, bus.run(id="run") as run:
        play(bus, run)
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run") as run:
            play(bus, run)
        assert text_of(bus, "run") == "try 2. "
    assert calls == ["x", "a"]


# Handlers


def test_what_a_handler_emits_is_redelivered_with_what_it_handles(disk):
    def play(bus, last=lambda: None):
        bus.on(Noted, lambda envelope: bus.chunk(f"{envelope.event.text} heard. "))
        with bus.resume("run") if bus.recorded_runs() else bus.run(id="run") as run:
            run.emit(Noted("first"))
            steps(run, "a")
            run.emit(Noted("second"))
            last()

    with disk.bus() as bus:
        play(bus, disk.crash)
    with disk.bus() as bus:
        play(bus)
        assert text_of(bus, "run") == "first heard. second heard. "


# Streams


def agent(last=lambda: None):
    crewbus.chunk("one ")
    crewbus.current_run().step("a", lambda: crewbus.chunk("two ") and None)
    crewbus.chunk("three ")
    last()
    crewbus.current_run().step("b", lambda: crewbus.chunk("four ") and None)
    return "done"


async def async_agent(last=lambda: None):
    return agent(last)


@pytest.mark.parametrize("work", [agent, async_agent])
def test_a_stream_of_a_resumed_run_has_what_is_new(disk, work):
    with disk.bus() as bus:
        with bus.stream(work, disk.crash, options=crewbus.StreamOptions(id="run")) as stream:
            with pytest.raises(crewbus.RunCancelledError):
                stream.result(TIMEOUT)
    with disk.bus() as bus:
        with bus.stream(work, options=crewbus.StreamOptions(resume="run")) as stream:
            assert stream.run_id == "run"
            frames = list(stream)
            assert stream.result(TIMEOUT) == "done"
        assert [one.event.text for one in frames if isinstance(one.event, Chunk)] == ["four "]
        assert isinstance(frames[-1].event, crewbus.RunFinished)
        assert text_of(bus, "run") == "one two three four "


def test_a_resumed_stream_on_a_loop(disk):
    async def main():
        with disk.bus() as bus:
            async with bus.stream(async_agent, options=crewbus.StreamOptions(resume="run")) as stream:
                text = "".join([one.event.text async for one in stream if isinstance(one.event, Chunk)])
                return text, await stream.aresult()

    with disk.bus() as bus, bus.run(id="run"):
        agent(disk.crash)
    assert asyncio.run(main()) == ("four ", "done")


def test_a_watcher_of_a_resumed_run_gets_what_is_new(disk):
    with disk.bus() as bus, bus.run(id="run"):
        agent(disk.crash)
    with disk.bus() as bus, bus.subscribe("run") as stream:
        with bus.resume("run"):
            agent()
        kinds = [type(envelope.event).__name__ for envelope in stream]
    assert kinds == ["Chunk", "RunFinished"]


def test_a_run_whose_stream_was_left_is_resumed(disk):
    left = threading.Event()

    with disk.bus() as bus:
        with bus.stream(agent, lambda: left.wait(TIMEOUT), options=crewbus.StreamOptions(id="run")) as stream:
            assert [next(stream).event.text for _ in range(3)] == ["one ", "two ", "three "]
            stream.run.cancel("its consumer leaves")
            left.set()
        assert bus.records.info("run").state == "cancelled"
        with bus.stream(agent, options=crewbus.StreamOptions(resume="run")) as stream:
            assert stream.text() == "four "
        assert text_of(bus, "run") == "one two three four "


def test_a_stream_of_a_run_that_can_not_be_resumed_raises_as_that_would(bus):
    with pytest.raises(crewbus.RunNotFoundError):
        with bus.stream(agent, options=crewbus.StreamOptions(resume="nothing")):
            pass
    assert bus.runs == []


def test_steps_of_a_resumed_run_in_another_thread_are_found(disk):
    def play(bus):
        bus.submit(steps, crewbus.current_run(), "ab", calls).result(TIMEOUT)

    calls = []
    with disk.bus() as bus, bus.run(id="run"):
        play(bus)
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run"):
            play(bus)
        assert len(found(bus, "run", StepStarted)) == 2
    assert calls == ["a", "b"]


def test_a_call_that_failed_is_made_again_after_a_second_crash_too(disk):
    def play(run, fails=False, last=lambda: None):
        with run.bus.call("model"):
            run.step("a", lambda: run.bus.chunk("a ") and "a")
            if fails:
                raise ValueError("no answer")
            run.bus.chunk("one ")
            run.step("b", lambda: run.bus.chunk("b ") and "b")
            last()
            run.bus.chunk("two ")

    with disk.bus() as bus, pytest.raises(ValueError, match="no answer"), bus.run(id="run") as run:
        play(run, fails=True)
    with disk.bus() as bus, bus.resume("run") as run:
        play(run, last=disk.crash)
    with disk.bus() as bus:
        with bus.resume("run") as run:
            play(run)
        assert text_of(bus, "run") == "a one b two "


def test_a_step_in_an_attempt_that_a_crash_ended_is_not_called_again():
    """Only an Exception says that something is wrong with what an attempt did."""
    calls = []
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording("memory:")
        with pytest.raises(SystemExit), bus.run(id="r") as run, run.attempt():
            run.step("search", calls.append, "tides")
            raise SystemExit
        with bus.resume("r") as run, run.attempt():
            run.step("search", calls.append, "tides")
    assert calls == ["tides"]
