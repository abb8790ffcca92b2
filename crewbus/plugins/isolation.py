"""Isolation: one failing implementation of a hook does not keep the others from running."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from crewbus._util import raise_first
from crewbus.events import Envelope

CONTAINED: Final = frozenset(
    {
        "crewbus_cli_commands",
        "crewbus_close",
        "crewbus_current_run",
        "crewbus_emit",
        "crewbus_after_fork",
        "crewbus_plugin_error",
        "crewbus_run_finish",
        "crewbus_run_start",
        "crewbus_stream_chunk",
    }
)
"""The hooks whose exceptions are contained and reported; those of any other hook reach the caller."""

DEFERRED: Final = frozenset({"crewbus_flush", "crewbus_record"})
"""The hooks whose exceptions reach the caller after the other implementations have run."""

Report = Callable[[Exception, Envelope | None], BaseException | None]
"""Reports a contained exception; returns what the caller must get nevertheless, if anything."""


class Guard:
    """Wraps an implementation in pluggy's registry, because pluggy ends a call at the first exception.

    The guard passes an Exception to ``report``, and defers any other BaseException until the other implementations
    have run. Without ``report`` it defers every exception. `guarded_call` collects what was deferred. An exception that
    ``propagates`` ends the call at once.
    """

    def __init__(
        self, function: Callable[..., Any], report: Report | None, propagates: Callable[[BaseException], bool]
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._report = report
        self._propagates = propagates

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; return None if it raises."""
        call: GuardedCall | None = _local.call
        try:
            result = self.function(*args, **kwargs)
        except BaseException as error:
            if self._propagates(error):
                raise
            deferred = self._contain(error, call.envelope if call is not None else None)
            if call is not None:
                call.error = call.error or deferred
            elif deferred is not None:
                raise
            return None
        if call is not None:
            call.returned += 1
        return result

    def _contain(self, error: BaseException, envelope: Envelope | None) -> BaseException | None:
        if self._report is not None and isinstance(error, Exception):
            return self._report(error, envelope)
        return error


class GuardedCall:
    """The outcome of one call of a hook whose implementations are guarded."""

    def __init__(self, envelope: Envelope | None) -> None:
        self.envelope = envelope
        self.error: BaseException | None = None
        """The first deferred exception."""
        self.returned = 0
        """How many implementations returned."""


class _Local(threading.local):
    call: GuardedCall | None = None


_local = _Local()


@contextmanager
def guarded_call(envelope: Envelope | None = None) -> Iterator[GuardedCall]:
    """Collect what guards defer during a call of a hook, which is about ``envelope``."""
    outer, call = _local.call, GuardedCall(envelope)
    _local.call = call
    try:
        yield call
    finally:
        _local.call = outer


@contextmanager
def raising_deferred(envelope: Envelope | None = None) -> Iterator[None]:
    """As `guarded_call`, and raise the deferred exception at the end; it goes before what a wrapper raised."""
    with guarded_call(envelope) as call:
        try:
            yield
        except Exception:
            if call.error is None:
                raise
    errors, call.error = [] if call.error is None else [call.error], None
    raise_first(errors)
