"""Resuming and forking: a recorded run goes on, itself or as another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from crewbus._util.callables import is_text
from crewbus.bus.live_runs import Runs
from crewbus.dispatch.dispatcher import now
from crewbus.durability.replay import Emissions, Replay
from crewbus.durability.run_log import Durability, Log, checked
from crewbus.events import Envelope, Retracted, RunFinished, RunForked, RunResumed, RunStarted, StepFinished
from crewbus.exceptions import CorruptRecordError, InputError, RunError, RunHeldError, RunNotFoundError, StepError
from crewbus.records.checkpoint import find_checkpoint
from crewbus.records.lineage import in_fork
from crewbus.records.progress import Progress, RecordedScope, Retraction, read_progress, valid
from crewbus.records.record import Landmark, Record, require_root
from crewbus.scopes.run import RecordingRequest, Run, Sink, new_id
from crewbus.scopes.tree import Tree
from crewbus.stores import LANDMARKS, LogInfo, Store, StoredEvent

if TYPE_CHECKING:
    from crewbus.bus.bus import Bus


class Found(NamedTuple):
    """What was found of a run that is to be resumed."""

    record: Record
    info: LogInfo
    start: Landmark
    progress: Progress
    last: int
    """The number that it is resumed after."""
    unannounced: int | None
    """From which number on consumers were not told that an earlier resume let go of it; None: they were."""
    retractions: list[Retraction]
    """What is taken back."""


class ResumedRun(Run):
    """A recorded run that goes on: entered as any other."""

    __slots__ = ("at",)

    def __init__(self, bus: Bus, run_id: str, at: str | None, wanted: RecordingRequest) -> None:
        super().__init__(bus, None, run_id, None, wanted)
        self.at = at
        """The checkpoint to go on from; None: the end of the record."""

    def start(self, *sinks: Sink) -> None:
        """Take the run and go on, without putting it in scope: see `Bus.resume`."""
        self._refuse_to_start()
        self.bus._reopen(self, sinks)


class Resumption(Runs):
    """Resumes and forks recorded runs."""

    def resume(self, run_id: str, at: str | None = None, *, durability: Durability | None = None) -> Run:
        """A recorded run, to be entered with ``with`` and gone on with: run the same code in it again.

        Steps that are recorded as finished return their result and are not called; what the code emits beside them is
        marked ``replayed`` and not recorded again, until it has caught up with the record. ``at`` names a checkpoint to
        go on from, in the place of the record's end: what came later is taken back. ``durability`` is as for
        `Bus.run`.

        Entering it raises `RunNotFoundError`; `RunHeldError` while it is alive, here or elsewhere; `RunError` if it
        has finished, or is nested in another (whose root is to be resumed); `RecordingError`; and `ReplayMismatch`,
        there or later, where the code asks for other steps than the record has.
        """
        for text in [run_id] if at is None else [run_id, at]:
            if not is_text(text):
                raise InputError(f"runs and checkpoints are named by text; got {text!r}")
        return ResumedRun(cast("Bus", self), run_id, at, RecordingRequest(None, checked(durability)))

    def _reopen(self, run: ResumedRun, sinks: Iterable[Sink]) -> None:
        if run.id in self._runs:
            raise RunHeldError(f"run {run.id} is alive, in this process: let it end first")
        around = self._own(self._scope())
        if around is not None and around.run is not None and not around.run.ended:
            raise RunError(f"run {run.id} is a root run: resume it outside run {around.run.id}")
        self._require_recorder()
        store = self.store
        require_root(store, run.id)
        before = store.info(run.id)
        found = self._look_within_depth(store, before, run.at)  # what can't be resumed is left as it is
        epoch = store.acquire(run.id)
        try:
            after = store.info(run.id)
            if (epoch, after.last) != (before.epoch + 1, before.last):  # somebody went on with it meanwhile
                found = self._look_within_depth(store, after, run.at)
            resumed, retractions = self._restore(run, found, epoch)
            self._admit(run, sinks, known=True)
            try:
                self._announce(run, RunStarted(run.name, dict(run.tags), None), 0)
                self._append(run, resumed)
                for since, parents, reason in retractions:
                    self._append(run, Retracted(since, reason, parents))
                self._wait_if_sync(run)
            except BaseException:
                self._withdraw(run)
                raise
        except BaseException:
            (store.finish if before.sealed else store.release)(run.id, epoch)
            raise

    def _look_within_depth(self, store: Store, info: LogInfo, at: str | None) -> Found:
        try:
            found = self._look(store, info, at)
            retractions = found.progress.retractions_on_resume(found.last)
        except RecursionError:
            raise CorruptRecordError(f"run {info.root_id} in {store!r} nests deeper than any code can") from None
        return found._replace(retractions=retractions)

    def _look(self, store: Store, info: LogInfo, at: str | None) -> Found:
        """What the record of a run says to whoever resumes it; raises what keeps it from being resumed."""
        run_id = info.root_id
        record = Record(store, run_id, run_id, self.decode)
        landmarks, unannounced = valid(record.landmarks())
        if not landmarks:
            raise RunNotFoundError(f"nothing of run {run_id} is in {store!r}: run it anew")
        end = record.end()
        if end is not None and isinstance(end.event, RunFinished):
            raise RunError(f"run {run_id} has finished: there is nothing to resume; fork it to go on in another way")
        if landmarks[0].kind is not RunStarted or landmarks[0].run_id != run_id:
            raise CorruptRecordError(f"the record of run {run_id} in {store!r} does not begin with its start")
        last = info.last if at is None else _position(record, at)
        # What was taken back after that stays taken back: consumers were told so.
        progress = read_progress(one for one in landmarks if one.seq <= last or one.kind is Retracted)
        return Found(record, info, landmarks[0], progress, last, unannounced, [])

    def _restore(self, run: ResumedRun, found: Found, epoch: int) -> tuple[RunResumed, list[Retraction]]:
        """Have ``run`` stand where its record ends; returns what is to be told of that."""
        progress, info, last = found.progress, found.info, found.last
        retractions = found.retractions
        if run.at is not None or found.unannounced is not None:
            since = min(last + 1, found.unannounced if found.unannounced is not None else last + 1)
            retractions.insert(0, Retraction(since, (), f"resumed from the checkpoint {run.at!r}"))
        self._set_up(run, found.start, info, Log(self._is_sync(run.wanted.durability), epoch))
        assert run.tree.log is not None
        run.tree.log.replay = Replay(progress, run, emissions(found.record, progress))
        run.tree.judge()
        return RunResumed(last, epoch, run.at), retractions

    @staticmethod
    def _set_up(run: ResumedRun, start: Landmark, info: LogInfo, log: Log) -> None:
        run.name = start.event.name
        run.set_tags(start.event.tags)
        run.start_id = start.id
        run.tree = Tree()
        run.tree.recorded, run.tree.log = True, log
        run.tree.numbers = count(info.last + 1)

    # Forks

    def fork(self, run_id: str, at: str | None = None, edits: Mapping[str, Any] | None = None) -> str:
        """Make another run that shares the record of this one up to a checkpoint, and return its id: resume that.

        It takes no longer for a long run, which stays as it is. ``at`` names the checkpoint; None: the end, or with
        ``edits`` the last step that is edited. ``edits`` gives finished steps, by name, or ``name[key]`` where several
        bear it, other results than they had. Raises `RunNotFoundError`, `StepError` for an edit that fits no step or
        several, `UnserializableError`, and `RecordingError`.
        """
        store = self.store
        require_root(store, run_id)
        record = Record(store, run_id, run_id, self.decode)
        edited = self._edited(record, edits or {})
        last = self._fork_point(record, at, edited)
        for edit, (_, end) in edited.items():
            if end > last:
                raise StepError(f"edit {edit!r}: the step finished after checkpoint {at!r}")
        fork_id = new_id()
        events: list[tuple[Any, str]] = [(RunForked(run_id, last, tuple(edited)), f"{fork_id}:0")]
        for edit, (scope, _) in edited.items():
            assert scope.step is not None
            assert scope.parent is not None
            written = self._coder().write((edits or {})[edit], Any, f"edit {edit!r}")
            events.append((scope.step, in_fork(scope.parent.ids[0], run_id, fork_id)))
            events.append((StepFinished(scope.step.name, *written), f"{fork_id}:{last + len(events)}"))
        envelopes = (
            Envelope(event, fork_id, seq, parent, now()) for seq, (event, parent) in enumerate(events, last + 1)
        )
        store.fork(run_id, last, fork_id, [self.encode(envelope) for envelope in envelopes])
        return fork_id

    def _fork_point(self, record: Record, at: str | None, edited: Mapping[str, tuple[RecordedScope, int]]) -> int:
        """The number of the last event that a fork shares."""
        if at is not None:
            return _position(record, at)
        if edited:
            return max(end for _, end in edited.values())
        last = self.store.info(record.root_id).last
        if last < 0:
            raise RunNotFoundError(f"nothing of run {record.root_id} is in {self.store!r}")
        end = record.end()
        return end.seq - 1 if end is not None and isinstance(end.event, RunFinished) else last

    @staticmethod
    def _edited(record: Record, edits: Mapping[str, Any]) -> dict[str, tuple[RecordedScope, int]]:
        """The steps that are edited, each with the number of its end."""
        if not edits:
            return {}
        progress = read_progress(valid(record.landmarks()).landmarks)
        return {edit: _one_step(progress, edit) for edit in edits}


def _one_step(progress: Progress, edit: str) -> tuple[RecordedScope, int]:
    found, names = [], set()
    for identity, end in progress.results.items():
        scope = progress.steps[identity]
        assert scope.step is not None
        full = f"{scope.step.name}[{scope.step.key}]"
        names.add(full)
        if edit in (scope.step.name, full):
            found.append((scope, end))
    if len(found) == 1:
        return found[0]
    some = sorted(names)[:10]
    if not found:
        raise StepError(f"edit {edit!r}: no step of that name has finished; there are {', '.join(some) or 'none'}")
    raise StepError(f"edit {edit!r}: {len(found)} steps bear that name; name one as {' or '.join(some)}")


def _position(record: Record, name: str) -> int:
    """The number of the last checkpoint of that name."""
    for found in find_checkpoint(record.marks(), name):
        return found.seq
    names = dict.fromkeys(one.event.name for one in find_checkpoint(record.marks()))
    there = f"there are {', '.join(map(repr, names))}" if names else "it has none"
    raise RunNotFoundError(f"run {record.root_id} has no checkpoint {name!r}: {there}")


def emissions(record: Record, progress: Progress) -> Emissions:
    """Finds what a record holds that code emitted directly in something, and that was not taken back."""

    def between(after: int, upto: int) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for stored in record.stored(after):
            if stored.seq > upto:
                break
            counts = _is_counted(record, stored) and not progress.retractions.cover(stored.seq, stored.parent)
            if counts and stored.parent is not None:
                found.setdefault(stored.parent, []).append(stored.seq)
        return found

    return between


def _is_counted(record: Record, stored: StoredEvent) -> bool:
    """Whether the code emits it, rather than what it stands in."""
    if stored.name == "crewbus.CheckpointSaved":
        return not record.decoded(stored).event.automatic
    return stored.name not in LANDMARKS
