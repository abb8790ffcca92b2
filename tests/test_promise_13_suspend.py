"""Promise 13, suspending: a recorded run is released as far as it got, and goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus
from lifecycle_helpers import until

import crewbus
from crewbus import (
    Bus,
    Cancelled,
    Chunk,
    MemoryStore,
    RunCancelledError,
    RunError,
    RunFinished,
    RunSuspended,
    RunSuspendedError,
    StreamOptions,
    Suspended,
)
from crewbus.stores import STATES


@crewbus.event(name="tests.p13.Asked")
class Asked:
    """A handler answers it."""


def text_of(bus: Bus, run_id: str) -> str:
    """What a consumer of the whole record has in the end."""
    with bus.subscribe(run_id, after="start") as stream:
        for _ in stream:
            pass
        return stream.text()


def names(bus: Bus, run_id: str) -> list[str]:
    return [type(envelope.event).__name__ for envelope in bus.record_of(run_id)]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def bus(store):
    with quiet_bus() as bus:
        bus.enable_recording(store)
        yield bus


# One run


def test_promise_13_a_suspended_run_is_released_without_an_end_and_resumed(bus, store):
    made = []

    def agent(run: crewbus.Run, suspend: bool) -> None:
        run.step("one", made.append, 1)
        run.chunk("a")
        if suspend:
            run.suspend("a deploy", until=5.0)
        run.step("two", made.append, 2)
        run.chunk("b")

    with pytest.raises(RunSuspendedError, match="run r was suspended: a deploy"), bus.run(id="r") as run:
        agent(run, suspend=True)
    assert run.state == "suspended"
    assert run.stop_reason == "a deploy"
    info = bus.records.info("r")
    assert (info.state, info.reason, info.until, info.holder) == ("suspended", "a deploy", 5.0, None)
    assert names(bus, "r") == ["RunStarted", "StepStarted", "StepFinished", "Chunk", "RunSuspended"]
    assert not store.info("r").sealed
    with bus.resume("r") as run:
        agent(run, suspend=False)
    assert made == [1, 2]
    assert bus.records.info("r").state == "finished"
    assert text_of(bus, "r") == "ab"


def test_promise_13_listings_tell_suspended_runs_from_others(bus):
    for state in ("finished", "cancelled", "suspended", "failed"):
        with suppress(RunCancelledError, RunSuspendedError, ValueError), bus.run(id=state) as run:
            if state == "cancelled":
                run.cancel()
            elif state == "suspended":
                run.suspend()
            elif state == "failed":
                raise ValueError("broken")
            run.check()
    for state in STATES - {"queued", "running", "interrupted"}:
        assert [info.id for info in bus.recorded_runs(state=state)] == [state]
    assert {info.id for info in bus.recorded_runs(state=["suspended", "failed"])} == {"suspended", "failed"}
    assert bus.records.info("failed").error == "builtins.ValueError: broken"


def test_promise_13_a_run_that_is_not_recorded_is_cancelled():
    with quiet_bus() as bus:
        with pytest.raises(RunCancelledError, match="was cancelled: a deploy"), bus.run() as run:
            run.suspend("a deploy")
            run.check()
        assert run.state == "cancelled"


def test_promise_13_a_run_that_is_suspended_before_it_starts_never_starts(bus):
    run = bus.run(id="r")
    run.suspend("too early")
    with pytest.raises(RunSuspendedError, match="was suspended before it started: too early"), run:
        pytest.fail("it started")
    assert run.state == "suspended"
    assert not bus.recorded_runs()


@pytest.mark.parametrize(("reason", "until"), [(7, None), ("ok", "soon"), ("ok", True)])
def test_promise_13_arguments_are_checked(bus, reason: Any, until: Any):
    with bus.run() as run:
        with pytest.raises(RunError, match="suspended"):
            run.suspend(reason, until)
        assert run.stop_reason is None


def test_promise_13_a_cancellation_ends_a_run_that_is_being_suspended(bus):
    with pytest.raises(RunCancelledError), bus.run(id="r") as run:
        run.suspend()
        run.cancel("for good")
        run.check()
    assert (bus.records.info("r").state, bus.records.info("r").reason) == ("cancelled", "for good")


def test_promise_13_a_suspension_does_not_end_what_is_cancelled(bus):
    with pytest.raises(RunCancelledError), bus.run(id="r") as run:
        run.cancel("for good")
        run.suspend()
        run.check()
    assert bus.records.info("r").state == "cancelled"


# What is in progress stays open


def test_promise_13_open_steps_calls_and_attempts_leave_no_end_in_the_record(bus):
    seen = []

    def agent(run: crewbus.Run, suspend: bool) -> str:
        with bus.run("inner", key="k"), bus.call("model", callbacks=[seen.append]) as call, call.attempt():
            bus.chunk("x")
            if suspend:
                run.suspend()
            return run.step("answer", lambda: "y")

    with pytest.raises(RunSuspendedError), bus.run(id="r") as run:
        agent(run, suspend=True)
    assert names(bus, "r") == ["RunStarted", "RunStarted", "CallStarted", "AttemptStarted", "Chunk", "RunSuspended"]
    assert type(seen[-1].event) is crewbus.CallCancelled, "the call's own callbacks get its end"
    assert seen[-1].seq == seen[-2].seq == 4
    with bus.resume("r") as run:
        agent(run, suspend=False)
    assert text_of(bus, "r") == "x"


def test_promise_13_no_handler_of_exceptions_makes_an_outcome_of_it(bus):
    """What the work makes of the suspension is no event, no result and no failure."""

    def agent(run: crewbus.Run, suspend: bool) -> str:
        def step() -> str:
            try:
                if suspend:
                    run.suspend()
                    run.check()
            except BaseException:
                bus.chunk("[aborted]")
                return "nothing"
            bus.chunk("text")
            return "answer"

        try:
            return run.step("answer", step)
        except Exception:
            pytest.fail("it is no Exception")
        finally:
            bus.chunk("!")

    with pytest.raises(RunSuspendedError), bus.run(id="r") as run:
        agent(run, suspend=True)
    assert names(bus, "r") == ["RunStarted", "StepStarted", "RunSuspended"]
    with bus.resume("r") as run:
        assert agent(run, suspend=False) == "answer"
    assert text_of(bus, "r") == "text!"


def test_promise_13_work_that_turns_it_into_a_failure_has_not_failed(bus):
    def agent(run: crewbus.Run, suspend: bool) -> None:
        def step() -> None:
            try:
                if suspend:
                    run.suspend()
                    run.check()
            except BaseException as error:
                raise ValueError("the model is gone") from error

        with bus.call("model"):
            run.step("answer", step)

    with suppress(ValueError), bus.run(id="r") as run:
        agent(run, suspend=True)
    assert bus.records.info("r").state == "suspended"
    assert names(bus, "r") == ["RunStarted", "CallStarted", "StepStarted", "RunSuspended"]
    with bus.resume("r") as run:
        agent(run, suspend=False)
    assert bus.records.info("r").state == "finished"


def test_promise_13_each_step_call_and_attempt_that_it_begins_raises_again(bus):
    with pytest.raises(RunSuspendedError), bus.run(id="r") as run:
        run.suspend()
        with pytest.raises(Suspended):
            bus.chunk("a")
        assert bus.chunk("b") is None, "what it emits on its way out is discarded"
        for begin in (
            lambda: run.step("s", pytest.fail),
            lambda: bus.call("m").start(),
            lambda: run.attempt().start(),
            lambda: bus.run().start(),
            lambda: run.scope().__enter__(),
            lambda: bus.submit(pytest.fail),
        ):
            with pytest.raises(Suspended):
                begin()
        run.check()
    assert names(bus, "r") == ["RunStarted", "RunSuspended"]


def test_promise_13_a_nested_run_suspends_the_whole_root(bus):
    with pytest.raises(RunSuspendedError), bus.run(id="r"), bus.run(id="inner") as inner:
        with bus.subscribe("inner") as frames:
            inner.suspend()
            with suppress(Suspended):
                inner.check()
            inner.finish()
            assert [type(frame.event) for frame in frames] == [RunSuspended]
        assert inner.state == "suspended"
        inner.root.check()
    assert names(bus, "r") == ["RunStarted", "RunStarted", "RunSuspended"]
    assert bus.records.info("r").state == "suspended"


def test_promise_13_handlers_finish_what_they_do(bus):
    noted = []

    @bus.on(Asked)
    def note(envelope: crewbus.Envelope) -> None:
        with bus.run("note"):
            run.suspend()
            noted.append(bus.chunk("noted"))

    with pytest.raises(RunSuspendedError), bus.run(id="r") as run:
        bus.emit(Asked())
        run.check()
    assert noted[0] is not None
    assert names(bus, "r") == ["RunStarted", "Asked", "RunStarted", "Chunk", "RunFinished", "RunSuspended"]


# From other threads and tasks


def test_promise_13_it_interrupts_what_the_task_awaits(bus):
    async def agent(event: asyncio.Event | None) -> None:
        @crewbus.step(key="wait")
        async def wait() -> int:
            bus.chunk("w")
            if event is not None:
                event.set()
                await asyncio.sleep(2 * TIMEOUT)
            return 1

        bus.chunk("a")
        await wait()
        bus.chunk("b")

    async def main() -> None:
        event = asyncio.Event()

        async def first() -> None:
            async with bus.run(id="r"):
                await agent(event)

        task = asyncio.create_task(first())
        await event.wait()
        bus.runs[0].suspend()
        with pytest.raises(RunSuspendedError):
            await asyncio.wait_for(task, TIMEOUT)
        async with bus.resume("r"):
            await agent(None)

    asyncio.run(main())
    assert text_of(bus, "r") == "awb"
    assert names(bus, "r").count("StepFinished") == 1


def test_promise_13_a_step_that_handles_the_cancellation_of_its_task_has_no_result(bus):
    async def agent(run: crewbus.Run, event: asyncio.Event | None) -> str:
        async def wait() -> str:
            try:
                if event is not None:
                    event.set()
                    await asyncio.sleep(2 * TIMEOUT)
            except asyncio.CancelledError:
                return "timed out"
            return "answer"

        return await run.step("wait", wait)

    async def main() -> None:
        event = asyncio.Event()

        async def first() -> None:
            async with bus.run(id="r") as run:
                await agent(run, event)

        task = asyncio.create_task(first())
        await event.wait()
        bus.runs[0].suspend()
        with pytest.raises(RunSuspendedError):
            await asyncio.wait_for(task, TIMEOUT)
        async with bus.resume("r") as run:
            assert await agent(run, None) == "answer"

    asyncio.run(main())


def test_promise_13_the_owner_of_a_stream_is_told(bus):
    begun = threading.Event()

    def agent() -> str:
        bus.chunk("a")
        begun.set()
        while True:
            crewbus.current_run().check()

    with bus.stream(agent, options=StreamOptions(id="r")) as stream:
        next(iter(stream))
        begun.wait(TIMEOUT)
        stream.run.suspend("a deploy")
        assert [frame.event for frame in stream] == [RunSuspended("a deploy")]
        with pytest.raises(RunSuspendedError, match="run r was suspended: a deploy"):
            stream.result()
    assert bus.records.info("r").state == "suspended"


def test_promise_13_leaving_the_stream_of_a_run_that_is_being_suspended_does_not_cancel_it(bus):
    begun, go = threading.Event(), threading.Event()

    def agent() -> None:
        bus.chunk("a")
        begun.set()
        go.wait(TIMEOUT)
        bus.chunk("b")

    with bus.stream(agent, options=StreamOptions(id="r")) as stream:
        begun.wait(TIMEOUT)
        stream.run.suspend()
        go.set()
    assert bus.records.info("r").state == "suspended"


# Followers


def test_promise_13_followers_see_a_pause(bus, store):
    """A follower waits while the run is suspended, from before it or in it, also when its holder is gone."""
    with quiet_bus() as other:
        other.recording.use_store(store)
        with pytest.raises(RunSuspendedError), bus.run(id="r") as run:
            bus.chunk("a")
            before = other.subscribe("r", after="start")
            assert next(iter(before)).event == Chunk("a")
            run.suspend()
            run.check()
        within = other.subscribe("r", after=before.cursor)
        readers = [in_thread(list, stream) for stream in (before, within)]
        bus.close()
        with quiet_bus() as resuming:
            resuming.recording.use_store(store)
            with resuming.resume("r"):
                resuming.chunk("a")
                resuming.chunk("b")
            for reader in readers:
                frames = [frame.event for frame in reader.result(TIMEOUT)]
                assert frames == [Chunk("b"), RunFinished()]


def test_promise_13_a_consumer_that_got_the_suspension_follows_by_its_cursor(bus):
    def agent() -> None:
        bus.chunk("a")
        crewbus.current_run().suspend()
        crewbus.current_run().check()

    with bus.stream(agent, options=StreamOptions(id="r")) as stream:
        assert [type(frame.event) for frame in stream] == [Chunk, RunSuspended]
        cursor = stream.cursor
        with suppress(RunSuspendedError):
            stream.result()
    with bus.subscribe("r", after=cursor) as follower:
        reader = in_thread(list, follower)
        with bus.resume("r"):
            bus.chunk("a")
            bus.chunk("b")
        assert [frame.event for frame in reader.result(TIMEOUT)] == [Chunk("b"), RunFinished()]


def test_promise_13_a_fork_of_a_suspended_run_does_not_pause(bus):
    with pytest.raises(RunSuspendedError), bus.run(id="r") as run:
        run.suspend()
        run.check()
    fork = bus.fork("r")
    assert bus.records.info(fork).state == "interrupted"
    with bus.subscribe(fork, after="start") as stream:
        assert [type(frame.event) for frame in stream] == [crewbus.RunInterrupted]


# Closing the bus


def test_promise_13_closing_a_bus_suspends_recorded_runs_and_cancels_others(store):
    begun = [threading.Event() for _ in range(3)]

    def work(number: int) -> None:
        begun[number].set()
        while True:
            crewbus.current_run().check()

    def run_of_a_thread() -> None:
        with bus.run(id="thread"):
            work(2)

    bus = Bus(entry_points=False)
    bus.enable_recording(store)
    recorded = bus.stream(work, 0, options=StreamOptions(id="stream"))
    plain = bus.stream(work, 1, options=StreamOptions(record=False))
    with suppress(RunSuspendedError, RunCancelledError), recorded, plain:
        thread = in_thread(run_of_a_thread)
        for event in begun:
            event.wait(TIMEOUT)
        bus.close(suspend=True)
        assert (recorded.run.state, plain.run.state) == ("suspended", "cancelled")
        with pytest.raises(RunSuspendedError):
            thread.result(TIMEOUT)
        with pytest.raises(RunSuspendedError):
            recorded.result()
    with quiet_bus() as other:
        other.recording.use_store(store)
        assert {info.id for info in other.recorded_runs(state="suspended")} == {"stream", "thread"}
        assert {info.reason for info in other.recorded_runs()} == {"the bus is closed"}


def test_promise_13_work_that_does_not_stop_in_time_is_released_all_the_same(store):
    begun, go = threading.Event(), threading.Event()

    def deaf() -> None:
        with suppress(Suspended, RunSuspendedError), bus.run(id="r") as run:

            def step() -> int:
                begun.set()
                go.wait(TIMEOUT)
                return 1

            run.step("deaf", step)

    bus = Bus(entry_points=False)
    bus.enable_recording(store)
    thread = in_thread(deaf)
    begun.wait(TIMEOUT)
    with pytest.warns(crewbus.GraceWarning, match="run r"):
        bus.close(timeout=0.01, suspend=True)
    assert store.info("r").holder is None
    assert store.summary("r").state == "suspended"
    made = []
    with quiet_bus() as other:
        other.recording.use_store(store)
        with other.resume("r") as run:
            go.set()
            with suppress(BaseException):
                thread.result(TIMEOUT)
            run.step("deaf", lambda: made.append(1))
        assert made == [1]
        assert names(other, "r").count("StepFinished") == 1


def test_promise_13_closing_inside_a_run_of_ones_own_does_not_wait_for_it(store):
    bus = Bus(entry_points=False)
    bus.enable_recording(store)
    with pytest.raises((RunSuspendedError, crewbus.BusClosedError, Suspended)), bus.run(id="r") as run:
        with pytest.warns(crewbus.GraceWarning, match="run r"):
            bus.close(suspend=True)
        run.check()
    assert store.summary("r").state == "suspended"


def test_promise_13_closing_on_the_loop_on_which_a_run_awaits_names_aclose(store):
    async def main() -> None:
        bus = Bus(entry_points=False)
        bus.enable_recording(store)

        async def waits() -> None:
            async with bus.run(id="r"):
                await asyncio.sleep(2 * TIMEOUT)

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        while not bus.runs:
            await asyncio.sleep(0)
        with pytest.raises(crewbus.FlushError, match="aclose"):
            bus.close(suspend=True)
        await bus.aclose(suspend=True)
        with pytest.raises(RunSuspendedError):
            await task

    asyncio.run(main())
    assert store.summary("r").state == "suspended"


# At every boundary


class Subject:
    """An agent with everything in it, and what it did to the world."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.made: list[str] = []

    def step(self, name: str, *texts: str, fails: int = 0) -> str:
        def made() -> str:
            for text in texts:
                self.bus.chunk(text)
            self.made.append(name)
            if self.made.count(name) <= fails:
                raise ValueError(name)
            return name

        return crewbus.current_run().step(name, made)

    def __call__(self) -> str:
        bus, run = self.bus, crewbus.current_run()
        bus.chunk("(")
        self.step("plan", "p", "q")
        with bus.call("model") as call, call.attempt():
            bus.chunk("m")
            self.step("tool", "t")
        with bus.run("inner", key="k"):
            bus.chunk("[")
            run.checkpoint("middle")
            self.step("deep", "d")
            with suppress(ValueError):
                self.step("fails", "f", fails=1)
            bus.chunk("]")
        for number in range(2):
            with suppress(ValueError), run.attempt():
                bus.chunk(f"try {number}")
                if number == 0:
                    raise ValueError("again")
        self.step("last", "l")
        bus.chunk(")")
        return "done"


def perform(store: MemoryStore, suspend_after: int | None = None) -> list[str]:
    """Start or resume the run, suspend it once so many new events were seen, and return which steps were executed."""
    with quiet_bus() as bus:
        bus.enable_recording(store)
        subject, events = Subject(bus), count()

        @bus.on(object)
        def look(envelope: crewbus.Envelope) -> None:
            if not envelope.replayed and next(events) == suspend_after:
                bus.runs[0].suspend()

        with suppress(RunSuspendedError), bus.resume("r") if store.roots() else bus.run(id="r"):
            subject()
    return subject.made


def finished(store: MemoryStore) -> tuple[str, int]:
    """The text of the run, and how many steps are recorded as finished."""
    with quiet_bus() as bus:
        bus.enable_recording(store)
        assert bus.records.info("r").state == "finished"
        return text_of(bus, "r"), names(bus, "r").count("StepFinished")


UNDISTURBED = MemoryStore()
MADE = perform(UNDISTURBED)


@pytest.mark.parametrize("again", [None, 3])
@pytest.mark.parametrize("at", range(UNDISTURBED.info("r").last))
def test_promise_13_a_suspension_at_any_event_changes_neither_text_nor_steps(at, again):
    """``again``: after how many new events it is suspended once more."""
    store = MemoryStore()
    made = perform(store, at)
    assert store.summary("r").state == "suspended"
    made += perform(store, again)
    if again is not None and store.summary("r").state == "suspended":
        made += perform(store)
    assert finished(store) == finished(UNDISTURBED)
    # A step that failed, or had no outcome yet, may be executed again.
    assert [*dict.fromkeys(made)] == MADE


def test_promise_13_is_a_sibling_of_cancelled():
    assert not issubclass(Suspended, Cancelled | Exception)
    assert issubclass(RunSuspendedError, Suspended | RunError)


def test_promise_13_a_run_that_starts_while_the_bus_is_closed_is_suspended():
    """The bus is closed when the start of the run is being written: the run is live, and not running yet."""
    store = crewbus.MemoryStore()
    bus = crewbus.Bus(entry_points=False)
    closing = threading.Thread(target=partial(bus.close, suspend=True))

    class Starting:
        @crewbus.hookimpl
        def crewbus_run_start(self, run):
            closing.start()
            until(lambda: run.stop is not None or bus.closed)

    bus.enable_recording(store)
    bus.plugins.register(Starting())
    with pytest.raises(crewbus.RunSuspendedError), bus.run("agent", id="r") as run:
        run.step("first", lambda: pytest.fail("it is suspended"))
    closing.join(TIMEOUT)
    assert store.summary("r").state == "suspended"
