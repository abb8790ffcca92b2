"""What a bus hears, and what a callback does."""

from __future__ import annotations

from typing import Any

import crewbus


class Listener:
    """A callback that keeps the envelopes."""

    def __init__(self) -> None:
        self.envelopes: list[crewbus.Envelope] = []

    def __call__(self, envelope: crewbus.Envelope) -> None:
        self.envelopes.append(envelope)

    @property
    def events(self) -> list[Any]:
        return [envelope.event for envelope in self.envelopes]

    def of(self, *types: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, types)]

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    @property
    def text(self) -> str:
        return self.spelled("text")

    def spelled(self, kind: str) -> str:
        return "".join(chunk.text for chunk in self.of(crewbus.Chunk) if chunk.kind == kind)

    @property
    def end(self) -> Any:
        """The terminal event of the one call that there was."""
        (end,) = self.of(crewbus.CallEnded)
        return end


class Hearing(Listener):
    """All events of a bus, and the runs that they tell of."""

    def __init__(self, bus: crewbus.Bus) -> None:
        super().__init__()
        bus.on(object, self)

    @property
    def tree(self) -> list[str]:
        """The names of the runs, each with those of the runs around it before it."""
        return [self.path(envelope.run_id) for envelope in self.started]

    @property
    def started(self) -> list[crewbus.Envelope]:
        return [envelope for envelope in self.envelopes if isinstance(envelope.event, crewbus.RunStarted)]

    def path(self, run_id: str | None) -> str:
        """The names of the runs around a run, and its own."""
        runs = {envelope.run_id: envelope.event for envelope in self.started}
        names: list[str] = []
        while run_id is not None:
            names.insert(0, runs[run_id].name)
            run_id = runs[run_id].parent_run
        return "/".join(names)

    def where(self, kind: type) -> list[str]:
        """In which run each event of a type was emitted."""
        return [self.path(one.run_id) for one in self.envelopes if isinstance(one.event, kind)]
