"""Calls: one call of a model or tool each, inside a run or outside any, with callbacks of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from crewbus._util.callables import name_of
from crewbus._util.process import generation
from crewbus.events import CallCancelled, CallEnded, CallFailed, CallFinished, CallStarted, Envelope
from crewbus.exceptions import CallError, text_of
from crewbus.scopes.callbacks import Callback, Function, callbacks_in_context, without_repeats
from crewbus.scopes.current import scope
from crewbus.scopes.scope import ENDS, OPENS, Scope
from crewbus.scopes.tree import INNER, Tree

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus
    from crewbus.dispatch.async_handlers import PendingDelivery
    from crewbus.durability.step import Step
    from crewbus.scopes.run import Run

__all__ = ["Call"]


class Call(Scope):
    """One call of a model or tool. Its callbacks get what is emitted in it, from `CallStarted` to its terminal event.

    Made by `Bus.call`. Leaving its ``with`` ends it, if `finish` or `fail` has not: with `CallFinished`, `CallFailed`
    for an Exception, `CallCancelled` for any other BaseException. What is emitted in a call or run nested in it
    belongs to that one.
    """

    __slots__ = (
        "_base", "_born", "_given", "_inherits", "_run", "callbacks", "delivering", "ended", "last", "name",
        "owed", "source",
    )  # fmt: skip

    def __init__(self, bus: Bus, name: str, callbacks: Iterable[Any], inherit: bool, source: Any) -> None:
        super().__init__(bus, INNER)
        self.name = name
        self.source = source
        """Who makes the call, as given, until it has ended."""
        self.ended = True
        """Whether it is not under way: not yet, or no more."""
        self.callbacks: tuple[Callback, ...] = ()
        self._given: tuple[Any, ...] | None = tuple(callbacks)
        self._inherits = inherit
        self._run: Run | None = None
        self._base = INNER
        self._born = generation.number
        self.delivering: list[int] = []
        """For each of its events that is being delivered to its callbacks, the thread that does it."""
        self.last: Envelope | None = None
        """Its terminal event, which they get when all others have been."""
        self.owed: PendingDelivery | None = None
        """What a flush waits for, where the terminal event must wait."""

    def __repr__(self) -> str:
        return f"<Call {self.name} {self._state}>"

    @property
    def _state(self) -> str:
        return "under way" if not self.ended else "new" if self._given is not None else "ended"

    @property
    def run(self) -> Run | None:
        """The run that the call is made in, or None."""
        return self._run

    @property
    def call(self) -> Call:
        """Itself: what is in scope may be an attempt, which belongs to a call."""
        return self

    @property
    def base(self) -> Tree:
        """The tree whose lock its emissions take: its run's, or one of its own."""
        if self._born != generation.number:
            self._orphan()
        return self._run.tree if self._run is not None else self._base

    @property
    def place(self) -> Run | Step | None:
        """The innermost run or step that it is made in, or None."""
        around = self.bus._own(self.outer)
        place = around.place if around is not None else None
        return place if place is not None and place.run is self._run else self._run

    def _here(self) -> Scope:
        if self._given is not None:
            raise CallError(f"call {self.name!r} has not started: enter its 'with', or call start()")
        here = scope.get()
        if here is None or here is self:
            return self
        here = self.bus._own(here)
        return here if here is not None and here.call is self else self

    def start(self) -> None:
        """Start the call without putting it in scope: for whoever carries it to another context.

        From now on its callbacks are fixed: those of `Bus.callbacks` in this context, and its own. Raises `CallError`
        if it was started before, `CallbackError` for what can't be called, what a plugin raises to veto a callback,
        and what `Bus.emit` raises.
        """
        if self._given is None:
            raise CallError(f"call {self.name!r} was started before: make another with bus.call()")
        given, self._given = self._given, None
        self.outer = scope.get()
        around = self.bus._own(self.bus._scope())
        run = around.run if around is not None else None
        if run is not None:
            run.check()
        if run is not None and not run.ended:
            self._run = run
            self._open_under(around)
        else:
            self._base = self.bus._tree_outside()
        try:
            self._take_callbacks(given, around)
            self.ended = False
            self.bus._turn(self, CallStarted(self.name), OPENS)
        except BaseException:
            self.abandon()
            raise

    def _take_callbacks(self, given: tuple[Any, ...], around: Scope | None) -> None:
        inherited: tuple[Callback, ...] = ()
        if self._inherits and around is not None and around.call is not None:
            inherited = around.call.callbacks
        self.callbacks = (*callbacks_in_context(self.bus), *inherited)
        for callback in given:
            taken = self.bus._register_callback(self, callback)  # which may add others
            self.callbacks += (taken,)
        self.callbacks = without_repeats(self.callbacks)

    def add(self, callback: Function) -> None:
        """Add a callback as it is: for plugins, within `crewbus_callback_register`."""
        if self.start_id is not None and not self.ended:
            raise CallError(f"call {self.name!r} has started: its callbacks are fixed")
        self.callbacks += (self.bus._as_callback(callback, callback),)

    def finish(self, output: Any = None, usage: Mapping[str, int] | None = None, cost: float | None = None) -> None:
        """End the call: it gave ``output``, it took ``usage`` (counts by name) and ``cost`` (US dollars).

        Ending it again does nothing. Raises `RecordingError` if the run is recorded and this could not be: the call
        then goes on.
        """
        self._end(CallFinished(output, usage, cost))

    def fail(self, error: BaseException | str) -> None:
        """End the call with ``error``: `CallFailed` for an Exception, `CallCancelled` for any other BaseException.

        Where only a text tells of the exception, give that. Ending it again does nothing.
        """
        if isinstance(error, str):
            self._end(CallFailed("", error))
        elif isinstance(error, Exception):
            self._end(CallFailed(name_of(type(error)), text_of(error)))
        else:
            self._end(CallCancelled(text_of(error) or type(error).__name__))

    def _end(self, event: CallEnded) -> None:
        if self._given is not None:
            raise CallError(f"call {self.name!r} has not started: there is nothing to end")
        if not self.ended:
            self.bus._turn(self, event, ENDS)

    def _exit(self, error: BaseException | None) -> None:
        try:
            if error is None:
                self.finish()
            else:
                self.fail(error)
        except BaseException:
            with self.base.lock:
                if not self.ended:
                    self.abandon()
            raise

    # Called under the lock

    def admits(self, frame: bool, turn: int) -> bool:
        """Whether an emission is taken: a terminal event only if it is the first."""
        return not (turn == ENDS and self.ended) and super().admits(frame, turn)

    def turn(self, turn: int, envelope: Envelope) -> None:
        """Be opened or ended by ``envelope``."""
        super().turn(turn, envelope)
        if turn == ENDS:
            self.ended = True
            self.last = envelope

    def hold(self) -> tuple[Callback, ...]:
        """Begin to deliver an event to these callbacks."""
        self.delivering.append(threading.get_ident())
        return self.callbacks

    def release(self) -> tuple[Envelope | None, tuple[Callback, ...], PendingDelivery | None]:
        """End the delivery of an event; returns the terminal event, once it is its turn, with whom to tell."""
        me = threading.get_ident()
        if me in self.delivering:  # else it was taken for interrupted
            self.delivering.remove(me)
        if self.delivering or self.last is None:
            return None, (), None
        last, callbacks, owed = self.last, self.callbacks, self.owed
        self.abandon()
        return last, callbacks, owed

    def forget_interrupted(self, under_way: int) -> None:
        """Forget this thread's deliveries beyond those ``under_way``: an interrupt ended them between two steps."""
        me = threading.get_ident()
        while self.delivering.count(me) > under_way:
            self.delivering.remove(me)

    def abandon(self) -> None:
        """Be over, and let go of everything; where no terminal event could be emitted, without one."""
        self.ended = True
        self.callbacks = ()
        self.last = self.owed = self.source = None

    def _orphan(self) -> None:
        """In a forked child: be over, as its run is; the call goes on in the parent only."""
        self._born = generation.number
        self._base, self._run, self.delivering = self.bus._tree_outside(), None, []
        self.abandon()
