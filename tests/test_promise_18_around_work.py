"""Promise 18: what a plugin makes current is current for exactly the work, and each manager is left once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Final

import pytest
from helpers import TIMEOUT, in_thread, quiet_bus
from interrupts import PACKAGE, Interrupt, at_each_point
from plugin_helpers import Watcher, logged

import crewbus

around: Final[ContextVar[str | None]] = ContextVar("around", default=None)
unset: Final[ContextVar[str]] = ContextVar("unset")


class Tracer:
    """Names the work in a ContextVar, and notes what was entered and left, with the exception."""

    def __init__(self, var: ContextVar[Any] = around) -> None:
        self.var = var
        self.entered: list[str] = []
        self.left: list[tuple[str, str]] = []

    @crewbus.hookimpl
    def crewbus_scope(self, scope: Any) -> Any:
        return self.tracing(scope)

    @contextmanager
    def tracing(self, scope: Any) -> Iterator[None]:
        work = f"{scope.scope_kind} {scope.name}"
        self.entered.append(work)
        token = self.var.set(work)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.var.reset(token)  # raises in another context than that of set()
            self.left.append((work, type(error).__name__))


@contextmanager
def traced(tracer: Any = None, **options: Any) -> Iterator[tuple[crewbus.Bus, Tracer]]:
    """A bus with a tracer; in the end nothing is open, nothing was reported, and nothing is current."""
    tracer = tracer or Tracer()
    watcher = Watcher()
    with logged() as messages:
        with quiet_bus(plugins=[tracer, watcher], unscoped="ignore", **options) as bus:
            yield bus, tracer
        assert sorted(tracer.entered) == sorted(work for work, _ in tracer.left)
        assert (messages, watcher.failures) == ([], [])
    assert tracer.var.get(None) is None


def test_promise_18_it_is_current_in_each_kind_of_scope() -> None:
    with traced() as (bus, tracer), bus.run("r") as run:
        assert around.get() == "run r"
        with bus.call("c") as call:
            assert around.get() == "call c"
            with call.attempt():
                assert around.get() == "attempt c"
            assert around.get() == "call c"
        assert run.step("s", around.get) == "step s"
        assert around.get() == "run r"
    assert tracer.left == [(work, "NoneType") for work in ("attempt c", "call c", "step s", "run r")]


def test_promise_18_a_run_entered_once_more_is_an_entry_of_it() -> None:
    def enter() -> str | None:
        with run.scope():
            return around.get()

    with traced() as (bus, _), bus.run("r") as run:
        assert in_thread(enter).result(TIMEOUT) == "entry r"


def test_promise_18_the_scope_says_what_and_where_it_is() -> None:
    class Describe:
        @crewbus.hookimpl
        def crewbus_scope(self, bus: Any, scope: Any) -> Any:
            asked.append((scope.scope_kind, scope.name, scope.run and scope.run.id, scope.parent_id))

            @contextmanager
            def describe() -> Iterator[None]:
                entered.append((scope.start_id, scope.replayed))
                yield

            return describe()

    asked: list[Any] = []
    entered: list[Any] = []
    started: list[crewbus.Envelope] = []
    with quiet_bus(plugins=[Describe()]) as bus:
        for kind in (crewbus.RunStarted, crewbus.CallStarted, crewbus.AttemptStarted, crewbus.StepStarted):
            bus.on(kind, started.append)
        with bus.run("r", id="one") as run:
            with bus.call("c") as call, call.attempt():
                pass
            run.step("s", str)
    assert [(one.id, one.parent) for one in started] == [
        (start_id, parent) for (start_id, _), (*_, parent) in zip(entered, asked, strict=True)
    ]
    assert asked[0] == ("run", "r", "one", None)
    assert [one[:3] for one in asked[1:]] == [("call", "c", "one"), ("attempt", "c", "one"), ("step", "s", "one")]
    assert not any(replayed for _, replayed in entered)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_promise_18_it_gets_the_exception_and_swallows_nothing(kind: type[BaseException]) -> None:
    class Swallow:
        @crewbus.hookimpl
        def crewbus_scope(self) -> Any:
            return suppress(BaseException)

    with traced() as (bus, tracer):
        bus.plugins.register(Swallow())
        with pytest.raises(kind), bus.run("r"), bus.call("c"):
            raise kind
    assert tracer.left == [("call c", kind.__name__), ("run r", kind.__name__)]


def test_promise_18_the_last_registered_plugin_is_outermost() -> None:
    class Note:
        def __init__(self, name: str) -> None:
            self.name = name

        @crewbus.hookimpl
        def crewbus_scope(self) -> Any:
            return self.noting()

        @contextmanager
        def noting(self) -> Iterator[None]:
            noted.append(f"enter {self.name}")
            yield
            noted.append(f"exit {self.name}")

    noted: list[str] = []
    with quiet_bus(plugins=[("a", Note("a")), ("b", Note("b"))]) as bus, bus.call("c"):
        noted.append("work")
    assert noted == ["enter b", "enter a", "work", "exit a", "exit b"]


# Runs whose code runs elsewhere


def test_promise_18_it_is_current_in_the_work_of_a_stream_and_not_for_its_consumer() -> None:
    def work() -> str | None:
        bus.chunk("x")
        return around.get()

    with traced() as (bus, tracer):
        options = crewbus.StreamOptions(name="w")
        with bus.stream(work, options=options) as stream:
            for _ in stream:
                assert around.get() is None
            assert stream.result() == "run w"
    assert tracer.left == [("run w", "NoneType")]


@pytest.mark.parametrize("on_loop", [False, True])
def test_promise_18_it_is_current_in_the_work_of_a_stream_that_is_async(on_loop: bool) -> None:
    async def work() -> str | None:
        await asyncio.sleep(0)
        return around.get()

    async def consume() -> Any:
        async with bus.stream(work, options=options) as stream:
            return await stream.aresult()

    options = crewbus.StreamOptions(name="w")
    with traced() as (bus, _):
        result = asyncio.run(consume()) if on_loop else bus.stream(work, options=options).result()
        assert result == "run w"


def test_promise_18_a_stream_that_is_left_early_leaves_it_with_what_stops_its_work() -> None:
    def work() -> None:
        while True:
            bus.chunk("x")

    with traced() as (bus, tracer):
        with bus.stream(work, options=crewbus.StreamOptions(name="w")) as stream:
            next(iter(stream))
        assert tracer.left == [("run w", "Cancelled")]


def test_promise_18_work_that_a_scope_starts_has_it_too() -> None:
    with traced() as (bus, _), bus.run("r"):
        assert bus.submit(around.get).result(TIMEOUT) == "run r"
        with crewbus.ThreadPoolExecutor(1) as pool:
            assert pool.submit(around.get).result(TIMEOUT) == "run r"


def test_promise_18_a_resumed_run_says_so_and_a_recalled_step_is_not_asked_about() -> None:
    class Origins:
        @crewbus.hookimpl
        def crewbus_scope(self, scope: Any) -> Any:
            if scope.scope_kind == "run":
                origins.append((scope.resumed, scope.forked_from))

    def code(run: crewbus.Run) -> None:
        run.step("a", str)
        run.checkpoint("here")
        run.step("b", str)

    origins: list[Any] = []
    with traced() as (bus, tracer):
        bus.plugins.register(Origins())
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(KeyError), bus.run("r", id="one") as run:
            run.step("a", str)
            run.checkpoint("here")
            raise KeyError
        fork = bus.fork("one", at="here")
        before = len(tracer.left)
        with bus.resume("one", at="here") as run:
            code(run)
        with bus.resume(fork) as run:
            code(run)
        assert tracer.left[before:] == [("step b", "NoneType"), ("run r", "NoneType")] * 2
    assert origins[0] == (None, None)
    assert (origins[1][0].checkpoint, origins[1][0].epoch, origins[1][1]) == ("here", 2, None)
    assert origins[2][1] == ("one", origins[1][0].after)


# Where scopes are left elsewhere, or out of order


def taking_turns(bus: crewbus.Bus, name: str) -> Iterator[str | None]:
    with bus.call(name):
        yield around.get()
        yield around.get()


@pytest.mark.parametrize("var", [around, unset], ids=["with a default", "without"])
@pytest.mark.parametrize("first", [0, 1])
def test_promise_18_generators_that_take_turns_leave_nothing_current(first: int, var: ContextVar[Any]) -> None:
    def play() -> None:
        with traced(Tracer(var)) as (bus, _):
            generators = [taking_turns(bus, "a"), taking_turns(bus, "b")]
            for generator in generators:
                next(generator)
            generators[first].close()
            generators[1 - first].close()
            assert var.get(None) is None
            assert var not in copy_context() or var is around

    Context().run(play)


def test_promise_18_the_one_that_goes_on_stays_current() -> None:
    with traced() as (bus, _), bus.run("r"):
        one, other = taking_turns(bus, "one"), taking_turns(bus, "other")
        next(one)
        assert next(other) == "call other"
        one.close()
        assert around.get() == "call other"
        other.close()
        assert around.get() == "run r"


def test_promise_18_a_generator_that_is_closed_in_another_context_leaves_it_without_an_error() -> None:
    with traced() as (bus, tracer):
        generator, here = taking_turns(bus, "a"), copy_context()
        here.run(next, generator)
        generator.close()
        assert tracer.left == [("call a", "GeneratorExit")]
        with bus.call("b"):
            pass

        def enter() -> str | None:
            with bus.call("c"):
                pass
            return around.get()

        assert here.run(enter) is None  # what was left elsewhere is reset when the next scope begins


def test_promise_18_a_generator_that_is_closed_in_another_thread_leaves_it_without_an_error() -> None:
    with traced() as (bus, tracer):
        generator = taking_turns(bus, "a")
        next(generator)
        in_thread(generator.close).result(TIMEOUT)
        assert tracer.left == [("call a", "GeneratorExit")]
        with bus.call("b"):
            assert around.get() == "call b"
        assert around.get() is None


def test_promise_18_a_generator_that_the_collector_closes_leaves_it() -> None:
    with traced() as (bus, tracer):
        generator = taking_turns(bus, "a")
        next(generator)
        cycle: list[Any] = [generator]
        cycle.append(cycle)
        del generator, cycle
        gc.collect()
        assert tracer.left == [("call a", "GeneratorExit")]


def test_promise_18_an_async_generator_that_another_task_closes_leaves_it() -> None:
    async def steps() -> AsyncIterator[str | None]:
        async with bus.run("r"):
            yield around.get()

    async def main() -> None:
        generator: Any = steps()
        assert await asyncio.create_task(anext(generator)) == "run r"
        await asyncio.create_task(generator.aclose())
        assert around.get() is None

    with traced() as (bus, tracer):
        asyncio.run(main())
        assert tracer.left == [("run r", "GeneratorExit")]


def test_promise_18_a_bound_generator_keeps_it_to_itself() -> None:
    with traced() as (bus, _):
        one, other = (crewbus.bind(taking_turns)(bus, name) for name in ("one", "other"))
        assert [next(one), next(other), next(one), next(other)] == [
            "call one", "call other", "call one", "call other",
        ]  # fmt: skip
        assert around.get() is None
        one.close()
        other.close()


def test_promise_18_concurrent_tasks_each_have_their_own() -> None:
    async def work(name: str) -> None:
        async with bus.run(name):
            await both.wait()
            assert around.get() == f"run {name}"

    async def main() -> None:
        await asyncio.gather(work("a"), work("b"))

    with traced() as (bus, _):
        both = asyncio.Barrier(2)
        asyncio.run(main())


# Faults


class Broken:
    """Fails at one point."""

    def __init__(self, at: str, error: BaseException) -> None:
        self.at = at
        self.error = error

    @crewbus.hookimpl(tryfirst=True)
    def crewbus_scope(self) -> Any:
        if self.at == "ask":
            raise self.error
        return "no manager" if self.at == "answer" else self.breaking()

    @contextmanager
    def breaking(self) -> Iterator[None]:
        if self.at == "enter":
            raise self.error
        yield
        raise self.error


@pytest.mark.parametrize("at", ["ask", "answer", "enter", "exit"])
def test_promise_09_a_plugin_that_fails_changes_nothing_for_the_work_and_its_siblings(at: str) -> None:
    tracer, watcher = Tracer(), Watcher()
    with logged(), quiet_bus(plugins=[tracer, ("broken", Broken(at, ValueError("oops"))), watcher]) as bus:
        with bus.call("c"):
            assert around.get() == "call c"
    assert [(one.name, one.hook) for one in watcher.failures] == [("broken", "crewbus_scope")]
    assert tracer.left == [("call c", "NoneType")]


@pytest.mark.parametrize("at", ["ask", "enter", "exit"])
def test_promise_09_a_base_exception_of_a_plugin_reaches_the_caller(at: str) -> None:
    tracer = Tracer()
    with quiet_bus(plugins=[tracer, Broken(at, KeyboardInterrupt())]) as bus:
        with pytest.raises(KeyboardInterrupt), bus.call("c"):
            pass
    assert len(tracer.left) == len(tracer.entered)
    assert around.get() is None


def test_promise_09_an_exception_that_a_manager_passes_on_is_no_fault() -> None:
    class PassesOn:
        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
            if error is not None:
                raise error

    class Plugin:
        @crewbus.hookimpl
        def crewbus_scope(self) -> Any:
            return PassesOn()

    with traced() as (bus, _):
        bus.plugins.register(Plugin())
        with pytest.raises(ValueError, match="mine"), bus.call("c"):
            raise ValueError("mine")


def test_promise_09_cancelling_does_not_reach_a_manager() -> None:
    class Emits:
        @crewbus.hookimpl
        def crewbus_scope(self, bus: crewbus.Bus) -> Any:
            @contextmanager
            def emitting() -> Iterator[None]:
                yield
                bus.chunk("on its way out")

            return emitting()

    with traced() as (bus, tracer):
        bus.plugins.register(Emits())
        with pytest.raises(crewbus.RunCancelledError), bus.run("r") as run, bus.call("c"):
            run.cancel()
            bus.chunk("x")
        assert tracer.left == [("call c", "Cancelled"), ("run r", "Cancelled")]


# Interrupts, and what is kept


def in_run(bus: crewbus.Bus) -> None:
    with bus.run("r"):
        pass


def in_call(bus: crewbus.Bus) -> None:
    with bus.call("c"):
        pass


@pytest.mark.parametrize("action", [in_run, in_call])
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_promise_11_an_interrupt_at_any_point_leaves_nothing_current(action: Callable[[crewbus.Bus], None]) -> None:
    class Sets:
        """Its manager is one that an interrupt does not come into."""

        @crewbus.hookimpl
        def crewbus_scope(self) -> Any:
            return Setting()

    class Setting:
        def __enter__(self) -> None:
            self.token = around.set("set")

        def __exit__(self, *_: object) -> None:
            around.reset(self.token)

    def play(interrupt: Callable[[Callable[[], object]], None]) -> None:
        with suppress(Interrupt):
            interrupt(partial(action, bus))
        with bus.call("next"):
            pass
        assert around.get() is None
        assert bus.runs == []

    with logged(), quiet_bus(plugins=[Sets()], unscoped="ignore") as bus:
        assert at_each_point(play, PACKAGE) > 10


def test_promise_03_a_copied_context_grows_by_nothing() -> None:
    """Work that schedules its successor, in a copy of its context, keeps no manager of a predecessor."""

    class Kept(str):
        __slots__ = ()

    class Plugin:
        @crewbus.hookimpl
        def crewbus_scope(self) -> Any:
            @contextmanager
            def setting() -> Iterator[None]:
                token = around.set(Kept("value"))
                yield
                around.reset(token)

            return setting()

    def work(left: int) -> None:
        with bus.run():
            context = copy_context()
        if left:
            context.run(work, left - 1)
        else:
            gc.collect()
            counts.append(sum(isinstance(one, Kept) for one in gc.get_objects()))

    counts: list[int] = []
    with quiet_bus(plugins=[Plugin()]) as bus:
        for depth in (5, 20):
            Context().run(work, depth)
    assert counts[0] == counts[1]


def test_promise_18_nobody_is_asked_while_no_plugin_implements_it() -> None:
    with quiet_bus() as bus:
        tracer = Tracer()
        bus.plugins.register(tracer, "tracer")
        with bus.call("asked"):
            bus.plugins.unregister(name="tracer")
        with bus.call("not asked"):
            pass
    assert tracer.left == [("call asked", "NoneType")]


@pytest.mark.parametrize("monitored", [False, True])
def test_promise_18_a_wrapper_sees_each_answer(monitored: bool) -> None:
    class Wraps:
        @crewbus.hookimpl(wrapper=True)
        def crewbus_scope(self) -> Any:
            answers = yield
            seen.append(len(answers))
            return answers

    seen: list[int] = []
    with traced() as (bus, _):
        bus.plugins.register(Wraps())
        stop = bus.plugins.add_hookcall_monitoring(lambda *_: None, lambda *_: None) if monitored else None
        with bus.call("c"):
            assert around.get() == "call c"
        if stop is not None:
            stop()
    assert seen == [1]
