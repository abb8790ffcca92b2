"""Patches: code changes while runs are in flight, and a resumed run goes on as its record was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crewbus._util import is_text
from crewbus.durability.recorder import Recorder
from crewbus.events import RunPatched
from crewbus.exceptions import InputError, RunError
from crewbus.scopes import Deferring

if TYPE_CHECKING:
    from crewbus.durability.run_log import RunLog
    from crewbus.scopes import Run, Scope


class Patches:
    """Decides, once in each run, whether it takes the way of changed code."""

    def __init__(self, recording: Recorder) -> None:
        self._recording = recording

    def patched(self, scope: Scope, name: str) -> bool:
        """See `Run.patched`; ``scope``: where in the run it is asked."""
        if not is_text(name):
            raise InputError(f"a patch has a name; got {name!r}")
        run: Run = scope.run
        if run.ended:
            raise RunError(f"{run!r} is not running: ask for a patch inside its 'with' block")
        run.check()
        log: RunLog | None = run.tree.log
        if log is None:
            return True
        with Deferring(run.tree.lock), run.tree.lock:
            decided = log.patches.setdefault(run, {})
            if name in decided:
                return decided[name]
            recorded_at = log.replay.patched_at(run, name) if log.replay is not None else None
            is_new = recorded_at is None and (log.replay is None or not log.replay.goes_on(scope))
            decided[name] = is_new or recorded_at is not None
        if recorded_at is not None:
            self._recording.redeliver(run, RunPatched(name), recorded_at)
        elif is_new:
            self._record(run, name, decided)
        return is_new or recorded_at is not None

    def _record(self, run: Run, name: str, decided: dict[str, bool]) -> None:
        try:
            self._recording.append(run, RunPatched(name))
        except BaseException:
            decided.pop(name, None)
            raise
