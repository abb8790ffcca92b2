"""A soak: everything at once, at random, for a while. Longer forms run in ``tox -e slow`` and ``tox -e long``."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress

import pytest
from helpers import TIMEOUT, Noted, crewbus_threads, in_thread, needs_fork

import crewbus
from crewbus import CallFinished, CallStarted, Chunk, Dropped, Retracted, StreamOptions, hookimpl

SECONDS = 20.0


class Visitor:
    """A plugin that joins and leaves, and fails now and then."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    @hookimpl
    def crewbus_emit(self, envelope):
        if self.random.random() < 0.001:
            raise ValueError("a visitor's fault")

    @hookimpl
    def crewbus_stream_chunk(self, envelope):
        if self.random.random() < 0.001:
            raise ValueError("a visitor's fault")


class Mine:
    """A callback that knows whose it is."""

    def __init__(self, name):
        self.name = name
        self.kinds = []

    def __call__(self, envelope):
        if isinstance(envelope.event, Chunk):
            assert envelope.event.text.startswith(f"{self.name}:")
        self.kinds.append(type(envelope.event))

    def check(self, pieces):
        assert self.kinds.count(Chunk) == pieces
        assert (self.kinds[0], self.kinds[-1]) == (CallStarted, CallFinished)


def called(name, i, dice):
    """A chunk in a call of its own, after attempts that are taken back, now and then from another thread."""
    mine, cuts = Mine(name), dice.randrange(3)
    with crewbus.call("model", callbacks=[mine]) as call:
        for number in range(cuts + 1):
            try:
                with call.attempt() as attempt:
                    text = f"{name}:{i} " if number == cuts else f"{name}:cut "
                    if dice.random() < 0.2:
                        call.bus.submit(attempt.chunk, text).result(TIMEOUT)
                    else:
                        crewbus.chunk(text)
                    if number < cuts:
                        raise ConnectionError
            except ConnectionError:
                continue
    mine.check(cuts + 1)


def produce(name, count, dice):
    """Chunks that name their run, numbered; with nested runs and calls among them, and failures at the end."""
    for i in range(count):
        if dice.random() < 0.1:
            called(name, i, dice)
        else:
            crewbus.chunk(f"{name}:{i} ")
        if dice.random() < 0.05:
            with crewbus.run("nested"):
                crewbus.emit(Noted(name))
    if dice.random() < 0.1:
        raise LookupError(name)
    return count


async def produce_async(name, count, dice):
    for i in range(count):
        crewbus.chunk(f"{name}:{i} ")
        if dice.random() < 0.3:
            await crewbus.drain()
        if dice.random() < 0.1:
            await asyncio.sleep(0)
    return count


def check(name, frames):
    """Frames of one run, as far as they were read: its own, in order; complete where nothing says otherwise."""
    numbers = [frame.seq for frame in frames]
    assert numbers == sorted(numbers)
    taken_back = [frame.event for frame in frames if isinstance(frame.event, Retracted)]
    expected = 0
    for frame in frames:
        if isinstance(frame.event, Dropped):
            expected = None  # of how many numbers is unknown: cut pieces may be among them
        elif isinstance(frame.event, Chunk) and not any(e.covers(frame.seq, frame.parent) for e in taken_back):
            for piece in frame.event.text.split():
                owner, _, number = piece.partition(":")
                assert owner == name
                if number != "cut":  # of which the retraction was not read any more
                    assert expected in (None, int(number))
                    expected = int(number) + 1


def options(dice):
    return StreamOptions(
        bound=dice.choice([1, 2, 8, 64, 1024]),
        slow=dice.choice(["block", "block", "coalesce", "drop"]),
        record=dice.choice([None, True]),
    )


def draw(dice):
    """A producer, how its stream is made, and after how many frames it is left."""
    agent = dice.choice([produce, produce_async])
    chosen = options(dice)
    if agent is produce_async and chosen.slow in ("block", "coalesce"):
        chosen = StreamOptions(bound=1024)  # a loop's thread never waits, and would fail a small one
    return agent, chosen, dice.choice([None, None, 0, 3])


def consume(bus, name, dice):
    agent, chosen, stop = draw(dice)
    frames = []
    try:
        with bus.stream(agent, name, dice.randrange(200), random.Random(dice.random()), options=chosen) as stream:
            for frame in stream:
                if len(frames) == stop:
                    break
                frames.append(frame)
    except LookupError:
        pass
    check(name, frames)


async def consume_async(bus, name, dice):
    agent, chosen, stop = draw(dice)
    frames = []
    try:
        async with bus.stream(agent, name, dice.randrange(200), random.Random(dice.random()), options=chosen) as stream:
            async for frame in stream:
                frames.append(frame)
                if stop is not None and len(frames) > stop:
                    break
    except LookupError:
        pass
    check(name, frames)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_soak(seed, caplog):
    caplog.set_level("CRITICAL", logger="crewbus")  # the visitors' faults
    gc.collect()
    end = time.monotonic() + SECONDS
    bus = crewbus.Bus(entry_points=False, unscoped="ignore")
    handled = []

    async def handle(envelope):
        handled.append(envelope.event.text)

    bus.on(Noted, handle)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def consumers(number):
        dice = random.Random(f"{seed} {number}")
        count = 0
        while time.monotonic() < end:
            consume(bus, f"t{number}r{count}", dice)
            count += 1
        return count

    def loop(number):
        async def main():
            dice = random.Random(f"{seed} loop {number}")
            count = 0
            while time.monotonic() < end:
                names = [f"a{number}r{count + i}" for i in range(20)]
                await asyncio.gather(*(consume_async(bus, name, random.Random(dice.random())) for name in names))
                count += len(names)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return count

        return asyncio.run(main())

    def visits():
        dice = random.Random(seed)
        count = 0
        while time.monotonic() < end:
            visitor = Visitor(dice.random())
            bus.plugins.register(visitor, f"visitor {count}")
            undo = (
                bus.plugins.add_hookcall_monitoring(lambda *_: None, lambda *_: None) if dice.random() < 0.1 else None
            )
            threading.Event().wait(0.001)
            if undo is not None:
                undo()
            bus.plugins.unregister(visitor)
            count += 1
        return count

    try:
        futures = [in_thread(consumers, number) for number in range(4)]
        futures += [in_thread(loop, number) for number in range(2)]
        futures.append(in_thread(visits))
        counts = [future.result(SECONDS + TIMEOUT * 3) for future in futures]
    finally:
        sys.setswitchinterval(before)
    bus.flush(TIMEOUT)
    assert all(counts)
    assert handled
    for root in bus.store.roots():
        record = list(bus.record_of(root))
        assert [envelope.seq for envelope in record] == list(range(len(record)))
    assert bus.runs == []
    bus.close()
    assert crewbus_threads() == []


class AlarmError(BaseException):
    """What the signal handler raises."""


class Storm:
    """A signal handler that emits whatever is interrupted, and now and then raises."""

    def __init__(self, bus, dice):
        self.bus = bus
        self.dice = dice
        self.raises = True

    def __call__(self, *_):
        self.bus.emit(Noted("alarm"))
        if self.raises and self.dice.random() < 0.3:
            raise AlarmError


class Litter:
    """Garbage in a cycle whose finaliser emits, from wherever the collector runs."""

    bus = None

    def __init__(self, bus):
        self.bus, self.cycle = bus, self

    def __del__(self):
        if self.bus is not None:  # an alarm may come before it is set
            self.bus.emit(Noted("collected"))


def fork_and_emit(bus):
    """A child that emits, flushes and closes with what it inherited; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    with suppress(BaseException):
        signal.setitimer(signal.ITIMER_REAL, 0)
        with bus.run("child"):
            bus.emit(Noted("child"))
        bus.flush(TIMEOUT)
        status = 0
    os._exit(status)


@needs_fork
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork in a process with threads
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # alarms inside finalisers
@pytest.mark.parametrize("rounds", [60, pytest.param(2_000, marks=pytest.mark.slow)])
def test_soak_of_signals_forks_and_collections(rounds, caplog):
    """Signal handlers that emit and raise, finalisers that emit, forks, and threads: nothing hangs or loses order."""
    caplog.set_level("CRITICAL", logger="crewbus")
    dice, before = random.Random(rounds), gc.get_threshold()
    bus = crewbus.Bus(entry_points=False, unscoped="ignore")
    bus.enable_recording(crewbus.MemoryStore())
    handled, ended = [], threading.Event()
    bus.on(Noted, lambda envelope: handled.append(envelope.event.text), background=True)
    storm = Storm(bus, dice)

    def consumers(number):
        count = 0
        while not ended.is_set():
            consume(bus, f"t{number}r{count}", random.Random(f"{number} {count}"))
            count += 1
        return count

    old = signal.signal(signal.SIGALRM, storm)
    futures = [in_thread(consumers, number) for number in range(2)]
    try:
        gc.set_threshold(50, 2, 2)
        for i in range(rounds):
            with suppress(AlarmError):  # around the timer too: one alarm, which may come wherever it is set
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005 + dice.random() / 500)
                    with bus.run(f"stormy {i}"):
                        for _ in range(20):
                            Litter(bus)
                            bus.emit(Noted("work"))
                finally:
                    storm.raises = False
                    signal.setitimer(signal.ITIMER_REAL, 0)
            storm.raises = False
            if i % 20 == 0:
                assert fork_and_emit(bus) == 0
            storm.raises = True
    finally:
        storm.raises = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        gc.set_threshold(*before)
        ended.set()
    assert all(future.result(TIMEOUT) for future in futures)
    gc.collect()  # what is left of the garbage would emit on a closed bus, in a later test
    bus.flush(TIMEOUT)
    assert "alarm" in handled
    assert "collected" in handled
    for root in bus.store.roots():
        record = list(bus.record_of(root))
        assert [envelope.seq for envelope in record] == list(range(len(record)))
    assert bus.runs == []
    bus.close()
    # Python keeps listing a thread whose start an alarm has interrupted.
    named = [thread for thread in threading.enumerate() if thread.name.startswith("crewbus")]
    started = [thread for thread in named if thread.is_alive()]
    for thread in started:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in started)
