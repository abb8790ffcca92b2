"""Promise 18: what rejects work reaches the code that wanted to begin; a required plugin that fails rejects it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import TIMEOUT, quiet_bus
from plugin_helpers import Observer, Watcher, logged

import crewbus


class OverBudget(crewbus.RejectedError):
    """A guard's own error."""


class Guard:
    """Rejects scopes of some kinds, when it is asked or as its manager is entered."""

    def __init__(self, *kinds: str, at: str = "ask", error: Exception | None = None) -> None:
        self.kinds = kinds
        self.at = at
        self.error = error or OverBudget("used up")
        self.asked: list[str] = []

    @crewbus.hookimpl
    def crewbus_scope(self, scope: crewbus.Scope) -> Any:
        self.asked.append(scope.scope_kind)
        if scope.scope_kind not in self.kinds:
            return None
        if self.at == "ask":
            raise self.error
        return self.refusing()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        raise self.error
        yield


def in_run(bus: crewbus.Bus) -> None:
    with bus.run("r"):
        pytest.fail("it began")


def in_call(bus: crewbus.Bus) -> None:
    with bus.run("r"), bus.call("c"):
        pytest.fail("it began")


def in_started_call(bus: crewbus.Bus) -> None:
    with bus.run("r"):
        bus.call("c").start()


def in_step(bus: crewbus.Bus) -> None:
    with bus.run("r") as run:
        run.step("s", lambda: pytest.fail("it began"))


def in_attempt(bus: crewbus.Bus) -> None:
    with bus.run("r") as run, run.attempt():
        pytest.fail("it began")


def in_stream(bus: crewbus.Bus) -> None:
    with bus.stream(lambda: pytest.fail("it began")) as stream:
        stream.result(TIMEOUT)


def in_async_run(bus: crewbus.Bus) -> None:
    async def main() -> None:
        async with bus.run("r"):
            pytest.fail("it began")

    asyncio.run(main())


def in_async_step(bus: crewbus.Bus) -> None:
    async def step() -> None:
        pytest.fail("it began")

    async def main() -> None:
        async with bus.run("r") as run:
            await run.step("s", step)

    asyncio.run(main())


WORK = [
    (in_run, "run", []),
    (in_call, "call", ["RunStarted", "RunFailed"]),
    (in_started_call, "call", ["RunStarted", "RunFailed"]),
    (in_step, "step", ["RunStarted", "RunFailed"]),
    (in_attempt, "attempt", ["RunStarted", "RunFailed"]),
    (in_stream, "run", []),
    (in_async_run, "run", []),
    (in_async_step, "step", ["RunStarted", "RunFailed"]),
]
"""What is rejected, of which kind it is, and what is emitted all the same."""


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("work", "kind", "events"), WORK)
def test_promise_18_rejected_work_emits_nothing(
    work: Callable[[crewbus.Bus], None], kind: str, events: list[str], recorded: bool
) -> None:
    observer, watcher, guard = Observer(), Watcher(), Guard(kind)
    with quiet_bus(plugins=[observer, watcher, guard]) as bus:
        if recorded:
            bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(OverBudget) as raised:
            work(bus)
        assert raised.value is guard.error
        assert bus.runs == []
        roots = bus.store.roots() if recorded else ()
        assert [len(list(bus.record_of(root))) for root in roots] in ([], [len(events)])
    assert [type(event).__name__ for event in observer.events] == events
    assert watcher.failures == []


@pytest.mark.parametrize(("work", "kind"), [one[:2] for one in WORK if one[0] is not in_started_call])
def test_promise_18_work_that_its_manager_rejects_ends_as_failed(
    work: Callable[[crewbus.Bus], None], kind: str
) -> None:
    observer, watcher, guard = Observer(), Watcher(), Guard(kind, at="enter")
    with quiet_bus(plugins=[observer, watcher, guard]) as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(OverBudget) as raised:
            work(bus)
        assert raised.value is guard.error
    names = [type(event).__name__ for event in observer.events]
    ends = {"run": "RunFailed", "call": "CallFailed", "step": "StepFailed", "attempt": "Retracted"}
    assert f"{kind.title()}Started" in names
    assert ends[kind] in names
    assert names[-1] == "RunFailed"
    assert watcher.failures == []


def test_promise_18_a_rejected_nested_run_can_be_handled() -> None:
    class OneDeep:
        @crewbus.hookimpl
        def crewbus_scope(self, scope: crewbus.Scope) -> None:
            if scope.scope_kind == "run" and scope.run.parent is not None:
                raise OverBudget

    observer = Observer()
    with quiet_bus(plugins=[observer, OneDeep()]) as bus:
        with bus.run("r"):
            with pytest.raises(OverBudget), bus.run("nested"):
                pytest.fail("it began")
            bus.chunk("goes on")
    assert [type(event).__name__ for event in observer.events] == ["RunStarted", "Chunk", "RunFinished"]


def test_promise_05_a_step_that_was_rejected_can_be_tried_again_and_is_recalled_without_being_asked() -> None:
    guard = Guard("step")
    with quiet_bus(plugins=[guard]) as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(KeyError), bus.run(id="r") as run:
            with pytest.raises(OverBudget):
                run.step("s", lambda: 1)
            guard.kinds = ()
            assert run.step("s", lambda: 2) == 2
            raise KeyError
        guard.kinds = ("step",)
        with bus.resume("r") as run:
            assert run.step("s", lambda: 3) == 2
    assert guard.asked == ["run", "step", "step", "run"]


def test_promise_06_a_resume_that_is_rejected_leaves_the_record_as_it_was() -> None:
    guard = Guard()
    with quiet_bus(plugins=[guard]) as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(KeyError), bus.run(id="r"):
            raise KeyError
        before = [one.seq for one in bus.record_of("r")]
        guard.kinds = ("run",)
        with pytest.raises(OverBudget), bus.resume("r"):
            pytest.fail("it began")
        assert [one.seq for one in bus.record_of("r")] == before
        assert bus.records.info("r").state == "failed"
        guard.kinds = ()
        with bus.resume("r"):
            pass
        assert bus.records.info("r").state == "finished"


# Required plugins


class Required(Guard):
    crewbus_required = True


@pytest.mark.parametrize("at", ["ask", "enter"])
@pytest.mark.parametrize("how", ["it says so", "the bus says so", "neither"])
def test_promise_18_a_required_guard_that_fails_rejects_the_work(at: str, how: str) -> None:
    guard = (Required if how == "it says so" else Guard)("call", at=at, error=ZeroDivisionError("a bug"))
    requires = ["guard"] if how == "the bus says so" else []
    watcher = Watcher()
    with logged(), quiet_bus(plugins=[("guard", guard), watcher], requires=requires) as bus:
        if how == "neither":
            with bus.call("c"):
                pass
        else:
            with pytest.raises(crewbus.RejectedError, match="'guard' is required") as raised, bus.call("c"):
                pytest.fail("it began")
            assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert watcher.names == ["guard"]


class Misconfigured(Required):
    @crewbus.hookimpl
    def crewbus_configure(self) -> None:
        raise LookupError("no BUDGET")


class Unmakeable(Required):
    def __init__(self) -> None:
        raise LookupError("no BUDGET")


class Mistaken(Required):
    @crewbus.hookimpl
    def crewbus_emitt(self) -> None:
        """There is no such hook."""


@pytest.mark.parametrize("plugin", [Misconfigured, Unmakeable, Mistaken])
def test_promise_18_a_required_guard_that_cannot_serve_a_bus_leaves_no_bus(plugin: type) -> None:
    with pytest.raises(crewbus.PluginError, match=plugin.__name__):
        crewbus.Bus(plugins=[plugin], entry_points=False)


def test_promise_18_a_guard_that_the_bus_requires_leaves_no_bus_either() -> None:
    class Fails:
        @crewbus.hookimpl
        def crewbus_configure(self) -> None:
            raise LookupError("no BUDGET")

    with (
        pytest.warns(crewbus.PluginWarning, match="no BUDGET"),
        pytest.raises(crewbus.PluginError, match="'guard' is required, and is broken"),
    ):
        crewbus.Bus(plugins=[("guard", Fails)], requires=["guard"], entry_points=False)
