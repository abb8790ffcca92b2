"""Background handlers: an ordered, bounded worker each. `submit`: work in the caller's context."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from concurrent import futures
from contextlib import nullcontext

import pytest
from helpers import TIMEOUT, Done, Noted, crewbus_threads, in_thread, in_threads, needs_fork, quiet_bus
from lifecycle_helpers import script
from lifecycle_helpers import until as wait_until
from plugin_helpers import Watcher, logged

import crewbus
from crewbus.dispatch import background as _background
from crewbus.dispatch.background import BOUND

tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture
def bus():
    with quiet_bus() as bus:
        yield bus


# Background handlers


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_it_gets_every_event_in_order(bus, kind):
    """From many threads, in many runs: each root run's events in the order of their numbers, one at a time."""
    seen, inside = [], []

    def take(envelope):
        inside.append(1)
        seen.append(envelope)
        assert len(inside) == 1
        inside.pop()

    async def take_async(envelope):
        inside.append(1)
        await asyncio.sleep(0)
        inside.pop()
        take(envelope)

    bus.on(Noted, take if kind == "sync" else take_async, background=True)
    runs = [bus.run() for _ in range(4)]
    for run in runs:
        run.start()
    in_threads(8, lambda i: [runs[(i + j) % 4].emit(Noted(str(j))) for j in range(100)])
    for run in runs:
        run.finish()
    bus.flush(TIMEOUT)
    assert len(seen) == 800
    for run in runs:
        numbers = [envelope.seq for envelope in seen if envelope.run_id == run.id]
        assert numbers == list(range(1, 201))


def test_outside_runs_too(bus):
    seen = []
    bus.on(Noted, seen.append, background=True)
    sent = [envelope for batch in in_threads(8, lambda i: [bus.emit(Noted()) for _ in range(50)]) for envelope in batch]
    bus.flush(TIMEOUT)
    numbers = [envelope.seq for envelope in seen]
    assert numbers == sorted(envelope.seq for envelope in sent)


def test_of_all_kinds_of_events(bus):
    """Terminal events, those of calls, and chunks beside a stream."""
    seen = []

    def take(envelope):
        seen.append(type(envelope.event).__name__)

    bus.on(object, take, background=True)
    with bus.run() as run:
        watching = bus.subscribe(run.id)
        bus.emit(Noted())
        with bus.call("gpt"):
            bus.chunk("x")
    bus.flush(TIMEOUT)
    assert seen == ["RunStarted", "Noted", "CallStarted", "Chunk", "CallFinished", "RunFinished"]
    assert watching.text() == "x"


def test_one_handler_of_several_types_has_one_worker(bus):
    seen = []

    def take(envelope):
        seen.append((type(envelope.event), threading.get_ident()))

    bus.on(Noted, take, background=True)
    bus.on(crewbus.Chunk, take, background=True)
    bus.on(Noted, take, background=True)
    with bus.run():
        bus.emit(Done())
        bus.chunk("x")
    bus.flush(TIMEOUT)
    assert [kind for kind, _ in seen] == [Done, crewbus.Chunk]
    assert len({thread for _, thread in seen}) == 1


@pytest.mark.parametrize("inside", [True, False], ids=["in a run", "outside"])
def test_the_emitter_does_not_wait_until_the_queue_is_full(bus, inside):
    gate, handled = threading.Event(), []

    def slow(envelope):
        assert gate.wait(TIMEOUT)
        handled.append(envelope.seq)

    bus.on(Noted, slow, background=True)
    with bus.run() if inside else nullcontext(bus) as emitter:
        sent = [bus.emit(Noted()) for _ in range(BOUND)]  # one is being handled, so this does not fill it
        filled = in_thread(lambda: [emitter.emit(Noted()) for _ in range(BOUND)])
        with pytest.raises(futures.TimeoutError):
            filled.result(0.2)  # it waits for room, and nothing was lost
        gate.set()
        sent += filled.result(TIMEOUT)
        bus.flush(TIMEOUT)
    assert handled == [envelope.seq for envelope in sent]
    assert len(handled) == 2 * BOUND


def test_an_event_loop_waits_in_drain(bus):
    gate, handled = threading.Event(), []

    def slow(envelope):
        assert gate.wait(TIMEOUT)
        handled.append(envelope.seq)

    bus.on(Noted, slow, background=True)

    async def main():
        with bus.run():
            for _ in range(BOUND + 1):
                bus.emit(Noted())
            draining = asyncio.create_task(bus.drain())
            done, _ = await asyncio.wait([draining], timeout=0.2)
            assert not done
            gate.set()
            await asyncio.wait_for(draining, TIMEOUT)
            await bus.aflush(TIMEOUT)

    asyncio.run(main())
    assert len(handled) == BOUND + 1


def test_events_that_a_loop_emits_at_twice_the_bound_are_discarded_and_counted(bus):
    """A loop that never drains: at twice the bound events are discarded, and reported with the handler's name."""
    watcher, gate, handled, entered = Watcher(), threading.Event(), [], threading.Event()
    bus.plugins.register(watcher)

    def slow(envelope):
        entered.set()
        assert gate.wait(TIMEOUT)
        handled.append(envelope.seq)

    bus.on(Noted, slow, background=True)

    async def main():
        with bus.run():
            bus.emit(Noted())
            assert await asyncio.to_thread(entered.wait, TIMEOUT)  # it is out of the queue
            for _ in range(2 * BOUND + 7):
                bus.emit(Noted())
            gate.set()
            await bus.aflush(TIMEOUT)

    with logged():
        asyncio.run(main())
    assert handled == list(range(1, 2 * BOUND + 2))
    (failure,) = watcher.failures
    assert isinstance(failure.error, crewbus.SlowConsumer)
    assert str(failure.error).startswith("7 events were discarded")
    assert failure.name.endswith("slow")


def test_two_that_feed_each_other_do_not_deadlock(bus, monkeypatch):
    monkeypatch.setattr(_background, "BOUND", 4)
    done = threading.Event()
    counts = {"ping": 0, "pong": 0}

    def ping(envelope):
        counts["ping"] += 1
        for _ in range(3):
            if counts["ping"] < 300:
                bus.emit(Done())
        if counts["ping"] == 300:
            done.set()

    def pong(envelope):
        counts["pong"] += 1
        bus.emit(Noted())

    class Exactly:
        """Handlers of `Noted` would get `Done` too, which derives from it."""

        def __call__(self, envelope):
            if type(envelope.event) is Noted:
                ping(envelope)

    with logged():
        bus.on(Noted, Exactly(), background=True)
        bus.on(Done, pong, background=True)
        with bus.run():
            bus.emit(Noted())
            assert done.wait(TIMEOUT)
        bus.flush(TIMEOUT)


def test_it_sees_the_emitters_context_and_does_not_leak(bus):
    seen = []

    def look(envelope):
        seen.append((tenant.get(), crewbus.current_run().name))
        tenant.set("intruder")

    bus.on(Noted, look, background=True)
    for name in ("one", "two"):
        token = tenant.set(name)
        with bus.run(name):
            bus.emit(Noted())
        tenant.reset(token)
    bus.flush(TIMEOUT)
    assert seen == [("one", "one"), ("two", "two")]


@pytest.mark.parametrize("error", [LookupError("no"), SystemExit("no"), KeyboardInterrupt()], ids=repr)
def test_one_that_raises_is_reported_by_name_and_continues(bus, error):
    watcher, seen = Watcher(), []
    bus.plugins.register(watcher)

    def fails(envelope):
        seen.append(envelope)
        raise error

    bus.on(Noted, fails, background=True)
    with logged(), bus.run():
        bus.emit(Noted())
        bus.emit(Noted())
        bus.flush(TIMEOUT)
    assert len(seen) == 2
    assert [failure.error for failure in watcher.failures] == [error, error]
    assert watcher.names[0].endswith("fails")


def test_flush_waits_for_it_and_says_so_inside(bus):
    received = []

    def flushes(envelope):
        with pytest.raises(crewbus.FlushError, match="aflush"):
            bus.flush()
        received.append("sync")

    async def flushes_well(envelope):
        await bus.aflush(TIMEOUT)
        received.append("async")

    bus.on(Noted, flushes, background=True)
    bus.on(Noted, flushes_well, background=True)
    bus.emit(Noted())
    bus.flush(TIMEOUT)
    assert sorted(received) == ["async", "sync"]


def test_a_flush_that_is_out_of_time_names_it(bus):
    gate = threading.Event()

    def slow(envelope):
        assert gate.wait(TIMEOUT)

    bus.on(Noted, slow, background=True)
    bus.emit(Noted())
    with pytest.raises(crewbus.FlushTimeoutError, match="slow"):
        bus.flush(0.05)
    gate.set()


def test_closing_loses_nothing_and_leaves_no_thread():
    seen = []
    with quiet_bus() as bus:
        bus.on(Noted, seen.append, background=True)
        with bus.run():
            for _ in range(500):
                bus.emit(Noted())
        assert crewbus_threads()
    assert len(seen) == 500
    wait_until(lambda: not crewbus_threads())


def test_a_handler_taken_off_gets_what_was_emitted_before(bus, monkeypatch):
    monkeypatch.setattr(_background, "_IDLE", 10 * TIMEOUT)
    gate, seen = threading.Event(), []

    def slow(envelope):
        assert gate.wait(TIMEOUT)
        seen.append(envelope.event.text)

    bus.on(Noted, slow, background=True)
    bus.emit(Noted("before"))
    assert bus.off(Noted, slow)
    bus.emit(Noted("after"))
    gate.set()
    bus.flush(TIMEOUT)
    assert seen == ["before"]
    wait_until(lambda: not crewbus_threads())  # though nothing ever comes for it

    idle = bus.on(Noted, lambda envelope: None, background=True)
    bus.emit(Noted())
    bus.flush(TIMEOUT)
    assert crewbus_threads()
    assert bus.off(Noted, idle)
    wait_until(lambda: not crewbus_threads())


def test_nothing_is_kept_of_what_was_handled(bus, monkeypatch):
    monkeypatch.setattr(_background, "_IDLE", 10 * TIMEOUT)

    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    bus.on(Noted, lambda envelope: None, background=True)
    gc.disable()
    try:
        with bus.run():
            bus.emit(Noted(), source=thing)
            bus.flush(TIMEOUT)
        del thing
        wait_until(lambda: gone() is None)  # the thread is just about to let go
    finally:
        gc.enable()


def test_its_thread_ends_when_there_is_nothing_to_do(bus, monkeypatch):
    monkeypatch.setattr(_background, "_IDLE", 0.01)
    seen = []
    bus.on(Noted, seen.append, background=True)
    for count in range(1, 4):
        bus.emit(Noted())
        bus.flush(TIMEOUT)
        assert len(seen) == count
        wait_until(lambda: not crewbus_threads())


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_interpreters_exit_loses_nothing_of_it(kind):
    done = script(
        f"""
        import asyncio, time
        import crewbus

        @crewbus.event
        class Note:
            number: int

        bus = crewbus.Bus(entry_points=False)
        seen = []

        {kind} take(envelope):
            {"await asyncio.sleep(0.001)" if kind == "async def" else "time.sleep(0.001)"}
            seen.append(envelope.event.number)
            if len(seen) == 100:
                print(seen == list(range(100)), flush=True)

        bus.on(Note, take, background=True)
        with bus.run():
            for number in range(100):
                bus.emit(Note(number))
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@needs_fork
def test_after_a_fork_the_child_has_an_empty_queue_and_a_thread_of_its_own():
    done = script(
        """
        import os, threading, warnings
        import crewbus

        warnings.simplefilter("ignore")

        @crewbus.event
        class Note:
            text: str

        bus = crewbus.Bus(entry_points=False)
        seen, gate = [], threading.Event()

        def take(envelope):
            gate.wait(60)
            seen.append(envelope.event.text)

        bus.on(Note, take, background=True)
        bus.emit(Note("parent"))
        bus.emit(Note("parent"))
        pid = os.fork()
        gate.set()
        if pid == 0:
            bus.emit(Note("child"))
            bus.flush(20)
            assert seen == ["child"], seen
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        bus.flush(20)
        print(status, seen)
        """
    )
    assert done.stdout == "0 ['parent', 'parent']\n", done.stdout + done.stderr


@needs_fork
def test_after_a_fork_plugins_are_reset_in_the_child():
    """In the child only, with the bus at work again; one that fails is reported by name and affects no other."""
    done = script(
        """
        import os, threading, warnings
        import crewbus

        warnings.simplefilter("ignore")

        class Locked:
            def __init__(self):
                self.lock, self.seen = threading.Lock(), []

            @crewbus.hookimpl
            def crewbus_after_fork(self, bus):
                self.lock, self.seen = threading.Lock(), ["forked"]
                with bus.run():
                    pass

            @crewbus.hookimpl
            def crewbus_emit(self, envelope):
                with self.lock:
                    self.seen.append(type(envelope.event).__name__)

        class Broken:
            @crewbus.hookimpl
            def crewbus_after_fork(self, bus):
                raise LookupError("broken")

        locked = Locked()
        bus = crewbus.Bus([locked, Broken], entry_points=False)
        with bus.run():
            locked.lock.acquire()
            pid = os.fork()
            if pid == 0:
                with bus.run():
                    bus.chunk("x")
                found = ["forked", "RunStarted", "RunFinished", "RunStarted", "Chunk", "RunFinished"]
                os._exit(0 if locked.seen == found else 1)
            locked.lock.release()
            print(os.waitpid(pid, 0)[1], locked.seen)
        """
    )
    assert done.stdout == "0 ['RunStarted']\n", done.stdout + done.stderr
    assert "plugin Broken in crewbus_after_fork raised LookupError" in done.stderr


# submit


def test_submit_carries_the_context_as_it_was(bus):
    def look():
        run = crewbus.current_run()
        found = (tenant.get(), run and run.name)
        tenant.set("intruder")
        return found

    with bus.run("here"):
        token = tenant.set("acme")
        future = bus.submit(look)
        tenant.reset(token)
        assert isinstance(future, futures.Future)
        assert future.result(TIMEOUT) == ("acme", "here")
        assert bus.submit(look).result(TIMEOUT) == ("nobody", "here")
        assert tenant.get() == "nobody"
    assert bus.submit(look).result(TIMEOUT) == ("nobody", None)


def test_submit_passes_arguments_results_and_errors(bus):
    assert bus.submit(lambda *args, **kwargs: (args, kwargs), 1, fn=2).result(TIMEOUT) == ((1,), {"fn": 2})

    def fails():
        raise LookupError("as it was")

    with pytest.raises(LookupError, match="as it was"):
        bus.submit(fails).result(TIMEOUT)


def test_submitted_work_that_waits_for_submitted_work_never_starves(bus):
    def nested(depth):
        return bus.submit(nested, depth - 1).result(TIMEOUT) + 1 if depth else 0

    assert bus.submit(nested, 100).result(TIMEOUT) == 100


def test_many_at_once(bus):
    barrier = threading.Barrier(200)
    with bus.run() as run:
        watching = bus.subscribe(run.id)
        done = [bus.submit(lambda i=i: (barrier.wait(TIMEOUT), bus.chunk(f"{i} "))) for i in range(200)]
        futures.wait(done, TIMEOUT)
    assert sorted(map(int, watching.text().split())) == list(range(200))


def test_submit_in_a_cancelled_run_is_a_crewbus_call(bus):
    with pytest.raises(crewbus.Cancelled), bus.run() as run:
        run.cancel()
        bus.submit(print)


def test_work_in_a_run_that_is_cancelled_gets_cancelled(bus):
    gate = threading.Event()

    def work():
        assert gate.wait(TIMEOUT)
        bus.chunk("x")

    with bus.run() as run:
        future = bus.submit(work)
        run.cancel("enough")
        gate.set()
        with pytest.raises(crewbus.Cancelled, match="enough"):
            future.result(TIMEOUT)


def test_what_cannot_be_submitted_is_said(bus):
    async def work():
        pass

    with pytest.raises(crewbus.TargetError, match="is async"):
        bus.submit(work)
    with pytest.raises(crewbus.TargetError, match="can't be called"):
        bus.submit("work")
    bus.close()
    with pytest.raises(crewbus.BusClosedError, match="print"):
        bus.submit(print)


def test_submitted_work_that_returns_an_awaitable_is_run_to_its_end(bus):
    async def answer():
        await asyncio.sleep(0)
        return crewbus.current_run()

    with bus.run() as run:
        assert bus.submit(lambda: answer()).result(TIMEOUT) is run


def test_nothing_is_kept_of_submitted_work(bus):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)

    def fails(thing):
        raise LookupError

    gc.disable()
    try:
        first, second = bus.submit(id, thing), bus.submit(fails, thing)
        first.result(TIMEOUT)
        with pytest.raises(LookupError):
            second.result(TIMEOUT)
        del first, second, thing
        wait_until(lambda: gone() is None)
    finally:
        gc.enable()


def test_closing_waits_for_what_was_submitted():
    gate, done = threading.Event(), []
    bus = crewbus.Bus(entry_points=False)
    bus.submit(lambda: (gate.wait(TIMEOUT), done.append(1)))
    closing = in_thread(bus.close)
    gate.set()
    closing.result(TIMEOUT)
    assert done == [1]
    assert crewbus_threads() == []


@pytest.mark.parametrize("how", ["close", "aclose"])
def test_closing_names_what_does_not_end(how):
    gate = threading.Event()

    def endless():
        assert gate.wait(TIMEOUT)

    bus = crewbus.Bus(entry_points=False)
    bus.submit(endless)
    with pytest.warns(crewbus.GraceWarning, match="endless"):
        bus.close(0.05) if how == "close" else asyncio.run(bus.aclose(0.05))
    gate.set()


def test_submitted_work_may_close_the_bus():
    bus = crewbus.Bus(entry_points=False)
    bus.submit(bus.close).result(TIMEOUT)
    assert bus.closed


def test_the_interpreters_exit_waits_for_what_ends_and_not_for_ever():
    done = script(
        """
        import threading, time
        import crewbus
        from crewbus.bus import bus

        bus.CLOSE_TIMEOUT = 0.2
        crewbus.Bus.close.__defaults__ = (0.2,)
        bus = crewbus.Bus(entry_points=False)
        bus.submit(lambda: (time.sleep(0.05), print("ended", flush=True)))
        bus.submit(threading.Event().wait)
        print("leaving", flush=True)
        """
    )
    assert done.returncode == 0
    assert done.stdout == "leaving\nended\n"
    assert "GraceWarning" in done.stderr


# Waiting for oneself


def test_a_background_handler_may_wait_for_the_others_and_not_for_what_is_behind_it(bus):
    done, gate = [], threading.Event()

    @bus.on(Noted, background=True)
    async def flushes(envelope):
        await asyncio.to_thread(gate.wait, TIMEOUT)
        await bus.aflush(TIMEOUT)
        done.append(envelope.event.text)

    bus.emit(Noted("one"))
    bus.emit(Noted("two"))
    gate.set()
    bus.flush(TIMEOUT)
    assert done == ["one", "two"]


def test_a_background_handler_with_a_full_queue_may_drain_and_have_others_emit(bus, monkeypatch):
    monkeypatch.setattr(_background, "BOUND", 4)
    done, gate = [], threading.Event()

    @bus.on(Noted, background=True)
    async def drains(envelope):
        await asyncio.to_thread(gate.wait, TIMEOUT)
        await bus.drain()
        if not done:
            # The job works for this handler, which alone could make room for it.
            await asyncio.wait_for(asyncio.wrap_future(bus.submit(bus.emit, Noted("more"))), TIMEOUT)
        done.append(envelope.event.text)

    async def main():
        for number in range(6):
            bus.emit(Noted(str(number)))

    asyncio.run(main())
    gate.set()
    bus.flush(TIMEOUT)
    bus.flush(TIMEOUT)  # what was emitted meanwhile
    assert done == [*"012345", "more"]


def test_a_handler_that_comes_back_has_its_worker_back(bus):
    """So that it is never called in two threads at once, nor out of order."""
    gate, seen = threading.Event(), []

    def slow(envelope):
        assert gate.wait(TIMEOUT)
        seen.append((envelope.event.text, threading.get_ident()))

    bus.on(Noted, slow, background=True)
    bus.emit(Noted("before"))
    bus.off(Noted, slow)
    bus.on(Noted, slow, background=True)
    bus.emit(Noted("after"))
    gate.set()
    bus.flush(TIMEOUT)
    assert [text for text, _ in seen] == ["before", "after"]
    assert len({thread for _, thread in seen}) == 1


def test_a_handler_is_either_in_the_background_or_not(bus):
    bus.on(Noted, print)
    with pytest.raises(crewbus.EventTypeError, match=r"print is subscribed .* background=True"):
        bus.on(Noted, print, background=True)


def test_promise_11_an_event_waits_while_no_thread_can_start(bus, monkeypatch):
    seen = []
    bus.on(Noted, seen.append, background=True)
    with monkeypatch.context() as patch, bus.run():

        def start(self):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        assert bus.emit(Noted("early")) is not None
        assert seen == []
    bus.emit(Noted("late"))
    bus.flush(TIMEOUT)
    assert [envelope.event.text for envelope in seen] == ["early", "late"]


def test_closing_waits_for_jobs_that_jobs_submit():
    bus, done, gate = crewbus.Bus(entry_points=False), [], threading.Event()

    def outer():
        assert gate.wait(TIMEOUT)
        bus.submit(lambda: (bus.emit(Noted()), done.append("inner")))
        done.append("outer")

    bus.on(Noted, lambda envelope: done.append("other"))
    bus.submit(outer)
    closing = in_thread(bus.close)
    gate.set()
    closing.result(TIMEOUT)
    assert sorted(done) == ["inner", "other", "outer"]


def test_jobs_that_close_the_bus_do_not_wait_for_each_other():
    bus, barrier = crewbus.Bus(entry_points=False), threading.Barrier(2)

    def closes():
        barrier.wait(TIMEOUT)
        bus.close(TIMEOUT)

    closing = [bus.submit(closes) for _ in range(2)]
    assert [future.result(TIMEOUT / 2) for future in closing] == [None, None]
    assert bus.closed
