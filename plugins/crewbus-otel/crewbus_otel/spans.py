"""The open scopes of a bus with their spans: each has the span of what is around it in the record as its parent."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry.trace import Span

from crewbus import reentrant_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crewbus import Envelope

MOST_OUTSIDE: Final = 1000
"""How many calls outside any run may be open."""
Kind = Literal["run", "call", "step", "attempt"]
Opener = Callable[["Span | None", float], Span]
"""Starts a span, given the one around it, and when it began."""


class OpenScope:
    """A run, call, step or attempt in progress.

    An attempt has no span of its own: what is in it belongs to the span around. What a resumed run repeats from its
    record has none either, until anything new happens in it.
    """

    __slots__ = ("_lock", "_open", "began", "chunks", "first", "id", "kind", "outer", "run_id", "span", "subject")

    def __init__(
        self, kind: Kind, start: Envelope, outer: OpenScope | None, opener: Opener | None, subject: object = None
    ) -> None:
        self.kind: Final = kind
        self.id: Final = start.id
        self.run_id: Final = start.run_id
        self.outer: Final = outer
        self.subject = subject
        """What its observer needs to know at its end."""
        self.began = time.time() if start.replayed else start.at
        self.span: Span | None = None
        self.chunks = 0
        self.first: float | None = None
        """When its first chunk was emitted."""
        self._open = opener
        self._lock = reentrant_lock()  # a finaliser may emit while its thread counts
        if not start.replayed:
            self.opened()

    def opened(self) -> Span | None:
        """Its span, or that of what is around it; it is started if it was not: something new happens in it."""
        if self._open is not None:
            with self._lock:
                opener, self._open = self._open, None
                if opener is not None:
                    around = self.outer.opened() if self.outer is not None else None
                    self.span = opener(around, self.began)
        return self.span if self.span is not None or self.outer is None else self.outer.opened()

    def nearest(self) -> OpenScope | None:
        """It, or the innermost scope around it that has a span; nothing is started."""
        here: OpenScope | None = self
        while here is not None and here.span is None:
            here = here.outer
        return here

    def count(self, at: float) -> None:
        """A chunk was emitted in it."""
        if self.span is None:
            self.opened()
            holder = self.nearest()
            if holder is not None:
                holder.count(at)
            return
        with self._lock:
            self.chunks += 1
            if self.first is None:
                self.first = at

    def around(self, kind: Kind) -> Iterator[OpenScope]:
        """It and the scopes around it that are of this kind, from the innermost."""
        here: OpenScope | None = self
        while here is not None:
            if here.kind == kind:
                yield here
            here = here.outer


here: Final[ContextVar[OpenScope | None]] = ContextVar("crewbus_otel_here", default=None)
"""The innermost scope whose code runs in this context."""


class OpenScopes:
    """The scopes in progress, by the id of the envelope that started each."""

    def __init__(self) -> None:
        self.by_id: dict[str | None, OpenScope] = {}
        self._of_run: dict[str | None, dict[str, None]] = {None: {}}
        self._runs: dict[str | None, OpenScope] = {}

    def add(self, scope: OpenScope) -> None:
        """It has started."""
        self.by_id[scope.id] = scope
        if scope.kind == "run":
            self._runs[scope.run_id] = scope
            self._of_run[scope.run_id] = {}
        of_run = self._of_run.get(scope.run_id)
        if of_run is not None:
            of_run[scope.id] = None

    def overflow(self) -> OpenScope | None:
        """Remove and return the oldest call outside any run, if there are too many: nothing would ever end it."""
        outside = self._of_run[None]
        return self.remove(next(iter(outside.copy()))) if len(outside) > MOST_OUTSIDE else None

    def around(self, envelope: Envelope) -> OpenScope | None:
        """What the event was emitted in.

        A resumed run may repeat something in a step that it executes again: the record has it in the earlier try, which
        is not open. Then it is in what its code runs in; and what comes late is in its run.
        """
        found = self.by_id.get(envelope.parent)
        if found is not None or envelope.run_id is None:
            return found
        running = here.get()
        if running is not None and running.run_id == envelope.run_id and self.by_id.get(running.id) is running:
            return running
        return self._runs.get(envelope.run_id)

    def find(self, start_id: str | None) -> OpenScope | None:
        """The one that the envelope of this id started."""
        return self.by_id.get(start_id)

    def end(self, kind: Kind, envelope: Envelope) -> OpenScope | None:
        """Remove and return what ``envelope`` ends; None if it is no longer there: each is returned once."""
        found = self.by_id.get(envelope.parent)
        ended = next(found.around(kind), None) if found is not None else None  # it may end during an attempt
        return self.remove(ended.id) if ended is not None else None

    def remove(self, scope_id: str) -> OpenScope | None:
        """Remove and return one; None if it is no longer there."""
        scope = self.by_id.pop(scope_id, None)
        if scope is not None:
            self._of_run.get(scope.run_id, {}).pop(scope_id, None)
        return scope

    def take_run(self, run_id: str) -> list[OpenScope]:
        """Remove and return what is still open of a run that ended, the innermost first."""
        self._runs.pop(run_id, None)
        left = self._of_run.pop(run_id, {})
        return [scope for one in reversed(left.copy()) if (scope := self.by_id.pop(one, None)) is not None]

    def take_all(self) -> list[OpenScope]:
        """Remove and return all, the innermost first."""
        left = [scope for one in reversed(self.by_id.copy()) if (scope := self.by_id.pop(one, None)) is not None]
        self._of_run = {None: {}}
        self._runs.clear()
        return left
