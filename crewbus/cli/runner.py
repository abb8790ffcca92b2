"""Runs targets concurrently in one event loop, counts the outcomes and shows them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import attrs

from crewbus import Bus, OwnedStream, Run, StreamOptions
from crewbus._util import format_count
from crewbus.cli.errors import format_traceback
from crewbus.cli.input import Arguments
from crewbus.cli.report import TextPrinter, how_to_resume, progress_line, status_line, summary_table
from crewbus.cli.run_ids import short_id
from crewbus.cli.signals import SignalHandler
from crewbus.cli.summary import RunSummary
from crewbus.cli.target import Target
from crewbus.cli.terminal import Terminal
from crewbus.cli.warning_notes import OverdueRuns
from crewbus.events import Chunk, Dropped, Envelope
from crewbus.exceptions import RunCancelledError, is_cancellation

GRACE: Final = 5.0
"""How many seconds cancelled or suspended runs have to end."""
_PROGRESS_INTERVAL: Final = 0.1
_FLUSH_TIMEOUT: Final = 10.0
_CLOSE_TIMEOUT: Final = 0.5  # what has not ended by then is abandoned
_SINGLE_RUN_BOUND: Final = 1 << 16


@attrs.frozen
class RunnerOptions:
    """How runs are executed and shown."""

    name: str
    """The name of a single run in its status line."""
    concurrency: int = 10
    as_json: bool = False
    with_tracebacks: bool = False
    raw: bool = False
    """Whether the text reaches a terminal with its control characters."""


@attrs.frozen
class PlannedRun:
    """A run to be started, or a recorded run to be resumed."""

    target: Target
    arguments: Arguments
    tags: Mapping[str, str] | None = None
    resume: str | None = None
    """The id of the recorded run."""
    at: str | None = None
    """The checkpoint to resume from."""


def run_all(
    bus: Bus,
    planned: Iterator[PlannedRun],
    count: int,
    terminal: Terminal,
    options: RunnerOptions,
    overdue: OverdueRuns,
) -> int:
    """Execute ``count`` planned runs, close the bus, and return the exit code."""
    runner = Runner(bus, planned, count, terminal, options)
    with SignalHandler() as signals, asyncio.Runner() as loop_runner:
        loop_runner.run(runner.run(signals, overdue))
    return signals.exit_code or int(runner.summary.ok < count)


class Runner:
    """Executes planned runs and summarises how they ended."""

    def __init__(
        self, bus: Bus, planned: Iterator[PlannedRun], count: int, terminal: Terminal, options: RunnerOptions
    ) -> None:
        self.summary = RunSummary(count, keep_results=options.as_json)
        self._bus = bus
        self._planned = planned
        self._terminal = terminal
        self._options = options
        terminal.out.raw = options.raw
        self._printer = TextPrinter(terminal.out) if count == 1 and not options.as_json else None
        # The text of a single run is printed in full. Otherwise chunks are only counted, dropped ones included.
        self._stream_options = (
            StreamOptions(bound=_SINGLE_RUN_BOUND, grace=GRACE)
            if self._printer
            else StreamOptions(slow="drop", grace=GRACE)
        )
        self._streams: set[OwnedStream[Any]] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._last_run: Run | None = None
        self._stop_reason = ""
        self._broken_pipe: BrokenPipeError | None = None

    async def run(self, signals: SignalHandler, overdue: OverdueRuns) -> None:
        """Execute all runs, show the outcome, and close the bus, whose handlers run on this loop."""
        loop = asyncio.get_running_loop()
        signals.on_first_signal(lambda: loop.call_soon_threadsafe(self._interrupt, signals))
        try:
            await self._execute_all()
            signals.on_first_signal(None)
            if overdue.count:
                runs = format_count(overdue.count, "run")
                self._terminal.warn(f"{runs} still running after {GRACE:g} s; abandoned")
            self._show_outcome()
        finally:
            await self._close_bus()

    async def _execute_all(self) -> None:
        ticker = asyncio.create_task(self._tick())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._options.concurrency, self.summary.planned)):
                    self._workers.append(group.create_task(self._work()))
        finally:
            ticker.cancel()
            self.summary.stop_clock()
            self._terminal.clear_progress()

    async def _tick(self) -> None:
        # Also without a progress line: a signal handled in another thread is noticed when the loop next wakes.
        shows_progress = self._printer is None and self._terminal.err.supports_escapes
        while True:
            if shows_progress:
                self._terminal.show_progress(progress_line(self.summary, len(self._streams)))
            await asyncio.sleep(_PROGRESS_INTERVAL)

    async def _close_bus(self) -> None:
        try:
            await self._bus.aflush(_FLUSH_TIMEOUT)
        finally:
            await self._bus.aclose(_CLOSE_TIMEOUT)

    # Runs

    async def _work(self) -> None:
        for planned in self._planned:
            await self._execute(self._start(planned), planned)

    def _start(self, planned: PlannedRun) -> OwnedStream[Any]:
        if planned.resume is not None:
            options = attrs.evolve(self._stream_options, resume=planned.resume, at=planned.at)
        else:
            options = attrs.evolve(self._stream_options, name=planned.target.name, tags=planned.tags)
        # partial() keeps the target's argument names apart from those of bus.stream().
        function = partial(planned.target.function, *planned.arguments.args, **planned.arguments.kwargs)
        return self._bus.stream(function, options=options)

    async def _execute(self, stream: OwnedStream[Any], planned: PlannedRun) -> None:
        error: BaseException | None = None
        result: Any = None
        self._streams.add(stream)
        try:
            async with stream:
                async for envelope in stream:
                    self._take(envelope)
                result = await stream.aresult()
        except BaseException as raised:
            if is_cancellation(raised):
                raise
            error = raised
        finally:
            self._streams.discard(stream)
            self._count_outcome(stream, error, planned)
            self._show_result(stream.run, result, error, planned)

    def _take(self, envelope: Envelope) -> None:
        if isinstance(envelope.event, Chunk):
            self.summary.chunks += 1
        elif isinstance(envelope.event, Dropped):
            self.summary.chunks += envelope.event.count
        if self._printer is not None and self._broken_pipe is None:
            try:
                self._printer.print(envelope)
            except BrokenPipeError as error:
                self._broken_pipe = error
                self._stop_all("the output pipe was closed")

    def _show_result(self, run: Run, result: Any, error: BaseException | None, planned: PlannedRun) -> None:
        self._last_run = run
        self.summary.add_result(run, result, error, planned.arguments.location)
        if self._printer is not None and self._broken_pipe is None and run.state == "finished":
            self._printer.print_result(result)

    def _count_outcome(self, stream: OwnedStream[Any], error: BaseException | None, planned: PlannedRun) -> None:
        run, location = stream.run, planned.arguments.location
        if error is None and run.state == "failed":
            error = _failure_of(stream)
        if error is None and run.state == "finished":
            self.summary.ok += 1
        elif run.state == "suspended":
            self.summary.suspended.append(run.id)
        elif error is not None and not (run.state == "cancelled" and isinstance(error, RunCancelledError)):
            if self.summary.add_failed(error, run.id, location) and self._options.with_tracebacks:
                self._terminal.note(f"{location or 'in ' + planned.target.name}: {format_traceback(error)}")
        elif self._stop_reason:
            self.summary.cancelled += 1
        else:
            self.summary.add_cancelled(run.stop_reason or _cancel_cause(error), run.id, location)

    # The end

    def _interrupt(self, signals: SignalHandler) -> None:
        recorded = sum(stream.run.recorded for stream in self._streams) if signals.suspends else 0
        runs = [
            f"{verb} {format_count(count, 'run')}"
            for verb, count in (("suspending", recorded), ("cancelling", len(self._streams) - recorded))
            if count or (verb == "cancelling" and not recorded)
        ]
        self._terminal.note(
            f"{signals.reason}: {' and '.join(runs)}, for at most {GRACE:g} s; the next signal stops at once"
        )
        self._stop_all(signals.reason, suspend=signals.suspends)

    def _stop_all(self, reason: str, suspend: bool = False) -> None:
        self._stop_reason = self._stop_reason or reason
        for stream in self._streams:
            (stream.run.suspend if suspend else stream.run.cancel)(reason)
        for worker in self._workers:
            worker.cancel()

    def _show_outcome(self) -> None:
        terminal = self._terminal
        if self._broken_pipe is not None:
            raise self._broken_pipe
        if self._options.as_json:
            terminal.out.write(json.dumps(self.summary.as_json()) + "\n")
        elif self._printer is not None:
            run = self._last_run
            recorded = short_id(run.id) if run is not None and run.recorded else None
            terminal.note(status_line(self.summary, self._options.name, recorded, terminal.err, self._stop_reason))
        else:
            terminal.out.write(summary_table(self.summary, terminal.out))
            if self.summary.suspended:
                terminal.note(
                    f"{format_count(len(self.summary.suspended), 'run')} suspended: {how_to_resume(self.summary)}"
                )


def _failure_of(stream: OwnedStream[Any]) -> BaseException | None:
    """The error of a failed run whose consumer was cancelled before it asked for the result."""
    try:
        stream.result()
    except BaseException as error:
        if is_cancellation(error):
            raise
        return error
    return None


def _cancel_cause(error: BaseException | None) -> BaseException | str:
    """The exception that cancelled a run which nothing asked to end."""
    return (error.__cause__ if error is not None else None) or "cancelled"
