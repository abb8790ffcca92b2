"""Cancelling: into which work the cancellation of a run is delivered.

It belongs to the run's own work. Handlers, callbacks, observers and hooks are called in the run's context, but are no
part of that work.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from crewbus._util import call_on
from crewbus.exceptions import Cancelled, is_cancellation
from crewbus.scopes.current import current_task, handling
from crewbus.scopes.thread_state import ThreadState, threads

if TYPE_CHECKING:
    import asyncio


class Origin:
    """The delivery inside which a run was started. The work of that delivery is the run's own."""

    __slots__ = ("_delivery", "_state", "_visits")

    def __init__(self, state: ThreadState, visits: int, delivery: Any) -> None:
        self._state = state
        self._visits = visits
        self._delivery = delivery

    def includes(self, state: ThreadState, visits: int, delivery: Any) -> bool:
        """Whether what is described is part of that delivery, and of no other inside it."""
        return (delivery is None or delivery is self._delivery) and (
            not visits or (state is self._state and visits <= self._visits)
        )


def origin_here() -> Origin | None:
    """The delivery that the caller is part of, or None."""
    state, delivery = threads.state, handling.get()
    visits = state.visits
    return Origin(state, visits, delivery) if visits or delivery is not None else None


def is_own_work(origin: Origin | None) -> bool:
    """Whether the caller does the own work of a run of this origin, and not that of a handler of one of its events."""
    state, delivery = threads.state, handling.get()
    visits = state.visits
    if not visits and delivery is None:
        return True
    return origin is not None and origin.includes(state, visits, delivery)


class WorkingTask:
    """The asyncio task that entered a run: cancelling the run interrupts what the task awaits."""

    __slots__ = ("_cancelling", "_is_interrupted", "_loop", "_task", "is_working", "run")

    def __init__(self, run: Any, task: asyncio.Task[Any]) -> None:
        self.run = run
        self._task = task
        self._loop = task.get_loop()
        self._cancelling = task.cancelling()
        self._is_interrupted = False
        self.is_working = True
        """Whether it is still in the run."""

    def interrupt(self) -> None:
        """Cancel the task where it awaits, unless it notices first. From any thread, and from a finaliser."""
        call: Any = self._cancel
        if current_task() is self._task:
            # It may be about to leave the run, which would spare it the interruption.
            call = partial(self._loop.call_soon, call)
        call_on(self._loop, call)

    def _cancel(self) -> None:
        claimed = self.run.claim_cancellations(self._task) if self.is_working else ()
        if claimed:
            self._is_interrupted = claimed[-1] is self.run
            self._task.cancel(claimed[-1].cancel_reason)

    def leave(self) -> bool:
        """Leave the run. Returns whether the task was interrupted for this run and is cancelled for no other reason."""
        self.is_working = False
        if not self._is_interrupted or current_task() is not self._task:
            return False
        return self._task.uncancel() <= self._cancelling


def ends_with(error: BaseException | None, run_id: str, interrupted: bool) -> bool:
    """Whether ``error`` is the cancellation of this run and of no run around it."""
    if not is_cancellation(error):
        return False
    if isinstance(error, BaseExceptionGroup):
        return any(ends_with(part, run_id, interrupted) for part in error.exceptions) and not any(
            isinstance(part, KeyboardInterrupt | GeneratorExit) for part in error.exceptions
        )
    if isinstance(error, Cancelled):
        return error.run_id == run_id
    return interrupted and not isinstance(error, KeyboardInterrupt | GeneratorExit)
