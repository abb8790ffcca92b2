"""Promise 10: a store that has to wait for a server holds up neither a lock nor an event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import wraps

import pytest

import crewbus
from crewbus import MemoryStore
from crewbus._util import running_loop
from crewbus.scopes import threads
from crewbus.stores import Store

AT_ONCE = {"open_log", "append", "finish", "when_written", "backlog", "has_lease", "on_lost", "after_fork"}
"""What a store answers without waiting."""
ON_A_LOOP = {"event", "release"}
"""What a loop still waits for: a recalled result that is read, and the lease of a suspended run that is ended."""


class StopError(Exception):
    """Leaves a run unfinished."""


def noted(name, method):
    """A method that asks the store inside."""

    @wraps(method)
    def call(self, *args, **options):
        self.calls += 1
        if name not in AT_ONCE and threads.state.holds_lock():
            self.under_locks.add(name)
        if name not in AT_ONCE and running_loop() is not None:
            self.on_loops.add(name)
        return getattr(self.inner, name)(*args, **options)

    return call


class Noting(Store):
    """A store that asks another one, and notes what it is asked for where nothing may wait."""

    is_shared = True

    def __init__(self):
        self.inner = MemoryStore()
        self.under_locks, self.on_loops = set(), set()
        self.calls = 0


for name, method in vars(Store).items():
    if callable(method) and not name.startswith("_"):
        setattr(Noting, name, noted(name, method))
Noting.__abstractmethods__ = frozenset()


@crewbus.step
def plain(number: int) -> int:
    crewbus.chunk("text")
    return number


@crewbus.step
async def awaited(number: int) -> int:
    crewbus.chunk("text")
    return number


@pytest.fixture(params=["async", "sync"])
def bus(request):
    with crewbus.Bus(entry_points=False) as made:
        made.enable_recording(Noting(), durability=request.param)
        yield made


def test_no_store_call_waits_under_a_lock(bus):
    for run_id in ("a", "b", "c"):
        with suppress(StopError), bus.run(id=run_id) as run:
            plain(1)
            with bus.run(id=f"{run_id}/nested"):
                plain(2)
            run.checkpoint("here")
            if run_id == "b":
                raise StopError
    with pytest.raises(crewbus.RunSuspendedError), bus.resume(bus.fork("a", at="here")) as fork:
        fork.suspend()
        plain(3)
    with bus.resume("b") as run:
        plain(1)
        with bus.run(id="b/nested"):
            plain(2)
    with bus.subscribe("b", after="start") as stream:
        assert list(stream)
    assert bus.cancel("a") == "finished"
    assert bus.store.calls
    assert bus.store.under_locks == set()


def test_no_store_call_waits_on_an_event_loop(bus):
    async def work():
        for run_id in ("a", "b", "c"):
            with suppress(StopError, crewbus.RunSuspendedError):
                async with bus.run(id=run_id) as run:
                    await awaited(1)
                    async with bus.run(id=f"{run_id}/nested"):
                        await awaited(2)
                    await run.acheckpoint("here")
                    if run_id == "b":
                        raise StopError
                    if run_id == "c":
                        run.suspend()
                        await awaited(3)
        async with bus.resume(await bus.afork("a", at="here")):
            await awaited(1)
        async with bus.resume("b"):
            await awaited(1)
        stream = await bus.asubscribe("b", after="start")
        async with stream:
            assert [frame async for frame in stream]
        assert await bus.acancel("a") == "finished"

    asyncio.run(work())
    assert bus.store.calls
    assert bus.store.on_loops <= ON_A_LOOP
    assert bus.store.under_locks == set()
