"""Law 7 of durable runs: one starter, one holder, and whoever lost a run is told before a step's function is called."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import TIMEOUT, in_threads, quiet_bus
from recorded_helpers import needs_sqlite, spawn

import crewbus
from crewbus.stores.liveness import LockFiles, Sign
from crewbus_jsonl import JsonlStore

Opener = Callable[[], crewbus.Store]


def memory(path: Path) -> Opener:
    store = crewbus.MemoryStore()
    return lambda: store


def journal(path: Path) -> Opener:
    return lambda: JsonlStore(path / "records.jsonl")


def sqlite(path: Path) -> Opener:
    from crewbus_sqlite import SQLiteStore

    return lambda: SQLiteStore(path / "runs.db")


STORES = [memory, journal, pytest.param(sqlite, marks=needs_sqlite)]


@contextmanager
def recording(store: crewbus.Store) -> Iterator[crewbus.Bus]:
    """A bus that records to ``store``, as if of a process of its own; what it lost is no error of the test."""
    with quiet_bus() as bus:
        bus.enable_recording(store)
        try:
            yield bus
        finally:
            with suppress(crewbus.FencedError, crewbus.RunIdInUseError):
                bus.flush()


@pytest.fixture(params=STORES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    opens: Opener = request.param(tmp_path)
    return opens


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program has the database locked for writing."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


# One starter


def test_law_07_of_many_that_start_one_id_one_calls_its_step(opener: Opener) -> None:
    for turn in range(10):
        charged: list[int] = []

        def start(i: int, run_id: str = f"order {turn}", charged: list[int] = charged) -> str:
            with recording(opener()) as bus:
                try:
                    with bus.run(id=run_id) as run:
                        run.step("charge", lambda: charged.append(i))
                except crewbus.RunIdInUseError as error:
                    return type(error).__name__
                return "done"

        told = in_threads(4, start)
        assert sorted(told) == ["RunIdInUseError"] * 3 + ["done"]
        assert charged == [told.index("done")]


@needs_sqlite
@pytest.mark.parametrize("is_async", [False, True])
def test_law_07_of_two_that_both_began_one_is_told_before_its_first_step(tmp_path: Path, is_async: bool) -> None:
    opens, charged = sqlite(tmp_path), list[int]()
    opens().begin("so that there is a file")
    with recording(opens()) as bus, bus.run():
        bus.chunk("a")
    both, begun = threading.Barrier(2), threading.Barrier(3)

    async def begin_async(bus: crewbus.Bus, i: int) -> None:
        async def charge() -> None:
            charged.append(i)

        async with bus.run(id="order") as run:
            begun.wait(TIMEOUT)
            await run.step("charge", charge)

    def begin(bus: crewbus.Bus, i: int) -> None:
        with bus.run(id="order") as run:
            begun.wait(TIMEOUT)
            run.step("charge", partial(charged.append, i))

    def start(i: int) -> str:
        with recording(opens()) as bus:
            both.wait(TIMEOUT)
            try:
                if is_async:
                    asyncio.run(begin_async(bus, i))
                else:
                    begin(bus, i)
            except crewbus.RunIdInUseError:
                return "told"
            return "done"

    def hold(i: int) -> str:
        if i < 2:
            return start(i)
        with locked(tmp_path / "runs.db"):  # until both have begun: neither can know of the other
            begun.wait(TIMEOUT)
        return ""

    told = in_threads(3, hold)
    assert sorted(told) == ["", "done", "told"]
    assert charged == [told.index("done")]


def test_law_07_an_error_of_the_start_that_was_swallowed_is_raised_again() -> None:
    class Late(crewbus.MemoryStore):
        """Learns only when it writes that another process began the log."""

        lost = False

        def append(self, root_id: str, epoch: int, event: crewbus.StoredEvent) -> None:
            if self.lost:
                self.confirm(root_id, epoch)
            super().append(root_id, epoch, event)

        def has_lease(self, root_id: str, epoch: int) -> bool:
            return not self.lost

        def confirm(self, root_id: str, epoch: int) -> None:
            self.lost = True
            raise crewbus.RunIdInUseError(f"run {root_id} is recorded already")

    calls: list[str] = []
    with quiet_bus() as bus:
        bus.enable_recording(Late())
        with pytest.raises(crewbus.RunIdInUseError), bus.run(id="r") as run:
            for name in "ab":
                with pytest.raises(crewbus.RunIdInUseError):
                    run.step(name, partial(calls.append, name))
        assert run.state == "failed"
    assert calls == []


# One holder


class Program:
    """A run in another process, which does a step for each line that it is sent, and says what came of it."""

    def __init__(self, path: Path, is_async: bool) -> None:
        await_, async_ = ("await ", "async ") if is_async else ("", "")
        self.process = spawn(f"""
            import asyncio, sys
            import crewbus
            from crewbus_sqlite import SQLiteStore

            {async_}def pay():
                print("paid", flush=True)

            {async_}def main():
                bus = crewbus.Bus(entry_points=False)
                bus.enable_recording(SQLiteStore({str(path)!r}, lease=0.5))
                try:
                    {async_}with bus.run(id="r") as run:
                        for line in sys.stdin:
                            try:
                                {await_}run.step("pay", pay, key=line)
                                print("stepped", flush=True)
                            except Exception as error:
                                print(type(error).__name__, flush=True)
                except Exception as error:
                    print("the end raised", type(error).__name__, flush=True)

            {"asyncio.run(main())" if is_async else "main()"}
        """)

    def step(self) -> list[str]:
        """Have it do a step; returns what it says."""
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()
        said = [self.line()]
        return said if said[0] != "paid" else [*said, self.line()]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "runs.db", request.param)
    yield made
    made.process.kill()
    made.process.communicate()


@needs_sqlite
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there is no SIGSTOP here")
def test_law_07_a_holder_that_was_stopped_beyond_its_lease_calls_no_function(program: Program, tmp_path: Path) -> None:
    assert program.step() == ["paid", "stepped"]
    os.kill(program.process.pid, signal.SIGSTOP)
    store = sqlite(tmp_path)()
    pause = threading.Event()
    while store.info("r").alive:
        pause.wait(0.01)
    with recording(store) as bus, bus.resume("r") as run:
        run.step("pay", lambda: pytest.fail("it is recorded"), key="go on\n")
    os.kill(program.process.pid, signal.SIGCONT)
    assert program.step() == ["FencedError"]
    assert program.step() == ["FencedError"]
    assert program.process.communicate(timeout=TIMEOUT)[0] == "the end raised FencedError\n"


@needs_sqlite
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there is no SIGSTOP here")
def test_law_07_a_holder_that_comes_back_and_renews_its_lease_first_calls_no_function(
    program: Program, tmp_path: Path
) -> None:
    assert program.step() == ["paid", "stepped"]
    os.kill(program.process.pid, signal.SIGSTOP)
    store, files = sqlite(tmp_path)(), LockFiles(tmp_path / "runs.db-holder-")
    (token,) = files.tokens()
    pause = threading.Event()
    while store.info("r").alive:
        pause.wait(0.01)
    with recording(store) as bus, bus.resume("r") as run:
        run.step("pay", lambda: pytest.fail("it is recorded"), key="go on\n")
    os.kill(program.process.pid, signal.SIGCONT)
    while files.sign(token) is not Sign.ALIVE:
        pause.wait(0.01)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        query = "SELECT until FROM holders WHERE token = ?"
        while connection.execute(query, (token,)).fetchone()[0] < time.time():
            pause.wait(0.01)
    assert program.step() == ["FencedError"]


@needs_sqlite
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there is no SIGSTOP here")
def test_law_07_a_holder_that_was_stopped_and_lost_nothing_goes_on(program: Program, tmp_path: Path) -> None:
    assert program.step() == ["paid", "stepped"]
    os.kill(program.process.pid, signal.SIGSTOP)
    store = sqlite(tmp_path)()
    pause = threading.Event()
    while store.info("r").alive:
        pause.wait(0.01)
    os.kill(program.process.pid, signal.SIGCONT)
    assert program.step() == ["paid", "stepped"]
    assert program.process.communicate(timeout=TIMEOUT)[0] == ""
    assert store.info("r").sealed
    store.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_law_07_a_swallowed_fencing_is_raised_by_each_later_step_and_by_the_end(
    opener: Opener, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    async def call(name: str) -> None:
        calls.append(name)

    def step(run: crewbus.Run, name: str) -> Any:
        return asyncio.run(run.step(name, call, name)) if is_async else run.step(name, calls.append, name)

    with recording(opener()) as old, recording(opener()) as new:
        with pytest.raises(crewbus.FencedError, match="taken over"), old.run(id="r") as run:
            watch = old.subscribe("r")
            step(run, "a")
            new.store.revoke("r")
            monkeypatch.setattr(type(old.store), "has_lease", lambda *_: False)  # as long after that
            with new.resume("r") as taken:
                step(taken, "a")
                for name in "bcd":
                    with pytest.raises(crewbus.FencedError, match="taken over"):
                        step(run, name)
                step(taken, "b")
        assert run.state == "failed"
        (end,) = watch
        assert end.event.error == "crewbus.exceptions.FencedError"
        assert new.records.info("r").state == "finished"
    assert calls == ["a", "b"]


def test_law_07_no_step_asks_the_store_while_the_lease_is_certain(opener: Opener) -> None:
    asked: list[str] = []
    store = opener()
    confirm = store.confirm

    def counted(root_id: str, epoch: int) -> None:
        asked.append(root_id)
        confirm(root_id, epoch)

    store.confirm = counted  # type: ignore[method-assign]
    with recording(store) as bus:
        for chosen in (None, "chosen"):
            with bus.run(id=chosen) as run:
                for number in range(20):
                    run.step("s", lambda: None, key=str(number))
        with pytest.raises(ZeroDivisionError), bus.run(id="open") as run:
            run.step("s", lambda: None)
            1 / 0  # noqa: B018
        with bus.resume("open") as run:
            run.step("s", lambda: None)
            run.step("t", lambda: None)
    assert asked == ["chosen", "open"]
