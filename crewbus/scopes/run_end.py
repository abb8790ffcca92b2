"""How runs end: the terminal event, and the state after it."""

from __future__ import annotations

from crewbus._util import name_of
from crewbus.events import RunCancelled, RunEnded, RunFailed, RunFinished
from crewbus.exceptions import failed_steps, is_cancellation, text_of


def ending(error: BaseException | None, reason: str | None = None) -> RunEnded:
    """The terminal event for a run that ended with ``error``; ``reason``: why it was cancelled, if it was."""
    if error is not None and not is_cancellation(error):
        return RunFailed(name_of(type(error)), text_of(error), failed_steps(error))
    if reason is not None:
        return RunCancelled(reason)
    return RunFinished() if error is None else RunCancelled(text_of(error) or type(error).__name__)


def state_after(event: RunEnded) -> str:
    """The state of a run that ended with ``event``."""
    if isinstance(event, RunFailed):
        return "failed"
    return "cancelled" if isinstance(event, RunCancelled) else "finished"
