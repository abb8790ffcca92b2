"""The runs of one command: so many at once in one event loop, counted and shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import attrs

from crewbus import Bus, OwnedStream, StreamOptions
from crewbus.cli.errors import story
from crewbus.cli.input import Call
from crewbus.cli.report import Typist, progress, status, table
from crewbus.cli.signals import Interrupts
from crewbus.cli.summary import Tally
from crewbus.cli.target import Target
from crewbus.cli.terminal import Terminal
from crewbus.cli.warning_notes import Warned
from crewbus.events import Chunk, Dropped, Envelope
from crewbus.exceptions import RunCancelledError

GRACE: Final = 5.0
"""How many seconds interrupted runs have to end."""
_TICK: Final = 0.1
_FLUSH_TIMEOUT: Final = 10.0
_BOUND: Final = 1 << 16  # frames that may wait of a single run, of whose text nothing may be lost


@attrs.frozen
class Manner:
    """How runs are carried out and shown."""

    name: str
    """What a single run is called."""
    concurrency: int = 10
    as_json: bool = False
    with_tracebacks: bool = False


@attrs.frozen
class Job:
    """One run: what it calls; of one that is resumed also which."""

    target: Target
    call: Call
    tags: Mapping[str, str] | None = None
    resume: str | None = None
    """The id of the recorded run that goes on."""
    at: str | None = None
    """The checkpoint from which it does."""


def carry_out(bus: Bus, jobs: Iterator[Job], planned: int, terminal: Terminal, manner: Manner, warned: Warned) -> int:
    """Carry out so many ``jobs`` in a loop of their own, and close the bus; returns the exit code."""
    session = Session(bus, jobs, planned, terminal, manner)
    with Interrupts() as interrupts, asyncio.Runner() as runner:
        runner.run(session.conduct(interrupts, warned))
    return interrupts.code or int(session.tally.ok < planned)


class Session:
    """Carries out ``jobs`` and keeps the tally."""

    def __init__(self, bus: Bus, jobs: Iterator[Job], planned: int, terminal: Terminal, manner: Manner) -> None:
        self.tally = Tally(planned)
        self._bus = bus
        self._jobs = jobs
        self._terminal = terminal
        self._manner = manner
        self._typist = Typist(terminal.out) if planned == 1 and not manner.as_json else None
        # Where many run nobody reads the chunks: they are only counted, those that were dropped too.
        self._options = (
            StreamOptions(bound=_BOUND, grace=GRACE) if self._typist else StreamOptions(slow="drop", grace=GRACE)
        )
        self._live: set[OwnedStream[Any]] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._reason = ""
        self._unread: BrokenPipeError | None = None

    async def conduct(self, interrupts: Interrupts, warned: Warned) -> None:
        """Carry them all out, say how it went, and close the bus on the loop that owes its handlers."""
        loop = asyncio.get_running_loop()
        interrupts.listen(lambda: loop.call_soon_threadsafe(self._interrupt, interrupts.word))
        try:
            await self._all()
            interrupts.listen(lambda: None)
            if warned.overdue:
                self._terminal.warn(f"{_runs(warned.overdue)} still going after {GRACE:g} s; left behind")
            self._conclude()
        finally:
            await self._close()

    async def _all(self) -> None:
        ticker = asyncio.create_task(self._tick())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._manner.concurrency, self.tally.planned)):
                    self._workers.append(group.create_task(self._work()))
        finally:
            ticker.cancel()
            self.tally.stop()
            self._terminal.erase()

    async def _tick(self) -> None:
        # Runs in any case: a signal that hits another thread is noticed when the loop next wakes.
        shown = self._typist is None and self._terminal.err.obeys
        while True:
            if shown:
                self._terminal.draw(progress(self.tally, len(self._live)))
            await asyncio.sleep(_TICK)

    async def _close(self) -> None:
        try:
            await self._bus.aflush(_FLUSH_TIMEOUT)
        finally:
            await self._bus.aclose(0.5)  # what has not ended by now was left behind

    # Runs

    async def _work(self) -> None:
        for job in self._jobs:
            await self._perform(self._stream(job), job)

    def _stream(self, job: Job) -> OwnedStream[Any]:
        if job.resume is not None:
            options = attrs.evolve(self._options, resume=job.resume, at=job.at)
        else:
            options = attrs.evolve(self._options, name=job.target.name, tags=job.tags)
        # By way of partial, since the arguments' names are the target's affair, not those of bus.stream().
        return self._bus.stream(partial(job.target.function, *job.call.args, **job.call.kwargs), options=options)

    async def _perform(self, stream: OwnedStream[Any], job: Job) -> None:
        error: BaseException | None = None
        self._live.add(stream)
        try:
            async with stream:
                async for envelope in stream:
                    self._take(envelope)
                await stream.aresult()
        except Exception as raised:
            error = raised
        finally:
            self._live.discard(stream)
            self._settle(stream, error, job)

    def _take(self, envelope: Envelope) -> None:
        if isinstance(envelope.event, Chunk):
            self.tally.chunks += 1
        elif isinstance(envelope.event, Dropped):
            self.tally.chunks += envelope.event.count
        if self._typist is not None and self._unread is None:
            try:
                self._typist.show(envelope)
            except BrokenPipeError as error:
                self._unread = error
                self._stop("nobody reads its output")

    def _settle(self, stream: OwnedStream[Any], error: BaseException | None, job: Job) -> None:
        run = stream.run
        if error is None and run.state == "failed":
            error = _failure_of(stream)
        if error is None and run.state == "finished":
            self.tally.ok += 1
        elif error is not None and not (run.state == "cancelled" and isinstance(error, RunCancelledError)):
            place = job.call.place
            if self.tally.fail(error, run.id, place) and self._manner.with_tracebacks:
                self._terminal.note(f"{place or 'in ' + job.target.name}: {story(error)}")
        elif self._reason:
            self.tally.cancelled += 1
        else:
            self.tally.cancel(run.cancel_reason or _cause(error), run.id, job.call.place)

    # The end

    def _interrupt(self, word: str) -> None:
        runs = _runs(len(self._live))
        self._terminal.note(f"{word}: cancelling {runs}, {GRACE:g} s at most; the next signal stops at once")
        self._stop(word)

    def _stop(self, reason: str) -> None:
        self._reason = self._reason or reason
        for stream in self._live:
            stream.run.cancel(reason)
        for worker in self._workers:
            worker.cancel()

    def _conclude(self) -> None:
        terminal = self._terminal
        if self._unread is not None:
            raise self._unread
        if self._manner.as_json:
            terminal.out.write(json.dumps(self.tally.as_json()) + "\n")
        elif self._typist is not None:
            terminal.note(status(self.tally, self._manner.name, terminal.err, self._reason))
        else:
            terminal.out.write(table(self.tally, terminal.out))


def _failure_of(stream: OwnedStream[Any]) -> BaseException | None:
    """What a run failed with whose consumer was cancelled before it asked."""
    try:
        stream.result()
    except Exception as error:
        return error
    return None


def _cause(error: BaseException | None) -> BaseException | str:
    """What cancelled a run that nobody had asked to end."""
    return (error.__cause__ if error is not None else None) or "cancelled"


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
