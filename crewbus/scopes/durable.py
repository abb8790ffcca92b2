"""What a run does that its record keeps: attempts, steps, checkpoints, the state of entities, and its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from crewbus.events import Envelope
from crewbus.exceptions import RunError
from crewbus.scopes.attempt import Attempt
from crewbus.scopes.ports import Host
from crewbus.scopes.scope import Scope

T = TypeVar("T")


class DurableScope(Scope):
    """The part of a run that is durable, if the run is recorded."""

    __slots__ = ("written_result",)

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.written_result: Any = None
        """Its result as its terminal event has it, once it is known; None: there is none, or nothing is recorded."""

    def attempt(self, number: int | None = None) -> Attempt:
        """An attempt, to be entered with ``with``: if an Exception ends it, what was streamed in it is retracted.

        ``number``: which one it is, from 1; by default one more than the last that failed here in this context.
        """
        return Attempt(self, number)

    def step(
        self, name: str, fn: Callable[..., T], /, *args: Any, key: str | Callable[..., str] | None = None, **kwargs: Any
    ) -> T:
        """Call ``fn(*args, **kwargs)`` as the step ``name`` of this run, and return what it returns.

        For an async function the result is a coroutine, to be awaited. See `crewbus.step`.
        """
        return self.host.steps.step(self.innermost(), name, fn, key, args, kwargs)  # type: ignore[no-any-return]

    def checkpoint(self, name: str) -> Envelope | None:
        """Save a position to resume or fork from, with the state of the tracked entities; it is on disk on return.

        Returns None if the run is not recorded. Raises `RecordingError`, and `UnserializableError` for an entity
        that would not come back unchanged. On an event loop: ``await run.acheckpoint(name)``.
        """
        return self.host.steps.checkpoint(self.addressed(), name)

    async def acheckpoint(self, name: str) -> Envelope | None:
        """As `checkpoint`, without blocking the loop."""
        return await self.host.steps.acheckpoint(self.addressed(), name)

    def track(self, name: str, entity: T) -> T:
        """Keep the state of ``entity``, an instance of a registered type, under ``name`` with each checkpoint.

        Returns ``entity``. Does nothing if the run is not recorded. Raises `UnregisteredEventError`: see
        `crewbus.register_entity`.
        """
        self.host.steps.track(self, name, entity)
        return entity

    def set_result(self, value: Any) -> None:
        """Give the run its result: `Bus.result` returns it in any process, once the run has finished.

        The function of `Bus.stream` gives its run what it returns. The result must be a JSON value or an instance of a
        registered type; it is encoded now. The last result that is set counts. Nothing is kept of it if the run is not
        recorded. Raises `UnserializableError`, `OversizedEventError`, and `RunError` once the run has ended.
        """
        if self.ended:
            raise RunError(f"{self!r} is not running: set its result inside its 'with' block")
        if self.tree.recorded:
            self.written_result = self.host.steps.written_result(self, value)

    def patched(self, name: str) -> bool:
        """Whether the run takes the way of changed code here: True in new runs, and for what a resumed run does anew.

        False where the record was made by the code before the change: a resumed run that still has recorded steps,
        calls or output ahead of it goes on as it was. The first call with this ``name`` decides for the whole run;
        True is recorded, once. A nested run decides for itself. Raises `InputError`, and `RunError` once the run has
        ended.
        """
        return self.host.steps.patched(self.innermost(), name)
