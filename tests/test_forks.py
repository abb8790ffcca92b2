"""Forks: another run that shares the beginning of one, and continues differently."""

from __future__ import annotations

import attrs
import pytest
from helpers import quiet_bus
from recorded_helpers import found, text_of

import crewbus
from crewbus import RunForked, StepFinished

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def work(name, say):
    CALLS.append(name)
    crewbus.chunk(say)
    return say


def draft(run, mark=""):
    """Three parts, with a checkpoint after each; what they gave."""
    given = []
    for name in "abc":
        given.append(run.step(name, work, name, name + mark, key="k"))
        run.checkpoint(f"after {name}")
    return given


def parent_of(bus):
    with bus.run("crew", id="parent", tags={"tenant": "t"}) as run:
        draft(run)
    CALLS.clear()
    return list(bus.store.read("parent"))


def test_a_fork_resumes_from_a_checkpoint(disk):
    with disk.bus() as bus:
        before = parent_of(bus)
        fork = bus.fork("parent", at="after a")
        assert bus.records.info(fork).state == "interrupted"
        with bus.resume(fork) as run:
            assert (run.name, dict(run.tags), run.id) == ("crew", {"tenant": "t"}, fork)
            assert draft(run, "!") == ["a", "b!", "c!"]
        assert CALLS == ["b", "c"]
        assert (text_of(bus, fork), text_of(bus, "parent")) == ("ab!c!", "abc")
        assert list(bus.store.read("parent")) == before
        assert bus.records.info(fork).state == "finished"


def test_other_processes_see_a_fork(disk):
    with disk.bus() as bus:
        parent_of(bus)
        fork = bus.fork("parent", at="after b")
    with disk.bus() as bus, bus.resume(fork) as run:
        assert draft(run, "!") == ["a", "b", "c!"]


def test_without_a_checkpoint_a_fork_shares_all_but_the_end(disk):
    with disk.bus() as bus:
        parent_of(bus)
        fork = bus.fork("parent")
        with bus.resume(fork) as run:
            assert draft(run, "!") == ["a", "b", "c"]
            assert run.step("d", work, "d", "d", key="k") == "d"
        assert CALLS == ["d"]
        assert text_of(bus, fork) == "abcd"


def test_a_fork_names_its_parent(disk):
    with disk.bus() as bus:
        parent_of(bus)
        at = bus.records.checkpoints("parent")[1].seq
        fork = bus.fork("parent", at="after b")
        info = bus.records.info(fork)
        assert (info.parent, info.parent_at, info.name, info.tags) == ("parent", at, "crew", {"tenant": "t"})
        first_own = next(one for one in bus.record_of(fork) if one.seq == at + 1)
        assert first_own.event == RunForked("parent", at)
        assert {one.run_id for one in bus.record_of(fork)} == {fork}
        assert bus.store.lineage(fork) == ["parent"]
        assert bus.store.forks("parent") == [fork]


def test_a_fork_executes_a_step_again_that_its_run_failed_with_after_the_checkpoint(disk):
    def order(run, charge):
        refused = None
        try:
            run.step("charge", charge)
        except ConnectionError as error:
            refused = error
        run.checkpoint("charged")
        if refused is not None:
            raise refused
        return run.step("ship", lambda: "shipped")

    def down():
        raise ConnectionError("down")

    with disk.bus() as bus:
        with pytest.raises(ConnectionError), bus.run(id="parent") as run:
            order(run, down)
        fork = bus.fork("parent", at="charged")
        with bus.resume(fork) as run:
            assert order(run, lambda: "paid") == "shipped"


def test_a_fork_can_be_resumed_repeatedly(disk):
    with disk.bus() as bus:
        parent_of(bus)
        fork = bus.fork("parent", at="after a")
    for mark in ("1", "2"):
        with disk.bus() as bus, bus.resume(fork) as run:
            run.step("a", work, "a", "a", key="k")
            run.step("b", work, "b", "b" + mark, key="k")
            disk.crash()
    with disk.bus() as bus:
        with bus.resume(fork) as run:
            assert draft(run, "3") == ["a", "b1", "c3"]
        assert CALLS == ["b", "c"]
        assert text_of(bus, fork) == "ab1c3"
        assert [one.seq for one in bus.record_of(fork)] == list(range(bus.records.info(fork).events))


def test_a_fork_of_a_fork(disk):
    with disk.bus() as bus:
        parent_of(bus)
        child = bus.fork("parent", at="after a")
        with bus.resume(child) as run:
            draft(run, "!")
        kept = list(bus.store.read(child))
        grandchild = bus.fork(child, at="after b")
        with bus.resume(grandchild) as run:
            assert draft(run, "?") == ["a", "b!", "c?"]
        assert bus.store.lineage(grandchild) == [child, "parent"]
        assert list(bus.store.read(child)) == kept
        assert [text_of(bus, run_id) for run_id in ("parent", child, grandchild)] == ["abc", "ab!c!", "ab!c?"]
        assert {one.run_id for one in bus.record_of(grandchild)} == {grandchild}


def test_a_fork_within_the_shared_part_of_a_fork(disk):
    with disk.bus() as bus:
        parent_of(bus)
        child = bus.fork("parent", at="after b")
        grandchild = bus.fork(child, at="after a")
        with bus.resume(grandchild) as run:
            assert draft(run, "?") == ["a", "b?", "c?"]
        with bus.resume(child) as run:
            assert draft(run, "!") == ["a", "b", "c!"]


def test_a_live_run_can_be_forked(disk):
    with disk.bus() as bus:
        with bus.run(id="parent") as run:
            run.step("a", work, "a", "a", key="k")
            fork = bus.fork("parent")
            run.step("b", work, "b", "b", key="k")
        with bus.resume(fork) as run:
            assert draft(run, "!") == ["a", "b!", "c!"]
        assert text_of(bus, "parent") == "ab"


def test_a_fork_of_a_failed_run_resumes(disk):
    with disk.bus() as bus:
        with pytest.raises(ZeroDivisionError):
            with bus.run(id="parent") as run:
                run.step("a", work, "a", "a", key="k")
                raise ZeroDivisionError
        fork = bus.fork("parent")
        with bus.resume(fork) as run:
            draft(run, "!")
        assert bus.records.info("parent").state == "failed"
        assert bus.records.info(fork).state == "finished"
        assert text_of(bus, fork) == "ab!c!"


@pytest.mark.parametrize("length", [10, 3000])
def test_forking_a_long_run_reads_no_more_rows(length):
    class Counting(crewbus.MemoryStore):
        touched = 0

        def append(self, root_id, epoch, event):
            self.touched += 1
            super().append(root_id, epoch, event)

        def read(self, root_id, after=-1):
            for event in super().read(root_id, after):
                self.touched += 1
                yield event

    with quiet_bus() as bus:
        bus.enable_recording(store := Counting())
        with bus.run(id="parent") as run:
            run.step("a", work, "a", "a")
            for _ in range(length):
                run.chunk("x")
            run.checkpoint("end")
        store.touched = 0
        fork = bus.fork("parent", at="end", edits={"a": "other"})
        assert store.touched <= 10
        assert bus.records.info(fork).events == length + 8


# Nested runs


def test_an_open_nested_run_resumes_in_a_fork_under_its_own_id(disk):
    def play(run, mark, last=lambda: None):
        with bus.run("inner") as inner:
            inner.step("x", work, "x", "x" + mark, key="k")
            last()
            inner.step("y", work, "y", "y" + mark, key="k")
        return inner.id

    with disk.bus() as bus, bus.run(id="parent") as run:
        play(run, "", disk.crash)
    with disk.bus() as bus:
        fork = bus.fork("parent")
        with bus.resume(fork) as run:
            in_fork = play(run, "!")
        with bus.resume("parent") as run:
            in_parent = play(run, "?")
        assert in_fork != in_parent
        assert (text_of(bus, fork), text_of(bus, "parent")) == ("xy!", "xy?")
        assert bus.store.root_of(in_parent) == "parent"
        assert bus.store.root_of(in_fork) == fork


def test_a_nested_run_cannot_be_forked(disk):
    with disk.bus() as bus:
        with bus.run(id="parent"), bus.run(id="inner"):
            pass
        with pytest.raises(crewbus.RunError, match="nested in run parent"):
            bus.fork("inner")


# Edits


def test_an_edit_replaces_the_result_of_a_step(disk):
    with disk.bus() as bus:
        before = parent_of(bus)
        fork = bus.fork("parent", edits={"b": {"other": ["result"]}})
        with bus.resume(fork) as run:
            assert draft(run, "!") == ["a", {"other": ["result"]}, "c!"]
        assert CALLS == ["c"]
        assert found(bus, fork, RunForked)[0].event.edits == ("b",)
        assert list(bus.store.read("parent")) == before


def test_an_edit_stays_when_the_fork_is_resumed_again(disk):
    with disk.bus() as bus:
        parent_of(bus)
        fork = bus.fork("parent", at="after c", edits={"a": "A", "b[k]": None})
        with bus.resume(fork) as run:
            run.step("a", work, "a", "a", key="k")
            disk.crash()
    with disk.bus() as bus:
        with bus.resume(fork) as run:
            assert draft(run, "!") == ["A", None, "c"]
        assert CALLS == []
        again = bus.fork(fork, edits={"a": "AA"})
        with bus.resume(again) as run:
            assert draft(run, "!")[0] == "AA"


def test_an_edit_can_be_a_registered_object(bus):
    parent_of(bus)
    fork = bus.fork("parent", edits={"a": Verdict("fine")})
    with bus.resume(fork) as run:
        assert run.step("a", work, "a", "a", key="k") == Verdict("fine")


@attrs.define
class Verdict:
    text: str


crewbus.register_entity(Verdict, name="tests.forks.Verdict")


def test_edits_name_finished_steps(bus):
    parent_of(bus)
    with pytest.raises(crewbus.StepError, match=r"edit 'd': no step of that name has finished; there are a\[k\], b"):
        bus.fork("parent", edits={"d": 1})
    with pytest.raises(crewbus.StepError, match="edit 'c': the step finished after checkpoint 'after a'"):
        bus.fork("parent", at="after a", edits={"c": 1})
    with pytest.raises(crewbus.UnserializableError, match="edit 'a': result is a set"):
        bus.fork("parent", edits={"a": {1}})
    assert bus.store.roots() == ["parent"]


def test_a_key_selects_among_steps_of_one_name(bus):
    with bus.run(id="parent") as run:
        for key in "xy":
            run.step("each", work, key, key, key=key)
    with pytest.raises(crewbus.StepError, match=r"2 steps have that name; choose one as each\[x\] or each\[y\]"):
        bus.fork("parent", edits={"each": 1})
    fork = bus.fork("parent", edits={"each[y]": "Y"})
    with bus.resume(fork) as run:
        assert [run.step("each", work, key, key, key=key) for key in "xy"] == ["x", "Y"]


def test_fork_refuses_what_it_cannot_fork(bus):
    parent_of(bus)
    with pytest.raises(crewbus.RunNotFoundError, match="run nothing is not recorded"):
        bus.fork("nothing")
    with pytest.raises(crewbus.RunNotFoundError, match="no checkpoint 'x': there are 'after"):
        bus.fork("parent", at="x")


# Differences


def test_diff_finds_nothing_in_an_identical_fork(disk):
    with disk.bus() as bus:
        parent_of(bus)
        fork = bus.fork("parent", at="after a")
        with bus.resume(fork) as run:
            draft(run)
        assert bus.records.diff("parent", fork) is None
        assert bus.records.diff(fork, "parent") is None


def test_diff_finds_the_first_divergence_of_a_fork(disk):
    with disk.bus() as bus:
        parent_of(bus)
        fork = bus.fork("parent", at="after a")
        with bus.resume(fork) as run:
            draft(run, "!")
        found = bus.records.diff("parent", fork)
        assert (found.one.event, found.other.event) == (crewbus.Chunk("b"), crewbus.Chunk("b!"))
        assert found.scope == "run > step b[k]"


def test_diff_finds_an_edit(disk):
    with disk.bus() as bus:
        parent_of(bus)
        fork = bus.fork("parent", edits={"b": "B"})
        with bus.resume(fork) as run:
            draft(run)
        found = bus.records.diff("parent", fork)
        assert (found.one.event, found.other.event) == (StepFinished("b", "b"), StepFinished("b", "B"))
        assert found.scope == "run > step b[k]"


def test_diff_finds_nothing_in_identical_runs(disk):
    with disk.bus() as bus:
        for name in ("one", "two"):
            with bus.run("crew", id=name) as run:
                draft(run)
        assert bus.records.diff("one", "two") is None


def test_diff_ignores_an_interruption(disk):
    def outer(run, last):
        run.step("in", work, "in", "in", key="k")
        run.chunk("half ")
        last()

    def play(run, last=lambda: None):
        run.chunk("so ")
        run.step("a", work, "a", "a", key="k")
        run.step("outer", outer, run, last, key="k")
        run.chunk("end")

    with disk.bus() as bus, bus.run("crew", id="one") as run:
        play(run, disk.crash)
    with disk.bus() as bus:
        with bus.resume("one") as run:
            play(run)
        with bus.run("crew", id="two") as run:
            play(run)
        assert text_of(bus, "one") == text_of(bus, "two")
        assert bus.records.diff("two", "one") is None


def test_diff_ignores_resumes_and_forks(disk):
    with disk.bus() as bus, bus.run("crew", id="one") as run:
        run.step("a", work, "a", "a", key="k")
        disk.crash()
    with disk.bus() as bus:
        fork = bus.fork("one")
        for run_id in ("one", fork):
            with bus.resume(run_id) as run:
                draft(run)
        with bus.run("crew", id="two") as run:
            draft(run)
        assert [bus.records.diff("two", run_id) for run_id in ("one", fork)] == [None, None]


def test_diff_finds_where_one_run_is_longer(bus):
    for name, more in (("short", False), ("long", True)):
        with bus.run("crew", id=name) as run:
            run.chunk("x")
            if more:
                run.chunk("y")
    found = bus.records.diff("short", "long")
    assert (type(found.one.event), found.other.event) == (crewbus.RunFinished, crewbus.Chunk("y"))
    assert found.scope == "run"
    with pytest.raises(crewbus.RunNotFoundError):
        bus.records.diff("short", "nothing")


def test_diff_ignores_how_concurrent_runs_interleave(bus):
    for name, order in (("one", "ab"), ("two", "ba")):
        with bus.run("crew", id=name):
            for part in order:
                with bus.run(part) as inner:
                    inner.chunk(part)
    assert bus.records.diff("one", "two") is None


# Forks of forks


def test_a_fork_within_the_shared_part_executes_no_step_twice(disk):
    done = []

    def play(run, last=lambda: None):
        for name in "abc":
            run.step(name, lambda name=name: done.append(name) or name)
            run.checkpoint(f"after {name}")
            if name == "b":
                last()

    with disk.bus() as bus, bus.run(id="parent") as run:
        play(run)
    with disk.bus() as bus:
        first = bus.fork("parent", at="after c")
        second = bus.fork(first, at="after a")  # of what the first one shares itself
        done.clear()
        with bus.resume(second) as run:
            play(run, disk.crash)
    with disk.bus() as bus:
        with bus.resume(second) as run:
            play(run)
        assert done == ["b", "c"]
        assert [one.seq for one in bus.record_of(second)] == list(range(len(list(bus.record_of(second)))))
        assert {one.run_id for one in bus.record_of(second)} == {second}
