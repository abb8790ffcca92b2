"""Stopping: how a run is cancelled or suspended, and into which work that is delivered.

It belongs to the run's own work. Handlers, callbacks, observers and hooks are called in the run's context, but are no
part of that work.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

from crewbus._util import call_on, is_text, name_of
from crewbus.events import RunCancelled, RunEnded, RunFailed, RunSuspended
from crewbus.exceptions import (
    Cancelled,
    CrewbusError,
    RunCancelledError,
    RunError,
    RunSuspendedError,
    Suspended,
    is_cancellation,
)
from crewbus.scopes.current import current_task, handling, innermost, scope_var
from crewbus.scopes.thread_state import ThreadState, threads
from crewbus.scopes.waiting import end_waits

if TYPE_CHECKING:
    import asyncio


class Stop:
    """Why the work of a run is to stop, and how the run then ends."""

    __slots__ = ("loss", "reason", "suspends", "until")

    def __init__(self, reason: str, suspends: bool = False, until: float | None = None) -> None:
        self.reason = reason
        self.loss: CrewbusError | None = None
        """What says that another process has taken the run, if one has."""
        self.suspends = suspends
        """Whether it is suspended, to be resumed, and not cancelled."""
        self.until = until
        """Before which time it should not be resumed, in seconds since the epoch (UTC)."""

    @classmethod
    def cancelling(cls, reason: str) -> Self:
        """What cancels a run. Raises `RunError` for a reason that is no text."""
        return cls(_checked_reason("cancelled", reason))

    @classmethod
    def suspending(cls, reason: str, until: float | None, recorded: bool) -> Self:
        """What suspends a run, or cancels one that is not recorded. Raises `RunError`, as `cancelling`."""
        if until is not None and (isinstance(until, bool) or not isinstance(until, int | float)):
            raise RunError(f"a run is suspended until a time in seconds since the epoch; got {until!r}")
        return cls(_checked_reason("suspended", reason), recorded, until if recorded else None)

    @classmethod
    def losing(cls, loss: CrewbusError) -> Self:
        """What ends a run, as failed with ``loss``, that another process has taken."""
        made = cls(str(loss))
        made.loss = loss
        return made

    @property
    def state(self) -> str:
        """The state of a run that ended so."""
        if self.loss is not None:
            return "failed"
        return "suspended" if self.suspends else "cancelled"

    def ending(self) -> RunEnded:
        """The terminal event of a run that ends so."""
        if self.loss is not None:
            return RunFailed(name_of(type(self.loss)), str(self.loss))
        return RunSuspended(self.reason, self.until) if self.suspends else RunCancelled(self.reason)

    def error(self, run_id: str) -> BaseException:
        """What is raised in the work of the run."""
        error = (Suspended if self.suspends else Cancelled)(self._describe(run_id))
        error.run_id = run_id
        return error

    def left_error(self, run_id: str, when: str = "") -> Exception:
        """What is raised where the run's work is left."""
        if self.loss is not None:
            return type(self.loss)(*self.loss.args)
        kind = RunSuspendedError if self.suspends else RunCancelledError
        return kind(self._describe(run_id, when))

    def _describe(self, run_id: str, when: str = "") -> str:
        return self.reason if self.loss is not None else f"run {run_id} was {self.state}{when}: {self.reason}"


def _checked_reason(state: str, reason: str) -> str:
    if not is_text(reason):
        raise RunError(f"a run is {state} for a reason, which is a text; got {reason!r}")
    return reason


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


# A run can't be named here, since it is made of this.


def notify(run: Any) -> Any:
    """Raise what stops ``run`` in the caller, which does its own work, unless it was notified before.

    Returns the outermost of the stopped runs of which the caller was notified before; None: none is stopped.
    """
    stopped = [one for one in run.stopped_by() if one.is_own_work()]
    if not stopped:
        return None
    state, task = threads.state, current_task()
    # Each is claimed: the outermost ends the others too.
    notified = [one for one in stopped if _notifies(one, state, task)]
    if notified:
        raise notified[-1].stop.error(notified[-1].id)
    return stopped[-1]


def _notifies(run: Any, state: ThreadState, task: object | None) -> bool:
    """Whether the stop of ``run`` is raised in the caller, which does its own work."""
    here = scope_var.get() if run.ended else None
    if here is None or here.run is None or run not in here.run.reach():
        return state.claim(task, run)
    here = innermost()
    return here is not None and here.run is not None and run in here.run.reach()


def claim_stops(run: Any, task: object) -> list[Any]:
    """The stopped runs that ``run`` is part of and of which ``task`` is to be notified, innermost first."""
    state = threads.state
    return [one for one in list(run.stopped_by()) if state.claim(task, one) or one.ended]


def was_told_to_suspend(run: Any) -> bool:
    """Whether the caller was notified that ``run`` is being suspended: what it made of that is no outcome."""
    state, task = threads.state, current_task()
    stopped = run.stopped_by() if run.tree.stopped else ()
    return any(one.stop.suspends and state.was_notified(task, one) for one in stopped)


def mark_in_tree(run: Any) -> None:
    """Have the work of ``run``, which was stopped, notice it, and end its waits."""
    if run.tree.announcing:  # it looks for a stop when it has done so
        return
    run.tree.stopped[run] = None
    run.tree.free = False
    if run.ended and run.unfinished <= 0:  # it ended meanwhile
        run.tree.stopped.pop(run, None)
    end_waits(run=run)
    interrupt(run)


def announced(run: Any) -> None:
    """Note that ``run`` has recorded that it was resumed; it may have been stopped meanwhile."""
    run.tree.announcing = False
    if run.stop is not None:
        mark_in_tree(run)


def interrupt(run: Any) -> None:
    """Interrupt the asyncio tasks of ``run`` and of those nested in it."""
    for task in list(run.tree.working or ()):
        if run in task.run.works_for():
            task.interrupt()


class WorkingTask:
    """The asyncio task that entered a run: stopping the run interrupts what the task awaits."""

    __slots__ = ("_cancelling", "_is_interrupted", "_task", "is_working", "loop", "run")

    def __init__(self, run: Any, task: asyncio.Task[Any]) -> None:
        self.run = run
        self._task = task
        self.loop = task.get_loop()
        self._cancelling = task.cancelling()
        self._is_interrupted = False
        self.is_working = True
        """Whether it is still in the run."""

    def interrupt(self) -> None:
        """Cancel the task where it awaits, unless it notices first. From any thread, and from a finaliser."""
        call: Any = self._cancel
        if current_task() is self._task:
            # It may be about to leave the run, which would spare it the interruption.
            call = partial(self.loop.call_soon, call)
        call_on(self.loop, call)

    def _cancel(self) -> None:
        claimed = claim_stops(self.run, self._task) if self.is_working else ()
        if claimed:
            self._is_interrupted = claimed[-1] is self.run
            self._task.cancel(claimed[-1].stop.reason)

    def leave(self) -> bool:
        """Leave the run. Returns whether the task was interrupted for this run and is cancelled for no other reason."""
        self.is_working = False
        if not self._is_interrupted or current_task() is not self._task:
            return False
        return self._task.uncancel() <= self._cancelling


def working_loops(tree: Any) -> set[asyncio.AbstractEventLoop]:
    """The event loops of the tasks that work in the runs of a tree."""
    return {task.loop for task in list(tree.working or ())}


def ends_with(error: BaseException | None, run_id: str, interrupted: bool) -> bool:
    """Whether ``error`` is what stopped this run and no run around it."""
    if not is_cancellation(error):
        return False
    if isinstance(error, BaseExceptionGroup):
        return any(ends_with(part, run_id, interrupted) for part in error.exceptions) and not any(
            isinstance(part, KeyboardInterrupt | GeneratorExit) for part in error.exceptions
        )
    if isinstance(error, Cancelled | Suspended):
        return error.run_id == run_id
    return interrupted and not isinstance(error, KeyboardInterrupt | GeneratorExit)
