"""The plugin: counts events, and times runs and calls."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import crewbus
from crewbus import CallCancelled, CallFailed, CallFinished, CallStarted, PluginError, event_type_of
from crewbus_metrics._snapshot import Events, Snapshot, Timing

if TYPE_CHECKING:
    from crewbus import Envelope, Run

NAMES: Final = 100  # of runs, and of calls, that have figures of their own; later ones share OTHERS
OTHERS: Final = "(others)"
OUTSIDE: Final = "(outside)"
UNNAMED: Final = "(unnamed)"
OPEN_CALLS: Final = 1000  # that are timed at once in a run, or outside any; the oldest make room
OUTCOMES: Final = {CallFinished: "finished", CallFailed: "failed", CallCancelled: "cancelled"}

V = TypeVar("V")
clock = time.perf_counter  # unlike the time of day, nobody sets it
log = logging.getLogger("crewbus.metrics")
WAYS: Final[dict[str, Callable[[str], object]]] = {
    "log": lambda text: log.info("%s", text),
    "stderr": lambda text: sys.stderr.write(f"{text}\n"),
    "off": lambda _: None,
}


class Metrics:
    """Counts events, and times runs and calls, of one bus: `snapshot` tells at any time, a summary when the bus closes.

    ``summary`` is a function that takes the text. Without it, the environment variable ``CREWBUS_METRICS`` says where
    the text goes: "log" (the default), "stderr" or "off"; anything else raises `PluginError`.
    """

    def __init__(self, summary: Callable[[str], object] | None = None) -> None:
        way = os.environ.get("CREWBUS_METRICS", "log")
        if summary is None and way not in WAYS:
            raise PluginError(f"CREWBUS_METRICS={way!r}: choose one of {', '.join(WAYS)}")
        self._summary = summary or WAYS[way]
        self._serves = False
        self._begin()

    def _begin(self) -> None:
        # Re-entrant, since a finaliser may emit while its thread is inside. So each figure changes in one step (which a
        # Counter's `+= 1` is not), and what is gone through is a copy.
        self._lock = threading.RLock()
        self._began = clock()
        self._ended: float | None = None
        self._events: _ByName[defaultdict[str, int]] = _ByName(lambda: defaultdict(int))
        self._runs = _ByName(_Durations)
        self._calls = _ByName(_Durations)
        self._live: dict[Run, float] = {}
        self._open: dict[Run | None, OrderedDict[str | None, tuple[str, float]]] = {None: OrderedDict()}

    @crewbus.hookimpl
    def crewbus_configure(self) -> None:
        """Begin to serve a bus."""
        if self._serves:
            raise PluginError("a Metrics serves one bus: make another one for another")
        self._serves = True
        self._begin()

    @crewbus.hookimpl
    def crewbus_run_start(self, run: Run) -> None:
        """Note when the run began."""
        with self._lock:
            self._live[run] = clock()
            self._open[run] = OrderedDict()

    @crewbus.hookimpl
    def crewbus_emit(self, run: Run | None, envelope: Envelope) -> None:
        """Count the event, and time the call that it begins or ends."""
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
        if calls is None:  # the run has ended, or is older than this plugin
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
        """Add the run's duration to those of its name, and keep nothing of the run itself."""
        with self._lock:
            self._open.pop(run, None)
            began = self._live.pop(run, None)
            if began is not None:
                self._runs[run.name or UNNAMED].add(run.state, clock() - began)

    @crewbus.hookimpl
    def crewbus_fork(self) -> None:
        """Begin anew in a forked child, with a lock that nobody holds."""
        self._begin()

    @crewbus.hookimpl
    def crewbus_close(self) -> None:
        """Stop the clock, and give the summary if there is anything to tell."""
        with self._lock:
            self._ended = clock()
            self._live.clear()
            self._open.clear()
        snapshot = self.snapshot()
        if snapshot.total.count:
            self._summary(str(snapshot))

    def snapshot(self) -> Snapshot:
        """The figures so far. Any thread may ask, at any time."""
        with self._lock:
            seconds = (clock() if self._ended is None else self._ended) - self._began
            events = {name: Events.of(counts, seconds) for name, counts in self._events.copy().items()}
            runs = {name: durations.timing() for name, durations in self._runs.copy().items()}
            calls = {name: durations.timing() for name, durations in self._calls.copy().items()}
        total = sum((Counter(of.counts) for of in events.values()), start=Counter[str]())
        return Snapshot(seconds, Events.of(total, seconds), events, runs, calls)


class _Durations:
    """How many runs or calls of one name ended, by outcome, and how long they took."""

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
    """Something for each name, made when it is first asked for; beyond the bound, one for all new names."""

    def __init__(self, new: Callable[[], V]) -> None:
        super().__init__()
        self.new = new

    def __missing__(self, name: str) -> V:
        return self.setdefault(name if len(self) < NAMES or name == OUTSIDE else OTHERS, self.new())
