"""The specification of durable runs: it holds, the page says the same, and crewbus does the same on each store."""

from __future__ import annotations

import os
import random
import re
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import durable_model as model
import durable_shelf as shelf
import pytest
from durable_player import UNCOUNTED, Follower, MortalStore, Service
from durable_programs import Grown, Naming, Program, assert_undisturbed, editable, result_of
from helpers import Noted
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import crewbus
from crewbus.events import RunInterrupted

PAGE = Path(__file__).parent.parent / "docs" / "durability.md"


def grown(seed: int, size: int) -> Program:
    return Naming()(Grown(random.Random(seed).randbytes(size)).program())


# Bytes that hypothesis draws itself are mostly zeros, and the programs dull.
programs = st.builds(grown, st.integers(0, 2**32), st.integers(10, 60))


# The machine

fuses = st.integers(1, 25) | st.integers(1, 12) | st.none()
schedules = st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(40))


def as_lists(value: Any) -> Any:
    """Tuples as JSON has them."""
    return [as_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


class Machine(RuleBasedStateMachine):
    """Runs that begin, crash, lose what was not on disk, are resumed, forked, pruned and followed, in any order."""

    uncounted: Final[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.shelf = shelf.Shelf(self.uncounted)
        self.edits: dict[str, dict[str, Any]] = {}
        self.made = 0

    def chosen(self, number: int) -> str:
        runs = list(self.shelf.runs)
        return runs[number % len(runs)]

    def unfinished(self, number: int) -> str:
        """One of the runs that can be resumed, if there are any."""
        runs = [run_id for run_id, run in self.shelf.runs.items() if run.state != "finished"]
        return runs[number % len(runs)] if runs else self.chosen(number)

    def fresh(self) -> str:
        self.made += 1
        return f"r{self.made}"

    @rule(program=programs, fuse=fuses, schedule=schedules, lost=st.integers(0, 3))
    def begin(self, program: Program, fuse: int | None, schedule: bytes, lost: int) -> None:
        run_id = self.fresh()
        self.edits[run_id] = {}
        self.shelf.begin(run_id, program, fuse, schedule, lost)
        self.begun(run_id, program, fuse, schedule, lost)

    @precondition(lambda self: self.shelf.runs)
    @rule(number=st.integers(0), fuse=fuses, schedule=schedules, lost=st.integers(0, 3))
    def resume(self, number: int, fuse: int | None, schedule: bytes, lost: int) -> None:
        self.go_on(self.unfinished(number), None, fuse, schedule, lost)

    @precondition(lambda self: self.shelf.runs)
    @rule(number=st.integers(0), which=st.integers(0), fuse=fuses, schedule=schedules, lost=st.integers(0, 3))
    def resume_from_a_checkpoint(self, number: int, which: int, fuse: int | None, schedule: bytes, lost: int) -> None:
        run_id = self.unfinished(number)
        checkpoint = self.checkpoint_of(run_id, which, own=True)
        if checkpoint is not None:
            self.go_on(run_id, checkpoint, fuse, schedule, lost)

    def checkpoint_of(self, run_id: str, which: int, own: bool = False) -> model.Entry | None:
        """One of the run's checkpoints, the last of its name; of a fork's ``own``, none of those that it shares."""
        log = self.shelf.runs[run_id].log
        named = {entry.name: entry for entry in model.valid(log.entries) if entry.kind == "CheckpointSaved"}
        saved = [entry for entry in named.values() if not own or entry.seq >= len(log.shared)]
        return saved[which % len(saved)] if saved else None

    def go_on(self, run_id: str, at: model.Entry | None, fuse: int | None, schedule: bytes, lost: int) -> None:
        try:
            self.shelf.resume(run_id, at and at.seq, fuse, schedule, lost)
        except shelf.RefusedError as error:
            self.resumed(str(error), run_id, at and at.name, fuse, schedule, lost)
        else:
            self.resumed(self.state(run_id), run_id, at and at.name, fuse, schedule, lost)

    def state(self, run_id: str) -> str:
        return self.shelf.runs[run_id].state if run_id in self.shelf.runs else "interrupted"

    @precondition(lambda self: self.shelf.runs)
    @rule(number=st.integers(0), which=st.none() | st.integers(0))
    def fork(self, number: int, which: int | None) -> None:
        run_id = self.chosen(number)
        at = None if which is None else self.checkpoint_of(run_id, which)
        log = self.shelf.runs[run_id].log
        last = log.last - (self.shelf.runs[run_id].state == "finished")
        self.fork_at(run_id, last if at is None else at.seq, {}, at and at.name)

    @precondition(lambda self: self.shelf.runs)
    @rule(number=st.integers(0), which=st.integers(0))
    def fork_with_another_result(self, number: int, which: int) -> None:
        run_id = self.chosen(number)
        run = self.shelf.runs[run_id]
        names = set(editable(run.program))
        finished = [entry for entry in model.standing(run.log.entries) if entry.kind == "StepFinished"]
        finished = [entry for entry in finished if entry.identity[-1][1] in names]
        if finished:
            end = finished[which % len(finished)]
            self.fork_at(run_id, end.seq, {end.identity[-1][1]: "edited"}, None)

    def fork_at(self, run_id: str, at: int, edits: dict[str, Any], checkpoint: str | None) -> None:
        before = self.shelf.runs[run_id].log.entries
        earlier = [entry.result for entry in before[: at + 1] if entry.kind == "RunForked"]
        fork_id = self.fresh()
        self.edits[fork_id] = {name: result for made in [*earlier, edits] for name, result in made.items()}
        self.shelf.fork(run_id, at, fork_id, edits)
        assert self.shelf.runs[run_id].log.entries == before
        self.forked(run_id, checkpoint, fork_id, edits)

    @rule(keep=st.integers(0, 3))
    def prune(self, keep: int) -> None:
        self.pruned(keep, self.shelf.prune(keep))

    @precondition(lambda self: self.shelf.runs)
    @rule(number=st.integers(0), live=st.booleans())
    def subscribe(self, number: int, live: bool) -> None:
        self.shelf.consumers.append((self.chosen(number), shelf.Consumer(live)))
        self.subscribed(*self.shelf.consumers[-1])

    @rule(chunks=st.none() | st.integers(0, 3))
    def follow(self, chunks: int | None) -> None:
        for number, (run_id, consumer) in enumerate(self.shelf.consumers):
            if run_id in self.shelf.runs:
                consumer.read(self.shelf.runs[run_id].log, chunks)
                self.followed(number, chunks)

    # What is done besides: see Beside

    def begun(self, run_id: str, *args: Any) -> None: ...
    def resumed(self, outcome: str, run_id: str, *args: Any) -> None: ...
    def forked(self, run_id: str, at: str | None, fork_id: str, edits: dict[str, Any]) -> None: ...
    def pruned(self, keep: int, gone: list[str]) -> None: ...
    def subscribed(self, run_id: str, consumer: shelf.Consumer) -> None: ...
    def followed(self, number: int, chunks: int | None) -> None: ...

    @invariant()
    def records_are_contiguous(self) -> None:
        for run in self.shelf.runs.values():
            assert [entry.seq for entry in run.log.entries] == list(range(run.log.last + 1))

    @invariant()
    def no_step_is_finished_twice(self) -> None:
        for run in self.shelf.runs.values():
            finished = [e.identity for e in model.standing(run.log.entries) if e.kind == "StepFinished"]
            assert len(finished) == len(set(finished))

    @invariant()
    def what_ended_is_as_if_nothing_had_happened(self) -> None:
        for run_id, run in self.shelf.runs.items():
            if run.state == "finished":
                assert run.result == result_of(run.program, self.edits[run_id])
                assert_undisturbed(run.program, chunks_of(run.log))

    def teardown(self) -> None:
        self.follow(None)
        for run_id, consumer in self.shelf.consumers:
            if run_id in self.shelf.runs and not model.Past(self.shelf.runs[run_id].log.entries).owed:
                assert [frame.name for frame in consumer.frames] == chunks_of(self.shelf.runs[run_id].log)


def chunks_of(log: model.Log) -> list[str]:
    """The texts of the chunks that stand in a log."""
    return [entry.name for entry in model.standing(log.entries) if entry.kind == "Chunk"]


class ModelMachine(Machine):
    """The model by itself, crashing between any two events."""

    @precondition(lambda self: self.shelf.runs)
    @rule(number=st.integers(0), at=st.integers(0))
    def fork_anywhere(self, number: int, at: int) -> None:
        run_id = self.chosen(number)
        self.fork_at(run_id, at % (self.shelf.runs[run_id].log.last + 1), {}, None)


class Beside(Machine):
    """The model with crewbus beside it: the same happens to both, and they agree after each rule."""

    uncounted = UNCOUNTED

    def __init__(self) -> None:
        super().__init__()
        self.service = Service(self.open())

    def open(self) -> crewbus.Store:
        raise NotImplementedError

    def begun(self, run_id: str, *args: Any) -> None:
        self.agree(run_id, self.state(run_id), self.service.begin(run_id, *args))

    def resumed(self, outcome: str, run_id: str, *args: Any) -> None:
        self.agree(run_id, outcome, self.service.resume(run_id, *args))

    def agree(self, run_id: str, expected: str, found: str) -> None:
        assert found == expected
        if run_id not in self.shelf.runs:
            return
        run = self.shelf.runs[run_id]
        assert +self.service.worlds[run_id].begun == +run.world.begun
        assert self.service.standing(run_id) == chunks_of(run.log)
        numbers = self.service.numbers(run_id)
        assert numbers == list(range(len(numbers)))
        if found == "finished":
            assert as_lists(self.service.results[run_id]) == as_lists(run.result)

    def forked(self, run_id: str, at: str | None, fork_id: str, edits: dict[str, Any]) -> None:
        before = list(self.service.store.read(self.service.ids[run_id]))
        self.service.fork(run_id, at, fork_id, edits)
        assert list(self.service.store.read(self.service.ids[run_id])) == before

    def pruned(self, keep: int, gone: list[str]) -> None:
        assert sorted(self.service.prune(keep)) == sorted(gone)

    def subscribed(self, run_id: str, consumer: shelf.Consumer) -> None:
        self.service.followers.append((run_id, Follower(consumer.live)))

    def followed(self, number: int, chunks: int | None) -> None:
        run_id, follower = self.service.followers[number]
        self.service.follow(run_id, follower, chunks)
        if chunks is None:
            assert follower.texts == [frame.name for frame in self.shelf.consumers[number][1].frames]


class MemoryMachine(Beside):
    def open(self) -> crewbus.Store:
        return crewbus.MemoryStore()


# The page


@pytest.mark.parametrize(("heading", "table"), [("scope", model.SCOPES), ("state", shelf.TABLE)])
def test_the_page_has_the_tables_of_the_model(heading: str, table: dict[tuple[str, str], model.Row]) -> None:
    text = PAGE.read_text()
    rows = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert rows
    printed = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows[1].splitlines()]
    assert [(state, event, *row) for (state, event), row in table.items()] == [
        (*cells[:3], re.sub(r"^`(\w+)`$", r"\1", cells[3])) for cells in printed
    ]


# The states


class CutError(Exception):
    """The run fails."""


class Stage:
    """A run of crewbus in each of the states, and what may happen to it."""

    def __init__(self) -> None:
        self.bus = crewbus.Bus(entry_points=False)
        self.bus.enable_recording(crewbus.MemoryStore())
        self.run: crewbus.Run = self.bus.run(id="r")
        self.rest = ExitStack()

    def be(self, state: str) -> None:
        if state != "absent":
            self.run.start()
        if state == "interrupted":
            self.bus.store.revoke("r")
        elif state in {"finished", "failed"}:
            self.run.finish(CutError() if state == "failed" else None)

    def state(self) -> str:
        try:
            return self.bus.records.info("r").state
        except crewbus.RunNotFoundError:
            return "absent"

    def let(self, event: str) -> None:
        getattr(self, event.replace(", ", "_").replace(" ", "_"))()

    def begin(self) -> None:
        run = self.bus.run(id="r")
        run.start()
        self.run = run

    def emit(self) -> None:
        self.run.emit(Noted())

    def emit_taken_over(self) -> None:
        self.bus.store.revoke("r")
        self.bus.store.acquire("r")
        self.run.emit(Noted())

    def finish(self) -> None:
        self.run.finish()

    def fail(self) -> None:
        self.run.finish(CutError())

    def crash(self) -> None:
        self.bus.store.revoke("r")

    def resume(self) -> None:
        other = self.rest.enter_context(crewbus.Bus(entry_points=False))
        other.enable_recording(MortalStore(self.bus.store))
        resumed = other.resume("r")
        resumed.start()
        self.rest.callback(resumed.finish)

    def fork(self) -> None:
        fork = self.bus.fork("r")
        assert self.bus.records.info(fork).state == "interrupted"

    def prune(self) -> None:
        self.bus.records.prune(keep=0)

    def subscribe(self) -> None:
        state = self.state()
        if state == "running":
            self.run.chunk("live")
        with self.bus.subscribe("r", after="start") as stream:
            last = next(stream).event if state == "running" else [envelope.event for envelope in stream][-1]
        assert (
            type(last)
            is {
                "running": crewbus.Chunk,
                "interrupted": RunInterrupted,
                "failed": crewbus.RunFailed,
                "finished": crewbus.RunFinished,
            }[state]
        )

    def leave(self) -> None:
        self.rest.close()
        with suppress(crewbus.RecordingError):
            self.run.finish()
        with suppress(crewbus.RecordingError):
            self.bus.close()


@pytest.mark.parametrize(("state", "event"), shelf.TABLE)
def test_a_run_goes_from_state_to_state_as_the_table_says(state: str, event: str) -> None:
    becomes, effect = shelf.TABLE[state, event]
    stage = Stage()
    try:
        stage.be(state)
        assert stage.state() == state
        if effect.endswith("Error"):
            with pytest.raises(crewbus.CrewbusError) as caught:
                stage.let(event)
            assert type(caught.value).__name__ == effect
        else:
            stage.let(event)
        assert stage.state() == becomes
    finally:
        stage.leave()


# The machines

# The same examples each time; the slow test draws others, but not where what it finds would be laid at the door of
# by an unrelated change.
often = settings(max_examples=200, stateful_step_count=15, deadline=None, derandomize=True)
seldom = settings(often, max_examples=60, stateful_step_count=10)


@pytest.mark.heavy
def test_the_model_holds() -> None:
    run_state_machine_as_test(ModelMachine, settings=often)


@pytest.mark.heavy
def test_the_memory_store_does_as_the_model() -> None:
    run_state_machine_as_test(MemoryMachine, settings=seldom)


def wander(machine: Machine, rng: random.Random) -> None:
    """Many crashes of one run and of its forks, until all have finished."""

    def session() -> dict[str, Any]:
        return {"fuse": rng.randrange(1, 16), "schedule": rng.randbytes(40), "lost": rng.randrange(4)}

    machine.begin(grown(rng.getrandbits(32), 50), **session())
    for live in (True, False):
        if machine.shelf.runs:
            machine.subscribe(0, live)
    for _ in range(8):
        if not machine.shelf.runs:
            return
        machine.resume(rng.randrange(4), **session())
        if machine.shelf.runs and rng.random() < 0.2:
            machine.resume_from_a_checkpoint(rng.randrange(4), rng.randrange(4), **session())
        if machine.shelf.runs and rng.random() < 0.2:
            machine.fork(rng.randrange(4), rng.choice([None, 0, 1]))
        machine.follow(rng.choice([None, 1, 2]))
    for _ in range(20):
        if all(run.state == "finished" for run in machine.shelf.runs.values()):
            break
        machine.resume(0, None, rng.randbytes(40), 0)
    machine.what_ended_is_as_if_nothing_had_happened()
    machine.teardown()


@pytest.mark.heavy
@pytest.mark.parametrize("machine", [ModelMachine, MemoryMachine])
def test_many_crashes_end_as_if_nothing_had_happened(machine: type[Machine]) -> None:
    for seed in range(10):
        wander(machine(), random.Random(seed))


@pytest.mark.slow
def test_many_more_crashes_end_as_if_nothing_had_happened() -> None:
    for seed in range(10, 60):
        wander(MemoryMachine(), random.Random(seed))


@pytest.mark.slow
@pytest.mark.parametrize("machine", [ModelMachine, MemoryMachine])
def test_new_random_examples(machine: type[Machine]) -> None:
    unseen = settings(seldom, max_examples=500, derandomize="CI" in os.environ)
    run_state_machine_as_test(machine, settings=unseen)


@pytest.mark.heavy
def test_sqlite_does_as_the_model(tmp_path: Path) -> None:
    sqlite = pytest.importorskip("crewbus_sqlite", reason="crewbus-sqlite is not installed")
    opened: list[crewbus.Store] = []

    class SQLiteMachine(Beside):
        def open(self) -> crewbus.Store:
            opened.append(sqlite.SQLiteStore(tmp_path / f"{len(opened)}.db"))
            return opened[-1]

        def teardown(self) -> None:
            super().teardown()
            opened[-1].close()

    run_state_machine_as_test(SQLiteMachine, settings=settings(seldom, max_examples=25))
