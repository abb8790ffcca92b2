"""Recovery: the runs that other processes left behind go on in this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import attrs

from crewbus import durability, stores, streams
from crewbus._util import in_worker, running_loop
from crewbus.exceptions import BusClosedError, ConsumptionError, CrewbusError, InputError, RunNotFoundError

if TYPE_CHECKING:
    from crewbus.bus.live_runs import LiveRuns
    from crewbus.bus.owned_work import OwnedWork
    from crewbus.durability import Recorder
    from crewbus.records import Records, RunInfo
    from crewbus.scopes import Host, Run
    from crewbus.stores import LogSummary, Store
    from crewbus.streams import OwnedStream

Functions = Mapping[str, Callable[..., Any]] | Callable[["RunInfo"], Callable[..., Any] | None]
"""What a run calls: by the run's name, or as a function answers that is given the run."""


class Recoverable(Protocol):
    """What a recovery asks of its bus."""

    _host: Host
    _live: LiveRuns
    _work: OwnedWork

    @property
    def recording(self) -> Recorder:
        """As `Bus.recording`."""

    @property
    def store(self) -> Store:
        """As `Bus.store`."""

    @property
    def records(self) -> Records:
        """As `Bus.records`."""

    @property
    def runs(self) -> list[Run]:
        """As `Bus.runs`."""


Resumed = Callable[[str, int, Callable[..., Any]], "OwnedStream[Any]"]
"""Gives the stream of a recorded run, by its id, the epoch with which it was found, and the function."""
RESUMABLE: Final = ("interrupted", "suspended")


class LeftBehind(NamedTuple):
    """Runs that were left off: which of them are to go on now. Those that never started are in neither list."""

    ready: list[LogSummary]
    later: list[LogSummary]
    """Those that are not due yet."""
    stuck: list[LogSummary]
    """Those that were taken again and again without getting on."""


def left_behind(store: Store, states: Iterable[str] = RESUMABLE) -> LeftBehind:
    """The runs in these states that a recovery, and ``crewbus resume --all``, find: the oldest first."""
    return _sorted_out([*store.find(stores.LogFilter(frozenset(states)))][::-1])


def _sorted_out(found: Iterable[LogSummary]) -> LeftBehind:
    left, now = LeftBehind([], [], []), time.time()
    for one in found:
        if one.info.epoch:
            kind = left.stuck if one.info.is_stuck else left.ready if one.info.is_due(now) else left.later
            kind.append(one)
    return left


@attrs.frozen
class Recovery:
    """What `Bus.recover` did with the runs that it found."""

    streams: list[OwnedStream[Any]] = attrs.field(factory=list)
    """The streams of the runs that go on in this process, oldest first. They need not be consumed."""
    unknown: list[RunInfo] = attrs.field(factory=list)
    """The runs for which there is no function: they were left as they are."""
    refused: dict[str, CrewbusError] = attrs.field(factory=dict)
    """Why other runs do not go on, by their ids: as that another process was faster (`RunHeldError`)."""


def recover(
    self: Recoverable,
    functions: Functions,
    *,
    states: Iterable[str] = RESUMABLE,
    limit: int | None = None,
    wait: bool = True,
) -> Recovery:
    """Resume the runs that other processes left behind, each in a stream of its own, and return once they have begun.

    For a program's start. ``functions`` has the function of each run by the name of the run, to be called without
    arguments; or it is a function that gets the `RunInfo`, and returns what to call, or None. Nothing is imported by a
    name in a record. ``states``: which runs to resume, "failed" and "cancelled" ones too if you say so. Suspended runs
    that are not due yet are left alone, and so are runs that never started, and those that were taken five times
    without getting on. ``limit``: how many at most, the oldest first. ``wait``: whether to wait for leases that may be
    those of dead processes, as on other hosts, until they end or are renewed.

    Of several processes that recover at the same time one takes each run. The streams need not be consumed: the runs go
    on until they end, or the bus is closed. Raises `InputError`, `TargetError` for what can't be called, and
    `ConsumptionError` on an event loop: ``await bus.arecover(...)`` there.
    """
    if running_loop() is not None:
        raise ConsumptionError("recover() would block the event loop that runs here: use 'await bus.arecover(...)'")
    recovering = Recovering(self, partial(_resumed, self), self._work.keep, functions, states, limit, wait)
    for found in recovering.work():
        if isinstance(found, float):
            time.sleep(found)  # until a lease ends
        else:
            with recovering.beginning(found):
                found.__enter__()
    return recovering.outcome


async def arecover(
    self: Recoverable,
    functions: Functions,
    *,
    states: Iterable[str] = RESUMABLE,
    limit: int | None = None,
    wait: bool = True,
) -> Recovery:
    """As `recover`, without blocking the loop, on which the async ones of the functions run."""
    import asyncio  # loaded: it runs this

    recovering = Recovering(self, partial(_resumed, self), self._work.keep, functions, states, limit, wait)
    work = recovering.work()
    while (found := await in_worker(partial(next, work, None))) is not None:
        if isinstance(found, float):
            await asyncio.sleep(found)
        else:
            with recovering.beginning(found):
                await found.__aenter__()
    return recovering.outcome


def _resumed(self: Recoverable, run_id: str, epoch: int, function: Callable[..., Any]) -> OwnedStream[Any]:
    run = durability.Resumption(self._host, self.recording, self._live).run(run_id, None, None, epoch)
    options = streams.StreamOptions(slow="drop")
    return self._work.stream(run, options, function, (), {}, partial(self._live.give_up, run))


class Recovering:
    """Finds the runs to resume, and notes what came of each."""

    def __init__(
        self,
        bus: Recoverable,
        resumed: Resumed,
        keep: Callable[[OwnedStream[Any]], object],
        functions: Functions,
        states: Iterable[str],
        limit: int | None,
        wait: bool,
    ) -> None:
        if not set(states) <= {*RESUMABLE, "failed", "cancelled"}:
            raise InputError(f"states={states!r}: what can be resumed is interrupted, suspended, failed or cancelled")
        if isinstance(functions, Mapping):
            for function in functions.values():
                streams.check_streamable(function)
        self._bus = bus
        self._resumed = resumed
        self._keep = keep
        self._functions = functions
        self._states = frozenset(states) & stores.STATES
        self._limit = limit
        self._wait = wait
        self.outcome: Final = Recovery()

    def work(self) -> Iterator[OwnedStream[Any] | float]:
        """The streams to begin, and in between the seconds to wait until a lease ends."""
        store = self._bus.store
        leases = self._foreign_leases() if self._wait else {}
        yield from self._streams(left_behind(store, self._states))
        while leases and self._has_room():
            yield max(0.0, min(leases.values()) - time.time())
            ended = [root_id for root_id, until in leases.items() if until <= time.time()]
            yield from self._streams(_sorted_out(one for root_id in ended for one in self._look(root_id)))
            for root_id in ended:  # one that was renewed meanwhile is that of a live process
                del leases[root_id]

    @contextmanager
    def beginning(self, stream: OwnedStream[Any]) -> Iterator[None]:
        """Begin a stream in the block: an error of its run is noted, and keeps no other run from being resumed."""
        try:
            yield
        except BusClosedError:
            raise
        except CrewbusError as error:
            self.outcome.refused[stream.run.id] = error
        else:
            self.outcome.streams.append(stream)
            self._keep(stream)

    def _has_room(self) -> bool:
        return self._limit is None or len(self.outcome.streams) < self._limit

    def _foreign_leases(self) -> dict[str, float]:
        """When the leases of the runs end that are held elsewhere: their holders may be dead."""
        own = {run.root.id for run in self._bus.runs}
        running = (one.info for one in self._bus.store.find(stores.LogFilter(frozenset({"running"}))))
        return {info.root_id: info.until for info in running if info.until is not None and info.root_id not in own}

    def _look(self, root_id: str) -> Iterator[LogSummary]:
        try:
            summary = self._bus.store.summary(root_id)
        except RunNotFoundError:  # dropped meanwhile
            return
        if summary.state in self._states:
            yield summary

    def _streams(self, found: LeftBehind) -> Iterator[OwnedStream[Any]]:
        for summary in found.ready:
            if not self._has_room():
                return
            log = summary.info
            info = self._bus.records.info(log.root_id)
            function = self._function_of(info)
            if function is None:
                self.outcome.unknown.append(info)
            else:
                yield self._resumed(log.root_id, log.epoch, function)

    def _function_of(self, info: RunInfo) -> Callable[..., Any] | None:
        if not isinstance(self._functions, Mapping):
            return self._functions(info)
        return self._functions.get(info.name) if info.name is not None else None
