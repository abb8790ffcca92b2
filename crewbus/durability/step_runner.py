"""Performing steps: the record is asked before a step is called, and given the result when it has returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from crewbus import records, serialization
from crewbus.durability.checkpoints import Checkpoints
from crewbus.durability.disk import Disk
from crewbus.durability.ordinals import FailedTry, StepKey
from crewbus.durability.recorder import Recorder
from crewbus.durability.run_log import RunLog
from crewbus.durability.step_function import Key, StepFunction
from crewbus.durability.step_scope import Step, identity_of, path_of
from crewbus.events import Envelope, Retracted, StepFinished, StepStarted
from crewbus.exceptions import CrewbusError, DecodeError, StepError
from crewbus.scopes import Deferring, execution_id

if TYPE_CHECKING:
    from crewbus.scopes import Run, Scope


class StepCall(NamedTuple):
    """One call of a step: its scope, and where its result is recorded, if it is."""

    step: Step
    recorded_at: int | None = None
    """The number of the event that holds its result; None: the function is called."""
    failed_try: FailedTry | None = None
    opaque: bool = False
    """Whether an argument has no fingerprint."""


class StepRunner:
    """Performs the steps of a bus's runs. See `StepPerformer`."""

    def __init__(self, recording: Recorder, checkpoints: Checkpoints, disk: Disk) -> None:
        self._recording = recording
        self._checkpoints = checkpoints
        self._disk = disk

    def step(
        self,
        scope: Scope,
        name: str,
        fn: Callable[..., Any],
        key: Key | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Perform ``fn`` as the step ``name`` in ``scope``."""
        return self.perform(StepFunction(name, fn, key), scope, args, kwargs)

    def perform(self, function: StepFunction, scope: Scope, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a step in ``scope``, or return its recorded result; for an async one, a coroutine that does."""
        perform = self._perform_async if function.is_async else self._perform
        return perform(function, scope, args, kwargs)

    def _perform(self, function: StepFunction, scope: Scope, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        run = scope.run
        if run is not None and (run.ended or run.tree.cancelled):
            run.check()
        if run is None or run.ended:
            return function.function(*args, **kwargs)
        call = self._prepare(function, scope, run, args, kwargs)
        if call.recorded_at is not None:
            return self._recall(function, run, call)
        with self._performing(function, run, call, args, kwargs) as give:
            self._disk.confirm(run)
            result = function.function(*args, **kwargs)
            give(result)
        with self._confirming(call):
            self._disk.wait(run)
        return result

    async def _perform_async(
        self, function: StepFunction, scope: Scope, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        run = scope.run
        if run is not None and (run.ended or run.tree.cancelled):
            run.check()
        if run is None or run.ended:
            return await function.function(*args, **kwargs)
        call = self._prepare(function, scope, run, args, kwargs)
        if call.recorded_at is not None:
            return self._recall(function, run, call)
        with self._performing(function, run, call, args, kwargs) as give:
            await self._disk.confirm_async(run)
            result = await function.function(*args, **kwargs)
            give(result)
        with self._confirming(call):
            await self._disk.wait_async(run)
        return result

    @contextmanager
    def _performing(
        self, function: StepFunction, run: Run, call: StepCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[Callable[[Any], None]]:
        """Be in the step; yields what takes its result."""

        def give(result: Any) -> None:
            if run.tree.log is not None:
                call.step.give(self._recording.codec().write(result, function.annotation, f"step {function.name!r}"))
                self.complete(call.step)
                function.warn_if_changed(call.step.event.key, args, kwargs)

        try:
            self._retract_failed_try(call)
            with call.step:
                yield give
        finally:
            self._leave(run, call)

    @contextmanager
    def _confirming(self, call: StepCall) -> Iterator[None]:
        """Try the step again later if its result may not be on disk."""
        try:
            yield
        except BaseException:
            call.step.reopen()
            raise

    def _retract_failed_try(self, call: StepCall) -> None:
        failed = call.failed_try
        if failed is None:
            return
        try:
            event = Retracted(failed.since, "failed, and tried again", failed.opened)
            self._recording.append(call.step.of, event)
        except BaseException:
            call.step.reopen_as(failed)
            raise

    # Asking the record

    def _prepare(
        self, function: StepFunction, scope: Scope, run: Run, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> StepCall:
        log = run.tree.log
        if log is None:
            return StepCall(Step(scope, StepStarted(function.name), self._boundary))
        given = function.key(args, kwargs)
        parent = scope.step_parent
        with Deferring(run.tree.lock), run.tree.lock:
            key = StepKey(path_of(parent, log.paths), function.name, given.text)
            if given.opaque and key in log.busy:
                raise StepError(
                    f"step {function.name!r} is in progress twice, distinguished only by {', '.join(given.opaque)}, "
                    "which has no fingerprint: give it a key="
                )
            ordinal, failed_try = log.ordinals.take(key)
            for undo in failed_try.undo if failed_try is not None else ():
                undo()
            inline = (parent.execution if isinstance(parent, Step) else log.executions.get(run)) == execution_id()
            event = StepStarted(function.name, given.text, ordinal, inline, identity_of(key, ordinal))
            step = Step(scope, event, self._boundary, key, failed_try, function.raises)
            try:
                recorded_at = self._find(log, step, failed_try)
            except BaseException:
                log.ordinals.give_back(key, ordinal, failed_try)
                raise
            if given.opaque and recorded_at is None:
                log.busy.add(key)
        return StepCall(step, recorded_at, failed_try, bool(given.opaque))

    @staticmethod
    def _find(log: RunLog, step: Step, failed_try: FailedTry | None) -> int | None:
        """The number of the event that holds a step's result; None: the function is called. Under the lock."""
        if log.replay is None:
            return None
        log.replay.refuse_to_go_on()
        if failed_try is not None:
            log.replay.retract(failed_try.since, failed_try.opened)
        found = log.replay.find(step.event.identity)
        if found is None:
            log.replay.refuse_divergence(step)
            if failed_try is None:
                log.replay.enter(step)
        return found

    def _recall(self, function: StepFunction, run: Run, call: StepCall) -> Any:
        """The recorded result of a step."""
        assert call.recorded_at is not None
        stored = self._recording.store.event(run.root.id, call.recorded_at)
        event = self._recording.decode(stored).event
        if not isinstance(event, StepFinished):
            raise DecodeError(f"event {call.recorded_at} of run {run.root.id} is not the end of step {function.name!r}")
        result = self._recording.codec().read(
            serialization.Written(event.result, event.type, event.version), function.annotation
        )
        with Deferring(run.tree.lock), run.tree.lock:
            replay = run.tree.log.replay if run.tree.log is not None else None
            if replay is not None:
                call.step.recall(replay.returned(call.step.event.identity))
        return result

    def _leave(self, run: Run, call: StepCall) -> None:
        log = run.tree.log
        if log is None:
            return
        with Deferring(run.tree.lock), run.tree.lock:
            if call.opaque:
                log.busy.discard(call.step.key)
            if log.replay is not None:
                if call.step.succeeded:
                    log.replay.succeeded(call.step)
                log.replay.ended(call.step)

    def _boundary(self, step: Step) -> tuple[int, tuple[str, ...]]:
        """The first number that is retracted of a step that fails, and the parents of what is.

        It is what a resume would retract if the step had been left open: see `RecordedScope.retracted_parents`.
        """
        run = step.run
        if run is not None and run.tree.log is not None:
            with suppress(CrewbusError):  # a store that fails; the emitter gets its error
                # What it did before it was reopened here was retracted by the resume.
                landmarks = self._recording.record_of(run.root.id).landmarks(step.started_at - 1)
                recorded = records.read_progress(landmarks).steps.get(step.event.identity)
                if recorded is not None:
                    return recorded.boundary + 1, tuple(recorded.retracted_parents(ended=True))
        return max(step.since, step.finished_at + 1), tuple(step.opened)

    # Runs

    def enter(self, run: Run) -> None:
        """Note that ``run`` continues in this thread or task: steps that are called here are asked for in order."""
        if run.tree.log is not None:
            run.tree.log.executions[run] = execution_id()

    def complete(self, scope: Run | Step) -> None:
        """Raise `ReplayMismatch` if ``scope`` ends without having asked for every recorded step."""
        run = scope.run
        log = run.tree.log if run is not None else None
        if run is not None and log is not None and log.replay is not None:
            with Deferring(run.tree.lock), run.tree.lock:
                if log.replay is not None:
                    log.replay.refuse_rest(scope)

    # Checkpoints

    def checkpoint(self, scope: Scope, name: str) -> Envelope | None:
        """Save a checkpoint, and wait until it is on disk."""
        envelope = self._checkpoints.save(scope, name)
        if envelope is not None and scope.run is not None:
            self._disk.wait(scope.run)
        return envelope

    async def acheckpoint(self, scope: Scope, name: str) -> Envelope | None:
        """As `checkpoint`, without blocking the loop."""
        envelope = self._checkpoints.save(scope, name)
        if envelope is not None and scope.run is not None:
            await self._disk.wait_async(scope.run)
        return envelope

    def track(self, run: Run, name: str, entity: Any) -> None:
        """Keep the state of ``entity`` with each checkpoint of ``run``."""
        self._checkpoints.track(run, name, entity)
