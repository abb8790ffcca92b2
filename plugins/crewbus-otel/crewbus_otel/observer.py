"""Observes a bus: starts and ends the spans, makes them current, and feeds the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

import crewbus
from crewbus import (
    AttemptEnded,
    AttemptStarted,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    CheckpointSaved,
    Chunk,
    Retracted,
    Run,
    RunCancelled,
    RunFailed,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepFailed,
    StepFinished,
    StepStarted,
)
from crewbus_otel import conventions as names
from crewbus_otel.attributes import Attributes, described, end_attributes, nanoseconds, span_name
from crewbus_otel.content import input_attributes, output_attributes
from crewbus_otel.identity import TRACEPARENT, trace_tags
from crewbus_otel.spans import Opener, OpenScope, OpenScopes, here
from crewbus_otel.tracing import Subject, Tracing
from crewbus_otel.turns import Turns

if TYPE_CHECKING:
    from contextvars import Token

    from crewbus import Envelope
    from crewbus.scopes import Scope
    from crewbus_otel.metering import Meters

_CLIENTS: Final = {"model", "embedding", "retrieval"}
"""The kinds of calls that leave the process."""
_ENDS: Final[Mapping[type, tuple[Literal["run", "call", "step"], str]]] = {
    crewbus.RunFinished: ("run", "finished"),
    RunFailed: ("run", "failed"),
    RunCancelled: ("run", "cancelled"),
    RunSuspended: ("run", "suspended"),
    CallFinished: ("call", "finished"),
    CallFailed: ("call", "failed"),
    CallCancelled: ("call", "cancelled"),
    StepFinished: ("step", "finished"),
    StepFailed: ("step", "failed"),
}


class Observer:
    """The plugin that does the work, once there is something to export to."""

    def __init__(self, tracer: Tracer, meters: Meters, conventions: names.Conventions, captures_content: bool) -> None:
        self._tracing = Tracing(tracer, conventions)
        self._meters = meters
        self._names = conventions
        self._captures_content = captures_content
        self._reset()
        self._acts: dict[type, Callable[[Run | None, Envelope], object]] = {
            RunStarted: self._run_started,
            RunResumed: self._run_resumed,
            CallStarted: self._call_started,
            StepStarted: self._step_started,
            AttemptStarted: self._attempt_started,
            AttemptEnded: self._attempt_ended,
            Retracted: self._retracted,
            CheckpointSaved: self._checkpoint_saved,
            **dict.fromkeys(_ENDS, self._ended),
        }

    def _reset(self) -> None:
        self._scopes = OpenScopes()
        self._by_id = self._scopes.by_id
        self._turns = Turns()
        self._failures: dict[str | None, str] = {}
        """With what a run failed, until it has finished."""

    # Hooks

    @crewbus.hookimpl
    def crewbus_emit(self, run: Run | None, envelope: Envelope) -> None:
        """Start or end a span, add an event to one, or count a chunk."""
        kind = envelope.event.__class__
        if kind is Chunk:  # first, since it is called for each token
            scope = self._by_id.get(envelope.parent)
            if scope is not None and not envelope.replayed:
                scope.count(envelope.at)
        elif kind in self._acts:
            self._turns.take(partial(self._acts[kind], run, envelope))
        elif isinstance(envelope.event, Chunk) and not envelope.replayed:
            scope = self._by_id.get(envelope.parent)
            if scope is not None:
                scope.count(envelope.at)

    @crewbus.hookimpl
    def crewbus_scope(self, scope: Scope) -> AbstractContextManager[object] | None:
        """Make the scope's span current for its code. A root run keeps its caller's span in its tags, and record."""
        if isinstance(scope, Run) and scope.parent is None and scope.resumed is None and TRACEPARENT not in scope.tags:
            caller = trace_tags()
            if caller:
                scope.set_tags({**scope.tags, **caller})
        return None if scope.scope_kind == "attempt" else Current(self._scopes, scope)

    @crewbus.hookimpl
    def crewbus_run_finish(self, run: Run) -> None:
        """End what is still open of a run that has ended: its record has no end of it."""
        self._turns.take(partial(self._run_finished, run))

    def _run_finished(self, run: Run) -> None:
        for scope in self._scopes.take_run(run.id):
            self._finish(scope, "unfinished", None)
        error = self._failures.pop(run.id, None)
        if run.parent is None:
            self._meters.root_ended(run, error)

    @crewbus.hookimpl
    def crewbus_after_fork(self) -> None:
        """Forget the spans in a forked child: the parent ends them."""
        self._reset()

    @crewbus.hookimpl
    def crewbus_close(self) -> None:
        """End what is still open."""
        for scope in self._scopes.take_all():
            self._finish(scope, "unfinished", None)

    # Starts

    def _run_started(self, run: Run | None, envelope: Envelope) -> None:
        event: RunStarted = envelope.event
        attributes: Attributes = {
            names.OPERATION: names.AGENT,
            names.RUN_ID: envelope.run_id,
            names.NUMBER: envelope.seq,
        }
        if event.name:
            attributes[names.AGENT_NAME] = event.name
        attributes |= {names.TAG + tag: value for tag, value in event.tags.items() if tag != TRACEPARENT}
        subject = Subject(names.AGENT, event.name or "", attributes)
        name = span_name(names.AGENT, event.name)
        outer = self._scopes.around(envelope) if envelope.parent is not None else None
        if run is not None and run.parent is None:
            opener: Opener = partial(self._tracing.open_root, run, event.tags, name, subject)
        elif outer is not None:
            opener = partial(self._tracing.open_nested_run, outer, name, subject)
        else:  # the run around it began before the plugin was there
            opener = partial(self._tracing.open, name, SpanKind.INTERNAL, attributes)
        self._scopes.add(OpenScope("run", envelope, outer, opener, subject))

    def _run_resumed(self, _: Run | None, envelope: Envelope) -> None:
        scope = self._scopes.find(envelope.parent)
        if scope is not None:
            scope.opened()

    def _call_started(self, _: Run | None, envelope: Envelope) -> None:
        event: CallStarted = envelope.event
        kind = event.kind or ""
        operation = names.OPERATIONS.get(kind)
        attributes: Attributes = {names.CALL_NAME: event.name, names.NUMBER: envelope.seq}
        if operation is not None:
            attributes |= {names.OPERATION: operation, names.SUBJECTS[kind]: event.name}
        attributes |= described(event.attributes)
        if self._captures_content:
            attributes |= input_attributes(kind, event.input)
        subject = Subject(operation, event.name, attributes, kind)
        name = event.name if operation is None else span_name(operation, str(attributes[names.SUBJECTS[kind]]))
        span_kind = SpanKind.CLIENT if kind in _CLIENTS else SpanKind.INTERNAL
        opener = partial(self._tracing.open, name, span_kind, attributes)
        self._scopes.add(OpenScope("call", envelope, self._scopes.around(envelope), opener, subject))
        if (oldest := self._scopes.overflow()) is not None:
            self._finish(oldest, "unfinished", None)

    def _step_started(self, _: Run | None, envelope: Envelope) -> None:
        name = envelope.event.name
        opener = partial(
            self._tracing.open, f"step {name}", SpanKind.INTERNAL, {names.STEP_NAME: name, names.NUMBER: envelope.seq}
        )
        subject = Subject(None, name, {})
        self._scopes.add(OpenScope("step", envelope, self._scopes.around(envelope), opener, subject))

    def _attempt_started(self, _: Run | None, envelope: Envelope) -> None:
        scope = OpenScope("attempt", envelope, self._scopes.around(envelope), None)
        self._scopes.add(scope)
        if not envelope.replayed:
            scope.opened()
            _add_event(scope, "crewbus.attempt", envelope, {"crewbus.attempt.number": envelope.event.number})

    # Ends

    def _ended(self, _: Run | None, envelope: Envelope) -> None:
        kind, outcome = _ENDS[envelope.event.__class__]
        scope = self._scopes.end(kind, envelope)
        if isinstance(envelope.event, RunFailed):
            self._failures[envelope.run_id] = envelope.event.error
        if scope is None:
            return
        if not envelope.replayed:
            scope.opened()
        self._finish(scope, outcome, envelope)

    def _finish(self, scope: OpenScope, outcome: str, envelope: Envelope | None) -> None:
        """End its span, if it has one. ``envelope``: with what it ended; None: its record has no end."""
        span, subject = scope.span, scope.subject
        if span is None or not isinstance(subject, Subject):
            return
        event = envelope.event if envelope is not None else None
        ended = end_attributes(event) | {names.OUTCOME: outcome}
        if scope.first is not None:
            ended |= {names.CHUNKS: scope.chunks, names.TIME_TO_FIRST_CHUNK: scope.first - scope.began}
            if scope.kind == "call":
                ended[names.STREAMED] = True
        usage: Mapping[str, int] = {}
        if isinstance(event, CallFinished):
            usage = event.usage or {}
            ended |= {self._names.usage.get(key, f"crewbus.usage.{key}"): count for key, count in usage.items()}
            if event.cost is not None:
                ended[names.COST] = event.cost
            if self._captures_content:
                ended |= output_attributes(subject.kind, event.output)
        if span.is_recording():
            span.set_attributes(ended)
            if outcome == "failed":
                span.set_status(Status(StatusCode.ERROR, getattr(event, "message", "")))
        span.end(nanoseconds(envelope.at) if envelope is not None else None)
        if envelope is not None:
            seconds = envelope.at - scope.began
            self._meters.ended(subject.operation, seconds, {**subject.attributes, **ended}, usage)

    # Events

    def _attempt_ended(self, _: Run | None, envelope: Envelope) -> None:
        scope = self._scopes.end("attempt", envelope)
        if scope is None or envelope.replayed:
            return
        event: AttemptEnded = envelope.event
        about = {"crewbus.attempt.number": event.number, names.OUTCOME: event.outcome}
        if event.error:
            about[names.ERROR_TYPE] = event.error.removeprefix("builtins.")
        _add_event(scope, "crewbus.attempt.ended", envelope, about)

    def _retracted(self, _: Run | None, envelope: Envelope) -> None:
        if envelope.replayed:
            return
        event: Retracted = envelope.event
        about = {"crewbus.retracted.since": event.since, names.REASON: event.reason}
        _add_event(self._scopes.around(envelope), "crewbus.retracted", envelope, about)

    def _checkpoint_saved(self, _: Run | None, envelope: Envelope) -> None:
        if not envelope.replayed:
            about = {"crewbus.checkpoint.name": envelope.event.name}
            _add_event(self._scopes.around(envelope), "crewbus.checkpoint", envelope, about)


class Current:
    """Makes a scope and its span current, for `crewbus_scope`."""

    __slots__ = ("_here", "_scope", "_scopes", "_token")

    def __init__(self, scopes: OpenScopes, scope: Scope) -> None:
        self._scopes = scopes
        self._scope = scope
        self._here: Token[OpenScope | None] | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        found = self._scopes.find(self._scope.start_id)
        if found is None:
            return
        self._here = here.set(found)
        holder = found.nearest()
        if holder is not None and holder.span is not None:
            self._token = contexts.attach(set_span_in_context(holder.span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            contexts.detach(self._token)
        if self._here is not None:
            here.reset(self._here)


def _add_event(scope: OpenScope | None, name: str, envelope: Envelope, attributes: Attributes) -> None:
    holder = scope.nearest() if scope is not None else None
    if holder is not None and holder.span is not None:
        holder.span.add_event(name, attributes, nanoseconds(envelope.at))
