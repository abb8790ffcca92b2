"""One pass: what an emission takes, makes and asks, and how often a consumer is woken. Counted, never timed."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from crewbus import Bus, Call, Chunk, Envelope, Run, step
from crewbus.dispatch import lane
from crewbus.streams import buffer, waker

CHUNKS = 10


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test, run on an event loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class CountedLock:
    """A tree's lock that counts how often it is acquired."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.release = self._lock.release
        self._is_owned = self._lock._is_owned  # type: ignore[attr-defined]
        self.count = 0

    def acquire(self, *args: Any) -> bool:
        self.count += 1
        return self._lock.acquire(*args)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self._function(*args, **kwargs)


class CountedPlans(dict[type, Any]):
    """The plans of a bus, and how often one is looked up."""

    count = 0

    def __getitem__(self, kind: type) -> Any:
        self.count += 1
        return super().__getitem__(kind)

    def get(self, kind: type, default: Any = None) -> Any:
        self.count += 1
        return super().get(kind, default)


@pytest.fixture
def bus() -> Iterator[Bus]:
    with Bus(entry_points=False) as bus:
        yield bus


def with_counted_lock(run: Run) -> CountedLock:
    lock = CountedLock()
    run.tree.lock = lock  # type: ignore[assignment]
    return lock


def in_a_run(run: Run) -> AbstractContextManager[object]:
    return nullcontext()


def in_a_call(run: Run) -> AbstractContextManager[object]:
    return run.bus.call("gpt")  # type: ignore[no-any-return]


def in_a_call_with_a_callback(run: Run) -> AbstractContextManager[object]:
    return run.bus.call("gpt", callbacks=[lambda envelope: None])  # type: ignore[no-any-return]


def in_an_attempt(run: Run) -> AbstractContextManager[object]:
    return run.attempt()


def in_an_attempt_at_a_call(run: Run) -> AbstractContextManager[object]:
    call: Call = run.bus.call("gpt")
    call.start()
    return call.attempt()


SCOPES = (in_a_run, in_a_call, in_a_call_with_a_callback, in_an_attempt, in_an_attempt_at_a_call)


def assert_one_pass(bus: Bus, lock: CountedLock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks emitted here take, make and ask for one thing each."""
    bus.chunk("the plan is made")
    envelopes, clock, here, plans = Counted(Envelope), Counted(lane.now), Counted(bus._here), CountedPlans(bus._plans)
    monkeypatch.setattr(lane, "Envelope", envelopes)
    monkeypatch.setattr(lane, "now", clock)
    monkeypatch.setattr(bus, "_here", here)
    monkeypatch.setattr(bus, "_plans", plans)
    lock.count = 0
    for _ in range(CHUNKS):
        bus.chunk("Hello")
    assert lock.count == CHUNKS
    assert envelopes.count == CHUNKS
    assert clock.count == CHUNKS
    assert here.count == CHUNKS
    assert plans.count == CHUNKS
    monkeypatch.undo()


@pytest.mark.parametrize("scope", SCOPES)
def test_an_emission_takes_one_lock_and_builds_one_envelope(
    scope: Callable[[Run], AbstractContextManager[object]], bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bus.run() as run:
        lock = with_counted_lock(run)
        with bus.subscribe(run.id), scope(run):
            assert_one_pass(bus, lock, monkeypatch)


def test_an_emission_in_a_step_takes_one_lock_and_builds_one_envelope(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step
    def work() -> None:
        assert_one_pass(bus, lock, monkeypatch)

    with bus.run() as run:
        lock = with_counted_lock(run)
        with bus.subscribe(run.id):
            work()


@on_a_loop
async def test_a_consumer_takes_the_lock_once_for_a_frame(bus: Bus) -> None:
    """Asking for the next one, when all was taken, takes none."""
    async with bus.run() as run:
        lock = with_counted_lock(run)
        async with bus.subscribe(run.id) as stream:
            frames = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)  # it waits
            for _ in range(CHUNKS):
                lock.count = 0
                bus.chunk("Hello")
                await frames
                frames = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)
                assert lock.count == 2  # the emission, and the frame
            frames.cancel()


@on_a_loop
async def test_a_consumer_is_woken_once_for_a_batch(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    woken = []
    wake = waker.LoopWaker.wake

    def counted(self: waker.LoopWaker, future: asyncio.Future[None]) -> None:
        woken.append(future)
        wake(self, future)

    monkeypatch.setattr(waker.LoopWaker, "wake", counted)
    async with bus.run() as run:
        async with bus.subscribe(run.id) as stream:
            first = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)  # it waits
            for _ in range(CHUNKS):
                bus.chunk("Hello")
            assert len(woken) == 1
            assert [frame.event for frame in [await first, *[await anext(stream) for _ in range(CHUNKS - 1)]]] == [
                Chunk("Hello") for _ in range(CHUNKS)
            ]
            assert len(woken) == 1


@on_a_loop
async def test_a_loop_is_woken_once_by_a_thread_that_feeds_many_runs(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [bus.run() for _ in range(CHUNKS)]
    for run in runs:
        run.start()
    streams = [bus.subscribe(run.id) for run in runs]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0)  # all wait
    loop = asyncio.get_running_loop()
    threadsafe = Counted(loop.call_soon_threadsafe)
    monkeypatch.setattr(loop, "call_soon_threadsafe", threadsafe)
    feeder = threading.Thread(target=lambda: [run.chunk("Hello") for run in runs for _ in range(CHUNKS)])
    feeder.start()
    feeder.join()  # blocks the loop, which so takes all as one batch
    assert threadsafe.count == 1
    assert [(await one).event for one in waiting] == [Chunk("Hello") for _ in runs]
    for run, stream in zip(runs, streams, strict=True):
        await stream.aclose()
        run.finish()


@on_a_loop
async def test_a_consumer_looks_at_the_clock_once_for_a_batch(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, take, takes = Counted(buffer.monotonic), buffer.Buffer._take_some, []

    def counted(self: buffer.Buffer, waker: waker.LoopWaker) -> Any:
        takes.append(self)
        return take(self, waker)

    monkeypatch.setattr(buffer, "monotonic", clock)
    monkeypatch.setattr(buffer.Buffer, "_take_some", counted)
    async with bus.run() as run, bus.subscribe(run.id) as stream:
        for _ in range(CHUNKS):
            bus.chunk("Hello")
        for _ in range(CHUNKS):
            await anext(stream)
        assert clock.count == len(takes) - 1  # the first came before any, and begins the count


@on_a_loop
async def test_what_wakes_a_consumer_before_it_asks_is_not_lost(bus: Bus) -> None:
    """A frame comes between the last one that it took and its next question, from its own thread or another."""
    async with bus.run() as run, bus.subscribe(run.id) as stream:
        for emit in (bus.chunk, lambda text: in_a_thread(run.chunk, text)):
            emit("a")
            assert (await anext(stream)).event == Chunk("a")
            emit("b")
            assert (await anext(stream)).event == Chunk("b")
            asking = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            emit("c")
            assert (await asking).event == Chunk("c")


@on_a_loop
async def test_a_consumer_that_has_all_frees_an_emitter_that_waits(bus: Bus) -> None:
    """Also where one frame fills the buffer, so that the emitter waits for its being processed."""
    for bound in (1, 2, 3):
        async with bus.run() as run, bus.subscribe(run.id, bound=bound, slow="block") as stream:
            feeder = threading.Thread(target=lambda run=run: [run.chunk("Hello") for _ in range(CHUNKS)])
            feeder.start()
            for _ in range(CHUNKS):
                assert (await anext(stream)).event == Chunk("Hello")
            asking = asyncio.ensure_future(anext(stream))
            await asyncio.to_thread(feeder.join)
            asking.cancel()


def in_a_thread(function: Callable[[str], object], text: str) -> None:
    thread = threading.Thread(target=function, args=(text,))
    thread.start()
    thread.join()
