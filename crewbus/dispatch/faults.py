"""Faults: what an observer, a handler or a callback raises is contained, and told with its name."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from crewbus._util.callables import name_of
from crewbus.dispatch.subscriptions import Handlers
from crewbus.exceptions import text_of
from crewbus.plugins.failure import Failure
from crewbus.plugins.flatten import Function, HookOwner, wrappers_of
from crewbus.plugins.isolation import raising_deferred
from crewbus.scopes.callbacks import Callback

if TYPE_CHECKING:
    from pluggy import HookCaller

    from crewbus.plugins.manager import PluginManager
    from crewbus.plugins.subset import HookSubset

_log = logging.getLogger("crewbus")

DELIVERING: Final[set[CodeType]] = set()
"""The code that calls observers and handlers."""
INSIDE: Final[set[CodeType]] = set()
"""The other code that runs while an event is being handled."""


class Faults(Handlers):
    """Contains the faults of those a bus calls."""

    plugins: PluginManager

    def _contain(
        self,
        culprit: HookOwner | Callback | Function,
        error: BaseException,
        envelope: Any,
        escaped: BaseException | None,
    ) -> BaseException | None:
        """Report an Exception; keep any other BaseException, the first, to be raised when the siblings have run."""
        if not isinstance(error, Exception):
            return escaped or error
        if recursed_too_deep(error):
            raise error
        if isinstance(culprit, HookOwner):
            told = self._blame_plugin(culprit, error, envelope)
        else:
            told = self._blame_handler(culprit, error, envelope)
        return escaped or told

    def _blame_plugin(self, blame: HookOwner, error: BaseException, envelope: Any = None) -> BaseException | None:
        origin = self.plugins.origin(blame.plugin)
        return self._report(Failure("plugin", blame.plugin, error, blame.hook, origin, envelope))

    def _blame_handler(self, handler: Any, error: BaseException, envelope: Any) -> BaseException | None:
        if isinstance(handler, Callback):
            return self._report(Failure("callback", handler.name, error, envelope=envelope))
        return self._report(Failure("handler", name_of(handler), error, envelope=envelope))

    def _report(self, failure: Failure) -> BaseException | None:
        """Tell of a contained fault; returns the BaseException that a plugin raised on hearing of it, if one did."""
        with suppress(Exception):  # a logging handler that raises
            _log.error("%s", failure, exc_info=failure.error)
        try:
            with raising_deferred():
                self.plugins.hook.crewbus_plugin_error(bus=self, failure=failure)
        except Exception as error:
            with suppress(Exception):
                _log.error("telling of it failed: %s", text_of(error))
        except BaseException as error:
            return error
        return None

    def _tell(self, hook: str, **values: Any) -> None:
        """Call a hook whose faults are contained, those of its wrappers too."""
        self._tell_through(getattr(self.plugins.hook, hook), **values)

    def _tell_through(self, caller: HookCaller | HookSubset, **values: Any) -> None:
        if not (caller.get_hookimpls() or self.plugins.watched):
            return
        try:
            with raising_deferred():
                caller(bus=self, **values)
        except Exception as error:
            escaped = self._blame_plugin(HookOwner(wrappers_of(caller), caller.name), error)
            if escaped is not None:
                raise escaped from None


def inside_delivery() -> bool:
    """Whether the caller was called, however deep, by a handler, an observer or a recorder.

    A look at the stack, since marking each delivery would cost every emission; only a flush asks, and a failure.
    """
    return any(code in DELIVERING or code in INSIDE for code in callers())


def recursed_too_deep(error: BaseException) -> bool:
    """Whether ``error`` is left to the outermost emission: were it contained here, siblings would recurse anew."""
    return isinstance(error, RecursionError) and sum(code in DELIVERING for code in callers()) > 1


def callers() -> Iterator[CodeType]:
    """The code of those who called the caller, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back
