"""Starts spans: of root runs, nested runs, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from crewbus_otel import conventions as names
from crewbus_otel.attributes import Attributes, nanoseconds, span_name
from crewbus_otel.identity import ChosenIds, recorded_context, span_context_in, span_id_of, trace_id_of
from crewbus_otel.spans import OpenScope

if TYPE_CHECKING:
    from crewbus import Run

__all__ = ["Subject", "Tracing"]


class Subject:
    """What is known of a run, call or step until it ends."""

    __slots__ = ("attributes", "kind", "name", "operation")

    def __init__(self, operation: str | None, name: str, attributes: Attributes, kind: str | None = None) -> None:
        self.operation = operation
        self.name = name
        self.attributes = attributes
        self.kind = kind


class Tracing:
    """Starts the spans of one bus."""

    def __init__(self, tracer: Tracer, conventions: names.Conventions) -> None:
        self._tracer = tracer
        self._ids = ChosenIds.install(tracer)
        self._names = conventions

    def open(self, name: str, kind: SpanKind, attributes: Attributes, around: Span | None, began: float) -> Span:
        """The span of something in ``around``; None: in what is current here."""
        context = set_span_in_context(around) if around is not None else None
        return self._tracer.start_span(name, context, kind, attributes, start_time=nanoseconds(began))

    def open_nested_run(self, outer: OpenScope, name: str, subject: Subject, around: Span | None, began: float) -> Span:
        """The span of a run in another, which is a workflow then."""
        self._name_workflow(outer)
        return self.open(name, SpanKind.INTERNAL, subject.attributes, around, began)

    def open_root(
        self, run: Run, tags: Mapping[str, str], name: str, subject: Subject, around: Span | None, began: float
    ) -> Span:
        """The span of a root run: in a new trace with a link, if it goes on from another one; else in the caller's."""
        context = contexts.get_current() if around is None else set_span_in_context(around)
        caused_by = span_context_in(tags)
        epoch = run.resumed.epoch if run.resumed is not None else 1
        links = [Link(one) for one in _before(run, epoch, caused_by)]
        if links:
            caller = get_current_span().get_span_context()
            links += [Link(caller)] if caller.is_valid else []
            context = set_span_in_context(INVALID_SPAN, context)
            subject.attributes[names.EPOCH] = epoch
        elif caused_by is not None:
            context = set_span_in_context(NonRecordingSpan(caused_by), context)
        if self._ids is not None:
            self._ids.choose(trace_id_of(run.id, epoch), span_id_of(run.id, epoch) if run.recorded else None)
        try:
            return self._tracer.start_span(
                name, context, SpanKind.INTERNAL, subject.attributes, links, nanoseconds(began)
            )
        finally:
            if self._ids is not None:
                self._ids.choose(None, None)

    def _name_workflow(self, scope: OpenScope) -> None:
        """The outermost run around a nested one is a workflow."""
        runs = [*scope.around("run")]
        if not runs:  # it is in a call outside any run
            return
        outermost = runs[-1]
        subject, span = outermost.subject, outermost.span
        if span is None or not isinstance(subject, Subject) or subject.operation == names.WORKFLOW:
            return
        subject.operation = names.WORKFLOW
        span.update_name(span_name(names.WORKFLOW, subject.name))
        span.set_attribute(names.OPERATION, names.WORKFLOW)
        if subject.name:
            span.set_attribute(self._names.workflow_name, subject.name)


def _before(run: Run, epoch: int, caused_by: SpanContext | None) -> list[SpanContext]:
    """The spans that a run goes on from: those of the start before this one, and of the run that it was forked from."""
    found = [recorded_context(run.id, epoch - 1, caused_by)] if epoch > 1 else []
    if run.forked_from is not None:
        found.append(recorded_context(run.forked_from.run_id, 1, caused_by))
    return found
