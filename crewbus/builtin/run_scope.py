"""The plugin ``run_scope``: events belong to the run in scope, and its frames go to that run's streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crewbus import current_run, hookimpl
from crewbus.events import Envelope, RunEnded

if TYPE_CHECKING:
    from crewbus import Bus, Run


class RunScope:
    """Finds the run in scope by ContextVar. Routes its frames to its streams and to those of the runs around it."""

    @hookimpl
    def crewbus_current_run(self, bus: Bus) -> Run | None:
        """The innermost run of ``bus`` in this context."""
        return current_run(bus)

    # What the bus calls instead if no other plugin implements the hook: the same, of any bus.
    crewbus_current_run.direct = current_run.direct  # type: ignore[attr-defined]

    @hookimpl
    def crewbus_stream_chunk(self, bus: Bus, run: Run, envelope: Envelope) -> None:
        """Push a frame to the streams of ``run`` and of the runs around it; a terminal event only to its own run's."""
        for sink in run.sinks:
            sink.push(run, envelope)
        if run.parent is not None and not isinstance(envelope.event, RunEnded):
            around: Run | None = run.parent
            while around is not None:
                for sink in around.sinks:
                    sink.push(run, envelope)
                around = around.parent

    @staticmethod
    def push_missed(run: Run, envelope: Envelope) -> None:
        """After an interrupt: push the frame to those streams that have not got it."""
        for around in [run] if isinstance(envelope.event, RunEnded) else run.reach():
            for sink in around.sinks:
                sink.push_once(run, envelope)

    crewbus_stream_chunk.repeat = push_missed  # type: ignore[attr-defined]
    # It is skipped while no stream is attached.
    crewbus_stream_chunk.attached_streams_only = True  # type: ignore[attr-defined]
