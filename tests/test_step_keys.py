"""What distinguishes calls of a step: key or arguments, order, and tries."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime as dt
import enum
import pathlib

import attrs
import pytest
from helpers import TIMEOUT, in_threads
from recorded_helpers import found, names, spawn, text_of

import crewbus
from crewbus import StepFailed, StepStarted


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Level(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int
    deeper: object = None


@attrs.define
class Spot:
    x: int


@crewbus.event(name="tests.keys.Seen")
class Seen:
    x: int


class Priced:
    def __init__(self, price):
        self.price = price


crewbus.register_entity(Priced, name="tests.keys.Priced", structure=Priced, unstructure=lambda it: it.price)


class Opaque:
    pass


def take(value=None, other=None, *rest, **named):
    return None


def keys_of(bus, *calls, function=take, **options):
    """The keys of these calls of one step, each a pair of arguments and keyword arguments."""
    step = crewbus.step(**options)(function)
    with bus.run() as run:
        for args, kwargs in calls:
            step(*args, **kwargs)
    return [one.event.key for one in found(bus, run.id, StepStarted)]


def key_of(bus, value):
    return keys_of(bus, ((value,), {}))[0]


# Digests

DIFFERENT = [
    None, True, 1, 1.5, "1", b"1", (1,), [2], {3}, {"1": 1}, {1: 1}, Colour.RED, Colour.GREEN, Level.ONE,
    Point(1), Point(1, Point(2)), Spot(1), Seen(1), Priced(1), Priced(2), dt.date(2026, 1, 1), dt.timedelta(1),
    pathlib.PurePosixPath("1"), "\ud800", "", {"a": {"b": [1]}}, {"a": {"b": [2]}}, float("nan"), float("inf"), 10**400,
]  # fmt: skip


def test_different_arguments_give_different_keys(bus):
    keys = [key_of(bus, value) for value in DIFFERENT]
    assert len(set(keys)) == len(DIFFERENT)


SAME = {
    "dicts in another order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "sets in another order": ({"x", "y", "z", 1}, {1, "z", "y", "x"}),
    "keys of several types": ({1: 1, "a": 2, None: 3}, {None: 3, "a": 2, 1: 1}),
    "dataclasses": (Point(1, [Spot(2)]), Point(1, [Spot(2)])),
    "registered": (Priced([1]), Priced([1])),
    "nan": (float("nan"), float("nan")),
    "huge numbers": (10**5000, 10**5000),
}


@pytest.mark.parametrize("what", SAME)
def test_equal_arguments_give_the_same_key(bus, what):
    one, other = SAME[what]
    assert key_of(bus, one) == key_of(bus, other)


def test_it_does_not_matter_how_arguments_are_passed(bus):
    calls = [((1, 2), {}), ((1,), {"other": 2}), ((), {"value": 1, "other": 2}), ((), {"other": 2, "value": 1})]
    assert len(set(keys_of(bus, *calls))) == 1


def test_the_order_of_named_arguments_does_not_matter(bus):
    first, second, third = keys_of(bus, ((), {"b": 1, "a": 2}), ((), {"a": 2, "b": 1}), ((), {"a": 1, "b": 2}))
    assert first == second != third


def test_a_default_that_is_left_out_does_not_count(bus):
    """So a parameter with a default can be added to a step without a change of its recorded calls."""
    older = keys_of(bus, ((1,), {}), function=lambda value: None)
    newer = keys_of(bus, ((1,), {}), ((1,), {"more": False}), function=lambda value, more=False: None)
    assert older[0] == newer[0] != newer[1]


def test_no_arguments_give_no_key(bus):
    assert keys_of(bus, ((), {})) == [""]


def test_the_same_key_in_every_process(bus):
    process = spawn("""
        import crewbus
        bus = crewbus.Bus(entry_points=False)
        bus.enable_recording("memory:")
        with bus.run() as run:
            run.step("take", lambda value: None, {"x", "y", "z", "größer", 1, None, (1, "b")})
        print(next(one.event.key for one in bus.record_of(run.id) if isinstance(one.event, crewbus.StepStarted)))
        """)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert output.strip() == key_of(bus, {None, (1, "b"), 1, "größer", "z", "y", "x"})


def test_the_object_of_a_method_counts_where_it_can_be_looked_into(bus):
    @attrs.define
    class Agent:
        name: str

        @crewbus.step
        def act(self):
            return None

    with bus.run(id="run"):
        Agent("a").act()
        Agent("b").act()
        Agent("a").act()
    a, b, again = (one.event for one in found(bus, "run", StepStarted))
    assert (a.key, a.ordinal) == (again.key, 0)
    assert a.key != b.key
    assert (b.ordinal, again.ordinal) == (0, 1)


def test_a_call_that_does_not_fit_fails_as_it_would_without(bus):
    with bus.run(id="run") as run, pytest.raises(TypeError, match="missing 1 required positional argument"):
        run.step("one", lambda needed: None)
    assert len(found(bus, "run", StepFailed)) == 1


# Keys


def test_a_key_is_text_or_made_from_the_arguments(bus):
    assert keys_of(bus, ((1,), {}), ((2,), {}), key="fixed") == ["fixed", "fixed"]
    calls = [((1,), {"other": Opaque()}), ((2,), {"other": Opaque()})]
    assert keys_of(bus, *calls, key=lambda value, other: f"n{value}") == ["n1", "n2"]
    with bus.run(id="run") as run:
        for word in "ab":
            run.step("each", take, Opaque(), key=word)
            run.step("each", take, word, key=lambda value: value * 2)
    assert [one.event.key for one in found(bus, "run", StepStarted)] == ["a", "aa", "b", "bb"]


@pytest.mark.parametrize("wrong", ["", None, 3, b"x"])
def test_a_key_function_returns_text(bus, wrong):
    with bus.run(id="run") as run:
        with pytest.raises(crewbus.StepError, match="step 'take': its key= returned"):
            run.step("take", take, 1, key=lambda value: wrong)
    assert names(bus, "run") == ["RunStarted", "RunFinished"]


def test_law_05_a_step_without_a_fingerprint_is_fine_where_nothing_is_recorded():
    with crewbus.Bus(entry_points=False) as bus, bus.run() as run:
        assert run.step("take", take, Opaque()) is None


# Which of several


def test_equal_calls_are_distinguished_by_their_order(disk):
    counted = []

    def draw():
        counted.append(1)
        return len(counted)

    with disk.bus() as bus, bus.run(id="run") as run:
        assert [run.step("draw", draw) for _ in range(3)] == [1, 2, 3]
        disk.crash()
    with disk.bus() as bus, bus.resume("run") as run:
        assert [run.step("draw", draw) for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_place_counts_its_own(bus):
    def outer(n):
        return [run.step("inner", take), run.step("inner", take)]

    with bus.run(id="run") as run:
        run.step("inner", take)
        run.step("outer", outer, 1)
        run.step("outer", outer, 2)
        with bus.run("nested") as nested:
            nested.step("inner", take)
    inner = [one.event for one in found(bus, "run", StepStarted) if one.event.name == "inner"]
    assert [one.ordinal for one in inner] == [0, 0, 1, 0, 1, 0]
    assert len({one.identity for one in inner}) == 6


ITEMS = [str(i) for i in range(12)]


@crewbus.step
def work(item):
    DONE.append(item)
    return f"{item}!"


@crewbus.step
async def awork(item, delay=0):
    for _ in range(delay):
        await asyncio.sleep(0)
    DONE.append(item)
    return f"{item}!"


DONE: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done():
    DONE.clear()


async def gathered(items):
    return await asyncio.gather(*[awork(item) for item in items])


async def grouped(items):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(awork(item)) for item in items]
    return [task.result() for task in tasks]


@pytest.mark.parametrize("way", [gathered, grouped])
def test_parallel_tasks_may_take_other_turns_when_they_are_resumed(disk, way):
    async def play(make, items, end=lambda: None):
        async with make:
            results = await way(items)
            end()
            return results

    with disk.bus() as bus:
        asyncio.run(play(bus.run(id="run"), ITEMS[:7], disk.crash))
    with disk.bus() as bus:
        assert asyncio.run(play(bus.resume("run"), ITEMS[::-1])) == [f"{item}!" for item in ITEMS[::-1]]
    assert sorted(DONE) == sorted(ITEMS)


@pytest.mark.parametrize("kind", ["executor", "submit", "threads"])
def test_parallel_threads_may_take_other_turns_when_they_are_resumed(disk, kind):
    def play(bus, items):
        if kind == "executor":
            with crewbus.ThreadPoolExecutor(4) as pool:
                return list(pool.map(work, items))
        if kind == "submit":
            return [future.result(TIMEOUT) for future in [bus.submit(work, item) for item in items]]
        bound = [crewbus.bind(work) for _ in items]
        return in_threads(len(items), lambda i: bound[i](items[i]))

    with disk.bus() as bus, bus.run(id="run"):
        play(bus, ITEMS[:7])
        disk.crash()
    with disk.bus() as bus, bus.resume("run"):
        assert play(bus, ITEMS[::-1]) == [f"{item}!" for item in ITEMS[::-1]]
    assert sorted(DONE) == sorted(ITEMS)


def test_law_05_equal_steps_in_parallel_are_each_done_once_if_each_has_a_key(disk):
    def play(bus):
        with bus.run("inner") as run:
            futures = [bus.submit(run.step, "work", work, "same", key=f"k{i}") for i in range(8)]
            assert all(future.result(TIMEOUT) for future in futures)

    with disk.bus() as bus, bus.run(id="run"):
        play(bus)
        bus.flush()
        disk.crash()
    with disk.bus() as bus, bus.resume("run"):
        play(bus)
    assert len(DONE) == 8


# Steps that fail


class Flaky:
    """Fails so many times, each time after saying so, and then does its work."""

    def __init__(self, failures):
        self.failures = failures
        self.tries = 0

    def __call__(self, say):
        self.tries += 1
        say(f"try {self.tries}. ")
        if self.tries <= self.failures:
            raise ValueError(f"try {self.tries}")
        return self.tries


def insist(run, flaky):
    while True:
        try:
            return run.step("flaky", flaky, run.chunk, key="k")
        except ValueError:
            pass


def test_a_step_that_failed_is_tried_again_as_the_next_of_its_equals(bus):
    with bus.run(id="run") as run:
        run.chunk("before. ")
        assert insist(run, Flaky(2)) == 3
    started = [one.event for one in found(bus, "run", StepStarted)]
    assert [one.ordinal for one in started] == [0, 1, 2]
    assert len({one.identity for one in started}) == 3
    assert [one.event for one in found(bus, "run", StepFailed)] == [
        StepFailed("flaky", "builtins.ValueError", f"try {n}", {"args": [f"try {n}"]}, "builtins.ValueError")
        for n in (1, 2)
    ]
    assert text_of(bus, "run") == "before. try 3. "


def test_a_failed_step_takes_back_what_it_streamed_before_it_says_so(bus):
    with bus.run(id="run") as run:
        with pytest.raises(ValueError, match="try 1"):
            run.step("flaky", Flaky(1), run.chunk, key="k")
    assert names(bus, "run") == ["RunStarted", "StepStarted", "Chunk", "Retracted", "StepFailed", "RunFinished"]
    retracted, step = found(bus, "run", crewbus.Retracted)[0].event, found(bus, "run", StepStarted)[0]
    assert retracted == crewbus.Retracted(2, "ValueError: try 1", (step.id,))


def test_the_steps_in_a_failed_one_are_called_again_with_it_but_not_once_it_is_resumed(disk):
    calls = []

    def note(name):
        calls.append(name)
        crewbus.chunk(f"{name}. ")
        return name

    def outer(fails):
        crewbus.chunk("outer. ")
        inner = run.step("inner", note, "inner")
        crewbus.chunk("after. ")
        if fails():
            raise ValueError("not yet")
        return inner

    outcomes = iter([True, True, False])
    step = crewbus.step(key="k")(lambda: outer(lambda: next(outcomes)))
    with disk.bus() as bus, bus.run(id="run") as run:
        for _ in range(2):
            with pytest.raises(ValueError, match="not yet"):
                step()
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run") as run:
            with pytest.raises(ValueError, match="not yet"):
                step()
            assert step() == "inner"
        assert calls == ["inner", "inner"]
        assert text_of(bus, "run").replace("outer. ", "").replace("after. ", "") == "inner. "


def test_a_step_that_failed_for_good_is_tried_again_when_it_is_resumed(disk):
    flaky = Flaky(1)
    with disk.bus() as bus:
        with pytest.raises(ValueError, match="try 1"):
            with bus.run(id="run") as run:
                run.step("flaky", flaky, run.chunk, key="k")
        assert bus.records.info("run").state == "failed"
    with disk.bus() as bus:
        with bus.resume("run") as run:
            assert run.step("flaky", flaky, run.chunk, key="k") == 2
        assert bus.records.info("run").state == "finished"
        assert text_of(bus, "run") == "try 2. "


def test_a_later_try_is_returned_at_once_when_it_is_resumed(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        assert insist(run, Flaky(2)) == 3
        disk.crash()
    with disk.bus() as bus, bus.resume("run") as run:
        assert insist(run, Flaky(9)) == 3


def test_a_step_in_an_attempt_that_failed_is_called_again(bus):
    calls = []

    def attempt():
        with bus.call("model") as call, call.attempt():
            work("same")
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("again")

    with bus.run(id="run"):
        with pytest.raises(ValueError, match="again"):
            attempt()
        attempt()
    assert DONE == ["same", "same"]
    assert [one.event.ordinal for one in found(bus, "run", StepStarted)] == [0, 1]


def test_after_a_crash_in_the_middle_of_a_step_it_is_called_again(disk):
    def half():
        crewbus.chunk("half. ")
        disk.crash()

    with disk.bus() as bus, bus.run(id="run") as run:
        run.step("slow", half)
    with disk.bus() as bus:
        assert names(bus, "run") == ["RunStarted", "StepStarted", "Chunk"]
        with bus.resume("run") as run:
            run.step("slow", lambda: crewbus.chunk("whole. ") and None)
        assert text_of(bus, "run") == "whole. "
        assert [one.event.ordinal for one in found(bus, "run", StepStarted)] == [0, 0]


def test_a_step_in_another_context_belongs_to_the_run_it_is_given(bus):
    with bus.run(id="run") as run:
        contextvars.Context().run(run.step, "far", take)
    assert [one.event.name for one in found(bus, "run", StepStarted)] == ["far"]
