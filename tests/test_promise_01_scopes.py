"""Promise 1: an exited scope never hides a live one, wherever it was exited."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading

import pytest
from helpers import TIMEOUT, Noted, in_thread, quiet_bus

import crewbus
from crewbus import Chunk
from crewbus.scopes import Deferring


@pytest.fixture
def bus():
    with quiet_bus() as bus:
        yield bus


def word_by_word(bus, name="agent"):
    with bus.run(name):
        for word in "abc":
            crewbus.chunk(word)
            yield word


async def word_by_word_async(bus, name="agent"):
    async with bus.run(name):
        for word in "abc":
            crewbus.chunk(word)
            yield word


def close_here(generator):
    generator.close()


def close_in_a_thread(generator):
    in_thread(generator.close).result(TIMEOUT)


def close_in_a_copy(generator):
    contextvars.copy_context().run(generator.close)


def drop(generator):
    del generator
    gc.collect()


@pytest.mark.parametrize("close", [close_here, close_in_a_thread, close_in_a_copy, drop])
def test_promise_01_a_generator_that_is_left_early_does_not_hide_the_callers_run(bus, close):
    with bus.run("caller") as caller:
        stream = bus.subscribe(caller.id)
        generators = [word_by_word(bus)]
        next(generators[0])
        close(generators.pop())
        bus.chunk("1")
        assert bus.emit(Noted("event")).run_id == caller.id
        assert crewbus.current_run() is crewbus.current_run(bus) is caller
        with bus.run("nested") as nested, bus.call("call") as call:
            crewbus.chunk("2")
        assert (nested.parent, call.run) == (caller, nested)
    assert stream.text() == "a12"


@pytest.mark.parametrize("listens", [False, True])
def test_promise_01_the_quick_emission_passes_over_an_exited_run_too(bus, listens):
    """No stream is attached, so no lock is taken."""
    seen = []
    if listens:
        bus.on(Noted, seen.append)
    with bus.run("caller") as caller:
        generator = word_by_word(bus)
        next(generator)
        close_in_a_thread(generator)
        envelopes = [bus.emit(Noted(number)) for number in range(3)]
    assert [envelope.run_id for envelope in envelopes] == [caller.id] * 3
    assert seen == (envelopes if listens else [])


def test_promise_01_an_async_generator_that_is_left_early_does_not_hide_the_callers_run(bus):
    async def main():
        async with bus.run("caller") as caller:
            stream = bus.subscribe(caller.id)
            async for _ in word_by_word_async(bus):
                break
            gc.collect()
            while len(bus.runs) > 1:
                await asyncio.sleep(0)
            crewbus.chunk("mine")
            async with bus.run("next") as nested:
                assert nested.parent is caller
            async with bus.call("call") as call:
                assert call.run is caller
        return [frame.event.text async for frame in stream if isinstance(frame.event, Chunk)]

    assert asyncio.run(main()) == ["a", "mine"]


def test_promise_01_the_cancellation_of_a_generator_reaches_nothing_else(bus):
    async def stopped():
        async with bus.run("stopped") as run:
            yield run

    async def main():
        generator = stopped()
        (await anext(generator)).cancel("the user pressed stop")
        await asyncio.create_task(generator.aclose())
        assert crewbus.current_run() is None
        async with bus.run("next request") as run:
            bus.chunk("x")
        return run.state

    assert asyncio.run(main()) == "finished"


def test_promise_01_calls_and_attempts_that_are_exited_elsewhere_hide_nothing(bus):
    def calls():
        with bus.call("inner", callbacks=[seen.append]):
            yield

    def attempts(run):
        with run.attempt():
            bus.chunk("tried ")
            yield

    seen = []
    with bus.run("caller") as caller:
        stream = bus.subscribe(caller.id)
        with bus.call("outer") as outer:
            for generator in (calls(), attempts(caller)):
                next(generator)
                close_in_a_thread(generator)
                assert crewbus.current_call() is outer
                bus.chunk("mine ")
    assert stream.text() == "mine tried mine "
    assert [type(envelope.event) for envelope in seen] == [crewbus.CallStarted, crewbus.CallCancelled]


def test_promise_01_a_failed_attempt_of_a_generator_discards_its_own_text_only(bus):
    def attempts(run):
        with run.attempt():
            bus.chunk("tried ")
            yield

    with bus.run("caller") as caller:
        stream = bus.subscribe(caller.id)
        generator = attempts(caller)
        next(generator)
        with pytest.raises(ValueError, match="no"):
            in_thread(generator.throw, ValueError("no")).result(TIMEOUT)
        bus.chunk("mine ")
    assert stream.text() == "mine "


def test_promise_01_several_generators_left_early_one_inside_the_other(bus):
    def outer():
        with bus.run("outer"):
            yield from word_by_word(bus, "inner")

    with bus.run("caller") as caller:
        generator = outer()
        next(generator)
        close_in_a_thread(generator)
        assert crewbus.current_run() is caller
        for _ in range(3):
            generator = outer()
            next(generator)
            close_in_a_thread(generator)
        assert bus.emit(Noted("event")).run_id == caller.id


def test_promise_01_generators_of_two_buses(bus):
    with quiet_bus() as other, bus.run("mine") as mine, other.run("others") as others:
        generator = word_by_word(bus)
        next(generator)
        close_in_a_thread(generator)
        assert other.emit(Noted("x")).run_id == others.id
        assert bus.emit(Noted("x")).run_id == mine.id
        assert crewbus.current_run() is others


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_promise_01_generators_that_are_left_in_any_order_leave_nothing(bus, order):
    with bus.run("caller") as caller:
        generators = [word_by_word(bus, name) for name in "AB"]
        for generator in generators:
            next(generator)
        first, second = order
        generators[first].close()
        assert crewbus.current_run().name == "AB"[second]
        generators[second].close()
        assert crewbus.current_run() is caller


def test_promise_01_work_that_outlives_a_nested_run_belongs_to_a_finished_run(bus):
    """It was not exited elsewhere: that work began inside it."""
    with bus.run("outer") as outer:
        stream = bus.subscribe(outer.id)
        with bus.run("inner"):
            inherited = contextvars.copy_context()
        with pytest.warns(crewbus.UnscopedWarning, match="has ended"):
            assert inherited.run(bus.chunk, "late").run_id is None
    assert stream.text() == ""


def test_promise_01_a_run_that_is_interrupted_as_it_is_entered_is_not_current(bus, monkeypatch):
    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        raise Interrupted

    with bus.run("caller") as caller:
        run = bus.run()
        monkeypatch.setattr("crewbus.scopes.run.current_task", interrupt)
        with pytest.raises(Interrupted), run:
            pass
        assert run.ended
        assert crewbus.current_run() is caller


def alive_runs():
    gc.collect()
    return sum(type(found) is crewbus.Run for found in gc.get_objects())


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("how", ["task", "call_soon"])
def test_promise_03_work_that_schedules_its_successor_keeps_no_predecessor(how, inside):
    many = 300

    async def chain(bus, other):
        loop, before = asyncio.get_running_loop(), alive_runs()
        done = loop.create_future()

        def follow(number):
            if number == many:
                done.set_result((alive_runs() - before, other.emit(Noted("elsewhere")).run_id))
            elif how == "task":
                tasks.append(loop.create_task(as_task(number + 1)))
                del tasks[:-2]  # a task holds its context
            else:
                loop.call_soon(tick, number + 1)

        async def as_task(number):
            tick(number)

        def tick(number):
            with bus.run("tick"), bus.call("call"), crewbus.current_call().attempt():
                follow(number)

        tasks = []
        tick(1)
        return await done

    with quiet_bus() as bus, quiet_bus() as other:
        other.on(Noted, lambda _: None)
        if inside:
            with other.run("service") as service:
                alive, run_id = asyncio.run(chain(bus, other))
            assert run_id == service.id
        else:
            alive, run_id = asyncio.run(chain(bus, other))
            assert run_id is None
        assert alive < 10


def test_promise_03_calls_that_schedule_their_successor_in_one_run_keep_no_predecessor(bus):
    """The chain in which an emission is looked up stays short."""
    with bus.run():
        context = contextvars.copy_context()
        for _ in range(50):

            def tick():
                with bus.call("call") as call:
                    return call, contextvars.copy_context()

            call, context = context.run(tick)
            depth, scope = 0, call
            while scope.outer is not None:
                depth, scope = depth + 1, scope.outer
            assert depth == 1


def test_promise_01_a_thread_that_enters_and_exits_runs_beside_a_suspended_generator(bus):
    with bus.run("caller") as caller:
        generator = word_by_word(bus)
        next(generator)
        inside = crewbus.current_run()
        assert inside.parent is caller
        thread = threading.Thread(target=contextvars.copy_context().run, args=(list, word_by_word(bus, "other")))
        thread.start()
        thread.join(TIMEOUT)
        assert crewbus.current_run() is inside
        assert list(generator) == ["b", "c"]
        assert crewbus.current_run() is caller


@pytest.mark.parametrize("scope", ["run", "call", "attempt"])
def test_promise_10_a_generator_that_is_dropped_while_another_runs_lock_is_held_waits_for_no_lock(bus, scope):
    """As a finaliser does it: a third thread holds the generator's lock, and waits for the other one."""
    dropped, holds = threading.Event(), threading.Event()

    def agent():
        with bus.run("agent") as run:
            if scope == "run":
                yield run
            else:
                with bus.call("call") if scope == "call" else run.attempt():
                    yield run

    def hold(lock):
        with Deferring(lock), lock:
            holds.set()
            assert dropped.wait(TIMEOUT)

    generator = agent()
    run = contextvars.copy_context().run(next, generator)
    thread = in_thread(hold, run.tree.lock)
    assert holds.wait(TIMEOUT)
    with quiet_bus() as other, other.run() as held:
        with Deferring(held.tree.lock), held.tree.lock:
            in_time = threading.Timer(TIMEOUT, dropped.set)  # so that the test fails, and does not hang
            in_time.start()
            generator.close()
            assert not dropped.is_set()
            in_time.cancel()
            dropped.set()
            thread.result(TIMEOUT)
    assert run.ended
