"""How runs end: the terminal event, and the state after it."""

from __future__ import annotations

from crewbus._util import name_of
from crewbus.events import RunCancelled, RunEnded, RunFailed, RunFinished, RunSuspended
from crewbus.exceptions import failed_steps, is_cancellation, text_of
from crewbus.scopes.stopping import Stop


def ending(error: BaseException | None, stop: Stop | None = None) -> RunEnded:
    """The terminal event for a run that ended with ``error``; ``stop``: how it was cancelled or suspended, if it was.

    A run that was suspended has not failed: what it raised on its way out comes again if it goes on to it.
    """
    if stop is not None and (stop.suspends or error is None or is_cancellation(error)):
        return stop.ending()
    if error is None:
        return RunFinished()
    if is_cancellation(error):
        return RunCancelled(text_of(error) or type(error).__name__)
    return RunFailed(name_of(type(error)), text_of(error), failed_steps(error))


def state_after(event: RunEnded) -> str:
    """The state of a run that ended with ``event``."""
    if isinstance(event, RunFailed):
        return "failed"
    if isinstance(event, RunSuspended):
        return "suspended"
    return "cancelled" if isinstance(event, RunCancelled) else "finished"
