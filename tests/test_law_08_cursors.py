"""Law 8 of durable runs: a cursor names its record, and one beyond the end of a finished run ends the stream."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers import TIMEOUT, in_thread
from recorded_helpers import DISKS, Disk

import crewbus
from crewbus import Chunk, Retracted, RunFinished


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Any) -> Disk:
    made: Disk = request.param(tmp_path)
    return made


def record(bus: crewbus.Bus, run_id: str, text: str, count: int = 3) -> None:
    with bus.run(id=run_id):
        for number in range(count):
            bus.chunk(f"{text}{number}")


def cursor_after(bus: crewbus.Bus, run_id: str, count: int) -> str:
    """The cursor of a consumer that got so many frames."""
    with bus.subscribe(run_id, after="start") as stream:
        for _ in range(count):
            next(stream)
        assert stream.cursor is not None
        return stream.cursor


def followed(bus: crewbus.Bus, run_id: str, cursor: str) -> list[Any]:
    """All frames from a cursor on; fails if the stream waits."""
    stream = bus.subscribe(run_id, after=cursor)
    return [frame.event for frame in in_thread(list, stream).result(TIMEOUT)]


def test_law_08_a_cursor_of_another_run_is_rejected(disk: Disk) -> None:
    with disk.bus() as bus:
        record(bus, "a", "a")
        record(bus, "b", "b")
        cursor = cursor_after(bus, "a", 2)
        with pytest.raises(crewbus.InputError, match="not one of run b"):
            bus.subscribe("b", after=cursor)
        assert followed(bus, "a", cursor) == [Chunk("a2"), RunFinished()]


def test_law_08_a_cursor_of_a_nested_run_is_none_of_its_root_or_of_a_fork(disk: Disk) -> None:
    with disk.bus() as bus:
        with bus.run(id="root"):
            with bus.run(id="nested"):
                bus.chunk("a")
                bus.chunk("b")
            bus.runs[0].checkpoint("c")
        fork = bus.fork("root", "c")
        cursor = cursor_after(bus, "nested", 1)
        for other in ("root", fork):
            with pytest.raises(crewbus.InputError, match="not one of run"):
                bus.subscribe(other, after=cursor)
        assert followed(bus, "nested", cursor) == [Chunk("b"), RunFinished()]


def test_law_08_a_cursor_of_a_pruned_run_is_rejected_once_its_id_is_used_again(disk: Disk) -> None:
    with disk.bus() as bus:
        record(bus, "a", "old")
        cursor = cursor_after(bus, "a", 1)
        bus.records.prune(keep=0)
        with pytest.raises(crewbus.RunNotFoundError):
            bus.subscribe("a", after=cursor)
        with bus.run(id="a"):
            bus.flush()
            with pytest.raises(crewbus.InputError, match=f"earlier one of this id.*{'start'!r}"):
                bus.subscribe("a", after=cursor)
            bus.chunk("new")
        assert followed(bus, "a", "start") == [Chunk("new"), RunFinished()]


def test_law_08_a_cursor_is_the_same_live_recorded_and_resumed(disk: Disk) -> None:
    with disk.bus() as bus:
        with bus.run(id="a") as run:
            live = bus.subscribe("a")
            run.step("s", lambda: 1)
            bus.chunk("1")
            next(live)
            run.checkpoint("c")
            disk.crash()
    assert live.cursor is not None
    with disk.bus() as bus:
        assert cursor_after(bus, "a", 1) == live.cursor
        with bus.resume("a") as run:
            resumed = bus.subscribe("a")
            run.step("s", lambda: 1)
            bus.chunk("1")
            run.checkpoint("c")
            bus.chunk("2")
            while next(resumed).event != Chunk("2"):  # before it comes what is repeated
                pass
        assert followed(bus, "a", live.cursor)[-2:] == [Chunk("2"), RunFinished()]
        assert resumed.cursor is not None
        assert followed(bus, "a", resumed.cursor) == [RunFinished()]


@pytest.mark.parametrize(
    ("seq", "is_root_alive"), [("6", True), ("999999", True), ("8", False), ("999999", False), ("9" * 18, False)]
)
def test_law_08_beyond_the_end_of_a_run_only_the_end_comes(disk: Disk, seq: str, is_root_alive: bool) -> None:
    with disk.bus() as bus, bus.run(id="root") as root:
        record(bus, "nested", "n")
        run_id = "nested" if is_root_alive else "root"
        bus.chunk("x" if is_root_alive else "last")
        if not is_root_alive:
            root.finish()
        beyond = re.sub(r"^\d+", seq, cursor_after(bus, run_id, 1))
        frames = followed(bus, run_id, beyond)
        assert frames[-1] == RunFinished()
        assert [type(frame) for frame in frames[:-1]] in ([], [Retracted])


@pytest.mark.parametrize("again", [0, 1, 600, 5000])
def test_law_08_a_follower_of_a_pruned_run_gets_no_frame_of_another(disk: Disk, again: int) -> None:
    with disk.bus() as bus:
        record(bus, "a", "old", 1000)
        stream = bus.subscribe("a", after="start")
        seen = [next(stream).event.text]
        bus.records.prune(keep=0)
        if again:
            record(bus, "a", "new", again)

        def rest() -> None:
            for frame in stream:
                seen.append(getattr(frame.event, "text", ""))
            assert len(seen) == 1001  # it has read the old one from memory

        try:
            in_thread(rest).result(TIMEOUT)
        except crewbus.CrewbusError as error:
            assert isinstance(error, crewbus.RunNotFoundError), repr(error)
        assert not any(text.startswith("new") for text in seen)


def test_law_08_a_follower_that_waits_is_told_that_the_id_is_used_again(disk: Disk) -> None:
    with disk.bus() as bus:
        with pytest.raises(ZeroDivisionError), bus.run(id="a"):
            bus.chunk("old")
            stream = bus.subscribe("a", after="start")
            assert next(stream).event == Chunk("old")
            bus.flush()
            raise ZeroDivisionError
        bus.records.prune(keep=0)
        with bus.run(id="a"):
            bus.chunk("new")
            bus.chunk("and longer")
            bus.flush()
            with pytest.raises(crewbus.RunNotFoundError, match="pruned while it was followed"):
                in_thread(next, stream).result(TIMEOUT)
