"""Every interleaving of two threads: switched at each line between a check and the action based on it."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import contextmanager, suppress

import pytest
from helpers import TIMEOUT, Noted, quiet_bus
from interleave import explore

import crewbus
from crewbus import BusClosedError, Chunk, RunFinished, RunNotFoundError, StreamOptions
from crewbus.bus.live_runs import LiveRuns
from crewbus.dispatch import background
from crewbus.dispatch.async_handlers import AsyncHandlers
from crewbus.dispatch.background import Worker
from crewbus.dispatch.dispatcher import Dispatcher
from crewbus.dispatch.lane import OrderedLane
from crewbus.scopes.run import Run
from crewbus.streams.buffer import Buffer
from crewbus.work.owned import OwnedTask

SWITCHES = [1, pytest.param(2, marks=pytest.mark.long)]
"""How many switches each interleaving has at most; with two there are some thousands of each kind."""

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore::crewbus.UnscopedWarning")]


def assert_gapless(frames):
    """Frames from a run's start to its end: no number is missing, none is given twice, nothing follows the end."""
    assert [frame.seq for frame in frames] == list(range(frames[0].seq, frames[0].seq + len(frames)))
    assert [isinstance(frame.event, crewbus.RunEnded) for frame in frames] == [False] * (len(frames) - 1) + [True]


# Commit and finish


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_02_a_chunk_and_the_end_of_its_run(switches):
    """With a stream, each chunk is before the end of its run, or outside it; the stream ends with the run's end."""

    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            run = bus.run()
            stream = bus.subscribe(run.id)
            run.start()
            envelopes = []
            yield lambda: envelopes.extend(run.chunk(str(i)) for i in range(2)), run.finish
            frames = list(stream)
            assert_gapless(frames)
            streamed = [frame.event.text for frame in frames if isinstance(frame.event, Chunk)]
            assert streamed == [e.event.text for e in envelopes if e is not None and e.run_id == run.id]
            assert not run.tree.live

    assert explore(scenario, [OrderedLane.commit, LiveRuns.finish, Run.transition, Run.retire], switches) > 20


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_02_an_event_and_the_end_of_its_run_as_a_handler_sees_them(switches):
    """Without a stream there is no lock, and the numbers are gapless up to the end all the same."""

    @contextmanager
    def scenario():
        seen = []
        with quiet_bus() as bus:
            bus.on(object, lambda envelope: seen.append(envelope) if envelope.run_id else None)
            run = bus.run()
            run.start()

            def emit():
                with current(run):
                    bus.emit(Noted("1"))
                    bus.emit(Noted("2"))

            yield emit, run.finish
        assert_gapless(sorted(seen, key=lambda envelope: envelope.seq))

    assert explore(scenario, [Dispatcher.emit, OrderedLane.commit, Run.transition, Run.retire], switches) > 10


@contextmanager
def current(run):
    """``run``, current here whatever its state."""
    token = crewbus.scopes.scope_var.set(run)
    try:
        yield
    finally:
        crewbus.scopes.scope_var.reset(token)


# Cancel and check


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_10_a_cancel_and_the_checks_of_its_work(switches):
    """The work is notified once, at its first call after the cancel at the latest."""

    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            run, notified, cancelled = bus.run(), [], []
            run.start()

            def cancel():
                run.cancel()
                cancelled.append(True)

            def work():
                for i in range(3):
                    before = bool(cancelled)
                    try:
                        run.chunk(str(i))
                    except crewbus.Cancelled:
                        notified.append(i)
                    else:
                        assert notified or not before

            yield work, cancel
            assert len(notified) <= 1
            if not notified:
                with pytest.raises(crewbus.Cancelled):
                    run.check()
            run.finish(crewbus.Cancelled("over"))
            assert run.state == "cancelled"

    functions = [Run.cancel, Run.mark_stopped, Run.check, Run.is_stopped, OrderedLane.commit]
    assert explore(scenario, functions, switches) > 20


# A buffer and its consumer


@pytest.mark.parametrize("slow", ["block", "coalesce", "drop"])
@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_10_a_push_and_a_take(switches, slow):
    """Each frame arrives once, in order, and neither side hangs, with a bound of one and of two."""

    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            run, frames = bus.run(), []
            stream = bus.subscribe(run.id, bound=2, slow=slow)

            def work():
                with run:
                    for i in range(3):
                        run.chunk(str(i))

            yield work, lambda: frames.extend(stream)
            assert isinstance(frames[-1].event, RunFinished)
            text = "".join(frame.event.text for frame in frames if isinstance(frame.event, Chunk))
            dropped = sum(frame.event.count for frame in frames if isinstance(frame.event, crewbus.Dropped))
            if slow == "drop":
                assert len(text) + dropped == 3
            else:
                assert (text, dropped) == ("012", 0)

    assert explore(scenario, [Buffer], switches) > 20


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_10_a_push_and_the_end_of_its_stream(switches):
    """A consumer that leaves frees the emitter, and no push finds the buffer attached afterwards."""

    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            run = bus.run()
            stream = bus.subscribe(run.id, bound=1, slow="block")

            def work():
                with run:
                    for i in range(3):
                        run.chunk(str(i))

            yield work, stream.close
            assert run.state == "finished"
            assert (run.sinks, run.tree.sinks, stream.source.frames) == ((), 0, [])

    functions = [Buffer, LiveRuns.admit]
    assert explore(scenario, functions, switches) > 20


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_10_a_push_and_an_async_take(switches):
    """The same for a consumer on an event loop."""

    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            run, frames = bus.run(), []
            stream = bus.subscribe(run.id, bound=2, slow="block")

            def work():
                with run:
                    for i in range(3):
                        run.chunk(str(i))

            async def consume():
                frames.extend([frame async for frame in stream])

            yield work, lambda: asyncio.run(consume())
            assert_gapless(frames)
            assert len(frames) == 4

    assert explore(scenario, [Buffer], switches) > 20


# Watching and admitting


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_10_a_watcher_and_the_start_of_its_run(switches):
    """A watcher gets a run's frames up to its end, or none because it came too late; it never waits for ever."""

    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            run, frames = bus.run(), []

            def watch():
                with suppress(RunNotFoundError):
                    frames.extend(bus.subscribe(run.id, timeout=0.05))

            def work():
                with run:
                    run.chunk("x")

            yield watch, work
            if frames:
                assert_gapless(frames)
            assert not bus.runs

    functions = [LiveRuns, Buffer.attach]
    assert explore(scenario, functions, switches) > 10


# Handlers and the end of the bus


class Reports:
    """What was reported of faults."""

    def __init__(self):
        self.errors = []

    @crewbus.hookimpl
    def crewbus_plugin_error(self, failure):
        self.errors.append(failure.error)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("background", [False, True])
def test_promise_11_an_emission_and_the_end_of_its_bus(switches, background, caplog):
    """What is emitted to an async or background handler is handled, refused or reported; closing does not hang."""
    caplog.set_level("CRITICAL", logger="crewbus")

    @contextmanager
    def scenario():
        reports = Reports()
        with quiet_bus(plugins=[reports]) as bus:
            handled, emitted = [], []

            async def handle(envelope):
                handled.append(envelope.event.text)

            bus.on(Noted, handle, background=background)

            def emit():
                with suppress(BusClosedError):
                    for i in range(2):
                        bus.emit(Noted(str(i)))
                        emitted.append(str(i))

            yield emit, bus.close
            assert len(handled) + len(reports.errors) == len(emitted)
            assert handled == emitted[: len(handled)]
            assert not bus.lifecycle.threads()

    assert explore(scenario, [AsyncHandlers, Worker], switches) > 20


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_11_a_background_event_and_the_idle_end_of_its_thread(switches):
    """An event that is queued while the handler's thread ends is handled, by that thread or by the next."""

    @contextmanager
    def scenario():
        handled = []
        tasks = AsyncHandlers(lambda *_: None)
        worker = Worker(lambda envelope: handled.append(envelope.event.text), tasks, lambda *_: None)
        worker.finish()  # its thread ends as soon as the queue is empty

        def push():
            for i in range(2):
                worker.push(None, None, crewbus.Envelope(Noted(str(i)), None, i, None, 0.0))

        yield push, lambda: background._serve(weakref.ref(worker), worker._wakeup)
        tasks.wait(TIMEOUT)
        assert handled == ["0", "1"]

    assert explore(scenario, [Worker, background._serve], switches) > 20


# Owned work


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_11_the_end_of_work_and_a_wait_for_it(switches):
    """A wait, in a thread or on a loop, returns once the work is over, however its end and the wait interleave."""

    @contextmanager
    def scenario():
        waited = []
        task = OwnedTask(lambda: "done", (), {}, live=set(), on_end=lambda *_: None)

        def wait():
            waited.append(task.wait(TIMEOUT))
            waited.append(asyncio.run(task.wait_async(TIMEOUT)))

        yield task._run, wait
        assert waited == [True, True]
        assert task.outcome.result == "done"

    assert explore(scenario, [OwnedTask], switches) > 10


@pytest.mark.parametrize("switches", SWITCHES)
def test_promise_10_a_result_and_a_cancel(switches):
    """`result()` returns or raises, whatever the moment of the cancel."""

    @contextmanager
    def scenario():
        with quiet_bus() as bus:
            stream = bus.stream(lambda: crewbus.chunk("x") and "done", options=StreamOptions(bound=2))
            ended = []

            def ask():
                try:
                    ended.append(stream.result(TIMEOUT))
                except crewbus.RunCancelledError:
                    ended.append("cancelled")

            yield ask, stream.run.cancel
            assert ended in (["done"], ["cancelled"])
            assert (stream.run.state == "cancelled") == (ended == ["cancelled"])

    functions = [Run.start, Run.cancel, Run.mark_stopped, OwnedTask, Buffer.take]
    assert explore(scenario, functions, switches) > 5
