"""Delivery: observers, inline handlers and a call's callbacks are called outside every lock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from crewbus._util import name_of, raise_first
from crewbus.dispatch.async_handlers import HomeLoop
from crewbus.dispatch.faults import is_reported
from crewbus.dispatch.plan import Plan
from crewbus.scopes import Deferring, threads

if TYPE_CHECKING:
    from crewbus.dispatch.faults import FaultReporter
    from crewbus.events import Envelope
    from crewbus.scopes import Call, Callback, Run


class TakeResult(Protocol):
    """What is done with what a handler or callback returned: `AsyncHandlers.take_result`."""

    def __call__(self, result: Any, name: str, culprit: Any, envelope: Envelope, home: HomeLoop) -> None:
        """Await it, or raise `TargetError`."""


class Deliverer:
    """Calls what listens inline. What one listener raises changes nothing for its siblings."""

    def __init__(self, bus: Any, faults: FaultReporter, take_result: TakeResult) -> None:
        self._bus = bus
        self._faults = faults
        self._take_result = take_result

    def deliver(self, plan: Plan, run: Run | None, envelope: Envelope) -> None:
        """Call observers and inline handlers; a BaseException is raised when all have run."""
        state = threads.state
        # A finaliser or a signal handler emits while this thread holds a lock.
        if state.lock is not None and state.holds_lock():
            self._faults.defer(partial(self.deliver, plan, run, envelope))
            return
        escaped: list[BaseException] | None = None
        outer = state.delivering
        try:
            state.delivering = outer + 1
            observers, handlers = plan.observers, plan.handlers
            if self._faults.has_reported:
                observers = tuple(one for one in observers if not is_reported(one[1]))
                handlers = tuple(one for one in handlers if not is_reported(one))
            for observer, blame in observers:
                try:
                    result = observer(self._bus, run, envelope)
                    if result is not None:
                        self._take_result(result, blame.plugin, blame, envelope, HomeLoop())
                except BaseException as error:
                    escaped = self._faults.contain(blame, error, envelope, escaped)
            for handler in handlers:
                try:
                    result = handler(envelope)
                    if result is not None:
                        self._take_result(result, name_of(handler), handler, envelope, plan.home_of(handler))
                except BaseException as error:
                    escaped = self._faults.contain(handler, error, envelope, escaped)
        finally:
            state.delivering = outer
        if escaped is not None:
            raise_first(escaped)

    def deliver_in_call(self, plan: Plan, run: Run | None, call: Call, envelope: Envelope) -> None:
        """Call observers and handlers, then the callbacks; they get the terminal event of a call in `deliver_last`."""
        escaped: list[BaseException] | None = None
        if plan.has_inline_listeners:
            try:
                self.deliver(plan, run, envelope)
            except BaseException as error:
                escaped = [error]
        if call.callbacks and envelope in call.delivering and envelope is not call.last:
            escaped = self._call_back(call.callbacks, envelope, escaped)
        if escaped is not None:
            raise_first(escaped)

    def deliver_last(self, call: Call) -> None:
        """Hand the terminal event of a call to its callbacks, unless other events are still being delivered."""
        with Deferring(call.tree.lock), call.tree.lock:
            last, callbacks, release_flush = call.take_last()
        if last is None:
            return
        try:
            escaped = self._call_back(callbacks, last, None)
        finally:
            if release_flush is not None:
                release_flush()
        if escaped is not None:
            raise_first(escaped)

    def _call_back(
        self, callbacks: tuple[Callback, ...], envelope: Envelope, escaped: list[BaseException] | None
    ) -> list[BaseException] | None:
        state = threads.state
        outer = state.delivering
        try:
            state.delivering = outer + 1
            if self._faults.has_reported:
                callbacks = tuple(one for one in callbacks if not is_reported(one))
            for callback in callbacks:
                try:
                    result = callback.call(envelope)
                    if result is not None:
                        self._take_result(result, callback.name, callback, envelope, callback.home)
                except BaseException as error:
                    escaped = self._faults.contain(callback, error, envelope, escaped)
        finally:
            state.delivering = outer
        return escaped
