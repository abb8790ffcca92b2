"""Resuming: a recorded run continues in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

from crewbus._util import is_text
from crewbus.durability.recorded_emissions import RecordedEmissions
from crewbus.durability.recorder import Recorder
from crewbus.durability.replay import Replay
from crewbus.durability.requests import act_on, asked_since
from crewbus.durability.step_scope import is_of_earlier_scheme
from crewbus.events import CheckpointSaved, Envelope, Retracted, RunFinished, RunResumed, RunStarted, StepStarted
from crewbus.exceptions import (
    CorruptRecordError,
    FencedError,
    InputError,
    RunError,
    RunHeldError,
    RunNotFoundError,
    StoreVersionError,
)
from crewbus.records import (
    Landmark,
    Progress,
    Record,
    Retraction,
    find_checkpoint,
    read_progress,
    require_root,
    valid,
)
from crewbus.scopes import (
    Durability,
    ForkedFrom,
    Host,
    Numbers,
    Preparation,
    RecordingRequest,
    ResumedFrom,
    Run,
    Sink,
    Tree,
    announced,
    checked_durability,
)
from crewbus.stores import LogInfo, LogSummary, Posted, Store


class Found(NamedTuple):
    """What is recorded of a run that is being resumed."""

    record: Record
    info: LogInfo
    start: Landmark
    end: Envelope | None
    """Its end, if it has failed or was cancelled."""
    progress: Progress
    last: int
    """The number that it is resumed after."""
    unannounced: int | None
    """The first number that an earlier resume retracted unknown to consumers, if it did."""
    retractions: list[Retraction]
    """What the resume retracts."""
    asked_since: Callable[[int], int]
    """Of the epoch with which it is resumed: see `requests.asked_since`."""


class Taken(NamedTuple):
    """A log that this process has acquired, to resume its run."""

    store: Store
    before: LogInfo
    """Its state before that."""
    epoch: int
    found: Found
    posted: list[Posted]
    """What its mailbox holds."""

    def give_back(self) -> None:
        """Leave it as it was."""
        give_back(self.store, self.before, self.epoch)


def give_back(store: Store, before: LogInfo, epoch: int) -> None:
    """Leave a log that was acquired as it was before."""
    if before.sealed:
        store.finish(before.root_id, epoch)
    elif before.due is None:
        store.release(before.root_id, epoch)
    else:
        store.release(before.root_id, epoch, before.due)


class Admission(Protocol):
    """Lets runs be live on a bus."""

    def admit(self, run: Run, sinks: Iterable[Sink], known: bool = False) -> None:
        """Make ``run`` live; ``known``: the store may have it already."""

    def announce(self, run: Run, started: RunStarted, replayed_seq: int | None = None) -> None:
        """Emit the event that starts ``run``; ``replayed_seq``: its number, if the record holds it."""

    def withdraw(self, run: Run, error: BaseException) -> None:
        """Forget a run whose start failed."""


class Resumption:
    """Resumes the recorded runs of a bus."""

    def __init__(self, host: Host, recording: Recorder, admission: Admission) -> None:
        self._host = host
        self._recording = recording
        self._admission = admission

    def run(
        self,
        run_id: str,
        at: str | None,
        durability: Durability | None,
        epoch: int | None = None,
        claimed: int | None = None,
    ) -> Run:
        """A run that resumes the recorded one when it is started; see `Bus.resume`.

        ``epoch``: the one with which it was found; starting it raises `RunHeldError` if another process had it since.
        ``claimed``: the one with which the caller has claimed it.
        """
        for text in [run_id] if at is None else [run_id, at]:
            if not is_text(text):
                raise InputError(f"runs and checkpoints are named by text; got {text!r}")
        request = RecordingRequest(None, checked_durability(durability))
        taken: list[Taken] = []

        def take(run: Run) -> Taken:
            return self._take(run, at, epoch) if claimed is None else self._take_claimed(run, at, claimed)

        def prepare(run: Run) -> Preparation:
            return Preparation(lambda: taken.append(take(run)), lambda: taken and taken.pop().give_back())

        def reopen(run: Run, sinks: Iterable[Sink]) -> None:
            self._reopen(run, at, sinks, taken.pop() if taken else take(run))

        return Run(self._host, None, run_id, None, request, reopen, prepare=prepare)

    def _take(self, run: Run, at: str | None, expected: int | None) -> Taken:
        """Acquire the log of a run, and read how far it came."""
        self._refuse_live(run)
        store = self._recording.store
        summary = _summary(store, run.id)
        before = summary.info
        if expected not in (None, before.epoch):
            raise taken_meanwhile(run.id)
        found = self._look_within_depth(store, summary, at)  # what can't be resumed is left unchanged
        epoch = store.acquire(run.id)
        try:
            if expected is not None and epoch != expected + 1:
                raise taken_meanwhile(run.id)
            if (epoch, store.info(run.id).last) != (before.epoch + 1, before.last):  # another process continued it
                found = self._look_within_depth(store, _summary(store, run.id), at)
            posted = store.posted(run.id)
        except BaseException:
            give_back(store, before, epoch)
            raise
        return Taken(store, before, epoch, found, posted)

    def _take_claimed(self, run: Run, at: str | None, epoch: int) -> Taken:
        """As `_take`, of a log that the caller has claimed; whatever happens, it is the caller's no more."""
        store = self._recording.store
        try:
            self._refuse_live(run)
            summary = _summary(store, run.id)
            if summary.info.epoch != epoch:
                raise FencedError(f"run {run.id} was taken over since epoch {epoch}: claim it again")
            found = self._look_within_depth(store, summary, at)
            return Taken(store, summary.info, epoch, found, store.posted(run.id))
        except BaseException:
            store.release(run.id, epoch)
            raise

    def _reopen(self, run: Run, at: str | None, sinks: Iterable[Sink], taken: Taken) -> None:
        found = taken.found
        try:
            self._restore(run, found, taken.epoch)
            run.resumed = ResumedFrom(found.last, taken.epoch, at)
            run.surround()
            self._admission.admit(run, sinks, known=True)
            try:
                self._announce(run, found, at)
                announced(run)
                act_on(taken.posted, run)
            except BaseException as error:
                self._admission.withdraw(run, error)
                raise
        except BaseException:
            taken.give_back()
            raise

    def _refuse_live(self, run: Run) -> None:
        if self._recording.find_run(run.id) is not None:
            raise RunHeldError(f"run {run.id} is live in this process: let it end first")
        around = self._host.current_scope()
        if around is not None and around.run is not None and not around.run.ended:
            raise RunError(f"run {run.id} is a root run: resume it outside run {around.run.id}")
        self._recording.require_recorder()

    def _announce(self, run: Run, found: Found, at: str | None) -> None:
        """Deliver the start again, and record that the run was resumed and what it retracts."""
        retractions = found.retractions
        if found.end is not None and not retractions:  # consumers have seen the end
            retractions = [Retraction(found.end.seq, (found.start.id,), "the run goes on after this end")]
        if at is not None or found.unannounced is not None:
            since = min(found.last + 1, found.unannounced if found.unannounced is not None else found.last + 1)
            retractions = [Retraction(since, (), f"resumed from the checkpoint {at!r}"), *retractions]
        self._admission.announce(run, RunStarted(run.name, dict(run.tags), None, run.key), 0)
        self._recording.append(run, RunResumed(found.last, run.epoch, at))
        for since, parents, reason in retractions:
            self._recording.append(run, Retracted(since, reason, parents))
        if run.tree.log.sync and not run.is_awaited:
            self._recording.disk.wait(run)

    def _look_within_depth(self, store: Store, summary: LogSummary, at: str | None) -> Found:
        try:
            found = self._look(store, summary, at)
            if found.unannounced is not None:
                found.progress.retract(Retracted(found.unannounced), found.info.last + 1)
            retractions = found.progress.retractions_on_resume(found.last)
        except RecursionError:
            raise CorruptRecordError(
                f"run {summary.info.root_id} in {store!r} nests deeper than any code can"
            ) from None
        return found._replace(retractions=retractions)

    def _look(self, store: Store, summary: LogSummary, at: str | None) -> Found:
        """Read how far a run came. Raises what keeps it from being resumed."""
        info = summary.info
        run_id, shared = info.root_id, -1 if info.parent_at is None else info.parent_at
        end = self._recording.decode(summary.end) if summary.end is not None and summary.has_ended else None
        if end is not None and isinstance(end.event, RunFinished):
            raise RunError(f"run {run_id} has finished: there is nothing to resume; fork it to continue differently")
        record = Record(store, run_id, run_id, self._recording.decode, shared)
        recorded = list(record.landmarks())
        landmarks, unannounced = valid(recorded)
        if not landmarks or landmarks[0].kind is not RunStarted or landmarks[0].run_id != run_id:
            raise CorruptRecordError(f"the record of run {run_id} in {store!r} does not begin with its start")
        step = next((one for one in landmarks if one.kind is StepStarted), None)  # a record has one scheme
        if step is not None and is_of_earlier_scheme(step.event):
            raise StoreVersionError(
                f"run {run_id} in {store!r} was recorded by an earlier release, whose steps have other identities: "
                "it can be shown, exported and replayed, but not resumed; start it again under another id"
            )
        checkpoints = (one for one in reversed(landmarks) if one.kind is CheckpointSaved)
        last = info.last if at is None else position(record, at, checkpoints)
        # What was retracted after that stays retracted, since consumers got the retraction.
        counted = (one for one in landmarks if one.seq <= last or one.kind is Retracted)
        progress = read_progress(counted, record.stored)
        since = partial(asked_since, recorded, run_id)
        return Found(record, info, landmarks[0], end, progress, last, unannounced, [], since)

    def _restore(self, run: Run, found: Found, epoch: int) -> None:
        """Set ``run`` to the state in which its record ends."""
        run.name, run.key = found.start.event.name, found.start.event.key
        run.set_tags(found.start.event.tags)
        if found.info.parent is not None and found.info.parent_at is not None:
            run.forked_from = ForkedFrom(found.info.parent, found.info.parent_at)
        run.tree = Tree(self._host.outside.lane)
        run.tree.started, run.tree.announcing = found.start.at, True
        run.tree.numbers = Numbers(found.info.last + 1)
        log = self._recording.open(run.tree, run.request.durability, epoch)
        log.asked_since = found.asked_since(epoch)
        recording, record = self._recording, found.record
        emissions = RecordedEmissions(
            found.progress,
            found.last,
            record.stored,
            recording.recorded_content,
            recording.event_of,
        )
        log.replay = Replay(found.progress, run, emissions, recording.plan_of)
        self._recording.replaying(run.tree)


def taken_meanwhile(run_id: str) -> RunHeldError:
    """The error for a run that another process has taken since it was found."""
    return RunHeldError(f"run {run_id} was taken by another process in the meantime")


def _summary(store: Store, run_id: str) -> LogSummary:
    """The state of a recorded root run, and how it began and ended."""
    try:
        return store.summary(run_id)
    except RunNotFoundError:
        require_root(store, run_id)  # says what is wrong with the id
        raise RunNotFoundError(f"run {run_id} has no events in {store!r}: start it again") from None


def position(record: Record, name: str, marks: Iterable[Envelope | Landmark]) -> int:
    """The number of the last checkpoint of that name; ``marks``: those of the record, the last first."""
    names: dict[str, None] = {}
    for found in find_checkpoint(marks):
        if found.event.name == name:
            return found.seq
        names[found.event.name] = None
    there = f"there are {', '.join(map(repr, names))}" if names else "it has none"
    raise RunNotFoundError(f"run {record.root_id} has no checkpoint {name!r}: {there}")
