"""On disk: steps, checkpoints and sync emissions return when what they did is durable, or raise why it is not."""

from __future__ import annotations

import asyncio
import signal

import pytest
from helpers import TIMEOUT, Noted, in_thread, quiet_bus
from recorded_helpers import FailingStore, HeldStore, found, names, needs_sqlite, spawn

import crewbus
from crewbus import StepStarted

CALLS: list[str] = []
"""What the steps of this module were called with."""


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@crewbus.step
def fetch(topic):
    CALLS.append(topic)
    return f"{topic} {len(CALLS)}"


@crewbus.step
async def afetch(topic):
    CALLS.append(topic)
    return f"{topic} {len(CALLS)}"


# Steps and checkpoints


def hold(action, *, durability="async"):
    """Do ``action`` while the disk holds back; what came of it before and after."""
    with quiet_bus() as bus:
        store = HeldStore()
        bus.enable_recording(store, durability=durability)

        def work():
            with bus.run(id="run") as run:
                store.holds = True
                result = action(run)
                done.append(result)
                return result

        done = []
        future = in_thread(work)
        assert store.asked.wait(TIMEOUT)
        with pytest.raises(TimeoutError):
            future.result(0.05)
        assert done == []
        store.let()
        return future.result(TIMEOUT)


def test_a_step_returns_when_it_is_on_disk():
    assert hold(lambda run: fetch("tea")) == "tea 1"


def test_a_checkpoint_returns_when_it_is_on_disk():
    assert hold(lambda run: run.checkpoint("here")).event == crewbus.CheckpointSaved("here")


def test_a_sync_emission_returns_when_it_is_on_disk():
    assert hold(lambda run: run.chunk("x"), durability="sync").event == crewbus.Chunk("x")
    assert hold(lambda run: run.emit(Noted("x")), durability="sync").event == Noted("x")


def test_an_async_emission_does_not_wait_for_the_disk():
    with quiet_bus() as bus:
        store = HeldStore()
        bus.enable_recording(store)
        with bus.run() as run:
            store.holds = True
            run.chunk("x")
            store.holds = False
        assert not store.asked.is_set()


@pytest.mark.parametrize("action", [lambda run: afetch("tea"), lambda run: run.acheckpoint("here")])
def test_on_a_loop_the_disk_is_awaited(action):
    async def main():
        with quiet_bus() as bus:
            store = HeldStore()
            bus.enable_recording(store)
            async with bus.run() as run:
                store.holds = True
                task = asyncio.ensure_future(action(run))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert store.asked.is_set()
                assert not task.done()
                store.let()
                return await task

    assert asyncio.run(main()) is not None


@needs_sqlite
def test_what_a_step_returned_survives_a_kill(tmp_path):
    from crewbus_sqlite import SQLiteStore

    process = spawn(f"""
        import os, signal, crewbus
        from crewbus_sqlite import SQLiteStore
        bus = crewbus.Bus(entry_points=False)
        bus.enable_recording(SQLiteStore({str(tmp_path / "runs.db")!r}))
        with bus.run(id="run") as run:
            print(run.step("one", lambda: 1), run.step("two", lambda: {{"b": [2]}}), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (-signal.SIGKILL, "1 {'b': [2]}\n")
    with quiet_bus() as bus:
        bus.enable_recording(SQLiteStore(tmp_path / "runs.db"))
        with bus.resume("run") as run:
            assert (run.step("one", lambda: None), run.step("two", lambda: None)) == (1, {"b": [2]})


# Emissions


@pytest.mark.parametrize("wrong", ["none", "", 1, True])
def test_a_durability_is_one_of_two(bus, wrong):
    with pytest.raises(crewbus.InputError, match="choose 'async' or 'sync'"):
        bus.run(durability=wrong)
    with pytest.raises(crewbus.InputError, match="choose 'async' or 'sync'"):
        bus.stream(lambda: None, options=crewbus.StreamOptions(durability=wrong))


@pytest.mark.parametrize(
    ("of_bus", "of_run", "waits"),
    [("async", None, False), ("sync", None, True), ("async", "sync", True), ("sync", "async", False)],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_run_waits_for_the_disk_as_it_says_or_else_its_bus(of_bus, of_run, waits, nested):
    with quiet_bus() as bus:
        store = HeldStore()
        bus.enable_recording(store, durability=of_bus)

        def work():
            with bus.run(id="run", durability=of_run) as run:
                if nested:
                    with bus.run("inner") as inner:
                        emit(inner)
                else:
                    emit(run)

        def emit(run):
            store.holds = True
            run.chunk("x")
            store.holds = False

        future = in_thread(work)
        if waits:
            assert store.asked.wait(TIMEOUT)
            store.let()
        future.result(TIMEOUT)
        assert store.asked.is_set() == waits


KINDS = {
    "event": lambda run: run.emit(Noted()),
    "call": lambda run: run.bus.call("model").start(),
    "attempt": lambda run: run.attempt().start(),
    "nested run": lambda run: run.bus.run("inner").start(),
    "end": lambda run: run.finish(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_sync_run_waits_for_the_disk(kind):
    with quiet_bus() as bus:
        store = HeldStore()
        bus.enable_recording(store, durability="sync")

        def work():
            with bus.run(id="run") as run:
                store.holds = True
                KINDS[kind](run)
                done.append(kind)

        done = []
        future = in_thread(work)
        assert store.asked.wait(TIMEOUT)
        assert done == []
        store.let()
        future.result(TIMEOUT)


# When the store fails


@pytest.mark.parametrize(
    "action", [lambda run: fetch("tea"), lambda run: run.checkpoint("x"), lambda run: run.chunk("x")]
)
def test_waiting_for_the_disk_raises_what_failed(action):
    with quiet_bus() as bus:
        store = HeldStore()
        bus.enable_recording(store, durability="sync")
        lost = crewbus.RecordingError("the disk is gone")

        def work():
            with bus.run() as run:
                store.holds = True
                with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
                    action(run)

        future = in_thread(work)
        assert store.asked.wait(TIMEOUT)
        store.let(lost)
        future.result(TIMEOUT)


class Hiccup(crewbus.MemoryStore):
    """Does not write when it is asked the first time."""

    failures = 1

    def when_written(self, root_id, notify):
        if self.failures:
            self.failures -= 1
            notify(crewbus.RecordingError("the disk is full"))
        else:
            super().when_written(root_id, notify)


@pytest.mark.parametrize("step", [fetch, lambda topic: asyncio.run(afetch(topic))])
def test_a_step_that_did_not_reach_the_disk_is_the_same_when_it_is_called_again(step):
    def insist(topic):
        try:
            return step(topic)
        except crewbus.RecordingError:
            return step(topic)

    with quiet_bus() as bus:
        bus.enable_recording(Hiccup())
        with pytest.raises(KeyboardInterrupt):
            with bus.run(id="run"):
                output = insist("tea")
                fetch("milk")
                raise KeyboardInterrupt
        with bus.resume("run"):
            assert insist("tea") == output
            fetch("milk")
        assert [one.event.ordinal for one in found(bus, "run", StepStarted)] in ([0, 0], [0, 0, 0])


def test_a_step_that_can_not_be_recorded_is_not_called():
    with quiet_bus() as bus:
        store = FailingStore()
        bus.enable_recording(store)
        with bus.run(id="run"):
            store.broken = True
            with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
                fetch("tea")
            assert CALLS == []
            store.broken = False
            assert fetch("tea") == "tea 1"
        assert [one.event.ordinal for one in found(bus, "run", StepStarted)] == [0]


def test_a_step_whose_end_can_not_be_recorded_raises():
    with quiet_bus() as bus:
        store = FailingStore()
        bus.enable_recording(store)

        def work():
            CALLS.append(1)
            store.broken = len(CALLS) == 1

        with bus.run(id="run") as run:
            with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
                run.step("work", work)
            store.broken = False
            run.step("work", work)
        assert names(bus, "run")[-2:] == ["StepFinished", "RunFinished"]
        assert CALLS == [1, 1]


def test_a_failed_write_reaches_the_emitter():
    with quiet_bus() as bus:
        bus.enable_recording(store := FailingStore())
        output = []
        bus.on(Noted, output.append)
        with bus.run(id="run") as run:
            store.broken = True
            for emit in (lambda: run.emit(Noted()), lambda: run.chunk("x"), lambda: bus.call("m").start()):
                with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
                    emit()
            store.broken = False
            run.emit(Noted("back"))
        assert [one.event.text for one in output] == ["back"]
        assert [one.seq for one in bus.record_of("run")] == [0, 1, 2]


def test_what_could_not_be_written_reaches_the_next_flush():
    class Late(crewbus.MemoryStore):
        lost = None

        def flush(self, timeout=None):
            lost, self.lost = self.lost, None
            if lost is not None:
                raise lost

    with quiet_bus() as bus:
        bus.enable_recording(store := Late())
        with bus.run() as run:
            run.chunk("x")
        for flush in (bus.flush, lambda: asyncio.run(bus.aflush())):
            store.lost = crewbus.RecordingError("the disk is gone")
            with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
                flush()
            flush()
