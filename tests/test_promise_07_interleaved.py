"""Promise 7: callbacks of a context, in generators that take turns or are closed elsewhere; attempts made elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus

import crewbus
from crewbus import Chunk, Retracted


def kept(kind):
    """How many objects of the class of that name there are."""
    gc.collect()
    return sum(type(found).__name__ == kind for found in gc.get_objects())


@pytest.fixture
def bus():
    with quiet_bus() as bus:
        yield bus


class Agents:
    """Generators that hold callbacks each, and what the callbacks got."""

    def __init__(self, bus):
        self.bus = bus
        self.got = []

    def agent(self, name):
        with self.bus.callbacks(lambda envelope: self.got.append((name, type(envelope.event).__name__))):
            yield
            with self.bus.call(f"call of {name}"):
                pass
            yield

    def called(self):
        """Which callbacks get the events of a call that starts now."""
        before, self.got = self.got, []
        with self.bus.call("now"):
            pass
        found, self.got = sorted({name for name, _ in self.got}), before
        return found


@pytest.mark.parametrize("elsewhere", [False, True])
def test_promise_07_callbacks_that_are_left_out_of_order_are_neither_lost_nor_kept(bus, elsewhere):
    agents = Agents(bus)
    first, second = agents.agent("first"), agents.agent("second")
    next(first), next(second)
    assert agents.called() == ["first", "second"]
    if elsewhere:
        in_thread(first.close).result(TIMEOUT)
    else:
        first.close()
    next(second)
    assert agents.got == [("second", "CallStarted"), ("second", "CallFinished")]
    assert agents.called() == ["second"]
    second.close()
    assert agents.called() == []


def test_promise_07_callbacks_of_a_copied_context_that_is_left_first(bus):
    agents = Agents(bus)
    generator = agents.agent("one")
    next(generator)
    contextvars.copy_context().run(generator.close)
    assert agents.called() == []


def test_promise_07_work_that_outlives_the_with_keeps_its_callbacks(bus):
    agents = Agents(bus)
    generator = agents.agent("one")
    next(generator)
    inherited = contextvars.copy_context()
    generator.close()
    assert agents.called() == []
    assert inherited.run(agents.called) == ["one"]


def test_promise_03_callbacks_that_a_chain_of_work_gives_again_do_not_pile_up(bus):
    def callback(envelope):
        pass

    def link():
        with bus.callbacks(callback):
            return contextvars.copy_context()

    before = kept("_Given")  # by other tests
    context = contextvars.copy_context()
    for _ in range(20):
        context = context.run(link)
    assert kept("_Given") < before + 5


def test_promise_07_the_same_callbacks_given_by_two_generators_stay_until_both_are_left(bus):
    got = []

    def agent():
        with bus.callbacks(got.append):
            yield

    first, second = agent(), agent()
    next(first), next(second)
    first.close()
    with bus.call("now"):
        pass
    assert len(got) == 2
    second.close()
    with bus.call("now"):
        pass
    assert len(got) == 2


# Attempts


async def with_wait_for(coroutine):
    await asyncio.wait_for(coroutine, 0.01)


async def with_timeout(coroutine):
    async with asyncio.timeout(0.01):
        await coroutine


async def in_a_group(coroutine):
    async with asyncio.timeout(0.01), asyncio.TaskGroup() as tasks:
        tasks.create_task(coroutine)


async def in_turn(coroutine):
    """Each time another way."""
    ways.append(ways.pop(0))
    await ways[-1](coroutine)


ways = [with_wait_for, with_timeout, in_a_group]


@pytest.mark.parametrize("how", [with_wait_for, with_timeout, in_a_group, in_turn])
@pytest.mark.parametrize("at", ["run", "call"])
def test_promise_01_a_retry_in_a_task_of_its_own_counts_and_retracts(bus, how, at):
    async def agent():
        run = crewbus.current_run()
        with bus.call("model") as call:
            scope = run if at == "run" else call

            async def once(number):
                with scope.attempt() as attempt:
                    assert attempt.number == number
                    bus.chunk(f"try{number} ")
                    if number < 3:
                        await asyncio.Event().wait()

            for number in (1, 2, 3):
                try:
                    await how(once(number))
                    return
                except TimeoutError:
                    with bus.call("other") as other, other.attempt():
                        pass  # another piece of work that succeeds in between

    async def main():
        async with bus.stream(agent) as stream:
            frames = [frame async for frame in stream]
            await stream.aresult()
        return frames, stream.text()

    frames, text = asyncio.run(main())
    assert text == "try3 "
    assert [frame.attempt for frame in frames if isinstance(frame.event, Chunk)] == [1, 2, 3]
    assert sum(isinstance(frame.event, Retracted) for frame in frames) == 2


def test_promise_01_a_retry_in_a_thread_of_its_own_counts(bus):
    def once(number):
        with crewbus.current_run().attempt() as attempt:
            crewbus.chunk(f"try{number} ")
            if number < 3:
                raise LookupError
            return attempt.number

    with bus.run() as run:
        stream = bus.subscribe(run.id)
        for number in (1, 2, 3):
            found = []
            thread = crewbus.Thread(target=try_, args=(once, number, found))
            thread.start()
            thread.join(TIMEOUT)
        assert found == [3]
    assert stream.text() == "try3 "


def try_(function, number, found):
    with contextlib.suppress(LookupError):
        found.append(function(number))


def test_promise_07_parallel_workers_count_their_own_attempts(bus):
    """None takes over what another worker, which still runs, has tried."""
    numbers = {}

    async def worker(name, begins, ends):
        await begins.wait()
        for number in (1, 2):
            try:
                with crewbus.current_run().attempt() as attempt:
                    numbers.setdefault(name, []).append(attempt.number)
                    if number == 1:
                        raise LookupError
            except LookupError:
                ends.set()
                await asyncio.sleep(0)

    async def main():
        first, second, third = (asyncio.Event() for _ in range(3))
        first.set()
        with bus.run():
            await asyncio.gather(worker("a", first, second), worker("b", second, third))

    asyncio.run(main())
    assert numbers == {"a": [1, 2], "b": [1, 2]}


def test_promise_07_parallel_threads_count_their_own_attempts(bus):
    barrier, numbers = threading.Barrier(2), []

    def worker():
        found = []
        for number in (1, 2):
            try:
                with crewbus.current_run().attempt() as attempt:
                    found.append(attempt.number)
                    barrier.wait(TIMEOUT)
                    if number == 1:
                        raise LookupError
            except LookupError:
                barrier.wait(TIMEOUT)
        numbers.append(found)

    with bus.run():
        for future in [bus.submit(worker) for _ in range(2)]:
            future.result(TIMEOUT)
    assert numbers == [[1, 2], [1, 2]]


def test_promise_01_a_chosen_number_retracts_the_cancelled_attempt_before_it(bus):
    with bus.run() as run:
        stream = bus.subscribe(run.id)
        for number in (1, 2, 1):
            with pytest.raises(asyncio.CancelledError), run.attempt(number):
                bus.chunk(f"{number} ")
                raise asyncio.CancelledError
    assert stream.text() == "2 1 "


def test_promise_03_tries_of_runs_that_have_ended_are_not_kept(bus):
    def link():
        with bus.run() as run:
            with pytest.raises(LookupError), run.attempt():
                raise LookupError
            assert len(run.tries) == 1
            context = contextvars.copy_context()
        assert run.tries == ()
        return context

    before = kept("InContext")  # by other tests
    context = contextvars.copy_context()
    for _ in range(20):
        context = context.run(link)
    assert kept("InContext") < before + 5
