"""Promise 9, cancelling: a cancellation ends a run's own work, wherever that waits, and no other work."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from helpers import TIMEOUT

import crewbus
from crewbus import Cancelled, RunCancelled, RunCancelledError, RunFailed, RunFinished, StreamOptions
from crewbus.scopes import Stop


@crewbus.event
class Billed:
    tokens: int


class FailedError(BaseException):
    """What a library raises that is no Exception, such as pytest.fail()."""


@pytest.fixture
def bus() -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False) as bus:
        yield bus


@pytest.fixture
def ends(bus: crewbus.Bus) -> list[Any]:
    """The terminal events, by the name of their run."""
    seen = list[Any]()

    class Watcher:
        @crewbus.hookimpl
        def crewbus_emit(self, run: Any, envelope: crewbus.Envelope) -> None:
            if isinstance(envelope.event, crewbus.RunEnded):
                seen.append((run.name.rpartition(".")[2], envelope.event))

    bus.plugins.register(Watcher())
    return seen


async def forever() -> None:
    await asyncio.Event().wait()


def main(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))


# The task that awaits


def from_itself(run: crewbus.Run) -> None:
    run.cancel("enough")


def from_a_task(run: crewbus.Run) -> None:
    asyncio.get_running_loop().call_soon(run.cancel, "enough")


def from_a_thread(run: crewbus.Run) -> None:
    threading.Thread(target=run.cancel, args=("enough",)).start()


def from_a_handler(run: crewbus.Run) -> None:
    @run.bus.on(Billed)
    def cancel(_: crewbus.Envelope) -> None:
        run.cancel("enough")

    run.emit(Billed(1))


def from_a_finaliser(run: crewbus.Run) -> None:
    class Dropped:
        def __del__(self) -> None:
            run.mark_stopped(Stop("enough"))

    Dropped()


CANCELLERS = [from_itself, from_a_task, from_a_thread, from_a_handler, from_a_finaliser]


@pytest.mark.parametrize("cancel", CANCELLERS)
def test_promise_09_cancelling_interrupts_what_the_run_awaits(bus, ends, cancel):
    async def agent():
        async with bus.run("agent") as run:
            cancel(run)
            await forever()

    async def outer():
        with pytest.raises(RunCancelledError, match="was cancelled: enough") as caught:
            await agent()
        assert asyncio.current_task().cancelling() == 0
        return caught.value

    assert isinstance(main(outer()), Exception)
    assert ends == [("agent", RunCancelled("enough"))]


@pytest.mark.parametrize("cancel", CANCELLERS)
def test_promise_09_cancelling_interrupts_a_streams_work(bus, ends, cancel):
    async def agent():
        cancel(crewbus.current_run())
        await forever()

    async def outer():
        async with bus.stream(agent) as stream:
            with pytest.raises(RunCancelledError, match="enough"):
                await stream.aresult()

    main(outer())
    assert ends == [("agent", RunCancelled("enough"))]


def test_promise_09_cancelling_interrupts_async_work_in_a_thread(bus, ends):
    async def agent():
        crewbus.current_run().cancel("enough")
        await forever()

    with bus.stream(agent) as stream, pytest.raises(RunCancelledError):
        stream.result(TIMEOUT)
    assert ends == [("agent", RunCancelled("enough"))]


def test_promise_09_a_run_cancelled_by_its_tree_is_interrupted_in_each_task(bus, ends):
    async def part(name, ready):
        async with bus.run(name):
            ready.set()
            await forever()

    async def outer():
        with pytest.raises(RunCancelledError, match="enough"):
            async with bus.run("root") as root:
                ready = [asyncio.Event(), asyncio.Event()]
                tasks = [asyncio.create_task(part(f"part {i}", one)) for i, one in enumerate(ready)]
                for one in ready:
                    await one.wait()
                root.cancel("enough")
                await asyncio.wait(tasks)  # the root is interrupted here
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    main(outer())
    assert sorted(ends, key=str) == [(name, RunCancelled("enough")) for name in ("part 0", "part 1", "root")]


def test_promise_09_a_group_of_tasks_in_a_cancelled_run(bus, ends):
    async def part(run):
        await asyncio.sleep(0)
        run.chunk("x")
        await forever()

    async def outer():
        with pytest.raises(RunCancelledError, match="enough"):
            async with bus.run("agent") as run:
                async with asyncio.TaskGroup() as group:
                    group.create_task(part(run))
                    group.create_task(part(run))
                    run.cancel("enough")

    main(outer())
    assert ends == [("agent", RunCancelled("enough"))]


@pytest.mark.parametrize("inside", [False, True])
def test_promise_09_a_timeout_stays_a_timeout(bus, ends, inside):
    async def outer():
        if inside:
            async with bus.run("agent"):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await forever()
            return
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), bus.run("agent"):
                await forever()

    main(outer())
    assert ends == [("agent", RunFinished() if inside else RunCancelled("CancelledError"))]


def test_promise_09_a_cancellation_inside_a_timeout_is_no_timeout(bus):
    async def outer():
        with pytest.raises(RunCancelledError, match="enough"):
            async with asyncio.timeout(TIMEOUT), bus.run() as run, asyncio.timeout(TIMEOUT):
                run.cancel("enough")
                await forever()

    main(outer())


def test_promise_09_a_task_that_is_cancelled_too_stays_cancelled(bus, ends):
    async def agent(entered):
        async with bus.run("agent") as run:
            entered.set_result(run)
            await forever()

    async def outer():
        entered = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(agent(entered))
        (await entered).cancel("enough")
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    main(outer())
    assert ends == [("agent", RunCancelled("enough"))]


def test_promise_09_clean_up_after_an_interruption_may_emit_and_await(bus):
    done = []

    async def agent():
        try:
            async with bus.run() as run:
                run.cancel()
                try:
                    await forever()
                finally:
                    done.append(bus.chunk("bye") is not None)
                    await asyncio.sleep(0)
                    with bus.call("close the connection"):
                        done.append(bus.chunk("closed") is not None)
        except RunCancelledError:
            done.append("left")

    main(agent())
    assert done == [True, True, "left"]


def test_promise_09_a_crewbus_call_before_the_interruption_takes_its_place(bus):
    async def outer():
        with pytest.raises(RunCancelledError):
            async with bus.run() as run:
                run.cancel()
                with pytest.raises(Cancelled):
                    bus.chunk("x")
                await asyncio.sleep(0)  # notified already
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                raise run.stop.error(run.id)
        assert asyncio.current_task().cancelling() == 0

    main(outer())


def test_promise_09_work_that_was_left_is_not_interrupted(bus):
    async def outer():
        with suppress(RunCancelledError):
            async with bus.run() as run:
                run.cancel()
                bus.chunk("x")
        async with bus.run() as run:
            run.cancel()
        for _ in range(4):
            await asyncio.sleep(0)
        assert asyncio.current_task().cancelling() == 0
        assert run.state == "cancelled"

    main(outer())


def test_promise_09_a_run_cancelled_before_its_work_began_does_not_begin_it(bus, ends):
    begun = []

    async def agent():
        begun.append(1)

    async def outer():
        async with bus.stream(agent) as stream:
            stream.run.cancel("enough")
            with pytest.raises(RunCancelledError, match="enough"):
                await stream.aresult()

    main(outer())
    assert begun == []
    assert ends == [("agent", RunCancelled("enough"))]


# How a cancelled run ends


@pytest.mark.parametrize("swallowed", [False, True])
def test_promise_09_a_cancelled_run_never_ends_as_finished(bus, ends, swallowed):
    with bus.run("agent") as run:
        run.cancel("enough")
        if swallowed:
            with pytest.raises(Cancelled):
                bus.chunk("x")
    run.cancel("again")
    assert ends == [("agent", RunCancelled("enough"))]
    assert run.stop_reason == "enough"


def test_promise_09_work_that_swallows_its_cancellation_has_no_result(bus):
    def agent():
        crewbus.current_run().cancel("enough")
        with suppress(Cancelled):
            bus.chunk("x")
        return 42

    with bus.stream(agent) as stream, pytest.raises(RunCancelledError, match="enough"):
        stream.result(TIMEOUT)
    assert stream.run.state == "cancelled"


def test_promise_09_cancelling_a_run_that_has_ended_changes_nothing(bus, ends):
    with bus.run("agent") as run:
        bus.chunk("x")
    run.cancel("too late")
    run.check()
    assert not run.is_stopped()
    assert ends == [("agent", RunFinished())]


# What surrounds a cancelled run


def test_promise_09_the_parent_of_a_cancelled_run_goes_on(bus, ends):
    def root():
        for number in range(3):
            try:
                with bus.run(f"child {number}") as run:
                    if number == 1:
                        run.cancel("skip this one")
                    bus.chunk(f"{number} ")
            except Exception as error:
                assert isinstance(error, RunCancelledError)

    with bus.stream(root) as stream:
        assert stream.text() == "0 2 "
    assert [event for _, event in ends] == [
        RunFinished(), RunCancelled("skip this one"), RunFinished(), RunFinished(),
    ]  # fmt: skip


def test_promise_09_the_outermost_cancelled_run_is_left_at_once(bus, ends):
    steps = []
    with pytest.raises(RunCancelledError, match="all of it"), bus.run("root") as root:
        try:
            with bus.run("child") as child:
                child.cancel("this part")
                root.cancel("all of it")
                bus.chunk("x")
        except Exception:
            steps.append("the child's parent goes on")
    assert steps == []
    assert ends == [("child", RunCancelled("this part")), ("root", RunCancelled("all of it"))]


def test_promise_09_a_run_of_another_bus_around_it_goes_on(bus):
    with crewbus.Bus(entry_points=False) as other, other.run() as outer:
        with pytest.raises(RunCancelledError), bus.run() as inner:
            inner.cancel()
            bus.chunk("x")
        assert other.chunk("x") is not None
    assert outer.state == "finished"


def test_promise_09_a_cancelled_generator_cancels_nothing_around_it(bus):
    async def stopped():
        async with bus.run("stopped") as run:
            yield run

    async def outer():
        generator = stopped()
        (await anext(generator)).cancel("the user pressed stop")
        await asyncio.create_task(generator.aclose())
        assert crewbus.current_run() is None
        async with bus.run("next request") as run:
            assert bus.chunk("x").run_id == run.id
        assert run.state == "finished"

    main(outer())


# Handlers


@pytest.mark.filterwarnings("ignore::crewbus.UnscopedWarning")
@pytest.mark.parametrize("how", ["inline", "async", "background", "async background", "callback", "async callback"])
def test_promise_09_a_handler_is_not_cancelled_with_the_run(bus, how):
    ledger = []

    def bill(envelope: crewbus.Envelope) -> None:
        if not isinstance(envelope.event, crewbus.CallCancelled):
            return
        run = crewbus.current_run()
        with bus.run("billing") as billing:
            with bus.call("database"):
                bus.emit(Billed(3))
        run.emit(Billed(3))
        run.check()
        ledger.append((run.is_stopped(), billing.state))

    async def bill_async(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        bill(envelope)

    handler = bill_async if "async" in how else bill
    if "callback" not in how:
        bus.on(crewbus.CallCancelled, handler, background="background" in how)

    async def agent():
        with bus.run("agent"), bus.call("gpt", callbacks=[handler] if "callback" in how else ()):
            crewbus.current_run().cancel("enough")
            await forever()

    async def outer():
        with pytest.raises(RunCancelledError):
            await agent()
        await bus.aflush()

    main(outer())
    assert ledger == [(True, "finished")]


def test_promise_09_an_observer_and_the_hooks_of_runs_are_not_cancelled(bus):
    noted, seen = [], []

    class Watcher:
        @crewbus.hookimpl
        def crewbus_emit(self, envelope):
            if isinstance(envelope.event, crewbus.Chunk):
                noted.append(bus.emit(Billed(1)) is not None)

        @crewbus.hookimpl
        def crewbus_run_finish(self, run):
            run.check()
            seen.append(run.state)

    bus.plugins.register(Watcher())
    with suppress(RunCancelledError), bus.run() as run:
        noted.clear()

        @bus.on(crewbus.Chunk)
        def cancel(_):
            run.cancel()

        bus.chunk("x")
        bus.off(crewbus.Chunk, cancel)
        with pytest.raises(Cancelled):
            bus.chunk("y")
        bus.chunk("z")
    assert noted == [True, True]
    assert seen == ["cancelled"]


def test_promise_09_a_run_that_a_handler_starts_can_be_cancelled(bus):
    """Its own cancellation reaches the handler, which does its work; its handlers are spared in turn."""
    outcomes = []

    @bus.on(Billed)
    def spared(_):
        crewbus.current_run().check()
        outcomes.append("spared")

    @bus.on(crewbus.Chunk)
    def handler(_):
        try:
            with bus.run("audit") as audit:
                audit.cancel("enough")
                bus.emit(Billed(1))
        except RunCancelledError:
            outcomes.append("cancelled")
        with suppress(RunCancelledError), bus.run("audit") as audit:
            bus.on(Billed, lambda _: audit.cancel("enough"))
            bus.emit(Billed(1))

    with bus.run() as run:
        bus.chunk("x")
    assert outcomes == ["cancelled", "spared"]
    assert run.state == "finished"


# What is no cancellation


def fails() -> None:
    raise FailedError("assert 1 == 2")


def fails_in_a_group() -> None:
    raise BaseExceptionGroup("x", [ValueError("a bug"), FailedError("y")])


def exits() -> None:
    sys.exit("the configuration is missing")


async def fails_async() -> None:
    fails()


async def exits_async() -> None:
    exits()


@pytest.mark.parametrize("work", [fails, fails_in_a_group, exits, fails_async, exits_async])
def test_promise_09_an_unexpected_base_exception_is_a_failure(bus, ends, work):
    with pytest.raises((FailedError, BaseExceptionGroup, SystemExit)), bus.stream(work) as stream:
        list(stream)
    assert stream.run.state == "failed"
    assert isinstance(ends[-1][1], RunFailed)
    with pytest.raises((FailedError, BaseExceptionGroup, SystemExit)):
        stream.result()


@pytest.mark.parametrize("work", [fails, fails_in_a_group, exits])
def test_promise_09_an_unexpected_base_exception_leaves_the_with_as_it_is(bus, ends, work):
    call_ends = []
    bus.on(crewbus.CallEnded, lambda envelope: call_ends.append(type(envelope.event)))
    with pytest.raises((FailedError, BaseExceptionGroup, SystemExit)), bus.run("agent"):
        with bus.run("nested"), bus.call("gpt"):
            work()
    assert [(name, type(event)) for name, event in ends] == [("nested", RunFailed), ("agent", RunFailed)]
    assert call_ends == [crewbus.CallFailed]


def test_promise_09_submitted_work_keeps_its_traceback(bus):
    with pytest.raises(FailedError) as caught:
        bus.submit(fails).result(TIMEOUT)
    assert "fails" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_promise_09_an_interrupt_ends_a_run_as_cancelled_and_stays_what_it_is(bus, ends, error):
    with pytest.raises(type(error)) as caught, bus.run("agent"):
        raise error
    assert caught.value is error
    assert ends == [("agent", RunCancelled(type(error).__name__))]


def test_promise_09_a_mixed_group_in_a_cancelled_run_is_a_failure(bus, ends):
    with pytest.raises(BaseExceptionGroup), bus.run("agent") as run:
        run.cancel("enough")
        with pytest.raises(Cancelled) as caught:
            bus.chunk("x")
        raise BaseExceptionGroup("both", [caught.value, ValueError("a bug")])
    assert isinstance(ends[0][1], RunFailed)


# Who is notified, and how often


def in_threads(count: int, call: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)


def test_promise_09_each_thread_is_notified_exactly_once(bus):
    """Whatever the order in which the threads claim the notification, and though idents are reused."""
    for _ in range(20):
        notified, barrier = [0] * 6, threading.Barrier(6)
        with bus.run() as run:
            run.cancel("enough")

            def work(number, run=run, notified=notified, barrier=barrier):
                barrier.wait(TIMEOUT)
                for _ in range(3):
                    try:
                        run.check()
                    except Cancelled:
                        notified[number] += 1

            in_threads(6, work)
            for number in range(6):  # one after the other, so that they share an ident
                barrier = threading.Barrier(1)
                in_threads(1, lambda _, number=number, work=work, barrier=barrier: work(number, barrier=barrier))
        assert notified == [2] * 6


def test_promise_09_two_cancellers_count_as_one(bus):
    with bus.run() as run:
        in_threads(4, lambda number: run.cancel(str(number)))
        with pytest.raises(Cancelled):
            run.check()
        run.check()


def test_promise_09_a_thread_of_a_cancelled_run_prints_no_traceback(bus, monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)

    def work():
        bus.chunk("x")
        raise AssertionError("unreachable")

    def fails():
        raise RunCancelledError("of another run")

    with bus.run() as run:
        run.cancel()
        for function in (work, fails):
            thread = crewbus.Thread(target=function)
            thread.start()
            thread.join(TIMEOUT)
    assert [args.exc_type for args in printed] == [RunCancelledError]


@pytest.mark.filterwarnings("ignore::crewbus.GraceWarning")
@pytest.mark.parametrize("inside", ["the run", "a call", "a nested run", "an attempt", "a step"])
def test_promise_09_work_that_was_given_up_is_notified_at_each_call(bus, inside):
    entered, given_up, calls, seen = threading.Event(), threading.Event(), [], []
    bus.on(Billed, seen.append)

    def again():
        entered.set()
        assert given_up.wait(TIMEOUT)
        for attempt in (
            lambda: bus.emit(Billed(1)),
            lambda: bus.chunk("x"),
            lambda: bus.call("gpt").start(),
            lambda: bus.run().start(),
            lambda: crewbus.current_run().step("step", int),
            lambda: crewbus.current_run().attempt().start(),
            lambda: bus.submit(int),
        ):
            try:
                attempt()
                calls.append("went on")
            except Cancelled:
                calls.append("cancelled")

    def agent():
        bus.chunk("a")
        if inside == "the run":
            again()
        elif inside == "a call":
            with bus.call("gpt"):
                again()
        elif inside == "a nested run":
            with suppress(RunCancelledError), bus.run("nested"):
                again()
        elif inside == "an attempt":
            with crewbus.current_run().attempt():
                again()
        else:
            crewbus.current_run().step("outer", again)

    with bus.stream(agent, options=StreamOptions(grace=0)) as stream:
        next(iter(stream))
        assert entered.wait(TIMEOUT)
    given_up.set()
    assert stream._task.wait(TIMEOUT)
    assert calls == ["cancelled"] * 7
    assert seen == []


@pytest.mark.filterwarnings("ignore::crewbus.GraceWarning")
def test_promise_09_async_work_that_was_given_up_is_interrupted_again(bus):
    interrupted = []

    async def stubborn():
        bus.chunk("a")
        for _ in range(2):
            try:
                await forever()
            except asyncio.CancelledError:
                interrupted.append(1)

    async def outer():
        async with bus.stream(stubborn, options=StreamOptions(grace=0)) as stream:
            await anext(stream)
        assert await stream._task.wait_async(TIMEOUT)

    main(outer())
    assert interrupted == [1, 1]


def test_promise_09_a_dropped_stream_interrupts_its_work(bus, ends):
    async def agent():
        bus.chunk("a")
        await forever()

    async def outer():
        stream = bus.stream(agent)
        await anext(stream)
        task = stream._task
        del stream
        gc.collect()
        assert await task.wait_async(TIMEOUT)

    main(outer())
    assert ends == [("agent", RunCancelled("its stream was dropped"))]
