"""The execution of one claimed run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from crewbus import CrewbusError, InputError, StreamOptions
from crewbus_workers.events import WORKFLOW_TAG
from crewbus_workers.queue import QueuedCall, read_call
from crewbus_workers.workflows import Workflow, find_workflow

if TYPE_CHECKING:
    from crewbus import Bus, OwnedStream
    from crewbus.stores import Claimed

log: Final = logging.getLogger("crewbus.workers")


class Execution:
    """A claimed run, which continues in this process until it ends or is suspended."""

    def __init__(self, bus: Bus, claimed: Claimed, grace: float) -> None:
        self.run_id: Final = claimed.root_id
        self.begun: Final = time.monotonic()
        self.name = ""
        """The label of its workflow, once that is known."""
        self._bus = bus
        self._epoch = claimed.epoch
        self._grace = grace
        self._stream: OwnedStream[Any] | None = None
        self._is_suspended = False

    @property
    def seconds(self) -> float:
        """For how long it has been executed."""
        return time.monotonic() - self.begun

    async def perform(self) -> str:
        """Execute the run, and return the state that it is in afterwards; "lost" if another process has it now."""
        try:
            function, (args, kwargs, carried) = await asyncio.to_thread(self._call)
            for variable, value in carried:  # in the context of this task, which the run's work inherits
                variable.set(value)
            options = StreamOptions(resume=self.run_id, claimed=self._epoch, slow="drop", grace=self._grace)
            stream = self._stream = self._bus.stream(function, *args, options=options, **kwargs)
            async with stream:
                if self._is_suspended:
                    self.suspend()
                log.info("%s %s began, epoch %d", self.name, self.run_id, self._epoch)
                await stream.aresult()
        except Exception as error:  # the workflow's own, which is recorded, or what kept it from being executed
            return self._ended(error)
        return self._ended(None)

    def _ended(self, error: Exception | None) -> str:
        run = self._stream.run if self._stream is not None else None
        state = run.state if run is not None and run.state not in ("new", "running") else "lost"
        if state == "lost" and error is not None:
            log.warning("%s %s was not executed: %s: %s", self.name, self.run_id, type(error).__name__, error)
        else:
            text = f": {type(error).__name__}: {error}" if state == "failed" else ""
            log.info("%s %s %s after %.3f s%s", self.name, self.run_id, state, self.seconds, text)
        return state

    def suspend(self) -> None:
        """Have the run suspended at its next step or await, so that another worker continues it."""
        self._is_suspended = True
        if self._stream is not None:
            self._stream.run.suspend("its worker stops")

    def _call(self) -> tuple[Callable[..., Any], QueuedCall]:
        """The function that is streamed, and what it is called with. What can't be read fails the run, by name."""
        try:
            workflow = self._workflow()
            self.name = workflow.label
            call = read_call(self._bus, self.run_id, workflow)
        except CrewbusError as error:
            return _raising(error), QueuedCall([], {}, [])
        if "options" in call.kwargs:  # `Bus.stream` has an option of this name
            return partial(workflow.function, **call.kwargs), call._replace(kwargs={})
        return workflow.function, call

    def _workflow(self) -> Workflow[..., Any]:
        label = self._bus.records.info(self.run_id).tags.get(WORKFLOW_TAG, "")
        workflow = find_workflow(label)
        if workflow is None:
            raise InputError(f"run {self.run_id}: no workflow {label!r} is registered here")
        return workflow


def _raising(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail
