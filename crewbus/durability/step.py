"""Steps: units of work whose recorded result is returned, not computed again, when their run is resumed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from crewbus._util.callables import name_of
from crewbus.durability.run_log import Base, FailedTry
from crewbus.durability.step_function import Declared, Key
from crewbus.events import Envelope, Retracted, StepFailed, StepFinished, StepStarted
from crewbus.exceptions import BusClosedError, text_of
from crewbus.scopes.current import scope, strand
from crewbus.scopes.scope import ENDS, OPENS, WITHIN, Attempt, Scope
from crewbus.serialization.codec import Written

if TYPE_CHECKING:
    from crewbus.records.progress import RecordedScope
    from crewbus.scopes.run import Run

__all__ = ["Step", "step"]

F = TypeVar("F", bound=Callable[..., Any])

NO_BASE: Base = ("", "", "")


class Step(Attempt):
    """One call of a step, in a run: a scope like an attempt, which tells how it ended, and with what.

    What is emitted in it belongs to it. When an Exception ends it, what it streamed is taken back, except what the
    steps in it did that had finished.
    """

    __slots__ = ("_draft", "_written", "base_key", "event", "finished_at", "recorded", "started_at", "strand", "well")

    def __init__(self, of: Scope, event: StepStarted, base: Base = NO_BASE, draft: FailedTry | None = None) -> None:
        super().__init__(of, None)
        self.event = event
        self.base_key = base
        """What it has in common with those that are told from it by their ordinal."""
        self.finished_at = -1
        """The number of the last step that finished in it."""
        self.recorded: RecordedScope | None = None
        """What the record of a resumed run has of it, where it was left open or failed."""
        self.started_at = -1
        """The number of its start."""
        self.well = False
        """Whether it has ended with a result."""
        self.strand = 0
        """The thread or task that it was called in."""
        self._draft = draft
        self._written = Written(None, None, 0)

    def __repr__(self) -> str:
        return f"<Step {self.event.name} in {self.of!r}>"

    @property
    def place(self) -> Step:
        """Itself: what steps are called in is a run, or another step."""
        return self

    @property
    def around(self) -> Run | Step | None:
        """The run or step that it is called in."""
        return self.of.place

    def start(self) -> None:
        """Start the step, without putting it in scope."""
        self.outer = scope.get()
        self.strand = strand()
        self._open_under(self.of)
        self.attempts = (*self.of.attempts, self)
        try:
            if self._draft is not None:
                taken_back = Retracted(self._draft.since, "failed, and tried again", self._draft.opened)
                self.bus._turn(self.of, taken_back, WITHIN)
            self._started, self.ended = True, False
            self.bus._turn(self, self.event, OPENS)
        except BaseException:
            self.ended = True
            self._give_back(self._draft)
            raise

    def turn(self, turn: int, envelope: Envelope) -> None:
        """Be opened or ended by ``envelope``; called under the lock."""
        if turn != ENDS:
            super().turn(turn, envelope)
            self.started_at = envelope.seq
            if self.recorded is not None and turn == OPENS:
                self.since = self.recorded.start + 1
                self.opened += self.recorded.emission_parents(finished_steps=True)
                self.finished_at = max(self.finished_at, self.recorded.boundary)
        elif isinstance(envelope.event, StepFinished):
            self._has_finished(envelope.seq)

    def _has_finished(self, seq: int) -> None:
        self.well = True
        log = self.base.log
        if log is None:
            return
        log.ordinals.forget_in(self.event.identity)
        for attempt in self.of.attempts:
            attempt.steps.append((self.base_key, self.event.ordinal))
            if isinstance(attempt, Step):
                attempt.finished_at = max(attempt.finished_at, seq)

    def recall(self, recorded: RecordedScope) -> None:
        """Have finished as recorded, without being called; called under the lock."""
        self._has_finished(recorded.end if recorded.end is not None else -1)
        for attempt in self.of.attempts:
            attempt.opened += recorded.emission_parents(finished_steps=True)

    def give(self, written: Written) -> None:
        """Have it end with this result."""
        self._written = written

    def finish(self) -> None:
        """End the step with its result."""
        if self.bus.closed and self.base.log is not None:
            raise BusClosedError(f"this bus is closed: the result of step {self.event.name!r} can't be recorded")
        if self._end():
            self.bus._turn(self, StepFinished(self.event.name, *self._written), ENDS)

    def fail(self, error: BaseException | str) -> None:
        """End the step with ``error``: an Exception takes back what it streamed; left otherwise, it stays open."""
        if not self._end():
            return
        if isinstance(error, Exception):
            try:
                self._take_back(f"{type(error).__name__}: {text_of(error)}")
            finally:
                self.bus._turn(self, StepFailed(self.event.name, name_of(type(error)), text_of(error)), ENDS)
        else:
            self._undo()

    def _take_back(self, reason: str) -> None:
        since, parents = self.bus._loose_in(self)
        with self.base.lock:
            self.failed = True
            self._undo()
        self.bus._turn(self, Retracted(since, reason, parents), ENDS)

    def _undo(self) -> None:
        """Have another try at it be the same step; called under the lock."""
        self._give_back(FailedTry(self.since, tuple(self.opened), tuple(self.steps)))
        self.steps = []

    def unconfirmed(self) -> None:
        """Have it be tried again: nobody was given its result, since it may not be on disk."""
        with self.base.lock:
            self._undo()

    def _give_back(self, draft: FailedTry | None) -> None:
        log = self.base.log
        if log is not None:
            with self.base.lock:
                log.ordinals.give_back(self.base_key, self.event.ordinal, draft)

    def _exit(self, error: BaseException | None) -> None:
        if error is not None:
            self.fail(error)
            return
        try:
            self.finish()
        except BaseException as refused:  # its result is too large for the store, say
            self.ended = False
            self.fail(refused)
            raise


def path_of(place: Run | Step | None) -> str:
    """What tells a run or step from others by its place: the names of the runs around it, and the steps."""
    if place is None or (place.around is None and not isinstance(place, Step)):
        return ""
    if isinstance(place, Step):
        return place.event.identity
    return json.dumps([path_of(place.around), place.name])


def identity_of(base: Base, ordinal: int) -> str:
    """By what a resumed run finds a step: 24 hex digits."""
    return hashlib.blake2b(json.dumps([*base, ordinal]).encode(), digest_size=12).hexdigest()


def _nearest() -> Scope | None:
    """What is in scope of a recorded run, of whichever bus; where none is recorded, what was entered last."""
    innermost = here = scope.get()
    while here is not None:
        if here.run is not None and here.run.recorded:
            return here
        here = here.outer
    return innermost


@overload
def step(function: F, /) -> F: ...
@overload
def step(*, name: str | None = None, key: Key | None = None) -> Callable[[F], F]: ...
def step(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, key: Key | None = None
) -> Callable[..., Any]:
    """Make a function, sync or async, a step: in a recorded run its result is on disk before it is returned.

    A run that is resumed returns the recorded result and does not call the function again. ``name`` is by default the
    function's qualified name. Calls of one name are told apart by their arguments, or else by ``key``: a text, or a
    function of the arguments that returns one; equal ones by their order. The result must be what JSON gives back,
    an instance of a registered type, or what the return annotation describes: `UnserializableError` otherwise, when
    it returns. In a run that is not recorded it is called, and its events are emitted; outside any run it is just
    called. Raises `StepError` for what can't be a step.

    >>> @step
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double(21)
    42
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        declared = Declared(getattr(function, "__qualname__", "step") if name is None else name, function, key)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            here = _nearest()
            if here is None:
                return function(*args, **kwargs)
            return here.bus._perform(declared, here, args, kwargs)

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            here = _nearest()
            if here is None:
                return await function(*args, **kwargs)
            return await here.bus._perform(declared, here, args, kwargs)

        return acall if declared.is_async else call

    return declare if function is None else declare(function)
