"""Promise 15, one run for one id: who starts an id that exists follows the run that has it, and gets its result."""

from __future__ import annotations

import asyncio
import threading

import pytest
from helpers import TIMEOUT, in_thread, in_threads, quiet_bus
from recorded_helpers import needs_sqlite, spawn

import crewbus
from crewbus import (
    Chunk,
    ConsumptionError,
    ResultTimeoutError,
    RunFinished,
    RunIdInUseError,
    StreamOptions,
)

ATTACH = StreamOptions(id="order 7", name="order", attach=True)


def order(text="paid"):
    crewbus.chunk(text)
    return {"text": text}


def never():
    raise AssertionError("the run exists already")


def events_of(stream):
    return [frame.event for frame in stream]


def test_promise_15_the_second_start_follows_the_run_that_has_ended(disk):
    with disk.bus() as bus:
        with bus.stream(order, options=ATTACH) as stream:
            assert events_of(stream) == [Chunk("paid"), RunFinished({"text": "paid"})]
            assert stream.result(TIMEOUT) == {"text": "paid"}
        assert not stream.attached
    with disk.bus() as bus:
        with bus.stream(never, options=ATTACH) as stream:
            assert events_of(stream) == [Chunk("paid"), RunFinished({"text": "paid"})]
            assert stream.text() == "paid"
            assert stream.result(TIMEOUT) == {"text": "paid"}
        assert stream.attached
        assert len(bus.recorded_runs()) == 1


def test_promise_15_the_second_start_follows_on_a_loop_too(disk):
    async def main(bus, function):
        async with bus.stream(function, options=ATTACH) as stream:
            frames = [frame.event async for frame in stream]
            return frames, await stream.aresult()

    async def aorder():
        return order()

    async def anever():
        never()

    expected = [Chunk("paid"), RunFinished({"text": "paid"})], {"text": "paid"}
    with disk.bus() as bus:
        assert asyncio.run(main(bus, aorder)) == expected
    with disk.bus() as bus:
        assert asyncio.run(main(bus, anever)) == expected


def test_promise_15_the_result_alone_can_be_asked_for(disk):
    with disk.bus() as bus:
        assert bus.stream(order, options=ATTACH).result(TIMEOUT) == {"text": "paid"}
        assert bus.stream(never, options=ATTACH).result(TIMEOUT) == {"text": "paid"}
        assert asyncio.run(aresult(bus.stream(never, options=ATTACH))) == {"text": "paid"}


async def aresult(stream):
    return await stream.aresult()


def test_promise_15_a_live_run_is_followed_and_not_cancelled(bus):
    go = threading.Event()

    def work():
        crewbus.chunk("a")
        assert go.wait(TIMEOUT)
        crewbus.chunk("b")
        return 1

    with bus.stream(work, options=ATTACH) as owner:
        assert next(iter(owner)).event == Chunk("a")
        with bus.stream(never, options=ATTACH) as left:
            assert next(iter(left)).event == Chunk("a")
        with bus.stream(never, options=ATTACH) as follower:
            go.set()
            assert events_of(follower) == [Chunk("a"), Chunk("b"), RunFinished(1)]
            assert follower.result(TIMEOUT) == 1
        assert owner.result(TIMEOUT) == 1


def test_promise_15_a_failed_run_raises_its_failure_where_it_is_asked_for(disk):
    def fail():
        raise ValueError("no credit")

    with disk.bus() as bus, pytest.raises(ValueError, match="no credit"):
        bus.stream(fail, options=ATTACH).result(TIMEOUT)
    with disk.bus() as bus:
        with bus.stream(never, options=ATTACH) as stream:
            assert len(events_of(stream)) == 1  # leaving raises nothing: it follows
        with pytest.raises(ValueError, match="no credit"):
            stream.result(TIMEOUT)


def test_promise_15_of_many_that_start_one_id_one_calls_the_function(disk):
    called = []

    def work():
        called.append(1)
        return order()

    with disk.bus() as bus:

        def start(_):
            with bus.stream(work, options=ATTACH) as stream:
                return stream.result(TIMEOUT)

        assert in_threads(8, start) == [{"text": "paid"}] * 8
    assert called == [1]


def test_promise_15_without_attach_an_id_that_exists_is_refused(bus):
    assert bus.stream(order, options=ATTACH).result(TIMEOUT)
    with pytest.raises(RunIdInUseError):
        bus.stream(never, options=StreamOptions(id="order 7")).result(TIMEOUT)
    with pytest.raises(RunIdInUseError), bus.run(id="order 7"):
        pass


def test_promise_15_an_id_with_other_arguments_or_of_another_function_is_refused(disk):
    def paid(text, *, customer="acme", opaque=None):
        return order(text)

    options = StreamOptions(id="order 7", attach=True)
    with disk.bus() as bus:
        assert bus.stream(paid, "a", customer="b", opaque=object(), options=options).result(TIMEOUT) == {"text": "a"}
    with disk.bus() as bus:
        assert bus.stream(paid, "a", opaque=object(), customer="b", options=options).result(TIMEOUT) == {"text": "a"}
        for args, kwargs in [(("b",), {"customer": "b"}), (("a",), {}), (("a", "b"), {}), (("a",), {"customer": 1})]:
            stream = bus.stream(paid, *args, options=options, **kwargs)
            for _ in range(2):
                with pytest.raises(RunIdInUseError, match=r"run order 7 .* other arguments"):
                    stream.result(TIMEOUT)
        with pytest.raises(RunIdInUseError, match=r"run order 7 .* is one of '.*paid', not of '.*order'"):
            list(bus.stream(order, "a", options=options))
        with pytest.raises(RunIdInUseError, match="other arguments"):
            asyncio.run(aresult(bus.stream(paid, 1, options=options)))


def test_promise_15_an_id_with_other_arguments_is_refused_inside_a_run(bus):
    with bus.run():
        assert bus.stream(order, "a", options=ATTACH).result(TIMEOUT) == {"text": "a"}
        assert bus.stream(order, "a", options=ATTACH).result(TIMEOUT) == {"text": "a"}
        with pytest.raises(RunIdInUseError, match="other arguments"):
            bus.stream(order, "b", options=ATTACH).result(TIMEOUT)


def test_promise_15_an_id_in_use_inside_the_function_is_its_own_failure(bus):
    def work():
        with bus.run(id="order 7"):
            pass

    with pytest.raises(RunIdInUseError):
        bus.stream(work, options=ATTACH).result(TIMEOUT)
    with pytest.raises(RunIdInUseError):
        bus.result("order 7")


def test_promise_15_what_is_not_recorded_can_not_be_followed():
    go = threading.Event()
    with quiet_bus() as bus:
        with bus.stream(lambda: go.wait(TIMEOUT), options=ATTACH) as stream:
            with pytest.raises(RunIdInUseError):
                bus.stream(never, options=ATTACH).result(TIMEOUT)
            go.set()
            assert stream.result(TIMEOUT) is True


@pytest.mark.parametrize("options", [{}, {"id": "a", "resume": "b"}])
def test_promise_15_attaching_needs_an_id(bus, options):
    with pytest.raises(ConsumptionError, match="give id="):
        bus.stream(never, options=StreamOptions(attach=True, **options))


def test_promise_15_a_run_that_died_before_it_began_is_followed(disk):
    """It is queued then, and whoever follows it waits for its beginning."""
    with disk.bus() as bus:
        bus.recording.plant(bus.run("order", id="order 7", tags={"customer": "acme"}))
    with disk.bus() as bus:
        with bus.stream(never, options=ATTACH) as stream:
            with pytest.raises(ResultTimeoutError):
                stream.result(0)
            reader = in_thread(events_of, stream)
            with bus.resume("order 7") as run:
                assert (run.name, run.tags) == ("order", {"customer": "acme"})
                run.set_result("late")
            assert [type(event) for event in reader.result(TIMEOUT)] == [RunFinished]
        assert stream.result(TIMEOUT) == "late"


def test_promise_15_a_claim_that_is_cancelled_leaves_the_run_to_be_resumed(disk, monkeypatch):
    async def main(bus):
        asked, go = asyncio.Event(), threading.Event()
        loop, plant = asyncio.get_running_loop(), bus.recording.plant

        def held(run):
            loop.call_soon_threadsafe(asked.set)
            assert go.wait(TIMEOUT)
            plant(run)

        monkeypatch.setattr(bus.recording, "plant", held)
        entering = asyncio.create_task(bus.stream(never, options=ATTACH).aresult())
        await asked.wait()
        entering.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await entering

    with disk.bus() as bus:
        asyncio.run(main(bus))
        monkeypatch.undo()
        assert bus.recorded_runs()[0].state == "interrupted"
        with bus.resume("order 7") as run:
            run.set_result(1)
        assert bus.stream(never, options=ATTACH).result(TIMEOUT) == 1


def test_promise_15_a_nested_run_is_followed_in_its_process(bus):
    with bus.run(id="outer"):
        assert bus.stream(order, options=ATTACH).result(TIMEOUT) == {"text": "paid"}
        with bus.stream(never, options=ATTACH) as stream:
            assert stream.result(TIMEOUT) == {"text": "paid"}
        assert stream.attached


PROCESS = """
import sys
import crewbus
from crewbus_sqlite import SQLiteStore

def order():
    crewbus.chunk("paid")
    with open({log!r}, "a") as log:
        log.write("called\\n")
    return {{"text": "paid"}}

with crewbus.Bus(entry_points=False) as bus:
    bus.enable_recording(SQLiteStore({path!r}))
    bus.store.roots()
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range({turns}):
        with bus.stream(order, options=crewbus.StreamOptions(id=f"order {{turn}}", attach=True)) as stream:
            frames = [frame.event for frame in stream]
            print(type(frames[0]).__name__, type(frames[-1]).__name__, stream.result(60), flush=True)
"""
TURNS = 20


@needs_sqlite
def test_promise_15_of_several_processes_that_start_one_id_one_calls_the_function(tmp_path):
    log, path = tmp_path / "log", tmp_path / "runs.db"
    source = PROCESS.format(log=str(log), path=str(path), turns=TURNS)
    processes = [spawn(source) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=3 * TIMEOUT)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    for lines in said:
        assert lines == ["Chunk RunFinished {'text': 'paid'}"] * TURNS
    assert log.read_text().splitlines() == ["called"] * TURNS


@needs_sqlite
def test_promise_15_a_result_is_waited_for_in_another_process(tmp_path):
    process = spawn(f"""
import sys
import crewbus
from crewbus_sqlite import SQLiteStore

with crewbus.Bus(entry_points=False) as bus:
    bus.enable_recording(SQLiteStore({str(tmp_path / "runs.db")!r}))
    with bus.run(id="run") as run:
        bus.flush()
        print("started", flush=True)
        sys.stdin.readline()
        run.set_result("from afar")
""")
    assert process.stdout.readline() == "started\n"
    with quiet_bus() as bus:
        from crewbus_sqlite import SQLiteStore

        bus.recording.use_store(SQLiteStore(tmp_path / "runs.db"))
        asked = in_thread(bus.result, "run", 3 * TIMEOUT)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert asked.result(3 * TIMEOUT) == "from afar"
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
