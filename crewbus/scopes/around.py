"""What plugins put around a scope's code: context managers, and the ContextVars that these set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar, Token, copy_context
from functools import partial
from types import TracebackType
from typing import Any, Final

from crewbus._util import raise_first
from crewbus.scopes.thread_state import threads

Owned = tuple[Any, AbstractContextManager[Any]]
"""Whose manager it is, and the manager."""
_ABSENT: Final = object()


class Changes:
    """The ContextVars that the managers around one scope have set in a context. Copies of the context hold it too.

    Where a scope is left while another one is current, as with generators that take turns, or in another context, its
    variables are reset once they show again: when the other one is left, or when the next one is entered.
    """

    __slots__ = ("_made", "_tokens", "left", "outer")

    def __init__(self, made: list[tuple[ContextVar[Any], Any, Any]], outer: Changes | None) -> None:
        self._made = made
        """Each variable, what it was set to, and what it was before."""
        self._tokens: dict[ContextVar[Any], Token[Any]] = {}
        """What resets them in the context in which they were set."""
        self.outer = outer
        self.left = False
        """Whether the scope was left."""

    def apply(self) -> None:
        """Set the variables."""
        _changes.set(self)
        for var, value, _ in self._made:
            self._tokens[var] = var.set(value)

    def undo(self) -> None:
        """Reset those variables that still have their value."""
        for var, value, before in reversed(self._made):
            if _value_of(var) is value and not self._reset(var) and before is not _ABSENT:
                var.set(before)

    def _reset(self, var: ContextVar[Any]) -> bool:
        token = self._tokens.get(var)
        if token is None:
            return False
        try:
            var.reset(token)
        except (ValueError, RuntimeError):  # it is of another context, or an interrupt came once it was used
            return False
        self._tokens.pop(var, None)
        return True

    def release(self) -> None:
        """Keep only those tokens without which a variable can't be made unset again: each holds its context."""
        self._tokens = {var: self._tokens[var] for var, _, before in self._made if self._needs_token(var, before)}

    def _needs_token(self, var: ContextVar[Any], before: Any) -> bool:
        return before is _ABSENT and var in self._tokens


_changes: Final[ContextVar[Changes | None]] = ContextVar("crewbus_changes", default=None)
"""The changes that were made last in this context, of whichever bus."""


def _value_of(var: ContextVar[Any]) -> Any:
    try:
        return var.get()
    except LookupError:
        return _ABSENT


def _undo_left() -> Changes | None:
    """Undo the changes on top that belong to scopes that were left; return those that remain."""
    top = here = _changes.get()
    while here is not None and here.left:
        here.undo()
        here = here.outer
    if here is not top:
        _changes.set(here)
    return here


class Around:
    """The managers around one scope's code, entered in order, and left in the opposite one.

    They are entered in a copy of the context, whose changes the code's own context then gets; and they are left in that
    copy, wherever the scope is left, so that a manager can always reset the variables that it has set.
    """

    __slots__ = ("_contain", "_context", "_defer", "_entered", "_managers", "_mine")

    def __init__(
        self,
        managers: Iterable[Owned],
        contain: Callable[[Any, Exception, bool], None],
        defer: Callable[[Callable[[], object]], None],
    ) -> None:
        self._managers = tuple(managers)
        self._contain = contain
        """Reports what a manager raised, and whether that was as it was entered: it may then be raised on."""
        self._defer = defer
        """Makes a call once this thread holds no lock."""
        self._context: Context | None = None
        self._entered: list[Owned] = []
        self._mine: Changes | None = None

    def __enter__(self) -> None:
        outer = _undo_left()
        context = self._context = copy_context()
        context.run(self._enter_all)
        made = [
            (var, value, before)
            for var, value in context.items()
            if var is not _changes and value is not (before := _value_of(var))
        ]
        if made:
            self._mine = Changes(made, outer)
            self._mine.apply()

    def _enter_all(self) -> None:
        state = threads.state
        outer = state.notifying
        try:
            state.notifying = outer + 1
            for owner, manager in self._managers:
                self._enter(owner, manager)
        except BaseException as error:
            self._exit_all(type(error), error, error.__traceback__)
            raise
        finally:
            state.notifying = outer

    def _enter(self, owner: Any, manager: AbstractContextManager[Any]) -> None:
        self._entered.append((owner, manager))
        try:
            manager.__enter__()
        except Exception as error:
            self._entered.pop()
            self._contain(owner, error, True)
        except BaseException:
            self._entered.pop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context, mine = self._context, self._mine
        if mine is not None:
            mine.left = True
            _undo_left()
            mine.release()
            self._mine = None
        if context is None or not self._entered:
            return
        leave = partial(self._exit_all, kind, error, trace)
        if threads.state.holds_lock():  # a finaliser closes a generator
            self._defer(partial(context.run, leave))
        else:
            context.run(leave)

    def _exit_all(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = threads.state
        outer, escaped = state.notifying, list[BaseException]()
        try:
            state.notifying = outer + 1
            while self._entered:
                owner, manager = self._entered[-1]
                try:
                    manager.__exit__(kind, error, trace)
                except Exception as failure:
                    if failure is not error:
                        self._contain(owner, failure, False)
                except BaseException as failure:
                    if failure is not error:
                        escaped.append(failure)
                self._entered.pop()
        finally:
            state.notifying = outer
        raise_first(escaped)
