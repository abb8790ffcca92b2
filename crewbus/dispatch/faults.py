"""Faults: what an observer, a handler or a callback raises is contained, and reported with its name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from crewbus import plugins as plugin_package
from crewbus._util import identity_of, log_error, name_of
from crewbus.exceptions import Cancelled, Suspended, text_of
from crewbus.plugins import HookOwner, raising_deferred, wrappers_of
from crewbus.scopes import Callback, threads

if TYPE_CHECKING:
    from pluggy import HookCaller

    from crewbus.events import Envelope
    from crewbus.plugins import Failure, HookSubset, PluginManager

_reported: Final[ContextVar[tuple[object, ...]]] = ContextVar("crewbus_reported", default=())
"""Those whose faults are being reported in this context."""


def is_reported(culprit: Any) -> bool:
    """Whether a fault of ``culprit``, a handler, callback or plugin's function, is being reported in this context."""
    reported = _reported.get()
    return bool(reported) and _key_of(culprit) in reported


def _key_of(culprit: Any) -> object:
    if isinstance(culprit, HookOwner):
        return culprit
    return identity_of(culprit.given if isinstance(culprit, Callback) else culprit)


class FaultReporter:
    """Contains the faults of what a bus calls, and reports them to the log and to the plugins."""

    plugins: PluginManager
    """Set once the manager is made, which is itself handed `report_plugin`."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self.has_reported = False
        """Whether there was ever a fault, so that `is_reported` needs to be asked."""

    def contain(
        self, culprit: Any, error: BaseException, envelope: Any, escaped: list[BaseException] | None
    ) -> list[BaseException] | None:
        """Report an Exception. Keep the first BaseException, to be raised when the siblings have run."""
        raised: BaseException | None = error
        if isinstance(error, Exception):
            if recursed_too_deep(error):
                raise error
            raised = self.report_culprit(culprit, error, envelope)
        return escaped if raised is None else [*(escaped or ()), raised]

    def report_culprit(self, culprit: Any, error: BaseException, envelope: Any) -> BaseException | None:
        """Report the fault of a plugin's function, a handler or a callback.

        What is emitted meanwhile, by a logging handler for example, does not go to the culprit, which would fail again.
        Nor does what that causes in other threads and tasks: it carries this context with it.
        """
        self.has_reported = True
        token = _reported.set((*_reported.get(), _key_of(culprit)))
        try:
            if isinstance(culprit, HookOwner):
                return self.report_plugin(culprit.plugin, culprit.hook, error, envelope)
            is_callback = isinstance(culprit, Callback)
            kind, name = ("callback", culprit.name) if is_callback else ("handler", name_of(culprit))
            return self._report(plugin_package.Failure(kind, name, error, envelope=envelope))
        finally:
            _reported.reset(token)

    def report_plugin(
        self, name: str, hook: str, error: BaseException, envelope: Envelope | None
    ) -> BaseException | None:
        """Report what a plugin raised in a hook. Returns what a plugin raised when it was notified, if it escapes."""
        failure = plugin_package.Failure("plugin", name, error, hook, self.plugins.origin(name), envelope)
        if hook != "crewbus_plugin_error":
            return self._report(failure)
        log_error("%s", failure)  # to report it through the same hook might never end
        return None

    def _report(self, failure: Failure) -> BaseException | None:
        """Report a contained fault. Returns the BaseException that a plugin raised when it was notified, if any."""
        with suppress(Exception):  # a logging handler that raises
            log_error("%s", failure, cause=failure.error)
        state = threads.state
        outer = state.notifying
        try:
            state.notifying = outer + 1
            with raising_deferred():
                self.plugins.hook.crewbus_plugin_error(bus=self._bus, failure=failure)
        except Exception as error:
            with suppress(Exception):
                log_error("reporting it failed: %s", text_of(error))
        except BaseException as error:
            return error
        finally:
            state.notifying = outer
        return None

    def notify(self, hook: str, **values: Any) -> None:
        """Call a hook whose faults are contained, those of its wrappers too."""
        self.notify_through(getattr(self.plugins.hook, hook), **values)

    def notify_through(self, caller: HookCaller | HookSubset, **values: Any) -> None:
        """As `notify`, for a caller that may reach some of the plugins only."""
        if not (caller.get_hookimpls() or self.plugins.watched):
            return
        state = threads.state
        outer = state.notifying
        try:
            state.notifying = outer + 1
            with raising_deferred():
                caller(bus=self._bus, **values)
        except Exception as error:
            if recursed_too_deep(error):
                raise
            escaped = self.report_culprit(HookOwner(wrappers_of(caller), caller.name), error, None)
            if escaped is not None:
                raise escaped from None
        finally:
            state.notifying = outer

    def defer(self, call: Callable[[], object]) -> None:
        """Make an emission once this thread holds no lock; its fault hits no other emitter."""
        if _reported.get():
            call = partial(copy_context().run, call)
        threads.state.defer(lambda: self._contained(call))

    @staticmethod
    def _contained(call: Callable[[], object]) -> None:
        try:
            call()
        except (Exception, Cancelled, Suspended) as error:
            with suppress(Exception):
                log_error("a deferred emission failed: %s", text_of(error), cause=error)


def recursed_too_deep(error: BaseException) -> bool:
    """Whether ``error`` is left to the outermost delivery: contained further in, the siblings would recurse again."""
    if not isinstance(error, RecursionError):
        return False
    state = threads.state
    return state.delivering + state.notifying - len(_reported.get()) > 1  # a report can't recurse
