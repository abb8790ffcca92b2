"""What is emitted outside any run, or in one that has ended: no stream gets it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, get_args

from crewbus._util import external_stacklevel
from crewbus.exceptions import EventTypeError, UnscopedError, UnscopedWarning

if TYPE_CHECKING:
    from crewbus.dispatch.plan import Plan
    from crewbus.events import Envelope
    from crewbus.scopes import Run, Scope

Policy = Literal["warn", "raise", "ignore"]
"""What happens to an event that should reach a stream and can't."""


class Unscoped:
    """Emits outside any run, after the bus's policy is applied: warn, raise or ignore."""

    nowhere: Scope
    """The scope of what is emitted outside any run; set once the bus can make it."""

    def __init__(self, policy: str) -> None:
        if policy not in get_args(Policy):
            raise EventTypeError(f"unscoped={policy!r}: choose 'warn', 'raise' or 'ignore'")
        self._policy = policy

    def emit(self, plan: Plan, run: Run | None, event: Any, source: Any) -> Envelope | None:
        """Emit ``event`` outside any run; ``run``: the one that it was meant for, which has ended or not started."""
        if plan.no_effect and run is None:
            return None
        if run is not None:
            self.warn(event, f"in a run that {_state_phrase(run)}")
        elif plan.frame:
            self.warn(event, "outside any run")
        return self.nowhere.tree.lane.commit(plan, self.nowhere, event, source)

    def warn_lost_attempt(self, event: Any) -> None:
        """Warn of an event of an attempt that has failed."""
        self.warn(event, "in an attempt that has failed, and discarded")

    def warn_of_step(self, name: str) -> None:
        """Warn that a step is not recorded, or raise `UnscopedError`."""
        self._warn(
            f"step {name!r} called outside any run while a run is recorded: it is not recorded, and a resume calls it "
            "again. Start its thread with crewbus.Thread or crewbus.ThreadPoolExecutor, or pass crewbus.bind(function)"
        )

    def warn(self, event: Any, where: str) -> None:
        """Warn that ``event`` reaches no stream, or raise `UnscopedError`."""
        self._warn(f"{type(event).__name__} emitted {where}: it reaches no run's stream")

    def _warn(self, message: str) -> None:
        # It names no run: Python keeps each text of a warning for each place that issued it.
        if self._policy == "ignore":
            return
        if self._policy == "raise":
            raise UnscopedError(message)
        warnings.warn(message, UnscopedWarning, stacklevel=external_stacklevel())


def _state_phrase(run: Run) -> str:
    return "has not started" if run.state == "new" else f"has ended ({run.state})"
