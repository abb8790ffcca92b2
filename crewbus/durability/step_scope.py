"""Steps: units of work whose recorded outcome is returned, not computed again, when their run is resumed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, overload

from crewbus._util import module_name, name_of
from crewbus.durability import failures, unrecorded
from crewbus.durability.failures import Raises
from crewbus.durability.home import Home, StepKey, Tried
from crewbus.durability.nested_runs import NestedRuns, digest
from crewbus.durability.retries import Backoff, Retries
from crewbus.durability.step_function import Key, StepFunction
from crewbus.events import Envelope, Retracted, StepFailed, StepFinished, StepStarted
from crewbus.exceptions import BusClosedError, StepError, note_failed_step, text_of
from crewbus.scopes import (
    Attempt,
    Deferring,
    Phase,
    Run,
    Scope,
    ScopeKind,
    enclosing,
    execution_id,
    innermost,
    was_told_to_suspend,
)

if TYPE_CHECKING:
    from crewbus.records import RecordedHome
    from crewbus.serialization import Written

__all__ = ["Step", "step"]

F = TypeVar("F", bound=Callable[..., Any])

IDENTITY_SCHEME: Final = "2:"
"""How identities begin. The first scheme distinguished fewer steps: its records can't be resumed."""

NO_KEY: Final = StepKey("", "")


class Step(Attempt):
    """One call of a step in a run: a scope like an attempt, whose terminal event has its outcome.

    What is emitted in it belongs to it. If an Exception ends it, what it streamed is retracted, except what finished
    steps in it streamed.
    """

    __slots__ = (
        "_raises", "_written", "ended_at", "event", "execution", "finished_at", "home", "is_retried", "key",
        "recorded", "started_at", "try_number",
    )  # fmt: skip

    scope_kind: ClassVar[ScopeKind] = "step"

    def __init__(
        self,
        of: Scope,
        event: StepStarted,
        key: StepKey = NO_KEY,
        home: Home | None = None,
        raises: Raises = (),
    ) -> None:
        super().__init__(of, None)
        self.event = event
        self.key = key
        """What it has in common with the steps that only their ordinal distinguishes from it."""
        self.home = home
        """What the run or step that it is called in counts; None: nothing is recorded."""
        self.finished_at = -1
        """The number of the last step that finished in it."""
        self.recorded: RecordedHome | None = None
        """What the record of a resumed run holds of it, if it is executed again."""
        self.started_at = -1
        """The number of its start."""
        self.ended_at = -1
        """The number of its end, once it has a result."""
        self.execution: object = None
        """The thread or task in which it was called."""
        self.is_retried = False
        """Whether the step itself tries again what fails."""
        self.try_number = 1
        """Which try is in progress, if it does."""
        self._raises = raises
        self._written: Written | None = None

    def __repr__(self) -> str:
        return f"<Step {self.event.name} in {self.of!r}>"

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the step."""
        return self.event.name

    @property
    def around(self) -> Scope | None:
        """The run or step that it is called in."""
        return self.of.step_parent

    def start(self) -> None:
        """Start the step, without making it current."""
        self.outer = enclosing()
        self.execution = execution_id()
        self.join(self.of)
        self.step_parent = self
        try:
            self.surround()
            self._started, self.ended = True, False
            self.host.transition(self, self.event, Phase.START)
        except BaseException:
            self.ended = True
            self.give_back(None)
            raise

    def transition(self, phase: Phase, envelope: Envelope) -> None:
        """Be started or ended by ``envelope``; called under the lock."""
        if phase == Phase.START:
            super().transition(phase, envelope)
            self.started_at = envelope.seq
            if self.recorded is not None:
                self.since = self.recorded.start + 1
                self.note_all(self.recorded.emission_parents())
                self.finished_at = max(self.finished_at, self.recorded.last_finished)
        elif isinstance(envelope.event, StepFinished | StepFailed):
            self._ended_at(envelope.seq, isinstance(envelope.event, StepFinished))

    def _ended_at(self, seq: int, succeeded: bool) -> None:
        """Have ended with an outcome, under this number."""
        if succeeded:
            self.ended_at = seq
            self._note_finished(seq)
        elif self.home is not None and self.finished_at >= self.since:
            self.home.failed[self.key] = Tried(self.since, self.covering())

    def _note_finished(self, seq: int) -> None:
        """Note in the steps around it that a step finished, under this number."""
        if self.of.tree.log is not None:
            self.tree.boundary = max(self.tree.boundary, seq)
            for attempt in self.of.attempts:
                if isinstance(attempt, Step):
                    attempt.finished_at = max(attempt.finished_at, seq)

    def recall(self, recorded: RecordedHome) -> None:
        """Have ended as recorded, without being executed; called under the lock."""
        self._note_finished(recorded.last_finished)
        for attempt in self.of.attempts:
            attempt.note_all(recorded.emission_parents())
        if not recorded.finished and recorded.last_finished >= 0 and self.home is not None:
            self.home.failed[self.key] = Tried(recorded.start, tuple(recorded.emission_parents()))

    @property
    def path(self) -> str:
        """What distinguishes it as a home: its identity, and the number of the try."""
        identity = self.event.identity
        return identity if self.try_number == 1 else digest([identity, self.try_number])

    def begin_try(self, number: int) -> None:
        """Begin the try of this number. Steps and runs in it have other identities than those in earlier tries."""
        log = self.tree.log
        with Deferring(self.tree.lock), self.tree.lock:
            self.try_number = number
            if log is not None:
                log.homes.pop(self, None)
                log.nested_runs.begin_try(self)

    def give(self, written: Written) -> None:
        """Set the result that it ends with."""
        self._written = written

    def finish(self) -> None:
        """End the step with its result."""
        if self.host.closed and self.tree.log is not None:
            raise BusClosedError(f"this bus is closed: the result of step {self.event.name!r} can't be recorded")
        if was_told_to_suspend(self.run):
            self.run.check()
        if self.claim_end():
            self.host.transition(self, StepFinished(self.event.name, *(self._written or ())), Phase.END)

    def fail(self, error: BaseException | str) -> None:
        """End the step with ``error``: an Exception retracts what it streamed.

        Any other BaseException leaves the step open, so that a resume performs it again; so does any, in a run that is
        being suspended.
        """
        if not self.claim_end():
            return
        if isinstance(error, Exception) and not self.is_suspending():
            note_failed_step(error, self.event.identity)
            try:
                self.retract(f"{type(error).__name__}: {text_of(error)}")
            finally:
                self.host.transition(self, self._failed_with(error), Phase.END)
        else:
            self.give_back(Tried(self.since, self.covering()))

    def _failed_with(self, error: Exception) -> StepFailed:
        if self.tree.log is None:
            return StepFailed(self.event.name, name_of(type(error)), text_of(error))
        return failures.describe(self.event.name, error, self._raises)

    def retract(self, reason: str) -> None:
        """Retract what it streamed, if anything, except what finished steps in it streamed."""
        with Deferring(self.tree.lock), self.tree.lock:
            self.failed = True
            if not self.streamed and self.recorded is None:
                return
            since = max(self.since, self.finished_at + 1)
            parents = self.covering()
        self.host.transition(self, Retracted(since, reason, parents), Phase.END)

    def give_back(self, tried: Tried | None) -> None:
        """Let the next equal step be this one: it ended without an outcome, or its caller did not get it."""
        if self.home is not None:
            with Deferring(self.of.tree.lock), self.of.tree.lock:
                self.home.give_back(self.key, self.event.ordinal, tried)

    def end(self, error: BaseException | None) -> None:
        """End it as its ``with`` block ended."""
        if error is not None:
            self.fail(error)
            return
        try:
            self.finish()
        except BaseException as refused:  # its result is too large for the store, for example
            self.ended = False
            self.fail(refused)
            raise


def path_of(parent: Scope | None, nested_runs: NestedRuns) -> str:
    """A digest of where a run or step is. Raises `StepError` for a run that a resume could not tell from others."""
    if isinstance(parent, Step):
        return parent.path
    return nested_runs.path_of(parent) if isinstance(parent, Run) else ""


def identity_of(path: str, key: StepKey, ordinal: int) -> str:
    """By what a resumed run finds a step: the scheme, and a digest."""
    return IDENTITY_SCHEME + digest([path, *key, ordinal])


def is_of_earlier_scheme(started: StepStarted) -> bool:
    """Whether an earlier release recorded a step, so that its identity is another now."""
    return not started.identity.startswith(IDENTITY_SCHEME)


def refuse_outer(name: str, scope: Scope) -> None:
    """Raise `StepError` if a step that is called in ``scope`` would be lost with the step that calls it.

    A recalled step is not called again, and with it nothing that it called in a run around it.
    """
    here = scope.host.own(innermost())
    parent, place = scope.step_parent, here.step_parent if here is not None else None
    if place is parent or place is None:
        return
    around = set(_homes(parent))
    passed = list(takewhile(lambda home: home not in around, _homes(place)))
    inside = next((home for home in passed if isinstance(home, Step)), None)
    if inside is not None and place.run.root is scope.run.root:
        raise StepError(
            f"step {name!r} of {scope.run!r} is called inside step {inside.event.name!r} of {inside.run!r}: a resumed "
            f"run does not call {inside.event.name!r} again once it has finished. Call the step where "
            f"{inside.event.name!r} is called, or as a step of the run that is current"
        )


def _homes(home: Scope | None) -> Iterator[Scope]:
    """The runs and steps around something, innermost first."""
    while isinstance(home, Run | Step):
        yield home
        home = home.around


def _scope_of(step: StepFunction) -> Any:
    """The innermost current scope of a recorded run, of whichever bus; if none is recorded, the innermost scope.

    Outside any run, what `unrecorded` says applies.
    """
    found = here = innermost()
    while here is not None:
        if here.found_by is not None and here.run is not None and here.run.recorded:
            return here
        here = here.outer
    if found is None or found.run is None:
        unrecorded.warn_of_step(step.name)
    return found


@overload
def step(function: F, /) -> F: ...
@overload
def step(
    *,
    name: str | None = None,
    key: Key | None = None,
    raises: Raises | type[Exception] = (),
    retries: int = 0,
    backoff: Backoff = 1.0,
    timeout: float | None = None,
) -> Callable[[F], F]: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    key: Key | None = None,
    raises: Raises | type[Exception] = (),
    retries: int = 0,
    backoff: Backoff = 1.0,
    timeout: float | None = None,
) -> Callable[..., Any]:
    """Make a function, sync or async, a step: in a recorded run its result is on disk before it is returned.

    A run that is resumed returns the recorded result and does not call the function again. ``name`` is by default the
    function's qualified name, which its module distinguishes from others. Calls of one step are distinguished by
    their arguments and the types of these, or by ``key``: a text, or a function of the arguments that returns one;
    equal ones by their order, so that they can't be in progress at once. The result must be a JSON value, an instance
    of a registered type, or what the return annotation describes: otherwise the step raises `UnserializableError` when
    it returns. In a run that is not recorded the function is called and the step's events are emitted; outside any run
    it is just called. If a recorded run is live then, its thread probably lacks the context: ``Bus(unscoped=…)`` says
    whether that warns or raises. Raises `StepError` for what can't be a step.

    ``raises`` names exceptions that a resumed run raises again as themselves, where the code handled the step's
    failure; those of Python, and those registered by `register_exception`, are anyway. Others come back as
    `StepFailedError`.

    ``retries``: how often the function is called again if it raises an Exception. Each try is an attempt in the step:
    what it streamed is retracted if it fails. A resumed run does not repeat the tries that are recorded as failed.
    ``backoff``: how many seconds to wait before the first retry, doubled before each further one; or a function that
    gets the number of the failed try, from 1, and returns the seconds. ``timeout``: after how many seconds the await
    of an async function is cancelled; its try fails with `TimeoutError`. A sync function can't be interrupted.

    >>> @step
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double(21)
    42
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        module = getattr(function, "__module__", None) or ""
        called, home = (getattr(function, "__qualname__", "step"), module_name(module)) if name is None else (name, "")
        declared = StepFunction(called, function, key, raises, home)
        if retries or timeout is not None:
            declared.retries = Retries(called, function, retries, backoff, timeout)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            here = _scope_of(declared)
            if here is None:
                return declared.call(None, args, kwargs)
            return here.host.steps.perform(declared, here, args, kwargs)

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            here = _scope_of(declared)
            if here is None:
                return await declared.call(None, args, kwargs)
            return await here.host.steps.perform(declared, here, args, kwargs)

        return acall if declared.is_async else call

    return declare if function is None else declare(function)
