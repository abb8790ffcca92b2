"""Records: listed, replayed to handlers, pruned, exported for tests, and shared by buses and processes."""

from __future__ import annotations

import io
import json
import os
import time
from importlib.util import find_spec

import pytest
from helpers import TIMEOUT, Noted, in_thread, in_threads, needs_fork, quiet_bus
from recorded_helpers import found, memory, names, needs_sqlite, sqlite, text_of

import crewbus
from crewbus.records.export import write_export
from crewbus.testing import replay, replayed


@pytest.fixture(autouse=True)
def sqlite_is_plugged_in(monkeypatch):
    """Where crewbus-sqlite is not installed its plugin is given to the buses of `replayed`."""
    if find_spec("crewbus_sqlite"):
        from crewbus_sqlite import _plugin

        def plugged(**_):
            return crewbus.Bus(plugins=[("sqlite", _plugin)], entry_points=False)

        monkeypatch.setattr(replay, "Bus", plugged)


def finish(bus, run_id, **options):
    with bus.run(id=run_id, **options) as run:
        run.chunk(run_id)


def fail(bus, run_id):
    with pytest.raises(ValueError, match="oh no"):
        with bus.run(id=run_id):
            raise ValueError("oh no")


def cancel(bus, run_id):
    with pytest.raises(crewbus.Cancelled):
        with bus.run(id=run_id) as run:
            run.cancel("enough")
            run.check()


# Lists


def test_runs_are_listed_newest_first(disk):
    with disk.bus() as bus:
        assert bus.recorded_runs() == []
        for run_id in ("one", "two", "three"):
            finish(bus, run_id)
        with bus.run(id="inner of none", record=False):
            pass
        with bus.run(id="four"), bus.run(id="inner"):
            pass
        assert [info.id for info in bus.recorded_runs()] == ["four", "three", "two", "one"]
        assert [info.id for info in bus.recorded_runs(limit=2)] == ["four", "three"]
        assert bus.recorded_runs(limit=0) == []


def test_run_info_describes_a_run(disk):
    with disk.bus() as bus:
        with bus.run("crew", id="run", tags={"tenant": "a"}) as run:
            info = bus.records.info("run")
            assert (info.id, info.name, info.tags, info.state) == ("run", "crew", {"tenant": "a"}, "running")
            assert (info.ended, info.events, info.parent, info.error) == (None, 1, None, None)
            assert "process" in info.holder
            run.chunk("x")
        info = bus.records.info("run")
        record = list(bus.record_of("run"))
    assert (info.state, info.events, info.holder) == ("finished", 3, None)
    assert (info.started, info.ended) == (record[0].at, record[-1].at)


def test_the_states_of_runs(disk):
    with disk.bus() as bus:
        finish(bus, "finished")
        fail(bus, "failed")
        cancel(bus, "cancelled")
        with bus.run(id="interrupted"):
            disk.crash()
    with disk.bus() as bus, bus.run(id="running"):
        states = {info.id: info.state for info in bus.recorded_runs()}
        assert states == {state: state for state in states}
        assert len(states) == 5
        assert bus.records.info("failed").error == "builtins.ValueError: oh no"
        assert bus.records.info("cancelled").reason == "enough"
        assert bus.records.info("failed").reason is bus.records.info("cancelled").error is None
        for state in states:
            assert [info.id for info in bus.records.list(state=state)] == [state]
        assert [info.id for info in bus.records.list(1, state=["failed", "cancelled"])] == ["cancelled"]


def test_runs_are_listed_by_name_tag_and_time(disk):
    with disk.bus() as bus:
        for number in range(4):
            with bus.run("crew" if number % 2 else "other", id=f"{number}", tags={"thread": f"{number // 2}"}):
                pass
        fork = bus.fork("1")

        def listed(**filters):
            return [info.id for info in bus.records.list(**filters)]

        assert listed(name="crew") == [fork, "3", "1"]
        assert listed(tags={"thread": "0"}) == [fork, "1", "0"]
        assert listed(name="crew", tags={"thread": "1"}, state="finished") == ["3"]
        assert listed(since=bus.records.info("2").started) == [fork, "3", "2"]
        assert listed(since=bus.records.info(fork).ended + 1) == []
        with pytest.raises(crewbus.InputError, match=r"no run is ever 'done': the states are cancelled, failed"):
            bus.records.list(state="done")


def test_a_run_without_events_is_not_listed(disk):
    with disk.bus() as bus:
        finish(bus, "run")
        bus.store.release("empty", bus.store.begin("empty"))
        assert [info.id for info in bus.recorded_runs()] == [info.id for info in bus.recorded_runs(limit=1)] == ["run"]
        assert bus.records.checkpoints("empty") == []
        for use in (bus.records.info, bus.fork, lambda run_id: bus.resume(run_id).start()):
            with pytest.raises(crewbus.CrewbusError, match="run empty"):
                use("empty")
        with bus.subscribe("empty", after="start") as stream:
            assert [type(one.event) for one in stream] == [crewbus.RunInterrupted]
        assert bus.records.prune(keep=0) == ["empty", "run"]


def test_only_root_runs_are_listed(disk):
    with disk.bus() as bus:
        with bus.run(id="run"), bus.run(id="inner"):
            pass
        with pytest.raises(crewbus.RunError, match="nested in run run"):
            bus.records.info("inner")
        with pytest.raises(crewbus.RunNotFoundError):
            bus.records.info("nothing")


# Telling again


class Observer:
    def __init__(self):
        self.received = []
        self.recorded = 0

    @crewbus.hookimpl
    def crewbus_emit(self, run, envelope):
        self.received.append((run and (run.id, run.root.id, run.name), envelope))

    @crewbus.hookimpl
    def crewbus_record(self):
        self.recorded += 1

    @crewbus.hookimpl
    def crewbus_stream_chunk(self):
        raise AssertionError("nothing is streamed")


def play(bus):
    with bus.run("crew", id="run") as run:
        run.emit(Noted("x"))
        with bus.run("inner", id="inner"), bus.call("model") as call:
            call.chunk("y")
        run.step("s", lambda: None)


def test_replay_delivers_events_in_order_and_marked(disk):
    with disk.bus() as bus:
        play(bus)
        record = list(bus.record_of("run"))
    observer, heard = Observer(), []
    with disk.bus(observer) as bus:
        bus.on(Noted, heard.append)
        before = list(bus.store.read("run"))
        with bus.subscribe("run") as stream:
            assert bus.replay("run") == len(record)
            stream.close()
            assert list(stream) == []
        assert list(bus.store.read("run")) == before
        assert (bus.runs, observer.recorded) == ([], 0)
    received = [envelope for _, envelope in observer.received]
    assert [(one.event, one.seq, one.run_id, one.parent, one.at) for one in received] == [
        (one.event, one.seq, one.run_id, one.parent, one.at) for one in record
    ]
    assert all(one.replayed for one in [*received, *heard])
    assert [one.event for one in heard] == [Noted("x")]
    assert {run for run, _ in observer.received} == {("run", "run", "crew"), ("inner", "run", "inner")}


def test_replay_reaches_background_handlers(bus):
    play(bus)
    heard = []

    async def note(envelope):
        heard.append((envelope.seq, envelope.replayed))

    bus.on(object, note)
    received = bus.replay("run")
    bus.flush()
    assert heard == [(seq, True) for seq in range(received)]


def test_replay_of_a_nested_run_delivers_only_its_events(bus):
    play(bus)
    observer = Observer()
    bus.plugins.register(observer)
    assert bus.replay("inner") == len(observer.received) == 5
    assert {envelope.run_id for _, envelope in observer.received} == {"inner"}
    with pytest.raises(crewbus.RunNotFoundError):
        bus.replay("nothing")


def test_a_failing_handler_does_not_end_the_replay(bus):
    play(bus)
    heard = []

    @bus.on(object)
    def fails(envelope):
        heard.append(envelope.seq)
        raise ValueError("oh no")

    assert bus.replay("run") == len(heard)


# Pruning


@pytest.mark.parametrize(
    ("options", "dropped"),
    [
        ({"keep": 5}, []),
        ({"keep": 4}, []),
        ({"keep": 2}, ["two", "one"]),
        ({"keep": 0}, ["four", "three", "two", "one"]),
        ({"older_than": 1e9}, []),
        ({"older_than": 0}, ["four", "three", "two", "one"]),
        ({"keep": 1, "older_than": 0}, ["three", "two", "one"]),
        ({"keep": 1, "older_than": 1e9}, []),
    ],
)
def test_prune_drops_old_runs(disk, options, dropped):
    with disk.bus() as bus:
        for run_id in ("one", "two", "three", "four"):
            finish(bus, run_id)
        kept = [info.id for info in bus.recorded_runs() if info.id not in dropped]
        assert bus.records.prune(**options, dry_run=True) == dropped
        assert len(bus.recorded_runs()) == 4
        assert bus.records.prune(**options) == dropped
        assert [info.id for info in bus.recorded_runs()] == kept
        for run_id in dropped:
            with pytest.raises(crewbus.RunNotFoundError):
                bus.record_of(run_id)
        finish(bus, dropped[0] if dropped else "five")
    with disk.bus() as bus:
        assert len(bus.recorded_runs()) == len(kept) + 1


def test_prune_measures_age_by_the_last_event(bus):
    """The runs are as old as their events say."""
    store = bus.store
    for run_id, at in (("old", 1000.0), ("new", time.time())):
        epoch = store.begin(run_id)
        for seq, event in enumerate((crewbus.RunStarted(), crewbus.RunFinished())):
            store.append(run_id, epoch, bus.recording.encode(crewbus.Envelope(event, run_id, seq, None, at + seq)))
        store.finish(run_id, epoch)
    assert bus.records.prune(older_than=3600) == ["old"]


def test_prune_keeps_live_runs_and_drops_forks_before_their_parents(disk):
    with disk.bus() as bus:
        finish(bus, "parent")
        finish(bus, "other")
        fork = bus.fork("parent")
        grandchild = bus.fork(fork)
        with bus.run(id="alive"):
            assert bus.records.prune(keep=0, dry_run=True) == [grandchild, fork, "other", "parent"]
            assert bus.records.prune(keep=0) == [grandchild, fork, "other", "parent"]
            assert [info.id for info in bus.recorded_runs()] == ["alive"]


def test_prune_keeps_the_ancestors_of_a_remaining_fork(disk):
    with disk.bus() as bus:
        finish(bus, "parent")
        finish(bus, "other")
        fork = bus.fork("parent")
        grandchild = bus.fork(fork)
        assert bus.records.prune(keep=1, dry_run=True) == bus.records.prune(keep=1) == ["other"]
        assert text_of(bus, grandchild) == "parent"
        with bus.resume(grandchild) as run:
            run.chunk("again")


@pytest.mark.parametrize("options", [{}, {"keep": -1}, {"older_than": -0.1}, {"keep": None, "older_than": None}])
def test_prune_refuses_missing_or_negative_options(bus, options):
    with pytest.raises(crewbus.InputError, match="prune"):
        bus.records.prune(**options)


# Records as fixtures


def agent(calls):
    run = crewbus.current_run()
    topic = run.step("choose", lambda: calls.append("choose") or "tea")
    text = run.step("write", lambda topic: calls.append("write") or f"on {topic}", topic)
    crewbus.chunk(text)
    return text


@pytest.fixture(params=["jsonl", pytest.param("db", marks=needs_sqlite)])
def kept(request, tmp_path):
    """The file of a recorded run."""
    if request.param == "db":
        from crewbus_sqlite import SQLiteStore

        path, store = tmp_path / "runs.db", SQLiteStore(tmp_path / "runs.db")
    else:
        path, store = tmp_path / "run.jsonl", crewbus.MemoryStore()
    with quiet_bus() as bus:
        bus.enable_recording(store)
        with bus.run("crew", id="run"):
            agent([])
        if request.param == "jsonl":
            out = io.StringIO()
            write_export(out, store, "run", {"name": "crew"})
            path.write_text(out.getvalue())
    return path


def test_an_export_replays_in_a_test(kept):
    before = kept.read_bytes()
    for given in (kept, str(kept)):
        calls = []
        with replayed(given) as run:
            assert (run.id, run.name) == ("run", "crew")
            assert agent(calls) == "on tea"
        assert calls == []
    assert kept.read_bytes() == before


def test_code_that_calls_other_steps_than_the_export_fails(kept):
    with pytest.raises(crewbus.ReplayMismatch, match="expected step 'choose', found step 'other'"):
        with replayed(kept) as run:
            run.step("other", lambda: None)
    with pytest.raises(crewbus.ReplayMismatch, match="expected step 'write'"):
        with replayed(kept) as run:
            run.step("choose", lambda: None)


def test_an_export_replays_on_a_given_bus(kept):
    received = []
    with quiet_bus() as bus:
        bus.on(crewbus.Chunk, received.append)
        with replayed(kept, bus=bus):
            agent([])
        assert not bus.closed
    assert [one.event.text for one in received] == ["on tea"]


def test_a_file_that_is_not_an_export_is_refused(tmp_path, kept):
    with pytest.raises(crewbus.CrewbusError):
        with replayed(tmp_path / "nothing.jsonl"):
            pass
    if kept.suffix == ".db":
        with pytest.raises(crewbus.RunNotFoundError, match="holds no run other"), replayed(kept, "other"):
            pass
        return
    lines = kept.read_text().splitlines(keepends=True)
    for wrong in ("", "not json\n", "[]\n", "".join(lines[:-1]), "".join(lines) + "{}\n", "".join(lines[1:])):
        kept.write_text(wrong)
        with pytest.raises(crewbus.CorruptRecordError), replayed(kept):
            pass
    kept.write_text("".join([json.dumps({**json.loads(lines[0]), "crewbus": 99}) + "\n", *lines[1:]]))
    with pytest.raises(crewbus.StoreVersionError, match="version 99"), replayed(kept):
        pass


@pytest.mark.parametrize("kind", ["jsonl", pytest.param("db", marks=needs_sqlite)])
def test_an_export_of_a_nested_run_is_refused(tmp_path, kind):
    disk = memory(tmp_path) if kind == "jsonl" else sqlite(tmp_path)
    path = tmp_path / ("run.jsonl" if kind == "jsonl" else "runs.db")
    with disk.bus() as bus:
        with bus.run(id="run"), bus.run(id="inner"):
            agent([])
        if kind == "jsonl":
            with path.open("w") as out:
                write_export(out, bus.store, "inner", {})
    with pytest.raises(crewbus.InputError, match="run inner is nested in another"):
        with replayed(path, "inner"):
            pass


def test_an_export_of_a_failed_run_replays(tmp_path):
    path = tmp_path / "run.jsonl"
    with quiet_bus() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(ValueError, match="oh no"):
            with bus.run(id="run"):
                agent([])
                raise ValueError("oh no")
        with path.open("w") as out:
            write_export(out, bus.store, "run", {})
    calls = []
    with replayed(path) as run:
        agent(calls)
        assert run.step("third", lambda: 3) == 3
    assert calls == []


# Several buses, several processes


@needs_sqlite
def test_two_buses_share_a_file(tmp_path):
    from crewbus_sqlite import SQLiteStore

    path = tmp_path / "runs.db"
    with quiet_bus() as one, quiet_bus() as two:
        for bus in (one, two):
            bus.enable_recording(SQLiteStore(path))

        def work(i):
            bus = (one, two)[i % 2]
            for number in range(5):
                with bus.run(id=f"{i} {number}") as run:
                    run.chunk("x")
                    assert run.step("s", lambda: i) == i

        in_threads(8, work)
        for bus in (one, two):
            bus.flush()  # each sees its own at once, the other's when it is written
        for bus in (one, two):
            assert len(bus.recorded_runs()) == 40
            assert {info.state for info in bus.recorded_runs()} == {"finished"}
        with one.run(id="held"):
            one.flush()
            for use in (lambda: two.resume("held").start(), lambda: two.run(id="held").start()):
                with pytest.raises((crewbus.RunHeldError, crewbus.RunIdInUseError)):
                    in_thread(use).result(TIMEOUT)
            assert "held" not in two.records.prune(keep=0)


@needs_sqlite
def test_a_fenced_holder_gets_an_error_and_writes_nothing_more(tmp_path):
    from crewbus_sqlite import SQLiteStore

    path = tmp_path / "runs.db"
    with quiet_bus() as one, quiet_bus() as two:
        one.enable_recording(SQLiteStore(path), durability="sync")
        two.enable_recording(SQLiteStore(path))

        def take_over():
            two.store.revoke("run")
            with two.resume("run") as run:
                run.chunk("new")

        with pytest.raises(crewbus.FencedError):
            with one.run(id="run") as run:
                run.chunk("old")
                in_thread(take_over).result(TIMEOUT)
                run.step("s", lambda: "never returned")
        assert text_of(two, "run") == "oldnew"
        assert "StepStarted" not in names(two, "run")
        with pytest.raises(crewbus.FencedError):
            one.flush()


@needs_fork
def test_a_forked_child_leaves_the_run_to_its_parent(disk):
    with disk.bus() as bus:
        with bus.run(id="run") as run:
            run.step("before", lambda: None)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    assert run.step("in the child", lambda: 1) == 1
                    assert run.checkpoint("in the child") is None
                    with bus.run(id="child", record=True) as own:
                        assert own.step("s", lambda: 2) == 2
                    bus.flush()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            run.step("after", lambda: None)
        assert [one.event.name for one in found(bus, "run", crewbus.StepStarted)] == ["before", "after"]
        assert [one.seq for one in bus.record_of("run")] == list(range(6))
        assert bus.records.checkpoints("run") == []
        recorded = [info.id for info in bus.recorded_runs()]
    if isinstance(disk.store, crewbus.MemoryStore):
        assert recorded == ["run"]
    else:
        assert recorded == ["child", "run"]
