"""What the tests of crewAI's checkpoints and of its command line share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from behaviour import crewai
from helpers import TIMEOUT

LOCATION = "checkpoints"
"""Where they are written, in the directory that a test is in."""


class Saved(NamedTuple):
    """A checkpoint that crewAI wrote as JSON."""

    path: str
    id: str
    parent: str
    branch: str
    data: dict[str, Any]

    @property
    def entity(self) -> dict[str, Any]:
        """What was kicked off."""
        return self.data["entities"][0]

    @property
    def outputs(self) -> list[str | None]:
        """What the tasks of the crew had given; None of those that were not done."""
        return [task["output"] and task["output"]["raw"] for task in self.entity["tasks"]]

    @property
    def events(self) -> list[str]:
        """The types of the events in its record, in order."""
        events = [node["event"] for node in self.data["event_record"]["nodes"].values()]
        return [event["type"] for event in sorted(events, key=lambda event: event["emission_sequence"])]


def saved(location: str = LOCATION) -> list[Saved]:
    """The checkpoints in a directory, the oldest first."""
    paths = sorted(Path(location).rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [_read(path) for path in paths]


def _read(path: Path) -> Saved:
    name, _, parent = path.stem.partition("_p-")
    data = json.loads(path.read_text("utf-8"))
    return Saved(str(path), name, parent, data["branch"], data)


def config(**options: Any) -> Any:
    """How to write checkpoints, to `LOCATION`."""
    return crewai().CheckpointConfig(**{"location": LOCATION} | options)


@contextmanager
def one_by_one() -> Iterator[None]:
    """An emission returns when the handlers of what was emitted have.

    crewAI writes a checkpoint in a handler, while the crew runs: the checkpoint then contains later events too,
    or is not written where the record grows meanwhile.
    """
    bus = crewai().crewai_event_bus
    emit = type(bus).emit

    def settled(self: Any, source: Any, event: Any) -> Any:
        future = emit(self, source, event)
        if not event.type.startswith("checkpoint_"):  # which that very handler emits
            assert bus.flush(TIMEOUT)
        return future

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bus), "emit", settled)
        yield
