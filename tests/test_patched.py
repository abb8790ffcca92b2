"""Patches: code changes while runs are in flight; a run goes on as its record was made."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from helpers import in_threads, quiet_bus
from recorded_helpers import found

import crewbus
from crewbus import InputError, RunError, RunPatched

CALLED: list[str] = []
"""The steps that were called, in order."""


@pytest.fixture(autouse=True)
def no_calls():
    CALLED.clear()


def do(run, name):
    def call():
        CALLED.append(name)
        return name

    return run.step(name, call)


def nothing(place):
    """Go on."""


def at(place, disk):
    """What ends the process at that place."""
    return lambda here: disk.crash() if here == place else None


def before(run, crash=nothing):
    """The code before the change."""
    do(run, "plan")
    crash("at the change")
    do(run, "old tool")
    crash("after the change")
    do(run, "write")


def after(run, crash=nothing):
    """The code after it."""
    do(run, "plan")
    do(run, "new tool" if run.patched("new-tool") else "old tool")
    crash("after the change")
    do(run, "write")


def patches(bus, run_id="run"):
    return [(one.run_id, one.event.name) for one in found(bus, run_id, RunPatched)]


def test_a_new_run_takes_the_patch_and_records_it_once(bus):
    with bus.run(id="run") as run:
        after(run)
        assert run.patched("new-tool")
        assert run.patched("other")
    assert CALLED == ["plan", "new tool", "write"]
    assert patches(bus) == [("run", "new-tool"), ("run", "other")]


def test_a_run_that_is_not_recorded_takes_it():
    with quiet_bus() as bus, bus.run() as run:
        assert run.patched("new-tool")


def test_a_run_that_had_passed_the_place_goes_on_as_it_was(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        before(run, crash=at("after the change", disk))
    with disk.bus() as bus, bus.resume("run") as run:
        after(run, crash=at("after the change", disk))
    with disk.bus() as bus:
        with bus.resume("run") as run:
            after(run)
        assert patches(bus) == []
    assert CALLED == ["plan", "old tool", "write"]


def test_a_run_that_had_not_come_to_the_place_takes_the_patch(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        before(run, crash=at("at the change", disk))
    with disk.bus() as bus, bus.resume("run") as run:
        after(run, crash=at("after the change", disk))
    with disk.bus() as bus:
        with bus.resume("run") as run:
            after(run)
        assert patches(bus) == [("run", "new-tool")]
    assert CALLED == ["plan", "new tool", "write"]


def test_a_run_that_took_it_takes_it_again(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        after(run, crash=at("after the change", disk))
    with disk.bus() as bus:
        seen = []
        bus.on(RunPatched, lambda envelope: seen.append((envelope.seq, envelope.replayed)))
        with bus.resume("run") as run:
            after(run)
        (patched,) = found(bus, "run", RunPatched)
        assert seen == [(patched.seq, True)]
    assert CALLED == ["plan", "new tool", "write"]


@pytest.mark.parametrize("passed", ["step", "open step", "call", "nested run", "attempt", "text"])
def test_whatever_the_record_has_after_the_place_tells_that_it_was_passed(disk, passed):
    def work(run, patched):
        do(run, "plan")
        if patched is not None:
            assert run.patched("new-tool") is patched
        scopes = {"call": lambda: run.bus.call("other"), "nested run": lambda: run.bus.run(), "attempt": run.attempt}
        with scopes.get(passed, nullcontext)():
            pass
        if passed == "text":
            run.chunk("text")
        if passed == "step":
            do(run, "other")
        if passed == "open step" and patched is None:
            run.step("other", disk.crash)

    with disk.bus() as bus, bus.run(id="run") as run:
        work(run, None)
        disk.crash()
    with disk.bus() as bus, bus.resume("run") as run:
        work(run, False)


def test_what_was_decided_first_holds_for_the_whole_run(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        before(run, crash=at("after the change", disk))
    with disk.bus() as bus, bus.resume("run") as run:
        after(run)
        assert not run.patched("new-tool")  # nothing recorded is ahead any more
        assert run.patched("another")


def test_nested_runs_decide_for_themselves(disk):
    def work(run, code, crash=nothing):
        for topic in ("moon", "sea"):
            with run.bus.run("nested", key=topic) as nested:
                code(nested, crash if topic == "sea" else nothing)

    with disk.bus() as bus, bus.run(id="run") as run:
        work(run, before, at("at the change", disk))
    with disk.bus() as bus:
        with bus.resume("run") as run:
            work(run, after)
            assert run.patched("new-tool")
        assert len(patches(bus)) == 2
        assert patches(bus)[1] == ("run", "new-tool")
        assert patches(bus)[0][0] != "run"
    assert CALLED == ["plan", "old tool", "write", "plan", "new tool", "write"]


def test_a_nested_run_that_had_ended_passed_every_place(disk):
    with disk.bus() as bus, bus.run(id="run"):
        with bus.run("nested"):
            pass
        disk.crash()
    with disk.bus() as bus, bus.resume("run"), bus.run("nested") as nested:
        assert not nested.patched("new-tool")


def test_a_fork_goes_on_as_what_it_shares_was_made(disk):
    with disk.bus() as bus:
        with bus.run(id="run") as run:
            do(run, "plan")
            run.checkpoint("planned")
            do(run, "new tool" if run.patched("new-tool") else "old tool")
            run.checkpoint("done")
        with bus.run(id="old") as run:
            before(run)
        forks = {
            bus.fork("run", at="planned"): True,
            bus.fork("run", at="done"): True,
            bus.fork("old"): False,
        }
        for fork, takes_it in forks.items():
            with bus.resume(fork) as run:
                do(run, "plan")
                if takes_it:
                    run.checkpoint("planned")
                assert run.patched("new-tool") is takes_it
                do(run, "new tool" if takes_it else "old tool")
                if not takes_it:
                    do(run, "write")
            assert len(patches(bus, fork)) == takes_it


def test_a_checkpoint_before_the_place_forgets_the_patch(disk):
    with disk.bus() as bus, bus.run(id="run") as run:
        do(run, "plan")
        run.checkpoint("planned")
        assert run.patched("new-tool")
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run", at="planned") as run:
            do(run, "plan")
            run.checkpoint("planned")
            assert run.patched("new-tool")
        assert len(patches(bus)) == 2


def test_inside_a_step_the_patch_is_the_runs(disk):
    def outer(run, patched):
        def call():
            do(run, "inner")
            if patched is not None:
                assert run.patched("new-tool") is patched
            do(run, "rest")
            if patched is None:
                disk.crash()

        run.step("outer", call)

    with disk.bus() as bus, bus.run(id="run") as run:
        outer(run, None)
    with disk.bus() as bus:
        with bus.resume("run") as run:
            outer(run, False)
            assert not run.patched("new-tool")
        assert patches(bus) == []


def test_threads_that_ask_at_once_get_one_answer_and_one_record(bus):
    with bus.run(id="run") as run:
        assert in_threads(8, lambda _: run.patched("new-tool")) == [True] * 8
    assert len(patches(bus)) == 1


def test_a_patch_that_can_not_be_recorded_is_not_decided(bus, monkeypatch):
    with bus.run(id="run") as run:
        with monkeypatch.context() as patch:
            patch.setattr(bus.recording, "append", lambda *args: (_ for _ in ()).throw(crewbus.RecordingError("full")))
            with pytest.raises(crewbus.RecordingError):
                run.patched("new-tool")
        assert run.patched("new-tool")
    assert len(patches(bus)) == 1


def test_what_makes_no_sense_is_refused(bus):
    with bus.run(id="run") as run:
        with pytest.raises(InputError, match="a patch has a name"):
            run.patched("")
    with pytest.raises(RunError, match="is not running"):
        run.patched("new-tool")
