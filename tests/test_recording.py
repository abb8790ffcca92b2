"""Recording: nothing until armed; then everything, in order, as it was when it was emitted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import attrs
import pytest
from lifecycle_helpers import PATIENCE, Caller, in_time, reachable

import crewbus
from crewbus.stores.memory import OVERHEAD


@crewbus.event
class Note:
    text: str


@crewbus.event
class Draft:
    words: list[str]
    notes: dict[str, list[int]] = attrs.field(factory=dict)


@crewbus.event
class Unreadable:
    size: int
    callback: threading.Thread


@crewbus.event
class Loose:
    title: str
    payload: Any


@pytest.fixture
def bus() -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False, unscoped="ignore") as bus:
        yield bus


class Agent:
    pass


class CountingStore(crewbus.MemoryStore):
    """Notes every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def begin(self, root_id: str) -> int:
        self.calls.append("begin")
        return super().begin(root_id)

    def append(self, root_id: str, epoch: int, event: crewbus.StoredEvent) -> None:
        self.calls.append("append")
        super().append(root_id, epoch, event)

    def finish(self, root_id: str, epoch: int) -> None:
        self.calls.append("finish")
        super().finish(root_id, epoch)


class FailingStore(crewbus.MemoryStore):
    """Fails while it is set to."""

    broken = False

    def append(self, root_id: str, epoch: int, event: crewbus.StoredEvent) -> None:
        if self.broken:
            raise crewbus.RecordingError("the disk is gone")
        super().append(root_id, epoch, event)


def texts(record: crewbus.Record) -> list[str]:
    return [envelope.event.text for envelope in record if isinstance(envelope.event, Note)]


def names(record: crewbus.Record) -> list[str]:
    return [type(envelope.event).__name__ for envelope in record]


# The gate


def test_promise_03_nothing_is_recorded_until_recording_is_armed(bus: crewbus.Bus) -> None:
    called: list[crewbus.Envelope] = []

    class Recorder:
        @crewbus.hookimpl
        def crewbus_record(self, envelope: crewbus.Envelope) -> None:
            called.append(envelope)

    bus.plugins.register(Recorder())
    with bus.run() as run, bus.subscribe(run.id):
        bus.emit(Note("one"))
        bus.chunk("piece")
    assert not bus.recording.armed
    assert not run.recorded
    assert called == []
    assert bus.store.roots() == []
    with pytest.raises(crewbus.RunNotFoundError, match=run.id):
        bus.record_of(run.id)


def test_an_armed_bus_records_each_run_from_its_first_event_to_its_last(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    assert bus.recording.armed
    with bus.run("first", tags={"tenant": "acme"}) as run:
        assert run.recorded
        sent = bus.emit(Note("one"), source=Agent())
        bus.chunk("piece", source="writer")
    envelopes = list(bus.record_of(run.id))
    assert [type(envelope.event) for envelope in envelopes] == [
        crewbus.RunStarted,
        Note,
        crewbus.Chunk,
        crewbus.RunFinished,
    ]
    assert [envelope.seq for envelope in envelopes] == [0, 1, 2, 3]
    assert {envelope.run_id for envelope in envelopes} == {run.id}
    assert envelopes[0].event == crewbus.RunStarted("first", {"tenant": "acme"}, None)
    read = envelopes[1]
    assert sent is not None
    assert (read.event, read.id, read.parent, read.at, read.attempt) == (
        sent.event,
        sent.id,
        sent.parent,
        sent.at,
        sent.attempt,
    )
    assert read.event is not sent.event
    assert (sent.replayed, read.replayed) == (False, True)
    assert read.source == "Agent"
    assert envelopes[2].source == "writer"


def test_enabling_twice_changes_nothing(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    store = bus.store
    with bus.run() as run:
        bus.emit(Note("one"))
        bus.enable_recording()
        bus.enable_recording(store)
        bus.emit(Note("two"))
    bus.enable_recording()
    assert bus.store is store
    assert texts(bus.record_of(run.id)) == ["one", "two"]


def test_naming_the_default_store_that_is_in_use_changes_nothing(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with bus.run() as run:
        bus.enable_recording("memory:")
    assert len(list(bus.record_of(run.id))) == 2


def test_enabling_the_same_url_twice_changes_nothing(bus: crewbus.Bus) -> None:
    bus.enable_recording("memory:")
    store = bus.store
    with bus.run() as run:
        bus.emit(Note("one"))
        bus.enable_recording("memory:")
    bus.enable_recording("memory:")
    assert bus.store is store
    assert texts(bus.record_of(run.id)) == ["one"]


def test_arming_one_run_arms_no_other(bus: crewbus.Bus) -> None:
    with bus.run(record=True) as armed:
        other = Caller(lambda: record_elsewhere(bus)).outcome()
        bus.emit(Note("armed"))
        with bus.run() as nested:
            bus.emit(Note("nested"))
    with bus.run() as later:
        bus.emit(Note("later"))
    assert not bus.recording.armed
    assert (armed.recorded, nested.recorded, later.recorded) == (True, True, False)
    assert bus.store.roots() == [armed.id]
    assert texts(bus.record_of(armed.id)) == ["armed", "nested"]
    for run_id in (other, later.id):
        with pytest.raises(crewbus.RunNotFoundError):
            bus.record_of(run_id)


def record_elsewhere(bus: crewbus.Bus) -> str:
    with bus.run() as run:
        assert not run.recorded
        bus.emit(Note("unarmed"))
    return run.id


def test_many_runs_at_once_of_which_some_are_armed(bus: crewbus.Bus) -> None:
    barrier = threading.Barrier(8)

    def work(number: int) -> tuple[str, bool]:
        with bus.run(record=True if number % 2 else None) as run:
            barrier.wait(PATIENCE)
            for _ in range(20):
                bus.emit(Note(str(number)))
        return run.id, number % 2 == 1

    outcomes = [caller.outcome() for caller in [Caller(work, number) for number in range(8)]]
    assert sorted(bus.store.roots()) == sorted(run_id for run_id, armed in outcomes if armed)
    for run_id, armed in outcomes:
        if armed:
            assert len(set(texts(bus.record_of(run_id)))) == 1


def test_one_run_can_be_left_out(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with bus.run(record=False) as run:
        bus.emit(Note("unrecorded"))
    assert bus.store.roots() == []
    assert not run.recorded


@pytest.mark.parametrize("armed", [True, False])
def test_a_nested_run_shares_its_roots_record(bus: crewbus.Bus, armed: bool) -> None:
    if armed:
        bus.enable_recording()
    with bus.run() as root:
        with pytest.raises(crewbus.RecordingError, match=root.id):
            bus.run(record=not armed).start()
        with bus.run(record=armed) as nested, bus.run() as innermost:
            pass
        assert bus.runs == [root]
    assert {root.recorded, nested.recorded, innermost.recorded} == {armed}
    assert root.state == "finished"


def test_disabling_lets_live_runs_be_recorded_to_their_end(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with bus.run() as run:
        bus.recording.disable()
        bus.recording.disable()
        bus.emit(Note("one"))
        with bus.run():
            bus.emit(Note("nested"))
    with bus.run():
        bus.emit(Note("after"))
    assert not bus.recording.armed
    assert texts(bus.record_of(run.id)) == ["one", "nested"]
    assert names(bus.record_of(run.id))[-1] == "RunFinished"
    assert bus.store.roots() == [run.id]


def test_enabling_in_the_middle_arms_what_starts_from_then_on(bus: crewbus.Bus) -> None:
    with bus.run() as root:
        bus.enable_recording()
        with bus.run() as nested:
            bus.emit(Note("one"))
        assert not root.recorded
        assert not nested.recorded
    assert bus.store.roots() == []
    with bus.run() as later:
        pass
    assert bus.store.roots() == [later.id]


def test_resetting_drops_what_is_finished_and_leaves_recording_armed(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with bus.run(id="one"), bus.run(id="nested"):
        pass
    bus.reset_recording()
    assert bus.recording.armed
    assert bus.store.roots() == []
    for run_id in ("one", "nested"):
        with pytest.raises(crewbus.RunNotFoundError):
            bus.record_of(run_id)
    with bus.run(id="one"):
        bus.emit(Note("again"))
    assert texts(bus.record_of("one")) == ["again"]


def test_resetting_leaves_recording_disarmed_too(bus: crewbus.Bus) -> None:
    bus.reset_recording()
    with bus.run(record=True):
        pass
    bus.reset_recording()
    assert not bus.recording.armed
    assert bus.store.roots() == []


@pytest.mark.parametrize("record", [True, False])
def test_resetting_is_refused_while_a_run_is_live(bus: crewbus.Bus, record: bool) -> None:
    with bus.run(id="finished", record=True):
        bus.emit(Note("kept"))
    with bus.run(id="live", record=record), pytest.raises(crewbus.RecordingError, match="live"):
        bus.reset_recording()
    assert texts(bus.record_of("finished")) == ["kept"]
    bus.reset_recording()
    assert bus.store.roots() == []


def test_the_store_is_not_changed_under_a_live_record(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    first = bus.store
    with bus.run() as run:
        with pytest.raises(crewbus.RecordingError, match="live"):
            bus.enable_recording(crewbus.MemoryStore())
        bus.emit(Note("one"))
    assert texts(bus.record_of(run.id)) == ["one"]
    second = crewbus.MemoryStore()
    bus.enable_recording(second)
    with bus.run():
        pass
    assert len(second.roots()) == 1
    assert first.roots() == [run.id]


def test_without_a_recorder_recording_can_not_be_armed() -> None:
    with crewbus.Bus(entry_points=False, blocked=["checkpoint_recorder"]) as bus:
        for call in (bus.enable_recording, bus.run(record=True).start):
            with pytest.raises(crewbus.RecordingError, match="nothing records"):
                call()
        assert not bus.recording.armed
        assert bus.runs == []
        with bus.run() as run:
            assert bus.emit(Note("one")) is not None
        assert run.state == "finished"


def test_another_recorder_may_take_the_built_in_ones_place() -> None:
    taken: list[tuple[str, int]] = []

    class Recorder:
        @crewbus.hookimpl
        def crewbus_record(self, run: crewbus.Run, envelope: crewbus.Envelope) -> None:
            taken.append((type(envelope.event).__name__, envelope.seq))

    with crewbus.Bus([("checkpoint_recorder", Recorder())], entry_points=False) as bus:
        bus.enable_recording()
        with bus.run():
            bus.emit(Note("one"))
    assert taken == [("RunStarted", 0), ("Note", 1), ("RunFinished", 2)]


def test_a_stream_can_arm_its_run(bus: crewbus.Bus) -> None:
    def write(text: str) -> None:
        bus.chunk(text)

    options = crewbus.StreamOptions(id="streamed", name="writer", record=True)
    with bus.stream(write, "piece", options=options) as stream:
        frames = list(stream)
    recorded = list(bus.record_of("streamed"))
    assert [envelope.seq for envelope in recorded] == [0, 1, 2]
    assert [(frame.seq, frame.event) for frame in frames] == [
        (envelope.seq, envelope.event) for envelope in recorded[1:]
    ]


def test_what_is_emitted_outside_runs_is_never_recorded(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    bus.on(Note, lambda envelope: None)
    bus.emit(Note("outside"))
    with bus.run() as run:
        pass
    run.emit(Note("late"))
    assert bus.store.roots() == [run.id]
    assert texts(bus.record_of(run.id)) == []


# Reading a record


def test_a_record_of_a_tree_of_runs(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with bus.run(id="root"):
        bus.emit(Note("root 1"))
        with bus.run(id="left"):
            bus.emit(Note("left"))
            with bus.run(id="leaf"):
                bus.emit(Note("leaf"))
        with bus.run(id="right"):
            bus.emit(Note("right"))
        bus.emit(Note("root 2"))
    with bus.run(id="other"):
        bus.emit(Note("other"))
    root = bus.record_of("root")
    assert [envelope.seq for envelope in root] == list(range(13))
    assert texts(root) == ["root 1", "left", "leaf", "right", "root 2"]
    assert texts(bus.record_of("left")) == ["left", "leaf"]
    assert texts(bus.record_of("leaf")) == ["leaf"]
    assert texts(bus.record_of("right")) == ["right"]
    assert texts(bus.record_of("other")) == ["other"]

    (start,) = root.roots()
    assert start.event == crewbus.RunStarted(None, {}, None)
    (left_start,) = bus.record_of("left").roots()
    assert left_start.event.parent_run == "root"
    assert [type(child.event).__name__ for child in root.children(start)] == [
        "Note",
        "RunStarted",
        "RunStarted",
        "Note",
        "RunFinished",
    ]
    assert [child.run_id for child in root.children(left_start)] == ["left", "leaf", "left"]
    assert [envelope.seq for envelope in root.descendants(start)] == list(range(1, 13))
    assert [envelope.id for envelope in root.descendants(left_start.id)] == [
        envelope.id for envelope in bus.record_of("left")
    ][1:]
    note = next(envelope for envelope in root if envelope.event == Note("leaf"))
    assert root.children(note) == root.descendants(note) == []
    assert root.children("no such id") == []


def test_a_record_can_be_read_while_its_run_is_live(bus: crewbus.Bus) -> None:
    with bus.run(record=True) as run:
        record = bus.record_of(run.id)
        assert names(record) == ["RunStarted"]
        bus.emit(Note("one"))
        assert names(record) == ["RunStarted", "Note"]
    assert names(record) == ["RunStarted", "Note", "RunFinished"]
    assert run.id in repr(record)


def test_failed_and_cancelled_runs_are_recorded_as_such(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with pytest.raises(ValueError, match="broken"), bus.run(id="failed"):
        raise ValueError("broken")
    with pytest.raises(KeyboardInterrupt), bus.run(id="cancelled"):
        raise KeyboardInterrupt
    failed, cancelled = list(bus.record_of("failed"))[-1], list(bus.record_of("cancelled"))[-1]
    assert failed.event == crewbus.RunFailed("builtins.ValueError", "broken")
    assert isinstance(cancelled.event, crewbus.RunCancelled)


# Ids


def test_a_run_id_is_not_used_twice_at_once(bus: crewbus.Bus) -> None:
    with bus.run(id="one") as run:
        for call in (bus.run(id="one").start, lambda: Caller(bus.run(id="one").start).outcome()):
            with pytest.raises(crewbus.RunIdInUseError, match="one"):
                call()
        bus.emit(Note("goes on"))
        assert bus.runs == [run]
    with bus.run(id="one"):
        pass


def test_the_id_of_a_live_run_is_not_streamed(bus: crewbus.Bus) -> None:
    with bus.run(id="one"):
        stream = bus.stream(bus.chunk, "piece", options=crewbus.StreamOptions(id="one"))
        with pytest.raises(crewbus.RunIdInUseError, match="one"):
            stream.__enter__()
        in_time(stream.close)
        bus.chunk("goes on")


@pytest.mark.parametrize("nested", [True, False])
def test_a_recorded_id_is_not_used_again(bus: crewbus.Bus, nested: bool) -> None:
    bus.enable_recording()
    with bus.run(id="one"), bus.run(id="inner"):
        bus.emit(Note("first"))
    before = names(bus.record_of("one"))
    again = bus.run(id="inner" if nested else "one")
    with pytest.raises(crewbus.RunIdInUseError, match=again.id):
        again.start()
    assert bus.runs == []
    assert names(bus.record_of("one")) == before
    with bus.run(id="two"):
        pass


def test_a_nested_run_does_not_use_a_recorded_id_again(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with bus.run(id="one"), bus.run(id="inner"):
        bus.emit(Note("first"))
    with bus.run(id="two"):
        for taken in ("one", "inner"):
            with pytest.raises(crewbus.RunIdInUseError, match=taken):
                bus.run(id=taken).start()
        with bus.run(id="fresh"):
            pass
        with pytest.raises(crewbus.RunIdInUseError, match="fresh"):
            bus.run(id="fresh").start()
    assert texts(bus.record_of("inner")) == ["first"]
    assert texts(bus.record_of("one")) == ["first"]


def test_an_unrecorded_run_does_not_use_a_recorded_id_either(bus: crewbus.Bus) -> None:
    with bus.run(id="one", record=True):
        pass
    with pytest.raises(crewbus.RunIdInUseError, match="one"):
        bus.run(id="one").start()


# When a recorder fails


def attach_sinks(bus: crewbus.Bus) -> tuple[list[crewbus.Envelope], list[crewbus.Envelope]]:
    handled: list[crewbus.Envelope] = []
    observed: list[crewbus.Envelope] = []

    class Observer:
        @crewbus.hookimpl
        def crewbus_emit(self, envelope: crewbus.Envelope) -> None:
            observed.append(envelope)

    bus.on(object, handled.append)
    bus.plugins.register(Observer())
    return handled, observed


def test_a_failing_recorder_reaches_the_emitter_and_the_event_is_not_delivered(bus: crewbus.Bus) -> None:
    store = FailingStore()
    bus.enable_recording(store)
    handled, observed = attach_sinks(bus)
    with bus.run() as run:
        stream = bus.subscribe(run.id)
        bus.chunk("one")
        store.broken = True
        for emit in (lambda: bus.emit(Note("lost")), lambda: bus.chunk("lost"), lambda: run.chunk("lost")):
            with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
                emit()
        store.broken = False
        bus.chunk("two")
    frames = list(stream)
    assert [frame.seq for frame in frames] == [1, 2, 3]
    assert [frame.event for frame in frames[:2]] == [crewbus.Chunk("one"), crewbus.Chunk("two")]
    assert [envelope.seq for envelope in bus.record_of(run.id)] == [0, 1, 2, 3]
    for sink in (handled, observed):
        assert [envelope.seq for envelope in sink] == [0, 1, 2, 3]
        assert Note("lost") not in [envelope.event for envelope in sink]


def test_a_failing_recorder_leaves_the_numbers_gapless_under_threads(bus: crewbus.Bus) -> None:
    class Flaky:
        calls = 0

        @crewbus.hookimpl(tryfirst=True)
        def crewbus_record(self, envelope: crewbus.Envelope) -> None:
            self.calls += 1
            if isinstance(envelope.event, Note) and envelope.event.text == "bad":
                raise crewbus.RecordingError("flaky")
            taken.append(envelope.seq)

    taken: list[int] = []
    barrier = threading.Barrier(8)

    def emit(run: crewbus.Run) -> None:
        barrier.wait(PATIENCE)
        for number in range(50):
            with suppress(crewbus.RecordingError):
                run.emit(Note("bad" if number % 3 == 0 else "good"))

    with crewbus.Bus([("checkpoint_recorder", Flaky())], entry_points=False) as own:
        with own.run(record=True) as run:
            for caller in [Caller(emit, run) for _ in range(8)]:
                caller.outcome()
    assert taken == list(range(2 + 8 * 33))


def test_a_number_that_one_recorder_took_is_not_given_twice(bus: crewbus.Bus) -> None:
    taken: list[tuple[int, str]] = []

    class Second:
        @crewbus.hookimpl(trylast=True)
        def crewbus_record(self, envelope: crewbus.Envelope) -> None:
            if getattr(envelope.event, "text", "") == "bad":
                raise ValueError("second recorder")

    class First:
        @crewbus.hookimpl(tryfirst=True)
        def crewbus_record(self, envelope: crewbus.Envelope) -> None:
            taken.append((envelope.seq, getattr(envelope.event, "text", "")))

    with crewbus.Bus([First(), Second()], entry_points=False, blocked=["checkpoint_recorder"]) as own:
        with own.run(record=True):
            with pytest.raises(ValueError, match="second recorder"):
                own.emit(Note("bad"))
            own.emit(Note("good"))
    assert taken == [(0, ""), (1, "bad"), (2, "good"), (3, "")]


def test_a_run_whose_start_is_not_recorded_does_not_start(bus: crewbus.Bus) -> None:
    store = FailingStore()
    bus.enable_recording(store)
    handled, _ = attach_sinks(bus)
    watcher = bus.subscribe("refused")
    store.broken = True
    run = bus.run(id="refused")
    with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
        run.start()
    assert bus.runs == []
    assert run.ended
    assert handled == []
    assert bus.lifecycle.is_watching(watcher.source)  # for another start
    assert crewbus.current_run() is None
    store.broken = False
    with bus.run(id="refused"):
        bus.emit(Note("second attempt"))
    assert texts(bus.record_of("refused")) == ["second attempt"]


@pytest.mark.parametrize("nested", [True, False])
def test_a_record_that_fails_at_the_end_still_ends_the_run_and_its_streams(bus: crewbus.Bus, nested: bool) -> None:
    store = FailingStore()
    bus.enable_recording(store)
    run = bus.run(id="ending")

    def fail_at_the_end() -> None:
        with run:
            bus.chunk("one")
            store.broken = True

    watcher = bus.subscribe("ending")
    with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
        if nested:
            with bus.run():
                fail_at_the_end()
        else:
            fail_at_the_end()
    assert run.state == "finished"
    assert bus.runs == []
    frames = in_time(list, watcher)
    assert [type(frame.event).__name__ for frame in frames] == ["Chunk", "RunFinished"]
    store.broken = False
    bus.reset_recording()


def test_an_owned_stream_whose_record_fails_at_the_end(bus: crewbus.Bus) -> None:
    store = FailingStore()
    bus.enable_recording(store)

    def work() -> str:
        bus.chunk("one")
        store.broken = True
        return "done"

    stream = bus.stream(work)
    frames = in_time(list, stream)
    assert isinstance(frames[-1].event, crewbus.RunEnded)
    with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
        in_time(stream.result)
    in_time(stream.close)
    assert bus.runs == []


def test_numbers_stay_unique_after_a_nested_end_was_not_recorded(bus: crewbus.Bus) -> None:
    store = FailingStore()
    bus.enable_recording(store)
    handled, _ = attach_sinks(bus)
    with bus.run() as root:
        with pytest.raises(crewbus.RecordingError), bus.run():
            store.broken = True
        store.broken = False
        bus.emit(Note("goes on"))
    numbers = [envelope.seq for envelope in handled]
    assert sorted(set(numbers)) == numbers
    assert [envelope.seq for envelope in bus.record_of(root.id)] == list(range(len(list(bus.record_of(root.id)))))
    assert texts(bus.record_of(root.id)) == ["goes on"]


# What can't be recorded


def test_promise_12_an_event_type_that_would_not_survive_is_refused_by_name_and_field(bus: crewbus.Bus) -> None:
    handled, _ = attach_sinks(bus)
    with bus.run(record=True) as run:
        bus.emit(Note("before"))
        with pytest.raises(crewbus.UnserializableError, match=r"Unreadable.*'callback'"):
            bus.emit(Unreadable(1, threading.current_thread()))
        bus.emit(Note("after"))
    assert [envelope.seq for envelope in bus.record_of(run.id)] == [0, 1, 2, 3]
    assert texts(bus.record_of(run.id)) == ["before", "after"]
    assert not any(isinstance(envelope.event, Unreadable) for envelope in handled)
    with bus.run():
        assert bus.emit(Unreadable(1, threading.current_thread())) is not None


@pytest.mark.parametrize(
    "payload",
    [object(), {1: "int key"}, (1, 2), {1, 2}, b"bytes", Note("nested"), [object()], {"deep": {"x": (1,)}}, 1j],
    ids=lambda thing: type(thing).__name__,
)
def test_promise_12_a_value_that_would_not_survive_is_refused_by_name_and_field(bus: crewbus.Bus, payload: Any) -> None:
    with bus.run(record=True) as run:
        with pytest.raises(crewbus.UnserializableError, match=r"Loose.*'payload'"):
            bus.emit(Loose("title", payload))
        bus.emit(Note("after"))
    assert [envelope.seq for envelope in bus.record_of(run.id)] == [0, 1, 2]


def test_promise_12_what_contains_itself_is_refused(bus: crewbus.Bus) -> None:
    payload: list[Any] = []
    payload.append(payload)
    with bus.run(record=True), pytest.raises(crewbus.UnserializableError, match=r"Loose.*'payload'"):
        bus.emit(Loose("title", payload))


def test_an_unregistered_event_is_refused_and_takes_no_number(bus: crewbus.Bus) -> None:
    with bus.run(record=True) as run:
        with pytest.raises(crewbus.UnregisteredEventError, match=r"builtins\.str"):
            bus.emit("text")
        bus.emit(Note("after"))
    assert [envelope.seq for envelope in bus.record_of(run.id)] == [0, 1, 2]


def test_promise_04_changing_an_event_later_does_not_change_its_record(bus: crewbus.Bus) -> None:
    draft = Draft(["one"], {"a": [1]})
    with bus.run(record=True) as run:
        bus.emit(draft)
        draft.words.append("two")
        draft.notes["a"].append(2)
        draft.notes["b"] = []
        bus.emit(draft)
        draft.words = ["replaced"]
    recorded = [envelope.event for envelope in bus.record_of(run.id) if isinstance(envelope.event, Draft)]
    assert recorded == [Draft(["one"], {"a": [1]}), Draft(["one", "two"], {"a": [1, 2], "b": []})]


def test_promise_04_a_handler_that_changes_an_event_does_not_change_its_record(bus: crewbus.Bus) -> None:
    @bus.on(Draft)
    def meddle(envelope: crewbus.Envelope) -> None:
        envelope.event.words.append("meddled")
        envelope.seq = 99

    with bus.run(record=True) as run:
        bus.emit(Draft(["one"]))
    read = list(bus.record_of(run.id))[1]
    assert (read.event, read.seq) == (Draft(["one"]), 1)


def test_what_is_read_can_be_changed_without_changing_the_record(bus: crewbus.Bus) -> None:
    with bus.run(record=True) as run:
        bus.emit(Draft(["one"]))
    list(bus.record_of(run.id))[1].event.words.append("changed")
    assert list(bus.record_of(run.id))[1].event == Draft(["one"])


def test_an_unknown_type_survives_a_round_trip_untouched(bus: crewbus.Bus) -> None:
    data = '{"b": 1,  "a": [1.0, "\\u00e9"]}'
    with bus.run(record=True) as run:
        bus.emit(crewbus.UnknownEvent("elsewhere.Event", 3, data))
    (stored,) = [stored for stored in bus.store.read(run.id) if stored.name == "elsewhere.Event"]
    assert (stored.version, stored.data) == (3, data.encode())
    unknown = list(bus.record_of(run.id))[1]
    assert unknown.event == crewbus.UnknownEvent("elsewhere.Event", 3, data)
    assert bus.recording.encode(unknown) == stored


# Order and size


def test_promise_02_a_record_of_64_threads_is_gapless_and_in_order(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    barrier = threading.Barrier(64)

    def emit(number: int, root: crewbus.Run) -> None:
        barrier.wait(PATIENCE)
        for turn in range(30):
            if turn % 10 == 0:
                root.chunk(f"{number}/{turn}")
            else:
                root.emit(Note(f"{number}/{turn}"))

    with bus.run() as root:
        stream = bus.subscribe(root.id, bound=4096)
        for caller in [Caller(emit, number, root) for number in range(64)]:
            caller.outcome(60)
    envelopes = list(bus.record_of(root.id))
    assert [stored.seq for stored in bus.store.read(root.id)] == list(range(64 * 30 + 2))
    assert [envelope.seq for envelope in envelopes] == list(range(64 * 30 + 2))
    for number in range(64):
        own = [text for envelope in envelopes if (text := getattr(envelope.event, "text", "")).startswith(f"{number}/")]
        assert own == [f"{number}/{turn}" for turn in range(30)]
    frames = list(stream)
    assert [frame.id for frame in frames] == [
        envelope.id for envelope in envelopes if isinstance(envelope.event, crewbus.Chunk | crewbus.RunEnded)
    ]


def test_promise_02_nested_runs_in_threads_share_one_record(bus: crewbus.Bus) -> None:
    from contextvars import copy_context

    bus.enable_recording()
    barrier = threading.Barrier(16)

    def nested(number: int) -> str:
        barrier.wait(PATIENCE)
        with bus.run(f"nested {number}") as run:
            for turn in range(20):
                bus.emit(Note(f"{number}/{turn}"))
        return run.id

    with bus.run() as root:
        callers = [Caller(copy_context().run, nested, number) for number in range(16)]
        ids = [caller.outcome() for caller in callers]
    assert [envelope.seq for envelope in bus.record_of(root.id)] == list(range(2 + 16 * 22))
    for number, run_id in enumerate(ids):
        assert texts(bus.record_of(run_id)) == [f"{number}/{turn}" for turn in range(20)]


def test_ten_thousand_events(bus: crewbus.Bus) -> None:
    bus.enable_recording()
    with bus.run() as run:
        for number in range(10_000):
            bus.emit(Note(str(number)))
    assert [envelope.seq for envelope in bus.record_of(run.id)] == list(range(10_002))
    assert texts(bus.record_of(run.id)) == [str(number) for number in range(10_000)]


def test_an_async_run_is_recorded_alike(bus: crewbus.Bus) -> None:
    async def nested(number: int) -> None:
        async with bus.run(f"task {number}"):
            for _ in range(5):
                bus.emit(Note(str(number)))
                await asyncio.sleep(0)

    async def main() -> str:
        async with bus.run(record=True) as run:
            await asyncio.gather(*(nested(number) for number in range(50)))
        return run.id

    run_id = asyncio.run(main())
    assert [envelope.seq for envelope in bus.record_of(run_id)] == list(range(2 + 50 * 7))


# The bound of the store


def test_a_full_store_gives_up_the_oldest_finished_record(bus: crewbus.Bus) -> None:
    bus.enable_recording(crewbus.MemoryStore(max_bytes=10 * (OVERHEAD + 100)))
    for number in range(20):
        with bus.run(id=f"run {number}"):
            bus.emit(Note("x"))
    kept = bus.store.roots()
    assert kept == [f"run {number}" for number in range(20 - len(kept), 20)]
    assert 2 <= len(kept) <= 4
    assert names(bus.record_of("run 19")) == ["RunStarted", "Note", "RunFinished"]
    with pytest.raises(crewbus.RunNotFoundError):
        bus.record_of("run 0")


def test_a_full_store_refuses_the_event_of_a_live_run(bus: crewbus.Bus) -> None:
    bus.enable_recording(crewbus.MemoryStore(max_bytes=5 * OVERHEAD))
    handled, _ = attach_sinks(bus)
    run = bus.run(id="live")
    run.start()
    run.emit(Note("x"))
    with pytest.raises(crewbus.StoreFullError, match="max_bytes"):
        run.emit(Note("x" * 10 * OVERHEAD))
    run.emit(Note("y"))
    assert [envelope.seq for envelope in bus.record_of("live")] == [0, 1, 2]
    with pytest.raises(crewbus.StoreFullError):
        for _ in range(10):
            run.emit(Note("z"))
    with pytest.raises(crewbus.StoreFullError):
        run.finish()
    assert run.state == "finished"
    assert bus.runs == []
    numbers = [envelope.seq for envelope in handled]
    assert numbers == list(range(len(numbers)))


def test_a_run_that_a_full_store_refuses_leaves_no_record(bus: crewbus.Bus) -> None:
    bus.enable_recording(crewbus.MemoryStore(max_bytes=OVERHEAD))
    with pytest.raises(crewbus.StoreFullError):
        bus.run(id="refused").start()
    assert bus.runs == []
    assert bus.store.roots() == []
    with pytest.raises(crewbus.RunNotFoundError):
        bus.record_of("refused")


def test_promise_03_the_recorder_keeps_nothing_of_runs_that_are_over(bus: crewbus.Bus) -> None:
    recorder = bus.plugins.get_plugin("checkpoint_recorder")
    store = CountingStore()
    bus.enable_recording(store)
    sources = []
    for _ in range(10):
        with suppress(ValueError), bus.run():
            sources.append(Agent())
            bus.emit(Note("x"), source=sources[-1])
            with bus.run():
                raise ValueError
    assert store.calls == (["begin"] + ["append"] * 5 + ["finish"]) * 10
    assert recorder._logs == {}
    assert reachable([recorder], (crewbus.Run, crewbus.Envelope, Note, Agent)) == []
    assert reachable([store], (crewbus.Run, crewbus.Envelope, Note, Agent)) == []


def test_promise_03_a_recorded_run_seals_its_log_with_the_last_run_of_the_tree(bus: crewbus.Bus) -> None:
    store = CountingStore()
    bus.enable_recording(store)
    root = bus.run()
    with root:
        nested = bus.run()
        nested.start()
    assert "finish" not in store.calls
    nested.emit(Note("after the root's end"))
    nested.finish()
    assert store.calls[-1] == "finish"
    assert texts(bus.record_of(root.id)) == ["after the root's end"]


def test_promise_03_recording_one_run_keeps_only_that_run(bus: crewbus.Bus) -> None:
    with bus.run(record=True) as armed:
        bus.emit(Note("kept"))
    for _ in range(100):
        with bus.run():
            bus.emit(Note("not kept"), source=Agent())
    assert bus.store.roots() == [armed.id]
    assert reachable([bus], (crewbus.Envelope, Note, Agent)) == []


# Redaction stands ahead


def test_what_is_redacted_is_recorded_redacted(bus: crewbus.Bus) -> None:
    class Redactor:
        @crewbus.hookimpl
        def crewbus_redact(self, event: Any) -> Any:
            return Note("(redacted)") if isinstance(event, Note) else None

    bus.plugins.register(Redactor())
    with bus.run(record=True) as run:
        bus.emit(Note("secret"))
    assert texts(bus.record_of(run.id)) == ["(redacted)"]
    assert all(b"secret" not in stored.data for stored in bus.store.read(run.id))
