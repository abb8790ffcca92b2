"""Promise 11: an interrupt at any point of a scope's ``with`` block, or of closing a bus, leaves nothing half-done."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import pytest
from interrupts import PACKAGE, STARTING, Interrupt, at_each_point
from lifecycle_helpers import PATIENCE, until

import crewbus
from crewbus.scopes import callbacks_in_context, innermost, waiting

Act = Callable[[Callable[[], object]], None]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

HERE = __file__
"""Interrupts come in the test's own code too: between the statements of its ``with`` block."""


@contextmanager
def opened(**options: Any) -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False, unscoped="ignore", **options) as bus:
        yield bus


def nothing() -> None:
    pass


def in_run(bus: crewbus.Bus) -> None:
    with bus.run():
        nothing()


def in_nested_run(bus: crewbus.Bus) -> None:
    with bus.run(), bus.run():
        nothing()


def in_call(bus: crewbus.Bus) -> None:
    with bus.run(), bus.call("model"):
        nothing()


def in_attempt(bus: crewbus.Bus) -> None:
    with bus.run() as run, suppress(ConnectionError), run.attempt():
        bus.chunk("retracted")
        raise ConnectionError


def in_step(bus: crewbus.Bus) -> None:
    with bus.run() as run:
        run.step("step", nothing)


def in_scope(bus: crewbus.Bus) -> None:
    with bus.run() as run:

        def enter() -> None:
            with run.scope():
                nothing()

        Context().run(enter)


def in_callbacks(bus: crewbus.Bus) -> None:
    with bus.callbacks(lambda envelope: None):
        nothing()


def bound(bus: crewbus.Bus) -> None:
    def steps() -> Iterator[int]:
        with bus.run():
            yield 1

    for _ in crewbus.bind(steps)():
        nothing()


def in_async_run(bus: crewbus.Bus) -> None:
    async def main() -> None:
        async with bus.run(), bus.call("model"):
            nothing()

    coroutine = main()  # which awaits nothing, so that it needs no loop
    with suppress(StopIteration):
        coroutine.send(None)


@pytest.mark.parametrize(
    "action", [in_run, in_nested_run, in_call, in_attempt, in_step, in_scope, in_callbacks, bound, in_async_run]
)
@pytest.mark.parametrize("recorded", [False, True])
def test_promise_11_an_interrupt_at_any_point_of_a_scope_leaves_it(
    action: Callable[[crewbus.Bus], None], recorded: bool
) -> None:
    """It is not current any more, its runs have ended, with their terminal events, and nothing is held."""

    def play(interrupt: Act) -> None:
        seen.clear()
        before = set(bus.store.roots()) if recorded else set()
        with suppress(Interrupt):
            interrupt(partial(action, bus))
        assert innermost() is None
        assert callbacks_in_context() == ()
        assert bus.runs == []
        bus.submit(bus.emit, crewbus.Chunk("no lock is held")).result(PATIENCE)
        bus.flush(PATIENCE)
        if recorded:
            for root in set(bus.store.roots()) - before:
                record = list(bus.record_of(root))
                assert [envelope.seq for envelope in record] == list(range(len(record)))
                assert bus.store.info(root).sealed or not record  # the log may just have begun

    seen: list[Any] = []
    with opened() as bus:
        if recorded:
            bus.enable_recording(crewbus.MemoryStore())
        bus.on(object, seen.append, background=True)
        assert at_each_point(play, PACKAGE, HERE) > 10


def test_promise_07_a_call_that_an_interrupt_leaves_has_its_terminal_event() -> None:
    def play(interrupt: Act) -> None:
        seen: list[str] = []

        def note(envelope: crewbus.Envelope) -> None:
            seen.append(type(envelope.event).__name__)

        def act() -> None:
            with call:
                nothing()

        call = bus.call("model", callbacks=[note])
        with suppress(Interrupt):
            interrupt(act)
        assert call.ended
        assert seen == [] or seen[-1] in ("CallFinished", "CallCancelled") or seen == ["CallStarted"]

    with opened() as bus:
        assert at_each_point(play, PACKAGE, HERE) > 10


# Work


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("how", ["stream", "submit"])
def test_promise_11_an_interrupt_at_any_point_of_starting_work_leaves_none_live(how: str) -> None:
    """The work is done once or not at all; its run has ended, and nothing waits for it."""

    def act(bus: crewbus.Bus, work: Callable[[], object]) -> None:
        if how == "submit":
            bus.submit(work)
        else:
            with bus.stream(work) as stream:
                list(stream)

    def play(interrupt: Act) -> None:
        done: list[int] = []
        with suppress(Interrupt):
            interrupt(partial(act, bus, partial(done.append, 1)))
        gc.collect()
        until(lambda: not bus.runs and not bus._work._streamed and not bus._work._submitted)
        assert len(done) <= 1
        assert not waiting._waits

    gc.freeze()  # what earlier tests left is not walked at each point
    try:
        with opened() as bus:
            assert at_each_point(play, *STARTING) > 20
    finally:
        gc.unfreeze()


# Closing


class Plugin:
    def __init__(self) -> None:
        self.closed = 0

    @crewbus.hookimpl
    def crewbus_close(self) -> None:
        self.closed += 1


def busy_bus(plugin: Plugin, seen: list[Any]) -> crewbus.Bus:
    async def handle(envelope: crewbus.Envelope) -> None:
        seen.append(envelope.event)

    bus = crewbus.Bus([plugin], entry_points=False, unscoped="ignore")
    bus.enable_recording(crewbus.MemoryStore())
    bus.on(crewbus.Chunk, seen.append, background=True)
    bus.on(crewbus.Chunk, handle)
    with bus.run():
        bus.chunk("handled")
    bus.flush(PATIENCE)  # an interrupted close reports what is not handled yet
    return bus


@pytest.mark.parametrize("how", ["close", "aclose"])
def test_promise_11_an_interrupt_at_any_point_of_closing_lets_another_call_of_it_close(how: str) -> None:
    def close(bus: crewbus.Bus) -> None:
        if how == "close":
            bus.close(PATIENCE)
        else:
            asyncio.run(bus.aclose(PATIENCE))

    def play(interrupt: Act) -> None:
        plugin, seen = Plugin(), list[Any]()
        bus = busy_bus(plugin, seen)
        watcher = bus.subscribe("never", timeout=None)
        threads = bus.lifecycle.threads()
        with suppress(Interrupt):
            interrupt(partial(close, bus))
        copy_context().run(close, bus)
        assert bus.closed
        assert plugin.closed >= 1
        assert len(seen) == 2
        with pytest.raises(crewbus.BusClosedError):
            next(watcher)
        with pytest.raises(crewbus.BusClosedError):
            bus.run().start()
        for thread in threads | bus.lifecycle.threads():
            thread.join(PATIENCE)
            assert not thread.is_alive()

    assert at_each_point(play) > 50


def test_promise_11_an_interrupt_at_any_point_of_following_lets_another_thread_close() -> None:
    following = f"{PACKAGE}/streams", f"{PACKAGE}/_util/wakeup.py", *STARTING[1:]

    def play(interrupt: Callable[[Callable[[], object]], None]) -> None:
        stream = bus.subscribe(run.id, after="start")
        stream.source.take(time.monotonic())
        with suppress(Interrupt):
            interrupt(lambda: stream.source.take(time.monotonic() + 0.003))
        closing = threading.Thread(target=stream.close, daemon=True)
        closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()
        assert stream.source.closed

    with opened() as bus:
        bus.enable_recording()
        with bus.run() as run:
            assert at_each_point(play, *following) > 10
