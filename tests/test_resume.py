"""Resuming: which runs can be resumed, what is redelivered and what is new, and what happens if code has changed."""

from __future__ import annotations

import threading
from string import ascii_lowercase

import pytest
from helpers import TIMEOUT, Noted, in_thread, in_threads, quiet_bus
from recorded_helpers import FailingStore, HeldStore, found, names, steps, text_of

import crewbus
from crewbus import Retracted, RunResumed
from crewbus.serialization import Codec


def interrupted(disk, text="ab", **options):
    """A run ``run`` that has done these steps, and then its process was gone."""
    with disk.bus() as bus, bus.run(**{"id": "run", "name": "crew", **options}) as run:
        steps(run, text)
        disk.crash()


def fail(bus):
    with pytest.raises(ValueError, match="oh no"):
        with bus.run("crew", id="run") as run:
            steps(run, "ab")
            raise ValueError("oh no")


def cancel(bus):
    with pytest.raises(KeyboardInterrupt):
        with bus.run("crew", id="run") as run:
            steps(run, "ab")
            raise KeyboardInterrupt


# Which runs


@pytest.mark.parametrize(("end", "state"), [(fail, "failed"), (cancel, "cancelled")])
def test_a_run_that_did_not_finish_is_resumed(disk, end, state):
    with disk.bus() as bus:
        end(bus)
        assert bus.records.info("run").state == state
    calls = []
    with disk.bus() as bus:
        with bus.resume("run") as run:
            assert bus.records.info("run").state == run.state == "running"
            steps(run, "abc", calls)
        assert bus.records.info("run").state == run.state == "finished"
    assert calls == ["c"]


def test_an_interrupted_run_is_resumed_as_it_was(disk):
    interrupted(disk, tags={"tenant": "a"})
    with disk.bus() as bus:
        assert bus.records.info("run").state == "interrupted"
        with bus.resume("run") as run:
            assert (run.id, run.name, dict(run.tags)) == ("run", "crew", {"tenant": "a"})
            assert run.recorded
            assert crewbus.current_run() is run
            steps(run, "ab")
        assert bus.records.info("run").tags == {"tenant": "a"}


@pytest.mark.parametrize("times", [1, 4])
def test_a_run_is_resumed_as_often_as_it_must(disk, times):
    calls = []
    with disk.bus() as bus, bus.run(id="run") as run:
        steps(run, "a", calls)
        disk.crash()
    for time in range(times):
        with disk.bus() as bus, bus.resume("run") as run:
            steps(run, "abcdef"[: time + 2], calls)
            disk.crash()
    with disk.bus() as bus:
        with bus.resume("run") as run:
            steps(run, "abcdef", calls)
        assert [one.seq for one in bus.record_of("run")] == list(range(bus.records.info("run").events))
        assert len(found(bus, "run", RunResumed)) == times + 1
    assert calls == list("abcdef")


@pytest.mark.parametrize("at", [None, "nowhere"])
def test_a_run_that_has_finished_is_not_resumed(disk, at):
    with disk.bus() as bus:
        with bus.run("crew", id="run"):
            pass
        with pytest.raises(crewbus.RunError, match="has finished"):
            bus.resume("run", at).start()
        assert bus.records.info("run").state == "finished"
    with disk.bus() as bus:
        assert bus.records.info("run").state == "finished"


def test_a_run_that_is_refused_stays_as_it_was(disk):
    with disk.bus() as bus:
        fail(bus)
        with pytest.raises(crewbus.RunNotFoundError, match="no checkpoint 'nowhere': it has none"):
            bus.resume("run", "nowhere").start()
        assert bus.records.info("run").state == "failed"
        assert bus.runs == []
        with bus.resume("run") as run:
            steps(run, "ab")


def test_a_nested_run_is_not_resumed(disk):
    with disk.bus() as bus, bus.run(id="run"), bus.run(id="inner"):
        disk.crash()
    with disk.bus() as bus, pytest.raises(crewbus.RunError, match="nested in run run"):
        bus.resume("inner").start()


def test_an_unknown_run_is_not_resumed(disk):
    with disk.bus() as bus, pytest.raises(crewbus.RunNotFoundError, match="run nothing is not recorded"):
        bus.resume("nothing").start()


@pytest.mark.parametrize("wrong", [("",), (None,), (3,), ("run", ""), ("run", 3)])
def test_what_is_no_name_is_refused(bus, wrong):
    with pytest.raises(crewbus.InputError, match="named by text"):
        bus.resume(*wrong)


def test_a_run_that_is_alive_is_not_resumed(disk):
    with disk.bus() as bus:
        with bus.run(id="run") as run:
            with pytest.raises(crewbus.RunHeldError, match="run run is live"):
                in_thread(bus.resume("run").start).result(TIMEOUT)
            run.chunk("still here")
        assert names(bus, "run") == ["RunStarted", "Chunk", "RunFinished"]


def test_of_several_concurrent_resumes_one_succeeds(disk):
    interrupted(disk)
    with disk.bus() as bus:
        continuing = threading.Barrier(8)

        def take(i):
            try:
                with bus.resume("run") as run:
                    continuing.wait(TIMEOUT)
                    steps(run, "ab")
                return "taken"
            except crewbus.RunHeldError:
                continuing.wait(TIMEOUT)
                return "held"

        assert sorted(in_threads(8, take)) == ["held"] * 7 + ["taken"]


def test_a_run_is_not_resumed_inside_another(disk):
    interrupted(disk)
    with disk.bus() as bus, bus.run(id="around"):
        with pytest.raises(crewbus.RunError, match="resume it outside run around"):
            bus.resume("run").start()


def test_a_resumed_run_is_entered_once(disk):
    interrupted(disk)
    with disk.bus() as bus:
        run = bus.resume("run")
        with run:
            steps(run, "ab")
        with pytest.raises(crewbus.RunError, match="started once"):
            run.start()


def test_the_id_of_a_recorded_run_is_not_used_again(disk):
    interrupted(disk)
    with disk.bus() as bus, pytest.raises(crewbus.RunIdInUseError, match="recorded already"):
        bus.run(id="run").start()


@pytest.mark.parametrize("fails", ["append", "when_written"])
def test_if_the_store_fails_the_run_is_released(fails):
    store = FailingStore() if fails == "append" else HeldStore()
    with quiet_bus() as bus:
        bus.enable_recording(store, durability="sync")
        fail(bus)
        if fails == "append":
            store.broken = True
        else:
            store.when_written = lambda root_id, notify: notify(crewbus.RecordingError("the disk is gone"))
        with pytest.raises(crewbus.RecordingError, match="the disk is gone"):
            bus.resume("run").start()
        assert bus.runs == []
        assert bus.records.info("run").state == ("failed" if fails == "append" else "interrupted")
        assert store.info("run").sealed
        store.broken = False
        vars(store).pop("when_written", None)
        with bus.resume("run") as run:
            steps(run, "ab")


def test_a_bus_that_is_not_armed_records_what_it_resumes(disk):
    interrupted(disk)
    with quiet_bus() as bus:
        bus.recording.use_store(disk.open())
        assert not bus.recording.armed
        with bus.resume("run") as run:
            assert run.recorded
            steps(run, "abc")
        assert bus.records.info("run").events == 9
        with bus.run() as other:
            assert not other.recorded


def test_without_a_recorder_nothing_is_resumed():
    with quiet_bus(blocked=["checkpoint_recorder"]) as bus:
        with pytest.raises(crewbus.RecordingError, match="nothing records"):
            bus.resume("run").start()


def test_other_runs_are_recorded_beside_a_resumed_one(disk):
    interrupted(disk)
    with disk.bus() as bus:
        with bus.run(id="other") as other:
            pass
        with bus.resume("run") as run:
            steps(run, "ab")
        assert {one.id: one.state for one in bus.recorded_runs()} == {"run": "finished", other.id: "finished"}


# What is delivered


def test_recorded_events_are_redelivered_and_not_recorded_again(disk):
    def play(run):
        run.emit(Noted("first"))
        run.step("a", lambda: run.chunk("in a. ") and None)
        run.emit(Noted("second"))
        run.chunk("between. ")
        run.step("b", lambda: None)
        run.chunk("after. ")
        run.step("c", lambda: None)

    with disk.bus() as bus, bus.run("crew", id="run") as run:
        run.emit(Noted("first"))
        run.step("a", lambda: run.chunk("in a. ") and None)
        run.emit(Noted("second"))
        run.chunk("between. ")
        run.step("b", lambda: None)
        run.chunk("after. ")
        disk.crash()
    received = []
    with disk.bus() as bus:
        last = bus.records.info("run").events - 1
        bus.on(object, received.append)
        with bus.resume("run") as run:
            play(run)
        assert [one.seq for one in bus.record_of("run")] == list(range(bus.records.info("run").events))
        assert text_of(bus, "run") == "in a. between. after. "
        assert len(found(bus, "run", Noted)) == 2
        assert found(bus, "run", RunResumed)[0].event == RunResumed(last, 2)
    again = [(type(one.event).__name__, one.seq) for one in received if one.replayed]
    assert again == [("RunStarted", 0), ("Noted", 1), ("Noted", 5), ("Chunk", 6), ("Chunk", 9)]
    new = [type(one.event).__name__ for one in received if not one.replayed]
    assert new == ["RunResumed", "StepStarted", "StepFinished", "RunFinished"]
    assert [one.seq for one in received if not one.replayed] == list(range(last + 1, last + 5))


def test_observers_get_replayed_events(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        run.emit(Noted())
        disk.crash()
    seen = []

    class Observer:
        @crewbus.hookimpl
        def crewbus_emit(self, run, envelope):
            seen.append((run.id, type(envelope.event).__name__, envelope.replayed))

        @crewbus.hookimpl
        def crewbus_record(self, envelope):
            assert not envelope.replayed

    with disk.bus(Observer()) as bus, bus.resume("run") as run:
        run.emit(Noted())
        steps(run, "ab")
    assert seen[:3] == [("run", "RunStarted", True), ("run", "RunResumed", False), ("run", "Noted", True)]


def test_what_a_run_emitted_beyond_its_last_step_stays_and_is_not_repeated(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        run.chunk("kept. ")
        steps(run, "a")
        run.chunk("too. ")
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run") as run:
            run.chunk("kept. ")
            steps(run, "a")
            run.chunk("too. ")
            run.chunk("new. ")
        assert found(bus, "run", Retracted) == []
        assert text_of(bus, "run") == "kept. too. new. "


def test_a_record_that_ends_with_a_step_takes_nothing_back(disk):
    interrupted(disk)
    with disk.bus() as bus:
        with bus.resume("run") as run:
            steps(run, "ab")
        assert found(bus, "run", Retracted) == []


# Where the code has changed

OTHER_CODE = {
    "another step": ("cab", "step 'a'", "step 'c'"),
    "a step less": ("a", "step 'b'", "its end"),
    "no step": ("", "step 'a'", "its end"),
}


@pytest.mark.parametrize("what", OTHER_CODE)
def test_other_steps_than_the_record_has_are_a_mismatch(disk, what):
    interrupted(disk)
    text, expected, wrong = OTHER_CODE[what]
    with disk.bus() as bus:
        with pytest.raises(crewbus.ReplayMismatch) as mismatch:
            with bus.resume("run") as run:
                steps(run, text)
        assert (mismatch.value.expected, mismatch.value.found) == (expected, wrong)
        assert mismatch.value.scope == "run 'crew'"
        assert expected in str(mismatch.value)
        assert bus.records.info("run").state == "failed"
    calls = []
    with disk.bus() as bus:
        with bus.resume("run") as run:
            steps(run, "abc", calls)
    assert calls == ["c"]


def test_other_arguments_are_a_mismatch(disk):
    def look(number):
        return number

    with disk.bus() as bus, bus.run("crew", id="run") as run:
        run.step("look", look, 1)
        disk.crash()
    with disk.bus() as bus:
        with pytest.raises(crewbus.ReplayMismatch, match=r"expected step 'look' with key '\w+', found step 'look'"):
            with bus.resume("run") as run:
                run.step("look", look, 2)


def test_recorded_steps_may_be_asked_for_in_another_order(disk):
    interrupted(disk)
    calls = []
    with disk.bus() as bus, bus.resume("run") as run:
        steps(run, "bac", calls)
    assert calls == ["c"]


def test_a_mismatch_inside_a_scope_names_that(disk):
    def outer(text):
        steps(crewbus.current_run(), text)
        crewbus.chunk("x")
        if text == "ab":
            disk.crash()

    with disk.bus() as bus, bus.run("crew", id="run") as run:
        run.step("outer", lambda: outer("ab"))
    with disk.bus() as bus:
        with pytest.raises(crewbus.ReplayMismatch) as mismatch:
            with bus.resume("run") as run:
                run.step("outer", lambda: outer("ca"))
        assert (mismatch.value.scope, mismatch.value.expected) == ("step 'outer'", "step 'a'")
        with pytest.raises(crewbus.ReplayMismatch) as mismatch:
            with bus.resume("run") as run:
                run.step("outer", lambda: outer("a"))
        assert (mismatch.value.scope, mismatch.value.found) == ("step 'outer'", "its end")


def test_a_failure_is_not_hidden_by_a_mismatch(disk):
    interrupted(disk)
    with disk.bus() as bus:
        with pytest.raises(ValueError, match="my own"):
            with bus.resume("run"):
                raise ValueError("my own")
        assert bus.records.info("run").error == "builtins.ValueError: my own"


def test_a_step_is_read_when_it_is_asked_for(disk, monkeypatch):
    interrupted(disk, ascii_lowercase)
    read = []

    def decode(codec, name, *rest, original=Codec.decode):
        read.append(name)
        return original(codec, name, *rest)

    monkeypatch.setattr(Codec, "decode", decode)
    with disk.bus() as bus, bus.resume("run") as run:
        at_first = read.count("crewbus.StepStarted")
        steps(run, "abc")
        after_three = read.count("crewbus.StepStarted")
        steps(run, ascii_lowercase[3:])
    assert (at_first, after_three) == (1, 3)
    assert read.count("crewbus.StepStarted") == len(ascii_lowercase)


def test_a_step_that_is_taken_up_again_is_one_step_whatever_started_meanwhile(disk):
    """A cancelled step is called again in the same life, after others; no life has it twice."""

    def give_up():
        raise KeyboardInterrupt

    calls = []
    with disk.bus() as bus, bus.run(id="run") as run:
        steps(run, "a")
        for name in "bc":
            with pytest.raises(KeyboardInterrupt):
                run.step(name, give_up)
        steps(run, "dbec")
        disk.crash()
    for _ in range(2):
        with disk.bus() as bus, bus.resume("run") as run:
            steps(run, "abdec", calls)
            disk.crash()
    assert not calls
