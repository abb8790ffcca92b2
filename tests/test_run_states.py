"""The states of a recorded run: what leads from which to which. `docs/durability.md` prints the table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from durable_mortal import MortalStore
from helpers import Noted

import crewbus
from crewbus.events import RunInterrupted

PAGE = Path(__file__).parent.parent / "docs" / "durability.md"


class Row(NamedTuple):
    """A row of the table: the state that follows, and what happens; of what is refused, the error."""

    state: str
    effect: str


TABLE: Final[Mapping[tuple[str, str], Row]] = {
    ("absent", "begin"): Row("running", "`RunStarted` is number 0"),
    ("absent", "resume"): Row("absent", "RunNotFoundError"),
    ("absent", "fork"): Row("absent", "RunNotFoundError"),
    ("absent", "prune"): Row("absent", "nothing"),
    ("absent", "subscribe"): Row("absent", "RunNotFoundError"),
    ("running", "begin"): Row("running", "RunIdInUseError"),
    ("running", "emit"): Row("running", "the event gets the next number"),
    ("running", "emit, taken over"): Row("running", "FencedError"),
    ("running", "finish"): Row("finished", "`RunFinished` is the last event"),
    ("running", "fail"): Row("failed", "`RunFailed` or `RunCancelled` is the last event"),
    ("running", "crash"): Row("interrupted", "what was acknowledged stays"),
    ("running", "resume"): Row("running", "RunHeldError"),
    ("running", "fork"): Row("running", "a new run, interrupted, shares the events up to there"),
    ("running", "prune"): Row("running", "it stays"),
    ("running", "subscribe"): Row("running", "what is recorded, then what happens"),
    ("interrupted", "begin"): Row("interrupted", "RunIdInUseError"),
    ("interrupted", "resume"): Row("running", "`RunResumed`, then a retraction for each open scope"),
    ("interrupted", "fork"): Row("interrupted", "a new run, interrupted, shares the events up to there"),
    ("interrupted", "prune"): Row("absent", "its events go, unless a fork that stays needs them"),
    ("interrupted", "subscribe"): Row("interrupted", "what is recorded, then `RunInterrupted`"),
    ("failed", "begin"): Row("failed", "RunIdInUseError"),
    ("failed", "resume"): Row("running", "`RunResumed`, then a retraction for each open scope"),
    ("failed", "fork"): Row("failed", "a new run, interrupted, shares the events up to there"),
    ("failed", "prune"): Row("absent", "its events go, unless a fork that stays needs them"),
    ("failed", "subscribe"): Row("failed", "what is recorded, to its last event"),
    ("finished", "begin"): Row("finished", "RunIdInUseError"),
    ("finished", "resume"): Row("finished", "RunError"),
    ("finished", "fork"): Row("finished", "a new run, interrupted, shares the events up to there"),
    ("finished", "prune"): Row("absent", "its events go, unless a fork that stays needs them"),
    ("finished", "subscribe"): Row("finished", "what is recorded, to its last event"),
}
"""What leads where. What is not in it can't happen."""


def test_the_page_has_the_table() -> None:
    text = PAGE.read_text()
    rows = re.search(r"^\| state \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert rows
    printed = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows[1].splitlines()]
    assert [(state, event, *row) for (state, event), row in TABLE.items()] == [
        (*cells[:3], re.sub(r"^`(\w+)`$", r"\1", cells[3])) for cells in printed
    ]


class CutError(Exception):
    """The run fails."""


class Stage:
    """A run of crewbus in each of the states, and what may happen to it."""

    def __init__(self) -> None:
        self.bus = crewbus.Bus(entry_points=False)
        self.bus.enable_recording(crewbus.MemoryStore())
        self.run: crewbus.Run = self.bus.run(id="r")
        self.rest = ExitStack()

    def be(self, state: str) -> None:
        if state != "absent":
            self.run.start()
        if state == "interrupted":
            self.bus.store.revoke("r")
        elif state in {"finished", "failed"}:
            self.run.finish(CutError() if state == "failed" else None)

    def state(self) -> str:
        try:
            return self.bus.records.info("r").state
        except crewbus.RunNotFoundError:
            return "absent"

    def let(self, event: str) -> None:
        getattr(self, event.replace(", ", "_").replace(" ", "_"))()

    def begin(self) -> None:
        run = self.bus.run(id="r")
        run.start()
        self.run = run

    def emit(self) -> None:
        self.run.emit(Noted())

    def emit_taken_over(self) -> None:
        self.bus.store.revoke("r")
        self.bus.store.acquire("r")
        self.run.emit(Noted())

    def finish(self) -> None:
        self.run.finish()

    def fail(self) -> None:
        self.run.finish(CutError())

    def crash(self) -> None:
        self.bus.store.revoke("r")

    def resume(self) -> None:
        other = self.rest.enter_context(crewbus.Bus(entry_points=False))
        other.enable_recording(MortalStore(self.bus.store))
        resumed = other.resume("r")
        resumed.start()
        self.rest.callback(resumed.finish)

    def fork(self) -> None:
        fork = self.bus.fork("r")
        assert self.bus.records.info(fork).state == "interrupted"

    def prune(self) -> None:
        self.bus.records.prune(keep=0)

    def subscribe(self) -> None:
        state = self.state()
        if state == "running":
            self.run.chunk("live")
        with self.bus.subscribe("r", after="start") as stream:
            last = next(stream).event if state == "running" else [envelope.event for envelope in stream][-1]
        assert (
            type(last)
            is {
                "running": crewbus.Chunk,
                "interrupted": RunInterrupted,
                "failed": crewbus.RunFailed,
                "finished": crewbus.RunFinished,
            }[state]
        )

    def leave(self) -> None:
        self.rest.close()
        with suppress(crewbus.RecordingError):
            self.run.finish()
        with suppress(crewbus.RecordingError):
            self.bus.close()


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_a_run_goes_from_state_to_state_as_the_table_says(state: str, event: str) -> None:
    becomes, effect = TABLE[state, event]
    stage = Stage()
    try:
        stage.be(state)
        assert stage.state() == state
        if effect.endswith("Error"):
            with pytest.raises(crewbus.CrewbusError) as caught:
                stage.let(event)
            assert type(caught.value).__name__ == effect
        else:
            stage.let(event)
        assert stage.state() == becomes
    finally:
        stage.leave()
