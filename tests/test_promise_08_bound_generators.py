"""Promise 8: a bound function keeps its context from its first step to its last, whatever kind of function it is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import sys

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus

import crewbus
from crewbus import Chunk

tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture
def bus():
    with quiet_bus() as bus:
        yield bus


def agent(name):
    with crewbus.run(name):
        for word in "abc":
            crewbus.chunk(f"{name}{word} ")
            yield word


async def async_agent(name):
    async with crewbus.run(name):
        for word in "abc":
            crewbus.chunk(f"{name}{word} ")
            yield word
            await asyncio.sleep(0)


class Callable:
    def __init__(self, function):
        self.function = function

    def __call__(self, *args):
        return self.function(*args)


class CallableGenerator:
    def __call__(self, name):
        yield from agent(name)


class CallableAsyncGenerator:
    async def __call__(self, name):
        async for word in async_agent(name):
            yield word


PLAIN = [agent, functools.partial(agent), lambda name: agent(name), Callable(agent), CallableGenerator()]
ASYNC = [
    async_agent,
    functools.partial(async_agent),
    lambda name: async_agent(name),
    Callable(async_agent),
    CallableAsyncGenerator(),
]


def words(stream):
    return [frame.event.text for frame in stream if isinstance(frame.event, Chunk)]


@pytest.mark.parametrize("function", PLAIN)
def test_promise_08_a_generator_that_threads_take_turns_to_advance(bus, function):
    with bus.run("caller") as caller:
        stream = bus.subscribe(caller.id)
        generator = crewbus.bind(function)("x")
        taken = [in_thread(next, generator, None).result(TIMEOUT) for _ in range(4)]
        assert crewbus.current_run() is caller
        assert bus.runs == [caller]
    assert taken == ["a", "b", "c", None]
    assert words(stream) == ["xa ", "xb ", "xc "]


@pytest.mark.parametrize("function", ASYNC)
def test_promise_08_an_async_generator_that_tasks_take_turns_to_advance(bus, function):
    async def main():
        async with bus.run("caller") as caller:
            stream = bus.subscribe(caller.id)
            generator = crewbus.bind(function)("x")
            taken = [await asyncio.create_task(anext(generator, None)) for _ in range(4)]
            assert crewbus.current_run() is caller
            assert bus.runs == [caller]
        return taken, [frame.event.text async for frame in stream if isinstance(frame.event, Chunk)]

    assert asyncio.run(main()) == (["a", "b", "c", None], ["xa ", "xb ", "xc "])


def test_promise_01_bound_generators_that_take_turns_keep_their_chunks_apart(bus):
    with bus.run("caller") as caller:
        every = bus.subscribe(caller.id)
        streams = {}

        def agent(name):
            with bus.run(name, id=name):
                for number in range(3):
                    crewbus.chunk(f"{name}{number} ")
                    yield

        for name in "AB":
            streams[name] = bus.subscribe(name)
        bound = crewbus.bind(agent)
        for _ in zip(bound("A"), bound("B"), strict=True):
            assert crewbus.current_run() is caller
            crewbus.chunk("mine ")
    assert {name: stream.text() for name, stream in streams.items()} == {"A": "A0 A1 A2 ", "B": "B0 B1 B2 "}
    assert every.text() == "A0 B0 mine A1 B1 mine A2 B2 mine "


def test_promise_01_async_bound_generators_that_take_turns_keep_their_chunks_apart(bus):
    async def main():
        streams = {}

        async def agent(name):
            async with bus.run(name, id=name):
                for number in range(3):
                    bus.chunk(f"{name}{number} ")
                    yield
                    await asyncio.sleep(0)

        for name in "AB":
            streams[name] = bus.subscribe(name)
        generators = [crewbus.bind(agent)(name) for name in "AB"]
        for _ in range(4):
            for generator in generators:
                await anext(generator, None)
        return {name: [f.event.text async for f in s if isinstance(f.event, Chunk)] for name, s in streams.items()}

    assert asyncio.run(main()) == {"A": ["A0 ", "A1 ", "A2 "], "B": ["B0 ", "B1 ", "B2 "]}


def test_promise_08_a_bound_function_stays_of_its_kind():
    async def coroutine():
        pass

    assert inspect.isgeneratorfunction(crewbus.bind(agent))
    assert inspect.isasyncgenfunction(crewbus.bind(async_agent))
    assert inspect.iscoroutinefunction(crewbus.bind(coroutine))
    assert inspect.isgenerator(crewbus.bind(lambda: agent("x"))())
    assert inspect.isasyncgen(crewbus.bind(lambda: async_agent("x"))())
    assert crewbus.bind(agent).__name__ == "agent"


def test_promise_08_what_is_async_in_disguise_runs_where_it_was_bound(bus):
    async def look(_=None):
        await asyncio.sleep(0)
        return crewbus.current_run().name

    disguises = [functools.partial(look), lambda: look(), Callable(look), functools.partial(Callable(look), None)]
    with bus.run("here"):
        bound = [crewbus.bind(function) for function in disguises]
    assert [asyncio.run(function()) for function in bound] == ["here"] * 4


def test_promise_08_values_errors_and_results_pass_through(bus):
    def talk():
        tenant.set("acme")
        heard = []
        while True:
            try:
                heard.append((yield tenant.get()))
            except LookupError as error:
                heard.append(str(error))
            if len(heard) == 3:
                return heard

    generator = crewbus.bind(talk)()
    assert next(generator) == "acme"
    assert generator.send(1) == "acme"
    assert generator.throw(LookupError("two")) == "acme"
    with pytest.raises(StopIteration) as stopped:
        generator.send(3)
    assert stopped.value.value == [1, "two", 3]
    assert tenant.get() == "nobody"
    generator = crewbus.bind(talk)()
    next(generator)
    with pytest.raises(ValueError, match="as it was"):
        generator.throw(ValueError("as it was"))


def test_promise_08_values_and_errors_pass_through_async_generators():
    left = []

    async def talk():
        tenant.set("acme")
        heard = []
        try:
            while len(heard) < 3:
                await asyncio.sleep(0)
                try:
                    heard.append((yield tenant.get()))
                except LookupError as error:
                    heard.append(str(error))
            yield heard
        finally:
            await asyncio.sleep(0)
            left.append(tenant.get())

    async def main():
        generator = crewbus.bind(talk)()
        assert await anext(generator) == await generator.asend(1) == "acme"
        assert await generator.athrow(LookupError("two")) == "acme"
        assert await generator.asend(3) == [1, "two", 3]
        await generator.aclose()
        generator = crewbus.bind(talk)()
        await anext(generator)
        with pytest.raises(ValueError, match="as it was"):
            await generator.athrow(ValueError("as it was"))
        assert tenant.get() == "nobody"

    asyncio.run(main())
    assert left == ["acme", "acme"]


def test_promise_08_a_bound_async_generator_that_is_left_early_ends_its_run(bus):
    async def main():
        async with bus.run("caller") as caller:
            async for _ in crewbus.bind(async_agent)("x"):
                assert crewbus.current_run() is caller
                break
            gc.collect()
            while len(bus.runs) > 1:
                await asyncio.sleep(0)
            assert crewbus.current_run() is caller

    asyncio.run(main())


def test_promise_08_a_bound_coroutine_is_cancelled_where_it_awaits(bus):
    async def work():
        try:
            async with bus.run("work") as run:
                waiting.set()
                seen.append(run)
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main():
        nonlocal waiting
        waiting = asyncio.Event()
        task = asyncio.create_task(crewbus.bind(work)())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await crewbus.bind(work)()
        assert crewbus.current_run() is None

    waiting, seen = None, []
    asyncio.run(main())
    assert [found if isinstance(found, str) else found.state for found in seen] == ["cancelled"] * 4


def test_promise_08_context_managers_from_bound_generators(bus):
    def plain(name):
        with bus.run(name) as run:
            yield run

    async def not_plain(name):
        async with bus.run(name) as run:
            yield run

    async def main():
        async with contextlib.asynccontextmanager(crewbus.bind(not_plain))("inner") as run:
            assert (run.state, crewbus.current_run()) == ("running", None)
        return run.state

    with contextlib.contextmanager(crewbus.bind(plain))("inner") as run:
        assert (run.state, crewbus.current_run()) == ("running", None)
    assert run.state == asyncio.run(main()) == "finished"


def test_promise_03_a_failed_bound_generator_keeps_nothing_alive():
    class Held:
        pass

    def fail(held):
        yield
        raise ValueError("no")

    bound = crewbus.bind(fail)
    gc.collect()
    gc.disable()
    try:
        held = Held()
        before = sys.getrefcount(held)
        generator = bound(held)
        next(generator)
        with pytest.raises(ValueError, match="no") as raised:
            next(generator)
        del generator, raised
        assert sys.getrefcount(held) == before
    finally:
        gc.enable()
