"""eventsourcing with its SQLite module: an aggregate, kept at hand, that is saved after each event."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event


class Crew(Aggregate):
    @event("TaskFinished")
    def finish(self, task: str, output: str) -> None:
        pass


@contextmanager
def recording(path: Path) -> Iterator[Callable[[int], None]]:
    """A loop that saves so many events of an aggregate of its own."""
    application: Application[UUID] = Application(
        env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    )

    def loop(n: int) -> None:
        crew = Crew()
        application.save(crew)
        for _ in range(n):
            crew.finish("research", "done")
            application.save(crew)

    try:
        yield loop
    finally:
        application.close()
