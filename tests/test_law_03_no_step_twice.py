"""Law 3 of durable runs: a step whose end is recorded is not executed again."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from helpers import TIMEOUT, in_threads
from recorded_helpers import HeldStore, needs_sqlite, text_of

import crewbus


class Crash(BaseException):
    """Ends a run as a crash of its process does."""


def test_law_03_a_step_cancelled_while_it_waits_for_the_disk_keeps_its_result() -> None:
    calls: list[int] = []
    store = HeldStore()

    async def pay() -> int:
        calls.append(1)
        return len(calls)

    async def main() -> int:
        async with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording(store)
            async with bus.run(id="r") as run:
                store.holds = True
                for _ in range(2):
                    task = asyncio.ensure_future(run.step("pay", pay))
                    while not store.asked.is_set():
                        await asyncio.sleep(0)
                    store.asked.clear()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                store.let()
                return await run.step("pay", pay)

    assert asyncio.run(main()) == 1
    assert calls == [1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_law_03_an_interrupted_step_is_executed_again(bus: crewbus.Bus, kind: type[BaseException]) -> None:
    def interrupted() -> None:
        bus.chunk("half")
        raise kind

    def whole() -> int:
        bus.chunk("whole")
        return 1

    with pytest.raises(kind), bus.run(id="r") as run:
        run.step("s", interrupted)
    with bus.resume("r") as run:
        assert run.step("s", whole) == 1
    assert text_of(bus, "r") == "whole"


@crewbus.step(name="tests.law_03.down")
def down(n: int) -> int:
    executed.append(n)
    return 0 if n == 0 else down(n - 1) + 1


executed: list[int] = []


@pytest.mark.parametrize("depth", [50, 90])
def test_law_03_a_step_that_calls_itself(bus: crewbus.Bus, depth: int) -> None:
    executed.clear()
    with pytest.raises(Crash), bus.run(id="r"):
        assert down(depth) == depth
        raise Crash
    with bus.resume("r"):
        assert down(depth) == depth
    assert len(executed) == depth + 1


@needs_sqlite
def test_law_03_of_eight_that_resume_a_run_one_goes_on(tmp_path: Path) -> None:
    from crewbus_sqlite import SQLiteStore

    done = threading.Event()
    calls: list[int] = []
    told = threading.Semaphore(0)
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(SQLiteStore(tmp_path / "runs.db"))
        with pytest.raises(Crash), bus.run(id="r") as run:
            run.step("a", lambda: calls.append(1))
            raise Crash

        def go(_: int) -> str:
            try:
                with bus.resume("r") as run:
                    run.step("a", lambda: calls.append(1))
                    for _ in range(7):  # until all others were told
                        assert told.acquire(timeout=TIMEOUT)
                    done.set()
                    return "went on"
            except crewbus.CrewbusError as error:
                told.release()
                return type(error).__name__

        outcomes = in_threads(8, go)
        assert outcomes.count("went on") == 1
        assert done.is_set()
        assert bus.records.info("r").state == "finished"
    assert calls == [1]


@needs_sqlite
def test_law_03_a_large_result_is_not_computed_again(tmp_path: Path) -> None:
    from crewbus_sqlite import SQLiteStore

    size = 20_000_000
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(SQLiteStore(tmp_path / "big.db"), max_event_bytes=2 * size)
        with pytest.raises(Crash), bus.run(id="r") as run:
            run.step("big", lambda: "x" * size)
            raise Crash
        with bus.resume("r") as run:
            assert run.step("big", lambda: "again") == "x" * size
