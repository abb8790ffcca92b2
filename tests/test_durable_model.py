"""The laws of durable runs, on random programs that are disturbed in every way: see `durable_laws`.

A failing program is shrunk, and printed as code that can be run in this directory.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from durable_cases import CASES, PROGRAMS
from durable_ideal import ideal
from durable_language import (
    Apart,
    Call,
    Fail,
    Loop,
    Note,
    Parallel,
    Program,
    Retry,
    Run,
    Save,
    Say,
    Step,
    Try,
    nodes,
    programs,
)
from durable_laws import Case, brief, random_case, refused_case, shrunk, suspended_case
from durable_mortal import MortalStore
from durable_player import Disturbance
from durable_record import Recorded
from durable_subject import Subject, process
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from recorded_helpers import Follower, needs_sqlite

import crewbus
from crewbus_jsonl import JsonlStore


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    process.close()


def holds(case: Case, check: Callable[[Case], list[str]] = Case.check) -> None:
    """Fail if a law does not hold, with the simplest case found."""
    if check(case):
        small = shrunk(case, check, 400)
        pytest.fail("\n".join([*check(small), "", str(small)]))


# Random programs


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_the_reference_interpreter_and_an_undisturbed_run_agree(first: int) -> None:
    for seed in range(first, first + 50):
        holds(Case(random_case(seed).program))


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_the_laws_hold(first: int) -> None:
    for seed in range(first, first + 50):
        holds(random_case(seed))


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_a_store_that_refuses_writes_for_a_while_changes_nothing(first: int) -> None:
    for seed in range(first, first + 50):
        holds(refused_case(seed))


@pytest.mark.parametrize("first", range(0, 100, 50))
def test_law_02_suspensions_at_any_write_change_nothing(first: int) -> None:
    for seed in range(first, first + 50):
        holds(suspended_case(seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("skipped", "count"), [(0, 5_000), pytest.param(5_000, 15_000, marks=pytest.mark.minutes)]
)  # 20,000 in tox -e slow
def test_the_laws_hold_for_many_programs(skipped: int, count: int) -> None:
    first = skipped if "CI" in os.environ else random.SystemRandom().randrange(10**9)
    sys.stdout.write(f"seeds {first} to {first + count}\n")
    for seed in range(first, first + count):
        case = random_case(seed, 8 + seed % 16)
        if case.check():
            sys.stdout.write(f"seed {seed}, size {8 + seed % 16}\n")
            holds(case)


disturbances = st.lists(
    st.builds(Disturbance, crash=st.integers(1, 30), lost=st.integers(0, 3), seed=st.integers(0, 7))
    | st.builds(Disturbance, stop=st.integers(1, 10), seed=st.integers(0, 7))
    | st.builds(Disturbance, suspend=st.integers(1, 30), seed=st.integers(0, 7))
    | st.builds(Disturbance, outage=st.integers(1, 5), seed=st.integers(0, 7)),
    max_size=3,
).map(tuple)
often = settings(max_examples=150, deadline=None, derandomize=True)


@given(st.builds(Case, programs(), disturbances))
@settings(often)
def test_the_laws_hold_for_programs_that_hypothesis_makes(case: Case) -> None:
    assert case.check() == [], str(case)


# Certain programs, and a crash before each write


def writes_of(program: Program) -> int:
    """How many events an undisturbed run records."""
    store = crewbus.MemoryStore()
    assert Case(program).check(store) == []
    return store.info("p").last + 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_crash_before_any_write_changes_nothing(name: str) -> None:
    for crash in range(1, writes_of(PROGRAMS[name])):
        for lost in (0, 2):
            holds(Case(PROGRAMS[name], (Disturbance(crash=crash, lost=lost, seed=crash),)))


@pytest.mark.parametrize("name", CASES)
def test_these_disturbances_change_nothing(name: str) -> None:
    holds(CASES[name])


@pytest.mark.heavy
@pytest.mark.parametrize("name", PROGRAMS)
def test_law_02_a_suspension_after_any_write_changes_nothing(name: str) -> None:
    for write in range(1, writes_of(PROGRAMS[name])):
        holds(Case(PROGRAMS[name], (Disturbance(suspend=write, seed=write),)))


@pytest.mark.heavy
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_crash_after_a_crash_changes_nothing(name: str) -> None:
    writes = writes_of(PROGRAMS[name])
    for crash in range(1, writes, 2):
        for again in range(1, writes + 3, 3):
            holds(Case(PROGRAMS[name], (Disturbance(crash=crash), Disturbance(crash=again, lost=1, seed=1))))


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_outage_of_any_step_changes_nothing(name: str) -> None:
    for outage in range(1, 1 + len(ideal(PROGRAMS[name]).steps)):
        holds(Case(PROGRAMS[name], (Disturbance(outage=outage),)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_orderly_stop_anywhere_changes_nothing(name: str) -> None:
    for tick in range(1, 12):
        holds(Case(PROGRAMS[name], (Disturbance(stop=tick),)))
        holds(Case(PROGRAMS[name], (Disturbance(cancel=tick),)))


# What the specification itself says


def test_the_reference_interpreter() -> None:
    shown = ideal(
        Program(
            (Retry((Say("a"), Step("s", (Say("b"),), ("bad", "ok")))), Run("r", (Say("c"), Say("d", 1))), Step("s"))
        )
    )
    assert shown.texts() == ["a", "b", "c", "d"]
    assert shown.texts("/r1#0") == ["c"]
    assert shown.steps == {"/0.1#0": "bad", "/0.1#1": "ok", "/2#0": "ok"}
    assert shown.counts("Say") == {"a": 2, "b": 2, "c": 1, "d": 1}
    assert shown.result == [[["/0.1#1", "ok", []]], ["r", []], ["/2#0", "ok", []]]


def test_a_fork_from_before_an_edit_does_not_have_it() -> None:
    subject = Subject(Program((Save("c"), Step("s"))), crewbus.MemoryStore(), "p")
    subject.carry_out(Disturbance())
    edited = subject.fork(None, 0)
    assert edited is not None
    edited.carry_out(Disturbance())
    assert (edited.compare(), edited.result) == ([], [["/1#0", "ok", "edited"]])
    before = edited.fork("c")
    assert before is not None
    before.carry_out(Disturbance())
    assert (before.compare(), before.result) == ([], [["/1#0", "ok", []]])


def test_a_failing_case_is_shrunk_to_what_matters() -> None:
    def check(case: Case) -> list[str]:
        found = nodes(case.program.body)
        return ["law 0: two notes and a step"] if sum(isinstance(n, Note) for n in found) > 1 else []

    seed = next(seed for seed in range(1000) if check(random_case(seed)))
    small = shrunk(random_case(seed), check)
    assert [type(node) for node in nodes(small.program.body)] == [Note, Note]
    assert small.disturbances == ()
    assert eval(brief(small), {**globals(), "Case": Case}) == small


def test_the_generator_makes_everything_that_the_language_has() -> None:
    kinds = {type(node) for seed in range(300) for node in nodes(random_case(seed).program.body)}
    assert kinds == {Apart, Call, Fail, Loop, Note, Parallel, Retry, Run, Save, Say, Step, Try}


# Runs that begin, crash, are resumed, forked, pruned and followed, in any order


class Machine(RuleBasedStateMachine):
    """The laws hold for each run that comes to its end, on a store that all of them share."""

    def __init__(self) -> None:
        super().__init__()
        self.store = self.open()
        self.subjects: list[Subject] = []
        self.begun = 0
        self.followers: list[tuple[Subject, Follower]] = []

    def open(self) -> crewbus.Store:
        return crewbus.MemoryStore()

    @property
    def unfinished(self) -> list[Subject]:
        return [one for one in self.subjects if not one.is_over and (one.is_recorded or one.sessions)]

    @rule(seed=st.integers(0, 2**32), disturbance=disturbances)
    def begin(self, seed: int, disturbance: tuple[Disturbance, ...]) -> None:
        program = random_case(seed).program
        if any(isinstance(node, Run) and node.by == "id" for node in nodes(program.body)):
            return  # the ids that it chooses are those of one run
        self.begun += 1
        self.subjects.append(Subject(program, self.store, f"r{self.begun}"))
        self.go_on(self.subjects[-1], disturbance)

    def go_on(self, subject: Subject, disturbance: tuple[Disturbance, ...], at: str | None = None) -> None:
        subject.carry_out(disturbance[0] if disturbance else Disturbance(), at)
        ended = subject.outcome == "finished" or (subject.outcome == "failed" and not disturbance)
        assert (subject.compare() if ended else subject.wrong) == [], brief(subject.program)

    @precondition(lambda self: self.unfinished)
    @rule(number=st.integers(0), disturbance=disturbances, at=st.sampled_from([None, None, "c", "d"]))
    def resume(self, number: int, disturbance: tuple[Disturbance, ...], at: str | None) -> None:
        self.go_on(self.unfinished[number % len(self.unfinished)], disturbance, at)

    @precondition(lambda self: any(one.is_recorded for one in self.subjects))
    @rule(number=st.integers(0), name=st.sampled_from("cd"), edit=st.none() | st.integers(0, 5))
    def fork(self, number: int, name: str, edit: int | None) -> None:
        recorded = [one for one in self.subjects if one.is_recorded]
        parent = recorded[number % len(recorded)]
        before = list(self.store.read(parent.run_id))
        made = parent.fork(name, edit)
        assert list(self.store.read(parent.run_id)) == before
        if made is not None:
            self.subjects.append(made)

    @precondition(lambda self: any(one.is_recorded for one in self.subjects))
    @rule(number=st.integers(0), frames=st.none() | st.integers(0, 5))
    def follow(self, number: int, frames: int | None) -> None:
        recorded = [one for one in self.subjects if one.is_recorded]
        subject = recorded[number % len(recorded)]
        follower = next((mine for one, mine in self.followers if one is subject), None) or Follower()
        self.followers.append((subject, follower))
        follower.follow(process.fresh(MortalStore(self.store)), subject.run_id, frames)

    @rule(keep=st.integers(1, 3))
    def prune(self, keep: int) -> None:
        bus = process.fresh(MortalStore(self.store))
        gone = set(bus.records.prune(keep=keep))
        self.subjects = [one for one in self.subjects if one.run_id not in gone]
        self.followers = [(one, mine) for one, mine in self.followers if one.run_id not in gone]

    def teardown(self) -> None:
        for subject in self.unfinished:
            while not subject.is_over:
                self.go_on(subject, ())
                if subject.outcome == "failed":
                    break
        bus = process.fresh(MortalStore(self.store))
        for subject, follower in self.followers:
            follower.follow(bus, subject.run_id)
            reader = Follower()
            reader.follow(bus, subject.run_id)
            assert follower.texts == reader.texts
            recorded = Recorded(bus.record_of(subject.run_id))
            assert [one.seq for one in recorded.all] == list(range(len(recorded.all)))
        process.close()
        self.store.close()


seldom = settings(max_examples=20, stateful_step_count=10, deadline=None, derandomize=True)


def machine_on(open_store: Callable[[int], crewbus.Store]) -> type[Machine]:
    count = iter(range(10**6))

    class OnStore(Machine):
        def open(self) -> crewbus.Store:
            return open_store(next(count))

    return OnStore


@pytest.mark.heavy
def test_any_order_of_events_in_memory() -> None:
    run_state_machine_as_test(machine_on(lambda _: crewbus.MemoryStore()), settings=seldom)


@pytest.mark.heavy
@needs_sqlite
def test_any_order_of_events_in_sqlite(tmp_path: Path) -> None:
    from crewbus_sqlite import SQLiteStore

    machine = machine_on(lambda n: SQLiteStore(tmp_path / f"{n}.db"))
    run_state_machine_as_test(machine, settings=settings(seldom, max_examples=10))


@pytest.mark.heavy
def test_any_order_of_events_in_a_journal(tmp_path: Path) -> None:
    machine = machine_on(lambda n: JsonlStore(tmp_path / f"{n}.jsonl"))
    run_state_machine_as_test(machine, settings=settings(seldom, max_examples=10))


@pytest.mark.long
def test_any_order_of_events_at_length() -> None:
    unseen = settings(seldom, max_examples=500, derandomize="CI" in os.environ)
    run_state_machine_as_test(machine_on(lambda _: crewbus.MemoryStore()), settings=unseen)


# kill -9

WORKER = """
    import os, signal, sys
    from crewbus_sqlite import SQLiteStore
    from durable_laws import random_case
    from durable_player import Play, World
    import crewbus

    path, seed, kill = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

    class Killed(SQLiteStore):
        left = kill

        def append(self, root_id, epoch, event):
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            super().append(root_id, epoch, event)

    case = random_case(seed)
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(Killed(path))
        known = "p" in bus.store.roots()
        run = bus.resume("p") if known else bus.run("program", id="p")
        Play(bus, case.program, World(), case.disturbances[0]).go(run)
"""


@pytest.mark.heavy
@needs_sqlite
@pytest.mark.parametrize("seed", [3, 11, 20, 37])
def test_a_killed_process_changes_nothing(tmp_path: Path, seed: int) -> None:
    from crewbus_sqlite import SQLiteStore

    program = random_case(seed).program
    path = tmp_path / "runs.db"
    for kill in (4, 7):
        command = [sys.executable, "-c", textwrap.dedent(WORKER), str(path), str(seed), str(kill)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode in (-signal.SIGKILL, 0, 1), done.stderr
    store = SQLiteStore(path)
    try:
        subject = Subject(program, store, "p")
        while not subject.is_over and subject.outcome != "failed":
            subject.carry_out(Disturbance())
        wrong = [told for told in subject.compare() if "never executed" not in told and "followed live" not in told]
        assert wrong == [], brief(program)
    finally:
        process.close()
        store.close()


def test_a_case_is_code_that_makes_it() -> None:
    case = random_case(5)
    scope: dict[str, Any] = {}
    exec("from durable_language import *\nfrom durable_laws import *", scope)
    assert eval(brief(case), scope) == case
    assert attrs.asdict(eval(repr(case), scope)) == attrs.asdict(case)
