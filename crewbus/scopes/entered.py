"""Runs that are entered once more, where their own context does not reach."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from crewbus.exceptions import RunError
from crewbus.scopes.current import enclosing
from crewbus.scopes.leaving import leaves
from crewbus.scopes.ports import AnyScope
from crewbus.scopes.scope import Scope

if TYPE_CHECKING:
    from crewbus.scopes.stopping import WorkingTask


class EnteredRun(Scope):
    """A running run, entered once more: what `Run.scope` returns."""

    __slots__ = ("_of", "_task")

    scope_kind = "entry"

    def __init__(self, of: AnyScope) -> None:
        super().__init__(of.host)
        self._of = of
        self._task: WorkingTask | None = None

    def __repr__(self) -> str:
        return f"<scope of {self._of!r}>"

    @property
    def name(self) -> str | None:  # type: ignore[override]
        """The name of the run."""
        return self._of.name  # type: ignore[no-any-return]

    def start(self) -> None:
        """Be part of the run. Raises `RunError` unless it is running."""
        run = self._of
        if self.run is not None:
            raise RunError(f"this scope of run {run.id} was entered before: call run.scope() for each 'with'")
        if run.ended:
            raise RunError(f"run {run.id} is {run.state}; only a running run is entered once more")
        run.check()
        self.outer = enclosing()
        self.run, self.tree, self.step_parent = run, run.tree, run
        self.inherit(run)
        self.surround()
        self.ended = False

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._task = self._of.enter_task()
            self._of.refuse_stopped()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    @leaves
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_stopped: bool = self._of.leave_task(self._task, error)
        self._task = None
        super().__exit__(kind, error, trace)
        if is_stopped:
            raise self._of.stop.left_error(self._of.id) from error

    def represented(self) -> AnyScope:
        """The run."""
        return self._of

    def end(self, error: BaseException | None) -> None:  # noqa: ARG002 - as of any scope
        """End it; the run goes on."""
        self.ended = True
