"""Law 10 of durable runs: the event loop is never blocked while the store waits for the disk or for another program."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import TIMEOUT, quiet_bus
from recorded_helpers import needs_sqlite

import crewbus
from crewbus import Chunk, RunFinished
from crewbus._util import in_worker


class Crash(BaseException):
    """Ends a run as a crash of its process does."""


async def one() -> int:
    return 1


class Slow(crewbus.MemoryStore):
    """A store whose calls of some names wait until they are let, in whichever thread they are made."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.entered, self.let, self.threads = threading.Event(), threading.Event(), set[object]()
        for name in names:
            setattr(self, name, self._waiting(getattr(self, name)))

    def _waiting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any) -> Any:
            if self.is_slow:
                self.threads.add(threading.current_thread())
                self.entered.set()
                assert self.let.wait(TIMEOUT)
            return method(*args)

        return wait

    is_slow = False


@contextlib.contextmanager
def recorded(*names: str) -> Iterator[tuple[crewbus.Bus, Slow]]:
    """A bus with an interrupted run "r", on a store whose calls of these names are slow from now on."""
    store = Slow(*names)
    with quiet_bus() as bus:
        bus.enable_recording(store)
        with pytest.raises(Crash), bus.run(id="r") as run:
            run.step("a", lambda: 1)
            run.checkpoint("c")
            raise Crash
        store.is_slow = True
        yield bus, store
        store.is_slow = False
        store.let.set()


@asynccontextmanager
async def meanwhile(store: Slow, work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """The task that does ``work``, while it is in a slow call of the store, and this loop goes on."""
    task = asyncio.create_task(work)
    while not store.entered.is_set():
        await asyncio.sleep(0)
        assert not task.done(), task.exception()
    yield task


FORMS: list[tuple[str, Callable[[crewbus.Bus], Coroutine[Any, Any, Any]]]] = [
    ("find", lambda bus: bus.records.alist()),
    ("info", lambda bus: bus.records.ainfo("r")),
    ("root_of", lambda bus: bus.records.aget("r")),
    ("marks", lambda bus: bus.records.acheckpoints("r")),
    ("read", lambda bus: bus.records.adiff("r", "r")),
    ("root_of", lambda bus: bus.records.aexport("r", "/dev/null")),
    ("info", lambda bus: bus.records.aprune(keep=1)),
    ("info", lambda bus: bus.asubscribe("r", after="start")),
    ("fork", lambda bus: bus.afork("r", "c")),
]


@pytest.mark.parametrize(("slow", "call"), FORMS)
def test_law_10_what_reads_or_changes_records_has_a_form_that_does_not_block_the_loop(
    slow: str, call: Callable[[crewbus.Bus], Coroutine[Any, Any, Any]]
) -> None:
    async def main() -> None:
        with recorded(slow) as (bus, store):
            async with meanwhile(store, call(bus)) as task:
                store.let.set()
                assert await task is not ...
            assert threading.current_thread() not in store.threads

    asyncio.run(main())


def test_law_10_a_resumed_run_continues_once_its_log_is_taken() -> None:
    async def main() -> None:
        with recorded("acquire") as (bus, store):

            async def resume() -> int:
                async with bus.resume("r") as run:
                    assert crewbus.current_run() is run
                    assert await run.step("a", one) == 1
                    run.checkpoint("c")
                    return await run.step("b", one)

            async with meanwhile(store, resume()) as task:
                assert bus.runs == []
                store.let.set()
                assert await task == 1
            assert threading.current_thread() not in store.threads
            assert bus.records.info("r").state == "finished"

    asyncio.run(main())


def test_law_10_a_resume_that_is_cancelled_while_the_store_is_asked_takes_nothing() -> None:
    async def main() -> None:
        with recorded("acquire") as (bus, store):

            async def resume() -> None:
                async with bus.resume("r"):
                    pytest.fail("it was cancelled before")

            async with meanwhile(store, resume()) as task:
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()  # again: it still waits for the call that it can't take back
                await asyncio.sleep(0)
                assert not task.done()
                store.let.set()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert bus.runs == []
            assert not store.info("r").alive
            async with bus.resume("r") as run:
                assert await run.step("a", one) == 1

    asyncio.run(main())


def test_law_10_what_a_cancelled_call_returns_is_undone_before_the_await_ends() -> None:
    async def main() -> None:
        entered, let, undone = threading.Event(), threading.Event(), list[int]()

        def call() -> int:
            entered.set()
            assert let.wait(TIMEOUT)
            return 1

        task = asyncio.create_task(in_worker(call, undone.append))
        while not entered.is_set():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert undone == []
        let.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert undone == [1]

    asyncio.run(main())


def test_law_10_a_run_that_is_cancelled_while_it_is_resumed_is_given_back() -> None:
    async def main() -> None:
        with recorded("acquire") as (bus, store):
            run = bus.resume("r")
            async with meanwhile(store, run.__aenter__()) as task:
                run.cancel("not needed")
                store.let.set()
                with pytest.raises(crewbus.RunCancelledError):
                    await task
            assert not store.info("r").alive

    asyncio.run(main())


def test_law_10_a_chosen_id_is_looked_up_beside_the_loop() -> None:
    async def main() -> None:
        with recorded("root_of") as (bus, store):

            async def begin() -> None:
                async with bus.run(id="new") as run:
                    await run.step("a", one)

            async with meanwhile(store, begin()) as task:
                store.is_slow = False
                store.let.set()
                await task
            assert threading.current_thread() not in store.threads
            with pytest.raises(crewbus.RunIdInUseError):
                await begin()

    asyncio.run(main())


def test_law_10_in_sync_durability_a_run_begins_and_ends_without_blocking_the_loop() -> None:
    class Late(crewbus.MemoryStore):
        """Says from the loop of the test, and nowhere else, that something is on disk."""

        def when_written(self, root_id: str, notify: Callable[[BaseException | None], None]) -> None:
            loop.call_soon(notify, None)

    async def main() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        with quiet_bus() as bus:
            bus.enable_recording(Late(), durability="sync")
            with pytest.raises(Crash):
                async with bus.run(id="r"):
                    raise Crash
            async with bus.resume("r"):
                pass
            assert bus.records.info("r").state == "finished"

    loop: asyncio.AbstractEventLoop
    asyncio.run(main())


@needs_sqlite
def test_law_10_while_another_program_has_the_database_locked_the_loop_goes_on(tmp_path: Path) -> None:
    from crewbus_sqlite import SQLiteStore

    async def main() -> None:
        with quiet_bus() as bus:
            bus.enable_recording(SQLiteStore(tmp_path / "runs.db"))
            with pytest.raises(Crash):
                async with bus.run(id="r") as run:
                    await run.step("a", one)
                    raise Crash
            bus.flush()
            lock = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            step = asyncio.Event()

            async def resume() -> None:
                async with bus.resume("r") as run:
                    assert await run.step("a", one) == 1
                    step.set()

            async def begin() -> None:
                async with bus.run(id="x") as run:
                    bus.chunk("a")
                    assert await run.step("a", one) == 1

            tasks = [asyncio.create_task(resume()), asyncio.create_task(begin())]
            for _ in range(20):  # only a loop that goes on comes to unlock it
                await asyncio.sleep(0)
            assert not any(task.done() for task in tasks)
            lock.execute("ROLLBACK")
            await asyncio.gather(*tasks)
            stream = await bus.asubscribe("x", after="start")
            assert [frame.event async for frame in stream] == [Chunk("a"), RunFinished()]
            lock.close()

    asyncio.run(main())


@needs_sqlite
def test_law_10_a_recorded_result_is_read_while_later_events_wait_for_the_disk(tmp_path: Path) -> None:
    from crewbus_sqlite import SQLiteStore

    with quiet_bus() as bus:
        bus.enable_recording(SQLiteStore(tmp_path / "runs.db"))
        with pytest.raises(Crash), bus.run(id="r") as run:
            run.step("a", lambda: 1)
            raise Crash
        bus.flush()
        with bus.resume("r") as run:
            lock = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            run.emit(crewbus.Chunk("x"))
            assert bus.store.event("r", 2).name == "crewbus.StepFinished"
            lock.execute("ROLLBACK")
            lock.close()
            assert run.step("a", lambda: 2) == 1


def test_law_10_where_no_thread_can_be_started_a_call_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> int:
        def refuse(*_: Any) -> None:
            raise RuntimeError("can't start new thread at interpreter shutdown")

        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
        return await in_worker(lambda: 1)

    assert asyncio.run(main()) == 1
