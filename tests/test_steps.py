"""Steps: which functions can be one, what distinguishes their calls, what comes back, and when they return."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import functools
import inspect
import math
import threading
from typing import Any, ClassVar

import attrs
import pytest
from helpers import TIMEOUT, quiet_bus
from recorded_helpers import found, names

import crewbus
from crewbus import StepFailed, StepFinished, StepStarted
from crewbus.durability.step_scope import path_of

CALLS: list[Any] = []
"""What the functions of this module were called with."""


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@crewbus.step
def fetch(topic: str, depth: int = 1) -> str:
    CALLS.append(topic)
    return f"{topic} {len(CALLS)}"


@crewbus.step
async def afetch(topic: str) -> str:
    CALLS.append(topic)
    await asyncio.sleep(0)
    return f"{topic} {len(CALLS)}"


@attrs.define
class Desk:
    @crewbus.step
    def edit(self, topic):
        CALLS.append(topic)
        return f"{topic} {len(CALLS)}"

    @classmethod
    @crewbus.step
    def open(cls, topic):
        CALLS.append(topic)
        return f"{topic} {len(CALLS)}"

    @staticmethod
    @crewbus.step
    def close(topic):
        CALLS.append(topic)
        return f"{topic} {len(CALLS)}"


class Caller:
    def __call__(self, topic):
        CALLS.append(topic)
        return f"{topic} {len(CALLS)}"


class AsyncCaller:
    async def __call__(self, topic):
        CALLS.append(topic)
        return f"{topic} {len(CALLS)}"


def plain(end, topic):
    CALLS.append(topic)
    return f"{topic} {len(CALLS)}{end}"


@crewbus.event(name="tests.steps.Article")
class Article:
    title: str

    made: ClassVar[int] = 0


# What can be a step

SYNC = {
    "function": fetch,
    "method": Desk().edit,
    "classmethod": Desk.open,
    "staticmethod": Desk.close,
    "object": crewbus.step(Caller()),
    "partial": crewbus.step(functools.partial(plain, "!")),
    "partial of a step": functools.partial(fetch, depth=2),
}
ASYNC = {"function": afetch, "object": crewbus.step(AsyncCaller()), "partial of a step": functools.partial(afetch)}


@pytest.mark.parametrize("kind", SYNC)
def test_a_step_is_called_once_whatever_it_is(disk, kind):
    with disk.bus() as bus, bus.run(id="run"):
        first = SYNC[kind]("tea")
        disk.crash()
    with disk.bus() as bus, bus.resume("run"):
        assert SYNC[kind]("tea") == first
    assert CALLS == ["tea"]


@pytest.mark.parametrize("kind", ASYNC)
def test_an_async_step_is_called_once_whatever_it_is(disk, kind):
    async def work():
        return await ASYNC[kind]("tea")

    async def resumed(bus):
        async with bus.resume("run"):
            return await work()

    async def begun(bus):
        async with bus.run(id="run"):
            assert await work() == "tea 1"
            disk.crash()

    with disk.bus() as bus:
        asyncio.run(begun(bus))
    with disk.bus() as bus:
        assert asyncio.run(resumed(bus)) == "tea 1"
    assert CALLS == ["tea"]


def test_a_class_is_a_step_that_makes_instances(bus):
    with bus.run(id="run") as run:
        assert run.step("write", Article, "tea") == Article("tea")
    assert found(bus, "run", StepFinished)[0].event == StepFinished("write", {"title": "tea"}, "tests.steps.Article", 1)


def generator():
    yield 1


async def async_generator():
    yield 1


@pytest.mark.parametrize("function", [generator, async_generator])
def test_a_generator_function_is_refused(bus, function):
    with pytest.raises(crewbus.StepError, match=r"generator function.*chunk"):
        crewbus.step(function)
    with bus.run() as run, pytest.raises(crewbus.StepError, match="step 'words'"):
        run.step("words", function)


@pytest.mark.parametrize(
    ("declare", "wrong"),
    [
        (lambda: crewbus.step(name="")(plain), "a step has a name"),
        (lambda: crewbus.step(key="")(plain), "a key is a text"),
        (lambda: crewbus.step(key=1)(plain), "a key is a text"),
        (lambda: crewbus.step(3), "can't be called"),
    ],
)
def test_what_can_not_be_a_step_is_refused(declare, wrong):
    with pytest.raises(crewbus.StepError, match=wrong):
        declare()


def test_a_step_keeps_what_its_function_says_of_itself():
    assert (fetch.__name__, fetch.__module__) == ("fetch", __name__)
    assert inspect.iscoroutinefunction(afetch)
    assert not inspect.iscoroutinefunction(fetch)


def test_its_name_is_the_qualified_one_or_as_given(bus):
    with bus.run(id="run") as run:
        Desk().edit("tea")
        crewbus.step(name="other")(plain)("", "tea")
        run.step("third", plain, "", "tea")
    assert [one.event.name for one in found(bus, "run", StepStarted)] == ["Desk.edit", "other", "third"]


# Where it is called


def in_the_run(bus, work):
    work()


def in_a_nested_run(bus, work):
    with bus.run("inner"):
        work()


def in_a_step(bus, work):
    crewbus.current_run().step("outer", work)


def in_a_call(bus, work):
    with bus.call("model"):
        work()


def in_an_attempt(bus, work):
    with crewbus.current_run().attempt():
        work()


def in_a_thread(bus, work):
    bus.submit(work).result(TIMEOUT)


PLACES = [in_the_run, in_a_nested_run, in_a_step, in_a_call, in_an_attempt, in_a_thread]


@pytest.mark.parametrize("place", PLACES)
def test_a_step_is_called_once_wherever_it_is(disk, place):
    def work():
        assert fetch("tea") == "tea 1"

    with disk.bus() as bus, bus.run(id="run"):
        place(bus, work)
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run"):
            place(bus, work)
        assert len(found(bus, "run", StepStarted)) == (2 if place is in_a_step else 1)
    assert CALLS == ["tea"]


@pytest.mark.parametrize("place", PLACES)
def test_a_step_stands_in_what_is_around_it(bus, place):
    with bus.run(id="run"):
        place(bus, lambda: fetch("tea"))
    record = list(bus.record_of("run"))
    step = record[next(i for i, one in enumerate(record) if getattr(one.event, "name", "") == "fetch")]
    opener = record[max(0, step.seq - 1)]
    assert step.parent == opener.id
    assert record[step.seq + 1].parent == step.id


def test_a_step_in_a_stream_is_called_once(disk):
    def work():
        crewbus.chunk("so: ")
        crewbus.chunk(fetch("tea"))
        if len(CALLS) == 1 and not resumed:
            disk.crash()

    resumed = False
    with disk.bus() as bus:
        with bus.stream(work, options=crewbus.StreamOptions(id="run")) as stream:
            with pytest.raises(crewbus.RunCancelledError):
                stream.result(TIMEOUT)
    resumed = True
    with disk.bus() as bus:
        with bus.stream(work, options=crewbus.StreamOptions(resume="run")) as stream:
            stream.result(TIMEOUT)
        with bus.subscribe("run", after="start") as whole:
            assert whole.text() == "so: tea 1"
    assert CALLS == ["tea"]


def test_outside_any_run_a_step_is_just_called():
    assert (fetch("tea"), fetch("tea")) == ("tea 1", "tea 2")
    assert asyncio.run(afetch("tea")) == "tea 3"


def test_in_a_run_that_is_not_recorded_it_is_called_and_its_events_are_emitted(bus):
    received = []
    bus.on(crewbus.StepEnded, lambda envelope: received.append(envelope.event))
    with bus.run(record=False) as run:
        assert run.step("pair", lambda: (1, 2)) == (1, 2)
        assert asyncio.run(afetch("tea")) == "tea 1"
        with pytest.raises(ZeroDivisionError):
            run.step("bad", lambda: 1 / 0)
    assert received == [
        StepFinished("pair"),
        StepFinished("afetch"),
        StepFailed("bad", "builtins.ZeroDivisionError", "division by zero"),
    ]


def test_in_a_run_that_has_ended_it_is_just_called(bus):
    with bus.run(id="run") as run:
        pass
    assert run.step("late", plain, "", "tea") == "tea 1"
    assert names(bus, "run") == ["RunStarted", "RunFinished"]


def test_a_cancelled_run_calls_no_step(bus):
    with pytest.raises(crewbus.Cancelled):
        with bus.run() as run:
            run.cancel()
            fetch("tea")
    assert CALLS == []


# What comes back


class Colour(enum.Enum):
    RED = "red"


@attrs.define
class Plan:
    parts: tuple[str, ...]
    colour: Colour = Colour.RED


@dataclasses.dataclass
class Point:
    x: int
    tags: set[str]


@attrs.define
class Crew:
    name: str


crewbus.register_entity(Crew, name="tests.steps.Crew")

JSON = [
    None,
    True,
    0,
    -1.5,
    "",
    "größer 🦀\0",
    [],
    {},
    {"a": [1, {"b": None}]},
    1e308,
    10**400,
    [[[[]]]],
    "x" * 100_000,
]
TYPED = [
    (Plan(("a", "b")), Plan),
    ([Plan(())], list[Plan]),
    (Point(1, {"a"}), Point),
    (Colour.RED, Colour),
    ((1, "a"), tuple[int, str]),
    ({1: "a"}, dict[int, str]),
    (b"\xff\0", bytes),
    (Crew("a"), Any),
    (Article("a"), Any),
    (None, Plan | None),
]


def come_back(disk, value, annotation):
    def give():
        CALLS.append(1)
        return value

    give.__annotations__["return"] = annotation
    with disk.bus() as bus, bus.run(id="run") as run:
        assert run.step("give", give) is value
        disk.crash()
    with disk.bus() as bus, bus.resume("run") as run:
        again = run.step("give", give)
    assert CALLS == [1]
    return again


@pytest.mark.parametrize("value", JSON, ids=lambda value: repr(value)[:20])
def test_json_comes_back(disk, value):
    again = come_back(disk, value, Any)
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(
    ("value", "annotation"), TYPED, ids=lambda value: None if isinstance(value, type) else repr(value)[:20]
)
def test_what_is_annotated_or_registered_comes_back(disk, value, annotation):
    again = come_back(disk, value, annotation)
    assert again == value
    assert type(again) is type(value)


def test_nan_comes_back(disk):
    assert math.isnan(come_back(disk, float("nan"), Any))


def cyclic():
    found = []
    found.append(found)
    return found


REFUSED = {
    "tuple": ({"a": [1, (2,)]}, r"result\['a'\]\[1\] is a tuple"),
    "keys": ({"a": {1: 2}}, r"result\['a'\] has the key 1"),
    "cycle": (cyclic(), "nests deeper than 200 levels, or contains itself"),
    "object": (object(), "result is a object"),
    "set": ({1}, "result is a set"),
    "attrs class without an annotation": ([Plan(())], r"result\[0\] is a Plan"),
    "int too large for JSON": (10**5000, "result"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_not_come_back_is_refused_by_its_place(bus, what):
    value, wrong = REFUSED[what]
    with bus.run(id="run") as run:
        with pytest.raises(crewbus.UnserializableError, match=wrong) as refused:
            run.step("give", lambda: value)
        assert "step 'give'" in str(refused.value)
    assert names(bus, "run") == ["RunStarted", "StepStarted", "StepFailed", "RunFinished"]


def test_an_annotation_that_does_not_fit_is_named(bus):
    def give() -> Plan:
        return {1: 2}

    with bus.run() as run, pytest.raises(crewbus.UnserializableError, match=r"by the annotation .*Plan"):
        run.step("give", give)


def test_what_comes_back_as_something_else_is_refused(bus):
    def give() -> list[int]:
        return (1, 2)

    with bus.run() as run, pytest.raises(crewbus.UnserializableError, match="result is a tuple"):
        run.step("give", give)


def test_a_refused_result_can_be_tried_again(bus):
    results = iter([object(), "fine"])
    with bus.run(id="run") as run:
        with pytest.raises(crewbus.UnserializableError):
            run.step("give", lambda: next(results))
        assert run.step("give", lambda: next(results)) == "fine"
    assert [one.event.ordinal for one in found(bus, "run", StepStarted)] == [0, 1]


# Events


def test_steps_are_events_like_others(bus):
    received = []
    bus.on(StepStarted, lambda envelope: received.append(("started", envelope.event.name)))
    bus.on(crewbus.StepEnded, lambda envelope: received.append((type(envelope.event).__name__, envelope.event.name)))
    with bus.run() as run:
        fetch("tea")
        with pytest.raises(ZeroDivisionError):
            run.step("bad", lambda: 1 / 0)
    assert received == [("started", "fetch"), ("StepFinished", "fetch"), ("started", "bad"), ("StepFailed", "bad")]


def test_what_is_emitted_in_a_step_belongs_to_it(bus):
    with bus.run(id="run") as run:
        run.step("say", lambda: bus.chunk("x") and None)
    started, chunk = found(bus, "run", StepStarted)[0], found(bus, "run", crewbus.Chunk)[0]
    assert chunk.parent == started.id


def test_a_step_that_is_left_by_a_base_exception_stays_open(bus):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with bus.run(id="run") as run:
            run.step("stop", stop)
    assert names(bus, "run") == ["RunStarted", "StepStarted", "RunCancelled"]


def test_an_async_step_that_is_cancelled_is_called_again(disk):
    async def stuck():
        CALLS.append("begun")
        if len(CALLS) == 1:
            crewbus.chunk("half")
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        return crewbus.chunk("whole").seq and "done"

    async def play(make):
        async with make as run:
            return await run.step("stuck", stuck)

    with disk.bus() as bus:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(play(bus.run(id="run")))
        assert names(bus, "run") == ["RunStarted", "StepStarted", "Chunk", "RunCancelled"]
    with disk.bus() as bus:
        assert asyncio.run(play(bus.resume("run"))) == "done"
        with bus.subscribe("run", after="start") as stream:
            assert stream.text() == "whole"


# What a failed one streamed


@pytest.mark.parametrize("recorded", [True, False])
def test_a_step_that_fails_takes_back_what_the_runs_in_it_streamed(bus, recorded):
    @crewbus.step
    def draft():
        crewbus.chunk("in the step ")
        with crewbus.run("writer"):
            crewbus.chunk("finished ")
        with crewbus.run("editor"):
            crewbus.chunk("failed ")
            raise LookupError

    with bus.run(record=recorded) as run:
        watching = bus.subscribe(run.id)
        with pytest.raises(LookupError):
            draft()
        run.chunk("after")
    assert [type(envelope.event).__name__ for envelope in watching][-3:] == ["Retracted", "Chunk", "RunFinished"]
    assert watching.text() == "after"


@pytest.mark.parametrize("recorded", [True, False])
def test_a_step_that_fails_takes_back_nothing_of_a_step_beside_it(bus, recorded):
    with bus.run(record=recorded) as run:
        watching = bus.subscribe(run.id)
        under_way = threading.Barrier(2, timeout=TIMEOUT)

        def failing():
            with crewbus.run("inner"):
                crewbus.chunk("failed ")
                under_way.wait()  # the other one begins
                under_way.wait()
            raise LookupError

        def beside():
            crewbus.chunk("beside ")
            under_way.wait()

        failed = bus.submit(run.step, "failing", failing)
        under_way.wait()
        stays = bus.submit(run.step, "beside", beside)
        stays.result(TIMEOUT)
        with pytest.raises(LookupError):
            failed.result(TIMEOUT)
    assert watching.text() == "beside "


def test_promise_03_the_identity_of_a_step_does_not_grow_with_the_runs_around_it():
    with quiet_bus() as bus, contextlib.ExitStack() as runs:
        bus.enable_recording()
        for name in ("root", *"abcdefghij" * 20):
            run = runs.enter_context(bus.run(name))
            run.step("leaf", int)
        assert len(path_of(run, run.tree.log.nested_runs)) < 30
        run.step("again", int)
        with bus.run("other") as other:
            other.step("leaf", int)
        assert path_of(other, other.tree.log.nested_runs) != path_of(run, run.tree.log.nested_runs)


@pytest.mark.parametrize("streams", ["nothing", "in it", "in a nested run", "in a step that finished"])
def test_a_step_that_fails_retracts_only_if_it_has_streamed(bus, streams):
    def fails():
        with bus.call("gpt"):
            if streams == "in it":
                bus.chunk("x")
        with bus.run():
            if streams == "in a nested run":
                bus.chunk("x")
        if streams == "in a step that finished":
            crewbus.current_run().step("inner", lambda: bus.chunk("x") and None)
        raise ValueError("no")

    bus.enable_recording()
    with bus.run(id="run") as run, pytest.raises(ValueError, match="no"):
        run.step("fails", fails)
    assert ("Retracted" in names(bus, "run")) == (streams != "nothing")
