"""Promise 3: what a run costs does not grow with what went before it, nor with its depth."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from contextvars import copy_context
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from helpers import quiet_bus
from recorded_helpers import Disk, Follower, found, memory, text_of

import crewbus
from crewbus.dispatch import OrderedLane
from crewbus.records import Entry
from crewbus.scopes import Attempt, Host


@pytest.mark.parametrize("depth", [1, 40])
def test_promise_03_the_identity_of_a_step_does_not_grow_with_the_runs_around_it(depth: int) -> None:
    """It is as long at any depth, and making it takes no more than the one around it."""
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording()
        with ExitStack() as stack:
            runs = [stack.enter_context(bus.run(f"level {level}")) for level in range(depth)]
            assert runs[-1].step("step", lambda: depth) == depth
        record = bus.record_of(runs[0].id)
        (started,) = [one.event for one in record if isinstance(one.event, crewbus.StepStarted)]
        assert len(started.identity) < 32


def test_promise_03_a_cancelled_nested_run_does_not_slow_its_tree_once_it_has_ended() -> None:
    """The runs around it take no lock again, also if another run inside it ends later."""
    with crewbus.Bus(entry_points=False) as bus, bus.run() as root:
        with suppress(crewbus.RunCancelledError), bus.run() as nested:
            inner = bus.run()
            inner.start()
            nested.cancel()
        assert not root.tree.free
        inner.finish()
        assert root.tree.free
        assert root.tree.stopped == {}


# An open attempt, and what is made and ended in it

Work = Callable[[crewbus.Bus, crewbus.Run, str], None]


def call(bus: crewbus.Bus, run: crewbus.Run, text: str) -> None:
    with bus.call("model"):
        bus.chunk(text)


def retried_call(bus: crewbus.Bus, run: crewbus.Run, text: str) -> None:
    with bus.call("model") as called:
        with suppress(ConnectionError), called.attempt():
            bus.chunk("no! ")
            raise ConnectionError
        with called.attempt():
            bus.chunk(text)


def nested_run(bus: crewbus.Bus, run: crewbus.Run, text: str) -> None:
    with bus.run("nested"), bus.call("model"):
        bus.chunk(text)


def step(bus: crewbus.Bus, run: crewbus.Run, text: str) -> None:
    crewbus.current_run().step("step", lambda: call(bus, run, text))  # type: ignore[union-attr]


WORKS = [call, retried_call, nested_run, step]


def held(attempt: Attempt) -> int:
    """How many objects an attempt and its run keep, apart from their bus and store."""
    queue: list[Any] = [attempt]
    seen: set[int] = set()
    while queue:
        one = queue.pop()
        if id(one) in seen or isinstance(one, (crewbus.Bus, crewbus.Store, Host, OrderedLane, type, ModuleType)):
            continue
        seen.add(id(one))
        queue += [one.__closure__] if isinstance(one, FunctionType) else gc.get_referents(one)
    return len(seen)


SOME = 100
SLACK = 700
"""Far less than one object for each call. What is kept of those in progress varies by as much."""


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("work", WORKS)
def test_promise_03_an_open_attempt_does_not_grow_with_what_was_done_in_it(work: Work, recorded: bool) -> None:
    many = 20_000 if work is call else 2_000
    retracted: deque[crewbus.Retracted] = deque(maxlen=1)
    with quiet_bus() as bus:
        bus.on(crewbus.Retracted, lambda envelope: retracted.append(envelope.event))
        if recorded:
            bus.enable_recording(crewbus.MemoryStore())
        with bus.run() as run:
            with suppress(ConnectionError), run.attempt() as attempt:
                for _ in range(SOME):
                    work(bus, run, "word ")
                before = held(attempt)
                for _ in range(many):
                    work(bus, run, "word ")
                assert held(attempt) - before < SLACK
                raise ConnectionError
            assert retracted[-1].parents == (attempt.start_id,)


@pytest.mark.parametrize("work", WORKS)
def test_promise_03_a_resumed_attempt_does_not_grow_with_what_was_done_in_it(work: Work) -> None:
    """Neither with what it repeats, nor with what is new in it."""
    disk, many = memory(Path()), 2_000
    with disk.bus() as bus, bus.run(id="run") as run, run.attempt():
        for _ in range(SOME + many):
            work(bus, run, "word ")
        disk.crash()
    with disk.bus() as bus, bus.resume("run") as run:
        with suppress(ConnectionError), run.attempt() as attempt:
            for _ in range(SOME + many):
                work(bus, run, "word ")
            assert len(attempt.opened) == 1
            for _ in range(SOME):
                work(bus, run, "word ")
            before = held(attempt)
            for _ in range(many):
                work(bus, run, "word ")
            assert held(attempt) - before < SLACK
            raise ConnectionError
        bus.chunk("done")
    with disk.bus() as bus:
        assert len(found(bus, "run", crewbus.Retracted)[-1].event.parents) <= 2
        assert text_of(bus, "run") == "done"


# What the attempt retracts is exactly what was streamed in it


def attempted(bus: crewbus.Bus, run: crewbus.Run, letter: str, error: Exception | None) -> Iterator[None]:
    """An attempt that does everything in turns with another one. What it streams begins with its letter."""
    with suppress(ConnectionError), run.attempt():
        bus.chunk(f"{letter}1 ")
        yield
        for turn in range(3):
            with bus.call("model") as called:
                bus.chunk(f"{letter}2 ")
                yield
                with called.attempt():
                    bus.chunk(f"{letter}3 ")
                    yield
                with bus.run("nested", key=f"{letter}{turn}") as nested:
                    bus.chunk(f"{letter}4 ")
                    yield
                    nested.step("step", lambda: bus.chunk(f"{letter}5 ") and None)
                    with nested.attempt(), bus.run("deeper", key=f"{letter}{turn}"):
                        bus.chunk(f"{letter}6 ")
                        yield
        if error is not None:
            raise error


def in_turns(bus: crewbus.Bus, run: crewbus.Run, in_the_middle: Callable[[], object] = int) -> None:
    """Two attempts in contexts of their own, of which one fails."""
    bus.chunk("before ")
    going_on = [
        (copy_context(), attempted(bus, run, "a", ConnectionError())),
        (copy_context(), attempted(bus, run, "b", None)),
    ]
    turn = 0
    while going_on:
        going_on = [(context, work) for context, work in going_on if context.run(next, work, "over") != "over"]
        turn += 1
        if turn == 8:
            in_the_middle()
    bus.chunk("after")


KEPT = "before b1 " + 3 * "b2 b3 b4 b5 b6 " + "after"


class Texts:
    """A consumer by hand: it keeps the chunks that no retraction has covered."""

    def __init__(self) -> None:
        self.chunks: list[crewbus.Envelope] = []

    def follow(self, stream: crewbus.Stream) -> None:
        for frame in stream:
            self.see(frame)

    def see(self, frame: crewbus.Envelope) -> None:
        event = frame.event
        if isinstance(event, crewbus.Retracted):
            self.chunks = [one for one in self.chunks if not event.covers(one.seq, one.parent)]
        elif isinstance(event, crewbus.Chunk):
            self.chunks.append(frame)

    @property
    def text(self) -> str:
        return "".join(one.event.text for one in self.chunks)


def streamed_before_the_retraction() -> int:
    with quiet_bus() as bus, bus.run() as run, bus.subscribe(run.id, slow="fail") as stream:
        in_turns(bus, run)
        run.finish()
        return [type(frame.event) for frame in stream].index(crewbus.Retracted)


@pytest.mark.parametrize("slow", ["block", "coalesce", "drop", "fail"])
def test_promise_03_each_stream_retracts_exactly_what_the_attempt_streamed(slow: Any) -> None:
    """Whether the frames still wait in its full buffer, or the consumer has them already."""
    full, watched = streamed_before_the_retraction(), Texts()
    with quiet_bus() as bus, bus.run() as run:
        late = bus.subscribe(run.id, slow=slow, bound=2 * full if slow == "fail" else full)
        early = bus.subscribe(run.id, slow=slow)
        watcher = threading.Thread(target=watched.follow, args=(early,))
        watcher.start()
        in_turns(bus, run)
        run.finish()
        assert late.text() == KEPT
        watcher.join()
        assert watched.text == early.text() == KEPT


def test_promise_03_each_reader_of_a_record_retracts_exactly_what_the_attempt_streamed(disk: Disk) -> None:
    """Also one that comes back with a cursor from the middle of the attempt, or after a resume of the run."""
    middle = Follower()
    with disk.bus() as bus, bus.run(id="run") as run:
        in_turns(bus, run, lambda: middle.follow(bus, "run", frames=9))
        assert "a2 " in middle.texts
        disk.crash()
    with disk.bus() as bus:
        middle.follow(bus, "run")
        assert "".join(middle.texts) == text_of(bus, "run") == KEPT
        assert sum(entry.text.characters for entry in entries(bus)) == len(KEPT)
    with disk.bus() as bus, bus.resume("run") as run:
        in_turns(bus, run)
    with disk.bus() as bus:
        middle.follow(bus, "run")
        assert "".join(middle.texts) == text_of(bus, "run") == KEPT
        assert sum(entry.text.characters for entry in entries(bus)) == len(KEPT)
        with bus.subscribe("run", after="start") as stream:
            states = {type(frame.event) for frame in stream}
        assert crewbus.Retracted in states


def entries(bus: crewbus.Bus) -> list[Entry]:
    root = bus.records.get("run").timeline().run("run")
    assert root is not None
    return [entry for _, entry in root.walk()]


def test_promise_03_an_attempt_in_one_run_retracts_nothing_of_another_with_the_same_numbers() -> None:
    watched, kept = Texts(), "a1 " + 3 * "a2 a3 a4 a5 a6 "
    with quiet_bus() as bus:
        bus.on(crewbus.Chunk, watched.see)
        bus.on(crewbus.Retracted, watched.see)
        for name, error in (("r:1/", None), ("q", None), ("r", ConnectionError())):
            with bus.run(id=name) as run:
                assert [*attempted(bus, run, "a", error)]
        assert watched.text == kept + kept


def test_promise_03_ids_are_as_long_as_the_attempts_around_are_deep() -> None:
    with quiet_bus() as bus, bus.run(id="r") as run:
        for _ in range(3):
            call(bus, run, "")
        with run.attempt() as outer, bus.run(id="n") as nested, nested.attempt() as inner, bus.call("model"):
            assert (outer.start_id, nested.start_id, inner.start_id) == ("r:10/", "r:10/11", "r:10/12/")
            for _ in range(3):
                with bus.call("model") as called:
                    pass
            assert called.start_id == "r:10/12/18"
