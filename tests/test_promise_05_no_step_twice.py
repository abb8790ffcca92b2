"""Promise 5: a resumed run executes no step whose result is recorded; a consumer with a cursor gets each frame once."""

from __future__ import annotations

import asyncio
import itertools
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
from durable_model import World
from durable_player import Follower, Service
from durable_programs import ALWAYS, Apart, Break, Call, Program, Run, Save, Say, Step, Try
from helpers import TIMEOUT

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


# A crash between every two events

PROGRAMS: dict[str, Program] = {
    "steps": (Say("a"), Step("s", (Say("b"), Say("c")), uid="s"), Say("d"), Step("t", (Say("e"),), uid="t"), Say("f")),
    "loop": tuple(Step("s", (Say(f"a{n}"),), uid=f"s{n}") for n in range(3)),
    "nested": (
        Say("a"),
        Step("outer", (Say("b"), Step("inner", (Say("c"),), uid="inner"), Say("d")), uid="outer"),
        Run("run", (Say("e"), Step("inner", (Say("f"),), uid="other"), Say("g"))),
        Say("h"),
    ),
    "calls": (
        Call("model", (Say("a"), Step("s", (Say("b"),), uid="s"), Say("c"))),
        Call("model", (Say("d"),)),
        Step("t", (Say("e"),), uid="t"),
        Call("model", (Say("f"),)),
    ),
    "failures": (
        Say("a"),
        Step("fragile", (Say("b"), Step("inner", (Say("c"),), uid="inner"), Say("d")), fails=2, uid="fragile"),
        Try(Step("never", (Say("e"),), fails=ALWAYS, uid="never"), Step("instead", (Say("f"),), uid="instead")),
        Run("run", (Step("t", (Say("g"),), uid="t"), Break("once"), Say("h"))),
        Step("last", (Say("i"),), uid="last"),
    ),
    "at once": (
        Say("a"),
        Apart(
            (
                Step("s", (Say("b"), Say("c")), "1", uid="s"),
                Step("s", (Say("d"), Step("in", (Say("e"),), uid="in"), Say("f")), "2", uid="t"),
            ),
            (Say("g"), Step("m", (Say("h"),), uid="m"), Say("i")),
        ),
        Save("joined"),
        Say("j"),
    ),
}
TAKEN_BACK = {"failures": {"e"}}
"""The frames that do not stay: of the step that always fails."""
TURNS = bytes([0, 1, 2, 1, 0, 2, 2, 1, 1, 0] * 4)


def said(program: Program) -> Iterator[str]:
    for action in program:
        match action:
            case Say(text):
                yield text
            case Step() | Run() | Call():
                yield from said(action.body)
            case Try(step, instead):
                yield from said((step, instead))
            case Apart(steps, meanwhile):
                yield from said((*meanwhile, *steps))


def to_its_end(service: Service, fuses: list[int], lost: int) -> int:
    """Begin the run ``r``, let it crash after so many events each time, and resume it until it ends; how often."""
    outcome, sessions = service.begin("r", service.programs["r"], next(iter(fuses), None), TURNS, lost), 1
    while outcome != "finished":
        if "r" not in service.store.roots():  # nothing of it was on disk
            return sessions + to_its_end(service, fuses[1:], lost)
        fuse = fuses[sessions] if sessions < len(fuses) else None
        outcome, sessions = service.resume("r", None, fuse, TURNS, lost), sessions + 1
        assert sessions < 20
    return sessions


def assert_as_if_nothing_had_happened(service: Service, name: str, expected: Any) -> None:
    assert service.results["r"] == expected
    found = service.standing("r")
    assert sorted(found) == sorted(set(said(PROGRAMS[name])) - TAKEN_BACK.get(name, set()))
    if name != "at once":
        assert found == sorted(found)
    finished = [event for event in service.store.read("r") if event.name == "crewbus.StepFinished"]
    if name != "failures":
        assert len(finished) == len({event.parent for event in finished}) == expected_steps(PROGRAMS[name])


def expected_steps(program: Program) -> int:
    return sum(
        isinstance(action, Step) + expected_steps(action.body)
        if isinstance(action, Step | Run | Call)
        else expected_steps((*action.steps, *action.meanwhile))
        if isinstance(action, Apart)
        else 0
        for action in program
    )


def undisturbed(name: str) -> tuple[Any, int]:
    """The result of a program that nothing happens to, and the number of its events."""
    service = Service(crewbus.MemoryStore())
    service.programs["r"] = PROGRAMS[name]
    to_its_end(service, [], 0)
    return service.results["r"], len(service.numbers("r"))


@pytest.mark.heavy
@pytest.mark.parametrize("name", PROGRAMS)
def test_promise_05_a_crash_between_any_two_events_changes_nothing(name: str, store: crewbus.Store) -> None:
    expected, events = undisturbed(name)
    for fuse in range(1, events):
        service = Service(store, uncounted=frozenset())
        service.programs["r"] = PROGRAMS[name]
        live, late = Follower(live=True), Follower()
        service.followers += [("r", live), ("r", late)]
        assert to_its_end(service, [fuse], lost=fuse % 3) > 1
        assert_as_if_nothing_had_happened(service, name, expected)
        for follower in (live, late):
            service.follow("r", follower, None)
            assert follower.texts == service.standing("r")
        store.drop("r")


@pytest.mark.heavy
@pytest.mark.parametrize("name", PROGRAMS)
def test_promise_05_a_second_crash_changes_nothing(name: str) -> None:
    expected, events = undisturbed(name)
    for first in range(1, events):
        service = Service(crewbus.MemoryStore(), uncounted=frozenset())
        service.programs["r"] = PROGRAMS[name]
        to_its_end(service, [first, 7 * first % events, 3], lost=1)
        assert_as_if_nothing_had_happened(service, name, expected)


@pytest.mark.heavy
@pytest.mark.parametrize("name", PROGRAMS)
def test_promise_05_a_consumer_that_comes_and_goes_has_each_frame_once(name: str, store: crewbus.Store) -> None:
    _, events = undisturbed(name)
    for first in range(2, events, 3):
        fuse = itertools.count(first, 2)  # further each time, so that it comes to an end
        service = Service(store, uncounted=frozenset())
        service.worlds["r"], service.programs["r"] = World(), PROGRAMS[name]
        follower = Follower(live=True)
        service.followers.append(("r", follower))
        service.begin("r", PROGRAMS[name], next(fuse), TURNS, 1)
        outcome = "interrupted" if "r" in store.roots() else "gone"
        while outcome not in {"finished", "gone"}:
            service.follow("r", follower, 1)
            outcome = service.resume("r", None, next(fuse), TURNS, 1)
        if outcome == "finished":
            service.follow("r", follower, 2)
            service.follow("r", follower, None)
            assert follower.texts == service.standing("r")
            store.drop("r")


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
