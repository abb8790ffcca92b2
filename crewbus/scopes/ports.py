"""What scopes ask of their host: the bus fulfils it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from crewbus.events import Envelope
    from crewbus.scopes.around import Around

# A run, a call, a tree: they are made of what this module names, so it can't name them.
AnyScope = Any
AnyTree = Any


class Phase(IntEnum):
    """What an emission is to its scope. BODY is false, so that testing for it is fast."""

    BODY = 0
    START = 1
    END = 2


class Lane(Protocol):
    """How the events of a tree are committed: locked, numbered, recorded, routed, released, delivered."""

    def commit(
        self,
        plan: Any,
        scope: AnyScope,
        event: Any,
        source: Any = None,
        phase: Phase = Phase.BODY,
        replayed_seq: int | None = None,
    ) -> Envelope | None:
        """Commit one event of ``scope``. ``replayed_seq``: its number in the record, if that holds it already; -1: the
        record does not get it."""

    def kept(self, attempt: AnyScope) -> None:
        """An attempt succeeded, so what happened in it counts."""


class Transition(Protocol):
    """Emits the event that starts or ends a scope."""

    def __call__(self, scope: AnyScope, event: Any, phase: Phase, recorded: bool = True) -> None:
        """``recorded``: whether the record of a recorded run gets it, or else the scope stays open there."""


class Preparation:
    """What may block before a run can start: on an event loop, a worker thread does it."""

    __slots__ = ("give_back", "take")

    def __init__(self, take: Callable[[], object], give_back: Callable[[], object]) -> None:
        self.take = take
        self.give_back = give_back
        """Undoes it, unless the run has started since."""


class StepPerformer(Protocol):
    """Performs steps and saves checkpoints for runs."""

    def perform(self, function: Any, scope: AnyScope, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a step in ``scope``, or return its recorded outcome; of an async one, a coroutine that does."""

    def step(
        self,
        scope: AnyScope,
        name: str,
        fn: Callable[..., Any],
        key: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """As `perform`, for a function that is no declared step."""

    def in_progress(self, scope: AnyScope) -> AnyScope | None:
        """The innermost step in progress in ``scope``, of a recorded run, if there is only one on each level."""

    def checkpoint(self, scope: AnyScope, name: str) -> Envelope | None:
        """Save a checkpoint and wait until it is on disk."""

    async def acheckpoint(self, scope: AnyScope, name: str) -> Envelope | None:
        """As `checkpoint`, without blocking the event loop."""

    def track(self, run: AnyScope, name: str, entity: Any) -> None:
        """Keep the state of ``entity`` with each checkpoint of ``run``."""

    def written_result(self, run: AnyScope, value: Any, function: Callable[..., Any] | None = None) -> Any:
        """The result of a recorded run as its terminal event has it.

        ``function``: what returned it, whose annotation may say how it is read back.
        """

    def patched(self, scope: AnyScope, name: str) -> bool:
        """Whether the run that ``scope`` is in takes a patch; see `Run.patched`."""

    def complete(self, scope: AnyScope) -> None:
        """Raise `ReplayMismatch` if the run ends without having asked for every recorded step."""

    def enter(self, run: AnyScope) -> None:
        """Note that ``run`` continues in this thread or task."""

    async def written(self, run: AnyScope) -> None:
        """Wait for the disk as an emission in ``run`` would, without blocking the event loop."""


class Host:
    """All that a scope asks of its bus. The bus fills it in as it builds its parts."""

    __slots__ = (
        "_steps",
        "around",
        "as_callback",
        "bus",
        "closing",
        "current_scope",
        "defer",
        "drain",
        "emit_in",
        "finish",
        "hold_flush",
        "make_steps",
        "outside",
        "own",
        "prepare",
        "register_callback",
        "start",
        "transition",
    )  # fmt: skip

    outside: AnyTree
    """The tree of what is emitted outside any run."""
    make_steps: Callable[[], StepPerformer]
    """Make what performs the steps of its runs."""
    current_scope: Callable[[], AnyScope | None]
    """The innermost scope of this bus in this context."""
    defer: Callable[[Callable[[], object]], None]
    """Make a call once this thread holds no lock, and contain what it raises."""
    own: Callable[[AnyScope | None], AnyScope | None]
    """The given scope, or the nearest one around it that belongs to this bus."""
    emit_in: Callable[[AnyScope, Any, Any], Envelope | None]
    """Emit an event, with its source, in a scope, whatever is current."""
    transition: Transition
    """Emit the event that starts or ends a call, an attempt or a step."""
    prepare: Callable[[AnyScope], Preparation | None]
    """What may block before a new run starts; None: nothing."""
    start: Callable[[AnyScope, Iterable[Any]], None]
    """Start a run; the given sinks get its frames from the first on."""
    finish: Callable[[AnyScope, BaseException | None], None]
    """End a run with the terminal event that the error calls for."""
    register_callback: Callable[[Any, Any], Any]
    """For a call or `Callbacks`: what was given as a callback, as the plugins want it called."""
    as_callback: Callable[[Any], Any]
    """What was given as a callback, unchanged by plugins."""
    hold_flush: Callable[[str, Callable[[Callable[[], object]], object]], object]
    """Make flushes wait for what is named, until the function that the given one receives is called."""

    drain: Callable[[AnyScope | None, object], Awaitable[None]]
    """Wait, without blocking the loop, until what gets the events of a run, or of none, has room. The second argument
    is the thread or task that asks for it."""

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self.around: Callable[[AnyScope], Around | None] | None = None
        """Ask the plugins what to put around a scope that is about to start; None: no plugin wants to be asked."""
        self.closing = False
        """Whether the bus is closing, so that no emitter waits any more."""
        self._steps: StepPerformer | None = None

    @property
    def steps(self) -> StepPerformer:
        """What performs the steps of its runs, and saves their checkpoints; made at first use."""
        if self._steps is None:
            self._steps = self.make_steps()
        return self._steps

    @property
    def closed(self) -> bool:
        """Whether the bus is closed."""
        return bool(self.bus.closed)
