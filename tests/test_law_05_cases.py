"""Law 5 of durable runs: a step gets its own result, or its call is rejected and the error names the key to pass."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from helpers import quiet_bus

import crewbus


class Crash(BaseException):
    """Ends a run as a crash of its process does."""


class Turns:
    """Lets each of those that wait go on when it is its turn."""

    def __init__(self, order: list[Any]) -> None:
        self._order = order
        self._events = [asyncio.Event() for _ in order]
        self._events[0].set()

    async def mine(self, who: Any) -> None:
        """Wait for the turn of ``who``."""
        await self._events[self._order.index(who)].wait()

    def next(self, who: Any) -> None:
        """End the turn of ``who``."""
        for event in self._events[self._order.index(who) + 1 :][:1]:
            event.set()


async def both_ways(main: Callable[[list[int]], Awaitable[list[Any]]]) -> tuple[list[Any], list[Any]]:
    """What two strands of work return, and what they return after a crash, the other one first."""
    async with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording("memory:")
        first: list[Any] = []
        with pytest.raises(Crash):
            async with bus.run(id="r"):
                first = await main([0, 1])
                raise Crash
        async with bus.resume("r"):
            return first, await main([1, 0])


# Runs


def writers(options: Callable[[str], dict[str, str]]) -> Callable[[list[int]], Awaitable[list[Any]]]:
    async def main(order: list[int]) -> list[Any]:
        bus = crewbus.current_run().bus  # type: ignore[union-attr]
        turns = Turns(order)
        entered = asyncio.Barrier(2)

        async def agent(who: int, topic: str) -> tuple[str, str]:
            async with bus.run("writer", **options(topic)) as run:
                await entered.wait()

                async def draft() -> str:
                    return f"text on {topic}"

                await turns.mine(who)
                try:
                    return topic, await run.step("draft", draft)
                finally:
                    turns.next(who)

        return list(await asyncio.gather(agent(0, "tides"), agent(1, "moon")))

    return main


@pytest.mark.parametrize(
    "options", [lambda topic: {"key": topic}, lambda topic: {"id": f"writer-{topic}"}], ids=["key", "chosen id"]
)
def test_law_05_runs_at_once_get_their_own_results_by_key_or_id(options) -> None:
    first, second = asyncio.run(both_ways(writers(options)))
    assert first == second == [("tides", "text on tides"), ("moon", "text on moon")]


def test_law_05_a_step_in_one_of_two_equal_runs_at_once_is_rejected() -> None:
    with pytest.raises(crewbus.StepError, match="key="):
        asyncio.run(both_ways(writers(lambda _: {})))


def test_law_05_runs_one_after_another_are_distinguished_by_their_order(bus: crewbus.Bus) -> None:
    calls: list[str] = []

    def agent(crash: bool) -> list[str]:
        found = []
        for topic in ("tides", "moon"):
            with bus.run("writer") as run:
                found.append(run.step("draft", lambda topic=topic: calls.append(topic) or topic))
        if crash:
            raise Crash
        return found

    with pytest.raises(Crash), bus.run(id="r"):
        agent(True)
    with bus.resume("r"):
        assert agent(False) == ["tides", "moon"]
    assert calls == ["tides", "moon"]


# Steps


def test_law_05_two_functions_of_one_qualified_name(bus: crewbus.Bus) -> None:
    calls: list[str] = []
    is_down = True

    def provider(url: str) -> Callable[[str], str]:
        @crewbus.step
        def complete(prompt: str) -> str:
            calls.append(url)
            if url == "primary" and is_down:
                raise ConnectionError(url)
            return f"{url} says {prompt}"

        return complete

    primary, backup = provider("primary"), provider("backup")

    def agent() -> str:
        try:
            return primary("hi")
        except ConnectionError:
            return backup("hi")

    with pytest.raises(Crash), bus.run(id="r"):
        agent()
        raise Crash
    is_down = False
    with bus.resume("r"):
        assert agent() == "backup says hi"
    assert calls == ["primary", "backup"]


PAIRS = [
    ({"a": 1}, [["a", 1]]),
    ((1, 2), [1, 2]),
    ({1, 2}, [1, 2]),
    (b"ab", ["bytes", "6162"]),
    (pathlib.PurePosixPath("x"), ["PurePosixPath", "x"]),
    (len, sum),
    (2**14001, ["int", hex(2**14001)]),
    (0.0, -0.0),
    ({}, []),
    (1.0, 1),
    (10**20, 1e20),
    (True, 1),
    (None, "None"),
    ("1", 1),
]


def shown(value: Any) -> str:
    """What distinguishes a value."""
    return f"{type(value).__name__} {hex(value) if type(value) is int else value}"


@crewbus.step
async def seen(value: Any) -> str:
    return shown(value)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{shown(pair[0])[:20]}|{shown(pair[1])[:20]}")
def test_law_05_arguments_that_are_alike_and_not_equal(pair: tuple[Any, Any]) -> None:
    async def main(order: list[int]) -> list[Any]:
        turns = Turns(order)

        async def one(who: int) -> str:
            await turns.mine(who)
            try:
                return await seen(pair[who])
            finally:
                turns.next(who)

        return list(await asyncio.gather(one(0), one(1)))

    try:
        first, second = asyncio.run(both_ways(main))
    except crewbus.StepError as error:
        assert "key=" in str(error)
    else:
        assert first == second == [shown(value) for value in pair]


class Agent:
    def __init__(self, role: str) -> None:
        self.role = role

    @crewbus.step
    async def vote(self, motion: str) -> str:
        return f"the {self.role} votes on {motion}"


def test_law_05_a_method_of_an_object_without_a_fingerprint_is_rejected_when_it_is_called() -> None:
    async def main() -> None:
        async with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording("memory:")
            async with bus.run(id="r"):
                await Agent("critic").vote("tides")

    with pytest.raises(crewbus.StepError, match="key="):
        asyncio.run(main())


def test_law_05_equal_steps_at_once_are_rejected() -> None:
    async def main() -> list[Any]:
        async with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording("memory:")
            async with bus.run(id="r") as run:
                begun = asyncio.Event()
                rejected = asyncio.Event()

                async def first() -> str:
                    begun.set()
                    await rejected.wait()
                    return "first"

                async def second() -> str:
                    return "second"

                async def other() -> str:
                    await begun.wait()
                    try:
                        with pytest.raises(crewbus.StepError, match="key="):
                            await run.step("s", second)
                    finally:
                        rejected.set()
                    return await run.step("s", second, key="other")

                return list(await asyncio.gather(run.step("s", first), other()))

    assert asyncio.run(main()) == ["first", "second"]


def test_law_05_a_step_of_an_outer_run_inside_a_step_of_another_run_is_rejected(bus: crewbus.Bus) -> None:
    with bus.run(id="r") as outer, bus.run("inner") as inner:
        with pytest.raises(crewbus.StepError):
            inner.step("a", lambda: outer.step("b", lambda: 1))


def test_law_05_a_step_of_an_outer_run_inside_a_nested_run_belongs_to_the_outer_one(bus: crewbus.Bus) -> None:
    calls: list[str] = []

    def agent(outer: crewbus.Run, crash: bool) -> str:
        with bus.run("inner"):
            found: str = outer.step("b", lambda: calls.append("b") or "b")
        if crash:
            raise Crash
        return found

    with pytest.raises(Crash), bus.run(id="r") as run:
        agent(run, True)
    with bus.resume("r") as run:
        assert agent(run, False) == "b"
    assert calls == ["b"]


def test_law_05_a_fork_finds_the_steps_of_a_run_by_its_key(bus: crewbus.Bus) -> None:
    calls: list[str] = []

    def agent(run: crewbus.Run) -> str:
        with bus.run("writer", key="tides") as writer:
            found: str = writer.step("draft", lambda: calls.append("draft") or "text")
            run.checkpoint("drafted")
        return found

    with bus.run(id="r") as run:
        agent(run)
    with bus.resume(bus.fork("r", at="drafted")) as run:
        assert agent(run) == "text"
    assert calls == ["draft"]


# Depth


def test_law_05_depth_costs_one_digest_a_level() -> None:
    calls: list[int] = []

    def step() -> int:
        calls.append(1)
        return len(calls)

    def nest(bus: crewbus.Bus, crash: bool) -> list[int]:
        found = []
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                run = stack.enter_context(bus.run("agent"))
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                found.append(run.step("step", step))
                assert tracemalloc.get_traced_memory()[1] - before < 1_000_000
            if crash:
                raise Crash
        return found

    tracemalloc.start()
    try:
        with quiet_bus() as bus:
            bus.enable_recording("memory:")
            with pytest.raises(Crash), bus.run(id="r"):
                nest(bus, True)
            with bus.resume("r"):
                assert nest(bus, False) == list(range(1, 61))
    finally:
        tracemalloc.stop()
    assert len(calls) == 60
