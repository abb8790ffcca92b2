"""Performing steps: the record is asked before a step is called, and given the result when it has returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from crewbus import serialization
from crewbus.durability.checkpoints import Checkpoints
from crewbus.durability.disk import Disk
from crewbus.durability.failures import rebuild
from crewbus.durability.home import Home, StepKey, Tried
from crewbus.durability.patches import Patches
from crewbus.durability.recorder import Recorder
from crewbus.durability.results import Results
from crewbus.durability.run_log import RunLog, replay_of
from crewbus.durability.step_function import Key, StepFunction
from crewbus.durability.step_scope import Step, identity_of, path_of, refuse_outer
from crewbus.events import Envelope, Retracted, StepFailed, StepFinished, StepStarted
from crewbus.exceptions import DecodeError, StepError, note_failed_step
from crewbus.scopes import Deferring, execution_id

if TYPE_CHECKING:
    from crewbus.records import RecordedHome
    from crewbus.scopes import Run, Scope


class StepCall(NamedTuple):
    """One call of a step: its scope, and where its outcome is recorded, if it is."""

    step: Step
    recorded_at: int | None = None
    """The number of the event that holds its outcome; None: the function is called."""
    recorded: RecordedHome | None = None
    """What a resumed run repeats."""
    tried: Tried | None = None
    """What an earlier try left behind, to be retracted first."""


class StepRunner:
    """Performs the steps of a bus's runs. See `StepPerformer`."""

    def __init__(self, recording: Recorder, checkpoints: Checkpoints, disk: Disk, results: Results) -> None:
        self._recording = recording
        self.written_result = results.written
        self.patched = Patches(recording).patched
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
        if run is not None and (run.ended or run.tree.stopped):
            run.check()
        if run is None or run.ended:
            return function.call(None, args, kwargs)
        call = self._prepare(function, scope, run, args, kwargs)
        if call.recorded_at is not None:
            result = self._recall(function, run, call)
        else:
            with self._performing(function, run, call, args, kwargs) as give:
                self._disk.confirm(run)
                result = function.call(call.step, args, kwargs)
                give(result)
        if call.recorded is None:
            with self._confirming(call):
                self._disk.wait(run)
        return result

    async def _perform_async(
        self, function: StepFunction, scope: Scope, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        run = scope.run
        if run is not None and (run.ended or run.tree.stopped):
            run.check()
        if run is None or run.ended:
            return await function.call(None, args, kwargs)
        call = self._prepare(function, scope, run, args, kwargs)
        if call.recorded_at is not None:
            result = self._recall(function, run, call)
        else:
            with self._performing(function, run, call, args, kwargs) as give:
                await self._disk.confirm_async(run)
                result = await function.call(call.step, args, kwargs)
                give(result)
        if call.recorded is None:
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
            self._retract_tried(call)
            with call.step:
                yield give
        except BaseException:
            self._end_progress(call.step)
            raise
        finally:
            self._leave(run, call)

    @staticmethod
    def _end_progress(step: Step) -> None:
        """Let an equal step begin."""
        if step.home is not None:
            with Deferring(step.of.tree.lock), step.of.tree.lock:
                if step.home.busy.get(step.key) is step:
                    del step.home.busy[step.key]

    @contextmanager
    def _confirming(self, call: StepCall) -> Iterator[None]:
        """Let the next equal call have the result if this one may not: it waits for the disk again."""
        try:
            yield
        except BaseException:
            step = call.step
            step.give_back(Tried(step.since, step.covering(), step.ended_at if step.ended_at >= 0 else None))
            raise
        finally:
            self._end_progress(call.step)

    def _retract_tried(self, call: StepCall) -> None:
        tried = call.tried
        if tried is None:
            return
        event, tree = Retracted(tried.since, "tried again", tried.parents), call.step.of.tree
        try:
            self._recording.append(call.step.of, event)
        except BaseException:
            call.step.give_back(tried)
            raise
        with Deferring(tree.lock), tree.lock:
            replay = replay_of(tree)
            if replay is not None:
                replay.retract(event)

    # Asking the record

    def _prepare(
        self, function: StepFunction, scope: Scope, run: Run, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> StepCall:
        log: RunLog | None = run.tree.log
        if log is None:
            return StepCall(Step(scope, StepStarted(function.name)))
        given = function.key(args, kwargs)
        if given.opaque:
            raise StepError(
                f"step {function.name!r}: a resumed run could not tell this call from others, since an argument "
                f"has no fingerprint: {'; '.join(given.opaque)}. Give the step a key=: a text, or a function of its "
                "arguments"
            )
        refuse_outer(function.name, scope)
        key = StepKey(function.unique_name, given.unique)
        parent = scope.step_parent
        assert parent is not None
        with Deferring(run.tree.lock), run.tree.lock:
            home = self._home(log, parent)
            if key in home.busy:
                by = f"the key {given.text!r}" if given.text else "no arguments"
                raise StepError(
                    f"step {function.name!r} with {by} is in progress already: a resumed run could not tell equal "
                    "steps at once apart. Give each a key= of its own"
                )
            ordinal, tried = home.take(key)
            try:
                inline = (parent.execution if isinstance(parent, Step) else log.executions.get(run)) == execution_id()
                identity = identity_of(home.path, key, ordinal)
                step = Step(
                    scope, StepStarted(function.name, given.text, ordinal, inline, identity), key, home, function.raises
                )
                step.is_retried = function.retries is not None
                call = self._find(log, step, tried)
            except BaseException:
                home.give_back(key, ordinal, tried)
                raise
            if call.recorded_at is None:
                home.busy[key] = step
        return call

    @staticmethod
    def _home(log: RunLog, scope: Scope) -> Home:
        path = path_of(scope, log.nested_runs)  # asked each time: a run may have become ambiguous
        home = log.homes.get(scope)
        if home is None:
            home = log.homes[scope] = Home(path)
        return home

    @staticmethod
    def _find(log: RunLog, step: Step, tried: Tried | None) -> StepCall:
        """What becomes of a step that is called. Under the lock."""
        if tried is not None and tried.finished_at is not None:
            return StepCall(step, tried.finished_at)
        assert step.home is not None
        failed = step.home.failed.pop(step.key, None)
        if log.replay is None or tried is not None:
            return StepCall(step, tried=tried or failed)
        recorded = log.replay.find(step)
        if recorded is not None:
            return StepCall(step, recorded.end, recorded)
        step.recorded = log.replay.enter(step)
        return StepCall(step, tried=failed if step.recorded is None else None)

    def _recall(self, function: StepFunction, run: Run, call: StepCall) -> Any:
        """The recorded result of a step; raises the recorded failure."""
        assert call.recorded_at is not None
        stored = self._recording.store.event(run.root.id, call.recorded_at)
        event = self._recording.event_of(stored)
        if not isinstance(event, StepFinished | StepFailed):
            raise DecodeError(f"event {call.recorded_at} of run {run.root.id} is not the end of step {function.name!r}")
        result = None
        if isinstance(event, StepFinished):
            written = serialization.Written(event.result, event.type, event.version)
            result = self._recording.codec().read(written, function.annotation)
        if call.recorded is not None:
            self._repeat(run, call.step, call.recorded)
        else:
            call.step.ended_at = call.recorded_at
        if isinstance(event, StepFailed):
            failure = rebuild(event, function.raises)
            note_failed_step(failure, call.step.event.identity)
            raise failure
        return result

    @staticmethod
    def _repeat(run: Run, step: Step, recorded: RecordedHome) -> None:
        with Deferring(run.tree.lock), run.tree.lock:
            replay = replay_of(run.tree)
            if replay is not None:
                replay.recalled(step, recorded)  # first: it says which recorded attempts those around it are
                step.recall(recorded)

    def _leave(self, run: Run, call: StepCall) -> None:
        log: RunLog | None = run.tree.log
        if log is None:
            return
        with Deferring(run.tree.lock), run.tree.lock:
            if log.replay is not None:
                log.replay.ended(call.step)

    def in_progress(self, scope: Scope) -> Step | None:
        """The innermost step in progress in ``scope``, if there is only one on each level; see `StepPerformer`."""
        log: RunLog | None = scope.tree.log
        found: Step | None = None
        with Deferring(scope.tree.lock), scope.tree.lock:
            around = scope.step_parent
            while log is not None and around is not None and around in log.homes:
                steps = [step for step in log.homes[around].steps_in_progress() if found or _is_in(step, scope)]
                if len(steps) != 1:
                    break
                around = found = steps[0]
        return found

    # Runs

    async def written(self, run: Run) -> None:
        """Wait for the disk as an emission in ``run`` would, without blocking the loop."""
        if run.tree.log is not None and run.tree.log.sync:
            await self._disk.wait_async(run)

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


def _is_in(step: Step, scope: Scope) -> bool:
    """Whether a step that is called in the home of ``scope`` is called in ``scope``."""
    return scope is scope.step_parent or step.call is scope or scope in step.attempts
