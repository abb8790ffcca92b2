"""The hook around work: plugins reject a scope before it starts, or put a context manager around its code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from crewbus.dispatch.faults import is_reported, recursed_too_deep
from crewbus.exceptions import RejectedError, text_of
from crewbus.plugins import Function, HookOwner, chain
from crewbus.scopes import Around, threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from crewbus.dispatch.faults import FaultReporter
    from crewbus.plugins import PluginManager
    from crewbus.scopes import Scope

HOOK: Final = "crewbus_scope"


class ScopeHook:
    """Asks the plugins about each scope that is about to start."""

    def __init__(self, bus: Any, plugins: PluginManager, faults: FaultReporter) -> None:
        self._bus = bus
        self._plugins = plugins
        self._faults = faults
        self._asked: tuple[tuple[HookOwner, Function], ...] = ()

    def rebuild(self) -> None:
        """Read the hook again from pluggy; called after each change of the plugins or of the monitors."""
        self._asked = tuple((HookOwner(name, HOOK), function) for name, function in chain(self._plugins, HOOK))

    def asks(self) -> Callable[[Scope], Around | None] | None:
        """`around`, or None while no plugin wants to be asked."""
        return self.around if self._asked else None

    def around(self, scope: Scope) -> Around | None:
        """What the plugins put around ``scope``. Raises `RejectedError` if one rejects it, or a required one fails."""
        managers = []
        state = threads.state
        outer = state.notifying
        try:
            state.notifying = outer + 1
            for owner, function in self._asked:
                manager = self._ask(owner, function, scope)
                if manager is not None:
                    managers.append((owner, manager))
        finally:
            state.notifying = outer
        return Around(managers, self._contain, self._faults.defer) if managers else None

    def _ask(self, owner: HookOwner, function: Function, scope: Scope) -> Any:
        if self._faults.has_reported and is_reported(owner):
            return None
        try:
            return _checked(function(self._bus, scope))
        except Exception as error:
            self._contain(owner, error, before=True)
        return None

    def _contain(self, owner: HookOwner, error: Exception, before: bool) -> None:
        """Report a fault of a plugin; ``before``: the work has not begun, so that it may be rejected."""
        if recursed_too_deep(error) or (before and isinstance(error, RejectedError)):
            raise error
        escaped = self._faults.report_culprit(owner, error, None)
        if escaped is not None:
            raise escaped from None
        if before and self._plugins.is_required(owner.plugin):
            raise RejectedError(
                f"the plugin {owner.plugin!r} is required, and failed where it is asked about work that begins "
                f"({type(error).__name__}: {text_of(error)}): the work was rejected"
            ) from error


def _checked(manager: Any) -> Any:
    if manager is None or (hasattr(manager, "__enter__") and hasattr(manager, "__exit__")):
        return manager
    raise TypeError(f"{HOOK} returns a context manager or None; got {manager!r}")
