"""The plugin ``callback_isolation``: each callback keeps to the context in which it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crewbus import bind, hookimpl

if TYPE_CHECKING:
    from crewbus import Bus, Call, Callbacks, Envelope


class CallbackIsolation:
    """Binds callbacks to the context in which they were given.

    So a callback sees its owner's ContextVars, whichever thread an event comes from; what it sets leaks
    nowhere; and what it emits belongs to the run in which it was given, not to the call that it listens to.
    """

    @hookimpl(trylast=True)
    def crewbus_callback_register(
        self, bus: Bus, scope: Call | Callbacks, callback: Callable[[Envelope], Any]
    ) -> Callable[[Envelope], Any]:
        """The same callback, to be called in a copy of this context."""
        return bind(callback)
