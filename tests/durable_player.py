"""Plays programs with crewbus, and keeps account of what they do."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Final

import attrs
from durable_ideal import Home, name_of
from durable_language import (
    FAILURES,
    Apart,
    Body,
    Call,
    Fail,
    HandledError,
    InvalidError,
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
    dotted,
    marked,
)
from durable_mortal import TaskStrand, ThreadStrand, drive, interleave, no_pause, pause
from helpers import Noted

import crewbus


class KnownError(Exception):
    """A failure that crewbus knows."""


class DeclaredError(Exception):
    """A failure that the step declares."""


class UnknownError(Exception):
    """A failure that crewbus does not know."""


crewbus.register_exception(KnownError)
ERRORS: Final[dict[str, type[Exception]]] = {
    "ValueError": ValueError,
    "KnownError": KnownError,
    "DeclaredError": DeclaredError,
    "UnknownError": UnknownError,
}
assert set(ERRORS) == set(FAILURES)
HANDLED: Final = (HandledError, *ERRORS.values(), crewbus.StepFailedError)


runner: Final = asyncio.Runner()
"""One event loop for all asynchronous programs: making one takes longer than playing a program."""


class OutageError(Exception):
    """What a step needs is not there this time: no program handles that."""


class StopError(BaseException):
    """Somebody stops the process in an orderly way."""


def named(error: BaseException) -> str:
    """The name of an error that a program handles, which is the same when it is raised again from the record."""
    if isinstance(error, crewbus.StepFailedError):
        return error.error.rpartition(".")[2]
    return name_of(error)


def text_of(error: BaseException) -> str:
    """The text of an error that a program handles."""
    return error.message if isinstance(error, crewbus.StepFailedError) else str(error)


@attrs.define
class World:
    """What happens outside the record, and is not undone by a crash."""

    begun: Counter[str] = attrs.field(factory=Counter)
    """How often each step was executed, by its place."""
    ids: dict[str, str] = attrs.field(factory=dict)
    """The ids of nested runs, by place."""
    faults: list[str] = attrs.field(factory=list)
    """What was wrong while a program was played."""
    recorded: frozenset[str] = frozenset()
    """The places of the steps that must not be executed any more."""
    places: dict[str, str] = attrs.field(factory=dict)
    """The place of each step by its identity in the record."""
    beside: set[str] = attrs.field(factory=set)
    """The places of the steps that were called in a strand."""
    started: str = ""
    """The identity of the step that was started last."""


@attrs.frozen
class Disturbance:
    """What happens to one process that carries out a run.

    It may die at its write ``crash``, losing up to ``lost`` events that were not flushed, or have as many writes as
    ``refused`` says refused from there on; be stopped, or have its run
    cancelled, at a pause (tasks are stopped, since a cancelled one would not hand on its turn); or have its step number
    ``outage`` fail; or its bus be closed, after its write ``suspend``, so that the run is suspended.
    """

    crash: int | None = None
    lost: int = 0
    stop: int | None = None
    cancel: int | None = None
    outage: int | None = None
    refused: int = 0
    suspend: int | None = None
    seed: int = 0
    """How its strands take turns."""


@attrs.frozen
class Here:
    """Where the code is."""

    home: Home
    runs: tuple[tuple[crewbus.Run, Home], ...]
    reach: int = 0
    strand: str = ""
    tasks: bool = False
    """Whether the code is asynchronous here."""
    in_call: bool = False
    """Whether it is in a call of its home."""


class Entered:
    """A scope of crewbus, entered in the way of the code around it."""

    def __init__(self, scope: Any, tasks: bool) -> None:
        self._scope, self._tasks = scope, tasks

    async def __aenter__(self) -> Any:
        return await self._scope.__aenter__() if self._tasks else self._scope.__enter__()

    async def __aexit__(self, *error: object) -> Any:
        return await self._scope.__aexit__(*error) if self._tasks else self._scope.__exit__(*error)


class Play:
    """One process's go at a program."""

    def __init__(self, bus: crewbus.Bus, program: Program, world: World, disturbance: Disturbance) -> None:
        self.bus = bus
        self.program = program
        self.world = world
        self.disturbance = disturbance
        self._rng = random.Random(disturbance.seed)
        self._ticks = self._executions = 0
        self._root: crewbus.Run | None = None

    def go(self, run: crewbus.Run) -> Any:
        """Do it all in ``run``, and return the result."""
        self._root = run
        with self._handling():
            return runner.run(self._all(run)) if self.program.tasks else drive(self._all(run))

    async def _all(self, run: crewbus.Run) -> Any:
        async with Entered(run, self.program.tasks):
            home = Home("")
            here = Here(home, ((run, home),), tasks=self.program.tasks)
            return await self._body(self.program.body, here, ())

    @contextmanager
    def _handling(self) -> Iterator[None]:
        if not self.program.handles:
            yield
            return

        def say(envelope: crewbus.Envelope) -> None:
            is_new = self.program.handles == "always" or not envelope.replayed
            if is_new and crewbus.current_run() is not None:
                self.bus.chunk("!" + envelope.event.text)

        self.bus.on(Noted, say)
        try:
            yield
        finally:
            self.bus.off(Noted, say)

    async def _body(self, actions: Body, here: Here, site: tuple[int, ...]) -> list[Any]:
        results = []
        for n, action in enumerate(actions):
            await pause.get()()
            self._tick()
            results.append(await self._do(action, here, (*site, n)))
        return [result for result in results if result is not None]

    def _tick(self) -> None:
        self._ticks += 1
        cancelled = self._ticks == self.disturbance.cancel
        if self._ticks == self.disturbance.stop or (cancelled and self.program.tasks):
            raise StopError
        if cancelled and self._root is not None:
            self._root.cancel("enough")

    async def _do(self, action: Any, here: Here, site: tuple[int, ...]) -> Any:
        match action:
            case Say() | Note():
                self._emit(action, here)
            case Save(name, to):
                await self._save(marked(name, here.strand), to, here)
            case Fail(times):
                if here.home.visit(site) < times:
                    raise InvalidError(f"at {here.home.place}/{dotted(site)}")
            case Step():
                return await self._step(action, here, site)
            case Run():
                return await self._run(action, here, site)
            case Call(name, body):
                async with Entered(crewbus.call(name), here.tasks):
                    return await self._body(body, attrs.evolve(here, in_call=True), site)
            case Retry():
                return await self._retry(action, here, site)
            case Loop():
                return await self._loop(action, here, site)
            case Try(body, handler):
                try:
                    return await self._body(body, here, (*site, 0))
                except HANDLED as error:
                    caught = named(error), text_of(error)
                return ["caught", *caught, await self._body(handler, here, (*site, 1))]
            case Apart():
                return await self._apart(action, here, site)
            case Parallel(strands):
                return await self._parallel(strands, here, site)
        return None

    # Emissions

    def _run_at(self, here: Here, to: int) -> crewbus.Run:
        return here.runs[max(0, len(here.runs) - 1 - to)][0]

    def _emit(self, action: Say | Note, here: Here) -> None:
        text = action.text
        text = marked(text, here.strand)
        event = crewbus.Chunk(text) if isinstance(action, Say) else Noted(text)
        if action.bare and not here.strand and not here.in_call:
            run = self._run_at(here, action.to)
            envelope = bare(lambda: run.emit(event))
        elif action.to:
            envelope = self._run_at(here, action.to).emit(event)
        else:
            envelope = self.bus.emit(event)
        self._check(envelope, event)

    async def _save(self, name: str, to: int, here: Here) -> None:
        run = self._run_at(here, to)
        envelope = await run.acheckpoint(name) if here.tasks else run.checkpoint(name)
        self._check(envelope, None, name)

    def _check(self, envelope: crewbus.Envelope | None, event: Any, name: str = "") -> None:
        """An emission has the number of an event like it."""
        assert self._root is not None
        if self._root.is_suspending() and (envelope is None or envelope.seq < 0):
            return  # it is discarded, and emitted again when the run is resumed
        what = event or f"checkpoint {name}"
        if envelope is None:
            self.world.faults.append(f"law 1: {what} was not emitted")
            return
        if envelope.seq < 0:
            self.world.faults.append(f"law 1: {what} is numbered {envelope.seq}")
            return
        stored = self.bus.store.event(self._root.id, envelope.seq)
        found = self.bus.recording.decode(stored).event
        if (found.name != name) if event is None else (found != event):
            self.world.faults.append(f"law 1: {what} has the number of {found}")

    # Steps

    async def _step(self, step: Step, here: Here, site: tuple[int, ...]) -> Any:
        runs, home, run = here.runs, here.home, None
        if step.to and here.reach > 0:
            runs = runs[: len(runs) - min(step.to, here.reach)]
            run, home = runs[-1]
        visit = home.visit((here.home.place, *site))
        place = f"{here.home.place}/{dotted(site)}#{visit}"
        outcome = step.outcomes[min(visit, len(step.outcomes) - 1)]

        async def execute(tasks: bool) -> Any:
            self._begin(place, here.strand)
            inner = Here(Home(place), runs, -1, here.strand, tasks)
            results = await self._body(step.body, inner, ())
            self._executions += 1
            if self._executions == self.disturbance.outage:
                raise OutageError(place)
            if outcome in ERRORS:
                raise ERRORS[outcome](f"{outcome} at {place}")
            return [place, outcome, results]

        value = await self._perform(step, here, run, execute)
        if value[1] == "bad":
            raise InvalidError(f"refused {place}")
        return value

    def _begin(self, place: str, strand: str) -> None:
        self.world.begun[place] += 1
        if strand:
            self.world.beside.add(place)
        if place in self.world.recorded:
            self.world.faults.append(f"law 3: step {place} is recorded, and executed again")
        known = self.world.places.setdefault(self.world.started, place)
        if known != place:
            self.world.faults.append(f"law 5: step {place} has the identity of {known}")

    async def _perform(
        self, step: Step, here: Here, run: crewbus.Run | None, execute: Callable[[bool], Coroutine[Any, Any, Any]]
    ) -> Any:
        if here.tasks:

            async def function(*args: Any) -> Any:
                return await execute(True)
        else:

            def function(*args: Any) -> Any:  # type: ignore[misc]
                return drive(execute(False))

        key = here.strand or None
        args = () if step.arg is None else (step.arg,)
        if key is not None and args:
            key = f"{key}{step.arg!r}"
        if run is None and (step.declared or "DeclaredError" in step.outcomes):
            made = crewbus.step(name=step.name, key=key, raises=DeclaredError)(function)(*args)
        else:
            run = run or crewbus.current_run()
            assert run is not None
            made = run.step(step.name, function, *args, key=key)
        return await made if here.tasks else made

    # Runs and attempts

    async def _run(self, run: Run, here: Here, site: tuple[int, ...]) -> Any:
        place = f"{here.home.place}/{run.name}{dotted(site)}#{here.home.visit(site)}"
        async with Entered(self._nested(run, here, place), here.tasks) as nested:
            self.world.ids[place] = nested.id
            home = Home(place)
            inner = Here(home, (*here.runs, (nested, home)), here.reach + 1, here.strand, here.tasks)
            return [run.name, await self._body(run.body, inner, ())]

    def _nested(self, run: Run, here: Here, place: str) -> crewbus.Run:
        assert self._root is not None
        if run.by == "id":
            return self.bus.run(run.name, id=f"{self._root.id}{place}")
        if run.by == "key" or here.strand:
            return keyed_run(self.bus, run.name, f"{here.strand}{place}", self._root)
        return self.bus.run(run.name)

    async def _retry(self, retry: Retry, here: Here, site: tuple[int, ...]) -> Any:
        failed: Exception | None = None
        for _ in range(retry.times):
            run = crewbus.current_run()
            assert run is not None
            try:
                async with Entered(run.attempt(), here.tasks):
                    return await self._body(retry.body, here, site)
            except HANDLED as error:
                failed = error
        assert failed is not None
        if retry.raises:
            raise failed
        return ["gave up", named(failed)]

    async def _loop(self, loop: Loop, here: Here, site: tuple[int, ...]) -> Any:
        results: list[Any] = []
        for _ in range(loop.times):
            try:
                results += await self._body(loop.body, here, site)
            except HANDLED as error:
                results.append(["caught", named(error)])
            else:
                if not loop.always:
                    break
        return results

    # Threads

    async def _apart(self, action: Apart, here: Here, site: tuple[int, ...]) -> Any:
        there = attrs.evolve(here, tasks=False)

        def work() -> Any:
            if here.tasks:
                pause.set(no_pause)
            return drive(self._body(action.body, there, site))

        if action.submit:
            return self.bus.submit(work).result()
        outcome: list[Any] = []

        def caught() -> None:
            try:
                outcome.append((work(), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = crewbus.Thread(target=caught)
        thread.start()
        thread.join()
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    async def _parallel(self, strands: tuple[Body, ...], here: Here, site: tuple[int, ...]) -> Any:
        def work(n: int) -> Callable[[], Coroutine[Any, Any, Any]]:
            strand = f"{here.strand}{dotted(site)}:{n};"
            return lambda: self._body(strands[n], attrs.evolve(here, strand=strand), (*site, n))

        first, *others = (work(n) for n in range(len(strands)))
        return await interleave(first, others, TaskStrand if here.tasks else ThreadStrand, self._rng, HANDLED)


def keyed_run(bus: crewbus.Bus, name: str, key: str, root: crewbus.Run) -> crewbus.Run:
    try:
        return bus.run(name, key=key)
    except TypeError:
        return bus.run(name, id=f"{root.id}{key}")


def bare(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a thread without context."""
    outcome: list[Any] = []

    def caught() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=Context().run, args=(caught,), daemon=True)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
