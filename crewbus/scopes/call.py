"""Calls: one call of a model or tool each, inside a run or outside any, with callbacks of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from crewbus._util import generation, name_of
from crewbus.events import CallCancelled, CallEnded, CallFailed, CallFinished, CallStarted, Envelope
from crewbus.exceptions import CallError, InputError, is_cancellation, text_of
from crewbus.scopes.attempt import Attempt
from crewbus.scopes.callbacks import Callback, Function, callbacks_in_context, without_repeats
from crewbus.scopes.current import enclosing, scope_var
from crewbus.scopes.ports import Host, Phase
from crewbus.scopes.scope import Scope, checked_error
from crewbus.scopes.stopping import was_told_to_suspend
from crewbus.scopes.thread_state import Deferring

__all__ = ["Call"]


class Call(Scope):
    """One call of a model or tool. Its callbacks get what is emitted in it, from `CallStarted` to its terminal event.

    Made by `Bus.call`. Leaving its ``with`` block ends it, unless `finish` or `fail` has: with `CallFinished`,
    `CallFailed` for an Exception, `CallCancelled` for any other BaseException. What is emitted in a call or run nested
    in it belongs to that one.
    """

    __slots__ = (
        "_born", "_given", "_inherits", "attributes", "callbacks", "delivering", "input", "kind", "last", "name",
        "release_flush", "source",
    )  # fmt: skip

    scope_kind = "call"
    name: str

    def __init__(
        self,
        host: Host,
        name: str,
        callbacks: Iterable[Any],
        inherit: bool,
        source: Any,
        kind: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        input: Any = None,  # noqa: A002 - as of `Bus.call`
    ) -> None:
        super().__init__(host)
        self.call = self
        self.name = name
        self.kind = kind
        """What is called, as given: "model" or "tool", for example; or None."""
        self.attributes: dict[str, Any] = {**attributes} if attributes else {}
        """What describes the call, by name, as JSON values. `CallStarted` has what is in it when the call starts, and
        the terminal event what is in it when the call ends. Afterwards it is empty."""
        self.input = input
        """What the call is given, until it has ended."""
        self.source = source
        """Who makes the call, as given, until it has ended."""
        self.callbacks: tuple[Callback, ...] = ()
        self._given: tuple[Any, ...] | None = tuple(callbacks)
        self._inherits = inherit
        self._born = generation.number
        self.delivering: set[Envelope] = set()
        """Its events that are being delivered to its callbacks."""
        self.last: Envelope | None = None
        """Its terminal event, until the callbacks have it: they get it when all other deliveries are done."""
        self.release_flush: Callable[[], object] | None = None
        """Releases the flushes that wait while the terminal event waits."""

    def __repr__(self) -> str:
        state = "in progress" if not self.ended else "new" if self._given is not None else "ended"
        return f"<Call {self.name} {state}>"

    def innermost(self) -> Scope:
        """The current scope if it is inside this call, else this call. Raises `CallError` before its start."""
        if self._given is not None:
            raise CallError(f"call {self.name!r} has not started: enter its 'with', or call start()")
        if self._born != generation.number:
            self._orphan()
        here = scope_var.get()
        if here is None or here is self:
            return self
        here = self.host.own(here)
        return here if here is not None and here.call is self else self

    def attempt(self, number: int | None = None) -> Attempt:
        """An attempt, to be entered with ``with``: if an Exception ends it, what was streamed in it is retracted.

        ``number``: which one it is, from 1; by default one more than the last that failed here in this context.
        """
        return Attempt(self, number)

    def start(self) -> None:
        """Start the call without making it current, to be carried to another context.

        From now on its callbacks are fixed: those of `Bus.callbacks` in this context, and its own. Raises `CallError`
        if it was started before, `CallbackError` for what can't be called, what a plugin raises to veto a callback,
        and what `Bus.emit` raises.
        """
        if self._given is None:
            raise CallError(f"call {self.name!r} was started before: make another with bus.call()")
        given, self._given = self._given, None
        self.outer = enclosing()
        around = self.host.current_scope()
        self._join(around)
        try:
            self.surround()
            self._take_callbacks(given, around)
            self.ended = False
            started = CallStarted(self.name, self.kind, {**self.attributes}, self.input)
            self.host.transition(self, started, Phase.START)
        except BaseException:
            self.abandon()
            raise

    def _join(self, around: Scope | None) -> None:
        """Be part of the run that ``around`` belongs to, if that is live."""
        run = around.run if around is not None else None
        if run is not None:
            run.check()
        if around is not None and run is not None and not run.ended:
            self.run, self.tree, self.step_parent = run, run.tree, around.step_parent
            self.inherit(around)

    def _take_callbacks(self, given: tuple[Any, ...], around: Scope | None) -> None:
        inherited: tuple[Callback, ...] = ()
        if self._inherits and around is not None and around.call is not None:
            inherited = around.call.callbacks
        self.callbacks = (*callbacks_in_context(self.bus), *inherited)
        for callback in given:
            taken = self.host.register_callback(self, callback)  # which may add others
            self.callbacks += (taken,)
        self.callbacks = without_repeats(self.callbacks)

    def add(self, callback: Function) -> None:
        """Add a callback unchanged: for plugins, within `crewbus_callback_register`."""
        if self._given is None and not self.ended:
            raise CallError(f"call {self.name!r} has started: its callbacks are fixed")
        self.callbacks += (self.host.as_callback(callback),)

    def set_attributes(self, **attributes: Any) -> None:
        """Add to `attributes`, or replace what is there: what becomes known while the call runs."""
        self.attributes.update(attributes)

    def finish(self, output: Any = None, usage: Mapping[str, int] | None = None, cost: float | None = None) -> None:
        """End the call with its ``output``, its ``usage`` (counts by name) and its ``cost`` (US dollars).

        Names of counts that others rely on: ``input_tokens``, ``output_tokens``, ``cached_input_tokens`` (those of the
        input that were read from a cache) and ``reasoning_tokens`` (those of the output). Ending it again does nothing.
        Raises `RecordingError` if the run is recorded and this could not be: the call then stays in progress.
        """
        if usage is not None and not isinstance(usage, Mapping):
            raise InputError(f"usage maps names to counts; got {usage!r}")
        if cost is not None and not isinstance(cost, int | float):
            raise InputError(f"cost is a number of US dollars; got {cost!r}")
        self._end(CallFinished(output, usage, cost, {**self.attributes}))

    def fail(self, error: BaseException | str) -> None:
        """End the call with ``error``: `CallFailed` for an Exception, `CallCancelled` for any other BaseException.

        A text stands for an exception that is not at hand. Ending it again does nothing.
        """
        checked_error(error, str)
        if isinstance(error, str):
            self._end(CallFailed("", error, {**self.attributes}))
        elif is_cancellation(error):
            self._end(CallCancelled(text_of(error) or type(error).__name__, {**self.attributes}))
        else:
            self._end(CallFailed(name_of(type(error)), text_of(error), {**self.attributes}))

    def _end(self, event: CallEnded) -> None:
        if self._given is not None:
            raise CallError(f"call {self.name!r} has not started: there is nothing to end")
        if self._born != generation.number:
            self._orphan()
        if not self.ended:
            self.host.transition(self, event, Phase.END, not self._stays_open(event))

    def _stays_open(self, event: CallEnded) -> bool:
        """Whether the call stays open in the record: its run is suspended, and a resume repeats the call."""
        if self.run is None or not self.run.is_suspending():
            return False
        return not isinstance(event, CallFinished) or was_told_to_suspend(self.run)

    def end(self, error: BaseException | None) -> None:
        """End it as its ``with`` block ended."""
        try:
            if error is None:
                self.finish()
            else:
                self.fail(error)
        except BaseException as failure:
            try:
                if not (self.ended or isinstance(failure, Exception)):  # an interrupt came before it had ended
                    self.fail(failure)
            finally:
                with Deferring(self.tree.lock), self.tree.lock:
                    if not self.ended:
                        self.abandon()
            raise

    # Called under the lock

    def accepts(self, phase: Phase) -> bool:
        """Whether it may be started or ended by another event: it ends once."""
        return not (phase == Phase.END and self.ended)

    def transition(self, phase: Phase, envelope: Envelope) -> None:
        """Be started or ended by ``envelope``."""
        super().transition(phase, envelope)
        if phase == Phase.END:
            self.ended = True
            self.last = envelope
            if self.delivering and self.release_flush is None:
                self.host.hold_flush(self.name, self._set_release)

    def _set_release(self, release: Callable[[], object]) -> None:
        self.release_flush = release

    def take_last(self) -> tuple[Envelope | None, tuple[Callback, ...], Callable[[], object] | None]:
        """The terminal event, the callbacks that get it, and what releases flushes; once no delivery is left."""
        if self.delivering or self.last is None:
            return None, (), None
        taken = self.last, self.callbacks, self.release_flush
        self.abandon()
        return taken

    def abandon(self) -> None:
        """Be over and release everything; if no terminal event could be emitted, without one."""
        self.ended = True
        self.callbacks = self.tries = ()
        self.last = self.release_flush = self.source = self.input = None
        self.attributes = {}

    def _orphan(self) -> None:
        """In a forked child: be over, as its run is; the call continues in the parent only."""
        self._born = generation.number
        self.leave_run(self.host.outside)
        self.delivering = set()
        self.abandon()
