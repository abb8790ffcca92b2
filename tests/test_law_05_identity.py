"""Law 5 of durable runs: a step is identified by its function, its place and its arguments; the rest is rejected."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import TIMEOUT
from recorded_helpers import found

import crewbus
from crewbus import RunStarted, StepError, StepStarted


def number(value: int = 0) -> int:
    return value


def identities(bus: crewbus.Bus, run_id: str) -> list[str]:
    return [one.event.identity for one in found(bus, run_id, StepStarted)]


# The function


def function_named(module: str) -> Callable[[], int]:
    def step() -> int:
        return 1

    step.__module__, step.__qualname__ = module, "step"
    return crewbus.step(step)


def test_law_05_the_module_of_a_step_counts_and_its_name_stays_short(bus: crewbus.Bus) -> None:
    with bus.run(id="run") as run:
        for module in ("one", "other", "one"):
            function_named(module)()
        run.step("step", number)
        run.step("one:step", number)
        crewbus.step(name="step")(number)()
    one, other, again, given, colon, named = (step.event for step in found(bus, "run", StepStarted))
    assert (one.name, other.name, given.name) == ("step", "step", "step")
    assert (one.ordinal, other.ordinal, again.ordinal, given.ordinal, colon.ordinal) == (0, 0, 1, 0, 0)
    assert len({step.identity for step in (one, other, again, given, colon)}) == 5
    assert (named.ordinal, given.ordinal) == (1, 0)  # a name that was chosen is the name


def test_law_05_a_given_key_is_never_a_digest_of_arguments(bus: crewbus.Bus) -> None:
    with bus.run(id="run") as run:
        run.step("number", number, 1)
        (first,) = found(bus, "run", StepStarted)
        run.step("number", number, 2, key=first.event.key)
    assert [one.event.ordinal for one in found(bus, "run", StepStarted)] == [0, 0]
    assert len(set(identities(bus, "run"))) == 2


SCRIPT = """
import sys
import crewbus

@crewbus.event
class Seen:
    x: int

@crewbus.step
def draw(colour):
    print("drawn", flush=True)
    return colour

def main():
    crewbus.current_run().emit(Seen(1))
    draw(Seen(1))
    if len(sys.argv) > 1 and sys.argv[1] == "crash":
        crewbus.current_bus().flush()
        import os
        os._exit(9)

if __name__ == "__main__":
    bus = crewbus.default_bus()
    import crewbus_sqlite
    bus.enable_recording(crewbus_sqlite.SQLiteStore("runs.db"))
    with bus.run(id="run"):
        main()
"""

RESUME = """
import sys
sys.path.insert(0, ".")
import agent, crewbus, crewbus_sqlite
bus = crewbus.default_bus()
bus.enable_recording(crewbus_sqlite.SQLiteStore("runs.db"))
with bus.resume("run"):
    agent.main()
print(*(crewbus.event_type_of(type(one.event)).name for one in bus.record_of("run") if type(one.event) is agent.Seen))
"""


def test_law_05_a_script_that_crashed_is_resumed_where_it_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("crewbus_sqlite")
    (tmp_path / "agent.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def output(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            check=False,
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    crashed = output("agent.py", "crash")
    assert (crashed.returncode, crashed.stdout) == (9, "drawn\n"), crashed.stderr
    resumed = output("-c", RESUME)
    assert (resumed.returncode, resumed.stdout) == (0, "agent.Seen\n"), resumed.stderr


# Equal steps at once


def test_law_05_equal_steps_at_once_are_rejected(bus: crewbus.Bus) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        inside.set()
        assert go_on.wait(TIMEOUT)

    with bus.run(id="run") as run:
        first = bus.submit(run.step, "wait", wait, 1)
        assert inside.wait(TIMEOUT)
        with pytest.raises(StepError, match=r"step 'wait' with the key .* is in progress already.*a key= of its own"):
            run.step("wait", wait, 1)
        with pytest.raises(StepError, match="step 'wait' with the key"):
            with run.attempt():  # attempts and calls are no place of their own
                run.step("wait", wait, 1)
        go_on.set()
        run.step("wait", wait, 2)
        run.step("wait", wait, 1, key="other")
        with bus.run("inner") as inner:
            inner.step("wait", wait, 1)
        first.result(TIMEOUT)
        run.step("wait", wait, 1)  # one after the other they are distinguished by their order
    assert [one.event.ordinal for one in found(bus, "run", StepStarted)] == [0, 0, 0, 0, 1]


def test_law_05_a_step_may_call_itself(bus: crewbus.Bus) -> None:
    with bus.run(id="run") as run:

        def outer(depth: int) -> int:
            return depth if depth == 2 else run.step("outer", outer, depth + 1, key="k")

        assert run.step("outer", outer, 0, key="k") == 2
    assert len(set(identities(bus, "run"))) == 3


@pytest.mark.parametrize("end", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_law_05_a_step_that_ended_is_not_in_progress(bus: crewbus.Bus, end: type[BaseException]) -> None:
    def fail() -> None:
        raise end

    with bus.run(id="run") as run:
        for _ in range(2):
            with pytest.raises(end):
                run.step("fails", fail)
        run.step("fails", number)


# Nested runs


def chosen(bus: crewbus.Bus, order: list[str]) -> dict[str, str]:
    """The identity of a step in each of some runs at once, which are told apart by their id and key."""

    async def agent(topic: str) -> None:
        options: Any = {"id": f"writer-{topic}"} if topic == "tea" else {"key": topic}
        async with bus.run("writer", **options) as run:
            await asyncio.sleep(0)
            run.step("draft", number)

    async def main() -> None:
        async with bus.run() as root:
            await asyncio.gather(*map(agent, order))
        record = list(bus.record_of(root.id))
        runs = {one.run_id: one.event.key or "tea" for one in record if isinstance(one.event, RunStarted)}
        made.update({runs[one.run_id]: one.event.identity for one in record if isinstance(one.event, StepStarted)})

    made: dict[str, str] = {}
    asyncio.run(main())
    return made


def test_law_05_runs_at_once_are_told_apart_by_a_chosen_id_or_a_key() -> None:
    found = []
    for order in (["tea", "moon", "tides"], ["tides", "tea", "moon"]):
        with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording("memory:")
            found.append(chosen(bus, order))
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 3


def test_law_05_equal_runs_at_once_may_be_recorded_but_not_have_steps(bus: crewbus.Bus) -> None:
    with bus.run(id="run") as run:
        with bus.run("writer") as first:
            first.step("draft", number)
            first.chunk("first. ")
            with run.scope(), bus.run("writer", key="keyed") as keyed:
                keyed.step("draft", number)  # it is no equal of the first
            first.step("draft", number)
            with run.scope(), bus.run("writer") as second:
                second.chunk("second. ")
                for writer in (first, second):
                    with pytest.raises(StepError, match=r"run 'writer' ran at the same time.*bus\.run\(\.\.\., key="):
                        writer.step("draft", number)
                with bus.run("deeper") as deeper, pytest.raises(StepError, match="run 'writer' ran at the same time"):
                    deeper.step("draft", number)
        with pytest.raises(StepError, match="run 'writer' ran at the same time"):
            with bus.run("writer") as third, run.scope(), bus.run("writer"):
                third.step("draft", number)
        with bus.run("writer") as alone:
            alone.step("draft", number)
    assert len(set(identities(bus, "run"))) == 4


def test_law_05_equal_runs_in_other_places_are_not_equal(bus: crewbus.Bus) -> None:
    with bus.run(id="run") as run, bus.run("a") as a, run.scope(), bus.run("b") as b:
        with a.scope(), bus.run("writer") as first, b.scope(), bus.run("writer") as second:
            first.step("draft", number)
            second.step("draft", number)
    assert len(set(identities(bus, "run"))) == 2


def sequential(bus: crewbus.Bus) -> None:
    for _ in range(3):
        with bus.run("writer") as run:
            run.step("draft", number)
            run.step("outer", lambda: nested(bus))


def nested(bus: crewbus.Bus) -> None:
    for key in (None, "k", "k"):
        with bus.run(key=key) as run:
            run.step("draft", number)


def test_law_05_runs_one_after_another_have_steps_of_their_own() -> None:
    seen = []
    for _ in range(2):
        with crewbus.Bus(entry_points=False) as bus:
            bus.enable_recording("memory:")
            with bus.run(id="run"):
                sequential(bus)
            seen.append(identities(bus, "run"))
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3 * (2 + 3)


def test_law_05_many_runs_at_once_are_forgotten_when_they_are_over(bus: crewbus.Bus) -> None:
    with bus.run(id="run") as run:
        for _ in range(3):
            writers = [bus.run("writer") for _ in range(20)]
            for writer in writers:
                with run.scope():
                    writer.start()
            with pytest.raises(StepError, match="at the same time"):
                writers[0].step("draft", number)
            for writer in writers:
                writer.finish()
        with bus.run("writer") as alone:
            alone.step("draft", number)


def test_law_05_a_key_reaches_the_run_wherever_it_is_made(bus: crewbus.Bus) -> None:
    with bus.run(id="run", key="root"):
        with crewbus.run("a", key="of the default"):
            pass
        with bus.stream(lambda: None, options=crewbus.StreamOptions(name="b", key="of a stream")) as stream:
            assert stream.run.key == "of a stream"
            stream.result(TIMEOUT)
    keys = [one.event.key for one in found(bus, "run", RunStarted)]
    assert keys == ["root", "of the default", "of a stream"]


@pytest.mark.parametrize("wrong", ["", 1, b"x"])
def test_law_05_a_key_is_text(bus: crewbus.Bus, wrong: Any) -> None:
    with pytest.raises(crewbus.RunError, match="a run's key is a string that is not empty"):
        bus.run(key=wrong)


# Steps of a run around


def test_law_05_a_step_of_another_run_inside_a_step_is_rejected(bus: crewbus.Bus) -> None:
    with bus.run("outer", id="run") as outer, bus.run("inner") as inner:

        def work() -> int:
            with pytest.raises(StepError, match=r"step 'b' of .*outer.* is called inside step 'a' of .*inner"):
                outer.step("b", number)
            with bus.run("deep") as deep:
                with pytest.raises(StepError, match="step 'b'"):
                    outer.step("b", number)
                deep.step("c", lambda: inner_most(deep))
            return inner.step("d", number)

        def inner_most(deep: crewbus.Run) -> int:
            with pytest.raises(StepError, match=r"step 'b' of .* is called inside step 'c'"):
                outer.step("b", number)
            return deep.step("e", number)

        inner.step("a", work)
        outer.step("b", number)  # inside a nested run, and in no step of it
    names = [one.event.name for one in found(bus, "run", StepStarted)]
    assert names == ["a", "c", "e", "d", "b"]


def test_law_05_other_trees_are_other_records(bus: crewbus.Bus) -> None:
    other = bus.run(id="other")
    other.start()
    with bus.run(id="run") as run:
        run.step("a", lambda: other.step("b", number))
    other.finish()
    assert len(identities(bus, "other")) == 1
