"""Checkpoints: named positions, the entities as they were there, and going on from them."""

from __future__ import annotations

import sys
import threading
from typing import Any

import attrs
import pytest
from helpers import TIMEOUT, Noted, in_thread
from recorded_helpers import found, names, steps, text_of

import crewbus
from crewbus import CheckpointSaved, EntitySaved, Retracted, RunResumed


@attrs.define(eq=False)
class Crew:
    topics: list[str] = attrs.field(factory=list)
    budget: int = 0


@attrs.define(eq=False)
class Memory:
    """The types of its fields do not say whether they are JSON, so each value is checked."""

    items: list[Any] = attrs.field(factory=list)
    notes: dict[str, Any] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Unset:
    given: int
    later: list[str] = attrs.field(init=False)


crewbus.register_entity(Crew, name="tests.checkpoints.Crew")
crewbus.register_entity(Unset, name="tests.checkpoints.Unset")
crewbus.register_entity(Memory, name="tests.checkpoints.Memory")


@crewbus.event(name="tests.checkpoints.Turned")
class Turned:
    number: int = 0


@crewbus.event(name="tests.checkpoints.Overturned")
class Overturned(Turned):
    pass


# Saving


def test_a_checkpoint_is_a_position_with_a_name(disk):
    with disk.bus() as bus:
        with bus.run(id="run") as run:
            run.chunk("x")
            saved = run.checkpoint("first")
            run.chunk("y")
            run.checkpoint("second")
        first, second = bus.records.checkpoints("run")
    assert saved.event == CheckpointSaved("first")
    assert (first.name, first.seq, first.at, first.entities) == ("first", 2, saved.at, {})
    assert (second.name, second.seq) == ("second", 4)


def test_a_checkpoint_is_an_event_like_others(bus):
    received = []
    bus.on(CheckpointSaved, received.append)
    with bus.run(id="run"), bus.run("inner") as inner:
        inner.checkpoint("deep")
        inner.step("s", lambda: inner.checkpoint("deeper") and None)
    assert [one.event.name for one in received] == ["deep", "deeper"]
    assert [one.run_id for one in received] == [inner.id, inner.id]


def test_an_unrecorded_run_has_no_checkpoints(bus):
    with bus.run(record=False) as run:
        assert run.checkpoint("x") is None
        assert run.track("crew", crew := Crew()) is crew
    with pytest.raises(crewbus.RunNotFoundError):
        bus.records.checkpoints(run.id)


@pytest.mark.parametrize("wrong", ["", None, 3])
def test_a_checkpoint_and_an_entity_have_names(bus, wrong):
    with bus.run() as run:
        with pytest.raises(crewbus.InputError, match="a checkpoint has a name"):
            run.checkpoint(wrong)
        with pytest.raises(crewbus.InputError, match="a tracked entity has a name"):
            run.track(wrong, Crew())


# Entities


def test_a_checkpoint_has_the_state_of_its_entities(disk):
    crew = Crew(["tea"])
    with disk.bus() as bus, bus.run(id="run") as run:
        run.track("crew", crew)
        run.checkpoint("one")
        crew.topics.append("milk")
        crew.budget = 7
        run.checkpoint("two")
        disk.crash()
    with disk.bus() as bus:
        one, two = bus.records.checkpoints("run")
        assert (one.entity("crew").topics, two.entity("crew").topics) == (["tea"], ["tea", "milk"])
        assert (type(two.entity("crew")), two.entity("crew").budget) == (Crew, 7)
        assert two.entity("crew") is not two.entity("crew")
        with pytest.raises(crewbus.RunNotFoundError, match=r"has no entity 'other'; it has: crew"):
            one.entity("other")


def test_an_unchanged_entity_is_not_written_again(bus):
    crew = Crew(["tea"])
    with bus.run(id="run") as run:
        run.track("crew", crew)
        run.track("other", Crew())
        run.checkpoint("one")
        run.checkpoint("two")
        crew.budget = 1
        run.checkpoint("three")
        crew.budget = 0
        run.checkpoint("four")
    assert [one.event.name for one in found(bus, "run", EntitySaved)] == ["crew", "other", "crew", "crew"]
    one, two, three, four = bus.records.checkpoints("run")
    assert one.entities == two.entities
    assert [kept.entity("crew").budget for kept in (one, two, three, four)] == [0, 0, 1, 0]
    assert three.entities["other"] == one.entities["other"]


def test_an_entity_can_replace_another_of_its_name(bus):
    with bus.run(id="run") as run:
        run.track("crew", Crew(["a"]))
        run.checkpoint("one")
        run.track("crew", Crew(["b"]))
        run.checkpoint("two")
    assert [kept.entity("crew").topics for kept in bus.records.checkpoints("run")] == [["a"], ["b"]]


def test_a_source_of_a_registered_type_is_tracked_from_its_first_event(bus):
    crew, other = Crew(["a"]), Crew(["b"])
    with bus.run(id="run") as run:
        run.checkpoint("before")
        run.emit(Noted(), source=crew)
        run.chunk("x", source=crew)
        run.emit(Noted(), source=other)
        run.emit(Noted(), source=object())
        run.emit(Noted(), source="somebody")
        run.checkpoint("after")
    before, after = bus.records.checkpoints("run")
    assert before.entities == {}
    assert {name: after.entity(name).topics for name in after.entities} == {
        "tests.checkpoints.Crew": ["a"],
        "tests.checkpoints.Crew#2": ["b"],
    }


def test_an_explicitly_tracked_source_is_not_tracked_twice(bus):
    crew = Crew()
    with bus.run(id="run") as run:
        run.track("mine", crew)
        run.emit(Noted(), source=crew)
        run.checkpoint("x")
    assert list(bus.records.checkpoints("run")[0].entities) == ["mine"]


def test_runs_of_a_tree_share_their_entities_and_trees_do_not(bus):
    with bus.run(id="run"):
        with bus.run() as inner:
            inner.track("crew", Crew())
        crewbus.current_run().checkpoint("x")
    with bus.run(id="other") as other:
        other.checkpoint("x")
    assert list(bus.records.checkpoints("run")[0].entities) == ["crew"]
    assert bus.records.checkpoints("other")[0].entities == {}


def test_only_registered_types_are_tracked(bus):
    with bus.run() as run, pytest.raises(crewbus.UnregisteredEventError, match="register_entity"):
        run.track("thing", object())


def test_an_entity_that_does_not_survive_a_round_trip_is_refused_by_name(bus):
    with bus.run(id="run") as run:
        run.track("memory", Memory([object()]))
        with pytest.raises(crewbus.UnserializableError, match=r"entity 'memory': .*'items'"):
            run.checkpoint("x")
    assert names(bus, "run") == ["RunStarted", "RunFinished"]


@pytest.fixture
def often():
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("kind", [Crew, Memory])
def test_an_entity_can_change_while_it_is_saved(bus, kind):
    entity = kind()
    stop = threading.Event()

    def change(i):
        number = 0
        values = entity.topics if kind is Crew else entity.items
        while not stop.is_set():
            number += 1
            values.append(str(number))
            if len(values) > 50:
                values.clear()
            if kind is Memory:
                entity.notes[f"{i} {number % 20}"] = number
                entity.notes.pop(f"{i} {(number - 7) % 20}", None)

    changing = [in_thread(change, i) for i in range(8)]
    try:
        with bus.run(id="run") as run:
            run.track("shared", entity)
            for number in range(40):
                run.checkpoint(f"{number}")
    finally:
        stop.set()
    assert [future.result(TIMEOUT) for future in changing] == [None] * 8
    kept = bus.records.checkpoints("run")
    assert len(kept) == 40
    assert all(type(one.entity("shared")) is kind for one in kept)


def test_an_entity_that_contains_itself_is_refused_by_name(bus):
    memory = Memory()
    memory.items.append(memory.items)
    with bus.run() as run:
        run.track("memory", memory)
        with pytest.raises(crewbus.UnserializableError, match="entity 'memory'"):
            run.checkpoint("x")


def test_an_entity_that_lacks_a_field_is_refused_by_name(bus):
    with bus.run() as run:
        run.track("unset", Unset(1))
        with pytest.raises(crewbus.UnserializableError, match=r"entity 'unset': .*'later'"):
            run.checkpoint("x")


@pytest.mark.usefixtures("often")
def test_concurrent_checkpoints_each_have_the_entity(bus):
    with bus.run(id="run") as run:
        run.track("crew", Crew(["a"]))
        futures = [bus.submit(run.checkpoint, f"{i}") for i in range(16)]
        assert all(future.result(TIMEOUT) for future in futures)
    assert [one.entity("crew").topics for one in bus.records.checkpoints("run")] == [["a"]] * 16


# By themselves


def test_checkpoint_on_saves_after_each_event_of_a_type(disk):
    with disk.bus(checkpoint_on=[Turned]) as bus:
        with bus.run(id="run") as run:
            run.emit(Noted())
            run.track("crew", Crew(["a"]))
            run.emit(Turned(1))
            run.emit(Overturned(2))
            run.emit(Turned(3))
        assert names(bus, "run")[2:6] == ["Turned", "EntitySaved", "CheckpointSaved", "Overturned"]
        kept = [(one.name, one.entity("crew").topics) for one in bus.records.checkpoints("run")]
    assert kept == [
        ("tests.checkpoints.Turned", ["a"]),
        ("tests.checkpoints.Overturned", ["a"]),
        ("tests.checkpoints.Turned", ["a"]),
    ]


def test_checkpoint_on_ends_with_the_next_enable_recording(bus):
    bus.enable_recording(checkpoint_on=[Turned])
    bus.enable_recording(checkpoint_on=[Turned])
    with bus.run() as run:
        run.emit(Turned())
    assert len(bus.records.checkpoints(run.id)) == 1
    bus.enable_recording()
    with bus.run() as run:
        run.emit(Turned())
    assert bus.records.checkpoints(run.id) == []


def test_checkpoint_on_does_not_apply_to_unrecorded_runs(bus):
    bus.enable_recording(checkpoint_on=[Turned])
    received = []
    bus.on(object, lambda envelope: received.append(type(envelope.event)))
    with bus.run(record=False) as run:
        run.emit(Turned())
    assert CheckpointSaved not in received


def test_checkpoint_on_does_not_save_again_on_resume(disk):
    def play(run, last=lambda: None):
        run.emit(Turned(1))
        run.step("a", lambda: None)
        last()
        run.chunk("x")
        run.emit(Turned(2))

    with disk.bus(checkpoint_on=[Turned]) as bus, bus.run(id="run") as run:
        play(run, disk.crash)
    with disk.bus(checkpoint_on=[Turned]) as bus:
        with bus.resume("run") as run:
            play(run)
        assert len(bus.records.checkpoints("run")) == 2
        assert text_of(bus, "run") == "x"


@pytest.mark.parametrize("wrong", [["Turned"], [Turned()]])
def test_checkpoint_on_takes_classes(bus, wrong):
    with pytest.raises(crewbus.EventTypeError, match="checkpoint_on takes event classes"):
        bus.enable_recording(checkpoint_on=wrong)


# Going on from one


def draft(run, calls, **say):
    """Three parts, with a checkpoint after each."""
    for part in "abc":
        run.step(part, lambda part=part: calls.append(part) or (run.chunk(say.get(part, part)) and None))
        run.checkpoint(f"after {part}")


def recorded(disk, last=lambda: None):
    with disk.bus() as bus, bus.run("crew", id="run") as run:
        draft(run, [])
        last()
    with disk.bus() as bus:
        with pytest.raises(ZeroDivisionError):
            with bus.run("crew", id="failed") as run:
                draft(run, [])
                raise ZeroDivisionError


def test_a_run_resumes_from_a_checkpoint(disk):
    recorded(disk, disk.crash)
    calls = []
    with disk.bus() as bus:
        at = bus.records.checkpoints("run")[0].seq
        with bus.resume("run", at="after a") as run:
            assert [one.name for one in bus.records.checkpoints("run")] == ["after a"]
            draft(run, calls, b="B", c="C")
        assert calls == ["b", "c"]
        assert text_of(bus, "run") == "aBC"
        assert found(bus, "run", RunResumed)[0].event == RunResumed(at, 2, "after a")
        assert found(bus, "run", Retracted)[0].event.since == at + 1
        assert found(bus, "run", Retracted)[0].event.parents == ()
        assert list(dict.fromkeys(one.name for one in bus.records.checkpoints("run"))) == [
            "after a",
            "after b",
            "after c",
        ]
        assert [one.seq for one in bus.record_of("run")] == list(range(bus.records.info("run").events))


def test_a_failed_run_resumes_from_a_checkpoint(disk):
    recorded(disk)
    calls = []
    with disk.bus() as bus:
        with bus.resume("failed", at="after b") as run:
            draft(run, calls, c="C")
        assert calls == ["c"]
        assert text_of(bus, "failed") == "abC"
        assert bus.records.info("failed").state == "finished"


def test_a_run_resumes_from_a_checkpoint_twice(disk):
    recorded(disk, disk.crash)
    for say in ("one", "two"):
        with disk.bus() as bus, bus.resume("run", at="after a") as run:
            calls = []
            draft(run, calls, b=say)
            assert calls == ["b", "c"]
            disk.crash()
    with disk.bus() as bus:
        assert bus.records.info("run").state == "interrupted"
        calls = []
        with bus.resume("run") as run:
            draft(run, calls)
        assert calls == []
        assert text_of(bus, "run") == "atwoc"


def test_a_step_resumes_from_a_checkpoint_inside_it(disk):
    def play(run, calls, last=lambda: None):
        def outer():
            run.chunk("o1 ")
            steps(run, "x", calls)
            run.checkpoint("inside")
            run.chunk("o2 ")
            steps(run, "y", calls)
            return "done"

        run.chunk("s ")
        assert run.step("outer", outer) == "done"
        run.chunk("e ")
        last()

    calls = []
    with disk.bus() as bus, bus.run(id="run") as run:
        play(run, calls, disk.crash)
    with disk.bus() as bus:
        fork = bus.fork("run", at="inside")
        for run_id, at in ((fork, None), ("run", "inside")):
            calls.clear()
            with bus.resume(run_id, at) as run:
                play(run, calls)
            assert calls == ["y"]
            assert text_of(bus, run_id) == "s o1 o2 e "


def test_a_discarded_checkpoint_is_not_found(disk):
    recorded(disk, disk.crash)
    with disk.bus() as bus:
        with bus.resume("run", at="after a"):
            disk.crash()
    with disk.bus() as bus:
        with pytest.raises(crewbus.RunNotFoundError, match="no checkpoint 'after b': there are 'after a'"):
            bus.resume("run", at="after b").start()
        with bus.resume("run", at="after a") as run:
            draft(run, [])
        assert text_of(bus, "run") == "abc"


def test_the_last_checkpoint_of_a_name_counts(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        for part in "ab":
            run.step(part, lambda: None)
            run.checkpoint("here")
        run.step("c", lambda: None)
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run", at="here") as run:
            calls = []
            for part in "abc":
                run.step(part, calls.append, part, key="k") if part == "c" else run.step(part, lambda: None)
        assert calls == ["c"]


def test_entities_are_tracked_again_after_a_resume(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        run.track("crew", Crew(["a"]))
        run.step("s", lambda: None)
        run.checkpoint("one")
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run", at="one") as run:
            crew = run.track("crew", bus.records.checkpoints("run")[0].entity("crew"))
            run.step("s", lambda: None)
            run.checkpoint("one")
            crew.topics.append("b")
            run.checkpoint("two")
        assert [one.entity("crew").topics for one in bus.records.checkpoints("run")][-1] == ["a", "b"]


def test_a_stream_continues_from_a_checkpoint(disk):
    recorded(disk, disk.crash)

    def work():
        draft(crewbus.current_run(), [], b="B")

    with disk.bus() as bus:
        with bus.stream(work, options=crewbus.StreamOptions(resume="run", at="after a")) as stream:
            assert stream.text() == "Bc"
        assert text_of(bus, "run") == "aBc"
