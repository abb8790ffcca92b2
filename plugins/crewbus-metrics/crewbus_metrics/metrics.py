"""The plugin: counts events, and times runs and calls."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import weakref
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final, TypeVar

import crewbus
from crewbus import CallCancelled, CallFailed, CallFinished, CallStarted, PluginError, event_type_of, reentrant_lock
from crewbus.stores import Backlog
from crewbus_metrics.snapshot import Events, Snapshot, Timing

if TYPE_CHECKING:
    from crewbus import Bus, Commands, Envelope, Run

NAMES: Final = 100  # names of runs, and of calls, with their own figures; further names share OTHERS
OTHERS: Final = "(others)"
OUTSIDE: Final = "(outside)"
UNNAMED: Final = "(unnamed)"
OPEN_CALLS: Final = 1000  # open calls timed in one run, or outside any; the oldest are dropped first
OUTCOMES: Final = {CallFinished: "finished", CallFailed: "failed", CallCancelled: "cancelled"}

V = TypeVar("V")
clock = time.perf_counter  # monotonic, unlike the time of day
log = logging.getLogger("crewbus.metrics")
SUMMARIES: Final[dict[str, Callable[[str], object]]] = {
    "log": lambda text: log.info("%s", text),
    "stderr": lambda text: sys.stderr.write(f"{text}\n"),
    "off": lambda _: None,
}


class Metrics:
    """Counts the events and times the runs and calls of one bus; `snapshot` returns the figures at any time.

    When the bus closes, ``summary`` is called with a text. Without it, the environment variable ``CREWBUS_METRICS``
    selects where the text goes: "log" (the default), "stderr" or "off"; any other value raises `PluginError`.
    """

    def __init__(self, summary: Callable[[str], object] | None = None) -> None:
        setting = os.environ.get("CREWBUS_METRICS", "log")
        if summary is None and setting not in SUMMARIES:
            raise PluginError(f"CREWBUS_METRICS={setting!r}: choose one of {', '.join(SUMMARIES)}")
        self._summary = summary or SUMMARIES[setting]
        self._configured = False
        self._bus: Callable[[], Bus | None] = _no_bus
        self._reset()

    def _reset(self) -> None:
        # Re-entrant, because a finaliser may emit while its thread holds the lock. So each figure changes in one step,
        # which a Counter's `+= 1` does not, and iteration uses a copy.
        self._lock = reentrant_lock()
        self._began = clock()
        self._ended: float | None = None
        self._events: _ByName[defaultdict[str, int]] = _ByName(lambda: defaultdict(int))
        self._runs = _ByName(_Durations)
        self._calls = _ByName(_Durations)
        self._live: dict[Run, float] = {}
        self._open: dict[Run | None, OrderedDict[str | None, tuple[str, float]]] = {None: OrderedDict()}

    @crewbus.hookimpl
    def crewbus_configure(self, bus: Bus) -> None:
        """Start the clock; reject a second bus."""
        if self._configured:
            raise PluginError("a Metrics instance serves one bus: create another instance for another bus")
        self._configured = True
        self._bus = weakref.ref(bus)
        self._reset()

    @crewbus.hookimpl
    def crewbus_cli_commands(self, commands: Commands) -> None:
        """Add ``crewbus health``, whose module is loaded now: it needs the command line, and a bus does not."""
        import_module("crewbus_metrics.commands.health").add_to(commands)

    @crewbus.hookimpl
    def crewbus_run_start(self, run: Run) -> None:
        """Store when the run started."""
        with self._lock:
            self._live[run] = clock()
            self._open[run] = OrderedDict()

    @crewbus.hookimpl
    def crewbus_emit(self, run: Run | None, envelope: Envelope) -> None:
        """Count the event, and time the call that it starts or ends."""
        if envelope.replayed:
            return
        kind = type(envelope.event)
        name = event_type_of(kind).name
        with self._lock:
            self._events[OUTSIDE if run is None else run.name or UNNAMED][name] += 1
            if kind is CallStarted or kind in OUTCOMES:
                self._time(run, envelope)

    def _time(self, run: Run | None, envelope: Envelope) -> None:
        event, calls = envelope.event, self._open.get(run)
        if calls is None:  # the run has ended, or started before the plugin was loaded
            return
        if isinstance(event, CallStarted):
            calls[envelope.id] = event.name, clock()
            if len(calls) > OPEN_CALLS:
                calls.popitem(last=False)
        elif opened := calls.pop(envelope.parent, None):
            name, began = opened
            self._calls[name].add(OUTCOMES[type(event)], clock() - began)

    @crewbus.hookimpl
    def crewbus_run_finish(self, run: Run) -> None:
        """Add the run's duration to the figures of its name, and forget the run."""
        with self._lock:
            self._open.pop(run, None)
            began = self._live.pop(run, None)
            if began is not None:
                self._runs[run.name or UNNAMED].add(run.state, clock() - began)

    @crewbus.hookimpl
    def crewbus_after_fork(self) -> None:
        """Start over in a forked child, with a new lock."""
        self._reset()

    @crewbus.hookimpl
    def crewbus_close(self) -> None:
        """Stop the clock, and write the summary if there were events."""
        with self._lock:
            self._ended = clock()
            self._live.clear()
            self._open.clear()
        snapshot = self.snapshot()
        if snapshot.total.count:
            self._summary(str(snapshot))

    def snapshot(self) -> Snapshot:
        """The figures so far. Any thread may call this, at any time."""
        with self._lock:
            seconds = (clock() if self._ended is None else self._ended) - self._began
            events = {name: Events.of(counts, seconds) for name, counts in self._events.copy().items()}
            runs = {name: durations.timing() for name, durations in self._runs.copy().items()}
            calls = {name: durations.timing() for name, durations in self._calls.copy().items()}
        total = sum((Counter(of.counts) for of in events.values()), start=Counter[str]())
        bus = self._bus()
        backlog = Backlog() if bus is None else bus.backlog
        return Snapshot(seconds, Events.of(total, seconds), events, runs, calls, backlog)


def _no_bus() -> None:
    """Before the plugin is loaded."""


class _Durations:
    """The runs or calls of one name that ended: their number by outcome, and their durations."""

    def __init__(self) -> None:
        self.ended: defaultdict[str, int] = defaultdict(int)
        self.seconds, self.min, self.max = 0.0, math.inf, 0.0

    def add(self, outcome: str, seconds: float) -> None:
        self.seconds += seconds
        self.min = min(self.min, seconds)
        self.max = max(self.max, seconds)
        self.ended[outcome] += 1

    def timing(self) -> Timing:
        count = sum(self.ended.values())
        durations = (self.min, self.seconds / count, self.max) if count else (0.0, 0.0, 0.0)
        return Timing(count, self.ended["failed"], self.ended["cancelled"], *durations)


class _ByName(dict[str, V]):
    """A value for each name, created at first use; beyond the limit, new names share one value."""

    def __init__(self, new: Callable[[], V]) -> None:
        super().__init__()
        self.new = new

    def __missing__(self, name: str) -> V:
        return self.setdefault(name if len(self) < NAMES or name == OUTSIDE else OTHERS, self.new())
