"""The model of a store and the processes around it: recorded runs, their states, and who follows them.

`TABLE` says which event leads from which state to which; `docs/durability.md` prints it, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
from durable_model import CrashError, Entry, Log, Row, Session, World
from durable_programs import BreakError, Program

# Following a run


@attrs.define
class Consumer:
    """Follows a log by cursor (``after``, ``epoch`` and ``floor``), and applies the retractions that it gets."""

    live: bool = False
    """Whether it saw all that was emitted when the process died, also what was not yet on disk."""
    after: int = -1
    """The number of the last event it has seen."""
    epoch: int = 0
    """The epoch that this was recorded in."""
    floor: int | None = None
    """The least number from which something was taken back in that epoch."""
    frames: list[Entry] = attrs.field(factory=list)

    def read(self, log: Log, chunks: int | None = None) -> None:
        """Catch up with the log, in which what it has seen may be missing: it was lost in a crash.

        ``chunks``: leave after so many.
        """
        cut = next((entry.seq for entry in log.entries if entry.epoch > self.epoch), log.last + 1)
        if self.after >= cut:
            since = cut if self.floor is None else min(cut, self.floor)
            self._take_back(Entry(cut, self.epoch, "Retracted", since=since))
            self.after = since - 1
        for entry in log.entries[self.after + 1 :]:
            if chunks == 0:
                return
            self._see(entry)
            if chunks is not None and entry.kind == "Chunk":
                chunks -= 1

    def _see(self, entry: Entry) -> None:
        if entry.epoch != self.epoch:
            self.floor = None
        self.after, self.epoch = entry.seq, entry.epoch
        if entry.kind == "Retracted":
            self._take_back(entry)
            self.floor = entry.since if self.floor is None else min(entry.since, self.floor)
        elif entry.kind == "Chunk":
            self.frames.append(entry)

    def _take_back(self, retraction: Entry) -> None:
        self.frames = [frame for frame in self.frames if not retraction.covers(frame)]


# The states of a run


class RefusedError(Exception):
    """What was asked for is not possible in the state that the run is in: the name of the error."""


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


@attrs.define
class Recorded:
    """A recorded run: its log, its state, the program it plays, and what became of that."""

    program: Program
    log: Log
    state: str = "absent"
    world: World = attrs.field(factory=World)
    parent: str | None = None
    result: Any = None


class Shelf:
    """A store and the processes around it: every run by its id, oldest first."""

    def __init__(self, uncounted: Iterable[str] = ()) -> None:
        self.runs: dict[str, Recorded] = {}
        self.consumers: list[tuple[str, Consumer]] = []
        self._uncounted = frozenset(uncounted)

    def consumers_of(self, run_id: str) -> list[Consumer]:
        """Those who follow a run."""
        return [consumer for followed, consumer in self.consumers if followed == run_id]

    def _lose(self, run_id: str, count: int) -> None:
        """What a crash of the machine takes of a run: the last events that were not on disk; perhaps the whole run."""
        self.runs[run_id].log.lose(count)
        if self.runs[run_id].log.last < 0:
            del self.runs[run_id]

    def turn(self, run_id: str, event: str) -> None:
        """Let ``event`` happen to a run, as `TABLE` has it."""
        run = self.runs.get(run_id)
        state, effect = TABLE[run.state if run else "absent", event]
        if effect.endswith("Error"):
            raise RefusedError(effect)
        if run is not None:
            run.state = state

    def begin(
        self, run_id: str, program: Program, fuse: int | None = None, schedule: Iterable[int] = (), lost: int = 0
    ) -> None:
        """Begin a run and play it, until it ends or, after ``fuse`` events, crashes and loses ``lost`` of them."""
        self.turn(run_id, "begin")
        self.runs[run_id] = Recorded(program, Log(uncounted=self._uncounted), "running")
        self._play(run_id, Session.begin, fuse, schedule, lost)

    def resume(
        self, run_id: str, at: int | None = None, fuse: int | None = None, schedule: Iterable[int] = (), lost: int = 0
    ) -> None:
        """Go on with a run, from its end or from the event ``at``."""
        self.turn(run_id, "resume")
        self._play(run_id, lambda session: session.resume(at), fuse, schedule, lost)

    def _play(
        self, run_id: str, take: Callable[[Session], None], fuse: int | None, schedule: Iterable[int], lost: int
    ) -> None:
        run = self.runs[run_id]
        run.log.fuse = fuse
        session = Session(run.log, run.world, schedule)
        try:
            take(session)
            run.result = session.play(run.program)
        except CrashError:
            self.turn(run_id, "crash")
            for consumer in self.consumers_of(run_id):
                if consumer.live:
                    consumer.read(run.log)
            self._lose(run_id, lost)
        except BreakError:
            self.turn(run_id, "fail")
        else:
            self.turn(run_id, "finish")

    def fork(self, run_id: str, at: int, fork_id: str, edits: Mapping[str, Any]) -> None:
        """Make a run that shares the events up to ``at``; ``edits`` replace the results of the steps of these names."""
        self.turn(run_id, "fork")
        shared = tuple(entry._replace(epoch=0) for entry in self.runs[run_id].log.entries[: at + 1])
        log = Log(shared=shared, durable=len(shared), uncounted=self._uncounted)
        log.append("RunForked", since=at, result=dict(edits))
        log.flush()
        self.runs[fork_id] = Recorded(self.runs[run_id].program, log, "interrupted", parent=run_id)

    def prune(self, keep: int) -> list[str]:
        """Drop all but the newest ``keep`` runs, those that are running, and those that a kept fork needs."""
        stay = set(list(self.runs)[-keep:] if keep else ())
        stay |= {run_id for run_id, run in self.runs.items() if run.state == "running"}
        for run_id in list(stay):
            stay |= set(self._ancestors(run_id))
        gone = [run_id for run_id in self.runs if run_id not in stay]
        for run_id in gone:
            self.turn(run_id, "prune")
            del self.runs[run_id]
        return gone

    def _ancestors(self, run_id: str) -> Iterator[str]:
        parent = self.runs[run_id].parent
        while parent is not None:
            yield parent
            parent = self.runs[parent].parent
