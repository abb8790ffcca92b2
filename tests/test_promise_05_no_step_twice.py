"""Promise 5: a resumed run executes no step whose result is recorded; a consumer with a cursor gets each frame once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from durable_cases import PROGRAMS
from durable_laws import Case
from durable_player import Disturbance
from durable_subject import process
from helpers import TIMEOUT
from recorded_helpers import Follower

import crewbus

called: Counter[str] = Counter()
"""How often each function of these tests was called."""


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    called.clear()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[crewbus.Store]:
    if request.param == "memory":
        yield crewbus.MemoryStore()
        return
    sqlite = pytest.importorskip("crewbus_sqlite", reason="crewbus-sqlite is not installed")
    opened = sqlite.SQLiteStore(tmp_path / "crewbus.db")
    yield opened
    opened.close()


@pytest.fixture
def bus(store: crewbus.Store) -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(store)
        yield bus


class CutError(Exception):
    """The run is cut short."""


def twice(bus: crewbus.Bus, program: Callable[[], Any], cut: Callable[[], Any]) -> Any:
    """Run ``program`` to its end and then ``cut``, so that the run fails; resume it without that."""
    with pytest.raises(CutError):
        with bus.run(id="r"):
            program()
            cut()
    with bus.resume("r"):
        return program()


def cut() -> None:
    raise CutError


# What counts as the same step


@crewbus.step
def double(number: int) -> int:
    called["double"] += 1
    return 2 * number


@crewbus.step
def note(text: str) -> list[str]:
    called[text] += 1
    crewbus.chunk(text)
    return [text, str(called[text])]


@crewbus.step(name="careful", key=lambda item: item["id"])
def keyed(item: dict[str, Any]) -> str:
    called[item["id"]] += 1
    return f"{item['id']}{called[item['id']]}"


def test_promise_05_a_finished_step_returns_its_result_and_is_not_called(bus: crewbus.Bus) -> None:
    assert twice(bus, lambda: note("a"), cut) == ["a", "1"]
    assert called == {"a": 1}


def test_promise_05_other_arguments_are_another_step(bus: crewbus.Bus) -> None:
    assert twice(bus, lambda: [double(number) for number in range(5)], cut) == [0, 2, 4, 6, 8]
    assert called == {"double": 5}


def test_promise_05_equal_steps_are_distinguished_by_their_order(bus: crewbus.Bus) -> None:
    assert twice(bus, lambda: [note("a") for _ in range(3)], cut) == [["a", "1"], ["a", "2"], ["a", "3"]]
    assert called == {"a": 3}


def test_promise_05_a_key_takes_the_place_of_the_arguments(bus: crewbus.Bus) -> None:
    def program() -> list[str]:
        return [keyed({"id": name, "asked_by": object()}) for name in "xy"]

    assert twice(bus, program, cut) == ["x1", "y1"]
    assert called == {"x": 1, "y": 1}


def test_promise_05_steps_in_runs_of_one_name_are_distinguished(bus: crewbus.Bus) -> None:
    def program() -> list[list[str]]:
        results = []
        for _ in range(3):
            with crewbus.run("worker"):
                results.append(note("a"))
        return results

    assert twice(bus, program, cut) == [["a", "1"], ["a", "2"], ["a", "3"]]
    assert called == {"a": 3}


def test_promise_05_the_outer_step_returns_for_those_in_it(bus: crewbus.Bus) -> None:
    @crewbus.step
    def outer() -> list[list[str]]:
        called["outer"] += 1
        return [note("a"), note("b")]

    assert twice(bus, outer, cut) == [["a", "1"], ["b", "1"]]
    assert called == {"outer": 1, "a": 1, "b": 1}


def test_promise_05_what_finished_in_a_step_that_failed_stays_done(bus: crewbus.Bus) -> None:
    @crewbus.step
    def outer() -> list[str]:
        called["outer"] += 1
        first = note("a")
        if called["outer"] == 1:
            raise CutError
        return first + note("b")

    with pytest.raises(CutError), bus.run(id="r"):
        outer()
    with bus.resume("r"):
        assert outer() == ["a", "1", "b", "1"]
    assert called == {"outer": 2, "a": 1, "b": 1}
    assert texts(bus) == ["a", "b"]


def test_promise_05_a_step_that_is_tried_again_is_executed_as_a_whole(bus: crewbus.Bus) -> None:
    @crewbus.step(raises=CutError)
    def outer() -> list[str]:
        called["outer"] += 1
        crewbus.chunk(f"try {called['outer']}")
        draft = note("a")
        if called["outer"] < 3:
            raise CutError
        return draft

    def program() -> list[str]:
        while True:
            try:
                return outer()
            except CutError:
                continue

    assert twice(bus, program, cut) == ["a", "3"]
    assert called == {"outer": 3, "a": 3}
    assert texts(bus) == ["try 3", "a"]


def test_promise_05_a_step_that_failed_is_called_again(bus: crewbus.Bus) -> None:
    @crewbus.step
    def fragile() -> str:
        called["fragile"] += 1
        crewbus.chunk(f"try {called['fragile']}")
        if called["fragile"] == 1:
            raise CutError
        return "done"

    with pytest.raises(CutError), bus.run(id="r"):
        note("a")
        fragile()
    with bus.resume("r"):
        assert (note("a"), fragile()) == (["a", "1"], "done")
    assert called == {"a": 1, "fragile": 2}
    assert texts(bus) == ["a", "try 2"]


def texts(bus: crewbus.Bus, run_id: str = "r") -> list[str]:
    """What a consumer has who reads the run from its start."""
    follower = Follower()
    with bus.subscribe(run_id, after="start") as stream:
        for envelope in stream:
            follower.see(envelope)
    return follower.texts


# Steps at once


def test_promise_05_async_steps(bus: crewbus.Bus) -> None:
    @crewbus.step
    async def ask(question: str) -> str:
        called[question] += 1
        await asyncio.sleep(0)
        return question.upper()

    async def program() -> list[str]:
        return [await ask("a"), await ask("b")]

    async def main() -> list[str]:
        with pytest.raises(CutError):
            async with bus.run(id="r"):
                await program()
                cut()
        async with bus.resume("r"):
            return await program()

    assert asyncio.run(main()) == ["A", "B"]
    assert called == {"a": 1, "b": 1}


def test_promise_05_tasks_may_take_turns_differently(bus: crewbus.Bus) -> None:
    async def program(order: list[str]) -> list[str]:
        turns = {name: asyncio.Event() for name in order}

        @crewbus.step(name="work", key=lambda name: name)
        async def work(name: str) -> str:
            turn = order.index(name)
            assert turn == 0 or await turns[order[turn - 1]].wait()
            called[name] += 1
            crewbus.chunk(name)
            return name.upper()

        async def strand(name: str) -> str:
            try:
                return await work(name)
            finally:
                turns[name].set()

        return list(await asyncio.gather(*map(strand, sorted(order))))

    async def main() -> list[str]:
        with pytest.raises(CutError):
            async with bus.run(id="r"):
                await program(["c", "a", "b"])
                cut()
        async with bus.resume("r"):
            return await asyncio.wait_for(program(["d", "a", "b", "c"]), TIMEOUT)

    assert asyncio.run(main()) == ["A", "B", "C", "D"]
    assert called == dict.fromkeys("abcd", 1)
    assert texts(bus) == ["c", "a", "b", "d"]


def test_promise_05_threads_may_take_turns_differently(bus: crewbus.Bus) -> None:
    def program(order: list[str], broken: bool) -> dict[str, str]:
        turns = {name: threading.Event() for name in order}
        results: dict[str, str] = {}

        @crewbus.step(name="work", key=lambda name, turn: name)
        def work(name: str, turn: int) -> str:
            assert turn == 0 or turns[order[turn - 1]].wait(TIMEOUT)
            called[name] += 1
            crewbus.chunk(name)
            return name.upper()

        def strand(turn: int, name: str) -> None:
            try:
                results[name] = work(name, turn)
            finally:
                turns[name].set()

        strands = [crewbus.Thread(target=strand, args=(turn, name)) for turn, name in enumerate(order)]
        for thread in strands:
            thread.start()
        for thread in strands:
            thread.join(TIMEOUT)
        if broken:
            raise CutError
        return results

    with pytest.raises(CutError), bus.run(id="r"):
        program(["c", "a", "b"], broken=True)
    with bus.resume("r"):
        assert program(["a", "b", "c", "d"], broken=False) == {name: name.upper() for name in "abcd"}
    assert called == dict.fromkeys("abcd", 1)
    assert texts(bus) == ["c", "a", "b", "d"]


# Divergence


def test_promise_05_calling_another_step_is_a_mismatch(bus: crewbus.Bus) -> None:
    with pytest.raises(CutError), bus.run("program", id="r"):
        double(1)
        double(2)
        cut()
    with pytest.raises(crewbus.ReplayMismatch) as caught, bus.resume("r"):
        double(1)
        note("other")
    assert "double" in caught.value.expected
    assert "note" in caught.value.found
    assert "program" in caught.value.scope
    assert called == {"double": 2}


def test_promise_05_ending_before_the_record_is_a_mismatch(bus: crewbus.Bus) -> None:
    with pytest.raises(CutError), bus.run("program", id="r"):
        double(1)
        double(2)
        cut()
    with pytest.raises(crewbus.ReplayMismatch) as caught, bus.resume("r"):
        double(1)
    assert "double" in caught.value.expected
    assert caught.value.found
    with bus.resume("r"):
        assert (double(1), double(2)) == (2, 4)
    assert called == {"double": 2}


def test_promise_05_from_a_checkpoint_later_steps_are_executed_again(bus: crewbus.Bus) -> None:
    def program(run: crewbus.Run) -> list[list[str]]:
        first = note("a")
        run.checkpoint("half")
        return [first, note("b")]

    with pytest.raises(CutError), bus.run(id="r") as run:
        program(run)
        cut()
    with bus.resume("r", at="half") as run:
        assert program(run) == [["a", "1"], ["b", "2"]]
    assert called == {"a": 1, "b": 2}
    assert texts(bus) == ["a", "b"]


# A crash before every write


@pytest.mark.heavy
@pytest.mark.parametrize("name", PROGRAMS)
def test_promise_05_a_crash_before_any_write_changes_nothing(name: str, store: crewbus.Store) -> None:
    assert Case(PROGRAMS[name]).check(store, "whole") == []
    for crash in range(1, store.info("whole").last, 2):
        disturbances = (Disturbance(crash=crash, lost=crash % 3, seed=crash), Disturbance(crash=2 * crash))
        assert Case(PROGRAMS[name], disturbances).check(store, f"r{crash}") == []
    process.close()


# kill -9

WORKER = """
    import os, signal, sys
    import crewbus
    from crewbus_sqlite import SQLiteStore

    path, fresh = sys.argv[1], sys.argv[2] == "begin"

    @crewbus.step
    def work(number: int) -> int:
        print("called", number, flush=True)
        crewbus.chunk(f"{number} ")
        return 10 * number

    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(SQLiteStore(path))
        with bus.run(id="r") if fresh else bus.resume("r"):
            for number in range(4):
                print("returned", work(number), flush=True)
                if fresh and number == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_promise_05_a_result_is_on_disk_before_it_is_returned(tmp_path: Path) -> None:
    pytest.importorskip("crewbus_sqlite", reason="crewbus-sqlite is not installed")

    def worker(how: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path / "crewbus.db"), how],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        )
        return done.returncode, done.stdout.splitlines()

    code, first = worker("begin")
    assert code == -signal.SIGKILL
    assert [line for line in first if line.startswith("called")] == ["called 0", "called 1", "called 2"]
    code, second = worker("resume")
    assert code == 0
    assert [line for line in second if line.startswith("called")] == ["called 3"]
    assert [line for line in second if line.startswith("returned")] == [f"returned {10 * n}" for n in range(4)]
