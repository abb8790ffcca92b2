"""Scopes: what an emission belongs to. A run, a call in one or outside any, or an attempt at either."""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from crewbus._util.process import generation
from crewbus.events import AttemptStarted, Chunk, Envelope, Retracted
from crewbus.exceptions import InputError, RunError, text_of
from crewbus.scopes.current import scope
from crewbus.scopes.tree import INNER, Tree

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus
    from crewbus.durability.run_log import Base
    from crewbus.durability.step import Step
    from crewbus.scopes.call import Call
    from crewbus.scopes.run import Run

__all__ = ["Attempt"]

WITHIN: Final = 0
"""An emission inside a scope; false, so that it is quick to tell from the others."""
OPENS: Final = 1
"""The emission that opens a scope."""
ENDS: Final = 2
"""The emission that ends a scope."""


class Scope:
    """What emissions belong to; ``with`` and ``async with`` alike start it, put it in scope, and end it."""

    __slots__ = ("__weakref__", "_entered", "_left", "attempt_number", "attempts", "bus", "outer", "start_id", "tree")

    bus: Bus
    outer: Scope | None
    """What was in scope when this started, of whichever bus."""
    tree: Tree
    """What says how an emission goes; of a run, what it shares with those nested in it."""
    start_id: str | None
    """The id of the envelope that opened it."""
    attempt_number: int
    """Which attempt what is emitted here belongs to."""
    attempts: tuple[Attempt, ...]
    """The attempts around it, itself among them."""

    def __init__(self, bus: Bus, tree: Tree) -> None:
        self.bus = bus
        self.tree = tree
        self.outer = None
        self.start_id = None
        self.attempt_number = 1
        self.attempts = ()
        self._entered = False
        self._left = False

    @property
    def run(self) -> Run | None:
        """The run that it belongs to, or None."""
        raise NotImplementedError

    @property
    def call(self) -> Call | None:
        """The call that it belongs to, or None."""
        raise NotImplementedError

    @property
    def base(self) -> Tree:
        """The tree whose lock its emissions take."""
        raise NotImplementedError

    @property
    def place(self) -> Run | Step | None:
        """The innermost run or step that it belongs to, or None."""
        raise NotImplementedError

    def emit(self, event: Any, source: Any = None) -> Envelope | None:
        """Emit ``event`` here, from wherever: no context is needed. See `Bus.emit`."""
        return self.bus._emit_in(self._here(), event, source)

    def chunk(self, text: str, kind: str = "text", source: Any = None) -> Envelope | None:
        """Emit a `Chunk` here, from wherever: no context is needed."""
        return self.bus._emit_in(self._here(), Chunk(text, kind), source)

    def attempt(self, number: int | None = None) -> Attempt:
        """An attempt, to be entered with ``with``: when an Exception ends it, what was streamed in it is retracted.

        ``number``: which one it is; by default one more than the last that failed here in this context.
        """
        if number is not None and number < 1:
            raise InputError(f"attempts count from 1; got {number}")
        return Attempt(self, number)

    def _here(self) -> Scope:
        """What is in scope, where that is inside this; else this."""
        return self

    def _open_under(self, around: Scope | None) -> None:
        """Take from what is around this what is inherited."""
        if around is not None:
            self.start_id = around.start_id
            self.attempt_number = around.attempt_number
            self.attempts = around.attempts

    def admits(self, frame: bool, turn: int) -> bool:
        """Whether an emission is taken; what a failed attempt still streams is not. Called under the lock."""
        return not (self.attempts and frame and turn == WITHIN) or not any(tried.failed for tried in self.attempts)

    def turn(self, turn: int, envelope: Envelope) -> None:
        """Be opened or ended by ``envelope``, which was numbered and recorded; called under the lock."""
        if turn == OPENS:
            self.start_id = envelope.id
            for attempt in self.attempts:
                attempt.opened.append(envelope.id)

    def abandon(self) -> None:
        """Be over without a word, on a bus that is closed."""

    # Being in scope

    def start(self) -> None:
        """Start it without putting it in scope: for whoever carries it to another context."""
        raise NotImplementedError

    def _exit(self, error: BaseException | None) -> None:
        """Be left, with ``error``."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        try:
            scope.set(self)
            self._entered = True
        except BaseException as error:  # an interrupt
            self._exit(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave()
        finally:
            self._exit(error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _leave(self) -> None:
        """Be out of scope here, and let what was entered since go on, as with generators that take turns."""
        entered, self._entered = self._entered, False
        self._left = True
        if entered and scope.get() is self:
            around = self.outer
            while around is not None and around._left:
                around = around.outer
            scope.set(around)


class Tried(NamedTuple):
    """The last attempt in a context that did not succeed."""

    at: str | None
    """What it was an attempt at: the id of the envelope that opened that."""
    number: int
    cancelled: Attempt | None
    """Itself, where it was cancelled: nothing is taken back unless there is another."""


_tried: Final[ContextVar[Tried | None]] = ContextVar("crewbus_tried", default=None)


class Attempt(Scope):
    """One try at a piece of work that is retried. Left with an Exception, it takes back what was streamed in it.

    Made by `Run.attempt` and `Call.attempt`. Calls and runs that start in it are part of it. What its threads still
    stream after it failed is discarded, with a warning. One that was cancelled stays as far as it came, unless another
    is made in its place, as with a timeout and a retry around it.
    """

    __slots__ = ("_born", "_number", "_started", "ended", "failed", "of", "opened", "since", "steps")

    def __init__(self, of: Scope, number: int | None) -> None:
        super().__init__(of.bus, INNER)
        self.of = of
        """What it is an attempt at."""
        self._number = number
        self._started = False
        self._born = generation.number
        self.ended = True
        """Whether it is not under way: not yet, or no more."""
        self.failed = False
        self.since = 0
        self.opened: list[str] = []
        """The ids of what opened in it, its own first: the parents of what it streams."""
        self.steps: list[tuple[Base, int]] = []
        """The steps that finished in it, in a recorded run: made anew if it is taken back."""

    def __repr__(self) -> str:
        return f"<Attempt {self.attempt_number} at {self.of!r}>"

    @property
    def run(self) -> Run | None:
        """The run that it belongs to, or None."""
        return self.of.run

    @property
    def call(self) -> Call | None:
        """The call that it belongs to, or None."""
        return self.of.call

    @property
    def base(self) -> Tree:
        """The tree whose lock its emissions take."""
        return self.of.base

    @property
    def place(self) -> Run | Step | None:
        """The innermost run or step that it belongs to, or None."""
        return self.of.place

    @property
    def number(self) -> int:
        """Which attempt it is, from 1."""
        return self.attempt_number

    def start(self) -> None:
        """Start the attempt, without putting it in scope. Raises `RunError` if it was started before."""
        if self._started:
            raise RunError(f"{self!r} was started before: make another with attempt()")
        self.outer = scope.get()
        self.of = _going_on(self.of._here())
        if self.of.start_id is None:
            raise RunError(f"{self.of!r} has not started: an attempt is part of what goes on")
        self._open_under(self.of)
        self.attempts = (*self.of.attempts, self)
        self.attempt_number = self._number or self._follow(_tried.get())
        self._started, self.ended = True, False
        try:
            self.bus._turn(self, AttemptStarted(self.attempt_number), OPENS)
        except BaseException:
            self.ended = True
            raise

    def _follow(self, tried: Tried | None) -> int:
        """The number after the attempt that was made before, where it was one at the same."""
        if tried is None or tried.at != self.of.start_id:
            return 1
        if tried.cancelled is not None:
            tried.cancelled._take_back("cancelled, and made anew")
        return tried.number + 1

    def turn(self, turn: int, envelope: Envelope) -> None:
        """Be opened by ``envelope``; called under the lock."""
        super().turn(turn, envelope)
        if turn == OPENS:
            self.since = envelope.seq + 1

    def finish(self) -> None:
        """End the attempt: it succeeded. Ending it again does nothing."""
        if self._end():
            self.opened, self.steps = [], []
            if _tried.get() is not None:
                _tried.set(None)

    def fail(self, error: BaseException | str) -> None:
        """End the attempt with ``error``: an Exception, or a text that tells of one, retracts what was streamed.

        Ending it again does nothing.
        """
        if not self._end():
            return
        cancelled = None if isinstance(error, Exception | str) else self
        _tried.set(Tried(self.of.start_id, self.attempt_number, cancelled))
        if cancelled is None:
            self._take_back(error if isinstance(error, str) else f"{type(error).__name__}: {text_of(error)}")

    def _end(self) -> bool:
        """Whether it went on until now. In a forked child it does not: it goes on in the parent."""
        with self.base.lock:
            ended, self.ended = self.ended, True
        return not ended and self._born == generation.number

    def _take_back(self, reason: str) -> None:
        with self.base.lock:
            self.failed = True
            parents = tuple(self.opened)
            self._undo()
        self.bus._turn(self, Retracted(self.since, reason, parents), ENDS)

    def _undo(self) -> None:
        """Have the steps that finished in it be made anew; called under the lock."""
        log = self.base.log
        steps, self.steps = self.steps, []
        if log is not None:
            for base, ordinal in steps:
                log.ordinals.give_back(base, ordinal)
            if log.replay is not None:
                log.replay.retract(self.since, tuple(self.opened))

    def _exit(self, error: BaseException | None) -> None:
        if error is None:
            self.finish()
        else:
            self.fail(error)


def _going_on(scope: Scope) -> Scope:
    """``scope``, or what is around it where it is an attempt that has ended: a retry may be made in the failed one."""
    while isinstance(scope, Attempt) and scope.ended:
        scope = scope.of
    return scope
