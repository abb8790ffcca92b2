"""Scopes: what an emission belongs to. A run, a call in one or outside any, an attempt, or a step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Token
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from crewbus._util import is_count
from crewbus.events import Chunk, Envelope
from crewbus.exceptions import InputError
from crewbus.scopes.current import execution_id, innermost, scope_var
from crewbus.scopes.leaving import Nothing, leaves
from crewbus.scopes.ports import Host, Phase
from crewbus.scopes.thread_state import threads
from crewbus.scopes.tree import CLOSED, Gate, Tree
from crewbus.scopes.tries import Tries

if TYPE_CHECKING:
    from crewbus.scopes.around import Around

ScopeKind = Literal["run", "entry", "call", "attempt", "step"]
"""What a scope is. An "entry" is a run that runs already, entered once more: see `Run.scope`."""


class Scope:
    """What emissions belong to. ``with`` and ``async with`` alike start it, make it current, and end it.

    What an emission needs is resolved once, when the scope starts, and kept in slots.
    """

    __slots__ = (
        "__weakref__", "_around", "_entered", "_token", "attempt_number", "attempts", "bus", "call", "ended",
        "found_by", "gate", "host", "outer", "parent_id", "replayed", "run", "start_id", "step_parent", "tree", "tries",
    )  # fmt: skip

    _around: Around | None
    bus: Any
    """The `Bus` that it belongs to."""
    found_by: Any
    """The bus whose emissions find it while it is current: its own. None: it was left where that did not show."""
    host: Host
    """What it asks of its bus."""
    outer: Scope | None
    """The innermost scope, of whichever bus, that was current and not over when it started."""
    ended: bool
    """Whether it is not in progress: not yet, or no longer."""
    run: Any
    """The `Run` that it belongs to, or None; a run belongs to itself."""
    call: Any
    """The `Call` that it belongs to, or None; a call belongs to itself, a run to none."""
    step_parent: Scope | None
    """The innermost run or step that steps called here are part of."""
    tree: Tree
    """The tree whose lock and numbers its emissions take."""
    gate: Gate
    """Whether the hot path may emit here without the lock: its tree for a plain run, else `CLOSED`."""
    start_id: str | None
    """The id of the envelope that started it: the parent of what is emitted here. Before its start, `parent_id`."""
    parent_id: str | None
    """The id of the envelope that started the scope around it, in the record's tree; None: there is none."""
    replayed: bool
    """Whether its start repeats one that the record of a resumed run holds."""
    attempt_number: int
    """Which attempt the events emitted here belong to."""
    attempts: tuple[Any, ...]
    """Each `Attempt` around it, itself among them."""
    tries: tuple[Tries, ...]
    """The unsuccessful attempts at it that another one may follow, while it is in progress."""

    scope_kind: ClassVar[ScopeKind]
    """What it is: "run", "call", "attempt", "step", or "entry" for a run that is entered once more."""
    name: str | None
    """The name of what happens in it; None: it has none."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.bus = self.found_by = host.bus
        self.tree = host.outside
        self.gate = CLOSED
        self.outer = self.start_id = self.parent_id = self.run = self.call = self.step_parent = self._around = None
        self.attempt_number = 1
        self.attempts = ()
        self.tries = ()
        self.ended = True
        self.replayed = False
        self._token: Token[Any] | None = None
        self._entered = False

    def emit(self, event: Any, source: Any = None) -> Envelope | None:
        """Emit ``event`` here, from any thread or context. See `Bus.emit`."""
        return self.host.emit_in(self.addressed(), event, source)

    def chunk(self, text: str, kind: str = "text", source: Any = None) -> Envelope | None:
        """Emit a `Chunk` here, from any thread or context."""
        return self.host.emit_in(self.addressed(), Chunk(text, kind), source)

    def aemit(self, event: Any, source: Any = None) -> Coroutine[Any, Any, Envelope | None]:
        """As `emit`, and then wait, without blocking the event loop, until consumers have room. See `Bus.drain`."""
        return self._drained(partial(self.emit, event, source), execution_id())

    def achunk(self, text: str, kind: str = "text", source: Any = None) -> Coroutine[Any, Any, Envelope | None]:
        """As `chunk`, and then wait, without blocking the event loop, until consumers have room. See `Bus.drain`."""
        return self._drained(partial(self.chunk, text, kind, source), execution_id())

    async def _drained(self, emit: Callable[[], Envelope | None], caller: object) -> Envelope | None:
        envelope = emit()
        await self.host.drain(self.run, caller)
        return envelope

    def innermost(self) -> Scope:
        """The current scope if it is inside this one, else this one."""
        return self

    def addressed(self) -> Scope:
        """Where an event goes that is emitted here: what code emits that runs further inside belongs there."""
        here = self.innermost()
        return _addressed(self) if here is self and self.tree.recorded else here

    def emitted_from(self) -> Scope:
        """The scope that what is emitted here belongs to."""
        return self

    def represented(self) -> Scope:
        """The scope that it stands for: itself, unless it is a run that was entered once more."""
        return self

    def inherit(self, around: Scope) -> None:
        """Take over from the scope around this one which attempt it is part of."""
        self.start_id = self.parent_id = around.start_id
        self.attempt_number = around.attempt_number
        self.attempts = around.attempts

    def leave_run(self, outside: Tree) -> None:
        """Continue outside any run: the run has ended."""
        self.run, self.tree, self.gate = None, outside, CLOSED

    def is_over(self) -> bool:
        """Whether nothing can happen in it any more that a scope around it should know of."""
        # In a record, a call is identified by the calls around it, ended ones too.
        run = self.run
        return self.ended and (run is None or run.ended or not run.recorded)

    # Called under the tree's lock

    def accepts(self, phase: Phase) -> bool:
        """Whether it may be started or ended by another event."""
        return phase != Phase.END

    def transition(self, phase: Phase, envelope: Envelope) -> None:
        """Be started or ended by ``envelope``, which was numbered and recorded."""
        if phase == Phase.START:
            self.start_id = envelope.id
            self.replayed = envelope.replayed
            for attempt in self.attempts if not envelope.replayed else ():
                attempt.note(envelope.id)

    def close_gate(self) -> None:
        """Be about to be ended: no event is numbered after its end."""

    def abandon(self) -> None:
        """Be over without a terminal event: the bus is closed."""

    # Being current

    def surround(self) -> None:
        """Ask the plugins, before it starts, what to put around its code. Raises what rejects it."""
        if self.host.around is not None:
            self._around = self.host.around(self)

    def start(self) -> None:
        """Start it without making it current here, to be carried to another context."""

    def end(self, error: BaseException | None) -> None:
        """End it as its ``with`` block ended: with ``error``, or None."""

    def __enter__(self) -> Self:
        self.start()
        try:
            self._entered = True
            self._token = scope_var.set(self)
            if self._around is not None:
                self._around.__enter__()
        except BaseException as error:  # an interrupt, or a plugin rejects it
            self.__exit__(type(error), error, None)
            raise
        return self

    def is_entered(self) -> bool:
        """Whether its ``with`` block has begun and was not left."""
        return self._entered

    @leaves
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave(kind, error, trace)
        finally:
            if threads.state.holds_lock():  # a finaliser closes a generator: its own lock may be another thread's
                self.host.defer(partial(self.end, error))
            else:
                self.end(error)
        self._entered = False

    async def __aenter__(self) -> Self:
        return self.__enter__()

    @leaves
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        self.__exit__(kind, error, trace)
        return Nothing()

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._around is not None:
                self._around.__exit__(kind, error, trace)
                self._around = None
        finally:
            self._stop_being_current()

    def _stop_being_current(self) -> None:
        """Stop being current. Where the variable can't be reset, emissions pass over this scope from now on.

        That is so in another context than the one in which it was entered, as when a generator is closed elsewhere,
        and where a scope that was entered since is current, as with generators that take turns.
        """
        token, self._token = self._token, None
        here = scope_var.get()
        try:
            if token is not None:
                scope_var.reset(token)
                if here is not self:
                    scope_var.set(here)
        except ValueError:  # the token is of another context
            self._hide()
        if here is not self:
            self._hide()
        elif scope_var.get() is self:
            scope_var.set(self.outer)
        innermost()

    def _hide(self) -> None:
        self.found_by, self.gate = None, CLOSED


class Addressed(Scope):
    """A scope as the code addresses it that runs in a nested run: its events go there, and belong to that code.

    So they are retracted with the step that emitted them, and repeated with it.
    """

    __slots__ = ("_origin",)

    def __init__(self, to: Scope, origin: Scope) -> None:
        super().__init__(to.host)
        self._origin = origin
        self.tree, self.run, self.call, self.outer = to.tree, to.run, to.call, origin
        self.step_parent = origin.step_parent
        self.inherit(origin)
        self.ended = False

    def emitted_from(self) -> Scope:
        """The scope in which the code runs."""
        return self._origin


def _addressed(scope: Scope) -> Scope:
    here = scope.host.own(scope_var.get())
    if here is None:  # a thread without the context: it most likely works for the step in progress
        here = scope.host.steps.in_progress(scope) if scope.tree.log is not None else None
        return scope if here is None else Addressed(scope, here)
    if here.step_parent is scope.step_parent or here.tree is not scope.tree:
        return scope
    outside: Scope | None = here
    while outside is not None and outside.represented() is not scope:
        outside = outside.outer
    return scope if outside is None else Addressed(scope, here)


def checked_attempt_number(number: int | None) -> int | None:
    """``number``. Raises `InputError` unless it is None or counts from 1."""
    if number is not None and not is_count(number):
        raise InputError(f"attempts count from 1; got {number!r}")
    return number


def checked_error(error: Any, *kinds: type) -> Any:
    """``error``. Raises `InputError` unless it is an instance of an exception, or of ``kinds``."""
    if not isinstance(error, (BaseException, *kinds)):
        also = "".join(f" or {kind.__name__}" for kind in kinds if kind is not type(None))
        raise InputError(f"what ends a scope is an exception{also}, not its class; got {error!r}")
    return error
