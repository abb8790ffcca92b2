"""The metrics: of operations and tokens by the GenAI conventions, and of the bus itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

from crewbus_otel import conventions as names

try:
    from crewbus_workers import queues
except ImportError:  # a distribution of its own, which need not be there
    HAS_QUEUES = False
else:
    HAS_QUEUES = True

if TYPE_CHECKING:
    from collections.abc import Callable

    from crewbus import Bus, Run

Attributes = Mapping[str, Any]
_DIMENSIONS: Final = (
    names.PROVIDER,
    names.REQUEST_MODEL,
    names.RESPONSE_MODEL,
    names.TOOL_NAME,
    names.SERVER_ADDRESS,
    names.SERVER_PORT,
    names.ERROR_TYPE,
)
"""The attributes of a span that its metrics have too: there are few values of each."""
_TOKEN_TYPES: Final = {"input_tokens": "input", "output_tokens": "output"}
_FENCED: Final = "crewbus.exceptions.FencedError"


class Meters:
    """The instruments of one bus."""

    def __init__(self, meter: Meter, conventions: names.Conventions, bus: Bus) -> None:
        self._names = conventions
        self._bus = ref(bus)
        self._durations = {name: _seconds(meter, name) for name in {*conventions.durations.values()}}
        shared = {name for name in conventions.tokens.values() if [*conventions.tokens.values()].count(name) > 1}
        self._tokens: dict[str, Histogram | Counter] = {}
        for name in {*conventions.tokens.values()}:
            make = _token_histogram if name in shared else _token_counter
            self._tokens[name] = make(meter, name)
        self._commits = _seconds(meter, names.COMMIT_DURATION)
        self._dropped = meter.create_counter(names.DROPPED_FRAMES, "{frame}")
        self._lost = meter.create_counter(names.LOST_LEASES, "{lease}")
        self._gauge(meter, names.ACTIVE_RUNS, "{run}", _active_runs)
        self._gauge(meter, names.BACKLOG_EVENTS, "{event}", lambda bus: _backlog(bus, "events"))
        self._gauge(meter, names.BACKLOG_BYTES, "By", lambda bus: _backlog(bus, "bytes"))
        self._gauge(meter, names.BACKLOG_AGE, "s", lambda bus: _backlog(bus, "seconds"))
        if HAS_QUEUES:
            self._gauge(meter, names.QUEUE_LENGTH, "{run}", _queue_lengths)
            self._gauge(meter, names.QUEUE_AGE, "s", _queue_ages)

    def _gauge(self, meter: Meter, name: str, unit: str, read: Callable[[Bus], Iterable[Observation]]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            bus = self._bus()
            return [] if bus is None or bus.closed else [*read(bus)]

        meter.create_observable_gauge(name, [observe], unit)

    def ended(self, operation: str | None, seconds: float, attributes: Attributes, usage: Mapping[str, int]) -> None:
        """A run or call ended: ``operation`` is None for a call whose kind is not known."""
        if operation is None:
            return
        about = {names.OPERATION: operation}
        about |= {name: attributes[name] for name in _DIMENSIONS if name in attributes}
        self._durations[self._names.durations[operation]].record(seconds, about)
        about.pop(names.ERROR_TYPE, None)
        for key, name in self._names.tokens.items():
            if key in usage:
                self._count_tokens(name, key, usage[key], about)

    def _count_tokens(self, name: str, key: str, count: int, about: Attributes) -> None:
        instrument = self._tokens[name]
        if isinstance(instrument, Histogram):
            instrument.record(count, {**about, names.TOKEN_TYPE: _TOKEN_TYPES[key]})
        else:
            instrument.add(count, {**about})

    def root_ended(self, run: Run, error: str | None = None) -> None:
        """A root run ended, with all that its streams dropped; its last events are on their way to the store."""
        if dropped := run.dropped_frames:
            self._dropped.add(dropped)
        if error == _FENCED:
            self._lost.add(1)
        elif run.recorded:
            self._time_commit(run)

    def _time_commit(self, run: Run) -> None:
        bus, began = self._bus(), time.perf_counter()
        if bus is not None:
            bus.store.when_written(run.id, lambda _: self._commits.record(time.perf_counter() - began))


def _seconds(meter: Meter, name: str) -> Histogram:
    return meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=names.DURATIONS)


def _token_histogram(meter: Meter, name: str) -> Histogram:
    return meter.create_histogram(name, "{token}", explicit_bucket_boundaries_advisory=names.TOKENS)


def _token_counter(meter: Meter, name: str) -> Counter:
    return meter.create_counter(name, "{token}")


def _active_runs(bus: Bus) -> Iterator[Observation]:
    yield Observation(len(bus.runs))


def _backlog(bus: Bus, what: str) -> Iterator[Observation]:
    yield Observation(getattr(bus.backlog, what))


def _queue_lengths(bus: Bus) -> Iterator[Observation]:
    for queue in queues(bus):
        for state in ("waiting", "later", "running", "stuck"):
            yield Observation(getattr(queue, state), {"crewbus.queue.name": queue.name, "crewbus.queue.state": state})


def _queue_ages(bus: Bus) -> Iterator[Observation]:
    for queue in queues(bus):
        yield Observation(queue.oldest or 0.0, {"crewbus.queue.name": queue.name})
