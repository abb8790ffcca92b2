"""Watching a run: what `Bus.subscribe` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crewbus import streams
from crewbus._util import checked_run_id, deadline
from crewbus.exceptions import RunNotFoundError
from crewbus.scopes import Wait

if TYPE_CHECKING:
    from crewbus.bus.live_runs import LiveRuns
    from crewbus.durability import Gate
    from crewbus.streams import Cursor, Follower, Slow, Stream


class Watching:
    """Makes the streams that own no run."""

    def __init__(self, gate: Gate, live: LiveRuns) -> None:
        self._gate = gate
        self._live = live

    def subscribe(self, run_id: str, after: str | None, timeout: float | None, bound: int, slow: Slow) -> Stream:
        """See `Bus.subscribe`."""
        checked_run_id(run_id)
        if after is not None:
            return streams.Stream(run_id, self.follower(run_id, streams.Cursor.parse(after)))
        buffer = streams.Buffer(run_id, bound, slow, deadline(timeout))
        run = self._live.watch(run_id, buffer)
        if run is not None:
            buffer.attach(run)
        if run is None or buffer.ended:
            end = self._gate.end_of(run_id)
            if end is not None:
                buffer.end_with(end)
            elif run is not None:
                raise RunNotFoundError(f"run {run_id} has just ended")
        return streams.Stream(run_id, buffer)

    def follower(self, run_id: str, cursor: Cursor) -> Follower:
        """What reads the frames of a recorded run after ``cursor``."""
        recorder = self._gate.opened().recorder
        return self._live.follow(run_id, streams.Follower(recorder.record_of(run_id), recorder.store, cursor))

    def follower_once_started(self, run_id: str, cursor: Cursor) -> Follower:
        """As `follower`; of a run that another thread of this process is starting, once it has started."""
        wait = Wait(tuple)
        self._live.listeners[wait] = wait.wake
        try:
            while True:
                is_starting = self._live.is_starting(run_id)
                try:
                    return self.follower(run_id, cursor)
                except RunNotFoundError:
                    if not is_starting:
                        raise
                wait.pause()
        finally:
            self._live.listeners.pop(wait, None)
