"""Which trace a run is in: ids that follow from the run's, and the caller's trace in a run's tags."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from opentelemetry.trace import SpanContext, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT: Final = "traceparent"
"""The tag with the span that caused a run, as in the header of W3C Trace Context."""
_PROPAGATOR: Final = TraceContextTextMapPropagator()


def trace_id_of(run_id: str, epoch: int = 1) -> str:
    """The id of the trace of a root run that no span caused, as 32 hex digits; the same on every machine.

    ``epoch``: which start it is, from 1: each resume is a trace of its own, with the epoch that its
    `crewbus.RunResumed` has. It is the beginning of the SHA-256 of ``crewbus trace EPOCH RUN_ID``.
    """
    return _digest("trace", run_id, epoch, 32)


def span_id_of(run_id: str, epoch: int = 1) -> str:
    """The id of the span of a recorded root run, as 16 hex digits: as `trace_id_of`, with ``span`` for ``trace``."""
    return _digest("span", run_id, epoch, 16)


def trace_tags() -> dict[str, str]:
    """Tags with the current span, as ``traceparent``; none if there is none.

    For a run that starts elsewhere, as one that a worker takes from a queue: its span is then a child of this span.
    """
    tags: dict[str, str] = {}
    _PROPAGATOR.inject(tags)
    return tags


def span_context_in(tags: Mapping[str, str]) -> SpanContext | None:
    """The span in the ``traceparent`` of a run's tags; None if there is none, or no valid one."""
    if TRACEPARENT not in tags:
        return None
    found = get_current_span(_PROPAGATOR.extract(tags)).get_span_context()
    return found if found.is_valid else None


def recorded_context(run_id: str, epoch: int, caused_by: SpanContext | None) -> SpanContext:
    """The span of a recorded root run as it started with ``epoch``, for a link; ``caused_by``: from its tags."""
    trace_id = caused_by.trace_id if caused_by is not None and epoch == 1 else int(trace_id_of(run_id, epoch), 16)
    return SpanContext(trace_id, int(span_id_of(run_id, epoch), 16), is_remote=True, trace_flags=TraceFlags(1))


def _digest(what: str, run_id: str, epoch: int, digits: int) -> str:
    return sha256(f"crewbus {what} {epoch} {run_id}".encode()).hexdigest()[:digits]


class ChosenIds:
    """The id generator of one tracer: gives the chosen ids to the next span that its thread starts."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._chosen = threading.local()

    @classmethod
    def install(cls, tracer: Any) -> ChosenIds | None:
        """Replace the generator of ``tracer``, which is the SDK's; None: another SDK's has none, and its ids remain."""
        if not hasattr(tracer, "id_generator"):
            return None
        chosen = tracer.id_generator = cls(tracer.id_generator)
        return chosen

    def choose(self, trace_id: str | None, span_id: str | None) -> None:
        """Give these to the next span; None: any."""
        self._chosen.trace_id, self._chosen.span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        """The chosen id, or a new one."""
        chosen = getattr(self._chosen, "trace_id", None)
        return int(chosen, 16) if chosen else int(self._generator.generate_trace_id())

    def generate_span_id(self) -> int:
        """The chosen id, or a new one."""
        chosen = getattr(self._chosen, "span_id", None)
        return int(chosen, 16) if chosen else int(self._generator.generate_span_id())

    def is_trace_id_random(self) -> bool:
        """Whether a sampler may take the digits for random: those of a digest are as good."""
        return True
