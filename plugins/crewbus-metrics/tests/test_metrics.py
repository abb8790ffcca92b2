"""The plugin: what it counts and times, in one thread and in many, what it does not keep, and what it reports."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crewbus
import crewbus_metrics
from crewbus.stores import Backlog
from crewbus_metrics import Metrics
from crewbus_metrics import metrics as metrics_module

TIMEOUT = 60.0
"""Seconds after which a wait in a test has failed; nothing should ever come near it."""


@crewbus.event(name="tests.metrics.Noted")
class Noted:
    text: str = ""


NOTED = "tests.metrics.Noted"


@pytest.fixture
def metrics():
    return Metrics(lambda _: None)


@pytest.fixture
def bus(metrics):
    with crewbus.Bus([metrics], entry_points=False, unscoped="ignore") as bus:
        yield bus


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(metrics_module, "clock", clock)
    return clock


@attrs.define(eq=False)
class FakeRun:
    """As much of a run as the plugin looks at: for tests without a bus."""

    name: str | None = "fake"
    state: str = "running"

    def end(self, metrics: Metrics, state: str = "finished") -> None:
        self.state = state
        metrics.crewbus_run_finish(self)


def envelope(event: object, seq: int = 0, parent: str | None = None, replayed: bool = False) -> crewbus.Envelope:
    return crewbus.Envelope(event, "f1", seq, parent, 1e9 + seq, replayed=replayed)


# Counting


def test_events_are_counted_by_type_and_by_the_name_of_the_run(bus, metrics):
    for _ in range(3):
        with bus.run("writer"):
            bus.emit(Noted())
            bus.chunk("x")
            bus.chunk("y")
    with bus.run("editor"):
        bus.emit(Noted())
    snapshot = metrics.snapshot()
    assert set(snapshot.events) == {"writer", "editor"}
    assert snapshot.events["writer"].counts == {
        "crewbus.RunStarted": 3,
        NOTED: 3,
        "crewbus.Chunk": 6,
        "crewbus.RunFinished": 3,
    }
    assert (snapshot.events["writer"].count, snapshot.total.count) == (15, 18)
    assert snapshot.total.counts[NOTED] == 4


def test_what_happens_in_a_nested_run_counts_there(bus, metrics):
    with bus.run("outer"):
        bus.emit(Noted())
        with bus.run("inner"):
            bus.emit(Noted())
            bus.emit(Noted())
    events = metrics.snapshot().events
    assert (events["outer"].counts[NOTED], events["inner"].counts[NOTED]) == (1, 2)


def test_what_is_outside_any_run_and_what_has_no_name_is_counted_apart(bus, metrics):
    bus.emit(Noted())
    with bus.run():
        bus.emit(Noted())
        bus.emit(Noted())
    snapshot = metrics.snapshot()
    assert {name: of.counts[NOTED] for name, of in snapshot.events.items()} == {"(outside)": 1, "(unnamed)": 2}
    assert {name: of.count for name, of in snapshot.runs.items()} == {"(unnamed)": 1}


def test_what_is_replayed_is_not_counted(metrics):
    metrics.crewbus_emit(None, envelope(Noted()))
    metrics.crewbus_emit(None, envelope(Noted(), replayed=True))
    assert metrics.snapshot().total.count == 1


def test_a_run_older_than_the_plugin_is_counted_and_not_timed(metrics):
    with crewbus.Bus(entry_points=False) as bus:
        with bus.run("old"):
            bus.emit(Noted())
            bus.plugins.register(metrics)
            with bus.call("model"):
                bus.emit(Noted())
        snapshot = metrics.snapshot()
    assert snapshot.total.counts == {
        "crewbus.CallStarted": 1,
        NOTED: 1,
        "crewbus.CallFinished": 1,
        "crewbus.RunFinished": 1,
    }
    assert (snapshot.runs, snapshot.calls) == ({}, {})


def test_an_event_that_is_observed_after_its_run_has_ended_counts_for_its_name(metrics):
    """A thread may be held up between the number of an event and the observers of it."""
    reached, go_on = threading.Event(), threading.Event()

    class HoldsUp:
        @crewbus.hookimpl(tryfirst=True)
        def crewbus_emit(self, envelope):
            if isinstance(envelope.event, crewbus.CallStarted):
                reached.set()
                assert go_on.wait(TIMEOUT)

    with crewbus.Bus([metrics, HoldsUp], entry_points=False) as bus, ThreadPoolExecutor(1) as pool:
        with bus.run("writer") as run:
            emitting = pool.submit(run.emit, crewbus.CallStarted("late"))
            assert reached.wait(TIMEOUT)
        assert metrics.snapshot().events["writer"].count == 2
        go_on.set()
        emitting.result(TIMEOUT)
        assert metrics.snapshot().events["writer"].counts["crewbus.CallStarted"] == 1
        gone = weakref.ref(run)
        del run, emitting
        gc.collect()
        assert gone() is None


def test_it_serves_one_bus(bus, metrics):
    bus.emit(Noted())
    with pytest.raises(crewbus.PluginError, match="one bus"), crewbus.Bus([metrics], entry_points=False, strict=True):
        pass
    assert metrics.snapshot().total.count == 1


# Timing


@pytest.mark.parametrize(
    ("error", "outcome"), [(None, "finished"), (ValueError("x"), "failed"), (KeyboardInterrupt(), "cancelled")]
)
def test_runs_and_calls_are_timed_by_how_they_ended(bus, metrics, clock, error, outcome):
    def work(seconds):
        with bus.run("writer"):
            clock.now += seconds
            with bus.call("model"):
                clock.now += 2 * seconds
                if error is not None:
                    raise error

    for seconds in (1, 3, 2):
        if error is None:
            work(seconds)
        else:
            with pytest.raises(type(error)):
                work(seconds)
    snapshot = metrics.snapshot()
    for timing, unit in ((snapshot.runs["writer"], 3), (snapshot.calls["model"], 2)):
        ended = (timing.count, timing.failed, timing.cancelled)
        assert ended == (3, 3 * (outcome == "failed"), 3 * (outcome == "cancelled"))
        assert (timing.min, timing.mean, timing.max) == (unit, 2 * unit, 3 * unit)


def test_rates_refer_to_the_life_of_the_bus(clock):
    metrics = Metrics(lambda _: None)
    clock.now += 100
    with crewbus.Bus([metrics], entry_points=False) as bus:
        bus.emit(Noted())
        assert metrics.snapshot().total.rate == 0, "in no time"
        with bus.run("writer"):
            bus.emit(Noted())
            clock.now += 4
        snapshot = metrics.snapshot()
        assert (snapshot.seconds, snapshot.total.rate, snapshot.events["writer"].rate) == (4, 4 / 4, 3 / 4)
        assert (snapshot.total.rates[NOTED], snapshot.events["writer"].rates[NOTED]) == (2 / 4, 1 / 4)
        clock.now += 4
    clock.now += 100
    assert (metrics.snapshot().seconds, metrics.snapshot().total.rate) == (8, 4 / 8)


def test_a_call_that_ends_in_another_thread_is_timed(bus, metrics, clock):
    with bus.run("writer"), ThreadPoolExecutor(1) as pool:
        call = bus.call("model")
        call.start()
        clock.now += 2
        pool.submit(call.finish).result(TIMEOUT)
    assert metrics.snapshot().calls["model"].max == 2


def test_nested_calls_are_distinguished_outside_any_run_too(bus, metrics, clock):
    with bus.call("outer"):
        clock.now += 1
        with bus.call("inner"):
            clock.now += 2
    calls = metrics.snapshot().calls
    assert (calls["outer"].max, calls["inner"].max) == (3, 2)


def test_a_call_whose_start_was_not_seen_is_counted_and_not_timed(metrics):
    metrics.crewbus_emit(None, envelope(crewbus.CallFinished(), parent="f1:7"))
    snapshot = metrics.snapshot()
    assert (snapshot.total.count, snapshot.calls) == (1, {})


@pytest.mark.parametrize("run", [None, FakeRun()])
def test_of_calls_that_never_end_only_so_many_are_kept(metrics, run):
    most = metrics_module.OPEN_CALLS
    if run is not None:
        metrics.crewbus_run_start(run)
    for seq in range(2 * most):
        metrics.crewbus_emit(run, envelope(crewbus.CallStarted("old" if seq < most else "new"), seq))
    for seq in range(2 * most):
        metrics.crewbus_emit(run, envelope(crewbus.CallFinished(), parent=f"f1:{seq}"))
    snapshot = metrics.snapshot()
    assert {name: timing.count for name, timing in snapshot.calls.items()} == {"new": most}
    assert snapshot.total.counts["crewbus.CallFinished"] == 2 * most


# What is kept


def test_nothing_is_kept_of_a_run_that_has_ended_with_a_call_under_way(bus, metrics):
    with bus.run("writer") as run:
        bus.call("abandoned").start()
        event = Noted("large")
        bus.emit(event)
    gone = weakref.ref(run), weakref.ref(event)
    del run, event
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert metrics.snapshot().calls == {}


def test_an_unregistered_plugin_gives_its_summary_and_keeps_no_run():
    given: list[str] = []
    metrics = Metrics(given.append)
    with crewbus.Bus([metrics], entry_points=False) as bus:
        with bus.run("writer") as run:
            bus.plugins.unregister(metrics)
            bus.emit(Noted())
        gone = weakref.ref(run)
        del run
        gc.collect()
        assert gone() is None
    assert given == [str(metrics.snapshot())]
    assert metrics.snapshot().total.counts == {"crewbus.RunStarted": 1}


def test_a_worker_with_ever_new_names_keeps_a_bounded_number(bus, metrics):
    most = metrics_module.NAMES
    for i in range(2 * most):
        with bus.run(f"order {i}"), bus.call(f"model {i}"):
            pass
    with bus.run("order 0"), bus.call("model 0"):
        pass
    bus.emit(Noted())
    snapshot = metrics.snapshot()
    assert snapshot.events.keys() == snapshot.runs.keys() | {"(outside)"}
    assert snapshot.events["(outside)"].count == 1
    for timings, name in ((snapshot.runs, "order 0"), (snapshot.calls, "model 0")):
        assert len(timings) == most + 1
        assert (timings[name].count, timings["(others)"].count) == (2, most)
        assert sum(timing.count for timing in timings.values()) == 2 * most + 1


# Many threads


@pytest.fixture
def restless():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_no_event_of_many_threads_is_lost(bus, metrics):
    """In one run of all, in runs of their own, and outside; while others look."""
    threads, rounds = 8, 60
    barrier = threading.Barrier(threads + 1)
    done = threading.Event()

    def emit(shared):
        barrier.wait(TIMEOUT)
        for _ in range(rounds):
            with bus.run("own"), bus.call("model"):
                for _ in range(5):
                    bus.emit(Noted())
            for _ in range(5):
                shared.emit(Noted())
            bus.emit(Noted())

    def look():
        barrier.wait(TIMEOUT)
        seen = 0
        while not done.is_set():
            snapshot = metrics.snapshot()
            assert sum(of.count for of in snapshot.events.values()) == snapshot.total.count >= seen
            seen = snapshot.total.count

    with ThreadPoolExecutor(threads + 1) as pool, bus.run("shared") as shared:
        looking = pool.submit(look)
        emitting = [pool.submit(emit, shared) for _ in range(threads)]
        try:
            for future in emitting:
                future.result(TIMEOUT)
        finally:
            done.set()
        looking.result(TIMEOUT)
    snapshot = metrics.snapshot()
    n = threads * rounds
    assert snapshot.events["own"].counts == {
        "crewbus.RunStarted": n,
        "crewbus.CallStarted": n,
        NOTED: 5 * n,
        "crewbus.CallFinished": n,
        "crewbus.RunFinished": n,
    }
    assert snapshot.events["shared"].counts[NOTED] == 5 * n
    assert snapshot.events["(outside)"].counts == {NOTED: n}
    assert snapshot.runs["own"].count == snapshot.calls["model"].count == n


def test_one_thread_waits_for_another(metrics):
    """A thread that counts, ends a run or looks waits while another is inside; without the lock, it would not."""
    run = FakeRun()
    metrics.crewbus_run_start(run)
    visits = [
        lambda: metrics.crewbus_run_start(FakeRun()),
        lambda: metrics.crewbus_emit(run, envelope(Noted())),
        lambda: run.end(metrics),
        metrics.snapshot,
    ]
    waiting = threading.Semaphore(0)

    class Lock:
        """The plugin's lock, which notes that a thread waits for it."""

        lock = metrics._lock

        def __enter__(self):
            waiting.release()
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    metrics._lock = Lock()
    for visit in visits:
        with ThreadPoolExecutor(1) as pool:
            with Lock.lock:
                visiting = pool.submit(visit)
                assert waiting.acquire(timeout=TIMEOUT)
                assert not visiting.done()
            visiting.result(TIMEOUT)


def use(metrics: Metrics, name: str) -> None:
    """All that a plugin is called for, once, and a look at it in the end."""
    run = FakeRun(name)
    metrics.crewbus_run_start(run)
    metrics.crewbus_emit(run, envelope(crewbus.CallStarted(name), 1))
    metrics.crewbus_emit(run, envelope(crewbus.CallFailed("E", "m"), 2, parent="f1:1"))
    run.end(metrics, "failed")
    metrics.snapshot()


def use_interrupted(metrics: Metrics, moment: int) -> bool:
    """Use a plugin, and use it by the way at one moment, as a finaliser may; False if it is over before that."""
    moments = 0

    def trace(frame, kind, _):
        nonlocal moments
        if frame.f_code.co_filename == __file__:
            return None
        moments += 1
        if moments == moment:
            use(metrics, "same")
            use(metrics, "other")
        return trace

    def interrupted():
        sys.settrace(trace)  # of this thread only; what it does itself is not traced
        try:
            use(metrics, "same")
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive(), f"at moment {moment} it waits for itself"
    return moments >= moment


def test_a_finaliser_may_use_the_plugin_at_any_moment_of_its_own_work():
    """Each line of the plugin, and of what it calls, is such a moment; nothing is lost, and nothing fails."""
    moment = 1
    while use_interrupted(metrics := Metrics(lambda _: None), moment):
        snapshot = metrics.snapshot()
        for name, times in (("same", 2), ("other", 1)):
            assert snapshot.events[name].counts == {"crewbus.CallStarted": times, "crewbus.CallFailed": times}, moment
            for timing in (snapshot.runs[name], snapshot.calls[name]):
                assert (timing.count, timing.failed) == (times, times), moment
        moment += 1
    assert moment > 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_a_forked_child_counts_from_zero():
    """In a process of its own; another thread holds the plugin's lock while it forks."""
    source = """
        import os, signal, threading, crewbus
        from crewbus_metrics import Metrics

        @crewbus.event
        class Noted:
            pass

        metrics = Metrics(lambda _: None)
        held, forked = threading.Event(), threading.Event()

        def hold():
            with metrics._lock:
                held.set()
                forked.wait(60)

        with crewbus.Bus([metrics], entry_points=False) as bus:
            for _ in range(4):
                bus.emit(Noted())
            threading.Thread(target=hold, daemon=True).start()
            assert held.wait(60)
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # ends it, should it hang
                bus.emit(Noted())
                with bus.run("in the child"), bus.call("model"):
                    pass
                snapshot = metrics.snapshot()
                found = {name: of.count for name, of in snapshot.events.items()}
                right = found == {"(outside)": 1, "in the child": 4} and snapshot.calls["model"].count == 1
                os._exit(0 if right else 1)
            forked.set()
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), metrics.snapshot().total.count)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(source)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(Path(m.__file__).parents[1]) for m in (crewbus, crewbus_metrics)),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "0 4\n", done.stdout + done.stderr


# Sums

steps = st.lists(
    st.tuples(
        st.integers(0, 3),  # which run
        st.sampled_from(["note", "start call", "end call", "end", "look"]),
        st.sampled_from(["finished", "failed", "cancelled"]),
    ),
    max_size=80,
)
CALL_ENDS = {
    "finished": crewbus.CallFinished(),
    "failed": crewbus.CallFailed("E", "m"),
    "cancelled": crewbus.CallCancelled(),
}


@given(steps)
def test_the_parts_add_up_to_the_total_whatever_happens(script):
    metrics = Metrics(lambda _: None)
    runs: dict[int, FakeRun] = {}
    calls: dict[int, list[str]] = {}
    events: Counter[str] = Counter()
    ends: Counter[tuple[str, str]] = Counter()

    def emit(run, event, seq, parent=None):
        metrics.crewbus_emit(run, envelope(event, seq, parent))
        events[crewbus.event_type_of(type(event)).name] += 1

    for seq, (number, step, outcome) in enumerate(script):
        if number and number not in runs:
            runs[number] = FakeRun(f"name {number % 2}")
            metrics.crewbus_run_start(runs[number])
        run, opened = runs.get(number), calls.setdefault(number, [])
        if step == "note":
            emit(run, Noted(), seq)
        elif step == "start call":
            emit(run, crewbus.CallStarted(outcome), seq)
            opened.append(f"f1:{seq}")
        elif step == "end call" and opened:
            emit(run, CALL_ENDS[outcome], seq, opened.pop())
            ends["calls", outcome] += 1
        elif step == "end" and run is not None:
            run.end(metrics, outcome)
            del runs[number], calls[number]
            ends["runs", outcome] += 1
        else:
            metrics.snapshot()
    snapshot = metrics.snapshot()
    assert sum((Counter(of.counts) for of in snapshot.events.values()), start=Counter()) == events
    assert (snapshot.total.counts, snapshot.total.count) == (events, events.total())
    assert sum(of.rate for of in snapshot.events.values()) == pytest.approx(snapshot.total.rate)
    for kind, timings in (("runs", snapshot.runs.values()), ("calls", snapshot.calls.values())):
        assert sum(timing.count for timing in timings) == sum(ends[kind, outcome] for outcome in CALL_ENDS)
        assert sum(timing.failed for timing in timings) == ends[kind, "failed"]
        assert sum(timing.cancelled for timing in timings) == ends[kind, "cancelled"]
        assert all(0 <= timing.min <= timing.mean <= timing.max for timing in timings if timing.count == 1)


# What it reports


def test_a_snapshot_stays_as_it_was_and_is_json(bus, metrics):
    with bus.run("writer"), bus.call("model"):
        bus.emit(Noted())
        snapshot = metrics.snapshot()
        received = snapshot.as_dict()
        bus.emit(Noted())
    assert metrics.snapshot().total.counts[NOTED] == 2
    assert snapshot.as_dict() == received == json.loads(json.dumps(received))
    assert received["events"]["writer"]["counts"] == {"crewbus.RunStarted": 1, "crewbus.CallStarted": 1, NOTED: 1}
    assert set(metrics.snapshot().as_dict()["runs"]["writer"]) == {"count", "failed", "cancelled", "min", "mean", "max"}
    for value in (snapshot, snapshot.total, metrics.snapshot().calls["model"]):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.count = 0


def test_the_summary_is_given_once_at_close():
    given: list[str] = []
    metrics = Metrics(given.append)
    with crewbus.Bus([metrics], entry_points=False) as bus:
        with bus.run("writer"), bus.call("model"):
            bus.emit(Noted())
        assert given == []
    assert given == [str(metrics.snapshot())]
    for beginning in ("5 events in ", f"  {NOTED}: 1, ", "in writer: 5 events", "run writer: 1 ended", "call model: 1"):
        assert any(line.startswith(beginning) for line in given[0].splitlines()), beginning


def test_where_nothing_happened_nothing_is_said():
    given: list[str] = []
    with crewbus.Bus([Metrics(given.append)], entry_points=False):
        pass
    assert given == []


@pytest.mark.parametrize(
    ("setting", "logged", "printed"),
    [(None, True, False), ("log", True, False), ("stderr", False, True), ("off", False, False)],
)
def test_the_environment_says_where_it_goes(monkeypatch, caplog, capsys, setting, logged, printed):
    if setting is not None:
        monkeypatch.setenv("CREWBUS_METRICS", setting)
    caplog.set_level(logging.INFO, "crewbus.metrics")
    metrics = Metrics()
    with crewbus.Bus([metrics], entry_points=False) as bus, bus.run("writer"):
        pass
    summary = str(metrics.snapshot())
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("crewbus.metrics", "INFO", summary)
    ] * logged
    assert capsys.readouterr() == ("", f"{summary}\n" if printed else "")


def test_a_setting_that_does_not_exist_is_refused_and_the_bus_continues(monkeypatch):
    monkeypatch.setenv("CREWBUS_METRICS", "syslog")
    with pytest.raises(crewbus.PluginError, match=r"CREWBUS_METRICS='syslog'.*log, stderr, off"):
        Metrics()
    with (
        pytest.warns(crewbus.PluginWarning, match="CREWBUS_METRICS"),
        crewbus.Bus([Metrics], entry_points=False) as bus,
    ):
        assert bus.emit(Noted()) is None
    given: list[str] = []
    with crewbus.Bus([Metrics(given.append)], entry_points=False) as bus:
        bus.emit(Noted())
    assert len(given) == 1, "with a function no setting is needed"


# What waits to be written


class Slow(crewbus.MemoryStore):
    """A store that says that it is behind."""

    waiting = Backlog()

    def backlog(self):
        return self.waiting


def test_a_snapshot_says_how_far_the_store_is_behind(bus, metrics):
    assert metrics.snapshot().backlog == Backlog()
    store = Slow()
    bus.enable_recording(store)
    with bus.run():
        store.waiting = Backlog(7, 4096, 1.25)
        found = metrics.snapshot()
        store.waiting = Backlog()
    assert found.backlog == bus.backlog.__class__(7, 4096, 1.25)
    assert json.loads(json.dumps(found.as_dict()))["backlog"] == {"events": 7, "bytes": 4096, "seconds": 1.25}
    assert str(found).splitlines()[-1] == "7 events wait to be written, 1.250 s behind"
    assert "wait to be written" not in str(metrics.snapshot())


def test_metrics_that_no_bus_loaded_have_no_backlog():
    assert Metrics(print).snapshot().backlog == Backlog()
